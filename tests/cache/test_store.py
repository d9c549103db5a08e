import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import zarr

from msa.cache.format import generations
from msa.cache.format import shard as shards
from msa.cache.maintain import remove
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import recovery, reuse
from msa.cache.write.segment import Form
from msa.errors import StoreError, UnknownNameError
from msa.types import Modality, Split
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index


def test_what_is_written_is_read_back(store, index):
    view = fill(store, index)
    reader = FeatureStore.open(store.path).reader(view)
    for i in range(19):
        np.testing.assert_array_equal(reader.read(i), hidden(i))
    assert reader.length[19] == -1


def test_a_view_in_which_all_failed_does_not_take_the_place_of_a_good_one(store, index):
    good = fill(store, index)
    store.add_view("w" * 16, {"modality": "audio", "backbone": "made.worse", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer("w" * 16, good.dataset, FORM, {})
    for i in range(19):
        writer.fail(i, index.digests[Modality.AUDIO][i].tobytes(), "decode", "broken")
    store.publish("w" * 16, [writer.seal()])
    assert store.view("tiny", Modality.AUDIO).name == "made.up"
    assert store.view("tiny", Modality.AUDIO, "made.worse").samples == 0


def test_an_index_survives_the_round_trip(store, index):
    store.add_index(index)
    back = FeatureStore.open(store.path).index("tiny")
    assert (back.ids, back.text, back.group) == (index.ids, index.text, index.group)
    np.testing.assert_array_equal(back.labels, index.labels)
    np.testing.assert_array_equal(back.rows(Split.VALID), np.arange(20)[1::3])
    assert back.has(Modality.AUDIO).sum() == 19
    assert not back.has(Modality.IMAGE).any()
    assert back.fingerprint == index.fingerprint


def test_any_zarr_reader_opens_the_arrays(store, index):
    view = fill(store, index)
    group = zarr.open_group(store.path, mode="r")
    segment = group[f"views/{view.id}/seg/{view.entries[0].id}"]
    for n, sample in enumerate(segment["sample"][:]):
        start, length = segment["start"][n], segment["length"][n]
        np.testing.assert_array_equal(segment["data"][start : start + length], hidden(sample))
    text = bytes(group[f"index/{view.dataset}/text_bytes"][:]).decode()
    assert text == "".join(index.text)


def test_zarr_itself_would_have_written_the_same_shard(tmp_path, store, index):
    view = fill(store, index, form=Form(WIDTH, "float16", 16, 512))
    folder = store.path / "views" / view.id / "seg" / view.entries[0].id / "data"
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=zarr.open_array(folder).shape,
        dtype="float16",
        chunks=(16, WIDTH),
        shards=(512, WIDTH),
        serializer=zarr.codecs.BytesCodec(),
        compressors=zarr.codecs.Crc32cCodec(),
        config={"write_empty_chunks": True},
    )
    theirs[...] = zarr.open_array(folder)[...]
    ours = zarr.open_array(folder).metadata.to_dict()
    assert ours["codecs"] == theirs.metadata.to_dict()["codecs"]
    np.testing.assert_array_equal(zarr.open_array(folder)[...], theirs[...])


def test_equal_inputs_are_stored_once(store):
    index = make_index()
    index.digests[Modality.AUDIO][1:5] = index.digests[Modality.AUDIO][0]
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    for i in range(5):
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(0))
    store.publish("v", [writer.seal()])
    view = store.view("tiny", Modality.AUDIO)
    reader = store.reader(view)
    assert all((reader.read(i) == hidden(0)).all() for i in range(5))
    assert zarr.open_array(store.path / f"views/v/seg/{view.entries[0].id}/data").shape[0] == len(hidden(0))


def test_a_corpus_with_other_splits_borrows_the_hidden_states(store, index):
    fill(store, index)
    other = make_index(n=20)
    other.split[:] = 0
    dataset = store.add_index(other)
    assert dataset != index.fingerprint
    assert reuse.borrow(store, "v" * 16, dataset, other.digests[Modality.AUDIO], range(20)) == 19
    reader = store.reader(store.view("tiny", Modality.AUDIO))
    np.testing.assert_array_equal(reader.read(7), hidden(7))
    remove.remove(store, dataset="tiny")
    assert store.datasets == {}


