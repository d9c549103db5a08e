"""Common interface of buckets and web servers: requests, limits on their speed, and errors.

A server is not trusted. The size it gives for a file is compared with the manifest before anything is read, no more is
read than was asked for, and an answer that arrives too slowly is given up.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msa.errors import StoreError

CONNECT_S = 10.0  # for a connection to be made
SILENT_S = 30.0  # without a byte, before or in the middle of an answer
SLOW_S = 30.0  # of waiting, in which at least LEAST bytes a second have to arrive
LEAST = 1024
PIECE = 2**20  # bytes that are read at a time
AGAIN = "run the same command again: it goes on where it stopped"
CHECK = f"check the address and the network, then {AGAIN}"

_NUMBER = re.compile(r"([0-9]{8})\.json")


class Unreachable(StoreError):
    """The connection broke or could not be made; another try may succeed."""


class Refused(StoreError):
    """The server asks for credentials, or for other ones."""


class NoRanges(StoreError):
    """A range of a file was requested, and the server sends the whole file."""


@dataclass(frozen=True)
class Body:
    """Answer to a request: `pieces` of what was requested, and the `size` of the whole file if the server gives it."""

    size: int | None
    pieces: Iterator[bytes]
    close: Callable[[], None] = lambda: None  # close the connection: the rest is not needed


class Wire(Protocol):
    """Access to the files below an address; names are relative to it."""

    writable: bool
    retries: bool  # does the library behind it repeat requests that fail?

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""

    def get(self, name: str, start: int = 0, end: int | None = None) -> Body:
        """Return a file, or its bytes from `start` up to `end`. Raises FileNotFoundError, NoRanges, StoreError."""

    def put(self, name: str, source: Path | bytes) -> None:
        """Write or replace a file, whole or not at all."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name; return whether it was written."""

    def manifests(self) -> list[int] | None:
        """Return the numbers of all generations, ascending; None where names cannot be listed."""


def paced(pieces: Iterator[bytes], where: str, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """Yield the same pieces. Raises StoreError where fewer than LEAST bytes a second arrive for SLOW_S of waiting."""
    waited, received = 0.0, 0
    while True:
        began = clock()
        piece = next(pieces, None)
        waited += clock() - began
        if piece is None:
            return
        received += len(piece)
        if waited >= SLOW_S:
            if received < LEAST * waited:
                raise StoreError(
                    f"{where} arrives too slowly: {received} bytes in {waited:.0f} s, at least {LEAST} a second needed",
                    fix=f"try another network or another copy of the store, then {AGAIN}",
                )
            waited, received = 0.0, 0
        yield piece


def generation_of(name: str) -> int | None:
    """Return the number of a manifest from its file name, eight digits; None for any other name."""
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else None
