"""Which samples are at work, noted in a file beside the segments: whoever finds its process dead knows whom to suspect.

    views/<view>/at-work~<segment>
        {"writer": {"host", "pid", "started"}, "dataset"}
        [batches settled by now, [row, row, ...]]          a line for each batch, as it is taken up

Nothing is synced: what a process wrote outlives it, and after a power cut nobody is to blame.
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
from msa.extract.work.forward import LOST

PREFIX = "at-work~"


class Note:
    """Batches that were taken up and are not settled yet; they settle in the order in which they were taken up."""

    def __init__(self, view: Path, segment: str, dataset: str) -> None:
        self.path = view / f"{PREFIX}{segment}"
        self._handle = local_files.opened(_store(view), self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._open: deque[set[int]] = deque()
        self._settled = 0
        self._write({"writer": whoami(), "dataset": dataset})
        heartbeat.keep(self.path, self)

    def begin(self, rows: Iterable[int]) -> None:
        """A batch is taken up."""
        if batch := set(rows):
            self._open.append(batch)
            self._write([self._settled, sorted(batch)])

    def settle(self, rows: Iterable[int]) -> None:
        """Hidden states of these rows, or why there are none, are with the writer. Another thread may say so."""
        done = set(rows)
        while self._open:
            self._open[0].difference_update(done)
            if self._open[0]:
                return
            self._open.popleft()
            self._settled += 1

    @classmethod
    @contextmanager
    def kept(cls, view: Path, segment: str, dataset: str) -> Iterator["Note"]:
        """A note that is removed at the end, unless the device is lost: the process ends of it, if not at once."""
        note = cls(view, segment, dataset)
        try:
            yield note
        except BaseException as error:
            if not lost(str(error)):
                remove(note.path)
            raise
        else:
            remove(note.path)
        finally:
            heartbeat.drop(note.path)
            os.close(note._handle)

    def _write(self, line: object) -> None:
        os.write(self._handle, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def lost(error: str) -> bool:
    """Does an error tell of a device that will do nothing more for this process?"""
    return any(words in error for words in LOST)


def suspects(view: Path, dataset: str) -> set[int]:
    """Rows of a corpus that were at work when their process died."""
    return {row for _, rows in _of_the_dead(view, dataset) for row in rows}


def forget(view: Path, dataset: str, unsettled: Collection[int]) -> None:
    """Remove the notes of dead processes that tell of no row of `unsettled`."""
    for path, rows in _of_the_dead(view, dataset):
        if rows.isdisjoint(unsettled):
            remove(path)


def _of_the_dead(view: Path, dataset: str) -> Iterator[tuple[Path, set[int]]]:
    """Notes whose writer lives no more, and the rows that were at work."""
    notes = [view / name for name in local_files.listed(_store(view), view) if name.startswith(PREFIX)]
    now = heartbeat.time_of(_store(view)) if notes else None
    for path in notes:
        try:
            data = limits.read_bytes(path, limits.MAX_JSON)
            head, *lines = map(json.loads, data.split(b"\n")[:-1])  # a torn last line is no batch yet
            silent_s = now - path.lstat().st_mtime if now is not None else -float("inf")
            if head["dataset"] == dataset and not lives(head["writer"], silent_s):
                settled = lines[-1][0] if lines else 0
                yield path, {int(row) for _, rows in lines[settled:] for row in rows}
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError, StoreError):
            continue  # another run removed it, it is not ours to read, or no writer of ours wrote it


def remove(path: Path) -> None:
    """Remove a note, views/<view>/at-work~<segment>, where it is still there."""
    local_files.remove(_store(path.parent), path, missing_ok=True)


def _store(view: Path) -> Path:
    return view.parents[1]
