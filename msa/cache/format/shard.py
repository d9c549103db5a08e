"""One shard file of a `data` array: whole chunks with checksums, written once, read through a memory map.

The bytes are those of Zarr v3's sharding codec with inner codecs `bytes` (little endian) and `crc32c` and the
index at the end, so any Zarr v3 reader opens them:

    chunk 0 | crc32c | chunk 1 | crc32c | ... | (offset u64, size u64) per chunk | crc32c of the index

A shard that was closed early names its missing chunks with offset = size = 2**64 - 1, as the codec says. Shards without
the checksums of chunks (`bytes` alone) are read too.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from msa.cache.format.manifest import Files
from msa.cache.format.small_arrays import CRC, Mapped, checksum, damaged, holds

MISSING = np.uint64(2**64 - 1)
WILLNEED = getattr(mmap, "MADV_WILLNEED", None)  # Windows has none


class Blocks(Protocol):
    """Where the files of a store come from that lies somewhere else; each call returns when they are there."""

    def files(self, folder: Path, files: Files) -> None:
        """Bring these small files of a segment."""

    def shard(self, path: Path) -> None:
        """Make the file of a shard, as long as it is and with its index, but without its chunks."""

    def bring(self, wanted: Sequence[tuple[Path, int, int]]) -> None:
        """Bring these parts of shards: (path, offset, bytes)."""


@dataclass(frozen=True)
class Grid:
    """How the shards of an array are cut."""

    chunk_rows: int
    chunks: int  # of one shard
    row_bytes: int
    crc: int = CRC  # bytes after each chunk; 0: none
    index_crc: int = CRC

    @property
    def chunk_bytes(self) -> int:
        """Without the checksum."""
        return self.chunk_rows * self.row_bytes


class Shard(Mapped):
    """A shard mapped into memory. Chunks are checked before they are read for the first time."""

    def __init__(self, path: Path, grid: Grid, blocks: Blocks | None = None) -> None:
        super().__init__(path)
        self.grid = grid
        self.chunk_bytes = grid.chunk_bytes  # what lies without a gap
        self.offsets: memoryview = memoryview(b"")  # of each chunk, in bytes; after `open`
        self._blocks = blocks
        self._index = np.empty((0, 2), np.int64)
        self._checked = np.zeros(grid.chunks, bool)

    def open(self) -> memoryview:
        """Map it; the first time, read its index. Raises StoreError where the file is missing or the index damaged."""
        if self._blocks and not len(self._index):
            self._blocks.shard(self.path)
        view = super().open()
        if not len(self._index):
            size = self.grid.chunks * 16
            tail = np.frombuffer(view, np.uint8)[-size - self.grid.index_crc :]
            if len(tail) != size + self.grid.index_crc or (self.grid.index_crc and not holds(tail)):
                raise damaged(self.path, "its chunk index does not match its checksum")
            self._index = tail[:size].copy().view("<i8").reshape(-1, 2)
            self.offsets = np.ascontiguousarray(self._index[:, 0]).data
            there = np.flatnonzero(self._index[:, 0] != -1)
            if not self.grid.crc and (self._index[there, 0] == there * self.chunk_bytes).all():
                self.chunk_bytes *= self.grid.chunks  # nothing between them: to a reader it is one
        return view

    @property
    def written(self) -> np.ndarray:
        """(chunks,) bool: chunks that the index of the shard does not call missing."""
        if not len(self._index):
            self.open()
        return np.asarray(self._index[:, 0] != -1)

    def rows(self, low: int, high: int) -> bytes:
        """Return the bytes of rows [low, high) of the shard, whose chunks were checked; `low` begins a chunk."""
        view, size = self.view or self.open(), self.grid.chunk_bytes
        begins = self.offsets[low // self.grid.chunk_rows : -(-high // self.grid.chunk_rows)]
        return b"".join(view[begin : begin + size] for begin in begins)[: (high - low) * self.grid.row_bytes]

    def untouched(self, chunks: np.ndarray) -> np.ndarray:
        """Those of these chunks that were never checked, ascending. Raises StoreError where one was never written."""
        new = np.unique(chunks[~self._checked[chunks]])
        if len(new) and self.view is None:
            self.open()
        offset, size = self._index[new].T
        want, length = self.grid.chunk_bytes + self.grid.crc, self.size - self.grid.chunks * 16 - self.grid.index_crc
        if (missing := offset == -1).any():
            raise damaged(self.path, f"chunk {new[missing][0]} was never written")
        if (wrong := (size != want) | (offset < 0) | (offset > length - want)).any():
            raise damaged(self.path, f"chunk {new[wrong][0]} lies outside the file or has a wrong size")
        return new

    def spans(self, chunks: np.ndarray) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of these chunks in the file, neighbours together."""
        want = self.grid.chunk_bytes + self.grid.crc
        offset = np.sort(self._index[chunks, 0])
        for run in np.split(offset, np.flatnonzero(np.diff(offset) != want) + 1):
            if len(run):
                yield int(run[0]), int(run[-1]) + want - int(run[0])

    def advise(self, offset: int, size: int) -> None:
        """Say that these bytes will be needed; they are read while others are being asked for."""
        if self.map is not None and WILLNEED is not None:
            begin = offset - offset % mmap.PAGESIZE
            self.map.madvise(WILLNEED, begin, offset + size - begin)

    def advise_rows(self, chunk: int, row: int, length: int) -> None:
        """The same of a sample: `length` rows from row `row` of a chunk on."""
        grid, last = self.grid, chunk + (row + length - 1) // self.grid.chunk_rows
        if self.view is None:
            self.open()
        begin = self.offsets[chunk] + row * grid.row_bytes
        end = self.offsets[last] + ((row + length - 1) % grid.chunk_rows + 1) * grid.row_bytes
        if begin < end <= begin + length * grid.row_bytes + (last - chunk) * grid.crc:  # chunks in their usual order
            self.advise(begin, end - begin)

    def check(self, chunks: np.ndarray) -> None:
        """Compare chunks with their checksums. Raises StoreError where one does not match."""
        if self.grid.crc:
            data, want = np.frombuffer(self.view or self.open(), np.uint8), self.grid.chunk_bytes + self.grid.crc
            for number in chunks.tolist():
                begin = self.offsets[number]
                if not holds(data[begin : begin + want]):
                    raise damaged(self.path, f"chunk {number} does not match its checksum")
        self._checked[chunks] = True