def test_removing_frees_what_nothing_else_needs(store, index):
    fill(store, index)
    fill(store, make_index(name="other", seed=1), view_id="w" * 16)
    assert remove.remove(store, view="v" * 16, now=True).freed > 0
    assert [view.id for view in store.views("other")] == ["w" * 16]
    assert not (store.path / "views" / ("v" * 16)).exists()
    with pytest.raises(UnknownNameError, match="tini"):
        remove.remove(store, dataset="tini")


def test_failures_are_recorded_and_can_be_taken_back(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    writer.write(0, b"0" * 16, hidden(0))
    writer.fail(3, b"3" * 16, "decode", "zero-length audio")
    store.publish("v", [writer.seal()])
    view = store.view("tiny", Modality.AUDIO)
    assert store.reader(view).failures[3]["reason"] == "zero-length audio"
    assert remove.retract_failures(store, view) == 1
    assert store.reader(store.view("tiny", Modality.AUDIO)).failures == {}


def test_readers_keep_their_generation(store, index):
    view = fill(store, index, rows=range(5))
    pinned = FeatureStore.open(store.path)
    fill(store, index, rows=range(5, 9))
    assert pinned.reader(pinned.view("tiny", Modality.AUDIO)).length[5] == -1
    assert store.reader(store.view("tiny", Modality.AUDIO)).length[5] > 0
    assert FeatureStore.open(store.path, generation=pinned.manifest.generation).view("tiny", Modality.AUDIO) == view


def test_a_newer_format_is_refused(store):
    path = store.path / "zarr.json"
    path.write_text(path.read_text().replace('"msa_format": 1', '"msa_format": 2'))
    with pytest.raises(StoreError, match="format 2"):
        FeatureStore.open(store.path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_what_is_not_a_store_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"store"):
        FeatureStore.open(tmp_path)


def test_a_folder_with_other_things_is_not_made_a_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not a store"):
        FeatureStore.create(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "index"])
def test_damaged_shards_are_errors_never_zeros(store, index, damage):
    view = fill(store, index)
    shard = store.path / "views" / view.id / "seg" / view.entries[0].id / "data" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    if damage == "delete":
        shard.unlink()
    elif damage == "truncate":
        shard.write_bytes(data[: len(data) // 2])
    else:
        data[3 if damage == "flip" else -9] ^= 1
        shard.write_bytes(data)
    with pytest.raises(StoreError, match=str(shard.parent.parent.name)):
        store.reader(view).read(0)


def test_concurrent_publishers_lose_nothing(store):
    names = [f"corpus{i}" for i in range(8)]
    script = textwrap.dedent("""
        import sys
        from msa.cache.store import FeatureStore
        from tests.cache.conftest import make_index
        FeatureStore.open(sys.argv[1]).add_index(make_index(name=sys.argv[2]))
    """)
    runs = [subprocess.Popen([sys.executable, "-c", script, store.path, name]) for name in names]
    assert [run.wait() for run in runs] == [0] * 8
    assert sorted(FeatureStore.open(store.path).datasets) == names
    assert generations.generations(store.path) == list(range(1, 9))


KILLED = """
        import os, signal, sys
        from msa.cache.store import FeatureStore
        from msa.types import Modality
        from tests.cache.conftest import FORM, hidden, make_index
        store, index = FeatureStore.open(sys.argv[1]), make_index()
        writer = store.writer("v", sys.argv[2], FORM, {})
        for i in range(15):
            writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
        os.kill(os.getpid(), signal.SIGKILL)
    """


def test_a_killed_writer_loses_at_most_the_open_shard(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    script = textwrap.dedent(KILLED)
    assert subprocess.run([sys.executable, "-c", script, store.path, dataset]).returncode == -signal.SIGKILL
    store = FeatureStore.open(store.path)
    saved = store.recover("v")
    lost = 15 - saved
    assert lost > 0
    assert sum(len(hidden(i)) for i in range(saved, 15)) <= FORM.shard
    reader = store.reader(store.view("tiny", Modality.AUDIO))
    for i in range(saved):
        np.testing.assert_array_equal(reader.read(i), hidden(i))
    assert store.recover("v") == 0


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="a system that buries its dead at once")
def test_a_zombie_writer_is_dead(store, index):
    """In containers the first process often does not ask after orphans: their numbers stay taken."""
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), store.path, dataset])
    os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert FeatureStore.open(store.path).recover("v") > 0
    run.wait()


