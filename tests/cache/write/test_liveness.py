"""A writer that lives is never taken for dead, whatever its machine is called and whatever any clock says."""

import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from msa import cli
from msa.cache.format import generations, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.maintain import gc as collecting
from msa.cache.maintain import remove
from msa.cache.maintain.verify import verify
from msa.cache.share import sync
from msa.cache.store import FeatureStore
from msa.cache.write import heartbeat, liveness, recovery, reuse
from msa.cache.write import publish as admission
from msa.cache.write.journal import Journal
from msa.errors import StoreError
from msa.extract.work import crash_journal
from msa.types import Modality
from tests.cache.conftest import FORM, fill, hidden
from tests.cache.test_store import started, written_by_the_dead

QUIET = liveness.SILENT_AFTER_S + 60
NEVER = float("inf")


def me(**other):
    return liveness.whoami() | other


def said_by(folder, writer, silent_s=0.0, rest=None):
    """Let a journal be of another writer, last touched so long ago by the clock of the disk."""
    journal = folder / "journal.jsonl"
    first, _, lines = journal.read_bytes().partition(b"\n")
    journal.write_bytes(json.dumps(json.loads(first) | {"writer": writer}).encode() + b"\n" + lines)
    then = journal.stat().st_mtime - silent_s
    os.utime(journal, (then, then))


# who lives


@pytest.mark.parametrize(
    "other",
    [
        {"host": "another-machine"},
        {"host": f"{socket.gethostname()}#4026539999"},  # a container of this name
        {"boot": "another"},  # another machine of this name, or this one before it was started again
        {"boot": "another", "machine": "another"},
        {"boot": "another", "pid": 2**22 + 1},
        {"boot": "another", "started": 0.0},
        {"boot": "", "pid": 2**22 + 1},  # a system that does not say: it has a heartbeat, which is waited for
        {"host": "another-machine", "beat_s": None, "boot": None},  # of a version without a heartbeat
    ],
)
def test_who_is_not_seen_to_be_dead_is_not_dead_before_the_grace_period(other):
    for silent_s in (-1200.0, 0.0, 60.0, liveness.SILENT_AFTER_S - 1, -NEVER):
        assert liveness.lives(me(**other), silent_s)
    assert not liveness.lives(me(**other), QUIET)


def test_a_process_of_this_machine_is_looked_at_and_its_silence_means_nothing():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = me(pid=child.pid, started=psutil.Process(child.pid).create_time(), booted=psutil.boot_time())
    assert liveness.dead_in(owner, QUIET) == NEVER
    child.communicate(b"\n")
    assert liveness.dead_in(owner, 0.0) == 0.0


def test_a_version_without_a_heartbeat_or_a_number_of_the_start_is_judged_by_its_process():
    old = {"host": liveness.host(), "pid": 2**22 + 1, "started": 1.0}
    assert not liveness.lives(old, 0.0)
    assert not liveness.lives(old | {"booted": 0.5}, 0.0)
    assert liveness.lives(old | {"booted": 0.5, "boot": "another"}, 60.0)


def test_a_clock_that_is_set_between_two_looks_makes_no_writer_dead(monkeypatch):
    """The start of a machine is what its clock says now, less the time it runs: it moves whenever the clock is set."""
    now = [psutil.boot_time()]

    def boot_time():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr(psutil, "boot_time", boot_time)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: process._proc.create_time(True) + boot_time())
    owner = liveness.whoami()
    assert liveness.dead_in(owner, 0.0) == NEVER


@pytest.mark.parametrize(
    ("silent_s", "running_s", "other", "left"),
    [
        (200.0, 100.0, {}, 0.0),  # last heard of before we started, and long enough ago
        (120.0, 100.0, {}, 60.0),
        (200.0, 300.0, {}, 700.0),  # heard of after we started: a copy of this machine
        (200.0, 100.0, {"machine": "another"}, 700.0),
        (200.0, 100.0, {"machine": ""}, 700.0),
        (200.0, 100.0, {"booted": None}, 700.0),  # the same start by its time, whatever its number
    ],
)
def test_a_machine_that_was_started_again_waits_less_for_its_own_dead(monkeypatch, silent_s, running_s, other, left):
    monkeypatch.setattr(liveness, "_machine", lambda: "this")
    monkeypatch.setattr(time, "clock_gettime", lambda which: running_s)
    owner = me(boot="another", machine="this", booted=psutil.boot_time() - 5000)
    owner |= {name: psutil.boot_time() if value is None else value for name, value in other.items()}
    assert liveness.dead_in(owner, silent_s) == pytest.approx(left)


