"""Generations: small immutable JSON files that say what of a store is published.

A new generation is made by creating its numbered name, which a place grants to exactly one of several writers, whole or
not at all. The losers read the winner's generation, apply their change to that, and try again: nothing is locked and
nothing is lost. A folder does it with link(2); object stores have a conditional put (see storage/site.py).
"""

import errno
import getpass
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from msa.cache.format import layout, limits, local_files
from msa.cache.format.files import is_full, told
from msa.cache.format.manifest import Manifest
from msa.errors import StoreError
from msa.names import printable

_NAME = re.compile(r"([0-9]{8})\.json")
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


class Place(Protocol):
    """Where the generations of one store lie. `str(place)` names it in messages."""

    def numbers(self) -> list[int]:
        """The numbers of all generations, ascending."""

    def get(self, number: int) -> bytes:
        """The bytes of a generation. Raises FileNotFoundError where there is none."""

    def create(self, number: int, data: bytes) -> bool:
        """Make a generation, whole and durably, unless there is one of that number; did we?"""


@dataclass(frozen=True)
class Folder:
    """The generations of a store on a disk: `STORE/manifests/00000012.json`."""

    store: Path

    def __str__(self) -> str:
        return str(self.store)

    def numbers(self) -> list[int]:
        """The numbers of all generations, ascending; other files there are ignored."""
        names = local_files.listed(self.store, self.store / "manifests")
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def get(self, number: int) -> bytes:
        """The bytes of a generation. Raises FileNotFoundError where there is none."""
        return limits.read_bytes(self.path(number), limits.MAX_JSON)

    def create(self, number: int, data: bytes) -> bool:
        """Make a generation, whole and durably, unless there is one of that number; did we?"""
        with writable(self.store):
            local_files.make_folder(self.store, self.store / "manifests")  # which may have been taken away
        return create_durably(self.store, self.path(number), data)

    def path(self, number: int) -> Path:
        """Where a generation lies."""
        return self.store / layout.manifest_path(number)


def place(store: Path | Place) -> Place:
    """Return the place of a store that is given as a folder."""
    return Folder(store) if isinstance(store, Path) else store


def generations(store: Path | Place) -> list[int]:
    """Return the numbers of all published generations, ascending."""
    return place(store).numbers()


def read(store: Path | Place, generation: int | None = None) -> Manifest:
    """Return a generation, by default the newest. Raises StoreError where it is missing, damaged or too new."""
    where = place(store)
    known = where.numbers() if generation is None else []
    number = generation if generation is not None else max(known, default=0)
    if number == 0:
        return Manifest()
    name = f"{where}/{layout.manifest_path(number)}"
    try:
        data = where.get(number)
    except FileNotFoundError:
        if generation is None:
            raise StoreError(
                f"{name} is said to be there, and cannot be had", fix="try again; if it stays so, check the address"
            ) from None
        known = where.numbers()
        fix = f"choose one of {_listed(known)}" if known else "extract or import something first"
        raise StoreError(f"{where} has no generation {number}", fix=fix) from None
    return Manifest.decode(name, data)


def publish(store: Path | Place, change: Callable[[Manifest], Manifest], note: str = "") -> Manifest:
    """Publish what `change` makes of the newest generation as the next one, and return that; retried on conflict.

    Args:
        store: Where the generations lie.
        change: Called once or several times, each time with another generation; may raise to give up.
        note: Why, in a line, where `msa cache log` could not tell.
    """
    where, least = place(store), 0
    while True:
        # A folder on a network may be listed from memory: what refused us is there, whether it is listed or not
        number = max([least, *where.numbers()])
        new = read(where, number)
        try:
            new = change(new)
        except StoreError:
            if max([0, *where.numbers()]) > number:
                continue  # others published meanwhile: what this generation names may have been collected since
            raise
        data = stamped(new, number + 1, note).encode()
        with limits.writing(f"generation {number + 1} of {where}"):
            limits.check_size(where, data)
            written = Manifest.decode(f"{where}/{layout.manifest_path(number + 1)}", data)
        if where.create(number + 1, data):
            return written
        least = number + 1


def stamped(manifest: Manifest, number: int, note: str = "") -> Manifest:
    """Return a manifest as generation `number`, made now by this user."""
    return replace(manifest, generation=number, created=now(), creator=creator(), note=printable(note))


def now() -> str:
    """Return the time as it is noted in a store: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def create_durably(store: Path, path: Path, data: bytes) -> bool:
    """Make a file of a store that is there whole or not at all, unless others made it first; return whether we did.

    Raises StoreError where nothing can be written, or where the file system has no hard links.
    """
    with writable(path.parent):
        return local_files.create(store, path, data, lambda error: _cannot_link(path, error))


def creator() -> str:
    """Return the name of the user, for the log."""
    try:
        return printable(getpass.getuser())[:200]  # LOGNAME may be anything
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a file system that is full, read-only or not ours to write to into a StoreError with a way out."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            what, fix = told(error, path) or ("", "")
            raise StoreError(what, fix=fix) from error
        if error.errno not in _READ_ONLY:
            raise
        raise StoreError(
            f"{path} cannot be written to: {error.strerror}",
            fix="ask the owner of the store for write permission, or work on a copy; reading needs no such right",
        ) from error


def _cannot_link(path: Path, error: OSError) -> Exception:
    if error.errno not in NO_LINKS:
        return error
    return StoreError(
        f"{path} cannot be made: this file system has no hard links ({error.strerror})",
        fix="make the store on a local disk or NFS; a finished one may be copied anywhere and read there",
    )


def _listed(known: list[int]) -> str:
    return f"{known[0]} to {known[-1]}" if len(known) > 9 else ", ".join(map(str, known))
