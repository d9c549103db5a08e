"""hdf5: what is written reads the same, and a stranger's file leads nowhere else and passes for nothing it is not."""

import json
import re
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from msa.cache.exchange import _hdf5, hdf5
from msa.cache.exchange._foreign import Bundle, Unreadable
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.errors import SourceError, StoreError
from msa.types import SENTIMENT, Modality, Split, Task
from tests.cache.conftest import make_index
from tests.cache.exchange.corpora import (
    AUDIO,
    FACE,
    IDS,
    TASKS,
    TEXT,
    TEXTS,
    assert_equal,
    fill,
    has_states,
    states_of,
    there_and_back,
)

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of every kind of label, as what a format writes."""
    return {kind: fill(FeatureStore.create(tmp_path_factory.mktemp(kind) / "store"), kind) for kind in TASKS}


def with_index(bundle, **changed):
    return replace(bundle, index=replace(bundle.index, **changed))


@pytest.fixture
def path(tmp_path):
    """A file as another program would write it, with no more than is needed: three samples, two of them with sound."""
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "msa", "version": 1})
        file["id"] = ["a", "b", "c"]
        file["features/audio/data"] = ROWS
        file["features/audio/start"], file["features/audio/length"] = [4, 0, 0], [4, 3, -1]
    return path


def change(path, how):
    """A changed copy of a file."""
    copy = shutil.copy(path, Path(tempfile.mkdtemp(dir=path.parent)) / path.name)
    with h5py.File(copy, "a") as file:
        how(file)
    return copy


def replaced(file, name, value):
    del file[name]
    file[name] = value


def imported(path, tmp_path):
    store = FeatureStore.create(tmp_path / "store")
    index, reports = bring_in(store, hdf5.read(path))
    return store, index, reports


# round trips


@pytest.mark.parametrize("kind", TASKS)
def test_a_corpus_comes_back_bit_for_bit(kind, made, tmp_path):
    bundle = made[kind]
    back, reports, remarks = there_and_back(bundle, hdf5, tmp_path / "out.h5", tmp_path / "b")
    assert_equal(bundle, back)
    assert {report.modality: report.failed for report in reports} == {
        TEXT: [], FACE: [], AUDIO: [(IDS[2], "decode: no sound")],
    }  # fmt: skip
    assert back.index.has(FACE).tolist() == [True] * 11 + [False]
    assert "1 of 12 samples have no audio states: nothing stands for them" in remarks
    attributes = back.readers[AUDIO].view.attributes
    assert (attributes["columns"], attributes["dtype"]) == (["f0", "f1"], "float16")
    assert attributes["facts"]["exported from"]["backbone"] == "made.audio"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "out.h5"], "nothing temporary is left"


def test_bfloat16_comes_back_with_the_same_bits_in_a_float32_view(tmp_path):
    store, index = FeatureStore.create(tmp_path / "a"), make_index()
    dataset = store.add_index(index)
    store.add_view("b" * 16, {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "bfloat16"})
    writer = store.writer("b" * 16, dataset, Form(8, "bfloat16", 16, 64), {})
    bits = np.random.default_rng(0).integers(0, 0x7F80, (3, 8), np.uint16)  # subnormal numbers too, none infinite
    writer.write(4, index.digests[AUDIO][4].tobytes(), bits)
    store.publish("b" * 16, [writer.seal()])
    said = hdf5.write(Bundle(index, {AUDIO: store.reader(store.view(dataset, AUDIO))}), tmp_path / "out.h5")
    assert "audio is bfloat16 here, and written as float32: equal values, twice the size" in said
    back, _, _ = imported(tmp_path / "out.h5", tmp_path)
    found = back.states("tiny", "audio")["id4"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), bits.astype(np.uint32) << 16)


def test_the_page_on_the_format_reads_it_with_plain_h5py(made, tmp_path, monkeypatch):
    hdf5.write(made["classes"], tmp_path / "mosi.h5")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "exchange.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict = {}
    exec(compile(f"{snippet}            seen[id] = states\n", "docs/exchange.md", "exec"), {"seen": found})
    assert list(found) == [id for i, id in enumerate(IDS) if has_states(i, AUDIO)]
    for id, states in found.items():
        np.testing.assert_array_equal(states, states_of(IDS.index(id), AUDIO))


def test_nothing_is_written_over(made, tmp_path):
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(StoreError, match=r"out\.h5 exists"):
        hdf5.write(made["values"], tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "precious"


def test_a_nul_in_a_text_is_left_out_and_said_and_in_an_id_refused(made, tmp_path):
    bundle = with_index(made["classes"], text=["so\0so", *TEXTS[1:]])
    assert "1 texts hold NUL characters, which are left out" in hdf5.write(bundle, tmp_path / "out.h5")
    assert hdf5.read(tmp_path / "out.h5").corpus.samples[0].raw[TEXT].text == "soso"
    bundle = with_index(made["classes"], ids=["a\0b", *IDS[1:]])
    with pytest.raises(StoreError, match="holds a NUL"):
        hdf5.write(bundle, tmp_path / "other.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.h5"]


def test_a_flipped_bit_is_a_failure_of_the_samples_it_concerns(made, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5.layout, "chunk_rows", lambda width, itemsize: 4)
    hdf5.write(made["classes"], tmp_path / "out.h5")
    monkeypatch.undo()
    with h5py.File(tmp_path / "out.h5") as file:
        chunk = file["features/text/data"].id.get_chunk_info(0)
    data = bytearray((tmp_path / "out.h5").read_bytes())
    data[chunk.byte_offset + 5] ^= 1
    (tmp_path / "out.h5").write_bytes(data)
    _, _, reports = imported(tmp_path / "out.h5", tmp_path)
    failed = next(report.failed for report in reports if report.modality is TEXT)
    assert [id for id, _ in failed] == IDS[:3], "of 1, 2 and 3 rows, the chunk has the first four"
    assert all(reason.startswith("damaged: ") for _, reason in failed)


# files of others


def test_what_is_not_needed_may_be_missing(path, tmp_path):
    foreign = hdf5.read(path)
    assert (foreign.corpus.name, foreign.corpus.task) == ("theirs", Task())
    store, index, (report,) = imported(path, tmp_path)
    reader = store.reader(store.view("theirs", AUDIO))
    np.testing.assert_array_equal(reader.read(0), ROWS[4:8])
    np.testing.assert_array_equal(reader.read(1), ROWS[0:3])
    assert reader.length.tolist() == [4, 3, -1]
    assert (report.wanted, report.failed) == (2, [])
    assert sorted(len(index.rows(split)) for split in Split) == [1, 1, 1], "the parts are drawn"


def test_without_start_the_rows_follow_one_another_and_without_length_there_is_one_each(path):
    def follow(file):
        replaced(file, "features/audio/length", [2, -1, 3])
        del file["features/audio/start"]

    path = change(path, follow)
    (feature,) = hdf5.read(path).features
    np.testing.assert_array_equal(feature.read("c"), ROWS[2:5])
    assert feature.digest("b") is None

    def each(file):
        del file["features/audio/length"]
        replaced(file, "features/audio/data", ROWS[:3])

    path = change(path, each)
    (feature,) = hdf5.read(path).features
    np.testing.assert_array_equal(feature.read("c"), ROWS[2:3])
    with pytest.raises(SourceError, match="8 rows for 3 samples"):
        hdf5.read(change(path, lambda file: replaced(file, "features/audio/data", ROWS)))


def test_equal_states_are_one_input_and_others_another(path):
    def twice(file):
        replaced(file, "features/audio/start", [0, 0, 1])
        replaced(file, "features/audio/length", [3, 3, 3])

    (feature,) = hdf5.read(change(path, twice)).features
    assert feature.digest("a") == feature.digest("b") != feature.digest("c")


def test_labels_without_a_task_are_a_regression_and_what_is_of_no_class_is_refused(path):
    path = change(path, lambda file: file.create_dataset("labels", data=[0.5, np.nan, -2]))
    corpus = hdf5.read(path).corpus
    assert corpus.task == Task(low=-2, high=0.5)
    assert [sample.label for sample in corpus.samples] == [0.5, None, -2]
    task = json.dumps({"classes": SENTIMENT.classes, "low": 0, "high": 0})
    path = change(path, lambda file: file.attrs.update({"task": task}))
    with pytest.raises(SourceError, match=r"the label of a: 0\.5 is the number of none of 3 classes"):
        hdf5.read(path)
    path = change(path, lambda file: file["labels"].attrs.update({"names": ["annotator"]}))
    with pytest.raises(SourceError, match="called 'annotator'"):
        hdf5.read(path)


def test_rows_that_were_never_written_are_no_zeros(path, tmp_path):
    """A writer that was killed leaves chunks without storage, which HDF5 gives out as zeros."""

    def torn(file):
        del file["features/audio/data"]
        data = file.create_dataset("features/audio/data", (8, 3), "f4", chunks=(4, 3))
        data[4:] = ROWS[4:]

    path = change(path, torn)
    store, _, (report,) = imported(path, tmp_path)
    assert report.failed == [("b", "rows that were never written")]
    np.testing.assert_array_equal(store.reader(store.view("theirs", AUDIO)).read(0), ROWS[4:])

    def never(file):
        del file["id"]
        file.create_dataset("id", (3,), "S1")

    with pytest.raises(SourceError, match="id was never written"):
        hdf5.read(change(path, never))


def test_rows_outside_of_the_data_are_failures(path, tmp_path):
    path = change(path, lambda file: replaced(file, "features/audio/start", [4, 7, 0]))
    _, _, (report,) = imported(path, tmp_path)
    assert report.failed == [("b", "rows 7 to 10 of 8")]
    path = change(path, lambda file: replaced(file, "features/audio/start", [4, -2, 0]))
    (feature,) = hdf5.read(path).features
    with pytest.raises(Unreadable, match="rows -2 to 1 of 8"):
        feature.read("b")


def test_a_size_that_is_only_said_asks_for_no_memory(path):
    def bomb(file):
        replaced(file, "features/audio/length", np.array([2**40, 3, -1]))
        replaced(file, "features/audio/start", [0, 0, 0])
        del file["features/audio/data"]
        file.create_dataset("features/audio/data", (2**41, 3), "f4", chunks=(2**20, 3))[:8] = ROWS

    path = change(path, bomb)
    (feature,) = hdf5.read(path).features
    with pytest.raises(Unreadable, match="more than a shard holds"):
        feature.read("a")
    np.testing.assert_array_equal(feature.read("b"), ROWS[:3])

    def endless(file):
        del file["id"]
        file.create_dataset("id", (2**40,), "S8", chunks=(2**10,))

    with pytest.raises(SourceError, match=r"id has 8,796,093\.0 MB, more than 268\.4 are not read"):
        hdf5.read(change(path, endless))


def test_what_is_packed_in_large_chunks_is_not_unpacked(path, monkeypatch):
    """A chunk is unpacked whole to read one row of it, and zeros pack a thousandfold."""

    def packed(file, **how):
        del file["features/audio/data"]
        file.create_dataset("features/audio/data", (8, 3), "f4", maxshape=(None, 3), chunks=(2**10, 3), **how)[:] = ROWS

    def packed_ids(file):
        del file["id"]
        file.create_dataset("id", (3,), "S8", maxshape=(None,), chunks=(2**11,), compression="gzip")[:] = [b"a"] * 3

    large = change(path, lambda file: packed(file, compression="gzip"))
    ids, loose = change(path, packed_ids), change(path, packed)
    monkeypatch.setattr(_hdf5.layout, "SHARD_BYTES", 2**13)
    with pytest.raises(SourceError, match=r"audio/data is packed in chunks \[1024, 3\] of 0\.0 MB") as error:
        hdf5.read(large)
    assert "h5repack" in error.value.fix
    with pytest.raises(SourceError, match=r"/id is packed in chunks \[2048\]"):
        hdf5.read(ids)
    (feature,) = hdf5.read(loose).features
    np.testing.assert_array_equal(feature.read("b"), ROWS[:3])


def test_an_id_that_is_there_twice_among_many_is_found_at_once(path):
    many = [f"{i}" for i in range(50_000)]
    path = change(path, lambda file: replaced(file, "id", [*many, many[-1]]))
    started = time.process_time()
    with pytest.raises(SourceError, match="id '49999' is there 2 times"):
        hdf5.read(path)
    assert time.process_time() - started < 5, "it took half a minute where every id was looked for in all"


# what leads out of the file


@pytest.fixture
def secret(tmp_path):
    """Another file of the reader's, which a stranger's file must not get into a store."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = 7 * ROWS
    (tmp_path / "secret.raw").write_bytes(7 * ROWS.tobytes())
    return tmp_path