@pytest.mark.parametrize("which", ["pid", "time"])
def test_a_space_of_process_numbers_or_clocks_of_its_own_is_another_host(monkeypatch, which):
    plain = liveness.host()
    real = liveness._space
    monkeypatch.setattr(liveness, "_space", lambda kind: 4026539999 if kind == which else real(kind))
    assert liveness.host() != plain
    assert liveness.dead_in({"host": plain, "pid": 2**22 + 1, "started": 0.0}, 0.0) == liveness.SILENT_AFTER_S


@pytest.mark.parametrize("value", [1e400, "x", [], {}, None, "9" * 5000])
@pytest.mark.parametrize("key", ["pid", "started", "host", "booted"])
def test_a_journal_that_says_nonsense_waits_for_the_grace_period_and_no_longer(store, index, key, value):
    writer = started(store, index, range(3))
    said_by(writer.folder, me(**{key: value, "boot": liveness.whoami()["boot"]}) | {"started": 0.0, key: value})
    now = heartbeat.time_of(store.path)
    journal = writer.folder / "journal.jsonl"
    os.utime(journal, (0, 0))
    assert not recovery.alive(writer.folder, now)


def test_a_journal_without_a_first_line_is_waited_for(store, index):
    writer = started(store, index, range(3))
    journal = writer.folder / "journal.jsonl"
    journal.write_bytes(b"")
    then = journal.stat().st_mtime - 60
    os.utime(journal, (then, then))  # a busy machine may take long
    assert recovery.alive(writer.folder, heartbeat.time_of(store.path))


def test_what_cannot_be_read_is_left_to_its_owner(store, index):
    writer = started(store, index, range(3))
    journal = writer.folder / "journal.jsonl"
    journal.unlink()
    os.mkfifo(journal)
    assert recovery.dead_in(writer.folder, heartbeat.time_of(store.path)) == NEVER


# by whose clock


@pytest.mark.parametrize("minutes", [-20, 20, 60 * 24])
def test_a_clock_that_is_wrong_makes_no_writer_dead(store, index, monkeypatch, minutes):
    writer = started(store, index, range(8))
    said_by(writer.folder, me(host="another-machine"))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60 * minutes)
    assert collecting.dead(store.path) == []
    collecting.collect(store, 0.0)
    assert store.recover("v") == 0
    store.publish("v", [writer.seal()])
    assert store.view("tiny", Modality.AUDIO).samples == 8


def test_the_clock_of_the_disk_is_that_of_its_files(store, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    path = store.path / "manifests" / "x"
    path.touch()
    assert heartbeat.time_of(store.path) == pytest.approx(path.stat().st_mtime, abs=5)
    path.unlink()
    assert not list(store.path.rglob(".tmp-*"))


def test_a_full_disk_has_a_clock_and_one_that_cannot_be_written_to_has_none(store, monkeypatch):
    real = os.open

    def refusing(number):
        def refuse(path, flags, *mode, **folder):
            if flags & os.O_CREAT:
                raise OSError(number, os.strerror(number))
            return real(path, flags, *mode, **folder)

        return refuse

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing(errno.ENOSPC))
        assert heartbeat.time_of(store.path) == pytest.approx(time.time(), abs=5)
    monkeypatch.setattr(os, "open", refusing(errno.EROFS))
    assert heartbeat.time_of(store.path) is None


def test_without_the_clock_of_the_disk_no_unseen_writer_is_dead(store, index):
    writer = started(store, index, range(8))
    said_by(writer.folder, me(host="another-machine"), QUIET)
    assert recovery.alive(writer.folder, None)
    assert not recovery.alive(writer.folder, heartbeat.time_of(store.path))


# signs of life


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setattr(heartbeat, "_heart", heartbeat._Heart())


def beaten(path, within_s=5.0):
    os.utime(path, (0, 0))
    end = time.monotonic() + within_s
    while time.monotonic() < end and path.stat().st_mtime == 0:
        time.sleep(0.01)
    return path.stat().st_mtime > 0


def test_a_writer_that_writes_nothing_is_heard_of_until_it_has_published(store, index, fast):
    writer = started(store, index, range(8))
    journal = writer.folder / "journal.jsonl"
    assert beaten(journal)
    entry = writer.seal()
    del writer
    gc.collect()
    assert beaten(journal)  # a driver may publish later what a worker has sealed
    store.publish("v", [entry])
    assert not heartbeat._heart._kept


