"""One shard file of a `data` array: whole chunks with checksums, written once, read through a memory map.

The bytes are those of Zarr v3's sharding codec with inner codecs `bytes` (little endian) and `crc32c` and the
index at the end, so any Zarr v3 reader opens them:

    chunk 0 | crc32c | chunk 1 | crc32c | ... | (offset u64, size u64) per chunk | crc32c of the index

A shard that was closed early names its missing chunks with offset = size = 2**64 - 1, as the codec says.
"""

import mmap
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import numpy as np

from msa.errors import StoreError

MISSING = np.uint64(2**64 - 1)
CRC = 4  # bytes


def encode(rows: np.ndarray, chunk_rows: int, chunks: int) -> list[bytes]:
    """The bytes of a shard of `chunks` chunks that begins with `rows` (n, D); the last one is filled up with zeros."""
    parts, entries, offset = [], np.full((chunks, 2), MISSING, "<u8"), 0
    for number, start in enumerate(range(0, len(rows), chunk_rows)):
        piece = rows[start : start + chunk_rows]
        if len(piece) < chunk_rows:
            piece = np.concatenate([piece, np.zeros((chunk_rows - len(piece), rows.shape[1]), rows.dtype)])
        data = piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes()
        parts += [data, checksum(data)]
        entries[number] = offset, len(data) + CRC
        offset += len(data) + CRC
    index = entries.tobytes()
    return [*parts, index, checksum(index)]


def checksum(data: bytes | memoryview) -> bytes:
    """crc32c, little endian, as the Zarr codec stores it."""
    return int(google_crc32c.value(bytes(data))).to_bytes(CRC, "little")


@dataclass
class Shard:
    """A shard mapped into memory; each chunk is checked the first time it is touched."""

    path: Path
    width: int
    dtype: np.dtype
    chunk_rows: int
    chunks: int
    _map: mmap.mmap | None = field(default=None, repr=False)
    _index: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    _checked: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    def read(self, start: int, length: int) -> np.ndarray:
        """Rows [start, start + length) of this shard, (length, D); a copy. Raises StoreError where bytes are wrong."""
        out = np.empty((length, self.width), self.dtype)
        done = 0
        while done < length:
            number, offset = divmod(start + done, self.chunk_rows)
            piece = self._chunk(number)[offset : offset + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
        return out

    def _chunk(self, number: int) -> np.ndarray:
        self._open()
        if not self._checked[number]:
            if self._index[number, 0] == MISSING:
                raise _damaged(self.path, f"chunk {number} was never written")
            if not self._holds(number):
                raise _damaged(self.path, f"chunk {number} does not match its checksum")
            self._checked[number] = True
        assert self._map is not None
        count, offset = self.chunk_rows * self.width, int(self._index[number, 0])
        return np.frombuffer(self._map, self.dtype, count, offset).reshape(self.chunk_rows, self.width)

    def _holds(self, number: int) -> bool:
        assert self._map is not None
        offset, size = int(self._index[number, 0]), int(self._index[number, 1])
        want = self.chunk_rows * self.width * self.dtype.itemsize + CRC
        if size != want or offset + size > len(self._map):
            return False
        view = memoryview(self._map)[offset : offset + size]
        return checksum(view[:-CRC]) == bytes(view[-CRC:])

    def _open(self) -> None:
        if self._map is not None:
            return
        try:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise _damaged(self.path, "the file is missing") from None
        except ValueError:
            raise _damaged(self.path, "the file is empty") from None
        size = self.chunks * 16
        tail = self._map[-size - CRC :]
        if len(tail) != size + CRC or checksum(tail[:-CRC]) != tail[-CRC:]:
            self._map = None
            raise _damaged(self.path, "its chunk index does not match its checksum")
        self._index = np.frombuffer(tail[:-CRC], "<u8").reshape(self.chunks, 2)
        self._checked = np.zeros(self.chunks, bool)


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"damaged store: {path}: {what}", fix="run `msa cache verify` to see which samples it concerns")