def test_a_living_writer_is_left_alone(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    writer.write(0, b"0" * 16, hidden(0))
    writer.flush()
    assert store.recover("v") == 0
    store.publish("v", [writer.seal()])
    assert store.view("tiny", Modality.AUDIO).samples == 1


def written_by_the_dead(writer):
    """Make a segment's journal say that its writer is no more."""
    journal = writer.folder / "journal.jsonl"
    first, _, rest = journal.read_bytes().partition(b"\n")
    header = json.loads(first)
    header["writer"]["started"] = 0.0
    journal.write_bytes(json.dumps(header).encode() + b"\n" + rest)


def started(store, index, rows):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    for i in rows:
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
    writer.flush()
    return writer


def test_two_runs_that_extracted_the_same_samples_leave_each_once(store, index):
    one, other = started(store, index, range(8)), started(FeatureStore.open(store.path), index, range(4, 12))
    store.publish("v", [one.seal()])
    FeatureStore.open(store.path).publish("v", [other.seal()])
    store = FeatureStore.open(store.path)
    assert store.view("tiny", Modality.AUDIO).samples == 12
    assert verify(store) == []
    reader = store.reader(store.view("tiny", Modality.AUDIO))
    for i in range(12):
        np.testing.assert_array_equal(reader.read(i), hidden(i))


def test_a_run_whose_samples_are_all_there_publishes_nothing(store, index):
    one, other = started(store, index, range(8)), started(FeatureStore.open(store.path), index, range(8))
    store.publish("v", [one.seal()])
    store.publish("v", [other.seal()])
    assert len(store.view("tiny", Modality.AUDIO).entries) == 1
    assert not other.folder.exists()
    assert verify(FeatureStore.open(store.path)) == []


def test_a_publisher_that_loses_a_race_leaves_out_what_the_winner_has(store, index, monkeypatch):
    mine, rival = started(store, index, range(8)), started(FeatureStore.open(store.path), index, range(4, 12))
    entry, real, calls = mine.seal(), os.link, []

    def link(source, target, **folders):
        if not calls:
            calls.append(target)
            FeatureStore.open(store.path).publish("v", [rival.seal()])
        real(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        store.publish("v", [entry])
    assert store.view("tiny", Modality.AUDIO).samples == 12
    assert verify(FeatureStore.open(store.path)) == []


def test_what_a_dead_run_published_is_not_taken_over_by_one_that_looked_earlier(store, index):
    writer = started(store, index, range(8))
    early = FeatureStore.open(store.path)
    entry = writer.seal()
    journal = (writer.folder / "journal.jsonl").read_bytes()
    store.publish("v", [entry])
    (writer.folder / "journal.jsonl").write_bytes(journal)  # killed before it could tidy up
    written_by_the_dead(writer)
    assert early.recover("v") == 0
    assert verify(FeatureStore.open(store.path)) == []


def test_a_segment_is_claimed_once(store, index):
    written_by_the_dead(started(store, index, range(8)))
    others = [FeatureStore.open(store.path) for _ in range(3)]
    assert [other.recover("v") for other in others] == [8, 0, 0]
    assert verify(FeatureStore.open(store.path)) == []


def test_a_claim_whose_claimant_died_is_claimed_again(store, index, monkeypatch):
    written_by_the_dead(started(store, index, range(8)))
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "seal", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(recovery, "whoami", lambda: {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0})
        with pytest.raises(KeyboardInterrupt):
            store.recover("v")
    assert FeatureStore.open(store.path).recover("v") == 8


def test_a_journal_without_a_first_line_stops_no_other_writer(store, index):
    writer = started(store, index, range(8))
    journal = writer.folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:15])
    os.utime(journal, (0, 0))
    assert store.recover("v") == 0
    assert not writer.folder.exists()


def test_removing_leaves_alone_what_another_run_is_writing(store, index):
    fill(store, index, view_id="v")
    living = started(store, make_index(name="other", seed=1), range(5))
    remove.remove(store, dataset="tiny")
    store.publish("v", [living.seal()])
    assert store.view("other", Modality.AUDIO).samples == 5


