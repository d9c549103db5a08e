"""HDF5 files of strangers: no link is followed, no size believed, and what was never written is not taken for zeros.

An HDF5 file may point into other files (external links, external storage, virtual datasets) and so make a reader hand
over what it never held. It also reads as zeros where a writer was killed before it came to write. It may name a filter
that the library would load as a plug-in, pack a thousand zeros into a byte, and name one long text for every row.
"""

import math
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa import regular
from msa.cache.exchange._foreign import Unreadable
from msa.cache.format import layout
from msa.errors import SourceError
from msa.names import printable

SMALL = 2 * layout.SHARD_BYTES  # bytes of what is read whole: ids, labels, the intervals of a video
NUMBERS = "biuf"  # kinds of dtype
PER_BYTE, SLACK = 100, 1 << 26  # bytes of samples, for each byte of the file, and so many more: padding packs well
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}  # built in
MOST_IN_ATTRIBUTE = 1 << 16  # values
STRINGS_AT_ONCE = 1 << 28  # bytes that strings of variable length may take together: each may be all of the file
GET_AGAIN = "get the file again, or convert it where it comes from"


def opened(path: Path) -> Any:
    """Return an h5py.File to read from, closed with its last reference. Raises SourceError."""
    os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # read when the library is loaded: no plug-in at all
    import h5py

    while h5py.h5pl.size():  # where it was loaded before: no folder to look for plug-ins in
        h5py.h5pl.remove(0)
    try:
        regular.check(path)
    except OSError as error:
        raise SourceError(f"there is no file {path}", fix="name an HDF5 file") from error
    if not h5py.is_hdf5(path):
        raise SourceError(f"{path} is no HDF5 file", fix="name the format it has: see `msa list formats`")
    with _damage(path):
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=layout.SHARD_BYTES)


def names(group: Any) -> list[str]:
    """Return what a group holds, in alphabetical order."""
    with _damage(group.file.filename):
        return sorted(group)


def child(group: Any, name: str, kind: str) -> Any:
    """Return the `Group` or `Dataset` of this name, None where there is none.

    Raises SourceError for a link, data in other files, or what is of another kind.
    """
    import h5py

    where = f"{Path(group.file.filename).name}:{group.name.rstrip('/')}/{name}"
    with _damage(group.file.filename):
        if name not in group and group.get(name, getlink=True) is None:
            return None
        link = group.get(name, getlink=True)
        if type(link) is not h5py.HardLink:
            raise SourceError(f"{where} is a {type(link).__name__}, and links are not followed", fix=GET_AGAIN)
        member = group[name]
        if not isinstance(member, getattr(h5py, kind)):
            raise SourceError(f"{where} is a {type(member).__name__}, not a {kind}", fix=GET_AGAIN)
        if kind == "Dataset" and (member.is_virtual or member.external):
            raise SourceError(f"{where} has its data in other files, which are not opened", fix=GET_AGAIN)
        return member


