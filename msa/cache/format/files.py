"""Reading what is a regular file at all, syncing folders, and a full disk as an error with a way out.

What lies inside a store is written by local_files.py.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from msa import regular
from msa.errors import StoreError
from msa.names import printable

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
    """Raise OSError where these are not the facts of a regular file, or of one that is nearly all holes."""
    if not stat.S_ISREG(facts.st_mode):
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))
    if regular.is_hollow(path, facts):
        there = f"claims {facts.st_size:,} bytes, and {facts.st_blocks * 512:,} are on the disk"
        raise OSError(errno.EINVAL, there, os.fspath(path))


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
        what, fix = told(error, path) or ("", "")
        raise StoreError(what, fix=fix) from error


def told(error: OSError, path: Path | None = None) -> tuple[str, str] | None:
    """What happened and the way out, where a disk is full, is not ours to write to, or fails; None of other errors.

    `path` is where the work was done, if it is known better than the error knows it.
    """
    where = path or (Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None)
    name = printable(str(where)) if where else "a file"
    if error.errno == errno.EDQUOT:
        return f"{name}: your quota on this disk is used up", f"{_ROOM}, or ask for a larger quota"
    if error.errno == errno.ENOSPC:
        return f"{name}: the disk is full ({_free(where)})", f"{_ROOM}; `msa cache gc` frees what no generation needs"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{name}: {error.strerror}",
            "name a place that is yours to read and write, or ask whoever owns this one for the right",
        )
    if error.errno in (errno.EIO, errno.ESTALE):
        return f"{name}: {error.strerror}", "the disk or the network fails: see the system's log, then run it again"
    return None


_ROOM = "free some space and run the same command again: it goes on after what was committed"


def _free(where: Path | None) -> str:
    """How much room there is around a path that may not exist, in words."""
    for folder in (where, *where.parents) if where else ():
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        if found.f_files and not found.f_favail:
            return "there may be no more files on it"
        return f"{found.f_bavail * found.f_frsize / 1e6:.1f} MB are free"
    return "which one, the system does not say"


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
