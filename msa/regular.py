"""Reading untrusted paths: only regular files, up to a stated size.

Reading a pipe can block for ever, a device is endless, and a sparse file claims bytes that it does not have.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from msa.errors import SourceError

SPARSE = 1 << 30  # bytes; larger files must not be nearly all holes
HOLES = 100  # a file is hollow if its size is this many times its allocated bytes


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading. Raises OSError, and SourceError if it is not a regular file or nearly all holes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check(path, os.fstat(handle))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check(path: Path, about: os.stat_result | None = None) -> os.stat_result:
    """Return the status of a file. Raises OSError, and SourceError if it is not regular or nearly all holes."""
    about = about or path.stat()
    if not stat.S_ISREG(about.st_mode):
        kind = "a directory" if stat.S_ISDIR(about.st_mode) else "a pipe, a socket or a device"
        raise SourceError(f"{path} is {kind}, not a file", fix="name a regular file")
    if is_hollow(path, about):
        raise SourceError(
            f"{path} claims {about.st_size:,} bytes, but only {about.st_blocks * 512:,} are on the disk",
            fix="get the file again",
        )
    return about


def is_hollow(path: str | Path, about: os.stat_result) -> bool:
    """Return whether a regular file with this status is nearly all holes."""
    if about.st_size <= SPARSE:
        return False
    if allocated := about.st_blocks * 512:
        return allocated < about.st_size // HOLES
    with open(path, "rb") as file:  # some file systems count no blocks: look for the first byte outside a hole
        try:
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
    return False


def read(path: Path, most: int, fix: str = "get the file again") -> bytes:
    """Return the bytes of a file. Raises OSError, and SourceError without reading a file of more than `most` bytes."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(most + 1)  # the file can grow, or not state its size
    if max(size, len(data)) > most:
        raise SourceError(f"{path} has {size:,} bytes; at most {most:,} are read", fix=fix)
    return data


def check_inside(folder: Path, path: Path) -> None:
    """Raise SourceError if links lead `path` out of `folder`, which may be a link itself."""
    if not (target := Path(os.path.realpath(path))).is_relative_to(os.path.realpath(folder)):
        raise SourceError(
            f"{path} is a link that leads out of the folder, to {target}",
            fix="copy what it points to into the folder, if you trust it",
        )
