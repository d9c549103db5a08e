"""Crash journal: a file beside the segments that lists the samples being worked on, for the run after a crash.

    views/<view>/at-work~<segment>
        {"writer": {"host", "pid", "started"}, "dataset"}
        [batches finished by now, [row, row, ...]]          a line for each batch, when it is begun

A run that finds the journal of a dead process knows which samples to suspect. Nothing is synced: what a process wrote
outlives it, and after a power cut no sample is to blame.
"""

import json
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msa.cache.format import limits, local_files
from msa.cache.write import heartbeat
from msa.cache.write.liveness import lives, whoami
from msa.errors import StoreError
from msa.extract.work.forward import device_lost

PREFIX = "at-work~"


class CrashJournal:
    """Batches that were begun and are not finished yet; they finish in the order in which they were begun."""

    def __init__(self, view: Path, segment: str, dataset: str) -> None:
        self.path = view / f"{PREFIX}{segment}"
        self._handle = local_files.opened(_store(view), self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._open: deque[set[int]] = deque()
        self._finished = 0
        self._write({"writer": whoami(), "dataset": dataset})
        heartbeat.keep(self.path, self)

    def begin(self, rows: Iterable[int]) -> None:
        """Note a batch that is begun."""
        if batch := set(rows):
            self._open.append(batch)
            self._write([self._finished, sorted(batch)])

    def finish(self, rows: Iterable[int]) -> None:
        """Note rows that were handed to the writer, as hidden states or failures. Another thread may call this."""
        done = set(rows)
        while self._open:
            self._open[0].difference_update(done)
            if self._open[0]:
                return
            self._open.popleft()
            self._finished += 1

    @classmethod
    @contextmanager
    def kept(cls, view: Path, segment: str, dataset: str) -> Iterator["CrashJournal"]:
        """Keep a journal during the block, then remove it, unless the device is lost: that ends the process soon."""
        journal = cls(view, segment, dataset)
        try:
            yield journal
        except BaseException as error:
            if not device_lost(error):
                remove(journal.path)
            raise
        else:
            remove(journal.path)
        finally:
            heartbeat.drop(journal.path)
            os.close(journal._handle)

    def _write(self, line: object) -> None:
        os.write(self._handle, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def suspects(view: Path, dataset: str) -> set[int]:
    """Return the rows of a dataset that were being worked on when their process died."""
    return {row for _, rows in _of_dead_processes(view, dataset) for row in rows}


def forget(view: Path, dataset: str, unfinished: Collection[int]) -> None:
    """Remove the journals of dead processes that list no row of `unfinished`."""
    for path, rows in _of_dead_processes(view, dataset):
        if rows.isdisjoint(unfinished):
            remove(path)


def _of_dead_processes(view: Path, dataset: str) -> Iterator[tuple[Path, set[int]]]:
    """Yield the journals whose writer is dead, and the rows that it was working on."""
    journals = [view / name for name in local_files.listed(_store(view), view) if name.startswith(PREFIX)]
    now = heartbeat.time_of(_store(view)) if journals else None
    for path in journals:
        try:
            data = limits.read_bytes(path, limits.MAX_JSON)
            head, *lines = map(json.loads, data.split(b"\n")[:-1])  # a torn last line is no batch yet
            silent_s = now - path.lstat().st_mtime if now is not None else -float("inf")
            if head["dataset"] == dataset and not lives(head["writer"], silent_s):
                finished = lines[-1][0] if lines else 0
                yield path, {int(row) for _, rows in lines[finished:] for row in rows}
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError, StoreError):
            continue  # another run removed it, it cannot be read, or no writer of ours wrote it


def remove(path: Path) -> None:
    """Remove a journal, views/<view>/at-work~<segment>, where it still exists."""
    local_files.remove(_store(path.parent), path, missing_ok=True)


def _store(view: Path) -> Path:
    return view.parents[1]
