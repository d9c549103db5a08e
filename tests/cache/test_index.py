"""An index that is read from a store equals the one that was written, however few of its texts are read at a time."""

import pickle

import numpy as np
import pytest

from msa.cache import index as module
from msa.cache.index import Index, odd_labels
from msa.errors import StoreError
from msa.types import Modality, Split
from tests.cache.conftest import make_index


@pytest.fixture(params=[module.PIECE, 4])  # all texts at once, or four at a time
def kept(request, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PIECE", request.param)
    (tmp_path / "index").mkdir()
    made = make_index(20)
    return made, Index.read(made.write(tmp_path / "index"))


def test_texts_are_read_by_row_by_range_and_one_after_the_other(kept):
    made, read = kept
    for name in ("ids", "group", "text"):
        wanted, texts = list(getattr(made, name)), getattr(read, name)
        assert [texts[row] for row in range(20)] == wanted
        assert [texts[row] for row in range(-20, 0)] == wanted
        assert (texts[3:9], texts[:], texts[17:3:-5], texts[5:5]) == (wanted[3:9], wanted, wanted[17:3:-5], [])
        assert list(texts) == texts == wanted
        assert texts != [*wanted[:-1], "another"]
        for row in (20, -21):
            with pytest.raises(IndexError):
                texts[row]


def test_what_is_read_is_what_was_written(kept):
    made, read = kept
    assert read.fingerprint == made.fingerprint
    for name in ("split", "labels", "position"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    again = pickle.loads(pickle.dumps(read))
    assert (again.fingerprint, list(again.ids)) == (made.fingerprint, made.ids)
    with pytest.raises(AttributeError, match="an index has no colour"):
        read.colour  # noqa: B018


def test_rows_are_found_by_split_and_by_id(kept):
    _, read = kept
    assert read.rows(Split.VALID).tolist() == [1, 4, 7, 10, 13, 16, 19]
    assert read.find(["id7", "none", "id0"]).tolist() == [7, -1, 0]
    assert np.flatnonzero(~read.has(Modality.AUDIO)).tolist() == [19]
    assert not read.has(Modality.FACE).any()


def test_texts_whose_offsets_do_not_fit_are_damage(kept):
    _, read = kept
    folder = read.__dict__["_folder"]
    offsets = next((folder / "id_offsets" / "c").rglob("0"))
    data = bytearray(offsets.read_bytes())
    data[8] ^= 0xFF
    offsets.write_bytes(data)
    with pytest.raises(StoreError):
        list(Index.read(folder).ids)


@pytest.mark.parametrize(
    ("classes", "odd"), [(3, [False, False, True, True, True, True, False]), (0, [False] * 5 + [True, False])]
)
def test_labels_are_numbers_of_classes_or_finite(classes, odd):
    labels = np.array([[0], [2], [3], [-1], [1.5], [np.inf], [np.nan]], np.float32)
    assert odd_labels(labels, classes).tolist() == odd
