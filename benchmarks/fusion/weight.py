"""The most memory a training takes, each in a process of its own, as the kernel counts it.

python -m benchmarks.fusion.weight ours|theirs HEAD BATCH [MMSA]     prints bytes before the steps, and at the most
"""
# ruff: noqa: TID253 - stage 2 is torch throughout

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.extraction.measure import Row
from benchmarks.fusion import mmsa, steps
from msa import catalog
from msa.errors import MsaError
from msa.fuse.data import memory
from msa.fuse.train.model import Model

HEADS = ("mult", "almt")
BATCH = 64
LIMIT_GB = 6.0
FEW = (4, 8)  # samples from which is carried over to BATCH where the machine could not hold it


def rows(home: Path | None, quick: bool) -> Iterator[Row]:
    """MulT and ALMT at 375 and 500 steps, batch 64: what they take, what was estimated, and what MMSA takes."""
    for name in HEADS:
        if name not in catalog.names("head"):
            continue
        size = 2 if quick else BATCH
        own = _took("ours", name, size, None)
        said = f"{own / 1e9:.2f} GB"
        told, ratio = "", ""
        if home and name in mmsa.FILES:
            other, how = _theirs(name, size, home, quick)
            told, ratio = f"{other / 1e9:.2f} GB, MMSA {mmsa.VERSION}{how}", f"{own / other:.2f}"
        what = f"memory of {name}, {size} x 50 text + 375 audio + 500 face"
        yield Row(what, said, told, ratio, f"<= {LIMIT_GB:g} GB", own <= LIMIT_GB * 1e9)
        model = Model.of(name)
        need = memory.estimate(
            lambda model=model: model.build(steps.WIDTHS, steps.VALUES),
            steps.UNALIGNED,
            steps.WIDTHS,
            steps.VALUES,
            "cpu",
        )
        guess = need.of(size)
        yield Row(f"estimated before the first step, {name}", f"{guess / 1e9:.2f} GB", said, f"{guess / own:.2f}")


def _theirs(name: str, size: int, home: Path, quick: bool) -> tuple[float, str]:
    """Bytes, and how they were found: measured, or along a straight line where there is no room for them."""
    if quick:
        return _took("theirs", name, size, home), ""
    few = [_took("theirs", name, n, home) for n in FEW]
    each = (few[1] - few[0]) / (FEW[1] - FEW[0])
    guess = few[0] + each * (size - FEW[0])
    if guess < 0.7 * memory.free("cpu"):
        return _took("theirs", name, size, home), ""
    return guess, f", from batches of {FEW[0]} and {FEW[1]}: there is no room for {size}"


def _took(whose: str, name: str, size: int, home: Path | None) -> float:
    command = [sys.executable, "-m", "benchmarks.fusion.weight", whose, name, str(size), *([str(home)] if home else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MsaError(f"{whose} {name} ended with {done.returncode}: {done.stderr[-300:]}")
    before, most = map(int, done.stdout.split())
    return float(most - before)


def main(words: list[str]) -> None:
    """Take two steps of one head, in this process."""
    whose, name, size, *home = words
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    if home:
        mmsa.load(Path(home[0]))
    short = steps.made(dict.fromkeys(steps.UNALIGNED, 2), 2)  # libraries are loaded by a first, small step
    long = steps.made(steps.UNALIGNED, int(size))
    before = 0
    for batch in (short, long):
        model, run = steps.ours(name, batch)
        run = steps.theirs(name, model, batch) if whose == "theirs" else run
        run()
        before = before or _most()
    run()
    print(before, _most())


def _most() -> int:
    """Bytes this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