def test_a_view_is_named_by_its_backbone_or_by_enough_of_its_id(store, index):
    fill(store, index, view_id="abcd" * 4)
    for name in ("made.up", "abcd", "made.up@ab"):
        assert store.view("tiny", Modality.AUDIO, name).id == "abcd" * 4
    for name in ("abc", "made.up@", "other@abcd", "", "@"):
        with pytest.raises(StoreError, match="has no audio view"):
            store.view("tiny", Modality.AUDIO, name)
        with pytest.raises(UnknownNameError):
            remove.remove(store, view=name)


def test_a_writer_whose_segment_was_taken_over_says_so(store, index):
    writer = started(store, index, range(3))
    writer.folder.rename(writer.folder.with_name("taken"))
    writer.write(5, b"5" * 16, hidden(5))
    with pytest.raises(StoreError, match="taken over by another run"):
        writer.flush()


def test_a_torn_journal_line_does_not_count(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    for i in range(4):
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
        writer.flush()
    journal = writer.folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0])
    header["writer"]["pid"], header["writer"]["started"] = os.getpid(), 0.0  # a process that is no more
    journal.write_bytes(json.dumps(header).encode() + b"\n" + b"".join(lines[1:-1]) + lines[-1][:20])
    assert store.recover("v") == 3


def test_a_full_disk_leaves_no_litter_and_keeps_what_was_committed(store, index, monkeypatch):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {})
    writer.write(0, b"0" * 16, hidden(0))
    writer.flush()
    writer.write(1, b"1" * 16, hidden(1))

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            writer.flush()
    assert not list(store.path.rglob(".tmp-*"))
    writer._rows, writer._samples, writer._used = [], [], 0  # the run gives up what it could not write
    store.publish("v", [writer.seal()])
    np.testing.assert_array_equal(store.reader(store.view("tiny", Modality.AUDIO)).read(0), hidden(0))


def test_bfloat16_is_kept_as_its_bits(store, index):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, Form(WIDTH, "bfloat16", 16, 64), {})
    values = np.array([[1.0, -2.5, 0.15625, 3e38, 0, 1, 2, 3]], np.float32)
    writer.write(0, b"0" * 16, (values.view(np.uint32) >> 16).astype(np.uint16))
    store.publish("v", [writer.seal()])
    np.testing.assert_allclose(store.reader(store.view("tiny", Modality.AUDIO)).read(0), values, rtol=2**-8)


def test_axes_have_names_by_which_a_folder_of_arrays_is_one_dataset(tmp_path):
    """What xarray asks for: every array names as many axes as it has, and axes of one name are of one length."""
    from tests.cache.exchange.corpora import fill

    store = FeatureStore.create(tmp_path / "axes")
    fill(store)
    described = {path: json.loads(path.read_text())["node_type"] for path in store.path.rglob("*/zarr.json")}
    folders = {path.parent.parent for path, kind in described.items() if kind == "array"}
    assert len(folders) > 3
    for folder in folders:
        lengths = {}
        for path in folder.glob("*/zarr.json"):
            about = json.loads(path.read_text())
            assert len(about["dimension_names"]) == len(about["shape"]), path
            for name, length in zip(about["dimension_names"], about["shape"], strict=True):
                assert lengths.setdefault(name, length) == length, path
        assert "sample" in lengths


def test_the_buffer_of_a_shard_begins_small_and_holds_all_of_it(monkeypatch):
    """Its bytes are those of a buffer that had the room from the beginning."""
    grid = shards.Grid(chunk_rows=4, chunks=64, row_bytes=64)
    rows = np.arange(64 * 4 * 32, dtype=np.float16).reshape(-1, 32)

    def made(nbytes):
        monkeypatch.setattr(shards, "SMALL_BUFFER", nbytes)
        buffer = shards.Buffer(grid, np.dtype("float16"))
        held = [buffer._bytes.nbytes]
        for start in range(0, len(rows), 7):
            buffer.add(rows[start : start + 7])
            held.append(buffer._bytes.nbytes)
        return b"".join(map(bytes, buffer.finish())), held

    whole, at_once = made(2**22)
    grown, held = made(600)
    assert grown == whole
    assert len(set(at_once)) == 1
    assert (held[0], held[-1]) == (2 * 260, at_once[0])