def whole(dataset: Any, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Return a small dataset, or rows of it.

    Raises SourceError for one that is not small, or that was never written.
    """
    where = _where(dataset)
    if dataset.size is None:
        raise SourceError(f"{where} holds nothing", fix=GET_AGAIN)
    if (size := dataset.size * dataset.dtype.itemsize) > SMALL:
        raise SourceError(f"{where} has {size / 1e6:,.1f} MB, more than {SMALL / 1e6:,.1f} are not read", fix=GET_AGAIN)
    _check_filters(dataset)
    _check_chunks(dataset)
    with _damage(dataset.file.filename):
        if _written(dataset) is not None:
            raise SourceError(f"{where} was never written: the file is not complete", fix=GET_AGAIN)
        return np.asarray(dataset[start:stop] if dataset.shape else dataset[()])


def strings(dataset: Any, start: int = 0, stop: int | None = None) -> list[str]:
    """Return a small dataset of UTF-8 strings, of fixed or variable length, or rows of it."""
    import h5py

    if dataset.dtype.kind == "O" and h5py.check_string_dtype(dataset.dtype) is None:
        raise SourceError(f"{_where(dataset)} holds {dataset.dtype}, expected strings", fix=GET_AGAIN)
    stop = (dataset.shape[0] if dataset.shape else 1) if stop is None else stop
    size = Path(dataset.file.filename).stat().st_size
    step = max(1, STRINGS_AT_ONCE // size if dataset.dtype.kind == "O" else stop - start)
    texts, left = [], 4 * size + SLACK
    try:
        for first in range(start, max(stop, start + 1), step):
            values = whole(dataset, first, min(stop, first + step)).ravel()
            texts += [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
            left -= sum(map(len, texts[first - start :]))
            if left < 0:
                raise SourceError(
                    f"{_where(dataset)} has texts that are longer than the file: one is named for many rows",
                    fix=GET_AGAIN,
                )
        return texts
    except UnicodeDecodeError as error:
        raise SourceError(f"{dataset.file.filename}:{dataset.name} is not UTF-8 ({error})", fix=GET_AGAIN) from error


def attribute(of: Any, name: str) -> Any:
    """Return an attribute as a plain value: str, number, list of these; None where there is none."""
    with _damage(of.file.filename):
        if name in of.attrs and math.prod(of.attrs.get_id(name).shape or ()) > MOST_IN_ATTRIBUTE:
            raise SourceError(f"{of.file.filename}: the attribute {name} has too many values", fix=GET_AGAIN)
        value = of.attrs.get(name)
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, list):
        return [_text(item) for item in value]
    return _text(value)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass
class Room:
    """Budget of one file: bytes that its samples may take, and bytes that may be unpacked for them."""

    path: Path
    size: int
    used: int = 0
    unpacked: int = 0
    seen: set[Hashable] = field(default_factory=set)
    last: Any = None  # the packed chunks that were unpacked last

    @classmethod
    def of(cls, path: Path) -> "Room":
        return cls(path, path.stat().st_size)

    def take(self, sample: Hashable, rows: "Rows", start: int, stop: int) -> None:
        """Count rows of a sample, once. Raises SourceError where samples take far more than the file has."""
        if sample in self.seen or stop <= start or rows.unreadable(start, stop):
            return
        self.seen.add(sample)
        self.used += (stop - start) * rows.width * 4
        blocks = (id(rows.data), start // rows.block, -(-stop // rows.block))
        if rows.packed and blocks != self.last:
            self.unpacked += (blocks[2] - blocks[1]) * rows.block * rows.width * rows.data.dtype.itemsize
            self.last = blocks
        most = PER_BYTE * self.size + SLACK
        if self.used > most or self.unpacked > 16 * most:
            what = "take" if self.used > most else "need to unpack"
            raise SourceError(
                f"{self.path}: its samples {what} {max(self.used, self.unpacked) / 1e6:,.0f} MB and more, and the file "
                f"has {self.size / 1e6:,.1f} MB; at most {PER_BYTE} times as much is read",
                fix="it is nearly all zeros, or its samples share their rows: store true lengths without padding, "
                "not packed",
            )


@dataclass(frozen=True)
class Rows:
    """A dataset (rows, D) of numbers, read a slice at a time; (rows,) is of width 1, (rows, T, D) of T * D."""

    data: Any
    width: int
    block: int  # rows
    written: frozenset[int] | None  # blocks that a writer came to; None: all
    packed: bool = False

    @classmethod
    def of(cls, data: Any, dimensions: Collection[int] = (1, 2)) -> "Rows":
        """Raises SourceError for what is no table of numbers, or cannot be read in pieces."""
        if data.dtype.kind not in NUMBERS or data.ndim not in dimensions:
            raise SourceError(
                f"{_where(data)} holds {data.dtype}{list(data.shape)}, expected numbers of shape "
                f"{'[n, T, D]' if 3 in dimensions else '[rows, D]'}",
                fix=GET_AGAIN,
            )
        _check_filters(data)
        _check_chunks(data)
        width, block = math.prod(data.shape[1:]), data.chunks[0] if data.chunks else max(1, data.shape[0])
        with _damage(data.file.filename):
            return cls(data, width, block, _written(data), data.id.get_create_plist().get_nfilters() > 0)

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows (stop - start, D). Raises Unreadable."""
        if why := self.unreadable(start, stop):
            raise Unreadable(why)
        try:
            return np.asarray(self.data[start:stop]).reshape(stop - start, self.width)
        except (
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # a checksum that does not hold, a filter that is not installed
            raise Unreadable(f"damaged: {error}") from error

    def unreadable(self, start: int, stop: int) -> str:
        """Return why these rows are not read, before memory is allocated; "" where they are."""
        if not 0 <= start <= stop <= len(self):
            return f"rows {start} to {stop} of {len(self)}"
        if (stop - start) * self.width * 4 > layout.SHARD_BYTES:  # a file may say anything
            return f"{stop - start} rows of {self.width} numbers, more than a shard holds"
        blocks = range(start // self.block, -(-stop // self.block))
        if self.written is not None and not all(block in self.written for block in blocks):
            return "rows that were never written"
        return ""


def _where(dataset: Any) -> str:
    return f"{Path(dataset.file.filename).name}:{dataset.name}"


def _check_filters(data: Any) -> None:
    """Raise SourceError for data packed by what is not built into every HDF5 library: it would load a plug-in."""
    with _damage(data.file.filename):
        about = data.id.get_create_plist()
        filters = [about.get_filter(i) for i in range(about.get_nfilters())]
    if odd := [(code, name.decode("utf-8", "replace")) for code, _, _, name in filters if code not in FILTERS]:
        raise SourceError(
            f"{_where(data)} is packed by filter {odd[0][0]} ({printable(odd[0][1])[:40]}), a plug-in; "
            f"read are {', '.join(FILTERS.values())}",
            fix="pack it with gzip where that filter is installed: h5repack -f GZIP=4 IN OUT",
        )


def _check_chunks(data: Any) -> None:
    """Raise SourceError where one row takes more memory than a shard of ours: what is packed is unpacked by the chunk.

    Zeros pack a thousandfold, so the size of the file says nothing. What is not packed is read row by row.
    """
    if data.chunks is None or not data.id.get_create_plist().get_nfilters():
        return
    if (size := math.prod(data.chunks) * data.dtype.itemsize) > layout.SHARD_BYTES:
        raise SourceError(
            f"{_where(data)} is packed in chunks {list(data.chunks)} of {size / 1e6:,.1f} MB, "
            f"more than {layout.SHARD_BYTES / 1e6:,.1f} are not unpacked at once",
            fix="pack it in smaller ones: h5repack -l CHUNK=ROWSxD, with ROWS such that a chunk is about a megabyte",
        )


def _written(data: Any) -> frozenset[int] | None:
    """Return the blocks of rows that have storage, None where all have; what has none would read as zeros.

    The blocks are rows of chunks; without chunks the whole is block 0.
    """
    if not data.size:
        return None
    if data.chunks is None:
        return None if data.id.get_storage_size() else frozenset()
    grid = [math.ceil(n / c) for n, c in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() == math.prod(grid):
        return None
    chunks_written: Counter[int] = Counter()
    data.id.chunk_iter(lambda chunk: chunks_written.update([chunk.chunk_offset[0] // data.chunks[0]]))
    return frozenset(block for block, chunks in chunks_written.items() if chunks == math.prod(grid[1:]))


@contextmanager
def _damage(path: Any) -> Iterator[None]:
    """Turn what h5py raises for a damaged file into a SourceError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: damaged or cut short ({error})", fix=GET_AGAIN) from error
