"""Errors whose cause the user can fix.

MsaError
├── UnknownNameError   an unknown dataset, backbone, head, format, setting or tag
├── SourceError        missing or unreadable raw data, or an unexpected layout
├── BackboneError      weights that cannot be loaded or do not fit
├── StoreError         a store that is missing, newer, damaged or incomplete
└── ConfigError        settings that contradict each other or the data

The command line prints `error:` and `fix:` and exits with 1. Any other exception is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class MsaError(Exception):
    """What happened, with the values on both sides, and how to fix it."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nfix: {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:  # keeps `what` and `fix` on the way from another process
        return _again, (type(self), self.what, self.fix)


def _again(kind: type[MsaError], what: str, fix: str) -> MsaError:
    error = kind.__new__(kind)
    MsaError.__init__(error, what, fix=fix)
    return error


class UnknownNameError(MsaError):
    """An unknown name. The fix offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(map(str, known))
        near = get_close_matches(str(name), known, n=1, cutoff=0.5)
        super().__init__(
            f"there is no {kind} called {name!r}",
            fix=(f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}",
        )


class SourceError(MsaError):
    """Raw data is missing or unreadable, or has an unexpected layout."""


class BackboneError(MsaError):
    """Weights cannot be loaded, or are not those of the recipe."""


class StoreError(MsaError):
    """The store is missing, newer than this version, damaged, or lacks requested data."""


class ConfigError(MsaError):
    """Settings contradict each other or the data."""
