"""Random batches, gathered and padded: from a warm page cache, and from the disk."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.extraction.measure import Row
from benchmarks.storage import made
from benchmarks.storage.made import Batch, Ragged
from msa.cache.read.view import ViewReader
from msa.errors import MsaError

SLOW = (
    "zarr-python, slices",
)  # as many milliseconds as others take microseconds: a sixteenth of the batches is enough


def warm(folder: Path, quick: bool) -> list[Row]:
    """Samples per CPU second once every chunk was touched, against np.memmap, the practical limit, and h5py's best."""
    data = Ragged.of(*(200, 768) if quick else (4_000, 768), 5, 64)
    stored, view = made.store(folder / "store", data)
    reader, raw = stored.reader(view), made.without_checksums(stored, view)
    ways: dict[str, Batch] = {
        "np.memmap": made.memmap(made.flat(folder, data), data),
        "msa": reader.gather,
        "msa, no checksums": raw.gather,
        "h5py, contiguous": made.sliced(made.hdf5(folder, data, None), data),
        "h5py, chunks": made.sliced(made.hdf5(folder, data, made.chunk_rows(768)), data),
        "zarr-python, slices": made.zarr_python(stored, view, data),
        "padded pickle": made.unpickled(made.pickled(folder, data)),
    }
    rows = []
    for size in (16, 64):
        same(ways, data, size)
        rates = run_all(ways, data, size, 3 if quick else 60)
        best = max((name for name in rates if name.startswith("h5py")), key=lambda name: median(rates[name]))
        what = f"warm, batches of {size}"
        least = 0.85 if size == 16 else 0.95
        rows += [
            against(what, rates, "msa", "np.memmap", least),
            against(what, rates, "msa", best, 2),
            against(f"{what}, no checksums", rates, "msa, no checksums", "np.memmap", 0.95),
            *(
                against(what, rates, "msa", name)
                for name in rates
                if name not in ("np.memmap", best) and not name.startswith("msa")
            ),
        ]
    return rows


def cold(folder: Path, quick: bool) -> list[Row]:
    """Samples a second of batches of 16 whose pages are not in memory."""
    data = Ragged.of(*(400, 768) if quick else (8_000, 768), 5, 64)
    stored, view = made.store(folder / "store", data)
    raw, flat = made.without_checksums(stored, view), made.flat(folder, data)
    h5 = {None: made.hdf5(folder, data, None), made.chunk_rows(768): made.hdf5(folder, data, made.chunk_rows(768))}
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    known = {"msa, once checked": stored.reader(view), "msa, no checksums": raw}
    for reader in known.values():
        reader.gather(np.arange(len(data)))
    ways = {
        **{name: lambda reader=reader: forgetting(reader) for name, reader in known.items()},
        "msa, first touch": lambda: stored.reader(view).gather,
        "preadv": lambda: made.preadv(flat, data),
        "np.memmap": lambda: made.memmap(flat, data),
        "h5py, contiguous": lambda: made.sliced(h5[None], data),
        "h5py, chunks": lambda: made.sliced(h5[made.chunk_rows(768)], data),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    chance, out = np.random.default_rng(1), np.zeros((16, data.longest, data.width), np.float16)
    for _ in range(2 if quick else 15):
        wanted = chance.integers(0, len(data), (5, 16))
        for name in chance.permutation(list(ways)):
            batch = ways[name]()
            evict(files)
            began = time.perf_counter()
            for rows in wanted:
                batch(rows, out)
            rates[name].append(wanted.size / (time.perf_counter() - began))
            del batch
    best = max((name for name in rates if name.startswith("h5py")), key=lambda name: median(rates[name]))
    what = "cold, batches of 16"
    return [
        against(what, rates, "msa, once checked", best, 3),
        against(what, rates, "msa, once checked", "preadv", 1),
        against(f"{what}, no checksums", rates, "msa, no checksums", "preadv", 1),
        *(against(f"{what}, first touch", rates, "msa, first touch", name) for name in ("preadv", best, "np.memmap")),
    ]


def run_all(ways: Mapping[str, Batch], data: Ragged, size: int, rounds: int) -> dict[str, list[float]]:
    """Samples per second of CPU time of each way in every round; all gather the same batches, in a drawn order."""
    chance, out = np.random.default_rng(size), np.zeros((size, data.longest, data.width), np.float16)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        wanted = chance.integers(0, len(data), (960 // size, size))
        for name in chance.permutation(list(ways)):
            mine, batch = wanted[: len(wanted) // 15] if name in SLOW else wanted, ways[name]
            began = time.process_time()
            for rows in mine:
                batch(rows, out)
            rates[name].append(mine.size / (time.process_time() - began))
    return rates


def same(ways: Mapping[str, Batch], data: Ragged, size: int) -> None:
    """All samples once, which warms the cache and checks every chunk: each way gives the same batches."""
    order = np.random.default_rng(0).permutation(len(data))
    out = np.empty((size, data.longest, data.width), np.float16)
    for rows in np.array_split(order, -(-len(order) // size)):
        for name, batch in ways.items():
            out[...] = 1
            batch(rows, out)
            for i, row in enumerate(rows):
                n = data.length[row]
                longest = data.length[rows].max()
                assert (out[i, :n] == data[row]).all() and not out[i, n:longest].any(), name


def against(what: str, rates: Mapping[str, list[float]], ours: str, other: str, least: float | None = None) -> Row:
    """Medians, and the median of the ratios of each round: both had the same machine a moment apart."""
    ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[other], strict=True))
    told = f"{median(rates[ours]):,.0f} samples/s", f"{median(rates[other]):,.0f} samples/s, {other}", f"{ratio:.2f}"
    return Row(what, *told, f">= {least:g}", ratio >= least) if least is not None else Row(what, *told)


def median(rates: list[float]) -> float:
    """Of the rounds."""
    return statistics.median(rates)


def forgetting(reader: ViewReader) -> Batch:
    """A reader that has checked its chunks, and whose pages other programs have pushed out of memory since."""
    for shard in reader._locations.files[1:]:
        shard.let_go()  # mapped pages are not evicted
    return reader.gather


def evict(files: list[Path]) -> None:
    """Make the system forget the pages of these files; they may not be mapped."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def flips(folder: Path, quick: bool) -> list[Row]:
    """Bits flipped in the hidden states on disk, one at a time: how often does reading all samples notice?"""
    import h5py

    data = Ragged.of(50 if quick else 500, 768, 5, 64)
    stored, view = made.store(folder / "store", data)
    (shard,) = (stored.path / "views" / view.id / "seg").glob("*/data/c/0/0")
    other = made.hdf5(folder, data, None)
    with h5py.File(other) as file:
        begin = file["rows"].id.get_offset()
    chance, tries, ours, theirs = np.random.default_rng(0), 5 if quick else 25, 0, 0
    for offset in chance.integers(0, data.rows.nbytes * 9 // 10, tries).tolist():
        ours += notices(shard, offset, lambda: stored.reader(view).gather(np.arange(len(data))))
        theirs += notices(other, begin + offset, lambda: h5py.File(other)["rows"][:])
    return [Row("bit flips noticed", f"{ours} of {tries}", f"{theirs} of {tries}, h5py", "", "all", ours == tries)]


def notices(path: Path, offset: int, read: Callable[[], object]) -> bool:
    """Does reading raise an error while one bit of this byte is wrong?"""
    with open(path, "r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ 16]), offset)
        try:
            read()
        except (MsaError, OSError):
            return True
        finally:
            os.pwrite(file.fileno(), bytes([byte]), offset)
    return False
