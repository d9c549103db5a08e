"""The `data` array of a segment: shards of raw chunks are read by `Shard`, whatever else Zarr allows by zarr-python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import layout, limits
from msa.cache.format.shard import MISSING, Blocks, Grid, Shard
from msa.cache.format.small_arrays import BROKEN, CRC, damaged

RAW = {"name": "bytes", "configuration": {"endian": "little"}}
CHECKED = {"name": "crc32c"}
SPAN = 2**20  # rows; zarr-python counts the rows of an array through, a place knows a chunk and a row in it


class Data:
    """Rows R, width D, `dtype` as it is meant and `stored` as it lies on disk; its files are opened when needed."""

    def __init__(self, path: Path, blocks: Blocks | None = None) -> None:
        self.path = path
        meta = _metadata(path)
        self.rows, self.width = meta["shape"]
        self.dtype: str = meta["attributes"]["dtype"]
        self.stored = layout.stored(self.dtype).newbyteorder("<")
        self.file_rows = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        self.sharding = _sharding(meta)
        self._codecs = (self.sharding or meta)["codecs"]
        self.grid = _grid(meta, self.width * self.stored.itemsize)
        self._blocks = blocks
        self._files: dict[int, Shard | Archive] = {}

    def holds(self, start: np.ndarray, length: np.ndarray) -> bool:
        """Do all these samples lie inside the data, and none of them in two shards?"""
        inside = (start >= 0) & (length > 0) & (start <= self.rows - length)
        if self.grid:
            inside &= start % self.file_rows <= self.file_rows - length
        return bool(inside.all())

    def split(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(file, chunk in it, row in that) of rows of the array."""
        if self.grid is None:
            return np.zeros_like(start), *np.divmod(start, SPAN)
        file, row = np.divmod(start, self.file_rows)
        return file, *np.divmod(row, self.grid.chunk_rows)

    def check_inflated(self, path: Path) -> None:
        """Refuse a file with a chunk that unpacks to more than a chunk has: zarr-python would find memory for it."""
        about = self.sharding
        rows = about["chunk_shape"][0] if about else self.file_rows
        nbytes = rows * self.width * self.stored.itemsize
        with open(limits.open_regular(path), "rb") as file:
            for offset, size in _entries(path, about, self.file_rows):
                if size > limits.MAX_CHUNK + nbytes:
                    raise damaged(path, f"it has a chunk of {size} bytes, where {nbytes} are unpacked")
                file.seek(offset)
                if what := limits.unpacked_size_problem(self._codecs, file.read(size), nbytes):
                    raise damaged(path, what)

    def file(self, number: int) -> "Shard | Archive":
        """The shard of this number, not opened yet; one for all where zarr-python reads them."""
        key = number if self.grid else 0
        if key not in self._files:
            path = self.path / "c" / str(number) / "0"
            self._files[key] = Shard(path, self.grid, self._blocks) if self.grid else Archive(self, self._blocks)
        return self._files[key]


