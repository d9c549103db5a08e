"""Locations of the hidden states of each sample of a view, looked up and checked when a sample is first read.

Opening a view reads nothing. The first batch looks its samples up in the sorted tables of the segments, brings and
checks the chunks they lie in, and remembers the locations; from the second time on a batch costs one look into a table.
"""

import mmap
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.manifest import Files, SegmentEntry
from msa.cache.format.shard import Blocks, Shard
from msa.cache.format.small_arrays import Lazy, damaged
from msa.cache.format.zarr_array import Archive, Data
from msa.errors import StoreError

FEW = 8  # segments that are searched one after the other; of more, or of unsorted ones, a table of all samples is made
UNKNOWN, ABSENT = 0, -1  # in place of a file


class SampleLocations:
    """The locations of n samples: rows (file, chunk, row, length) of int32.

    `file` is a position in `files`, from 1 on; `chunk` the first chunk of the sample there, `row` its first in that.
    """

    def __init__(
        self,
        folder: Path,
        entries: Sequence[SegmentEntry],
        samples: int,
        form: tuple[int, str | None],
        blocks: Blocks | None,
    ) -> None:
        self.samples = samples
        self.files: list[Any] = [None]  # of Shard and Archive
        self._numbers: dict[Shard | Archive, int] = {}
        self._width, self._dtype = form
        self._blocks = blocks
        opened: dict[Path, Data] = {}  # segments that borrow share data
        self._segments = [_Segment(folder, entry, samples, blocks, opened) for entry in entries]
        self._table = _zeros(samples + 1)
        self._table[-1, 0] = ABSENT
        self._lock = threading.Lock()

    @cached_property
    def dtype(self) -> str:
        """`float16`, `float32` or `bfloat16`."""
        return self._dtype or self._segments[0].data.dtype

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the locations (B, 4) int32 of rows (B,) int64; their chunks are on this disk and were checked.

        Raises IndexError for rows beyond the samples, StoreError where a table, a shard or a chunk is damaged.
        """
        if len(rows) and (rows.min() < -1 or rows.max() >= self.samples):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.samples} samples; -1 stands for none")
        locations = self._table.take(rows, axis=0)
        if np.count_nonzero(locations[:, 0]) < len(rows):
            with self._lock:
                self._prepare(np.unique(rows[locations[:, 0] == UNKNOWN]))
            locations = self._table.take(rows, axis=0)
        return locations

    def one(self, row: int) -> list[int]:
        """Return the location of one sample."""
        if not 0 <= row < self.samples or not self._table[row, 0]:
            return list(self.of(np.array([row]))[0].tolist())
        return list(self._table[row].tolist())

    @cached_property
    def length(self) -> np.ndarray:
        """(n,) int32: rows T of each sample, -1 where the view has none."""
        length = np.full(self.samples, -1, np.int32)
        for segment in self._segments:
            length[segment.samples] = segment.lengths
        return length

    def failures(self) -> dict[int, dict[str, Any]]:
        """Row -> record of each failure that was not retracted."""
        return {failure["sample"]: failure for segment in self._segments for failure in segment.failures()}

    def _prepare(self, rows: np.ndarray) -> None:
        owner, position = self._find(rows)
        locations = np.zeros((len(rows), 4), np.int32)
        locations[:, 0] = ABSENT
        for number in np.unique(owner[owner >= 0]).tolist():
            here = owner == number
            locations[here] = self._locate(self._segments[number], position[here])
        self._touch(locations[locations[:, 0] != ABSENT])
        self._table[rows, 1:] = locations[:, 1:]
        self._table[rows, 0] = locations[:, 0]  # last: other threads take a row for whole once it has a file

    def _find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the segment of each sample, -1 for none, and its position in the tables."""
        if len(self._segments) > FEW or not all(segment.is_sorted for segment in self._segments):
            owner, position = self._whereabouts
            return owner[rows] - 1, position[rows]
        owner, position = np.full(len(rows), -1), np.zeros(len(rows), np.int64)
        for number, segment in enumerate(self._segments):
            at = segment.find(rows)
            owner[at >= 0], position[at >= 0] = number, at[at >= 0]
        return owner, position

    @cached_property
    def _whereabouts(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int32 each: segment of a sample, from 1 on, 0 for none; position in its tables."""
        owner, position = np.zeros(self.samples, np.int32), np.zeros(self.samples, np.int32)
        for number, segment in enumerate(self._segments, 1):
            samples = segment.samples
            owner[samples], position[samples] = number, np.arange(len(samples), dtype=np.int32)
        return owner, position

    def _locate(self, segment: "_Segment", position: np.ndarray) -> np.ndarray:
        start, length = segment.where(position)
        data = segment.data
        if (data.width, data.dtype) != (self._width, self.dtype):
            raise damaged(
                data.path, f"it has {data.dtype} of width {data.width}, its view {self.dtype} of width {self._width}"
            )
        file, chunk, row = data.split(start)
        files, which = np.unique(file, return_inverse=True)
        numbers = np.array([self._number(data.file(one)) for one in files.tolist()])
        return np.stack([numbers[which], chunk, row, length], axis=1)

    def _number(self, file: Shard | Archive) -> int:
        if file not in self._numbers:
            self._numbers[file] = len(self.files)
            self.files.append(file)
        return self._numbers[file]

    def _touch(self, locations: np.ndarray) -> None:
        """Check the chunks of these locations that were not checked yet, after asking for all of them at once."""
        touched = []
        for number in np.unique(locations[:, 0]).tolist():
            if isinstance(shard := self.files[number], Shard):
                _, chunk, row, length = locations[locations[:, 0] == number].T
                chunks = _ranges(chunk, chunk + (row + length - 1) // shard.grid.chunk_rows)
                touched.append((shard, shard.untouched(chunks)))
            else:
                for _, *location in locations[locations[:, 0] == number].tolist():
                    self.files[number].look(*location)
        if self._blocks:
            self._blocks.bring([(shard.path, *span) for shard, chunks in touched for span in shard.spans(chunks)])
        for shard, chunks in touched:
            for span in shard.spans(chunks):
                shard.advise(*span)
        for shard, chunks in touched:
            shard.check(chunks)


def _zeros(rows: int) -> np.ndarray:
    """(rows, 4) int32 whose pages take memory when they are written to, not before.

    numpy asks the system for pages of 2 MB, each of which is cleared as a whole for the first sample in it.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros((rows, 4), np.int32)
    pages = mmap.mmap(-1, rows * 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.int32).reshape(rows, 4)


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the concatenated ranges `first[i]` to `last[i]`, both included."""
    count = last - first + 1
    return np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())


class _Segment:
    """The tables of one segment with m samples, read on access."""

    def __init__(
        self, folder: Path, entry: SegmentEntry, of: int, blocks: Blocks | None, opened: dict[Path, Data]
    ) -> None:
        self._home = folder / entry.id
        self._owner = folder / entry.data_id
        self._entry = entry
        self._of = of  # n samples of the dataset
        self._blocks = blocks
        self._opened = opened

    @property
    def is_sorted(self) -> bool:
        """Whether its tables are in the order of the samples."""
        return self._sample.attributes.get("sorted") is True

    @property
    def samples(self) -> np.ndarray:
        """(m,) int64 row numbers in the index. Raises StoreError where the dataset has no such row."""
        samples = self._sample[:]
        if len(samples) and not 0 <= int(samples.min()) <= int(samples.max()) < self._of:
            raise self._outside()
        return samples

    @property
    def lengths(self) -> np.ndarray:
        """(m,) int32, more than 0 and no more than there are rows."""
        lengths = self._length[:]
        if len(lengths) and not 0 < int(lengths.min()) <= int(lengths.max()) <= self.data.rows:
            raise self._outside()
        return lengths

    @cached_property
    def data(self) -> Data:
        """Its hidden states, or those of the segment it borrows from."""
        path = self._owner / "data"
        if path not in self._opened:
            self._bring(self._owner, self._entry.data, "data/zarr.json")
            self._opened[path] = Data(path, self._blocks)
        return self._opened[path]

    def find(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions (k,) of these samples in sorted tables, -1 for those that are not in this segment.

        Where no sample is missing, the position follows from the row number; otherwise it is off by at most the
        number of missing samples. Only that range is searched, so a large table is read in part.
        """
        position = np.full(len(rows), -1)
        if not len(self._sample):
            return position
        first, last = self._ends
        inside = np.flatnonzero((rows >= first) & (rows <= last))
        wanted = rows[inside]
        low, high = (
            np.maximum(wanted - last + len(self._sample) - 1, 0),
            np.minimum(wanted - first, len(self._sample) - 1),
        )
        while (between := low < high).any():
            middle = (low + high) // 2
            less = self._sample[middle] < wanted
            low, high = np.where(between & less, middle + 1, low), np.where(between & ~less, middle, high)
        hit = (low == high) & (self._sample[low] == wanted)
        position[inside[hit]] = low[hit]
        return position

    def where(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `start` and `length` (k,) int64 at these positions. Raises StoreError for places outside the data."""
        start, length = self._start[position].astype(np.int64), self._length[position].astype(np.int64)
        if not self.data.holds(start, length):
            raise self._outside()
        return start, length

    def failures(self) -> list[dict[str, Any]]:
        """Return its failure records; none where they were retracted."""
        if not self._entry.failed:
            return []
        self._bring(self._home, self._entry.files, "zarr.json")
        return list(SegmentAttributes.read(self._home / "zarr.json", self._of).failures)

    @cached_property
    def _sample(self) -> Lazy:
        self._bring(self._home, self._entry.files, "sample/", "start/", "length/")
        return self._table("sample")

    @cached_property
    def _start(self) -> Lazy:
        return self._table("start", len(self._sample))

    @cached_property
    def _length(self) -> Lazy:
        return self._table("length", len(self._sample))

    @cached_property
    def _ends(self) -> tuple[int, int]:
        first, last = self._sample[np.array([0, len(self._sample) - 1])].tolist()
        return first, last

    def _table(self, name: str, m: int | None = None) -> Lazy:
        table = Lazy(self._home / name)
        if len(table.shape) != 1 or table.dtype.kind != "i" or m not in (None, len(table)):
            raise StoreError(
                f"damaged store: {table.path} is {table.dtype}{list(table.shape)}, expected whole numbers "
                f"of {'all' if m is None else m} samples",
                fix="run `msa cache verify`",
            )
        return table

    def _bring(self, folder: Path, files: Files, *names: str) -> None:
        if self._blocks:
            self._blocks.files(folder, {name: facts for name, facts in files.items() if name.startswith(names)})

    def _outside(self) -> StoreError:
        return StoreError(f"damaged store: {self._home} points outside its data", fix="run `msa cache verify`")
