"""Everything that can go wrong for a reason the user can mend.

MsaError
├── UnknownNameError   a dataset, backbone, head or option that does not exist
├── SourceError        raw data that is missing, unreadable or not in the layout expected
├── BackboneError      weights that cannot be had or do not fit
├── StoreError         a store that is missing, newer, damaged or lacks what was asked of it
└── ConfigError        settings that contradict each other or the data

The command line prints `error:` and `fix:` and exits with 1. Any other exception is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class MsaError(Exception):
    """What happened, with the values on both sides, and the way out."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nfix: {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:  # one that was raised in another process arrives as it was
        return _again, (type(self), self.what, self.fix)


def _again(kind: type[MsaError], what: str, fix: str) -> MsaError:
    error = kind.__new__(kind)
    MsaError.__init__(error, what, fix=fix)
    return error


class UnknownNameError(MsaError):
    """A name that is not in the catalog; the nearest one is offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(map(str, known))
        near = get_close_matches(str(name), known, n=1, cutoff=0.5)
        super().__init__(
            f"there is no {kind} called {name!r}",
            fix=(f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}",
        )


class SourceError(MsaError):
    """Raw data is missing, unreadable or not in the layout expected."""


class BackboneError(MsaError):
    """Weights cannot be had, or are not what the recipe names."""


class StoreError(MsaError):
    """The store is missing, newer than this version, damaged, or lacks what was asked of it."""


class ConfigError(MsaError):
    """Settings contradict each other or the data."""
