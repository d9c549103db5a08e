"""Which samples share a batch: a pure function of sizes and budgets, so that a resumed run meets the same batches.

Each view of a pass states the size of every sample, a budget, and how sizes add up:

fixed    samples, whatever their size
padded   samples times the longest of them; the longest come first, so that padding is small and memory peaks early
packed   the sum of the sizes; the order of the data

A batch is full when the next sample would take one of the views beyond its budget. A sample larger than a budget goes
alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from msa.extract.backbone import Batching

PLANNER = 1  # raised when the same sizes and budget lead to other batches


@dataclass(frozen=True)
class Demand:
    """What one view takes of a batch."""

    sizes: Sequence[int | None]  # tokens or frames of each sample; None: it has nothing of this modality
    budget: int
    batching: Batching = "fixed"


@dataclass(frozen=True)
class Plan:
    """Positions 0..n-1, or the rows at these positions, in batches.

    A batch whose samples are partly done already is computed whole again: its shape decides the last bits of all of
    them.
    """

    demands: tuple[Demand, ...]
    batches: tuple[tuple[int, ...], ...]
    padding: float  # share of the computation that is padding, of the padded views
    samples: int  # n, of the whole plan
    part: tuple[int, int] = (1, 1)  # (i, n): the i-th of n parts

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any batch."""
        ends = np.cumsum([len(batch) for batch in self.batches], dtype=np.int64)
        order = np.fromiter(chain.from_iterable(self.batches), np.int64)
        return hashlib.sha256(ends.tobytes() + order.tobytes()).hexdigest()[:16]

    @property
    def facts(self) -> dict[str, str | int]:
        """What is recorded with the hidden states: enough to make the plan again from the sizes of its samples.

        Batchings and budgets of views that share a pass are joined by `+`.
        """
        first, *others = self.demands
        return {
            "planner": PLANNER,
            "batching": "+".join(demand.batching for demand in self.demands),
            "budget": "+".join(str(demand.budget) for demand in self.demands) if others else first.budget,
            "samples": self.samples,
            "part": "{}/{}".format(*self.part),
            "hash": self.digest,
        }

    def over(self, rows: Sequence[int]) -> "Plan":
        """Return the plan with each position replaced by the row at it."""
        return replace(self, batches=tuple(tuple(rows[i] for i in batch) for batch in self.batches))

    def share(self, i: int, n: int) -> "Plan":
        """Return the i-th of n parts, 1 <= i <= n, for runs that divide the work among machines."""
        batches = self.batches[len(self.batches) * (i - 1) // n : len(self.batches) * i // n]
        return replace(self, batches=batches, part=(i, n))


@dataclass(slots=True)
class _Load:
    """What the samples of a batch take of one view's budget."""

    demand: Demand
    samples: int = 0
    total: int = 0
    longest: int = 0

    def plus(self, i: int) -> "_Load":
        """Return the load with one more sample."""
        size = self.demand.sizes[i]
        if size is None:
            return self
        return _Load(self.demand, self.samples + 1, self.total + size, max(self.longest, size))

    @property
    def cost(self) -> int:
        """In units of the budget."""
        return {"fixed": self.samples, "packed": self.total, "padded": self.samples * self.longest}[
            self.demand.batching
        ]


def plan(*demands: Demand) -> Plan:
    """Plan the batches of one view, or of several that are encoded in one pass."""
    padded = [demand for demand in demands if demand.batching == "padded"]
    samples = len(demands[0].sizes)
    order = sorted(range(samples), key=lambda i: -(padded[0].sizes[i] or 0)) if padded else range(samples)
    empty = [_Load(demand) for demand in demands]
    batches: list[list[int]] = []
    loads = empty
    for i in order:
        loads = [load.plus(i) for load in loads]
        if not batches or any(load.cost > load.demand.budget for load in loads):
            batches.append([])
            loads = [load.plus(i) for load in empty]
        batches[-1].append(i)
    return Plan(demands, tuple(map(tuple, batches)), _padding(padded, batches), samples)


def _padding(padded: Sequence[Demand], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of the computation of padded views that is padding."""
    needed = computed = 0
    for demand in padded:
        for batch in batches:
            sizes = [size for i in batch if (size := demand.sizes[i]) is not None]
            needed += sum(sizes)
            computed += len(sizes) * max(sizes, default=0)
    return 1 - needed / computed if computed else 0.0
