"""Small arrays of a store, read without what it costs to open them with zarr-python: `whole`, or `Lazy` in part.

They are Zarr v3 arrays of one or several chunks along the first axis, codecs `bytes` (little endian) and `crc32c`. A
chunk is a file; it is mapped into memory and checked the first time it is touched. Arrays that are anything else Zarr
allows are left to zarr-python. What `zarr.json` claims is compared with the sizes of files before memory is taken.
"""

import json
import mmap
import os
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from msa.cache.format import limits, local_files
from msa.errors import StoreError

CRC = 4  # bytes
BROKEN = (
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    OSError,
    EOFError,
    zlib.error,
)  # what codecs say of wrong bytes


def whole(path: Path) -> np.ndarray:
    """All of an array; its checksums are verified on the way. Raises StoreError where it is damaged."""
    return Lazy(path)[:]


def write(path: Path, values: np.ndarray, metadata: Mapping[str, Any], root: Path | None = None) -> None:
    """Write an array in the chunks its zarr.json names: (rows, all other axes whole), each with a crc32c.

    Args:
        path: The folder of the array, which is made.
        values: (n, ...) of a dtype of fixed width.
        metadata: Its zarr.json.
        root: The store it lies in, below which no link is followed; default: the folder `path` is made in.
    """
    root = root or path.parent
    local_files.make_folder(root, path, new=True)
    local_files.write(root, path / "zarr.json", json.dumps(metadata, indent=1).encode(), durably=False)
    rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    for number, start in enumerate(range(0, len(values), rows)):
        chunk = np.zeros((rows, *values.shape[1:]), values.dtype.newbyteorder("<"))
        piece = values[start : start + rows]
        chunk[: len(piece)] = piece
        data = chunk.tobytes()
        file = path.joinpath("c", str(number), *"0" * (values.ndim - 1))
        local_files.make_folder(root, file.parent)
        local_files.write(root, file, data, checksum(data), durably=False)


class Lazy:
    """An array of which only the chunks that are asked for are read: `len`, `shape`, `dtype`, `[rows]`, `[a:b]`.

    `attributes` are those of its zarr.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        meta = _metadata(path)
        self.attributes: dict[str, Any] = meta.get("attributes") or {}
        self._plan = _Plan.of(meta)
        self._files: dict[int, Mapped] = {}
        if self._plan is None:
            self._other = _through_zarr(path)
            self.shape, self.dtype = self._other.shape, self._other.dtype
        else:
            self.shape, self.dtype = self._plan.shape, self._plan.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """A copy of these rows. Raises IndexError outside the array and StoreError where bytes are wrong."""
        if self._plan is None:
            try:
                return np.asarray(self._other[rows])
            except BROKEN as error:
                raise damaged(self.path, f"zarr-python cannot read it: {error}") from None
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._between(start, max(start, stop))
            rows = np.arange(start, stop, step)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.path}, which has {len(self)}")
        return self._at(rows, self._plan.chunk)

    def _at(self, rows: np.ndarray, chunk: int) -> np.ndarray:
        number, within = np.divmod(rows, chunk)
        touched = np.unique(number).tolist()
        if len(touched) == 1:
            return self._chunk(touched[0])[within]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for one in touched:
            here = number == one
            out[here] = self._chunk(one)[within[here]]
        return out

    def _between(self, start: int, stop: int) -> np.ndarray:
        assert self._plan is not None
        chunk = self._plan.chunk
        numbers = range(start // chunk, -(-stop // chunk) if stop > start else start // chunk)
        for number in numbers:  # all are there, and as large as claimed, before memory is taken
            self._check_size(number)
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for number in numbers:
            a, b = max(start, number * chunk), min(stop, (number + 1) * chunk)
            out[a - start : b - start] = self._chunk(number)[a - number * chunk : b - number * chunk]
        return out

    def _chunk(self, number: int) -> np.ndarray:
        """One chunk, (rows, ...); a view of the file."""
        plan, known = self._plan, self._files.get(number)
        assert plan is not None
        if known is None:
            known = Mapped(self._path(number))
            data = np.frombuffer(known.open(), np.uint8)
            if len(data) != plan.nbytes + plan.crc:
                raise damaged(known.path, f"it has {len(data)} bytes where {plan.nbytes + plan.crc} belong")
            if plan.crc and not holds(data):
                raise damaged(known.path, "it does not match its checksum")
            self._files[number] = known
        data = np.frombuffer(known.view or known.open(), plan.dtype, plan.nbytes // plan.dtype.itemsize)
        return data.reshape(plan.chunk, *plan.shape[1:])

    def _check_size(self, number: int) -> None:
        assert self._plan is not None
        path, wanted = self._path(number), self._plan.nbytes + self._plan.crc
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise damaged(path, "the file is missing") from None
        if size != wanted:
            raise damaged(path, f"it has {size} bytes where {wanted} belong")

    def _path(self, number: int) -> Path:
        return Path(f"{self.path}/c/{number}" + "/0" * (len(self.shape) - 1))


@dataclass(frozen=True)
class _Plan:
    """What a zarr.json says, where it is simple enough."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: int  # rows
    crc: int  # bytes after each chunk

    @property
    def nbytes(self) -> int:
        """Of a chunk without its checksum."""
        return self.chunk * prod(self.shape[1:]) * self.dtype.itemsize

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "_Plan | None":
        """Return the plan of metadata that `limits.check_array` has accepted; None where zarr-python has to read it."""
        shape, chunks = tuple(meta["shape"]), tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        dtype = np.dtype(meta["data_type"])
        codecs = [codec["name"] for codec in meta["codecs"]]
        endian = meta["codecs"][0].get("configuration", {}).get("endian", "")
        plain = (
            chunks[1:] == shape[1:]
            and codecs in (["bytes"], ["bytes", "crc32c"])
            and (endian == "little" or dtype.itemsize == 1)
            and meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
        )
        return cls(shape, dtype.newbyteorder("<"), chunks[0], CRC * (len(codecs) - 1)) if plain else None


