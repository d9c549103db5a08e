"""Read a CSV of frames as openSMILE, COVAREP and OpenFace write it: a line of names, or none, and lines of numbers.

Cells are parted by commas, semicolons or tabs and may have blanks or quotes around them. What Windows writes for NaN
and infinity (`-1.#IND`, `-nan(ind)`, `1.#INF`) is read as that. An empty cell, NA and ? are NaN.
"""

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msa import regular

LONGEST_HEADER = 1 << 20  # bytes: the 6,373 columns of ComParE take a third of it
LARGEST_CSV = 1 << 28  # bytes
MISSING = {"", "na", "n/a", "?", "null", "none"}
_NAN = re.compile(r"[+-]?(?:nan\(\w*\)|1\.#(?:ind|[qs]nan)\d*)")
_INFINITE = re.compile(r"[+-]?1\.#inf\d*")


@dataclass(frozen=True)
class Header:
    """Delimiter and column names of a file: `names` (C,), each "" where the file has no header."""

    delimiter: str
    names: tuple[str, ...]
    named: bool


def header(path: Path) -> Header:
    """Read the first line of a file. Raises OSError, ValueError, and SourceError for what is no regular file."""
    with regular.opened(path) as file:
        line = file.readline(LONGEST_HEADER + 1)
    if len(line) > LONGEST_HEADER:
        raise ValueError(f"a first line of more than {LONGEST_HEADER:,} bytes")
    text = line.decode("utf-8-sig", errors="replace").strip("\r\n")
    delimiter = max(",;\t", key=text.count)
    cells = [cell.strip().strip("\"'").strip() for cell in text.split(delimiter)]
    named = not all(map(_is_number, cells))
    if named and (twice := [name for name, times in Counter(filter(None, cells)).items() if times > 1]):
        raise ValueError(f"two columns are called {twice[0][:60]}")
    return Header(delimiter, tuple(cells) if named else ("",) * len(cells), named)


def values(path: Path, about: Header, unread: Collection[int]) -> np.ndarray:
    """Return all rows, float64 (T, C), with 0 in the columns `unread`, which may hold texts.

    Raises OSError, and ValueError for what is no table of numbers, or too large.
    """
    if path.stat().st_size > LARGEST_CSV:
        raise ValueError(f"{path.stat().st_size / 1e6:,.0f} MB; at most {LARGEST_CSV / 1e6:,.0f} are read")
    try:
        try:
            table = _loaded(path, about, unread, odd=False)
        except ValueError:
            table = _loaded(path, about, unread, odd=True)
    except ValueError as error:
        raise ValueError(f"not a table of numbers: {str(error).split(';')[0][:200]}") from error
    if table.size and table.shape[1] != len(about.names):
        raise ValueError(f"{table.shape[1]} cells in a line under a header of {len(about.names)}")
    return table if table.size else np.zeros((0, len(about.names)))


def _loaded(path: Path, about: Header, unread: Collection[int], odd: bool) -> np.ndarray:
    """Parse with numpy's own reader of numbers, which is fast, or with one that takes `odd` cells, ten times slower."""
    converters: dict[int | str, Callable[[str], float]] = {}
    if odd:
        converters |= dict.fromkeys(range(len(about.names)), number)
    converters |= dict.fromkeys(unread, lambda cell: 0.0)
    with (
        warnings.catch_warnings(),
        regular.opened(path) as file,
        io.TextIOWrapper(file, "utf-8-sig", errors="replace") as text,
    ):
        warnings.simplefilter("ignore", UserWarning)  # of a file without rows
        return np.loadtxt(
            text,
            delimiter=about.delimiter,
            converters=converters,
            skiprows=int(about.named),
            comments=None,
            quotechar='"',
            ndmin=2,
        )


def number(cell: str) -> float:
    """Return the number in a cell; NaN for an empty one, NA and ?. Raises ValueError."""
    plain = cell.strip().strip("\"'").strip().lower()
    try:
        return float(plain)
    except ValueError:
        if plain in MISSING or _NAN.fullmatch(plain):
            return float("nan")
        if _INFINITE.fullmatch(plain):
            return float("-inf" if plain[0] == "-" else "inf")
        raise ValueError(f"{cell[:40]!r} is no number") from None


def _is_number(cell: str) -> bool:
    try:
        number(cell)
    except ValueError:
        return False
    return True


def followed(seen: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Return which rows of a table of faces show the face that is seen most often, (rows,) bool.

    Args:
        seen: (rows,) bool: a face was found.
        face: (rows,) the number of the face; of equally frequent ones the lowest counts.
    """
    if not seen.any():
        return seen
    numbers, times = np.unique(face[seen], return_counts=True)
    return np.asarray(face == numbers[times.argmax()])