def test_a_writer_that_was_given_up_is_heard_of_no_more(store, index, fast):
    writer = started(store, index, range(8))
    journal = writer.folder / "journal.jsonl"
    assert beaten(journal)
    del writer
    gc.collect()
    assert not beaten(journal, within_s=0.3)


def test_a_child_does_not_keep_alive_what_its_parent_works_on(tmp_path, fast):
    path = tmp_path / "x"
    path.touch()
    heartbeat.keep(path)
    child = os.fork()
    if not child:
        os._exit(len(heartbeat._heart._kept) + 2 * (heartbeat._heart._thread is not None))
    assert os.waitpid(child, 0)[1] == 0
    assert beaten(path)
    heartbeat.drop(path)


def test_beats_go_on_over_a_moment_in_which_nothing_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_heart", heartbeat._Heart())
    path = tmp_path / "x"
    heartbeat.keep(path)
    heartbeat.beat()
    path.touch()
    os.utime(path, (0, 0))
    heartbeat.beat()
    assert path.stat().st_mtime > 0
    path.unlink()
    for _ in range(heartbeat._MISSED):
        heartbeat.beat()
    assert not heartbeat._heart._kept


def test_notes_of_what_is_at_work_beat_too(tmp_path, fast):
    with crash_journal.CrashJournal.kept(tmp_path, "x", "corpus") as note:
        note.begin([1])
        assert beaten(note.path)


def test_borrowed_segments_and_compactions_beat_too(store, index, fast):
    view = fill(store, index, view_id="v")
    table = reuse.segment.table(store.path / "views" / "v" / "seg" / view.entries[0].id)
    about = SegmentAttributes(view.dataset, {})
    entry = reuse.lend(store.path / "views" / "v" / "seg", view.entries[0], table[:3], about)
    assert beaten(store.path / "views" / "v" / "seg" / entry.id / "journal.jsonl")


def test_at_work_on_another_machine_is_no_suspicion_whatever_the_clock_says(store, index, monkeypatch):
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": 8})
    folder = store.path / "views" / "v"
    note = crash_journal.CrashJournal(folder, "x", dataset)
    note.begin([3])
    lines = note.path.read_text().splitlines(keepends=True)
    lines[0] = json.dumps({"writer": me(host="another-machine"), "dataset": dataset}) + "\n"
    note.path.write_text("".join(lines))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1200)
    assert crash_journal.suspects(folder, dataset) == set()
    then = note.path.stat().st_mtime - QUIET
    os.utime(note.path, (then, then))
    assert crash_journal.suspects(folder, dataset) == {3}


# a writer that was suspended


WRITER = """
    import sys, time
    import numpy as np
    from msa.cache.store import FeatureStore
    from msa.cache.write import liveness
    from msa.cache.write.segment import Form

    exec(sys.argv[4] if len(sys.argv) > 4 else "")
    store, n = FeatureStore.open(sys.argv[1]), int(sys.argv[3])
    dataset = next(iter(store.manifest.datasets))
    digests = store.index("tiny").digests["audio"]
    writer = store.writer("v", dataset, Form(4, "float32", 16, 64), {"device": "cpu"}, flush_s=0.0)
    try:
        with store.writing("v", writer):
            for i in range(n):
                writer.write(i, digests[i].tobytes(), np.full((3, 4), i, "f4"))
                writer.flush()
                print(i, flush=True)
                time.sleep(float(sys.argv[2]))
        print("published", flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        raise SystemExit(1)
"""


