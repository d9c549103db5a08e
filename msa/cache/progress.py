"""Watching long work: what extraction and import tell whoever looks on."""

from typing import Protocol


class Progress(Protocol):
    """Somebody who watches."""

    def begin(self, name: str, total: int, done: int) -> None:
        """A view of `total` samples begins, `done` of which are there already."""

    def advance(self, written: int, failed: int) -> None:
        """So many more samples were written, and so many recorded as failed."""

    def status(self, line: str) -> None:
        """What bounds the work at the moment."""

    def end(self) -> None:
        """The view is finished or given up."""


class Unwatched:
    """Nobody watches."""

    def begin(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, written: int, failed: int) -> None:
        """Nothing."""

    def status(self, line: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
