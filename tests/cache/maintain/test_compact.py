import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from msa import cli
from msa.cache.format import generations
from msa.cache.maintain import compact as compacting
from msa.cache.maintain import gc, history, remove
from msa.cache.maintain.describe import describe
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.cache.write.segment import Form
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index

SHARD = 256 * WIDTH * 2  # bytes; four times those of FORM
VIEW = "v" * 16


@pytest.fixture(autouse=True)
def nobody_pulls_the_plug(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def small_chunks(monkeypatch):
    """As in FORM, so that twenty samples fill several shards."""
    monkeypatch.setattr("msa.cache.format.layout.CHUNK_BYTES", 16 * WIDTH * 2)


@pytest.fixture
def scattered(store, index, small_chunks):
    """Nineteen samples in seven segments."""
    for first in range(0, 19, 3):
        fill(store, index, rows=range(first, min(19, first + 3)))
    return store


def states(store, name="tiny", view=None):
    """Row -> bytes of its hidden states, and the failures."""
    reader = store.reader(store.view(name, Modality.AUDIO, view))
    return {int(row): reader.read(int(row)).tobytes() for row in np.flatnonzero(reader.length >= 0)}, reader.failures


def entries(store, name="tiny"):
    return store.view(name, Modality.AUDIO).entries


def compact(store, **more):
    return compacting.compact(store, shard_bytes=SHARD, **more)


def test_many_segments_become_one_with_full_shards_and_the_same_bits(scattered):
    before, total = states(scattered), sum(len(hidden(i)) for i in range(19))
    (done,) = compact(scattered)
    assert (done.before.segments, done.after.segments) == (7, 1)
    (entry,) = entries(scattered)
    assert states(FeatureStore.open(scattered.path)) == before
    shards = [name for name in entry.files if name.startswith("data/c/")]
    assert done.after.shards == len(shards) == -(-total // 256) < done.before.shards
    assert done.after.nbytes == sum(entry.files[name][0] for name in shards)
    data = zarr.open_array(scattered.path / "views" / VIEW / "seg" / entry.id / "data")
    assert data.shape[0] >= total
    assert verify(FeatureStore.open(scattered.path)) == []
    assert [str(c) for c in history.diff(scattered.path, 8, 9)] == ["~ tiny audio made.up 7 segments became 1"]


def test_a_compacted_view_is_left_alone(scattered):
    compact(scattered)
    generation = scattered.manifest.generation
    assert compact(scattered) == []
    assert FeatureStore.open(scattered.path).manifest.generation == generation


def test_readers_of_the_old_generation_go_on_until_the_old_segments_are_swept(scattered):
    pinned = FeatureStore.open(scattered.path)
    before = states(pinned)
    compact(scattered)
    assert states(FeatureStore.open(scattered.path, pinned.manifest.generation)) == before
    _, freed = gc.collect(scattered, grace_s=0)
    assert freed > 0
    assert states(FeatureStore.open(scattered.path)) == before
    with pytest.raises(StoreError):
        states(FeatureStore.open(scattered.path, pinned.manifest.generation))


def test_full_segments_are_not_written_again(store, index, small_chunks):
    long = {i: np.full((32, WIDTH), i, np.float16) for i in range(19)}
    dataset = store.add_index(index)
    store.add_view(VIEW, {"modality": "audio", "backbone": "b", "dim": WIDTH, "dtype": "float16"})
    for rows in (range(10), [10], [11], [12]):
        writer = store.writer(VIEW, dataset, FORM, {})
        for i in rows:
            writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), long[i])
        store.publish(VIEW, [writer.seal()])
    full = entries(store)[0]
    (done,) = compacting.compact(store, shard_bytes=SHARD // 4)
    assert (done.before.segments, done.after.segments) == (3, 1)
    assert full in entries(store)
    assert states(store)[0] == {i: long[i].tobytes() for i in range(13)}


def test_failures_stay_and_those_taken_back_go(store, index, small_chunks):
    dataset = store.add_index(index)
    store.add_view(VIEW, {"modality": "audio", "backbone": "b", "dim": WIDTH, "dtype": "float16"})
    for i, reason in ((3, "old"), (4, None), (5, "new"), (6, None)):
        writer = store.writer(VIEW, dataset, FORM, {})
        if reason:
            writer.fail(i, b"%016d" % i, "decode", reason, {"frames": i})
        else:
            writer.write(i, b"%016d" % i, hidden(i), {"frames": i})
        store.publish(VIEW, [writer.seal()])
        if reason == "old":
            remove.retract_failures(store, store.view("tiny", Modality.AUDIO))
    before, counted = states(store), describe(store)["datasets"][0]["views"][0]["counts"]
    compact(store)
    assert states(store) == before
    assert (list(before[1]), len(entries(store))) == ([5], 1)
    assert describe(store)["datasets"][0]["views"][0]["counts"] == counted == {"frames": 4 + 5 + 6}
    assert "old" not in (store.path / "views" / VIEW / "seg" / entries(store)[0].id / "zarr.json").read_text()


def versions(store, index):
    """A corpus and a later version of it without its first samples, which borrows the rest."""
    later = make_index(n=12, name="tiny")
    later.digests[Modality.AUDIO][:] = index.digests[Modality.AUDIO][8:20]
    dataset = store.add_index(later)
    assert reuse.borrow(store, VIEW, dataset, later.digests[Modality.AUDIO], range(12)) == 11
    return later


def test_a_version_that_borrows_borrows_from_the_compacted_segment(scattered, index):
    versions(scattered, index)
    old, new = f"tiny@{index.fingerprint}", "tiny"
    before = states(scattered, old), states(scattered, new)
    (done,) = compact(scattered)
    assert (done.after.segments, len(entries(scattered, old)), len(entries(scattered, new))) == (2, 1, 1)
    assert entries(scattered, new)[0].data_of == entries(scattered, old)[0].id
    gc.collect(scattered, grace_s=0)
    opened = FeatureStore.open(scattered.path)
    assert (states(opened, old), states(opened, new)) == before
    assert verify(opened) == []
    assert compact(opened) == []


def test_rows_of_samples_that_no_corpus_has_any_more_are_dropped(scattered, index):
    versions(scattered, index)
    before = states(scattered)

    def without_the_old_one(new):
        kept = (entry for entry in new.segments_of(VIEW) if entry.dataset != index.fingerprint)
        datasets = {name: entry for name, entry in new.datasets.items() if name != index.fingerprint}
        return replace(new.with_segments(VIEW, kept), datasets=datasets)

    scattered.manifest = generations.publish(scattered.path, without_the_old_one)
    (done,) = compact(scattered)
    assert done.after.nbytes < 0.8 * done.before.nbytes
    (entry,) = entries(scattered)
    assert entry.data_of is None
    assert states(scattered) == before


def test_equal_inputs_with_unequal_hidden_states_keep_both(store, index, small_chunks):
    """Two runs on two machines round differently; each sample keeps the bits it had."""
    dataset = store.add_index(index)
    store.add_view(VIEW, {"modality": "audio", "backbone": "b", "dim": WIDTH, "dtype": "float16"})
    for i in range(4):
        writer = store.writer(VIEW, dataset, FORM, {"device": f"cuda:{i % 2}"})
        writer.write(i, b"the same input..", hidden(5) + np.float16(i % 2))
        store.publish(VIEW, [writer.seal()])
    before = states(store)
    compact(store)
    assert states(store) == before
    (entry,) = entries(store)
    run = json.loads((store.path / "views" / VIEW / "seg" / entry.id / "zarr.json").read_text())["attributes"]["run"]
    assert run["compacted"] == [{"device": "cuda:0", "samples": 2}, {"device": "cuda:1", "samples": 2}]
    assert compact(store) == []


def test_bfloat16_keeps_its_bits(store, index, small_chunks):
    dataset = store.add_index(index)
    store.add_view(VIEW, {"modality": "audio", "backbone": "b", "dim": WIDTH, "dtype": "bfloat16"})
    chance = np.random.default_rng(0)
    for i in range(4):
        writer = store.writer(VIEW, dataset, Form(WIDTH, "bfloat16", 16, 64), {})
        writer.write(i, b"%016d" % i, chance.integers(0, 2**16, (9, WIDTH), np.uint16))  # NaN of every kind among them
        store.publish(VIEW, [writer.seal()])
    before = states(store)
    compact(store)
    assert states(store) == before
    assert len(entries(store)) == 1


def test_what_others_publish_meanwhile_is_merged_and_what_they_remove_ends_it(scattered, index, monkeypatch):
    real, other = os.link, FeatureStore.open(scattered.path)

    def first(action):
        def link(source, target, **folders):
            monkeypatch.setattr(os, "link", real)
            action()
            real(source, target, **folders)

        monkeypatch.setattr(os, "link", link)

    first(lambda: fill(other, make_index(name="other", seed=1), rows=range(4)))
    compact(scattered)
    assert len(states(scattered, "other")[0]) == 4
    assert len(states(scattered)[0]) == 19
    fill(scattered, make_index(name="more", seed=2), rows=range(4))
    fill(scattered, make_index(name="most", seed=3), rows=range(4))
    other = FeatureStore.open(scattered.path)
    first(lambda: remove.remove(other, dataset="more"))
    folders = {path.name for path in (scattered.path / "views" / VIEW / "seg").iterdir()}
    with pytest.raises(StoreError, match="meanwhile"):
        compacting.compact(scattered)
    assert {path.name for path in (scattered.path / "views" / VIEW / "seg").iterdir()} == folders
    assert verify(FeatureStore.open(scattered.path)) == []


def test_a_damaged_sample_ends_it_and_leaves_the_store_as_it_was(scattered):
    shard = next((scattered.path / "views" / VIEW / "seg").glob("*/data/c/0/0"))
    shard.write_bytes(b"\x00" + shard.read_bytes()[1:])
    before = sorted(scattered.path.rglob("*"))
    with pytest.raises(StoreError, match="checksum"):
        compact(FeatureStore.open(scattered.path))
    assert sorted(scattered.path.rglob("*")) == before


def test_a_full_disk_is_noticed_before_anything_is_written(scattered, monkeypatch):
    usage = shutil.disk_usage(scattered.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StoreError, match="are free"):
        compact(scattered)
    assert len(entries(FeatureStore.open(scattered.path))) == 7


KILLED = """
        import os, signal, sys
        from msa.cache.format import layout
        from msa.cache.maintain import compact
        from msa.cache.store import FeatureStore
        layout.CHUNK_BYTES = 256
        compact._Job._publish = lambda job: os.kill(os.getpid(), signal.SIGKILL)
        compact.compact(FeatureStore.open(sys.argv[1]), shard_bytes=1024)
    """


def test_a_killed_compaction_leaves_nothing_that_readers_see(scattered):
    before, generation = states(scattered), scattered.manifest.generation
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), scattered.path])
    assert done.returncode == -signal.SIGKILL
    opened = FeatureStore.open(scattered.path)
    assert (states(opened), opened.manifest.generation) == (before, generation)
    assert len(list((scattered.path / "views" / VIEW / "seg").glob("*/journal.jsonl"))) == 1
    assert opened.recover(VIEW) == 0
    assert not list((scattered.path / "views" / VIEW / "seg").glob("*/journal.jsonl"))
    assert len(entries(FeatureStore.open(scattered.path))) == 7
    assert verify(FeatureStore.open(scattered.path)) == []


def test_the_command_says_what_became_of_what(scattered):
    def run(*words):
        done = CliRunner().invoke(cli.app, ["cache", "compact", "--store", str(scattered.path), *words])
        assert done.exit_code == 0, done.output
        return done.output

    assert "audio made.up: 7 segments with 10 shards" in run("--dry-run")
    assert "became 1 segment with 1 shard," in run("--view", "made.up")
    assert "nothing to compact" in run()