class Mapped:
    """A file mapped into memory when it is needed; of too many, the one mapped first is let go again.

    `view` is its bytes, None while it is not mapped: `mapped.view or mapped.open()`. Python keeps a file open as long
    as it is mapped, and a process may have 1,024 of them or so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = -1  # bytes, once it was open
        self.map: mmap.mmap | None = None
        self.view: memoryview | None = None

    def open(self) -> memoryview:
        """Map it.

        Raises StoreError where it is missing, empty, no regular file, longer than can be mapped, or no longer as long
        as it was.
        """
        try:
            handle = limits.open_regular(self.path)
        except FileNotFoundError:
            raise damaged(self.path, "the file is missing") from None
        try:
            made = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise damaged(self.path, "the file is empty") from None
        except OSError as error:  # more than this process may have, as a file of holes in a stranger's store easily is
            raise StoreError(
                f"{self.path} cannot be mapped into memory: {os.fstat(handle).st_size:,} bytes, {error.strerror}",
                fix="see whether `msa cache verify` knows the file by another size; if not, raise `ulimit -v`",
            ) from None
        finally:
            os.close(handle)
        if self.size not in (-1, len(made)):
            raise damaged(self.path, f"it had {self.size} bytes and now has {len(made)}")
        view = memoryview(made)
        self.map, self.view, self.size = made, view, len(made)
        _let_others_go(self)
        return view

    def let_go(self) -> None:
        """Unmap it, once no array refers to it."""
        self.map = self.view = None


def damaged(path: Path, what: str) -> StoreError:
    """The error for a file that is not what the store says."""
    return StoreError(f"damaged store: {path}: {what}", fix="run `msa cache verify` to see which samples it concerns")


def checksum(data: bytes | np.ndarray) -> bytes:
    """crc32c of contiguous bytes, little endian, as the Zarr codec stores it."""
    return int(google_crc32c.value(data)).to_bytes(CRC, "little")


def holds(data: np.ndarray) -> bool:
    """Do the last four of these bytes (uint8, contiguous) hold the crc32c of the others, little endian?"""
    return checksum(data[:-CRC]) == data[-CRC:].tobytes()


def _metadata(path: Path) -> dict[str, Any]:
    try:
        meta = limits.read_json(path / "zarr.json")
    except FileNotFoundError:
        raise damaged(path / "zarr.json", "the file is missing") from None
    limits.check_array(path / "zarr.json", meta)
    return meta


def _through_zarr(path: Path) -> Any:
    """Any other array Zarr knows. Raises StoreError where chunks are missing: zarr-python would give zeros."""
    import zarr

    try:
        array = zarr.open_array(path, mode="r")
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise damaged(path / "zarr.json", f"zarr-python cannot open it: {error}") from None
    if array.nchunks_initialized < array.nchunks:
        raise damaged(path, f"{array.nchunks - array.nchunks_initialized} of {array.nchunks} chunks are missing")
    return array


@cache
def _most_maps() -> int:
    """A quarter of the files a process may have open: there are other things to open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1024
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(max(soft // 4, 16), 4096) if soft > 0 else 4096


_maps: deque[weakref.ref[Mapped]] = deque()
_lock = threading.Lock()


def _let_others_go(new: Mapped) -> None:
    with _lock:
        _maps.append(weakref.ref(new))
        while len(_maps) > _most_maps():
            if (oldest := _maps.popleft()()) is not None:
                oldest.let_go()
