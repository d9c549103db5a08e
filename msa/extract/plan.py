"""Which samples share a forward: a pure function of their sizes, so that a resumed run meets the same batches."""

from collections.abc import Sequence


def batches(sizes: Sequence[int], batch: int) -> list[list[int]]:
    """Positions 0..n-1 in batches of at most `batch`, longest first, so that padding is small and memory peaks early.

    Equal sizes keep their order. A batch whose samples are partly done already is computed whole again: its shape
    decides the last bits of its numbers.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    return [order[i : i + batch] for i in range(0, len(order), batch)]
