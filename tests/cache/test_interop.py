"""Hidden states for other people's code: as a mapping, in numpy, in dask and in torch."""

import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msa.cache.store import FeatureStore
from msa.cache.write.reuse import borrow
from msa.cache.write.segment import Form
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.types import Modality, Task
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index


@pytest.fixture
def filled(store, index, monkeypatch):
    """Two segments of small shards; a sample in the middle, and the last, have no hidden states."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    fill(store, index, rows=range(12))
    fill(store, index, rows=[*range(13, 19)])
    return store


def present():
    return [i for i in range(20) if i not in (12, 19)]


def test_states_are_read_by_id(filled, index):
    states = filled.states("tiny", "audio")
    assert list(states) == [f"id{i}" for i in present()]
    assert len(states) == 18
    np.testing.assert_array_equal(states["id7"], hidden(7))
    assert "id12" not in states
    assert "nobody" not in states
    with pytest.raises(KeyError):
        states["id12"]


def test_numpy_gives_all_samples_or_those_of_a_part(filled, index):
    values, offsets = filled.numpy("tiny", "audio")
    assert offsets.shape == (21,)
    for i in range(20):
        own = values[offsets[i] : offsets[i + 1]]
        np.testing.assert_array_equal(own, hidden(i) if i in present() else np.zeros((0, WIDTH)))
    part, bounds = filled.numpy("tiny", "audio", split="valid")
    np.testing.assert_array_equal(part, np.concatenate([hidden(i) for i in present() if i % 3 == 1]))
    assert len(bounds) == 1 + sum(i % 3 == 1 for i in range(20))


def rows_in_order(values):
    """The same rows, whatever their order was."""
    values = np.asarray(values)
    return values[np.lexsort(values.T)]


def test_a_dask_array_holds_the_same_rows_in_a_chunk_for_each_shard(filled):
    values, _ = filled.numpy("tiny", "audio")
    array = filled.dask("audio")
    assert (array.shape, array.dtype) == (values.shape, np.float16)
    (view,) = filled.views("tiny")
    shards = sum("data/c/" in name for entry in view.entries for name in entry.files)
    assert len(array.chunks[0]) == shards > 4
    assert max(array.chunks[0]) <= 64  # of a shard; what fills it up is not there
    found = array.compute(scheduler="threads")
    np.testing.assert_array_equal(rows_in_order(found), rows_in_order(values))
    mean, std = array.mean(axis=0, dtype="float64"), array.std(axis=0, dtype="float64")
    np.testing.assert_allclose(mean.compute(), values.mean(axis=0, dtype="float64"), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std.compute(), values.std(axis=0, dtype="float64"), rtol=1e-12)


def test_a_dask_array_of_a_part_has_nothing_of_the_others(filled):
    train = filled.dask("audio", "tiny", split="train").compute(scheduler="sync")
    np.testing.assert_array_equal(
        rows_in_order(train), rows_in_order(np.concatenate([hidden(i) for i in present() if i % 3 == 0]))
    )
    assert filled.dask("audio", split="train").name != filled.dask("audio", split="valid").name


def test_samples_of_one_input_count_each_and_a_borrowed_segment_only_its_own(store, index):
    twins = index.digests[Modality.AUDIO].copy()
    twins[3] = twins[2]
    fill(store, replace(index, digests=index.digests | {Modality.AUDIO: twins}), rows=[2, 3, 4])
    own = np.concatenate([hidden(2), hidden(2), hidden(4)])
    np.testing.assert_array_equal(store.dask("audio").compute(scheduler="sync"), own)
    other = replace(make_index(name="other"), digests={Modality.AUDIO: twins})
    dataset = store.add_index(other)
    assert borrow(store, "v" * 16, dataset, twins, [4]) == 1
    np.testing.assert_array_equal(store.dask("audio", "other").compute(scheduler="sync"), hidden(4))
    with pytest.raises(ConfigError, match="holds 2 datasets"):
        store.dask("audio")


def test_bfloat16_comes_as_float32(store, index):
    dataset = store.add_index(index)
    store.add_view("b" * 16, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "bfloat16"})
    writer = store.writer("b" * 16, dataset, Form(WIDTH, "bfloat16", 16, 64), {})
    halves = np.arange(3 * WIDTH, dtype=np.uint16).reshape(3, WIDTH) + 0x3F80
    writer.write(0, index.digests[Modality.AUDIO][0].tobytes(), halves)
    store.publish("b" * 16, [writer.seal()])
    found = store.dask("audio").compute(scheduler="sync")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32) >> 16, halves)
    assert store.torch("tiny")[0]["audio"].numpy().tolist() == found.tolist()


def test_a_damaged_shard_is_an_error_in_dask_too(filled):
    (view,) = filled.views("tiny")
    shard = filled.path / "views" / view.id / "seg" / view.entries[0].id / "data" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        filled.dask("audio").compute(scheduler="sync")


def test_a_torch_dataset_gives_labelled_samples_and_collates_them(filled, index):
    torch = pytest.importorskip("torch")
    samples = filled.torch("tiny", ["audio"], split="train")
    wanted = [i for i in present() if i % 3 == 0]
    assert [item["id"] for item in (samples[i] for i in range(len(samples)))] == [f"id{i}" for i in wanted]
    item = samples[1]
    assert item["label"].dtype == torch.int64
    assert item["audio"].dtype == torch.float32
    np.testing.assert_array_equal(item["audio"].numpy(), hidden(wanted[1]).astype(np.float32))
    batch = samples.collate(samples.__getitems__([0, 3, 1]))
    longest = max(len(hidden(wanted[i])) for i in (0, 3, 1))
    assert batch["audio"].shape == (3, longest, WIDTH)
    for k, i in enumerate((0, 3, 1)):
        own = hidden(wanted[i]).astype(np.float32)
        np.testing.assert_array_equal(batch["audio"][k][batch["audio_mask"][k]].numpy(), own)
        assert not batch["audio"][k][~batch["audio_mask"][k]].any()
    assert batch["label"].tolist() == [wanted[i] % 3 for i in (0, 3, 1)]


def test_a_torch_dataset_goes_to_workers_and_gives_the_same_there(filled):
    pytest.importorskip("torch")
    samples = filled.torch("tiny")
    again = pickle.loads(pickle.dumps(samples))
    assert again.ids == samples.ids
    for mine, theirs in zip(samples.__getitems__(range(18)), again.__getitems__(range(18)), strict=True):
        np.testing.assert_array_equal(mine["audio"], theirs["audio"])


def test_dataloader_workers_read_what_this_process_reads(filled):
    data = pytest.importorskip("torch.utils.data")
    samples = filled.torch("tiny")
    seen = [
        id
        for batch in data.DataLoader(samples, batch_size=5, num_workers=1, collate_fn=samples.collate)
        for id, length in zip(batch["id"], batch["audio_mask"].sum(1).tolist(), strict=True)
        if length == len(hidden(int(id.removeprefix("id"))))
    ]
    assert seen == samples.ids


def test_samples_without_a_label_or_any_states_are_left_out(store, index):
    pytest.importorskip("torch")
    labels = index.labels.copy()
    labels[4] = np.nan
    fill(store, replace(index, labels=labels, task=Task(low=-1, high=1)), rows=[3, 4, 5])
    samples = store.torch("tiny")
    assert samples.ids == ["id3", "id5"]
    assert samples[0]["label"].item() == labels[3, 0]
    assert samples[0]["label"].is_floating_point()
    with pytest.raises(IndexError):
        samples[2]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda store: store.torch("tiny", ["sound"]), "sound"),
        (lambda store: store.numpy("tiny", "audio", split="dev"), "dev"),
        (lambda store: store.states("nothing", "audio"), "nothing"),
        (lambda store: store.torch("tiny", ["audio"], views={"text": "x"}), "text"),
        (lambda store: store.dask("text"), "no text view"),
    ],
)
def test_what_is_not_there_is_named(filled, ask, says):
    with pytest.raises((UnknownNameError, ConfigError, StoreError), match=re.escape(says)):
        ask(filled)


def test_neither_torch_nor_dask_is_loaded_before_it_is_asked_for(filled):
    code = (
        "import sys; from msa.cache.store import FeatureStore; s = FeatureStore.open(sys.argv[1]); "
        "s.numpy('tiny', 'audio'); print({'torch', 'dask', 'zarr'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(filled.path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_on_access_does_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    index = make_index(60, name="posts")
    store = FeatureStore.create("msa-store")
    dataset = store.add_index(index)
    store.add_view("t" * 16, {"modality": "text", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer("t" * 16, dataset, FORM, {})
    for i in range(60):
        writer.write(i, index.digests[Modality.TEXT][i].tobytes(), hidden(i))
    store.publish("t" * 16, [writer.seal()])
    page = Path(__file__).resolve().parents[2] / "docs" / "access.md"
    found: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(snippet, "docs/access.md", "exec"), found)
    np.testing.assert_array_equal(found["third"], hidden(6))
    assert found["mean"].shape == (WIDTH,)