def virtual(file, secret):
    layout = h5py.VirtualLayout(shape=(8, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(str(secret / "secret.h5"), "numbers", shape=(8, 3))
    file.create_virtual_dataset("features/audio/data", layout)


OUTWARD = {
    "ExternalLink": lambda file, secret: file["features/audio"].update(
        {"data": h5py.ExternalLink(str(secret / "secret.h5"), "numbers")}
    ),
    "SoftLink": lambda file, secret: file["features/audio"].update({"data": h5py.SoftLink("/id")}),
    "data in other files": lambda file, secret: file.create_dataset(
        "features/audio/data", (8, 3), "f4", external=[(str(secret / "secret.raw"), 0, 96)]
    ),
    "has its data in other files": virtual,
}


@pytest.mark.parametrize("kind", OUTWARD)
def test_nothing_outside_of_the_file_is_read(kind, path, secret):
    def lead_out(file):
        del file["features/audio/data"]
        OUTWARD[kind](file, secret)

    with pytest.raises(SourceError, match=kind.rpartition("has its ")[2]):
        hdf5.read(change(path, lead_out))


def test_a_group_that_is_a_link_is_not_followed_either(path, secret):
    path = change(
        path, lambda file: file["features"].update({"face": h5py.ExternalLink(str(secret / "secret.h5"), "/")})
    )
    with pytest.raises(SourceError, match="features/face is a ExternalLink, and links are not followed"):
        hdf5.read(path)


# what is no such file


def test_another_version_is_refused_with_both_numbers(path):
    with pytest.raises(SourceError, match="version 2, this msa reads version 1"):
        hdf5.read(change(path, lambda file: file.attrs.update({"version": 2})))
    with pytest.raises(SourceError, match="the attribute format is None, not 'msa'") as error:
        hdf5.read(change(path, lambda file: file.attrs.pop("format")))
    assert "csd" in error.value.fix


def test_what_is_no_hdf5_or_not_all_of_it_is_said(path, tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        hdf5.read(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("id,label\n")
    with pytest.raises(SourceError, match="is no HDF5 file"):
        hdf5.read(tmp_path / "text.h5")
    data = path.read_bytes()
    for size in (len(data) - 1, len(data) // 2, 600, 96):
        (tmp_path / "cut.h5").write_bytes(data[:size])
        with pytest.raises(SourceError, match="damaged or cut short"):
            hdf5.read(tmp_path / "cut.h5")


BAD = {
    "names no sample": lambda file: file.pop("id"),
    "id 'a' is there 2 times": lambda file: replaced(file, "id", ["a", "b", "a"]),
    "split has shape": lambda file: file.update({"split": ["train"]}),
    "b is in 'tarin'": lambda file: file.update({"split": ["train", "tarin", ""]}),
    "position holds float64": lambda file: file.update({"position": [0.5, 1, 2]}),
    "length has shape": lambda file: replaced(file, "features/audio/length", [1, 2]),
    "holds no features": lambda file: file.pop("features"),
    "has no data": lambda file: file["features/audio"].pop("data"),
    "expected numbers": lambda file: replaced(file, "features/audio/data", ["a", "b"]),
    "of which modality /features/covarep is": lambda file: file.move("features/audio", "features/covarep"),
    "not a Dataset": lambda file: (file.pop("id"), file.create_group("id")),
    "is no JSON": lambda file: file.attrs.update({"task": "classes"}),
    "names a class twice": lambda file: file.attrs.update({"task": '{"classes": ["a", "a"], "low": 0, "high": 0}'}),
    "is not UTF-8": lambda file: replaced(file, "id", np.array([b"a", b"\xff", b"c"])),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_together_is_said(what, path):
    with pytest.raises(SourceError, match=what):
        hdf5.read(change(path, lambda file: (BAD[what](file), None)[1]))


def test_a_feature_of_another_name_says_its_modality(path):
    def rename(file):
        file.move("features/audio", "features/au")
        file["features/au"].attrs["modality"] = "face"

    (feature,) = hdf5.read(change(path, rename)).features
    assert (feature.name, feature.modality) == ("au", Modality.FACE)
