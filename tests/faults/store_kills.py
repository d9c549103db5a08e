"""Kill writers and fill disks: is acknowledged data lost, and does a reader ever see torn data?

kills: four writers of one view at once, killed at random moments and started again, beside a reader that checks every
value and a process that compacts and collects garbage all the time. A sample is acknowledged when `flush` has returned.
full: a disk without room, again and again.
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from msa.cache.format import generations
from msa.cache.format.files import naming_a_full_disk
from msa.cache.index import Index
from msa.cache.maintain import compact, gc, history
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.errors import MsaError
from msa.types import SENTIMENT, Modality

WRITERS, PER_TRIAL, SEED = 4, 10, 0
SAMPLES, WIDTH = 20_000, 16  # more than are written before the last kill
FORM = Form(WIDTH, "float16", chunk=16, shard=256)  # small, so that a shard is closed every few samples
LIFE_S = 0.6  # of a writer, at most
PATIENCE_S = 20.0  # for what killed writers had acknowledged to be published by another writer
GRACE_S = 5.0  # of the sweeps; a reader opens a generation for a fraction of that
DISK_MB, CORPUS = 8, 2000
FULL = 28  # exit code


# kills


@dataclass
class Outcome:
    """What became of a trial: all of `lost`, `wrong`, `torn` and `problems` should be 0."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    read: int = 0
    torn: list[str] = field(default_factory=list)
    generations: int = 0
    compacted: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def row(self) -> list[int]:
        """The numbers."""
        first = [self.kills, self.acknowledged, self.lost, self.wrong, self.read, len(self.torn), self.generations]
        return [*first, self.compacted, len(self.problems)]


def kills(folder: Path, count: int, per_trial: int = PER_TRIAL) -> Outcome:
    """Views of one corpus, each written by four processes at once until so many of them were killed; then a check."""
    store, found = FeatureStore.create(folder / "store"), Outcome()
    store.add_index(made_index())
    log, chance = folder / "log", np.random.default_rng(SEED)
    reader, sweeper = start(read_on, store.path, log), start(sweep_on, store.path, log)
    while found.kills < count:
        trial(store, f"{found.kills:016x}", min(per_trial, count - found.kills), folder, chance, found)
    wait_for("read", log)
    for child in (sweeper, reader):
        end(child)
    told = [line.split(" ", 1) for line in log.read_text().splitlines()]
    found.read = sum(int(rest) for what, rest in told if what == "read")
    found.torn = [rest for what, rest in told if what == "torn"]
    found.compacted = sum(what == "compacted" for what, _ in told)
    gc.collect(FeatureStore.open(store.path), GRACE_S)
    found.generations = len(generations.generations(store.path))
    found.problems = [str(problem) for problem in verify(FeatureStore.open(store.path), deep=True)]
    return found


def trial(
    store: FeatureStore, view_id: str, count: int, folder: Path, chance: np.random.Generator, found: Outcome
) -> None:
    """Fill a view with writers that are killed one after the other, the last ones all at once."""
    store.add_view(view_id, {"modality": "text", "backbone": "made", "dim": WIDTH, "dtype": FORM.dtype})
    log = folder / f"acknowledged-{view_id}"
    log.touch()
    alive = [start(write, store.path, view_id, int(chance.integers(2**31)), log) for _ in range(WRITERS)]
    wait_for("", log)  # on a busy machine a writer may take a while to begin
    for left in range(count, 0, -1):
        if left >= len(alive):
            time.sleep(chance.uniform(0, LIFE_S))
        end(alive.pop(int(chance.integers(len(alive)))))
        if left > WRITERS:
            alive.append(start(write, store.path, view_id, int(chance.integers(2**31)), log))
    for child in alive:
        end(child)
    found.kills += count
    acknowledged = {int(word) for line in log.read_text().split("\n")[:-1] for word in line.split()}
    until, present = time.monotonic() + PATIENCE_S, set[int]()
    while acknowledged - present and time.monotonic() < until:  # the sweeper may be taking over some of it right now
        opened = FeatureStore.open(store.path)
        opened.recover(view_id)
        if view_id in opened.manifest.views:
            there = opened.reader(opened.view("made", Modality.TEXT, view_id))
            present = set(np.flatnonzero(there.length >= 0).tolist())
        time.sleep(0.05)
    found.acknowledged += len(acknowledged)
    found.lost += len(acknowledged - present)
    found.wrong += sum(not np.array_equal(there.read(row), hidden(row)) for row in present)


