import numpy as np
import pytest

from msa.cache.format.shard import Shard
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill


def shard_of(store, view):
    return store.path / "views" / view.id / "seg" / view.entries[0].id / "data" / "c" / "1" / "0"


def test_a_sound_store_has_no_problems(store, index):
    fill(store, index)
    assert verify(FeatureStore.open(store.path)) == []


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_bit_is_found_and_the_samples_it_touches_are_named(store, index, position):
    view = fill(store, index)
    data = bytearray(shard_of(store, view).read_bytes())
    data[position] ^= 4
    shard_of(store, view).write_bytes(data)
    problems = verify(store)
    assert any("SHA-256" in problem.what and "/1/0" in problem.where for problem in problems)
    assert any(problem.samples for problem in problems)


def test_missing_truncated_and_extra_files_are_told_apart(store, index):
    view = fill(store, index)
    path = shard_of(store, view)
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert "bytes" in verify(store)[0].what
    path.unlink()
    assert verify(store)[0].what == "is missing"
    path.write_bytes(data)
    (path.parent / "1").write_bytes(b"?")
    assert [problem.what for problem in verify(store)] == ["not named by any manifest"]


def test_swapped_shards_are_found(store, index):
    view = fill(store, index)
    one, other = shard_of(store, view), shard_of(store, view).parent.parent / "0" / "0"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    assert len([p for p in verify(store) if "SHA-256" in p.what or "bytes" in p.what]) == 2


def test_damage_to_tables_and_metadata_is_found(store, index):
    view = fill(store, index)
    folder = store.path / "views" / view.id / "seg" / view.entries[0].id
    for path in (folder / "start" / "c" / "0", folder / "zarr.json", store.path / "index" / view.dataset / "zarr.json"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        assert any("SHA-256" in problem.what for problem in verify(store)), path
        path.write_bytes(whole)


def test_nan_is_found(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    rows = np.ones((3, WIDTH), np.float16)
    rows[1, 1] = np.nan
    writer.write(2, index.digests[Modality.AUDIO][2].tobytes(), rows)
    store.publish("v", [writer.seal()])
    assert [(p.samples, "NaN" in p.what) for p in verify(store, deep=True)] == [(("id2",), True)]


def test_two_readers_that_disagree_are_a_problem_of_the_shard(store, index, monkeypatch):
    """Only `deep` compares what training reads with what zarr-python reads."""
    view = fill(store, index)
    whole = Shard.rows
    monkeypatch.setattr(Shard, "rows", lambda shard, low, high: bytes(1) + whole(shard, low, high)[1:])
    assert verify(store) == []
    problems = verify(store, deep=True)
    assert {problem.where for problem in problems} >= {shard_of(store, view).relative_to(store.path).as_posix()}
    assert all("zarr-python reads other numbers in rows" in problem.what for problem in problems)


def test_damaged_attributes_of_a_segment_are_one_problem(store, index):
    view = fill(store, index)
    path = shard_of(store, view).parents[3] / "zarr.json"
    path.write_text("{")
    where = path.relative_to(store.path).as_posix()
    assert [problem.where for problem in verify(store)] == [where]
