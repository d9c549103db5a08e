"""A store of a million samples against one of a thousand: what opens, lists and reads it costs, and what it keeps.

python -m benchmarks.scale [--quick] [--folder DISK]

Stores take turns, and milliseconds are CPU time, medians: a busy machine slows all alike.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import numpy as np

from benchmarks.extraction.measure import Row, in_turns
from benchmarks.storage.opening import private
from msa.cache.index import Index
from msa.cache.share import sync
from msa.cache.share.subset import Selection
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.types import SENTIMENT, Modality

SIZES, QUICK = (1_000, 100_000, 1_000_000), (1_000, 5_000, 20_000)
WIDTH, LONGEST, BATCH, PULLED = 8, 4, 64, 100
VIEW = "5ca1" * 4


def make(folder: Path, n: int) -> FeatureStore:
    """A store of n samples of 1 to 4 rows of width 8, all of them different."""
    chance = np.random.default_rng(n)
    digests = np.arange(2 * n, dtype=np.uint64).reshape(n, 2).view(np.uint8)
    index = Index(
        name="bench",
        task=SENTIMENT,
        ids=[f"clip_{i:07d}" for i in range(n)],
        split=np.resize(np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2], np.uint8), n),
        labels=chance.integers(0, 3, (n, 1)).astype(np.float32),
        label_names=("label",),
        group=[f"speaker {i // 20}" for i in range(n)],
        position=np.arange(n, dtype=np.int64) % 20,
        text=[f"what was said in clip {i}" for i in range(n)],
        digests={Modality.TEXT: digests},
        about={"source": {"licence": "made"}},
    )
    store = FeatureStore.create(folder)
    dataset = store.add_index(index)
    store.add_view(VIEW, {"modality": Modality.TEXT, "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(VIEW, dataset, Form.of(WIDTH, "float16"), {})
    length = chance.integers(1, LONGEST + 1, n).tolist()
    rows = chance.standard_normal((4096, WIDTH)).astype(np.float16)
    with store.writing(VIEW, writer):
        for i, digest in enumerate(map(bytes, digests)):
            at = i % 4000
            writer.write(i, digest, rows[at : at + length[i]])
    return store


def ways(folder: Path, n: int) -> dict[str, Callable[[], object]]:
    """What is timed of a store of n samples."""
    made, ids = folder / str(n), folder / f"{n}.txt"
    chance = np.random.default_rng(os.getpid())
    wanted = np.sort(np.random.default_rng(3).choice(n, PULLED, replace=False)).tolist()
    ids.write_text("".join(f"clip_{i:07d}\n" for i in wanted))
    known = FeatureStore.open(made)
    reader = known.reader(known.view("bench", Modality.TEXT))
    for begin in range(0, n, 4096):
        reader.gather(np.arange(begin, min(begin + 4096, n)))  # from now on no chunk is new

    def listed() -> None:
        store = FeatureStore.open(made)
        for name in store.datasets:
            assert [(v.name, v.samples, v.failed, v.dim, v.nbytes) for v in store.views(name)]

    def first() -> None:
        store = FeatureStore.open(made)
        store.reader(store.view("bench", Modality.TEXT)).gather(chance.integers(0, n, BATCH))

    def subset() -> None:
        result = sync.pull(str(made), folder / "pulled", Selection(samples=ids))
        assert result.samples == PULLED
        rmtree(folder / "pulled")

    return {
        "open": lambda: FeatureStore.open(made),
        "ls": listed,
        "view": lambda: known.view("bench", Modality.TEXT),
        "first batch": first,
        "read": lambda: reader.gather(chance.integers(0, n, BATCH)),
        "index": lambda: known.index("bench").ids[0],
        "pull": subset,
    }


TOLD = {
    "open": "open a store",
    "ls": "open and list it",
    "view": "find a view",
    "first batch": f"open it and read a random batch of {BATCH}",
    "read": f"a random batch of {BATCH} once every chunk was read",
    "index": "open its index, an id",
    "pull": f"pull {PULLED} samples to an empty folder",
}


def measure(folder: Path, quick: bool) -> list[Row]:
    """Every way, each against a thousand samples."""
    sizes, rows = QUICK if quick else SIZES, []
    for n in sizes:
        began = time.perf_counter()
        make(folder / str(n), n)
        seconds = time.perf_counter() - began
    rows.append(Row(f"write {n:,} samples", f"{seconds:.0f} s", "", "", "<= 120 s", seconds <= 120))
    timed = {n: ways(folder, n) for n in sizes}
    for what, told in TOLD.items():
        turns = (1 if quick else 5) if what == "pull" else (5 if quick else 31)
        each = {str(n): timed[n][what] for n in sizes}
        for way in each.values():
            way()
        few, *more = (1e3 * s for s in in_turns(each, turns, time.process_time).values())
        for n, ms in zip(sizes[1:], more, strict=True):
            most = 1.5 if n == sizes[1] else 2.0
            name, other = f"{told}, {n:,} samples", f"{few:.2f} ms, {sizes[0]:,} samples"
            rows.append(Row(name, f"{ms:.2f} ms", other, f"{ms / few:.2f}", f"<= {most:g}", ms / few <= most))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--kept", *(str(folder / str(n)) for n in (sizes[0], sizes[-1]))],
        check=True,
        capture_output=True,
        text=True,
    )
    each_sample = json.loads(done.stdout) / sizes[-1]
    what = f"private memory: store, index and view of {sizes[-1]:,} samples open, all of them read"
    return [*rows, Row(what, f"{each_sample:.1f} B a sample", "", "", "<= 32 B", each_sample <= 32)]


def kept(small: Path, path: Path) -> int:
    """Bytes of private memory that an open store, its index and a reader of all samples have taken."""
    chance = np.random.default_rng(0)

    def used(store: FeatureStore) -> object:
        index, reader = store.index("bench"), store.reader(store.view("bench", Modality.TEXT))
        for rows in np.array_split(chance.permutation(len(index)), -(-len(index) // BATCH)):
            reader.gather(rows)
        return index, reader, [index.ids[i] for i in (0, len(index) - 1)]

    warm = used(FeatureStore.open(small))  # what is imported on the way
    before = private()
    held = used(FeatureStore.open(path))
    after = private()
    del warm, held
    return after - before


def main(words: list[str] | None = None) -> None:
    """Make the stores, measure, print a row for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small stores: to see that it runs, not for figures")
    parser.add_argument("--folder", type=Path, help="on which disk: half a gigabyte; the one for temporary files")
    parser.add_argument("--kept", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(words or [])
    if asked.kept:
        print(json.dumps(kept(*asked.kept)))
        return
    from benchmarks.extract import machine  # which loads what extraction needs

    print(machine())
    print("\n" + " | ".join(Row.HEAD), flush=True)
    with tempfile.TemporaryDirectory(prefix="msa-bench-", dir=asked.folder) as folder:
        for row in measure(Path(folder), asked.quick):
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
