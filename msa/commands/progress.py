"""Progress bars on standard error. They are silent where standard error is not a terminal."""

from collections.abc import Sequence

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as TerminalProgress
from rich.table import Column

from msa.commands import console
from msa.progress import Progress

WIDE = 100  # columns of a terminal from which a bar also shows rate and status


class Bar(Progress):
    """Progress of samples: done, time left, failures, rate, and what limits it."""

    def __init__(self) -> None:
        self._bar: TerminalProgress | None = None
        self._failed = 0

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Start a new line. A long name is cut, so that bar, numbers and time left stay whole."""
        self._failed = 0
        wide = console.err.width >= WIDE
        cut = Column(no_wrap=True, overflow="ellipsis", max_width=None if wide else 28)
        self._bar = TerminalProgress(
            TextColumn("{task.description}", table_column=cut),
            BarColumn(bar_width=40 if wide else 16),
            *self._columns(wide),
            console=console.err,
            disable=not console.err.is_terminal or not total,
        )
        self._bar.start()
        self._bar.add_task(console.plain(name), total=total, completed=done, rate="", errors="", status="")

    def _columns(self, wide: bool) -> Sequence[str | ProgressColumn]:
        """Return the columns after the bar."""
        few = [MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[errors]}")]
        more = [TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[status]}", style="dim")]
        return [*few, *more] if wide else few

    def advance(self, done: int, failed: int = 0) -> None:
        """Count units, and update rate and failures."""
        if self._bar is None or self._bar.disable:
            return
        self._failed += failed
        task = self._bar.tasks[0]
        self._bar.advance(task.id, done + failed)
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        errors = f"[red]{self._failed} failed[/red]" if self._failed else ""
        self._bar.update(task.id, rate=rate, errors=errors)

    def status(self, line: str) -> None:
        """Show what limits the work, at the end of the line."""
        if self._bar is not None and not self._bar.disable:
            self._bar.update(self._bar.tasks[0].id, status=console.plain(line))

    def end(self) -> None:
        """Stop; the finished line stays on the screen."""
        if self._bar is not None:
            self._bar.stop()


class Bytes(Bar):
    """Progress of a transfer: bytes, time left, rate."""

    def _columns(self, wide: bool) -> Sequence[str | ProgressColumn]:
        return [DownloadColumn(), TimeRemainingColumn(), *([TransferSpeedColumn()] if wide else [])]
