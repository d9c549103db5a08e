"""Writing hidden states until they would survive a power cut."""

import os
import shutil
from pathlib import Path

import numpy as np

from benchmarks.extraction.measure import Row, in_turns
from benchmarks.storage import made
from benchmarks.storage.made import Ragged
from msa.cache.write.segment import Form, SegmentWriter


def shards(folder: Path, quick: bool) -> list[Row]:
    """MB a second of samples that come one by one: checksums, SHA-256 and fsync, against a mapped file and fsync."""
    data = Ragged.of(100 if quick else 5_000, 768, 5, 64)
    digests = np.arange(2 * len(data), dtype=np.uint64).reshape(-1, 2).view(np.uint8)
    ways = {
        "ours": lambda: ours(folder / "store" / "seg" / "one", data, digests),
        "np.memmap": lambda: mapped(folder / "rows.bin", data),
        "zarr": lambda: zarr_python(folder / "rows.zarr", data),
    }
    taken = in_turns(ways, 1 if quick else 9)
    rate = {name: data.rows.nbytes / 1e6 / seconds for name, seconds in taken.items()}
    what = "write, checksums and fsync"
    return [
        Row.of_rates(what, rate["ours"], rate["np.memmap"], 0.35, "MB/s", "np.memmap and fsync"),
        Row.of_rates(what, rate["ours"], rate["zarr"], 1.5, "MB/s", "zarr-python, checksums and fsync"),
    ]


def ours(folder: Path, data: Ragged, digests: np.ndarray) -> None:
    """A segment, committed."""
    made.write(SegmentWriter(folder, "bench", Form.of(data.width, "float16"), {}), data, digests)
    shutil.rmtree(folder)


def mapped(path: Path, data: Ragged) -> None:
    """One file, written through a memory map."""
    rows = np.memmap(path, np.float16, "w+", shape=data.rows.shape)
    for i in range(len(data)):
        rows[data.start[i] : data.start[i] + data.length[i]] = data[i]
    rows.flush()
    del rows
    sync(path)
    path.unlink()


def zarr_python(path: Path, data: Ragged) -> None:
    """The same chunks and shards with the same codecs, a shard at a time."""
    import zarr

    form = Form.of(data.width, "float16")
    array = zarr.create_array(
        path,
        shape=data.rows.shape,
        chunks=(form.chunk, data.width),
        shards=(form.shard, data.width),
        dtype=np.float16,
        serializer=zarr.codecs.BytesCodec(),
        compressors=zarr.codecs.Crc32cCodec(),
        config={"write_empty_chunks": True},
    )
    for begin in range(0, len(data.rows), form.shard):
        array[begin : begin + form.shard] = data.rows[begin : begin + form.shard]
    for file in path.rglob("*"):
        if file.is_file():
            sync(file)
    shutil.rmtree(path)


def sync(path: Path) -> None:
    """fsync."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
