"""Read ahead: ask the system for all pages of a batch at once, where they may no longer be in memory.

A mapped page that is missing stops the reader until the disk has brought it, one page after the other. Asking for the
whole batch first (`madvise(MADV_WILLNEED)`) is many times faster. Where the pages are in memory it costs as much as a
third of the copies, so it is done only after a batch had to wait: the process then has more major page faults.
"""

from collections.abc import Sequence
from typing import Any

try:
    import resource
except ImportError:  # Windows counts no page faults, and cannot be asked for pages either
    resource = None  # type: ignore[assignment]

LEAST, MOST = 64, 4096  # batches


class Readahead:
    """Readahead for 64 batches after one that had to wait, and for twice as many each time that happens again."""

    def __init__(self) -> None:
        self._faults = _major_faults()
        self._left = 0  # batches that are still read ahead
        self._span = LEAST

    def start(self, wanted: Sequence[Sequence[int]], files: Sequence[Any]) -> None:
        """Ask for the pages of a batch of locations (file, chunk, row, length) where an earlier batch had to wait."""
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
