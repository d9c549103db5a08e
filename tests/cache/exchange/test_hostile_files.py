"""Folders and HDF5 files that lie about their size, lead elsewhere or never end: an error or a record, soon."""

import contextlib
import json
import os
import time

import h5py
import numpy as np
import pytest

from msa.cache.exchange import _corpus, _hdf5, csd, hdf5, npy
from msa.cache.exchange._foreign import Unreadable
from msa.cache.exchange._import import finite
from msa.errors import SourceError


def small(path, rows=None, **attributes):
    """An HDF5 file of our layout with six samples."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "msa", "version": 1} | attributes)
        file["id"] = [f"s{i}" for i in range(6)]
        file["split"] = ["train", "valid", "test"] * 2
        file["labels"] = np.linspace(-1, 1, 6, dtype="f4")[:, None]
        group = file.create_group("features/text")
        group["data"] = np.ones((6, 3), "f4") if rows is None else rows
    return path


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".hidden", "n" * 201, "a\x1b[31m", "two\nlines", "\u202egnp"]
)
def test_a_name_that_names_no_file_is_refused_and_another_may_be_given(tmp_path, name):
    path = small(tmp_path / "x.h5", name=name)
    with pytest.raises(SourceError, match="no name of a file") as caught:
        hdf5.read(path)
    assert "--name" in caught.value.fix and "\x1b" not in str(caught.value) and len(caught.value.what) < 200
    assert hdf5.read(path, name="mine").corpus.name == "mine"


@pytest.mark.parametrize("attribute", ["task", "source"])
@pytest.mark.parametrize("text", ["[" * 30_000, '{"a":' * 5000, "[" * 70 + "]" * 70, "1" * 5000, "{", '"\\ud800"' * 2])
def test_json_that_is_deep_or_none_is_an_error(tmp_path, attribute, text):
    with pytest.raises(SourceError, match=f"the attribute {attribute} is no JSON"):
        hdf5.read(small(tmp_path / "x.h5", **{attribute: np.bytes_(text.encode())}))


@pytest.mark.parametrize(
    "task",
    [
        {"classes": ["a\x1b[2J", "b"], "low": 0, "high": 0},
        {"classes": ["n" * 300], "low": 0, "high": 0},
        {"classes": [""], "low": 0, "high": 0},
        {"classes": [], "low": 0, "high": "Infinity"},
        {"classes": [str(i) for i in range(20_000)], "low": 0, "high": 0},
    ],
)
def test_a_task_no_store_could_show_is_refused(tmp_path, task):
    path = small(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.attrs["task"] = np.bytes_(json.dumps(task).encode()[:60_000])
    with pytest.raises(SourceError, match=r"is no task|is no JSON"):
        hdf5.read(path)


def test_a_feature_whose_name_is_no_name_is_refused(tmp_path):
    path = small(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.move("features/text", "features/te\x1bxt")
        file["features/te\x1bxt"].attrs["modality"] = "text"
    with pytest.raises(SourceError, match="which no store can show"):
        hdf5.read(path)


def test_zeros_that_unpack_a_thousandfold_are_refused_and_honest_padding_is_not(tmp_path):
    path = small(tmp_path / "zeros.h5")
    with h5py.File(path, "a") as file:
        group = file["features/text"]
        del group["data"]
        group.create_dataset("data", (6 * 2**21, 3), "f4", chunks=(2**20, 3), compression="gzip")
        for first in range(0, 6 * 2**21, 2**20):
            group["data"][first : first + 2**20] = 0
        group["length"] = np.full(6, 2**21)
    with pytest.raises(SourceError, match="at most 100 times as much is read"):
        hdf5.read(path)
    padded = np.zeros((600, 50, 300), "f4")
    padded[:, :2] = np.random.default_rng(0).normal(size=(600, 2, 300))
    with h5py.File(tmp_path / "padded.h5", "w") as file:
        file.attrs.update({"format": "msa", "version": 1})
        file["id"] = [f"s{i}" for i in range(600)]
        group = file.create_group("features/text")
        group.create_dataset("data", data=padded.reshape(-1, 300), chunks=(500, 300), compression="gzip")
        group["length"] = np.full(600, 50)
    read = hdf5.read(tmp_path / "padded.h5")
    np.testing.assert_array_equal(read.features[0].read("s7"), padded[7])


def test_samples_that_share_all_rows_are_refused(tmp_path):
    path, n = tmp_path / "shared.h5", 2000
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "msa", "version": 1})
        file["id"] = [f"s{i}" for i in range(n)]
        group = file.create_group("features/text")
        group["data"] = np.ones((100_000, 3), "f4")
        group["start"], group["length"] = np.zeros(n, "i8"), np.full(n, 100_000)
    with pytest.raises(SourceError, match="its samples take"):
        hdf5.read(path)


def test_one_text_named_for_many_rows_is_read_a_few_at_a_time(tmp_path, monkeypatch):
    path, asked = small(tmp_path / "x.h5"), []
    with h5py.File(path, "a") as file:
        file["text"] = ["x" * 5000] * 6
    whole = _hdf5.whole
    monkeypatch.setattr(_hdf5, "STRINGS_AT_ONCE", 2 * path.stat().st_size)
    monkeypatch.setattr(_hdf5, "whole", lambda d, a=0, b=None: (asked.append((d.name, a, b)), whole(d, a, b))[1])
    hdf5.read(path)
    assert [(a, b) for name, a, b in asked if name == "/text"] == [(0, 2), (2, 4), (4, 6)]
    monkeypatch.setattr(_hdf5, "SLACK", -4 * path.stat().st_size + 20_000)
    with pytest.raises(SourceError, match="one is named for many rows"):
        hdf5.read(path)


def test_a_filter_that_would_be_a_plug_in_is_refused_and_no_plug_in_is_looked_for(tmp_path):
    path = small(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        del file["features/text/data"]
        space, about = h5py.h5s.create_simple((6, 3)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        about.set_chunk((6, 3))
        about.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file["features/text"].id, b"data", h5py.h5t.IEEE_F32LE, space, about)
    with pytest.raises(SourceError, match="packed by filter 32015"):
        hdf5.read(path)
    assert h5py.h5pl.size() == 0


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "outside", "reference", "cycle"])
@pytest.mark.parametrize("where", ["id", "text", "features/text/data"])
def test_nothing_else_is_opened(tmp_path, kind, where):
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones((6, 3), "f4") if where.startswith("features") else [f"s{i}" for i in range(6)]
    path = small(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        if where in file:
            del file[where]
        if kind == "soft":
            file[where] = h5py.SoftLink("/labels")
        elif kind == "external":
            file[where] = h5py.ExternalLink(str(other), "/x")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((6, 3), "f4")
            layout[:] = h5py.VirtualSource(str(other), "x", (6, 3))
            file.create_virtual_dataset(where, layout)
        elif kind == "outside":
            file.create_dataset(where, (6, 3), "f4", external=[(str(other), 0, 72)])
        elif kind == "reference":
            file.create_dataset(where, data=[file["labels"].ref] * 6, dtype=h5py.ref_dtype)
        else:
            file[where] = file["features"]
    with pytest.raises(SourceError) as caught:
        hdf5.read(path).features[0].read("s0")
    assert caught.value.fix


def test_metadata_of_a_sequence_may_be_as_deep_as_it_likes(tmp_path):
    path = tmp_path / "x.csd"
    with h5py.File(path, "w") as file:
        for root in ("labels", "COVAREP"):
            entry = file.create_group(f"{root}/data/video")
            entry["features"], entry["intervals"] = np.ones((2, 1)), np.array([[0.0, 1], [1, 2]])
            file[f"{root}/metadata/dimension names"] = [b"[" * 50_000]
    found = csd.read(path)
    assert len(found.corpus.samples) == 2 and found.features[0].columns == ()


# folders


@pytest.fixture
def folder(tmp_path):
    """A folder of two samples that can be read."""
    made = tmp_path / "made"
    (made / "audio").mkdir(parents=True)
    (made / "samples.csv").write_text("id,split,label\na,train,0.5\nb,test,0.7\n")
    for id in "ab":
        np.save(made / f"audio/{id}.npy", np.ones((2, 3), "f4"))
    return made


def header(shape, descr="'<f4'", version=(1, 0), order=False):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text


LIES = {
    "a trillion rows": header((10**12, 3)) + bytes(24),
    "rows of nothing": header((10**12, 0)),
    "no rows": header((0, 3)),
    "a negative shape": header((-1, 3)) + bytes(24),
    "a shape of truth": header((True, 3)) + bytes(24),
    "objects": header((2, 3), "'|O'") + b"cos\nsystem\n(S'true'\ntR.",
    "fields": header((2, 3), "[('a', '<f4'), ('b', '<f4')]") + bytes(48),
    "texts": header((2, 3), "'<U9'") + bytes(216),
    "version 9": header((2, 3), version=(9, 0)) + bytes(24),
    "a header that computes": header("(2, __import__('os').getpid())") + bytes(24),
    "a header of brackets": header("(" * 5000 + ")" * 5000),
    "a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "in Fortran's order, cut": header((2, 3), order=True) + bytes(8),
    "five axes": header((1, 1, 1, 2, 3)) + bytes(24),
    "no array": b"hello",
}


@pytest.mark.parametrize("kind", LIES)
def test_an_array_that_lies_is_a_record_and_the_others_are_read(folder, kind):
    (folder / "audio/a.npy").write_bytes(LIES[kind])
    feature = npy.read(folder).features[0]
    with pytest.raises(Unreadable):
        finite(feature.read("a"), 3)
    np.testing.assert_array_equal(feature.read("b"), np.ones((2, 3)))


def test_an_array_in_fortrans_order_is_read(folder):
    np.save(folder / "audio/a.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(npy.read(folder).features[0].read("a"), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "link out", "link to nothing", "link in a circle"])
def test_what_is_no_file_of_this_folder_is_a_record(folder, tmp_path, kind):
    path = folder / "audio/a.npy"
    path.unlink()
    np.save(tmp_path / "secret.npy", np.ones((2, 3), "f4"))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.write(header((2**37, 3)))
            file.truncate(2**40)
    else:
        to = {"link out": tmp_path / "secret.npy", "link to nothing": "/none", "link in a circle": path}
        path.symlink_to(to[kind])
    started = time.monotonic()
    feature = npy.read(folder).features[0]
    with pytest.raises(Unreadable, match=r"pipe|link|MB"):
        feature.read("a")
    assert feature.digest("a") != feature.digest("b") and time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["samples.csv", "corpus.json"])
@pytest.mark.parametrize("kind", ["pipe", "link out", "sparse", "folder"])
def test_a_table_that_is_no_file_of_this_folder_is_an_error(folder, tmp_path, name, kind):
    (tmp_path / "secret").write_text("id,split,label\na,train,1\n")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link out":
        path.symlink_to(tmp_path / "secret")
    elif kind == "folder":
        path.mkdir()
    else:
        with open(path, "wb") as file:
            file.truncate(2**41)
    with pytest.raises(SourceError):
        npy.read(folder)


def test_a_folder_of_features_that_is_a_link_out_is_an_error(folder, tmp_path):
    (folder / "audio").rename(tmp_path / "elsewhere")
    (folder / "audio").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="leads out of the folder"):
        npy.read(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(npy.read(tmp_path / "link", name="x").corpus.samples) == 2


@pytest.mark.parametrize("table", ["a,b", "id\na\0b\n", "id,label\n" + "x" * 200_000 + ",1\n"])
def test_odd_tables_are_errors(folder, table):
    (folder / "samples.csv").write_text(table)
    with pytest.raises(SourceError):
        npy.read(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_table_in_another_encoding_is_read_or_an_error(folder, encoding):
    (folder / "samples.csv").write_text("id,label\na,1\nb,2.5\n", encoding)
    with contextlib.suppress(SourceError) if encoding != "utf-8-sig" else contextlib.nullcontext():
        assert [sample.id for sample in npy.read(folder).corpus.samples] == ["a", "b"]


def test_brackets_in_texts_of_json_are_few_enough():
    assert _corpus.json_in('{"a": ["[", "{", 1, NaN]}') == {"a": ["[", "{", 1, None]}
