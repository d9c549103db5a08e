"""Which samples share a forward: a pure function of sizes and a budget, so that a resumed run meets the same batches.

fixed    as many samples at once as the budget says, in the order of the data
padded   longest first, so that padding is small and memory peaks early: samples times the longest <= budget
packed   one after the other in the order of the data, without padding: the sum of their sizes <= budget

A sample larger than the budget goes alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from msa.extract.backbone import Batching

PLANNER = 1  # raised when the same sizes and budget come to other batches


@dataclass(frozen=True)
class Plan:
    """Positions 0..n-1, or the rows that stand there, in batches.

    A batch whose samples are partly done already is computed whole again: its shape decides the last bits of them all.
    """

    batching: Batching
    budget: int
    batches: tuple[tuple[int, ...], ...]
    padding: float  # share of what is computed that is padding
    samples: int  # n, of the whole
    part: tuple[int, int] = (1, 1)  # the i-th of so many

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any batch."""
        ends = np.cumsum([len(batch) for batch in self.batches], dtype=np.int64)
        order = np.fromiter(chain.from_iterable(self.batches), np.int64)
        return hashlib.sha256(ends.tobytes() + order.tobytes()).hexdigest()[:16]

    @property
    def facts(self) -> dict[str, str | int]:
        """What is written beside the hidden states: enough to make the plan again from the sizes of its samples."""
        return {
            "planner": PLANNER,
            "batching": self.batching,
            "budget": self.budget,
            "samples": self.samples,
            "part": "{}/{}".format(*self.part),
            "hash": self.digest,
        }

    def over(self, rows: Sequence[int]) -> "Plan":
        """The same of the rows that stand at its positions."""
        return replace(self, batches=tuple(tuple(rows[i] for i in batch) for batch in self.batches))

    def share(self, i: int, n: int) -> "Plan":
        """The i-th of n parts, 1 <= i <= n: for those who run the parts on machines of their own."""
        mine = self.batches[len(self.batches) * (i - 1) // n : len(self.batches) * i // n]
        return replace(self, batches=mine, part=(i, n))


def plan(sizes: Sequence[int], budget: int, batching: Batching = "fixed") -> Plan:
    """Batches for samples of these sizes (tokens, frames; of no matter what for `fixed`)."""
    n = len(sizes)
    if batching == "fixed":
        return Plan(batching, budget, tuple(tuple(range(i, min(i + budget, n))) for i in range(0, n, budget)), 0.0, n)
    if batching == "packed":
        return Plan(batching, budget, _filled(range(n), sizes, budget), 0.0, n)
    order = np.argsort(-np.asarray(sizes, np.int64), kind="stable").tolist()  # equal sizes keep their order
    batches = _rectangles(order, sizes, budget)
    computed = sum(len(batch) * sizes[batch[0]] for batch in batches)
    return Plan(batching, budget, batches, 1 - sum(sizes) / computed if computed else 0.0, n)


def _filled(order: Sequence[int], sizes: Sequence[int], budget: int) -> tuple[tuple[int, ...], ...]:
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    used = 0
    for i in order:
        if batch and used + sizes[i] > budget:
            batches.append(tuple(batch))
            batch, used = [], 0
        batch.append(i)
        used += sizes[i]
    return (*batches, tuple(batch)) if batch else tuple(batches)


def _rectangles(order: Sequence[int], sizes: Sequence[int], budget: int) -> tuple[tuple[int, ...], ...]:
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * sizes[batch[0]] > budget:
            batches.append(tuple(batch))
            batch = []
        batch.append(i)
    return (*batches, tuple(batch)) if batch else tuple(batches)
