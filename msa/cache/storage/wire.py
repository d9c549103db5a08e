"""What every way to a place elsewhere has in common: what it answers, how slow it may be, and what can go wrong.

A server is a stranger. What it says of a file is compared with what the manifest says before anything is read, no more
is read than was asked for, and what arrives too slowly is given up.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msa.errors import StoreError

CONNECT_S = 10.0  # for a connection to be made
SILENT_S = 30.0  # without a single byte, before or in the middle of an answer
SLOW_S = 30.0  # of waiting, in which at least LEAST bytes a second have to arrive
LEAST = 1024
PIECE = 2**20  # bytes that are read at a time
AGAIN = "run the same command again: it goes on where it stopped"
CHECK = f"check the address and the network, then {AGAIN}"

_NUMBER = re.compile(r"([0-9]{8})\.json")


class Unreachable(StoreError):
    """The connection broke or was never made: it may be worth trying again."""


class Refused(StoreError):
    """The place asks for credentials, or for other ones."""


class NoRanges(StoreError):
    """A part of a file was asked for, and the server sends all of it."""


@dataclass(frozen=True)
class Body:
    """What a place answers: `size` bytes has the whole file (None: it does not say), `pieces` is what was asked for."""

    size: int | None
    pieces: Iterator[bytes]
    close: Callable[[], None] = lambda: None  # hang up: the rest is not wanted


class Wire(Protocol):
    """How the files of a place are reached; names are relative to its root."""

    writable: bool
    retries: bool  # does the library behind it repeat requests that fail?

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none."""

    def get(self, name: str, start: int = 0, end: int | None = None) -> Body:
        """A file, or its bytes from `start` up to `end`. Raises FileNotFoundError, NoRanges, StoreError."""

    def put(self, name: str, source: Path | bytes) -> None:
        """Make a file, or replace it, whole or not at all."""

    def create(self, name: str, data: bytes) -> bool:
        """Make a file unless there is one of that name; did we?"""

    def manifests(self) -> list[int] | None:
        """The numbers of all generations, ascending; None where names cannot be listed."""


def paced(pieces: Iterator[bytes], where: str, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """The same pieces. Raises StoreError where fewer than LEAST bytes a second arrive for SLOW_S of waiting."""
    waited, came = 0.0, 0
    while True:
        began = clock()
        piece = next(pieces, None)
        waited += clock() - began
        if piece is None:
            return
        came += len(piece)
        if waited >= SLOW_S:
            if came < LEAST * waited:
                raise StoreError(
                    f"{where} arrives too slowly: {came} bytes in {waited:.0f} s, at least {LEAST} a second are needed",
                    fix=f"try another network or another copy of the store, then {AGAIN}",
                )
            waited, came = 0.0, 0
        yield piece


def generation_of(name: str) -> int | None:
    """The number of a manifest by its file name, eight digits; None of any other file."""
    found = _NUMBER.fullmatch(name)
    return int(found[1]) if found else None
