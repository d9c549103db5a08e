"""The verdicts of `python -m benchmarks.extract`."""

import numpy as np
import pytest

from benchmarks import extract
from benchmarks.extraction import made, overlap
from benchmarks.extraction.measure import Row


def test_a_target_holds_from_its_number_on():
    assert [Row.of_rates("x", ours, 2.0, 1.5, "/s", "y").holds for ours in (2.9, 3.0)] == [False, True]
    assert [Row.of_limit("x", ours, 1.0, 0.02, "y").holds for ours in (0.02, 0.021)] == [True, False]


def test_texts_are_made_as_long_as_tweets_and_the_planner_meets_its_targets(tmp_path):
    sizes = made.spread(5000)
    assert np.mean(sizes) == pytest.approx(23, rel=0.02)
    assert max(sizes) == 128
    assert [row.holds for row in overlap.padding(tmp_path, quick=True)] == [True, True]


def test_a_part_that_is_not_there_is_refused_before_anything_is_measured(capsys):
    with pytest.raises(SystemExit):
        extract.main(["txet"])
    assert "known: pipeline, text" in capsys.readouterr().err
