"""Heartbeat: a thread touches what this process works on every half minute, dated by the clock of the disk.

Another machine cannot see our process, and its clock need not agree with ours. It compares two dates of the disk
alone: when a file was touched last, and when a file that it makes itself was made (`time_of`).

It is a thread since a forward pass may take longer than any grace period. It stops with the process: one that was
killed or suspended is silent.
"""

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from msa.cache.format import local_files
from msa.cache.format.files import TEMPORARY, is_full
from msa.errors import StoreError

BEAT_S = 30.0
_MISSED = 3  # beats in a row that found nothing: the file or folder is gone for good


@dataclass
class _Kept:
    """Path to touch while its owner exists; `missed` counts beats in a row without such a path."""

    owner: "weakref.ref[object] | None"
    store: Path | None = None  # that it lies in: no link below it is followed
    awaited: bool = False  # it may still have to be made
    missed: int = 0


class _Heart:
    """Paths that this process keeps alive, and the thread that touches them; it ends where there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Path, _Kept] = {}
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()

    def keep(self, paths: Iterable[Path], about: Callable[[], _Kept]) -> None:
        with self._lock:
            self._kept |= {path: about() for path in paths}
            if self._kept and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="msa-heartbeat", daemon=True)
                self._thread.start()

    def drop(self, path: Path) -> None:
        with self._lock:
            self._kept.pop(path, None)
            if not self._kept:
                self._changed.set()  # the thread may end

    def beat(self) -> None:
        """Touch everything that is kept, once."""
        with self._lock:
            kept = list(self._kept.items())
        for path, about in kept:
            if about.owner is not None and about.owner() is None:
                about.missed = _MISSED
            else:
                about.missed = 0 if _touched(path, about.store) or about.awaited else about.missed + 1
        with self._lock:
            for path, about in kept:
                if about.missed >= _MISSED and self._kept.get(path) is about:
                    del self._kept[path]

    def _run(self) -> None:
        while True:
            self._changed.wait(BEAT_S)
            with self._lock:
                self._changed.clear()
                if not self._kept:
                    self._thread = None
                    return
            self.beat()


def _touched(path: Path, store: Path | None) -> bool:
    """Touch a file or folder, by the clock of the disk; return whether there is one."""
    try:
        local_files.touch(store or path.parent, path)
    except (FileNotFoundError, NotADirectoryError, StoreError):
        return False
    except OSError:
        pass  # a network that is down now may be back at the next beat
    return True


_heart = _Heart()


def _born() -> None:
    """Reset the heartbeat of a forked child: it has no thread, and must not keep alive what its parent works on."""
    global _heart
    _heart = _Heart()


os.register_at_fork(after_in_child=_born)


def keep(path: Path, owner: object | None = None) -> None:
    """Touch a file or folder from now on, until `drop`, or until it or the `owner` is gone, or the process ends."""
    _heart.keep([path], lambda: _Kept(weakref.ref(owner) if owner is not None else None))


def drop(path: Path) -> None:
    """Stop touching a file or folder."""
    _heart.drop(path)


def beat() -> None:
    """Touch all that is kept now, without waiting for the next beat."""
    _heart.beat()


@contextmanager
def kept(store: Path, *paths: Path) -> Iterator[None]:
    """Touch files or folders of a store, made already or later, while the block runs."""
    _heart.keep(paths, lambda: _Kept(None, store, awaited=True))
    try:
        yield
    finally:
        for path in paths:
            drop(path)


def time_of(store: Path) -> float | None:
    """Return the time in seconds by the clock of the disk of a store; None where nothing can be written to it.

    On a network it is the clock of another machine, and it alone dates the files of all writers alike.
    """
    folder = store / "manifests"
    probe = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        os.close(local_files.opened(store, probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        return probe.lstat().st_mtime
    except OSError as error:
        return _touched_at(store, folder) if is_full(error) else None
    finally:
        with suppress(OSError):
            local_files.remove(store, probe)


def _touched_at(store: Path, folder: Path) -> float | None:
    """Return the time by the clock of a disk that has no room for a file."""
    try:
        local_files.touch(store, folder)
        return folder.lstat().st_mtime
    except OSError:
        return None