def write(path: Path, view_id: str, seed: int, log: Path) -> None:
    """A writer: takes over what others left, then adds samples in an order of its own, a segment after the other."""
    store, chance = FeatureStore.open(path), np.random.default_rng(seed)
    dataset, to = store.datasets["made"], os.open(log, os.O_WRONLY | os.O_APPEND)
    while True:
        store.recover(view_id)
        writer = store.writer(view_id, dataset, FORM, {"seed": seed})
        with store.writing(view_id, writer):
            begun: list[int] = []
            for row in chance.integers(0, SAMPLES // 10, 60).tolist():  # few enough that writers meet
                writer.write(row, digest(row), hidden(row)) if row not in begun else None
                begun.append(row)
                time.sleep(0.001)  # as a model would take
                if chance.random() < 0.2:
                    writer.flush()
                    os.write(to, " ".join(map(str, begun)).encode() + b"\n")


def read_on(path: Path, log: Path) -> None:
    """A reader: opens the newest generation and compares what it reads with what was written."""
    chance, to = np.random.default_rng(SEED), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            store = FeatureStore.open(path)
            done = 0
            for view in store.views("made"):
                reader = store.reader(view)
                for row in chance.permutation(np.flatnonzero(reader.length >= 0))[:50].tolist():
                    if not np.array_equal(reader.read(row), hidden(row)):
                        os.write(to, f"torn {view.id} row {row}\n".encode())
                    done += 1
            os.write(to, f"read {done}\n".encode())
        except (MsaError, OSError, ValueError, KeyError) as error:
            os.write(to, f"torn {type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
        time.sleep(0.01)


def sweep_on(path: Path, log: Path) -> None:
    """Compact and collect garbage without a pause."""
    to = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        store = FeatureStore.open(path)
        try:
            for view_id in store.manifest.views:
                for done in compact.compact(store, view_id, shard_bytes=4096):
                    os.write(to, f"compacted {done.before.segments}\n".encode())
        except MsaError as error:  # another process changed the same segments
            os.write(to, f"gave up: {error.what}".replace("\n", " ").encode() + b"\n")
        try:
            gc.collect(store, GRACE_S)
        except MsaError as error:
            os.write(to, f"torn sweep: {error.what}".replace("\n", " ").encode() + b"\n")
        time.sleep(0.2)


def wait_for(beginning: str, log: Path) -> None:
    """Until a log has a line that begins so."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and not (
        log.exists() and any(line.startswith(beginning) for line in log.read_text().splitlines())
    ):
        time.sleep(0.01)


def start(run: Callable[..., None], *given: object) -> multiprocessing.Process:
    """A process of its own, begun at once: nothing has to be imported again."""
    child = multiprocessing.get_context("fork").Process(target=run, args=given, daemon=True)
    child.start()
    return child


def end(child: multiprocessing.Process) -> None:
    """SIGKILL."""
    assert child.is_alive(), f"a process ended by itself with {child.exitcode}"
    os.kill(child.pid, signal.SIGKILL)
    child.join()


# a full disk


def full(folder: Path) -> tuple[str, dict[str, int]]:
    """Fill a small disk; how it was had, and what came of it."""
    command = [sys.executable, "-m", "tests.faults.store_kills", str(folder)]
    small = f'mount -t tmpfs -o size={DISK_MB}m tmpfs "$0" && exec "$@"'
    if shutil.which("unshare"):
        done = subprocess.run(["unshare", "-m", "sh", "-c", small, folder, *command], capture_output=True, text=True)
        if done.returncode == 0:
            return f"a tmpfs of {DISK_MB} MB", json.loads(done.stdout)
    return "pretended: no tmpfs may be mounted here, so fsync refuses at random", fill_up(folder, refused=0.1)


def fill_up(folder: Path, refused: float = 0.0) -> dict[str, int]:
    """Extract until the disk is full, free some of it, go on, until everything is there.

    `refused` is the share of all fsyncs that find no room, less with every run; 0 on a disk that is small indeed.
    """
    store, times = FeatureStore.create(folder / "store"), 0
    dataset = store.add_index(made_index(CORPUS))
    store.add_view("f" * 16, {"modality": "text", "backbone": "made", "dim": WIDTH, "dtype": FORM.dtype})
    ballast = [folder / f"ballast-{i}" for i in range(8)]
    free = 0 if refused else shutil.disk_usage(folder).free
    for path in ballast:
        path.write_bytes(b"x" * int(free * 0.115))
    while True:
        child = start(
            write_all, store.path, dataset, refused * 0.9**times, times
        )  # a run of its own: the next one takes over what it left
        child.join()
        if child.exitcode != FULL:
            break
        times += 1
        if ballast and times % 3 == 0:
            ballast.pop().unlink()
    assert child.exitcode == 0, f"a run ended with {child.exitcode}"
    store = FeatureStore.open(store.path)
    reader = store.reader(store.view("made", Modality.TEXT))
    wrong = sum(reader.length[row] < 0 or not np.array_equal(reader.read(row), hidden(row)) for row in range(CORPUS))
    litter = len(list(store.path.rglob(".tmp-*")))
    problems = len(verify(store, deep=True)) + len(history.missing_files(store.path, store.manifest))
    return {"full": times, "samples": CORPUS, "wrong": int(wrong), "litter": litter, "problems": problems}


def write_all(path: Path, dataset: str, refused: float, seed: int) -> None:
    """A run that wants everything there, and says with its exit code that the disk was full."""
    os.fsync = refusing(refused, seed)
    try:
        with naming_a_full_disk(path):
            store = FeatureStore.open(path)
            store.recover("f" * 16)
            writer = store.writer("f" * 16, dataset, FORM, {})
            with store.writing("f" * 16, writer):
                for row in missing(store):
                    writer.write(row, digest(row), hidden(row))
    except MsaError as error:
        if "full" not in error.what:
            raise
        sys.exit(FULL)


def missing(store: FeatureStore) -> list[int]:
    """Rows that the view lacks."""
    views = store.views("made")
    return np.flatnonzero(store.reader(views[0]).length < 0).tolist() if views else list(range(CORPUS))


def refusing(share: float, seed: int) -> Callable[[int], None]:
    """An fsync that finds no room for so large a share of what it is asked."""
    real, chance = os.fsync, np.random.default_rng(seed)

    def fsync(handle: int) -> None:
        if chance.random() < share:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    return fsync


# what is written


def hidden(row: int) -> np.ndarray:
    """The hidden states of a sample, known to the reader: between 1 and 60 rows."""
    length = 1 + row * 7919 % 60
    return ((np.arange(length * WIDTH) + 31 * row) % 2039).astype(np.float16).reshape(length, WIDTH)


def digest(row: int) -> bytes:
    """The digest of its input."""
    return b"%016d" % row


def made_index(n: int = SAMPLES) -> Index:
    """Return the index of n texts."""
    return Index(
        name="made",
        task=SENTIMENT,
        ids=[f"s{i:07d}" for i in range(n)],
        split=np.zeros(n, np.uint8),
        labels=np.zeros((n, 1), np.float32),
        label_names=("label",),
        group=[""] * n,
        position=np.zeros(n, np.int64),
        text=[""] * n,
        digests={Modality.TEXT: np.frombuffer(b"".join(map(digest, range(n))), np.uint8).reshape(n, 16)},
        about={},
    )


if __name__ == "__main__":  # on the small disk that `full` mounts
    print(json.dumps(fill_up(Path(sys.argv[1]))))
