"""Hidden states of one recipe and one input differ in their last bits between machines, and by no more than that."""

import json

import numpy as np
import pytest

from msa.cache.maintain import history, remove
from msa.cache.maintain.verify import verify
from msa.cache.read import rounding
from msa.cache.share import sync
from msa.cache.store import FeatureStore
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, hidden, make_index
from tests.cache.share.test_sync import part
from tests.commands.test_commands import msa  # noqa: F401
from tests.faults.servers import contents, served

V = "v" * 16


def ulps(states, n):
    """The same states, their largest number n units in the last place further from 0."""
    moved = states.copy()
    at = np.unravel_index(np.abs(states.astype(np.float32)).argmax(), states.shape)
    for _ in range(n):
        moved[at] = np.nextafter(moved[at], np.copysign(np.float16(np.inf), moved[at]))
    return moved


def written(path, index, rows, change=lambda i, states: states):
    """A store of some samples of a corpus, whose states were changed on the way."""
    store = FeatureStore.create(path)
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(V, dataset, FORM, {"device": "cpu"})
    for i in rows:
        states = change(i, hidden(int(index.ids[i][2:])))
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), states)
    store.publish(V, [writer.seal()])
    return FeatureStore.open(path)


def read(path):
    """Sample id -> hidden states of the newest version of `tiny`."""
    store = FeatureStore.open(path)
    reader, ids = store.reader(store.view("tiny", Modality.AUDIO)), store.index("tiny").ids
    return {ids[row]: reader.read(row) for row in np.flatnonzero(reader.length >= 0).tolist()}


def test_a_difference_is_a_share_of_the_largest_number_of_a_sample():
    a = np.array([[6.0, -0.001], [0.5, 0.0]], np.float16)
    b = a.copy()
    b[0, 0] = np.nextafter(b[0, 0], np.float16(9))
    assert rounding.difference(a, a) == 0
    assert rounding.difference(a, b) == 0.00390625 / 6.00390625 == rounding.difference(b, a)
    b = a.copy()
    b[0, 1] = 0.001  # small numbers that differ by twice themselves
    assert rounding.difference(a, b) == pytest.approx(0.002 / 6, rel=1e-3)
    assert rounding.difference(a, a[:1]) == float("inf")
    b[1, 1] = np.nan
    assert rounding.difference(a, b) == float("inf") and rounding.difference(b, b) == 0
    assert rounding.difference(np.zeros((1, 2)), np.zeros((1, 2))) == 0
    assert rounding.difference(np.zeros((1, 2)), np.ones((1, 2))) == 1


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_two_units_in_the_last_place_are_rounding_and_four_are_not(dtype, bits):
    one, unit = np.array([[1.0, 0.1]]), np.array([[2.0**-bits, 0]])
    assert rounding.difference(one, one + 2 * unit) <= rounding.TOLERANCE[dtype]
    assert rounding.difference(one, one + 4 * unit) > rounding.TOLERANCE[dtype]


@pytest.mark.parametrize("versions", [False, True], ids=["one corpus", "two versions"])
def test_a_merge_keeps_what_is_there_where_it_differs_by_rounding(tmp_path, versions):
    index = make_index()
    ours, other = (part(index, range(12)), part(index, range(8, 19))) if versions else (index, index)
    mine = written(tmp_path / "mine", ours, range(12))
    rows = range(11) if versions else range(8, 19)
    written(tmp_path / "theirs", other, rows, lambda i, states: ulps(states, 1 + i % 2) if i % 4 else states)
    before = read(mine.path)
    result = sync.merge(tmp_path / "theirs", mine.path)
    after = read(mine.path)
    assert result.close == 3  # id9, id10 and id11; id8 is equal to the bit
    assert len(after) == 19
    for id, states in before.items():
        np.testing.assert_array_equal(after[id], states)
    assert verify(FeatureStore.open(mine.path)) == []


def beyond(i, states):
    if i == 9:
        return ulps(states, 40)
    return states[:-1] if i == 10 and len(states) > 1 else ulps(states, 1)


def test_a_merge_of_other_numbers_names_samples_and_differences_and_writes_nothing(tmp_path):
    mine = written(tmp_path / "mine", make_index(), range(12))
    written(tmp_path / "theirs", make_index(), range(8, 19), beyond)
    gap = rounding.difference(hidden(9), ulps(hidden(9), 40))
    assert 2**-9 < gap < 0.1
    before = contents(mine.path)
    with pytest.raises(StoreError) as caught:
        sync.merge(tmp_path / "theirs", mine.path)
    assert f"audio made.up of id10 (other lengths or no numbers), id9 (by {gap:.2g} of its largest" in caught.value.what
    assert contents(mine.path) == before


def test_a_merge_from_afar_compares_too_and_reads_nothing_that_is_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_CACHE", str(tmp_path / "cache"))
    mine = written(tmp_path / "mine", make_index(), range(12))
    sync.clone(mine.path, tmp_path / "web" / "copy")
    written(tmp_path / "web" / "wrong", make_index(), range(8, 19), beyond)
    with served(tmp_path / "web") as site:
        assert sync.merge(f"{site.url}/copy", mine.path).close == 0
        assert not any("/data/c/" in path for _, path, _ in site.asked)
        with pytest.raises(StoreError, match="id9"):
            sync.merge(f"{site.url}/wrong", mine.path)


def test_a_diff_tells_rounding_from_other_numbers(tmp_path, msa):  # noqa: F811
    store = written(tmp_path / "s", make_index(), range(10))
    remove.remove(store, view=V)
    written(store.path, make_index(), range(10), lambda i, states: ulps(states, 1) if i < 4 else states)
    (view,) = history.diff(store.path, 2, 4)
    assert (view.close, list(view.apart), view.added, view.removed) == (4, [], 0, 0)
    assert str(view) == "~ tiny audio made.up 4 samples extracted again, different by rounding"
    remove.remove(FeatureStore.open(store.path), view=V)
    written(store.path, make_index(), range(10), lambda i, states: ulps(states, 40) if i == 9 else states)
    (view,) = history.diff(store.path, 2, 6)
    assert view.close == 0 and view.apart[0].startswith("the audio made.up of id9 (by 0.")
    code, out, _ = msa("cache", "diff", "2", "6", "--store", store.path, "--json")
    assert code == 0 and json.loads(out)
    assert (
        "extracted again and different: the audio made.up of id9"
        in msa("cache", "diff", "2", "6", "--store", store.path)[1]
    )
