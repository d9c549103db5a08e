"""What `python -m benchmarks.store` prints."""

import pytest

from benchmarks import store


def test_bit_flips_are_counted_and_an_unknown_part_is_refused(capsys):
    store.main(["flips", "--quick"])
    assert capsys.readouterr().out.splitlines()[-1] == "bit flips noticed | 5 of 5 | 0 of 5, h5py |  | all | yes"
    with pytest.raises(SystemExit):
        store.main(["worm"])
    assert "known: warm, cold" in capsys.readouterr().err
