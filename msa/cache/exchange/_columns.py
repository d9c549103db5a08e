"""Datasets that lie in a file as one dict of columns per split: what the pickles of this field share.

Nothing about them is certain but their keys: containers are lists or arrays, numbers of any type, strings text or
bytes, and a column may be (n,), (n, 1) or (n, 1, 1). Everything is therefore asked for as what it should be.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from msa.annotations.splits import NAMES
from msa.cache.exchange._arrays import ArrayOnFile, Payload
from msa.errors import SourceError
from msa.types import Split

FEATURES = ("text", "audio", "vision")
PER_BYTE, SLACK = 4, 1 << 24  # characters and numbers a column may unfold to, by the file's bytes: shared ones repeat
SAMPLE_BYTES, FEW_SAMPLES = 16, 10_000  # the least that a sample takes in a file, and how many may take less
LONGEST_NUMBER = 64  # characters


@dataclass(frozen=True)
class Part:
    """One split of the file. `size` n is the length of every column of `values`."""

    path: Path
    name: str  # as the file calls it, "" where it names none
    split: Split | None
    values: Mapping[str, Any]
    size: int

    @property
    def room(self) -> int:
        """How many characters or numbers one column of the file may unfold to."""
        return PER_BYTE * self.path.stat().st_size + SLACK

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def where(self, key: str) -> str:
        """Return the name of a column in messages."""
        return f"{self.path}: {key}{f' of {self.name}' if self.name else ''}"

    def column(self, key: str) -> Any:
        """Return a column that is there. Raises SourceError where it has another length than the split."""
        values = self.values[key]
        size = len(values) if is_column(values) else None
        if size != self.size:
            rows = "no" if size is None else f"{size:,}"
            raise SourceError(
                f"{self.where(key)} has {rows} rows, the split {self.size:,} samples",
                fix="get the file again, or leave this key out of it",
            )
        return values

    def strings(self, key: str, absent: bool = False) -> list[str]:
        """Return a column of texts; with `absent`, "" for None and NaN. Raises SourceError for anything else."""
        known: dict[int, str] = {}  # of long texts: one may be named again and again

        def text(value: Any) -> str:
            if not isinstance(value, Payload):
                return "" if absent and _is_absent(value) else string(value)
            if id(value) not in known:
                known[id(value)] = string(value)
            return known[id(value)]

        texts, left = [], self.room
        try:
            for value in items(self.column(key)):
                texts.append(text(value))
                left -= len(texts[-1])
                if left < 0:
                    raise ValueError(
                        f"row {len(texts) - 1}: more than {self.room:,} characters, as long as the file is"
                    )
        except (TypeError, ValueError) as error:
            raise self.odd(key, "texts", error) from error
        return texts

    def numbers(self, key: str) -> np.ndarray:
        """Return a column of numbers, (n,) float64, NaN where there is None. Raises SourceError for anything else."""
        try:
            return np.array([number(value) for value in items(self.column(key))], np.float64).reshape(self.size)
        except (TypeError, ValueError) as error:
            raise self.odd(key, "one number per sample", error) from error

    def odd(self, key: str, expected: str, error: object = "") -> SourceError:
        """Return the error for a column of another kind."""
        values = self.values[key]
        shape = list(values.shape) if isinstance(values, np.ndarray | ArrayOnFile) else f"a {type(values).__name__}"
        return SourceError(
            f"{self.where(key)} should hold {expected}, and is {shape}{f': {error}' if str(error) else ''}",
            fix="the file has a layout of its own: bring this key to what is expected, or leave it out",
        )


def parts(path: Path, top: Any) -> list[Part]:
    """Return the splits of a file; one without a split where it is the dict of a whole corpus. Raises SourceError."""
    if not isinstance(top, dict):
        raise SourceError(f"{path} holds a {type(top).__name__}, not a dict of splits", fix="is it the right file?")
    named = {str(key): value for key, value in top.items() if NAMES.get(str(key).lower()) and isinstance(value, dict)}
    splits = [_part(path, name, NAMES[name.lower()], value) for name, value in named.items()]
    if not named and set(FEATURES) & set(top) and {"id", "raw_text"} & set(top):
        splits = [_part(path, "", None, top)]
    if not splits:
        raise SourceError(
            f"{path} has no train, valid or test; its keys are {names_of(top)}",
            fix="is it the right file? Known are dicts of splits, each with text, audio, vision and labels",
        )
    if len({part.split for part in splits}) < len(splits):
        raise SourceError(f"{path} has {', '.join(named)}: two of them are one split", fix="leave one of them out")
    return sorted(splits, key=lambda part: list(Split).index(part.split) if part.split else 0)


def _part(path: Path, name: str, split: Split | None, values: Mapping[Any, Any]) -> Part:
    values = {str(key): value for key, value in values.items()}
    order = ("id", "raw_text", "regression_labels", "labels", *FEATURES)
    sizes = Counter(len(values[key]) for key in order if is_column(values.get(key)))
    if not sizes:
        raise SourceError(f"{path}: {name} has no samples; its keys are {names_of(values)}", fix="leave it out")
    size = sizes.most_common(1)[0][0]  # where one key is odd it is named, not the rest
    check_rows(path, name, size)
    return Part(path, name, split, values, size)


def check_rows(path: Path, name: str, size: int) -> None:
    """Refuse more samples than a file of this size can hold. Raises SourceError."""
    if size > (most := path.stat().st_size // SAMPLE_BYTES + FEW_SAMPLES):
        raise SourceError(
            f"{path}: {name or 'the file'} has {size:,} samples, and a file of its size has at most {most:,}",
            fix="get the file again",
        )


def names_of(names: Iterable[Any]) -> str:
    """Return the first few keys of a file, as errors show them."""
    first = [short(name) for name in islice(names, 10)]
    return ", ".join([*first[:9], "..."] if len(first) > 9 else first) or "none"


def short(value: Any) -> str:
    """Return a text or a number of a file, as errors show it; of anything else its type."""
    if not isinstance(value, str | bytes | int | float) or (isinstance(value, int) and value.bit_length() > 200):
        return f"a {type(value).__name__}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_column(values: Any) -> bool:
    """Return whether it is a list or an array of at least one dimension."""
    if isinstance(values, np.ndarray | ArrayOnFile):
        return bool(values.shape)
    return isinstance(values, list | tuple)


def items(values: Any) -> Iterator[Any]:
    """Yield the entries of a column, an array's as numpy scalars or arrays."""
    yield from values.whole() if isinstance(values, ArrayOnFile) else values


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def string(value: Any) -> str:
    """Return a text of text or bytes, UTF-8 or else latin1, or a whole number; also as the only entry of an array."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, Payload):
        value = bytes(value.read())
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin1")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates are no text for a file
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and -(2**63) <= value < 2**64:
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")


def number(value: Any) -> float:
    """Return a value as a number, also as the only entry of nested arrays and lists; NaN for None."""
    for _ in range(4):
        if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.shape):
            if len(value) != 1:
                raise TypeError(f"{len(value)} values in one")
            value = value[0]
    if isinstance(value, np.ndarray) and not value.shape:
        value = value[()]
    if value is None:
        return float("nan")
    if isinstance(value, str) and len(value) > LONGEST_NUMBER:
        raise ValueError(f"a text of {len(value):,} characters is no number")
    if isinstance(value, int) and value.bit_length() > 1023:
        raise ValueError("a whole number beyond 1e308")
    if isinstance(value, int | float | np.integer | np.floating | np.bool_ | str):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no number")
