"""Arrays that stay in their file until a row of them is asked for.

A file of padded features is larger than what a laptop has in memory, and needs to be read once, sample by sample.
Rows are read into buffers of their own rather than mapped: pages of a mapping count as the process's memory, and
those of an 8 GB pickle pile up until nothing else fits.
"""

import codecs
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from msa.errors import SourceError

PIECE = 1 << 20  # bytes that are decoded at once


@dataclass(frozen=True)
class FileBytes:
    """Bytes of a file, as long as it is not changed."""

    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileBytes":
        """Raises OSError."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytearray:
        """Return `size` bytes from `offset`. Raises SourceError where the file has changed meanwhile."""
        data = bytearray(size)
        with open(self.path, "rb", buffering=0) as file, memoryview(data) as room:
            if self != FileBytes.of(self.path):
                raise self._changed()
            file.seek(offset)
            done = 0
            while done < size:  # one call of the system returns 2 GiB at most
                got = file.readinto(room[done:])
                if not got:
                    raise self._changed()
                done += got
        return data

    def _changed(self) -> SourceError:
        return SourceError(f"{self.path} was written to while it was read", fix="import it afterwards")


@dataclass(frozen=True, eq=False)
class Payload:
    """A long run of bytes of a file that were not read yet.

    `codec` says what they stand for: "" themselves, "utf-8" a text, "latin1" the bytes whose latin1 text they hold in
    UTF-8, which is how protocols 0 to 2 write bytes; of these only the whole can be had.
    """

    file: FileBytes
    offset: int
    size: int
    codec: str = ""

    def read(self, start: int = 0, size: int | None = None) -> bytearray:
        """Return the bytes meant, or `size` of them from `start`."""
        if self.codec != "latin1":
            return self.file.read(self.offset + start, self.size - start if size is None else size)
        decoder, data = codecs.getincrementaldecoder("utf-8")(), bytearray()
        for at in range(0, self.size, PIECE):  # so that text and bytes never stand whole beside each other
            piece = self.file.read(self.offset + at, min(PIECE, self.size - at))
            data += decoder.decode(piece, final=at + PIECE >= self.size).encode("latin1")
        return data if size is None and not start else data[start : None if size is None else start + size]


@dataclass(frozen=True, eq=False)
class ArrayOnFile:
    """An array of numbers over a payload.

    In C order a row is read by itself. An array in Fortran's order, with its axes exchanged, or in latin1 is read
    whole when the first row is asked for, and kept.
    """

    payload: Payload
    dtype: np.dtype
    stored: tuple[int, ...]  # shape as it lies in the file
    order: str = "C"
    axes: tuple[int, ...] | None = None  # which stored axis each axis is; None: as stored

    def __post_init__(self) -> None:
        self._check(self.payload.size if self.payload.codec != "latin1" else None)
        if self.axes is not None and sorted(self.axes) != list(range(len(self.stored))):
            raise ValueError(f"axes {self.axes} of a shape {self.stored}")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `whole()`."""
        return self.stored if self.axes is None else tuple(self.stored[axis] for axis in self.axes)

    @property
    def by_row(self) -> bool:
        """Whether `row` reads no more than the row."""
        return self.order == "C" and self.axes is None and self.payload.codec != "latin1"

    def row(self, i: int) -> np.ndarray:
        """Return row i, of shape `shape[1:]`.

        Raises IndexError, and SourceError where the file changed or is damaged.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        if not self.by_row:
            return np.asarray(self._kept[i])
        size = math.prod(self.stored[1:]) * self.dtype.itemsize
        return np.frombuffer(self.payload.read(i * size, size), self.dtype).reshape(self.stored[1:])

    def whole(self) -> np.ndarray:
        """Return the whole array, in memory."""
        try:
            data = self.payload.read()
            self._check(len(data))
        except ValueError as error:  # what is latin1 in UTF-8 shows only now whether it is whole
            raise SourceError(
                f"{self.payload.file.path}: the array at byte {self.payload.offset} is damaged: {error}",
                fix="get the file again",
            ) from error
        array = np.ndarray(self.stored, self.dtype, data, order="F" if self.order == "F" else "C")
        return array if self.axes is None else array.transpose(self.axes)

    @cached_property
    def _kept(self) -> np.ndarray:
        return self.whole()

    def _check(self, size: int | None) -> None:
        check_size(self.stored, self.dtype, size)


def check_size(shape: tuple[int, ...], dtype: np.dtype, size: int | None) -> None:
    """Raise ValueError where an array of this shape does not take `size` bytes; None stands for not known yet."""
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"an array of the shape {shape}")
    if size is not None and math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size:,} bytes for an array of {list(shape)} {dtype}")
