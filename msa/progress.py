"""The callback through which long work reports its progress: extraction, import, transfer, verification."""


class Progress:
    """No-op progress callback. Subclasses override what they show; totals are samples, or bytes of a transfer."""

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Start a task of `total` units, of which `done` were finished by an earlier run."""

    def advance(self, done: int, failed: int = 0) -> None:
        """Count units that were finished, and units that were recorded as failures."""

    def status(self, line: str) -> None:
        """Show what limits the work at the moment."""

    def end(self) -> None:
        """End the task: all of it is done, or it was given up."""
