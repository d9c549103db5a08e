"""Seconds of an epoch at the size of the papers' corpora, and how much of it is spent on data.

Samples are made: as many, as wide and as long as the real ones. Some batches of an epoch are run, and counted for all.
"""
# ruff: noqa: TID253 - stage 2 is torch throughout

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.extraction.measure import Row
from benchmarks.fusion import steps
from msa.cache.read.view import View
from msa.fuse.data import sampler
from msa.fuse.data.loader import Source, Stored
from msa.fuse.data.table import Column, Normalisation, Table
from msa.fuse.head import Batch
from msa.fuse.train.model import Model
from msa.types import SENTIMENT, Modality, Split, Task

T, IMAGE, A, F = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
MOST = 0.05  # of a step


@dataclass
class Noise:
    """Made hidden states in the place of a store's reader: any row is a stretch of the same noise, read by memcpy."""

    view: View
    length: np.ndarray
    noise: np.ndarray  # (longest + 1000, D) float16

    def read(self, row: int) -> np.ndarray:
        """(T, D)."""
        return self.noise[row % 1000 :][: self.length[row]]

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As a store's reader does."""
        length = self.length[rows]
        x = np.zeros((len(rows), int(length.max()), self.view.dim), np.float16)
        for i, row in enumerate(rows):
            x[i, : length[i]] = self.read(row)
        return x, length

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As a store's reader does."""
        return np.concatenate([self.read(row) for row in rows]), np.cumsum([0, *self.length[rows]])


def column(modality: Modality, width: int, length: np.ndarray, rows: np.ndarray | None = None) -> Column:
    """A column of noise; `rows` where samples share recordings."""
    g = np.random.default_rng(width)
    noise = g.standard_normal((int(length.max()) + 1000, width), np.float32).astype(np.float16)
    view = View("0" * 16, "", {"modality": modality, "backbone": "made", "dim": width, "dtype": "float16"}, [])
    rows = np.arange(len(length)) if rows is None else rows
    return Column((Noise(view, length.astype(np.int32), noise),), np.zeros(len(rows), np.int64), rows)


def mvsa_multiple(n: int) -> Table:
    """Posts with 49 regions of a picture, each with one of 2,800 recordings of 1 to 3 s."""
    g = np.random.default_rng(0)
    text = g.lognormal(np.log(24), 0.45, n).clip(3, 128).astype(int)  # tweets: mean 26 tokens, the longest cut
    sound = g.normal(105, 20, 2800).clip(60, 150).astype(int)  # 2.1 s at 50 steps a second
    columns = {
        T: column(T, 768, text),
        IMAGE: column(IMAGE, 2048, np.full(n, 49)),
        A: column(A, 768, sound, g.integers(0, 2800, n)),
    }
    return _table(columns, SENTIMENT, g.integers(0, 3, n).astype(np.float32))


def mosei(n: int) -> Table:
    """Clips with up to 50 words, and sound and faces at up to 500 steps."""
    g = np.random.default_rng(0)
    words = g.lognormal(np.log(19), 0.6, n).clip(2, 50).astype(int)
    steps = (words * g.normal(8, 1.5, n)).clip(10, 500).astype(int)
    columns = {T: column(T, 768, words), A: column(A, 74, steps), F: column(F, 35, steps)}
    return _table(columns, Task(low=-3.0, high=3.0), g.uniform(-3, 3, n).astype(np.float32))


def _table(columns: dict[Modality, Column], task: Task, y: np.ndarray) -> Table:
    n = len(y)
    return Table("made", task, range(n), ["made"] * n, np.zeros(n, np.uint8), y, columns)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """CM-STA at MVSA-Multiple's size and HCL at MOSEI's, their batches at hand and read ahead."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    for name, data, few in (
        ("cmsta", mvsa_multiple(100 if quick else 14005), 2 if quick else 40),
        ("hcl", mosei(100 if quick else 16326), 2 if quick else 16),
    ):
        yield from _epoch(name, data, few, device)
    torch.set_num_threads(threads)


def _epoch(name: str, data: Table, few: int, device: str) -> Iterator[Row]:
    part, model = data.subset(Split.TRAIN), Model.of(name)
    norm, (lengths, widths) = Normalisation.fit(part, model.training.normalise), part.lengths()
    size = model.training.batch
    plan = sampler.shuffled(lengths, widths, size, (0, 0))
    plain = sampler.shuffled(lengths, widths, size, (0, 0), bucket=False)
    shares = [sampler.padding(p, lengths, widths) for p in (plan, plain)]
    what = f"padding of {name}'s batches of {size}"
    yield Row(what, f"{shares[0]:.1%}", f"{shares[1]:.1%}, shuffled", "", "<= 10 %", shares[0] <= 0.1)
    began = time.perf_counter()
    resident = part.source(norm, device)
    loading = time.perf_counter() - began
    read = replace(resident, states={m: Stored(c) for m, c in data.columns.items()})
    for source, how in ((resident, f"resident, loaded in {loading:.1f} s"), (read, "read ahead of each step")):
        data_s, step_s = _timed(model, data, source, plan[:few], device)
        whole = (data_s + step_s) * len(plan) / few
        share = data_s / (data_s + step_s)
        what = f"epoch of {name}, {len(part):,} samples, {how}"
        yield Row(what, f"{whole:,.0f} s", f"{share:.1%} waiting for data", "", f"<= {MOST:.0%}", share <= MOST)


def _timed(model: Model, data: Table, source: Source, plan: Sequence[np.ndarray], device: str) -> tuple[float, float]:
    """Seconds that these steps waited for their batches, and that they took."""
    torch.manual_seed(0)
    head = model.build(data.dims, data.task).to(device).train()
    optimiser = torch.optim.AdamW(head.param_groups(1e-4), fused=True)
    batch: Batch = next(iter(source.batches(plan[:1])))
    loss = lambda: torch.stack([t.float() for t in head.step(batch)[1].values()]).sum()  # noqa: E731
    run = steps.step(head, optimiser, loss)
    run()
    waited, worked, before = 0.0, 0.0, time.perf_counter()
    for batch in source.batches(plan):  # noqa: B007, the step reads it
        got = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        done = time.perf_counter()
        waited, worked, before = waited + got - before, worked + done - got, done
    return waited, worked
