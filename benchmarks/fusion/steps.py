"""Milliseconds of a training step of every head; of those that MMSA has too, beside its model, in turns.

The same tensors for both: full ones, and ones with as many steps as the utterances of CMU-MOSI have words, zero behind
them, as MMSA hands that corpus out. It has no masks and reads the zeros too.
"""
# ruff: noqa: TID253 - stage 2 is torch throughout

import gc
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.extraction.measure import Row, in_turns
from benchmarks.fusion import mmsa
from msa import catalog
from msa.fuse.head import Batch
from msa.fuse.train.model import Model
from msa.types import Modality, Task

T, A, V = Modality.TEXT, Modality.AUDIO, Modality.FACE
WIDTHS = {T: 768, A: 5, V: 20}  # CMU-MOSI as MMSA hands it out
VALUES = Task(low=-3.0, high=3.0)
UNALIGNED = {T: 50, A: 375, V: 500}
ALIGNED = {T: 50, A: 50, V: 50}
MEANS = {T: 50, A: 1, V: 1}  # what MMSA gives the models that read no more of sound and faces
STEPS = {"tfn": MEANS, "lmf": MEANS, "mfn": ALIGNED, "mfm": ALIGNED, "misa": ALIGNED}
BATCH = {"mult": 8}  # of others 32
WORDS, SPREAD = 10.6, 0.62  # median words of the 895 utterances at hand, and the sd of their logarithm
MOST = 0.8  # of MMSA's time


def made(lengths: dict[Modality, int], size: int, full: bool = True) -> Batch:
    """A batch of noise: full, or with as much behind the mask as in MOSI when it is padded to these lengths."""
    g = torch.Generator().manual_seed(0)
    words = torch.randn(size, generator=g).mul(SPREAD).add(math.log(WORDS)).exp().clamp(2, 50)
    share = torch.ones(size) if full else words / 50  # of the longest
    mask = {m: torch.arange(n) < (share * n).ceil()[:, None] for m, n in lengths.items()}
    x = {m: torch.randn(size, n, WIDTHS[m], generator=g) * mask[m][:, :, None] for m, n in lengths.items()}
    return Batch(x, mask, torch.randn(size, generator=g).clamp(-3, 3), torch.arange(size))


def step(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor], clip: bool = True
) -> Callable[[], None]:
    """One step of training, with the gradient cut to its length or not."""

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return run


def ours(name: str, batch: Batch) -> tuple[Model, Callable[[], None]]:
    """A step of one of our heads, as `train` takes it."""
    torch.manual_seed(0)
    model = Model.of(name)
    head = model.build({m: x.shape[2] for m, x in batch.x.items()}, VALUES).train()
    optimiser = torch.optim.AdamW(head.param_groups(1e-4), weight_decay=1e-3, fused=True)
    return model, step(head, optimiser, lambda: torch.stack([t.float() for t in head.step(batch)[1].values()]).sum())


def theirs(name: str, model: Model, batch: Batch) -> Callable[[], None]:
    """A step of MMSA's model, as its trainers take it."""
    torch.manual_seed(0)
    other, loss = mmsa.build(name, model.settings, batch)
    return step(other.train(), torch.optim.Adam(other.parameters(), 1e-4), loss, clip=name in ("mult", "misa"))


def rows(home: Path | None, quick: bool) -> Iterator[Row]:
    """Every head in the folder, on two threads; `home` is where MMSA lies."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    beside = [name for name in catalog.names("head") if home and name in mmsa.FILES]
    for name in beside:
        yield _row(name, home, quick, full=False)
    stepped = [name for name in catalog.names("head") if name not in beside and name != "probe"]  # that one is solved
    for name in [*beside, *stepped]:
        yield _row(name, home if name in beside else None, quick, full=True)
    torch.set_num_threads(threads)


def _row(name: str, home: Path | None, quick: bool, full: bool) -> Row:
    lengths, size = STEPS.get(name, UNALIGNED), BATCH.get(name, 32)
    batch = made(lengths, 2 if quick else size, full)
    model, own = ours(name, batch)
    ways = {"ours": own, **({"theirs": theirs(name, model, batch)} if home else {})}
    for way in ways.values():
        way()  # the first step of a shape chooses its kernels
    seconds = in_turns(ways, 1 if quick else 9 if home else 3)
    gc.collect()
    shape = " + ".join(f"{n} {m}" for m, n in lengths.items())
    what, ms = f"step of {name}, {len(batch)} x {shape}{'' if full else ', MOSI'}", f"{seconds['ours'] * 1e3:,.1f} ms"
    if "theirs" not in seconds:
        return Row(what, ms, "")
    ratio = seconds["ours"] / seconds["theirs"]
    other = f"{seconds['theirs'] * 1e3:,.1f} ms, MMSA {mmsa.VERSION}"
    return Row(what, ms, other, f"{ratio:.2f}", f"<= {MOST:g}", ratio <= MOST)
