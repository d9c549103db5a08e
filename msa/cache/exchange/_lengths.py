"""The states of each sample of a padded array, and which of its rows are true: by a length, a mask, or zeros."""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from msa.cache.exchange._arrays import ArrayOnFile
from msa.cache.exchange._columns import Part, is_column, items, number
from msa.cache.exchange._foreign import Unreadable

NOTHING = "nothing but padding"
MASK, ZEROS = "the mask in text_bert", "rows of nothing but zeros at the %s are padding"

Padding = Literal["back", "front", "none"]
Bounds = Callable[[int, np.ndarray], tuple[int, int]]  # row of the split, (T, D) -> first and end of the true rows
Known = tuple[Bounds, str, int]  # the bounds, how they are known, and how many lengths were longer than the array


class Readable(Protocol):
    """The states of each sample of a split."""

    def __len__(self) -> int: ...
    def read(self, i: int) -> np.ndarray:
        """Return (T, D) of sample i, padding included. Raises Unreadable."""


class Rows:
    """The states of each sample of a split: (n, T, D) or (n, D), or n of (T, D) or (D,), of which some may be None."""

    def __init__(self, part: Part, key: str) -> None:
        self.values = part.column(key)
        array = isinstance(self.values, np.ndarray | ArrayOnFile)
        self.regular = array and self.values.dtype.kind != "O"
        if self.regular and not (self.values.dtype.kind in "biuf" and len(self.values.shape) in (2, 3)):
            raise part.odd(key, f"numbers of the shape (n, T, D), not {self.values.dtype}")
        if self.regular and len(self.values) and 0 in self.values.shape:
            raise part.odd(key, "numbers of the shape (n, T, D), at least one for each sample")
        if not self.regular:
            _check_room(part, key, self.values)

    def __len__(self) -> int:
        return len(self.values)

    def has(self, i: int) -> bool:
        return self.regular or self.values[i] is not None

    def read(self, i: int) -> np.ndarray:
        """Return (T, D) of sample i, padding included. Raises Unreadable for what are no such numbers."""
        return _states(self.values.row(i) if isinstance(self.values, ArrayOnFile) else self.values[i])

    def shape(self, i: int) -> tuple[int, int] | None:
        """Return (T, D) of sample i; None where it is Unreadable."""
        value = self.values if self.regular else self.values[i]
        if isinstance(value, np.ndarray | ArrayOnFile):
            shape = value.shape[1:] if self.regular else value.shape
            return (shape[0] if len(shape) == 2 else 1, shape[-1]) if len(shape) in (1, 2) else None
        if not isinstance(value, list | tuple) or not value:
            return None
        return (len(value), len(value[0])) if is_column(value[0]) else (1, len(value))

    def width(self) -> int | None:
        """Return D of the first sample that has one."""
        shapes = (self.shape(i) for i in range(len(self)))
        return next((shape[1] for shape in shapes if shape and shape[1]), None)


def _check_room(part: Part, key: str, values: Any) -> None:
    """Refuse samples that unfold to more numbers than the file can hold: lists and arrays may be shared.

    Each is measured once, without unfolding it.
    """
    known: dict[int, int] = {}
    left = part.room
    for value in items(values):
        if id(value) not in known:
            known[id(value)] = _extent(value)
        left -= known[id(value)]
        if left < 0:
            raise part.odd(key, "samples of their own", f"they are more than {part.room:,} numbers, shared among them")


def _extent(value: Any) -> int:
    """Return how many numbers a sample has."""
    if isinstance(value, np.ndarray | ArrayOnFile):
        return math.prod(value.shape)
    if not isinstance(value, list | tuple):
        return 1
    return sum(
        _extent(row) if isinstance(row, np.ndarray | ArrayOnFile) else len(row) if is_column(row) else 1
        for row in value
    )


def _states(value: Any) -> np.ndarray:
    if isinstance(value, ArrayOnFile):
        value = value.whole()
    try:
        array = value if isinstance(value, np.ndarray) else _listed(value)
        if array.dtype.kind == "O":
            array = np.array([number(entry) for entry in array.reshape(-1)], np.float64).reshape(array.shape)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"no numbers: {error}") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise Unreadable(f"{array.dtype} of the shape {list(array.shape)}, expected numbers [T, D]")
    return array[None] if array.ndim == 1 else array


def _listed(value: Any) -> np.ndarray:
    """Return a list of numbers, or of rows that are lists or arrays of numbers, as an array of float64."""
    if not isinstance(value, list | tuple) or not value:
        raise TypeError("an empty list" if value == [] else f"a {type(value).__name__}")
    if not any(is_column(row) for row in value):
        return np.array([number(entry) for entry in value])
    if not all(is_column(row) for row in value):
        raise TypeError("numbers and rows side by side")
    return np.stack([_row(row) for row in value])


def _row(row: Any) -> np.ndarray:
    array = row.whole() if isinstance(row, ArrayOnFile) else row
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.ndim == 1:
        return array
    return np.array([number(entry) for entry in array])


