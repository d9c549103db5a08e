"""Importing an MMSA pickle the size of CMU-MOSEI's, and reading it back: memory and time, beside pickle.load.

python -m benchmarks.import_pickle [FOLDER] [--samples 16326]      # 16326 needs 14 GB of disk, and minutes
"""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

MOSEI = {"train": 16_326, "valid": 1_871, "test": 4_659}
SHAPES = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}  # padded; true lengths are drawn
SAMPLES, SEED = 1_000, 0
AT_ONCE = 128  # samples made at once
BATCHES, BATCH = 200, 64
MEMORY = ("rss", "anonymous", "rss_before", "anonymous_before")


def main(words: list[str] | None = None) -> None:
    """Make the pickle, import it, train-like read it and load it, each in a process of its own; print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where there is room; emptied again afterwards")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the training split; the others follow")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    asked = parser.parse_args(words or [])
    if asked.child:
        print(json.dumps(measured(lambda: CHILDREN[asked.child](asked.folder))))
        return
    with tempfile.TemporaryDirectory(prefix="msa-bench-", dir=asked.folder) as folder:
        compare(Path(folder), asked.samples)


def compare(folder: Path, samples: int) -> None:
    """One line of figures per way of using the same file."""
    write(folder / "mosei.pkl", samples)
    size = (folder / "mosei.pkl").stat().st_size
    largest = samples * max(4 * t * d for t, d in SHAPES.values())
    print(f"{samples:,} training samples, pickle {size / 1e6:,.0f} MB, largest array {largest / 1e6:,.0f} MB")
    print(f"\n{'':<34}{'seconds':>9}{'MB/s':>8}{'peak RSS MB':>13}{'of it anonymous':>17}{'x largest array':>17}")
    for name in CHILDREN:
        free = psutil.virtual_memory().available
        if name == "load" and free < 1.3 * size:
            print(f"{'pickle.load':<34} not run: it needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
            continue
        command = [sys.executable, "-m", "benchmarks.import_pickle", str(folder), "--child", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        rate = told["bytes"] / told["seconds"] / 1e6
        rss, anonymous, rss_before, anonymous_before = (told[key] / 1e6 for key in MEMORY)
        times = rss * 1e6 / largest
        print(f"{told['what']:<34}{told['seconds']:>9.1f}{rate:>8,.0f}{rss:>13,.0f}{anonymous:>17,.0f}{times:>17.2f}")
        print(f"{'  before it began':<51}{rss_before:>13,.0f}{anonymous_before:>17,.0f}")


# what is measured


def bring_in(folder: Path) -> dict[str, Any]:
    """Pickle -> a fresh store."""
    from msa.cache.exchange import _import as importing
    from msa.cache.exchange import mmsa
    from msa.cache.store import FeatureStore

    file = folder / "mosei.pkl"
    _, reports = importing.bring_in(FeatureStore.create(folder / "store"), mmsa.read(file))
    assert all(report.written == report.wanted for report in reports)
    return {"what": "msa: import", "bytes": file.stat().st_size}


def batches(folder: Path) -> dict[str, Any]:
    """Random batches from the store, padded, as training reads them."""
    from msa.cache.store import FeatureStore
    from msa.types import Modality

    store = FeatureStore.open(folder / "store")
    kinds = {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": Modality.FACE}
    readers = {key: store.reader(store.view("mosei", modality)) for key, modality in kinds.items()}
    padded = {key: np.zeros((BATCH, *shape), np.float32) for key, shape in SHAPES.items()}
    chance, read = np.random.default_rng(SEED), 0
    for _ in range(BATCHES):
        rows = chance.integers(0, len(readers["text"].length), BATCH)
        for key, reader in readers.items():
            for i, row in enumerate(rows):
                states = reader.read(int(row))
                padded[key][i, : len(states)] = states
                read += states.nbytes
    return {"what": f"msa: {BATCHES} batches of {BATCH}", "bytes": read}


def load(folder: Path) -> dict[str, Any]:
    """The whole file, as the usual toolkit opens it."""
    with open(folder / "mosei.pkl", "rb") as file:
        content = pickle.load(file)
    assert content["train"]["text"].shape[1:] == SHAPES["text"]
    return {"what": "pickle.load", "bytes": (folder / "mosei.pkl").stat().st_size}


CHILDREN: dict[str, Callable[[Path], dict[str, Any]]] = {"import": bring_in, "batches": batches, "load": load}


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` says, its seconds, and the memory of this process before it and at its peak, in bytes."""
    import msa.cache.exchange._import  # noqa: F401  what it takes to be there at all is said apart

    before, peak, over = status(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    told = work()
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    now = status()
    return told | {
        "seconds": seconds,
        "rss": now["VmHWM"],  # the highest there was
        "anonymous": max(peak[0], now["RssAnon"]),  # without pages of files, which the system takes back at will
        "rss_before": before["VmRSS"],
        "anonymous_before": before["RssAnon"],
    }


def status() -> dict[str, int]:
    """Memory of this process in bytes, as Linux counts it."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in lines if name in ("VmRSS", "VmHWM", "RssAnon")}


# the file, written opcode by opcode: it is larger than what this process may hold


def write(path: Path, samples: int) -> None:
    """A pickle of protocol 4 in MMSA's layout, of random numbers, true lengths between 1 and all rows."""
    chance = np.random.default_rng(SEED)
    with open(path, "wb") as file:
        file.write(b"\x80\x04}(")
        for split, n in MOSEI.items():
            text(file, split)
            file.write(b"}(")
            part(file, split, max(1, round(n * samples / MOSEI["train"])), chance)
            file.write(b"u")
        file.write(b"u.")
        file.flush()
        os.fsync(file.fileno())  # not while others are measured


def part(file: IO[bytes], split: str, n: int, chance: np.random.Generator) -> None:
    """Keys and values of one split."""
    strings = {"id": [f"{split}{i // 10}$_${i % 10}" for i in range(n)], "raw_text": [f"text {i}" for i in range(n)]}
    for key, values in strings.items():
        text(file, key)
        file.write(b"](")
        for value in values:
            text(file, value)
        file.write(b"e")
    text(file, "regression_labels")
    array(file, (n,), iter([chance.uniform(-3, 3, n).astype(np.float32)]))
    for key, shape in SHAPES.items():
        lengths = chance.integers(1, shape[0] + 1, n)
        text(file, "text_bert" if key == "text" else f"{key}_lengths")
        if key == "text":
            mask = (np.arange(shape[0]) < lengths[:, None]).astype(np.float32)
            array(file, (n, 3, shape[0]), iter([np.stack([mask, mask, mask], axis=1)]))
        else:
            array(file, (n,), iter([lengths.astype(np.float32)]))
        text(file, key)
        array(file, (n, *shape), padded(lengths, shape, chance))


def padded(lengths: np.ndarray, shape: tuple[int, int], chance: np.random.Generator) -> Iterator[np.ndarray]:
    """(n, T, D) in pieces of a few samples."""
    for start in range(0, len(lengths), AT_ONCE):
        piece = np.zeros((len(lengths[start : start + AT_ONCE]), *shape), np.float32)
        for rows, length in zip(piece, lengths[start:], strict=False):
            rows[:length] = chance.random((length, shape[1]), np.float32) + 1
        yield piece


def text(file: IO[bytes], value: str) -> None:
    """SHORT_BINUNICODE."""
    file.write(b"\x8c" + struct.pack("<B", len(value)) + value.encode())


def array(file: IO[bytes], shape: tuple[int, ...], pieces: Iterator[np.ndarray]) -> None:
    """A numpy array of little-endian float32, in C order, whose bytes are those of `pieces`."""
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(")
    file.write(b"".join(b"J" + struct.pack("<i", n) for n in shape))
    file.write(
        b"tcnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    file.write(b"\x8e" + struct.pack("<Q", 4 * int(np.prod(shape))))
    for piece in pieces:
        file.write(piece.astype("<f4").data)
    file.write(b"tb")


if __name__ == "__main__":
    main(sys.argv[1:])
