"""What could not be read back is refused before it is written: a store never becomes unreadable by being written to."""

import csv
import json
import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest

from msa.cache.exchange import _import as importing
from msa.cache.exchange import hdf5, mmsa, npy
from msa.cache.format import generations, limits
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.journal import Row
from msa.cache.write.segment import write_small
from msa.errors import MsaError, StoreError
from msa.types import Task
from tests.cache.conftest import FORM, fill, make_index

ESC = "\x1b[2J"
NAMES = [ESC, "a\nb", "a\0b", "\x9b31m", "x" * 5000, "\ud800", "\x7f"]


@pytest.fixture
def kept(store):
    """A store with a corpus in it, and what its files are."""
    fill(store, make_index())
    return store, snapshot(store.path)


def snapshot(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def unchanged(kept):
    store, before = kept
    assert snapshot(store.path) == before
    assert verify(store.path) == []
    assert FeatureStore.open(store.path).index("tiny").ids[3] == "id3"


def deep(levels=500):
    value = {}
    for _ in range(levels):
        value = {"x": value}
    return value


CORPORA = {
    **{f"name {name[:9]!r}": {"name": name} for name in NAMES},
    **{f"class {name[:9]!r}": {"task": Task((name, "b", "c"))} for name in NAMES},
    "classes twice": {"task": Task(("a", "a", "c"))},
    "classes many": {"task": Task(tuple(map(str, range(2000))))},
    "high inf": {"task": Task(low=0.0, high=float("inf"))},
    "low NaN": {"task": Task(low=float("nan"), high=1.0)},
    "low above high": {"task": Task(low=2.0, high=1.0)},
    "label names": {"label_names": ("other",)},
    "about deep": {"about": {"settings": deep()}},
    "about NaN": {"about": {"settings": {"a": float("nan")}}},
    "about a list": {"about": {"dropped": []}},
    "source deep": {"about": {"source": {"title": deep()}}},
    "label 7": {"labels": np.full((20, 1), 7, np.float32)},
    "label inf": {"labels": np.full((20, 1), np.inf, np.float32)},
    "part 9": {"split": np.full(20, 9, np.uint8)},
    "ids alike": {"ids": ["a"] * 20},
}


@pytest.mark.parametrize("what", CORPORA)
def test_a_corpus_that_could_not_be_read_back_is_not_written(kept, what):
    bad = replace(make_index(name="other"), **CORPORA[what])
    for write in (kept[0].add_index, lambda index: index.write(kept[0].path / "index")):
        with pytest.raises(StoreError, match="cannot be written") as caught:
            write(bad)
        assert limits._CONTROL.search(caught.value.what) is None
        assert "nothing was written" in caught.value.fix
    unchanged(kept)


VIEWS = {
    **{f"backbone {name[:9]!r}": {"backbone": name} for name in NAMES},
    **{f"column {name[:9]!r}": {"columns": [name]} for name in NAMES},
    "facts deep": {"facts": deep()},
    "facts inf": {"facts": {"a": float("inf")}},
    "weights": {"weights": {"name": None}},
    "dim": {"dim": 0},
    "dtype": {"dtype": "float64"},
    "options": {"identity": {"options": []}},
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_that_could_not_be_read_back_is_not_written(kept, what):
    good = {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "float16"}
    with pytest.raises(StoreError, match="cannot be written"):
        kept[0].add_view("w" * 16, good | VIEWS[what])
    unchanged(kept)


@pytest.mark.parametrize("run", [[], {"device": 5}, {"versions": []}, {"plan": deep()}, {"plan": {"a": float("inf")}}])
def test_a_run_that_could_not_be_read_back_is_not_begun(kept, run):
    store = kept[0]
    with pytest.raises(StoreError, match="cannot be written"):
        store.writer("v" * 16, store.dataset("tiny"), FORM, run)
    unchanged(kept)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_counted_has_a_name_that_can_be_read(kept, tmp_path, name):
    with pytest.raises(StoreError, match="cannot be written"):
        write_small(tmp_path, [Row(0, 0, 1, "0" * 32, {name: 3})], SegmentAttributes("x", {}))
    assert list(tmp_path.iterdir()) == [kept[0].path]


def test_a_generation_that_could_not_be_read_is_not_published(kept):
    def change(new):
        fingerprint, entry = next(iter(new.datasets.items()))
        return new.with_dataset(fingerprint, replace(entry, name=ESC))

    with pytest.raises(StoreError, match="cannot be written"):
        generations.publish(kept[0].path, change)
    unchanged(kept)


def test_a_user_of_any_name_can_publish(kept, monkeypatch):
    monkeypatch.setenv("LOGNAME", f"eve{ESC}" + "x" * 9000)
    made = generations.publish(kept[0].path, lambda new: new, f"why{ESC}")
    assert made.creator.startswith(r"eve\x1b[2J")
    assert made.note == r"why\x1b[2J"
    assert generations.read(kept[0].path) == made


# files of others


def hdf5_of(folder, name, classes):
    path = folder / "made.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"], file.attrs["name"] = (
            "msa",
            1,
            name,
        )
        task = {"classes": list(classes), "low": 0.0, "high": 0.0, "multilabel": False}
        file.attrs["task"] = json.dumps(task)
        file.attrs["source"] = json.dumps({"title": ESC})
    return path


def table_of(folder, name, classes):
    home = folder / "npy"
    (home / "audio").mkdir(parents=True)
    with open(home / "samples.csv", "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label"])
        for i in range(12):
            writer.writerow([f"s{i}", ("train", "valid", "test")[i % 3], classes[i % len(classes)]])
            np.save(home / "audio" / f"s{i}.npy", np.ones((3, 4), np.float32))
    return home