def bounds_of(key: str, part: Part, rows: Rows, padding: Padding | None) -> Known:
    """Return how true rows of a column are known; without `padding` it is at the back, or where a length leaves zeros.

    The text's own rule is its length, its mask, or zeros. What is aligned to it shares the rows, if the rule says
    anything: BERT's states of padding are not zero.
    """
    if padding == "none":
        return trimmed("none"), "every row, as set", 0
    if part.has(f"{key}_lengths"):
        lengths = part.numbers(f"{key}_lengths")
        shapes = [rows.shape(i) for i in range(len(rows))]
        longer = sum(bool(shape and length > shape[0]) for shape, length in zip(shapes, lengths, strict=True))
        return counted(lengths, padding), f"{key}_lengths", longer
    alone = trimmed(padding or "back")
    zeros = ZEROS % (padding or "back")
    if key == "text":
        masks = masks_of(part, rows)
        return (masked(masks), MASK, 0) if masks else (alone, zeros, 0)
    if text := aligned_text(part, rows):
        of_text, how, _ = bounds_of("text", part, text, padding)
        if how != zeros or is_padded(text, of_text):
            return as_text(text, of_text, alone), f"the rows of the text, to which it is aligned ({how})", 0
    return alone, zeros, 0


def filled(states: np.ndarray) -> np.ndarray:
    """Return (T,) bool: which rows (T, D) hold a value; NaN is one, and a signalling NaN no reason to warn."""
    with np.errstate(invalid="ignore"):
        return np.asarray((states != 0).any(axis=1))


def nonzero(states: np.ndarray) -> tuple[int, int]:
    """Return the first row with a value, and the row after the last such. Raises Unreadable for none."""
    rows = np.flatnonzero(filled(states))
    if not len(rows):
        raise Unreadable(NOTHING)
    return int(rows[0]), int(rows[-1]) + 1


def trimmed(padding: Padding) -> Bounds:
    """Return bounds for which rows of nothing but zeros at one end are padding."""

    def bounds(row: int, states: np.ndarray) -> tuple[int, int]:
        first, end = nonzero(states)
        return {"back": (0, end), "front": (first, len(states)), "none": (0, len(states))}[padding]

    return bounds


def counted(lengths: np.ndarray, padding: Padding | None) -> Bounds:
    """Return bounds that take `lengths` (n,) rows from the end without padding; None: from where the rest is zeros."""

    def bounds(row: int, states: np.ndarray) -> tuple[int, int]:
        if not lengths[row] >= 1:
            raise Unreadable(NOTHING if lengths[row] == 0 else f"a length of {lengths[row]:g}")
        length = int(min(lengths[row], len(states)))
        rest = len(states) - length
        front = padding == "front"
        if padding is None and rest:
            holds = filled(states)
            front = bool(holds[length:].any() and not holds[:rest].any())
        return (rest, len(states)) if front else (0, length)

    return bounds


def masks_of(part: Part, text: Rows) -> Rows | None:
    """Return text_bert, (3, T) of each sample (ids, mask, segments); None where it is absent or of other shapes."""
    if not part.has("text_bert"):
        return None
    masks = Rows(part, "text_bert")
    shapes = [(masks.shape(i), text.shape(i)) for i in range(len(text))]
    return masks if all(mask == (3, shape[0]) for mask, shape in shapes if shape) else None


def masked(masks: Rows) -> Bounds:
    """Return bounds from the first to the last row that the mask has."""
    return lambda row, states: nonzero(masks.read(row)[1][:, None])


def aligned_text(part: Part, rows: Rows) -> Rows | None:
    """Return the text of an aligned file (no lengths of sound or face, as many rows of each as of text), else None."""
    if not part.has("text") or part.has("audio_lengths") or part.has("vision_lengths"):
        return None
    text = Rows(part, "text")
    pairs = [(a, b) for i in range(len(text)) if (a := rows.shape(i)) and (b := text.shape(i))]
    same = all(a[0] == b[0] for a, b in pairs) and any(a[0] > 1 for a, _ in pairs)
    return text if same else None


def is_padded(text: Readable, bounds: Bounds) -> bool:
    """Return whether any text of a few dozen is padded with zeros; BERT's states of padding are not zero."""
    for i in range(0, len(text), max(1, len(text) // 64)):
        try:
            states = text.read(i)
            if bounds(i, states) != (0, len(states)):
                return True
        except Unreadable:
            continue
    return False


def as_text(text: Readable, text_bounds: Bounds, alone: Bounds) -> Bounds:
    """Return bounds of the rows the text has and any beyond them that hold values; `alone` where the text has none."""

    def bounds(row: int, states: np.ndarray) -> tuple[int, int]:
        first, end = nonzero(states)
        try:
            begin, stop = text_bounds(row, text.read(row))
        except Unreadable:
            return alone(row, states)
        return min(begin, first), min(max(stop, end), len(states))

    return bounds
