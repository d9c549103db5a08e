"""Reading what is a regular file at all, syncing folders, and a full disk as an error with a way out.

What lies inside a store is written by inside.py.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from msa.errors import StoreError

TEMPORARY = ".tmp-"  # whatever carries this prefix was never finished and may be swept


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading, unbuffered; links are followed.

    A path may come from a table that a stranger wrote: a pipe is not waited for, and a device is not read.

    Raises:
        OSError: There is no such file, it cannot be read, or it is no regular file; `strerror` says which.
    """
    return FileIO(os.fspath(path), "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    check_regular(path, os.stat(path))  # before opening, which may already move a device
    handle = os.open(path, flags | os.O_NONBLOCK)
    try:
        check_regular(path, os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return handle


def check_regular(path: str | Path, facts: os.stat_result) -> None:
    """Raise OSError where these are not the facts of a regular file."""
    if not stat.S_ISREG(facts.st_mode):
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))


def is_full(error: OSError) -> bool:
    """Did this fail for want of space, or of quota?"""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left on device", wherever it came up, into a StoreError with a way out."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        free = shutil.disk_usage(path).free
        raise StoreError(
            f"{path}: the disk is full ({free / 1e6:.1f} MB are free)",
            fix="free some space and run the same command again: it goes on after what was committed",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make names that were just created or renamed in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below, so that a rename can publish them together."""
    for parent, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(parent))