SMALL_BUFFER = 2**22  # bytes of a new buffer, which doubles until it holds a shard


class Buffer:
    """A shard while it is filled: rows are put where they will lie in the file, and checksums behind whole chunks."""

    def __init__(self, grid: Grid, dtype: np.dtype) -> None:
        self.used = 0  # rows
        self._grid, self._dtype = grid, dtype
        self._bytes, self._rows = np.empty(0, np.uint8), np.empty((0, 0, 0), dtype)
        self._grow(SMALL_BUFFER // (grid.chunk_bytes + CRC))

    def _grow(self, chunks: int) -> None:
        """Make room for so many chunks, at least one and at most the shard's: a few rows shall not cost a whole shard,
        since even memory that is not written to counts where the address space is limited."""
        grid, stride = self._grid, self._grid.chunk_bytes + CRC
        larger = np.empty(min(max(chunks, 1), grid.chunks) * stride, np.uint8)
        larger[: len(self._bytes)] = self._bytes
        width = grid.row_bytes // self._dtype.itemsize
        self._bytes = larger
        self._rows = np.ndarray(
            (len(larger) // stride, grid.chunk_rows, width),
            self._dtype,
            larger,
            0,
            (stride, grid.row_bytes, self._dtype.itemsize),
        )

    def add(self, rows: np.ndarray) -> None:
        """Put rows (T, D) behind those that are there; they fit."""
        done = 0
        while done < len(rows):
            chunk, row = divmod(self.used, self._grid.chunk_rows)
            if chunk == len(self._rows):
                self._grow(2 * chunk)
            n = min(len(rows) - done, self._grid.chunk_rows - row)
            self._rows[chunk, row : row + n] = rows[done : done + n]
            self.used, done = self.used + n, done + n
            if row + n == self._grid.chunk_rows:
                self._close(chunk)

    def finish(self) -> list[memoryview | bytes]:
        """The bytes of the file, valid until rows are added again: this shard is over, the next one begins."""
        full, row = divmod(self.used, self._grid.chunk_rows)
        if row:
            self._rows[full, row:] = 0
            self._close(full)
        chunks, size = full + (row > 0), self._grid.chunk_bytes + CRC
        entries = np.full((self._grid.chunks, 2), MISSING, "<u8")
        entries[:chunks, 0], entries[:chunks, 1] = np.arange(chunks) * size, size
        self.used = 0
        index = entries.tobytes()
        return [self._bytes.data[: chunks * size], index + checksum(index)]

    def _close(self, chunk: int) -> None:
        begin = chunk * (self._grid.chunk_bytes + CRC)
        end = begin + self._grid.chunk_bytes
        self._bytes[end : end + CRC] = np.frombuffer(checksum(self._bytes[begin:end]), np.uint8)