def writing(store, pause_s, n, patch=""):
    code = textwrap.dedent(WRITER)
    command = [sys.executable, "-c", code, str(store.path), str(pause_s), str(n), textwrap.dedent(patch)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def begun(store, index):
    store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": 4, "dtype": "float32"})
    return store


def test_who_was_suspended_and_taken_over_wakes_up_to_a_clean_error(begun, monkeypatch):
    process = writing(begun, 0.02, 19, 'liveness.host = lambda: "another-machine"')
    acknowledged = [int(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGSTOP)
    assert begun.recover("v") == 0  # it was heard of a moment ago
    [journal] = begun.path.glob("views/v/seg/*/journal.jsonl")
    then = journal.stat().st_mtime - QUIET
    os.utime(journal, (then, then))
    committed = {row.sample for row in Journal.read(journal.parent).samples}
    assert begun.recover("v") == len(committed) >= len(acknowledged)
    process.send_signal(signal.SIGCONT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was taken over by another run" in out
    assert "Traceback" not in error
    now = FeatureStore.open(begun.path)
    assert verify(now) == []
    [entry] = now.manifest.views["v"].segments
    assert entry.samples == len(committed)
    assert [path.name for path in begun.path.glob("views/v/seg/*-*")] == [entry.id]


def test_a_line_that_comes_after_the_takeover_is_not_acknowledged(store, index, monkeypatch):
    """Suspended between opening the journal and writing to it."""
    writer = started(store, index, range(4))
    real = os.fsync

    def fsync(handle):
        real(handle)
        if Path(os.readlink(f"/proc/self/fd/{handle}")).name == "journal.jsonl":
            monkeypatch.setattr(os, "fsync", real)
            writer.folder.rename(writer.folder.with_name(".claim~x@y~1~0.0~z"))

    monkeypatch.setattr(os, "fsync", fsync)
    writer.fail(5, b"5" * 16, "decode", "for a test")
    with pytest.raises(StoreError, match="was taken over"):
        writer.flush()
    moved = writer.folder.with_name(".claim~x@y~1~0.0~z")
    assert not Journal.read(moved).failures


# claims


def claimed(store, index, monkeypatch, **other):
    """A segment whose claimant was stopped in the midst of it."""
    written_by_the_dead(started(store, index, range(8)))
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "whoami", lambda: me(**other))
        patch.setattr(recovery, "seal", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.recover("v")
    [folder] = (store.path / "views" / "v" / "seg").glob(".claim~*")
    return folder


@pytest.mark.parametrize("other", [{"boot": "another"}, {"host": "another"}, {"boot": "another", "pid": 2**22 + 1}])
@pytest.mark.parametrize("written", [True, False])
def test_a_claim_of_another_machine_of_this_name_is_respected(store, index, monkeypatch, other, written):
    folder = claimed(store, index, monkeypatch, **other)
    if not written:  # the moment between the two renames of a claim
        said_by(folder, me(started=0.0))
    assert store.recover("v") == 0
    assert folder.exists()
    os.utime(folder / "journal.jsonl", (0, 0))
    assert FeatureStore.open(store.path).recover("v") == 8
    assert verify(FeatureStore.open(store.path)) == []


@pytest.mark.parametrize("written", [True, False])
def test_a_claim_of_a_dead_process_of_this_machine_is_claimed_at_once(store, index, monkeypatch, written):
    folder = claimed(store, index, monkeypatch, pid=2**22 + 1)
    if not written:
        said_by(folder, me())
    assert store.recover("v") == 8


def test_a_claim_dates_from_the_claim(store, index, monkeypatch):
    """What it claims was silent for long, which says nothing of the claimant."""
    writer = started(store, index, range(8))
    said_by(writer.folder, me(host="another-machine"), QUIET)
    seen = []

    def discard(store, folder):
        seen.append(recovery.alive(folder, heartbeat.time_of(store)))
        said_by(folder, me(host="a-third-machine"))
        seen.append(recovery.alive(folder, heartbeat.time_of(store)))

    monkeypatch.setattr(recovery, "_discard_uncommitted", discard)
    assert store.recover("v") == 8
    assert seen == [True, True]


def test_a_claimant_that_was_suspended_for_too_long_gives_way(store, index, monkeypatch):
    written_by_the_dead(started(store, index, range(8)))

    def discard(store, folder):
        folder.rename(folder.with_name(f"{recovery.CLAIM}~faster@x~1~0.0~{folder.name.rpartition('~')[2]}"))

    monkeypatch.setattr(recovery, "_discard_uncommitted", discard)
    assert store.recover("v") == 0


# a sweep beside a living writer: what once looked like a live writer taken for dead


def test_removing_the_last_corpus_of_a_view_takes_nothing_from_who_begins_to_write_to_it(store, index, monkeypatch):
    """The view used to be renamed with all that was in it, and to be put back; a writer met that moment."""
    fill(store, index, view_id="v")
    other = FeatureStore.open(store.path)
    dataset = other.add_index(replace(index, name="other"))
    real, begun = collecting._needed, []

    def needed(*args, **kwargs):  # read when all that goes has been taken away
        if not begun:
            other.add_view("v", {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "float16"})
            begun.append(other.writer("v", dataset, FORM, {}))
        begun[0].write(len(begun), index.digests[Modality.AUDIO][len(begun)].tobytes(), hidden(len(begun)))
        begun[0].flush()
        begun.append(None)
        return real(*args, **kwargs)

    monkeypatch.setattr(collecting, "_needed", needed)
    remove.remove(store, dataset="tiny", now=True)
    monkeypatch.undo()
    assert len(begun) > 2
    other.publish("v", [begun[0].seal()])
    assert verify(FeatureStore.open(store.path)) == []
    assert FeatureStore.open(store.path).view("other", Modality.AUDIO).samples == len(begun) - 1


@pytest.mark.parametrize("moment", range(6))
def test_whenever_another_writer_begins_it_is_whole_or_is_refused(store, index, monkeypatch, moment):
    """Another writer begins right before each change a sweep makes to the folders of a view."""
    fill(store, index, view_id="v")
    other = FeatureStore.open(store.path)
    dataset = other.add_index(replace(index, name="other"))
    about = {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "float16"}
    calls, begun = [], []

    def before(real):
        def call(root, path, *args, **kwargs):
            if "/views/v" in str(path) and not begun:
                calls.append(path)
                if len(calls) == moment + 1:
                    begun.append(None)
                    other.add_view("v", about)
                    begun[0] = other.writer("v", dataset, FORM, {})
            return real(root, path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("remove", "remove_empty", "rename"):
            patch.setattr(local_files, name, before(getattr(local_files, name)))
        remove.remove(store, dataset="tiny", now=True)
    begun[0].write(1, index.digests[Modality.AUDIO][1].tobytes(), hidden(1))
    other.publish("v", [begun[0].seal()])
    assert FeatureStore.open(store.path).view("other", Modality.AUDIO).samples == 1
    assert verify(FeatureStore.open(store.path)) == []


def test_a_view_that_goes_between_its_provenance_and_the_first_segment_is_an_error_of_one_sentence(store, index):
    dataset = store.add_index(index)
    with pytest.raises(StoreError, match="was removed from the store"):
        store.writer("v", dataset, FORM, {})
    assert not (store.path / "views" / "v").exists()


def test_a_corpus_that_is_swept_while_it_is_published_is_written_again(store, index, monkeypatch):
    store.add_index(index)
    rival = FeatureStore.open(store.path)
    real, swept = generations.publish, []

    def publish(*args, **kwargs):
        if not swept:
            swept.append(True)
            monkeypatch.setattr(generations, "publish", real)
            remove.remove(FeatureStore.open(store.path), dataset="tiny", now=True)
        return real(*args, **kwargs)

    monkeypatch.setattr(admission, "BACK_AFTER_S", 0.1)
    monkeypatch.setattr(generations, "publish", publish)
    rival.add_index(index)
    assert swept
    assert verify(FeatureStore.open(store.path)) == []
    assert FeatureStore.open(store.path).index("tiny").ids == index.ids


# everything at once

GC = """
    import sys, time
    from msa.cache.maintain import gc
    from msa.cache.store import FeatureStore
    from msa.cache.write import liveness

    exec(sys.argv[3])
    end, n = time.monotonic() + float(sys.argv[2]), 0
    while time.monotonic() < end:
        gc.collect(FeatureStore.open(sys.argv[1]), 0.0)
        n += 1
        time.sleep(0.05)
    print(n)
"""


def test_two_machines_of_one_name_with_clocks_apart_write_while_it_is_swept(begun):
    """Each has a boot id of its own, the clocks are 20 minutes apart, and both are swept all the time."""
    twin = """
        import time
        real = time.time
        time.time = lambda: real() + {skew}
        liveness._boot = lambda: "{boot}"
        liveness._machine = lambda: "a clone"
    """
    begin = [
        writing(begun, 0.05, 19, twin.format(skew=0, boot="a")),
        writing(begun, 0.05, 19, twin.format(skew=-1200, boot="b")),
    ]
    patches = [twin.format(skew=1200, boot="c"), twin.format(skew=-1200, boot="a")]
    sweeps = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(GC), str(begun.path), "2.0", textwrap.dedent(patch)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for patch in patches
    ]
    ends = [process.communicate(timeout=120) for process in [*begin, *sweeps]]
    assert all("published" in out for out, _ in ends[:2]), ends
    assert all(int(out) > 1 for out, _ in ends[2:]), ends
    now = FeatureStore.open(begun.path)
    assert verify(now) == []
    assert now.view("tiny", Modality.AUDIO).samples == 19


def test_a_segment_that_is_removed_while_it_is_borrowed_from_is_done_without(store, index, monkeypatch):
    fill(store, index, view_id="v")
    other = FeatureStore.open(store.path)
    dataset = other.add_index(replace(index, name="other"))
    real, removed = reuse.segment.table, []

    def table(folder):
        if not removed:
            removed.append(folder)
            remove.remove(store, dataset="tiny", now=True)
        return real(folder)

    monkeypatch.setattr(reuse.segment, "table", table)
    assert reuse.borrow(other, "v", dataset, index.digests[Modality.AUDIO], range(19)) == 0
    assert removed
    assert verify(FeatureStore.open(store.path)) == []


def test_a_segment_that_is_missing_and_was_not_removed_is_an_error(store, index):
    view = fill(store, index, view_id="v")
    dataset = store.add_index(replace(index, name="other"))
    (store.path / "views" / "v" / "seg" / view.entries[0].id / "zarr.json").unlink()
    with pytest.raises((StoreError, FileNotFoundError)):
        reuse.borrow(store, "v", dataset, index.digests[Modality.AUDIO], range(19))
    assert len(list((store.path / "views" / "v" / "seg").glob("2*"))) == 1


def test_a_corpus_that_is_removed_while_it_is_added_is_an_error_of_one_sentence(store, index):
    before = store.add_index(index)
    now = FeatureStore.open(store.path)
    remove.remove(store, dataset="tiny")
    now.manifest = generations.read(store.path)
    with pytest.raises(StoreError, match="was removed from the store"):
        reuse.carry_over(now, index, before)


def test_what_a_pull_has_brought_is_not_swept_while_the_rest_is_under_way(store, index, tmp_path, monkeypatch):
    """A transfer may take hours; nothing names what has arrived."""
    fill(store, index, view_id="v")
    target, real, seen = tmp_path / "target", sync._publish, []

    def publish(parcel, site):
        for path in target.rglob("*"):
            os.utime(path, (0, 0))
        heartbeat.beat()
        seen.append(collecting.make_plan(target, 0.0).garbage)
        return real(parcel, site)

    monkeypatch.setattr(heartbeat, "_heart", heartbeat._Heart())
    monkeypatch.setattr(sync, "_publish", publish)
    sync.pull(str(store.path), target, sync.Selection(splits=("train",)))
    assert seen == [()]
    assert not heartbeat._heart._kept
    assert verify(FeatureStore.open(target)) == []


def test_a_beat_follows_no_link_below_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_heart", heartbeat._Heart())
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "views").symlink_to(outside)
    os.utime(outside / "x", (0, 0))
    with heartbeat.kept(tmp_path / "store", tmp_path / "store" / "views" / "x"):
        heartbeat.beat()
    assert (outside / "x").stat().st_mtime == 0


@pytest.mark.parametrize(
    ("silent_s", "other", "minutes"),
    [
        (10.0, {"host": "node-7"}, None),  # it beats
        (300.0, {"host": "node-7"}, 10),
        (300.0, {"boot": "another"}, 10),
        (300.0, {}, None),  # it runs here, and is slow
        (QUIET, {"host": "node-7"}, None),  # it is dead: taken over, not waited for
    ],
)
def test_writers_that_may_be_dead_are_named_and_when_their_work_is_taken_over(store, index, silent_s, other, minutes):
    writer = started(store, index, range(8))
    said_by(writer.folder, me(**other), silent_s)
    found = recovery.silent(store.path)
    assert recovery.silent(store.path, "another") == []
    if minutes is None:
        assert found == []
    else:
        [line] = found
        assert f"in {minutes} min" in line
        assert "the 8 samples" in line
        done = CliRunner().invoke(cli.app, ["cache", "gc", str(store.path), "--dry-run"])
        assert "has been silent lately" in " ".join(done.output.split())


def test_a_corpus_that_is_swept_while_it_is_hashed_is_written_again(store, index, monkeypatch):
    store.add_index(index)
    rival, real, swept = FeatureStore.open(store.path), reuse.segment.files, []

    def files(*args, **kwargs):
        if not swept:
            swept.append(True)
            remove.remove(FeatureStore.open(store.path), dataset="tiny", now=True)
        found = real(*args, **kwargs)
        if not found:
            raise FileNotFoundError
        return found

    monkeypatch.setattr(reuse.segment, "files", files)
    rival.add_index(index)
    assert swept
    assert verify(FeatureStore.open(store.path)) == []
    assert FeatureStore.open(store.path).index("tiny").ids == index.ids


def test_a_corpus_that_cannot_be_read_back_is_an_error_and_no_endless_loop(store, index, monkeypatch):
    def files(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(reuse.segment, "files", files)
    with pytest.raises(FileNotFoundError):
        store.add_index(index)
