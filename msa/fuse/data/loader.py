"""Hidden states where a training step finds them at once.

What fits stays in memory - the device's, or the machine's - ragged, in the stored dtype: one tensor of all steps and
where each sample begins in it. A batch is then one `index_select` per modality, without Python per sample. What does
not fit is read per batch, ahead of the step, by a thread. The numbers are the same to the bit.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from msa.fuse.data import memory
from msa.fuse.head import Batch, masked_mean, with_statistics
from msa.types import Modality

if TYPE_CHECKING:
    from msa.fuse.data.table import Column, Normalisation, Subset

SHARE = 0.5  # of the free memory may hold hidden states; the rest is for the training
AT_ONCE = 1  # processes on this machine that hold hidden states in memory at the same time, see workers.py
AHEAD = 2  # batches that are read before they are asked for
T = TypeVar("T")


class States(Protocol):
    """Hidden states of the samples of a subset, by their position in it."""

    def pad(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, max T, D) float32, undefined behind the mask, and mask (B, max T)."""


@dataclass(frozen=True)
class Flat:
    """In memory: all steps one after the other."""

    values: Tensor  # (N, D), the stored dtype
    start: Tensor  # (n,) int64
    length: Tensor  # (n,) int64, 0 where a sample has none

    @classmethod
    def load(cls, column: "Column", device: str) -> "Flat":
        """Read a column; a recording that pairing gave to several samples is kept once."""
        distinct, which = column.distinct()
        length = distinct.length
        start = np.cumsum(length) - length
        values = torch.zeros(1, column.view.dim, device=device)
        for at, steps in distinct.pieces():
            if at[0] == 0:
                values = torch.empty(int(length.sum()), steps.shape[1], dtype=_dtype(steps), device=device)
            begin = int(start[at[0]])  # the samples of a piece follow each other
            values[begin : begin + len(steps)] = torch.from_numpy(steps)
        of = lambda numbers: torch.from_numpy(np.append(numbers, 0)[which]).to(device)  # noqa: E731
        return cls(values, of(start), of(length))

    def pad(self, at: Tensor) -> tuple[Tensor, Tensor]:
        length = self.length[at]  # (B,)
        steps = torch.arange(max(1, int(length.max())), device=at.device)  # (T,)
        mask = steps < length[:, None]  # (B, T)
        index = torch.where(mask, self.start[at][:, None] + steps, 0)  # (B, T)
        x = self.values.index_select(0, index.flatten())  # (B T, D)
        return x.view(*index.shape, -1).float(), mask


@dataclass(frozen=True)
class Stored:
    """On disk: read when it is asked for."""

    column: "Column"

    def pad(self, at: Tensor) -> tuple[Tensor, Tensor]:
        padded, length = self.column.gather(at.numpy())
        x = torch.from_numpy(padded).float()  # (B, T, D)
        return x, torch.arange(x.shape[1]) < torch.from_numpy(length)[:, None]


@dataclass(frozen=True)
class Source:
    """The batches of a subset, on a device."""

    subset: "Subset"  # without a source of its own: see Subset.source
    states: Mapping[Modality, States]
    norm: "Normalisation"
    device: str
    location: str  # where the hidden states are, in words

    @classmethod
    def of(cls, subset: "Subset", norm: "Normalisation", device: str) -> "Source":
        """Load the modalities that fit into free memory, smallest first; the others are read for each batch."""
        columns = {m: column.take(subset.rows) for m, column in subset.table.columns.items()}
        size = {m: column.nbytes for m, column in columns.items()}
        places = dict.fromkeys([device, "cpu"])  # a device first
        room = {place: SHARE * memory.free(place) / _sharing(place) for place in places}
        states: dict[Modality, States] = {}
        by_place: dict[str, list[str]] = {}
        for m in sorted(columns, key=lambda m: size[m]):
            place = next((place for place in places if size[m] <= room[place]), None)
            states[m] = Stored(columns[m]) if place is None else Flat.load(columns[m], place)
            if place is not None:
                room[place] -= size[m]
            name = "read ahead of each step" if place is None else f"kept in {memory.named(place)}"
            by_place.setdefault(name, []).append(f"{m} {memory.human(size[m])}")
        line = "; ".join(f"{', '.join(held)} {name}" for name, held in by_place.items())
        return cls(subset, {m: states[m] for m in columns}, norm, device, line)

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yield a batch for each array of positions in the subset; what is read from disk is prefetched."""
        wait = any(isinstance(states, Stored) for states in self.states.values())
        return ahead(self._batch, plan) if wait else map(self._batch, plan)

    def means(self) -> "Source":
        """Return the same samples with the mean of each modality as its only step, for heads that read only means."""
        plan = [np.arange(len(self.subset))[i : i + 64] for i in range(0, len(self.subset), 64)]
        means: dict[Modality, list[Tensor]] = {m: [] for m in self.states}
        present: dict[Modality, list[Tensor]] = {m: [] for m in self.states}
        for batch in self.batches(plan):
            for m, x in batch.x.items():
                means[m].append(masked_mean(x, batch.mask[m]))
                present[m].append(batch.mask[m].any(1))
        start = torch.arange(len(self.subset), device=self.device)
        states = {m: Flat(torch.cat(means[m]), start, torch.cat(present[m]).long()) for m in self.states}
        return Source(self.subset, states, type(self.norm)({}), self.device, self.location)

    def _batch(self, at: np.ndarray) -> Batch:
        x, mask = {}, {}
        for m, states in self.states.items():
            where = torch.from_numpy(at)
            padded, valid = states.pad(where.to(states.values.device) if isinstance(states, Flat) else where)
            x[m], mask[m] = prepared(self._moved(padded), self._moved(valid), self.norm.of(m), self.norm.statistics)
        return self.subset.labelled(x, mask, self.subset.rows[at]).to(self.device)

    def _moved(self, tensor: Tensor) -> Tensor:
        wanted = torch.device(self.device)
        if tensor.device.type == wanted.type and wanted.index in (None, tensor.device.index):
            return tensor
        host = tensor.pin_memory() if tensor.device.type == "cpu" else tensor  # what is on a card cannot be pinned
        return host.to(wanted, non_blocking=True)


def _sharing(place: str) -> int:
    """Return how many processes share a memory."""
    return AT_ONCE if place == "cpu" else -(-AT_ONCE // max(torch.cuda.device_count(), 1))


def prepared(
    x: Tensor, mask: Tensor, norm: tuple[np.ndarray, np.ndarray] | None, statistics: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Return x (B, T, D) normalised, 0 behind the mask and widened by statistics, and the mask (B, T).

    Args:
        x: hidden states, whatever is behind the mask; changed in place.
        mask: True = valid.
        norm: mean and standard deviation, each (D,); None leaves x as it is.
        statistics: of each sample's valid steps, see `with_statistics`.
    """
    if norm is not None:
        mean, std = (torch.from_numpy(values).to(x.device) for values in norm)
        x = x.sub_(mean).div_(std)
    return with_statistics(x.masked_fill_(~mask[:, :, None], 0.0), mask, statistics), mask


def _dtype(values: np.ndarray) -> torch.dtype:
    return torch.from_numpy(values[:0]).dtype


def ahead(make: Callable[[np.ndarray], T], plan: Sequence[np.ndarray]) -> Iterator[T]:
    """Yield make(at) for each element of the plan, in order, computed up to AHEAD elements in advance by a thread."""
    with ThreadPoolExecutor(1, "batches") as thread:
        made: deque[Future[T]] = deque()
        try:
            for at in plan:
                made.append(thread.submit(make, at))
                if len(made) > AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for left in made:
                left.cancel()
