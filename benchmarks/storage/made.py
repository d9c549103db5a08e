"""Made hidden states, in a store as `msa extract` writes it and in the layouts it is measured against."""

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msa.cache.format import layout
from msa.cache.index import Index
from msa.cache.read.view import View, ViewReader
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form, SegmentWriter
from msa.types import SENTIMENT, Modality

Batch = Callable[[np.ndarray, np.ndarray], object]  # row numbers (B,), out (B, longest, D): filled, zeros behind each
SEED = 0


@dataclass(frozen=True)
class Ragged:
    """n samples of `shortest` to `longest` rows, one after the other in `rows` (R, D) float16."""

    rows: np.ndarray
    start: np.ndarray  # (n,)
    length: np.ndarray  # (n,)
    longest: int

    @classmethod
    def of(cls, samples: int, width: int, shortest: int, longest: int) -> "Ragged":
        """Random lengths, evenly spread, and random values."""
        chance = np.random.default_rng(SEED)
        length = chance.integers(shortest, longest + 1, samples)
        start = np.cumsum([0, *length[:-1]])
        once = chance.standard_normal((1 << 14, width), np.float32).astype(np.float16)  # made once, repeated
        return cls(np.resize(once, (int(length.sum()), width)), start, length, longest)

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.rows[self.start[i] : self.start[i] + self.length[i]]

    @property
    def width(self) -> int:
        """D."""
        return int(self.rows.shape[1])


# the store


def corpus(digests: np.ndarray, name: str = "bench") -> Index:
    """A corpus of texts of which nothing is known but the digests (n, 16) of the inputs."""
    n = len(digests)
    return Index(
        name=name,
        task=SENTIMENT,
        ids=[f"s{i:07d}" for i in range(n)],
        split=np.zeros(n, np.uint8),
        labels=np.zeros((n, 1), np.float32),
        label_names=("label",),
        group=[""] * n,
        position=np.zeros(n, np.int64),
        text=[""] * n,
        digests={Modality.TEXT: digests},
        about={},
    )


def store(folder: Path, data: Ragged, times: int = 1) -> tuple[FeatureStore, View]:
    """A store of one view, checksums on. `times` as many samples, of the same inputs over and over again."""
    own = np.arange(2 * len(data), dtype=np.uint64).reshape(-1, 2).view(np.uint8)  # (n, 16), all different
    digests = np.tile(own, (times, 1))
    index = corpus(digests)
    made = FeatureStore.create(folder)
    dataset = made.add_index(index)
    about = {"modality": Modality.TEXT, "backbone": "random", "dim": data.width, "dtype": "float16"}
    made.add_view("be9c" * 4, about)
    writer = made.writer("be9c" * 4, dataset, Form.of(data.width, "float16"), {})
    write(writer, data, digests)
    made.publish("be9c" * 4, [entry for entry in [writer.seal()] if entry])
    return made, made.view(dataset, Modality.TEXT)


def write(writer: SegmentWriter, data: Ragged, digests: np.ndarray) -> None:
    """Every sample, one after the other, and what is left in the buffer; equal digests are of equal samples."""
    for i in range(len(digests)):
        writer.write(i, digests[i].tobytes(), data[i % len(data)])
    writer.flush()


def without_checksums(made: FeatureStore, view: View) -> ViewReader:
    """A reader of the same view, whose chunks are written again with the codec `bytes` alone."""
    import zarr

    (entry,) = view.entries
    home, raw = made.path / "views" / view.id / "seg" / entry.id, made.path.with_name("raw")
    old = zarr.open_array(home / "data", mode="r")
    shutil.copytree(home, raw / entry.id, ignore=shutil.ignore_patterns("data"))
    new = zarr.create_array(
        raw / entry.id / "data",
        shape=old.shape,
        chunks=old.chunks,
        shards=old.shards,
        dtype=old.dtype,
        serializer=zarr.codecs.BytesCodec(),
        compressors=None,
        attributes=dict(old.attrs),
        config={"write_empty_chunks": True},
    )
    for begin in range(0, old.shape[0], old.shards[0]):
        new[begin : begin + old.shards[0]] = old[begin : begin + old.shards[0]]
    return ViewReader(raw, view, made.manifest.datasets[view.dataset].samples)


# its counterparts


def padding(read: Callable[[int, int], np.ndarray], data: Ragged) -> Batch:
    """Batches from something that is sliced: the loop everybody writes, without what would slow it down."""
    start, length = data.start.tolist(), data.length.tolist()

    def batch(rows: np.ndarray, out: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            n = length[row]
            out[i, :n] = read(start[row], start[row] + n)
            out[i, n:] = 0

    return batch


def flat(folder: Path, data: Ragged) -> Path:
    """One file of all rows."""
    data.rows.tofile(folder / "rows.bin")
    return folder / "rows.bin"


def memmap(path: Path, data: Ragged) -> Batch:
    """That file, mapped and seen as an array."""
    mapped = np.asarray(np.memmap(path, np.float16, "r", shape=data.rows.shape))
    return padding(lambda a, b: mapped[a:b], data)


def preadv(path: Path, data: Ragged) -> Batch:
    """That file, each sample read straight into its place."""
    handle, size = os.open(path, os.O_RDONLY), 2 * data.width
    start, length = data.start.tolist(), data.length.tolist()

    def batch(rows: np.ndarray, out: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            n = length[row]
            os.preadv(handle, [out[i, :n].reshape(-1).view(np.uint8)], start[row] * size)
            out[i, n:] = 0

    return batch


def hdf5(folder: Path, data: Ragged, chunks: int | None) -> Path:
    """One HDF5 dataset, contiguous or in chunks of so many rows."""
    import h5py

    path = folder / f"rows-{chunks}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=data.rows, chunks=(chunks, data.width) if chunks else None)
    return path


def sliced(path: Path, data: Ragged) -> Batch:
    """That dataset, read by slices."""
    import h5py

    dataset = h5py.File(path)["rows"]
    return padding(lambda a, b: dataset[a:b], data)


def zarr_python(made: FeatureStore, view: View, data: Ragged) -> Batch:
    """The store's own array, read by slices with zarr-python."""
    import zarr

    home = made.path / "views" / view.id / "seg" / view.entries[0].id
    array, start = zarr.open_array(home / "data", mode="r"), layout.read_array(home / "start")
    return padding(lambda a, b: np.asarray(array[a:b]), replace(data, start=start))  # samples are in order there


def pickled(folder: Path, data: Ragged) -> Path:
    """All samples padded to the longest, as the usual toolkits do."""
    padded = np.zeros((len(data), data.longest, data.width), np.float16)
    for i in range(len(data)):
        padded[i, : data.length[i]] = data[i]
    with open(folder / "padded.pkl", "wb") as file:
        pickle.dump({"text": padded}, file, protocol=4)
    return folder / "padded.pkl"


def unpickled(path: Path) -> Batch:
    """That pickle, all of it in memory."""
    with open(path, "rb") as file:
        padded = pickle.load(file)["text"]
    return lambda rows, out: np.take(padded, rows, axis=0, out=out[: len(rows)], mode="clip")


def chunk_rows(width: int) -> int:
    """Rows of a chunk in the store, for counterparts that have chunks."""
    return layout.chunk_rows(width, 2)