class Archive:
    """An array that zarr-python reads, because it is compressed, for example: correct, and many times slower."""

    view, offsets, chunk_bytes = None, memoryview(b""), 0  # as a Shard's that is not mapped

    def __init__(self, data: Data, blocks: Blocks | None) -> None:
        import zarr

        self._data = data
        self._blocks = blocks
        self._array = zarr.open_array(data.path, mode="r")
        self._missing: dict[int, np.ndarray] = {}  # file -> (chunks,) bool: which of its chunks are not there

    def open(self) -> None:
        """Nothing to map."""

    def advise_rows(self, chunk: int, row: int, length: int) -> None:
        """zarr-python reads files as they come."""

    def look(self, chunk: int, row: int, length: int) -> None:
        """Raise StoreError where a file or a chunk of a place is missing: zarr-python would give zeros."""
        start = chunk * SPAN + row
        chunk_rows, end = self._array.chunks[0], start + length
        for number in range(start // self._data.file_rows, (end - 1) // self._data.file_rows + 1):
            if number not in self._missing:
                self._missing[number] = self._chunks_missing(number)
            begin = number * self._data.file_rows
            wanted = slice(max(0, start - begin) // chunk_rows, (end - 1 - begin) // chunk_rows + 1)
            if self._missing[number][wanted].any():
                raise damaged(self._path(number), f"rows {start} to {end - 1} of the array were never written")

    def read(self, chunk: int, row: int, length: int) -> memoryview:
        """The bytes of `length` rows of a place. Raises StoreError where they are damaged."""
        start, end = chunk * SPAN + row, chunk * SPAN + row + length
        try:
            values = np.asarray(self._array[start:end])
        except BROKEN as error:
            where = self._path(start // self._data.file_rows)
            raise damaged(where, f"zarr-python cannot read rows {start} to {end - 1}: {error}") from None
        return np.ascontiguousarray(values, self._data.stored).reshape(-1).view(np.uint8).data

    def _path(self, number: int) -> Path:
        return self._data.path / self._array.metadata.encode_chunk_key((number, 0))

    def _chunks_missing(self, number: int) -> np.ndarray:
        path = self._path(number)
        if self._blocks:
            self._blocks.shard(path)
            self._blocks.bring([(path, 0, path.stat().st_size)])
        if not path.is_file():
            raise damaged(path, "the file is missing")
        missing = _missing(path, self._data.sharding, self._data.file_rows)
        self._data.check_inflated(path)
        return missing


def _metadata(path: Path) -> dict[str, Any]:
    try:
        meta = limits.read_json(path / "zarr.json")
    except FileNotFoundError:
        raise damaged(path / "zarr.json", "the file is missing") from None
    limits.check_data(path / "zarr.json", meta)
    return meta


def _missing(path: Path, sharding: Mapping[str, Any] | None, file_rows: int) -> np.ndarray:
    """(chunks,) bool: which chunks of a shard its index calls missing; of an unsharded array, none."""
    if sharding is None:
        return np.zeros(1, bool)
    return np.asarray((_index(path, sharding, file_rows) == MISSING).all(1))


def _entries(path: Path, sharding: Mapping[str, Any] | None, file_rows: int) -> list[tuple[int, int]]:
    """(offset, bytes) of every chunk that a file holds."""
    size = path.stat().st_size
    if sharding is None:
        return [(0, size)]
    entries = _index(path, sharding, file_rows).tolist()
    return [(offset, n) for offset, n in entries if offset + n <= size]  # zarr-python refuses the others


def _index(path: Path, sharding: Mapping[str, Any], file_rows: int) -> np.ndarray:
    """(chunks, 2) uint64: offset and bytes of every chunk of a shard."""
    chunks = file_rows // sharding["chunk_shape"][0]
    size = chunks * 16 + CRC * (len(sharding["index_codecs"]) - 1)
    with open(limits.open_regular(path), "rb") as file:
        if sharding.get("index_location", "end") == "end":
            file.seek(max(0, path.stat().st_size - size))
        index = file.read(size)
    if len(index) != size:
        raise damaged(path, f"it has {path.stat().st_size} bytes, less than its chunk index")
    endian = sharding["index_codecs"][0].get("configuration", {}).get("endian", "little")
    return np.frombuffer(index, ">u8" if endian == "big" else "<u8", chunks * 2).reshape(chunks, 2)


def _sharding(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the sharding codec, where an array has it."""
    codec = meta["codecs"][0]
    return codec["configuration"] if codec["name"] == "sharding_indexed" else None


def _grid(meta: Mapping[str, Any], row_bytes: int) -> Grid | None:
    """How shards are cut that we read ourselves; None for all others."""
    about, keys = _sharding(meta), meta["chunk_key_encoding"].get("configuration", {})
    chains = [RAW], [RAW, CHECKED]
    if about is None or about["codecs"] not in chains or about["index_codecs"] not in chains:
        return None
    if len(meta["codecs"]) > 1 or about.get("index_location", "end") != "end" or keys.get("separator", "/") != "/":
        return None
    chunk = about["chunk_shape"][0]
    crc, index_crc = (CRC * (len(about[key]) - 1) for key in ("codecs", "index_codecs"))
    return Grid(chunk, meta["chunk_grid"]["configuration"]["chunk_shape"][0] // chunk, row_bytes, crc, index_crc)
