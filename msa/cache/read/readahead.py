"""Ask for all pages of a batch at once, where they may no longer be in memory.

A mapped page that is missing stops the reader until the disk has brought it, one page after the other. Asking for the
whole batch first (`madvise(MADV_WILLNEED)`) is many times faster; but where the pages are there, it costs as much as a
third of the copies. So it is done when a batch had to wait: then the process has more major page faults than before.
"""

from collections.abc import Sequence
from typing import Any

try:
    import resource
except ImportError:  # Windows counts no page faults, and cannot be asked for pages either
    resource = None  # type: ignore[assignment]

LEAST, MOST = 64, 4096  # batches


class Advice:
    """Given for 64 batches after one that had to wait, and for twice as many each time that happens again."""

    def __init__(self) -> None:
        self._faults = _major_faults()
        self._left = 0  # batches that are still asked for
        self._span = LEAST

    def give(self, wanted: Sequence[Sequence[int]], files: Sequence[Any]) -> None:
        """Before the copies of a batch of places (file, chunk, row, length): ask for its pages if it seems wise."""
        if not self._left:
            faults, before = _major_faults(), self._faults
            self._faults = faults
            if faults == before:
                self._span = LEAST
                return
            self._left, self._span = self._span, min(2 * self._span, MOST)
        self._left -= 1
        for number, chunk, row, length in wanted:
            if number > 0:
                files[number].advise_rows(chunk, row, length)
        if not self._left:
            self._faults = _major_faults()


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt if resource else 0
