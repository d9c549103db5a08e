"""Reading random batches from a warm store: msa's reader, np.memmap, and h5py with and without chunks."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msa.cache.index import Index
from msa.cache.segment import Form
from msa.cache.store import FeatureStore
from msa.types import SENTIMENT, Modality

SAMPLES, WIDTH, SEED = 2_000, 768, 0
LONGEST = 64  # rows of a sample: 5 to 64, as texts have
BATCHES, ROUNDS = (16, 64), 15
PER_ROUND = 640  # samples each reader reads before the next takes its turn

Read = Callable[[int], np.ndarray]


def main() -> None:
    """Write the same rows in every layout, let the readers take turns, print medians and ratios."""
    chance = np.random.default_rng(SEED)
    length = chance.integers(5, LONGEST + 1, SAMPLES)
    start = np.cumsum([0, *length[:-1]])
    rows = chance.standard_normal((int(length.sum()), WIDTH), np.float32).astype(np.float16)
    print(f"{SAMPLES} samples of 5 to {LONGEST} x {WIDTH} float16, {rows.nbytes / 1e6:.0f} MB, page cache warm")
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        readers = {
            "np.memmap": memmap(Path(folder), rows, start, length),
            "msa store": store(Path(folder), rows, start, length),
            "h5py contiguous": hdf5(Path(folder), rows, start, length, None),
            "h5py 64-row chunks": hdf5(Path(folder), rows, start, length, (64, WIDTH)),
        }
        for read in readers.values():  # all pages and all checksums once
            for i in range(SAMPLES):
                assert np.array_equal(read(i), rows[start[i] : start[i] + length[i]])
        for batch in BATCHES:
            show(batch, race(readers, batch, length, chance))


def race(readers: dict[str, Read], batch: int, length: np.ndarray, chance: np.random.Generator) -> dict[str, float]:
    """Median samples per second of each reader, gathering padded batches; a new order of readers each round."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    padded = np.zeros((batch, LONGEST, WIDTH), np.float16)
    for _ in range(ROUNDS):
        wanted = chance.integers(0, SAMPLES, (PER_ROUND // batch, batch))
        for name in chance.permutation(list(readers)):
            began = time.perf_counter()
            for rows in wanted:
                for i, row in enumerate(rows):
                    padded[i, : length[row]] = readers[name](row)
            rates[name].append(wanted.size / (time.perf_counter() - began))
    return {name: float(np.median(found)) for name, found in rates.items()}


def show(batch: int, rates: dict[str, float]) -> None:
    """One line per reader, beside np.memmap, which is the practical limit."""
    print(f"\nrandom batches of {batch}{'samples/s':>24}{'x np.memmap':>14}")
    for name, rate in rates.items():
        print(f"{name:<30}{rate:>12,.0f}{rate / rates['np.memmap']:>14.2f}")


def memmap(folder: Path, rows: np.ndarray, start: np.ndarray, length: np.ndarray) -> Read:
    """One flat file, seen as an array."""
    rows.tofile(folder / "rows.bin")
    mapped = np.asarray(np.memmap(folder / "rows.bin", np.float16, "r", shape=rows.shape))
    return lambda i: mapped[start[i] : start[i] + length[i]]


def hdf5(folder: Path, rows: np.ndarray, start: np.ndarray, length: np.ndarray, chunks: tuple[int, int] | None) -> Read:
    """One HDF5 dataset, read by slices."""
    import h5py

    with h5py.File(folder / f"rows-{chunks}.h5", "w") as file:
        file.create_dataset("rows", data=rows, chunks=chunks)
    dataset = h5py.File(folder / f"rows-{chunks}.h5")["rows"]
    return lambda i: dataset[start[i] : start[i] + length[i]]


def store(folder: Path, rows: np.ndarray, start: np.ndarray, length: np.ndarray) -> Read:
    """A store of one view, as `msa extract` writes it, checksums on."""
    ids = [f"s{i:05d}" for i in range(SAMPLES)]
    digests = np.arange(2 * SAMPLES, dtype=np.uint64).reshape(SAMPLES, 2).view(np.uint8)  # (n, 16), all different
    index = Index(
        name="bench",
        task=SENTIMENT,
        ids=ids,
        split=np.zeros(SAMPLES, np.uint8),
        labels=np.zeros((SAMPLES, 1), np.float32),
        label_names=("label",),
        group=[""] * SAMPLES,
        position=np.zeros(SAMPLES, np.int64),
        text=[""] * SAMPLES,
        digests={Modality.TEXT: digests},
        about={},
    )
    made = FeatureStore.create(folder / "store")
    dataset = made.add_index(index)
    made.add_view("bench", {"modality": Modality.TEXT, "backbone": "random", "dim": WIDTH, "dtype": "float16"})
    writer = made.writer("bench", dataset, Form.of(WIDTH, "float16"), {})
    for i in range(SAMPLES):
        writer.write(i, digests[i].tobytes(), rows[start[i] : start[i] + length[i]])
    made.publish("bench", [entry for entry in [writer.seal()] if entry])
    return made.reader(made.view(dataset, Modality.TEXT)).read
