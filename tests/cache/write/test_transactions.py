"""Publishing while other writers publish or die, clocks are set and disks are full."""

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from msa.cache.format import generations
from msa.cache.format.manifest import DatasetEntry
from msa.cache.maintain import history, remove
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import liveness, recovery
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import fill, hidden
from tests.cache.test_store import started, written_by_the_dead
from tests.faults import store_kills


@pytest.fixture(autouse=True)
def nobody_pulls_the_plug(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Memory:
    """Generations kept in memory, as an object store would; `rivals` publish first."""

    def __init__(self, rivals=0, forgetful=False):
        self.kept, self.rivals, self.forgetful = {}, rivals, forgetful

    def __str__(self):
        return "memory"

    def numbers(self):
        return sorted(self.kept)[: -1 if self.forgetful else None]

    def get(self, number):
        if number not in self.kept:
            raise FileNotFoundError(number)
        return self.kept[number]

    def create(self, number, data):
        if self.rivals:
            self.rivals -= 1
            generations.publish(self, lambda new: new.with_dataset(f"rival{self.rivals}", CORPUS))
        return self.kept.setdefault(number, data) is data


CORPUS = DatasetEntry("x", 0, {}, published=1)


def test_any_place_that_creates_exclusively_will_do():
    place = Memory(rivals=1)
    made = generations.publish(place, lambda new: new.with_dataset("mine", CORPUS), "a note")
    assert (made.generation, sorted(made.datasets)) == (2, ["mine", "rival0"])
    assert generations.read(place) == made
    assert generations.generations(place) == [1, 2]
    assert made.note == "a note"
    assert generations.publish(place, lambda new: new).note == ""


def test_a_listing_that_lags_behind_does_not_loop_for_ever():
    """NFS lists folders from memory: what a name was refused for is read by its number."""
    place = Memory(forgetful=True)
    for name in ("a", "b", "c"):
        generations.publish(place, lambda new, name=name: new.with_dataset(name, CORPUS))
    assert sorted(place.kept) == [1, 2, 3]
    assert sorted(json.loads(place.kept[3])["datasets"]) == ["a", "b", "c"]


def test_who_met_an_old_generation_whose_files_were_swept_meanwhile_begins_again(store, index):
    """Reading a generation takes time; others may publish the next, and sweep what it no longer names."""
    tries = []

    def change(new):
        tries.append(new.generation)
        if len(tries) == 1:
            generations.publish(store.path, lambda other: other)
            raise StoreError("a table is missing", fix="none")
        return new

    before = generations.read(store.path).generation
    generations.publish(store.path, change)
    assert tries == [before, before + 1]

    def fails(new):
        raise StoreError("a table is missing", fix="none")

    with pytest.raises(StoreError, match="a table is missing"):  # it was not published: it is missing indeed
        generations.publish(store.path, fails)
    assert generations.read(store.path).generation == before + 2


@pytest.mark.parametrize("name", ["1copy.json", "00000009.json.orig", ".tmp-00000009.json", "9.json"])
def test_what_only_looks_like_a_generation_is_none(store, index, name):
    store.add_index(index)
    (store.path / "manifests" / name).write_text("{}")
    assert FeatureStore.open(store.path).manifest.generation == 1


@pytest.mark.parametrize("error", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
def test_a_link_that_was_made_and_reported_as_failed_counts(store, index, monkeypatch, error):
    real = os.link

    def link(source, target, **folders):
        real(source, target, **folders)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", link)
    store.add_index(index)
    assert generations.generations(store.path) == [1]
    assert not list(store.path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("error", "said"),
    [(errno.EPERM, "no hard links"), (errno.EOPNOTSUPP, "no hard links"), (errno.EACCES, "written to")],
)
def test_a_file_system_that_cannot_is_named(store, index, monkeypatch, error, said):
    def link(source, target, **folders):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=said):
        store.add_index(index)
    assert not list(store.path.rglob(".tmp-*"))


def test_a_corpus_that_another_process_added_is_known_to_the_one_that_adds_it_again(store, index):
    other = FeatureStore.open(store.path)
    store.add_index(index)
    other.add_index(index)
    assert other.datasets == store.datasets
    assert generations.generations(store.path) == [1]


def test_the_same_samples_left_by_two_killed_runs_are_published_once(store, index):
    for rows in (range(8), range(4, 12)):
        written_by_the_dead(started(store, index, rows))
    assert store.recover("v") == 12
    assert store.view("tiny", Modality.AUDIO).samples == 12
    assert verify(FeatureStore.open(store.path)) == []


def test_what_is_written_for_a_corpus_that_was_removed_meanwhile_is_given_up_and_said(store, index):
    writer = started(store, index, range(8))
    remove.remove(FeatureStore.open(store.path), dataset="tiny")
    with pytest.raises(StoreError, match="removed from the store while"):
        store.publish("v", [writer.seal()])
    assert not writer.folder.exists()
    assert FeatureStore.open(store.path).manifest.views == {}  # and the store can be opened


def test_what_a_dead_process_sealed_and_another_publishes_this_moment_is_left_alone(store, index, monkeypatch):
    """A driver publishes what its workers sealed, also after they have ended."""
    writer = started(store, index, range(8))
    entry = writer.seal()
    written_by_the_dead(writer)
    rival, real = FeatureStore.open(store.path), os.rename

    def rename(source, target, **folders):
        if ".claim" in Path(target).name:
            monkeypatch.setattr(os, "rename", real)
            store.publish("v", [entry])
        return real(source, target, **folders)

    monkeypatch.setattr(os, "rename", rename)
    journal = writer.folder / "journal.jsonl"
    kept = journal.read_bytes()
    assert rival.recover("v") == 0
    assert not journal.exists() or journal.read_bytes() == kept
    assert verify(FeatureStore.open(store.path)) == []
    assert FeatureStore.open(store.path).view("tiny", Modality.AUDIO).samples == 8


def test_what_zarr_left_unfinished_is_no_part_of_a_segment_that_is_taken_over(store, index):
    writer = started(store, index, range(8))
    (writer.folder / "zarr.0123.partial").write_bytes(b"{")
    (writer.folder / "data" / "c" / "0" / ".tmp-1").write_bytes(b"half")
    (writer.folder / "data" / "c" / "odd").mkdir()
    (writer.folder / "data" / "c" / "odd" / "0").write_bytes(b"?")
    written_by_the_dead(writer)
    assert store.recover("v") == 8
    (entry,) = FeatureStore.open(store.path).view("tiny", Modality.AUDIO).entries
    assert not [name for name in entry.files if "partial" in name or "tmp" in name or "odd" in name]


def test_a_segment_that_others_may_not_touch_is_left_to_its_owner(store, index, monkeypatch):
    written_by_the_dead(started(store, index, range(8)))

    def rename(source, target, **folders):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", rename)
    assert store.recover("v") == 0


def test_a_shard_whose_line_was_refused_is_no_part_of_the_segment(store, index, monkeypatch):
    index.digests[Modality.AUDIO][5] = index.digests[Modality.AUDIO][4]
    writer = started(store, index, range(3))
    journal = writer.folder / "journal.jsonl"
    before, calls = journal.read_bytes(), []

    def fsync(handle):
        calls.append(handle)
        if os.fstat(handle).st_ino == journal.stat().st_ino:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        writer.write(4, index.digests[Modality.AUDIO][4].tobytes(), hidden(4))
        with pytest.raises(OSError, match="No space"):
            writer.flush()
    assert calls
    assert journal.read_bytes() == before
    writer.write(5, index.digests[Modality.AUDIO][4].tobytes(), hidden(4))  # equal to what was not committed
    store.publish("v", [writer.seal()])
    assert verify(FeatureStore.open(store.path)) == []
    view = store.view("tiny", Modality.AUDIO)
    assert store.reader(view).read(5).tobytes() == hidden(4).tobytes()
    assert view.samples == 4


# who lives


def test_a_process_lives_while_it_runs_and_is_dead_when_its_number_is_given_away():
    me = liveness.whoami()
    assert liveness.lives(me, 0)
    assert not liveness.lives(me | {"started": me["started"] - 60}, 0)
    assert not liveness.lives(me | {"pid": 2**22 + 1}, 0)
    child = subprocess.Popen([sys.executable, "-c", ""])
    then = me | {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    child.wait()
    assert not liveness.lives(then, 0)


def test_a_clock_that_was_set_makes_no_writer_dead(monkeypatch):
    me = liveness.whoami()
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: me["booted"] + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 3600)
    assert liveness.lives(me, 0)


@pytest.mark.parametrize("elsewhere", ["another-machine", f"{socket.gethostname()}#4026539999"])
def test_who_cannot_be_seen_from_here_lives_until_it_was_silent_for_long(elsewhere):
    owner = liveness.whoami() | {"host": elsewhere, "pid": 1}
    assert liveness.lives(owner, 60)
    assert not liveness.lives(owner, 3600)


def test_who_is_hidden_from_us_is_not_taken_for_dead(monkeypatch):
    def gone(pid):
        raise psutil.NoSuchProcess(pid)

    def refuse(pid, signal):
        raise PermissionError

    me = liveness.whoami()
    monkeypatch.setattr(psutil, "Process", gone)
    monkeypatch.setattr(os, "kill", refuse)
    assert liveness.lives(me, 60)
    assert not liveness.lives(me, 3600)


def test_a_journal_with_an_impossible_writer_has_no_owner(store, index):
    writer = started(store, index, range(3))
    journal = writer.folder / "journal.jsonl"
    first, _, rest = journal.read_bytes().partition(b"\n")
    for wrong in ({}, {"host": 1, "pid": "x", "started": None}, {"host": liveness.host(), "pid": -5, "started": 0}):
        journal.write_bytes(json.dumps(json.loads(first) | {"writer": wrong}).encode() + b"\n" + rest)
        os.utime(journal, (0, 0))
        assert not recovery.alive(writer.folder, time.time())


# a disk that takes nothing


REFUSING = """
        import errno, json, os, sys
        store = os.path.realpath(sys.argv[1])

        def refuse(event, given):
            flags = given[2] if event == "open" else os.O_RDWR
            if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
                             "os.truncate", "os.utime", "os.chmod"):
                return
            inside = any(isinstance(path, (str, bytes, os.PathLike))
                         and (os.path.realpath(os.fsdecode(path)).startswith(store) or os.sep not in os.fsdecode(path))
                         for path in given[:2])  # a bare name: in an open folder of the store
            if inside and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, "Read-only file system")

        sys.addaudithook(refuse)
        from typer.testing import CliRunner
        from msa import cli
        for words in json.loads(sys.argv[2]):
            done = CliRunner().invoke(cli.app, words)
            print(json.dumps([done.exit_code, repr(done.exception)]))
    """


def test_a_store_that_cannot_be_written_to_is_read_all_the_same(store, index):
    fill(store, index)
    history.tag(store.path, "paper")
    where = ["--store", str(store.path)]
    reading = [
        ["ls", *where], ["verify", where[1]], ["log", *where], ["diff", "0", "paper", *where],
        ["tag", *where], ["gc", where[1], "--dry-run"], ["compact", *where, "--dry-run"],
    ]  # fmt: skip
    writing = [
        ["tag", "other", *where], ["rollback", "1", "--yes", *where], ["rm", "--dataset", "tiny", "--yes", *where],
        ["tag", "paper", "--delete", *where],
    ]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    words = json.dumps([["cache", *words] for words in reading + writing])
    code = textwrap.dedent(REFUSING)
    done = subprocess.run([sys.executable, "-c", code, store.path, words], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _ in found[: len(reading)]] == [0] * len(reading), found
    assert all("cannot be written to" in error for _, error in found[len(reading) :]), found[len(reading) :]
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


# everything at once


def test_killed_writers_lose_nothing_they_acknowledged_and_readers_see_nothing_torn(tmp_path, monkeypatch):
    """A quick version of `python -m benchmarks.store_faults`."""
    monkeypatch.setattr(store_kills, "LIFE_S", 0.3)
    found = store_kills.kills(tmp_path, count=6, per_trial=6)
    assert (found.kills, found.lost, found.wrong, found.torn, found.problems) == (6, 0, 0, [], [])
    assert found.acknowledged > 0
    assert found.read > 0


def test_a_full_disk_costs_nothing_that_was_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(store_kills, "CORPUS", 200)
    found = store_kills.fill_up(tmp_path, refused=0.1)
    assert found["full"] > 0
    assert (found["wrong"], found["litter"], found["problems"]) == (0, 0, 0)
