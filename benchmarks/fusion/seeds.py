"""Several seeds of a small head: one after the other on all cores, and one on each core, from the same store."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.extraction.measure import Row
from benchmarks.storage import made
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.sweep import run_all
from msa.fuse.experiments.workers import Workers
from msa.fuse.train.model import Model

SAMPLES, WIDTH, LONGEST = 2000, 384, 32
SEEDS, EPOCHS = 10, 20
LEAST = 1.2  # times as many seeds in the same time
HEAD = "lmf"


def rows(quick: bool) -> Iterator[Row]:
    """Wall seconds of all seeds, the processes' start and the test included."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as home:
        store = labelled(Path(home) / "store", 60 if quick else SAMPLES)
        model = Model.of(HEAD, settings=[f"epochs={1 if quick else EPOCHS}", f"patience={EPOCHS}"])
        asked = Experiment(model, Data(("bench",)), tuple(range(2 if quick else SEEDS)))
        taken = {jobs: _seconds(asked, store, Path(home) / f"jobs-{jobs}", jobs) for jobs in (1, cores)}
        yield Row.of_rates(
            f"{len(asked.seeds)} seeds of {HEAD}, {EPOCHS} epochs of {SAMPLES:,} texts, {cores} processes",
            60 * len(asked.seeds) / taken[cores],
            60 * len(asked.seeds) / taken[1],
            LEAST if cores > 1 else None,
            "seeds/min",
            f"one process on {cores} threads",
        )


def labelled(folder: Path, samples: int) -> FeatureStore:
    """A store of texts with random labels, in three parts."""
    store, _ = made.store(folder, made.Ragged.of(samples, WIDTH, 4, LONGEST))
    before, chance = store.dataset("bench"), np.random.default_rng(0)
    labels = chance.integers(0, 3, (samples, 1)).astype(np.float32)
    index = replace(store.index("bench"), labels=labels, split=np.arange(samples).astype(np.uint8) % 10 // 8)
    index.split[::10] = 2
    store.add_index(index)
    reuse.carry_over(store, index, before)
    return FeatureStore.open(str(folder))


def _seconds(asked: Experiment, store: FeatureStore, folder: Path, jobs: int) -> float:
    began = time.perf_counter()
    done, failed = run_all({asked.model.name: asked}, store, folder, Workers(jobs=jobs), log=lambda line: None)
    if failed:
        raise RuntimeError(f"{failed}, {done}")
    return time.perf_counter() - began
