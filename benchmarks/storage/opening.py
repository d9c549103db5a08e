"""What a store costs before and beside its hidden states: opening it, and the memory of a reader."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.extraction.measure import Row, in_turns
from benchmarks.storage import made
from benchmarks.storage.made import Ragged
from msa.cache.store import FeatureStore
from msa.types import Modality

BATCH, WIDTH, LONGEST = 64, 768, 64


def scale(folder: Path, quick: bool) -> list[Row]:
    """CPU milliseconds from a path to a first batch of 16, of stores of a thousand to a million samples; and memory."""
    inputs = 200 if quick else 1_000  # their rows are the same in all stores: it is the number of samples that counts
    sizes = tuple(inputs * times for times in ((1, 5, 10) if quick else (1, 100, 1_000)))
    for n in sizes:
        made.store(folder / str(n), Ragged.of(inputs, WIDTH, 5, LONGEST), n // inputs)
    ways = {str(n): lambda n=n: first_batch(folder / str(n), n) for n in sizes}
    for way in ways.values():
        way()
    few, many, most = (1e3 * seconds for seconds in in_turns(ways, 5 if quick else 51, time.process_time).values())
    rows = [
        Row(
            f"open and read a batch of 16, {n:,} samples",
            f"{ms:.2f} ms",
            f"{few:.2f} ms, {sizes[0]:,} samples",
            f"{ms / few:.2f}",
            f"<= {limit:g}",
            ms / few <= limit,
        )
        for n, ms, limit in ((sizes[1], many, 1.5), (sizes[2], most, 2.0))
    ]
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.storage.opening", str(folder / str(sizes[2]))],
        check=True,
        capture_output=True,
        text=True,
    )
    grown = json.loads(told.stdout)
    each = (grown["after"] - grown["before"]) / sizes[2]
    what = f"private memory of a reader that has read all of {sizes[2]:,} samples"
    rows.append(Row(what, f"{each:.1f} B a sample", "", "", "<= 32 B", each <= 32))
    return rows


def first_batch(path: Path, n: int) -> None:
    """Open a store, its view, and read a random batch."""
    store = FeatureStore.open(path)
    store.reader(store.view("bench", Modality.TEXT)).gather(np.random.default_rng(os.getpid()).integers(0, n, 16))


def read_all(path: Path) -> dict[str, int]:
    """Bytes of private memory before a reader is opened, those of a batch among them, and after it has read all."""
    store = FeatureStore.open(path)
    view, warm = store.view("bench", Modality.TEXT), np.zeros((BATCH, LONGEST, WIDTH), np.float16)
    n = store.manifest.datasets[view.dataset].samples
    other = store.reader(view)
    other.gather(np.arange(BATCH), warm)  # what is imported on the way
    del other
    before, reader = private(), store.reader(view)
    assert len(reader.length) == n
    for begin in range(0, n, BATCH):
        reader.gather(np.arange(begin, min(begin + BATCH, n)), warm)
    return {"before": before, "after": private()}


def private() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    print(json.dumps(read_all(Path(sys.argv[1]))))
