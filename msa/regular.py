"""What users and strangers name to be read: regular files alone, up to a size that is stated.

A pipe waits for ever, a device has no end, and a sparse file says it has what it has not.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from msa.errors import SourceError

SPARSE = 1 << 30  # bytes, from which on a file must be there for the most part
HOLES = 100  # times as large as what is there


def opened(path: Path) -> IO[bytes]:
    """The file, opened to be read. Raises OSError, and SourceError for what is no regular file, or nearly all holes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check(path, os.fstat(handle))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check(path: Path, about: os.stat_result | None = None) -> os.stat_result:
    """The status of a file. Raises OSError, and SourceError for what is no regular file, or nearly all holes."""
    about = about or path.stat()
    if not stat.S_ISREG(about.st_mode):
        kind = "a directory" if stat.S_ISDIR(about.st_mode) else "a pipe, a socket or a device"
        raise SourceError(f"{path} is {kind}, not a file", fix="name a regular file")
    if is_hollow(path, about):
        raise SourceError(
            f"{path} claims {about.st_size:,} bytes, and {about.st_blocks * 512:,} are on the disk: the rest are holes",
            fix="get the file again",
        )
    return about


def is_hollow(path: str | Path, about: os.stat_result) -> bool:
    """Is a regular file of this status nearly all holes?"""
    if about.st_size <= SPARSE:
        return False
    if there := about.st_blocks * 512:
        return there < about.st_size // HOLES
    with open(path, "rb") as file:  # some file systems count no blocks, so ask for the first byte that is no hole
        try:
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
    return False


def read(path: Path, most: int, fix: str = "get the file again") -> bytes:
    """The bytes of a file of at most `most`. Raises OSError, and SourceError for another: of that nothing is read."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(most + 1)  # one that grows, or that does not say its size
    if max(size, len(data)) > most:
        raise SourceError(f"{path} has {size:,} bytes; at most {most:,} are read", fix=fix)
    return data


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a path that links lead out of `folder`, which may be a link itself. Raises SourceError."""
    if not (there := Path(os.path.realpath(path))).is_relative_to(os.path.realpath(folder)):
        raise SourceError(
            f"{path} is a link that leads out of the folder, to {there}",
            fix="copy what it points to into the folder, if you trust it",
        )
