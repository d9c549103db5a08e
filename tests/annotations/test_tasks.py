"""What columns of labels are taken for, and why: the table in docs/exchange.md, and what settings say instead."""

from types import SimpleNamespace

import numpy as np
import pytest

from msa.annotations import labels, tasks
from msa.annotations.labels import Row
from msa.annotations.tasks import SCALES, Settings
from msa.errors import ConfigError
from msa.types import SENTIMENT, Task

CHANCE = np.random.default_rng(0)
MOSI, SIMS = SCALES["mosi"], SCALES["sims"]


def names(*numbers):
    return Task(classes=tuple(map(str, numbers)))


def scale(low, high):
    return Task(low=low, high=high)


NUMBERS = {  # column -> in a table, in a pickle of this field
    "0, 1": ([0, 1, 1, 0], names(0, 1), names(0, 1)),
    "-1, 1": ([-1, 1, 1], names(-1, 1), names(-1, 1)),
    "1, 2": ([1, 2, 1], names(1, 2), names(1, 2)),
    "0, 1, 2": ([0, 1, 2], names(0, 1, 2), names(0, 1, 2)),
    "0 to 3": ([3, 0, 1, 2, 2], names(*range(4)), names(*range(4))),
    "0 to 4": ([0, 1, 2, 3, 4], names(*range(5)), names(*range(5))),
    "1 to 5": ([5, 1, 2, 3, 4], names(*range(1, 6)), names(*range(1, 6))),
    "0 to 6": (list(range(7)), names(*range(7)), names(*range(7))),
    "-1, 0, 1": ([0, 1, -1], SENTIMENT, SENTIMENT),
    "whole numbers from -3 to 3": (list(range(-3, 4)), scale(-3, 3), MOSI),
    "whole numbers from -2 to 2": (list(range(-2, 3)), scale(-2, 2), MOSI),
    "-3 to 3 with fractions": ([-3, 3, 0.6, -1.4], scale(-3, 3), MOSI),
    "-2.8 to 2.4": ([-2.8, 2.4, 0.2], scale(-2.8, 2.4), MOSI),
    "-1 to 1 in steps of 0.2": (np.arange(-5, 6) / 5, SIMS, SIMS),
    "-0.8 to 0.6 in steps of 0.2": ([-0.8, 0.6, 0.2], scale(-0.8, 0.6), SIMS),
    "0 to 1 with fractions": ([0, 0.25, 1, 0.7], scale(0, 1), scale(0, 1)),
    "0 to 100": (list(range(0, 101, 5)), scale(0, 100), scale(0, 100)),
    "1 to 7 with fractions": ([1, 6.5, 7, 3.3], scale(1, 7), scale(1, 7)),
    "0 to 40, whole": (list(range(41)), scale(0, 40), scale(0, 40)),
    "whole numbers with a gap": ([0, 1, 4, 4], scale(0, 4), scale(0, 4)),
    "years": ([1999, 2003, 2010], scale(1999, 2010), scale(1999, 2010)),
    "one number": ([2, 2], scale(2, 2), MOSI),
    "no label": ([], Task(), Task()),
    "0 to 3 and some without": ([0, 1, 2, 3, np.nan], names(*range(4)), names(*range(4))),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_what_numbers_are(kind):
    values, table, pickle = NUMBERS[kind]
    column = np.array(values, np.float64)
    assert tasks.of_numbers(column).task == table
    assert tasks.of_numbers(column, scales=True).task == pickle
    assert tasks.of_numbers(np.repeat(column, 3)[::-1], scales=True).task == pickle


def rows(column, tmp_path):
    return [Row(tmp_path, i, i, {"label": label} if label else {}) for i, label in enumerate(column, 1)]


TEXTS = {
    "sentiment": (["positive", "Negative", "neutral"], SENTIMENT),
    "two of the three": (["positive", "negative"], SENTIMENT),
    "emotions": (["joy", "anger", "joy"], Task(classes=("anger", "joy"))),
    "yes and no": (["yes", "no", "no"], Task(classes=("no", "yes"))),
    "numbers as texts": (["0", "1", "2.0"], names(0, 1, 2)),
    "numbers and words": (["1", "positive"], Task(classes=("1", "positive"))),
    "none": (["", ""], Task()),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_texts_are(kind, tmp_path):
    column, task = TEXTS[kind]
    table = rows(column, tmp_path)
    decision = labels.decide(table)
    assert decision.task == task
    read = [row.value(decision.task, numbers=decision.numbers) for row in table]
    assert all(label is None or label in task.classes for label in read)
    assert [label is None for label in read] == [not label for label in column]


def test_ten_classes_keep_the_order_of_their_numbers(tmp_path):
    decision = labels.decide(rows([str(i) for i in range(12)], tmp_path))
    assert decision.task.classes == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("values", "told", "task", "label"),
    [
        ([0, 1, 2], {"range": (0, 2)}, scale(0, 2), 2.0),
        ([0, 1, 2], {"task": "regression"}, scale(0, 2), 2.0),
        ([0, 1], {"classes": "no,yes"}, Task(classes=("no", "yes")), "yes"),
        ([1, 2], {"classes": "no,yes"}, Task(classes=("no", "yes")), "yes"),
        ([-1, 1], {"classes": "no,yes"}, Task(classes=("no", "yes")), "yes"),
        ([0, 2], {"classes": "a,b,c"}, Task(classes=("a", "b", "c")), "c"),
        ([0, 5], {"task": "classes"}, names(0, 5), "5"),
        (range(-3, 4), {"task": "classes"}, names(*range(-3, 4)), "3"),
        ([0, 1], {"task": "mosi"}, MOSI, 1.0),
        ([0, 1], {"task": "sims"}, SIMS, 1.0),
    ],
)
def test_settings_come_first(values, told, task, label):
    settings = Settings.of(SimpleNamespace(**{"task": "auto", "range": (), "classes": ""} | told))
    decision = tasks.of_numbers(np.array(values, np.float64), settings, scales=True)
    assert decision.task == task
    assert decision.label(float(max(values))) == label
    assert decision.label(float("nan")) is None


@pytest.mark.parametrize(
    ("values", "told", "why"),
    [
        ([0, 0.5], {"task": "classes"}, "0.5 is no class number"),
        ([0, 1, 2], {"classes": "a,b"}, "classes names 2 classes, and the labels are 0, 1, 2"),
        ([0, 1], {"classes": "a,a"}, "twice"),
        ([0, 1], {"classes": "a,b", "range": (0, 1)}, "names classes, and range"),
        ([0, 1], {"task": "sims", "range": (0, 1)}, "task is sims"),
        ([0, 1], {"task": "labels"}, "a sample has one"),
    ],
)
def test_settings_that_cannot_be_are_errors_with_a_way_out(values, told, why):
    def decide():
        settings = Settings.of(SimpleNamespace(**{"task": "auto", "range": (), "classes": ""} | told))
        return tasks.of_numbers(np.array(values, np.float64), settings)

    with pytest.raises(ConfigError, match=why) as caught:
        decide()
    assert caught.value.fix


def test_the_sentence_says_what_why_and_the_way_out():
    said = tasks.of_numbers(np.arange(5.0)).sentence
    assert said == (
        "5 classes 0, 1, 2, 3, 4 (whole numbers, 5 distinct values); "
        "--set task=regression or --set range=0,4 if they are a scale"
    )
    assert tasks.of_numbers(np.arange(-3.0, 4), scales=True).sentence == (
        "a scale from -3 to 3, scored as CMU-MOSI (4 of 7 labels lie beyond 1); "
        "--set range=LOW,HIGH for another scale or --set task=classes if they are classes"
    )
    assert "CH-SIMS" in tasks.of_numbers(np.array([-0.5, 1]), scales=True).sentence