def mmsa_of(folder, name, classes):
    path = folder / "made.pkl"
    part = {
        "id": [f"s{i}" for i in range(6)],
        "text": np.ones((6, 3, 4), np.float32),
        "audio": np.ones((6, 3, 4), np.float32),
        "vision": np.ones((6, 3, 4), np.float32),
        "raw_text": ["a"] * 6,
        "regression_labels": np.zeros(6, np.float32),
        "annotations": [classes[i % len(classes)] for i in range(6)],
    }
    parts = {mode: {**part, "id": [f"{mode}{i}" for i in range(6)]} for mode in ("train", "valid", "test")}
    path.write_bytes(pickle.dumps(parts))
    return path


@pytest.mark.parametrize("make", [(npy, table_of), (mmsa, mmsa_of)], ids=["npy", "mmsa"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_a_hostile_name_leaves_the_store_as_it_was(kept, tmp_path, make, name):
    format, write = make
    with pytest.raises(MsaError) as caught:
        importing.bring_in(kept[0], format.read(write(tmp_path, name, ["a", "b"]), format.Config(), name))
    assert caught.value.fix
    unchanged(kept)


@pytest.mark.parametrize("make", [(npy, table_of), (mmsa, mmsa_of)], ids=["npy", "mmsa"])
def test_the_same_files_with_a_plain_name_are_imported(kept, tmp_path, make):
    format, write = make
    importing.bring_in(kept[0], format.read(write(tmp_path, "fine", ["a", "b"]), format.Config(), "fine"))
    assert verify(kept[0].path, deep=True) == []


@pytest.mark.parametrize("name", [ESC, "a\x9bb", "x" * 5000])
def test_a_table_with_a_hostile_class_leaves_the_store_as_it_was(kept, tmp_path, name):
    with pytest.raises(MsaError):
        importing.bring_in(kept[0], npy.read(table_of(tmp_path, "fine", [name, "b"]), npy.Config(), "fine"))
    unchanged(kept)


@pytest.mark.parametrize("name", [ESC, "x" * 5000, "fine"])
def test_an_hdf5_with_a_hostile_name_leaves_the_store_as_it_was(kept, tmp_path, name):
    with pytest.raises(MsaError):  # the last of them because there is nothing in it
        importing.bring_in(kept[0], hdf5.read(hdf5_of(tmp_path, name, [ESC]), hdf5.Config()))
    unchanged(kept)
