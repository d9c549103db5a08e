"""MulT's and MultiBench's pickles: {train, valid, test} of arrays padded at the front. Read only.

Layout   {split: {text, vision, audio, labels, id}}: text is word vectors (GloVe, 300 wide), labels (n, 1, 1) one value
         each: a scale or classes, see annotations/tasks.py; the import prints which. Several columns, such as IEMOCAP's
         (n, 4, 2) of no and yes or MOSEI's (n, 6), are labels that hold several at a time; where exactly one of them
         is 1 in each row, they are classes.
Ids      (n,), or (n, 3) of video, start and end in seconds, text or bytes: then samples are called video[start-end],
         and a video is a group in the order of its starts. `video[3]` names the third segment of a video.
Lengths  rows of nothing but zeros **before** the first value are padding. In aligned files (as many rows in all three)
         sound and face have the rows the text has, and any before them that hold values.
Values   some releases hold -inf and NaN where an extractor met silence; the import counts them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msa.annotations import tasks
from msa.cache.exchange import _pickle
from msa.cache.exchange._arrays import ArrayOnFile
from msa.cache.exchange._columns import Part, is_column, items, number, parts, string
from msa.cache.exchange._foreign import Foreign
from msa.cache.exchange._padded import (
    LONGEST_ID,
    Row,
    TaskName,
    assembled,
    classed,
    in_clips,
    placed,
    without_ids,
)
from msa.config import checked
from msa.errors import SourceError

MOST_LABELS = 1000
NAMES = {  # of several labels, by their number: of IEMOCAP in MulT's order, of CMU-MOSEI in the SDK's
    4: ("neutral", "happy", "sad", "angry"),
    6: ("happy", "sad", "anger", "surprise", "disgust", "fear"),
}
LAYOUT = "{train, valid, test}{text, vision, audio, labels, id}, padded at the front"


@dataclass(frozen=True)
class Config:
    task: TaskName = "auto"  # what labels are; mosi: from -3 to 3, sims: from -1 to 1; auto: judged from them
    range: tuple[float, ...] = ()  # low, high of labels that are another scale: 0,5
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    vision: Literal["face", "image"] = "face"  # what `vision` shows
    padding: Literal["front", "back", "none"] = "front"  # at which end

    def __post_init__(self) -> None:
        checked(self)
        tasks.Settings.of(self)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return the dataset in a pickle of this family, called `name` or as the file is. Raises SourceError."""
    splits = parts(path, _pickle.load(path))
    _check_family(splits)
    columns = [_columns(part) for part in splits]
    decision, values = _judged(splits, columns, tasks.Settings.of(config))
    rows = [row for number, part in enumerate(splits) for row in _rows(number, part, decision, values[number])]
    return assembled("mult", LAYOUT, splits, rows, config, config.padding, without_ids(splits), name, decision)


def _check_family(splits: Sequence[Part]) -> None:
    mmsa_keys = {"regression_labels", "raw_text", "text_bert", "classification_labels", "annotations"}
    if any(mmsa_keys & part.values.keys() for part in splits):
        raise SourceError(
            f"{splits[0].path} is of the family of MMSA: it has "
            f"{', '.join(sorted(mmsa_keys & set().union(*(part.values for part in splits))))}",
            fix="import it with the format mmsa",
        )


def _columns(part: Part) -> np.ndarray:
    """Labels (n,), or (n, k) and (n, k, 2) where a sample has several; NaN where there are none."""
    if not part.has("labels"):
        return np.full(part.size, np.nan)
    values = part.column("labels")
    shape = values.shape if isinstance(values, np.ndarray | ArrayOnFile) else ()
    width = math.prod(shape[1:])
    if not part.size or width == 1 or len(shape) not in (2, 3):
        return part.numbers("labels")
    array = values.whole() if isinstance(values, ArrayOnFile) else values
    if array.dtype.kind not in "biuf" or not 1 < width <= MOST_LABELS:
        raise part.odd("labels", f"numbers, one or up to {MOST_LABELS} of a sample")
    plain: np.ndarray = array.astype(np.float64)
    return plain if plain.ndim == 3 and plain.shape[2] == 2 else plain.reshape(part.size, width)


def _judged(
    splits: Sequence[Part], columns: Sequence[np.ndarray], settings: tasks.Settings
) -> tuple[tasks.Decision, list[np.ndarray]]:
    """Return what the labels of all splits are, and those of each as (n,) numbers or, of several at a time, (n, k)."""
    if len({column.shape[1:] for column in columns}) > 1:
        raise splits[0].odd("labels", "as many labels of a sample as in the other splits")
    together = np.concatenate(columns)
    if together.ndim == 1:
        return tasks.of_numbers(together, settings, scales=True), list(columns)
    decision, values = tasks.of_columns(together, settings, NAMES)
    return decision, np.split(values, np.cumsum([len(column) for column in columns])[:-1])


def _rows(number: int, part: Part, decision: tasks.Decision, values: np.ndarray) -> list[Row]:
    """Return the samples of a split, in the file's order, with their labels as the task has them."""
    names = _names(part)
    if decision.task.multilabel:
        return [Row(number, i, *names[i], label=tuple(values[i].tolist())) for i in range(part.size)]
    rows = [Row(number, i, *names[i], label=float(values[i])) for i in range(part.size)]
    return [classed(row, decision) for row in rows] if decision.task.single and decision.kind != "none" else rows


def _names(part: Part) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Id, video and place in it of every sample."""
    if not part.has("id"):
        return [(id, "", ()) for id in placed(part)]
    try:
        return [_name(entry) for entry in items(part.column("id"))]
    except (TypeError, ValueError) as error:
        raise part.odd("id", "names, or video, start and end", error) from error


def _name(entry: Any) -> tuple[str, str, tuple[Any, ...]]:
    if is_column(entry) and len(entry) == 3:
        video, start, end = (_plain(value) for value in entry)
        id = f"{video}[{start}-{end}]"
        return id, video, (["", number(start)], id)  # as `natural` has numbers
    id = string(entry[0] if is_column(entry) and len(entry) == 1 else entry)
    if not 0 < len(id) <= LONGEST_ID:
        raise ValueError("one is empty" if not id else f"one of {len(id):,} characters")
    return id, *in_clips(id)


def _plain(value: Any) -> str:
    """Return a text, or a number as it is written."""
    text = str(value) if isinstance(value, float | np.floating) else string(value)
    if len(text) > LONGEST_ID:
        raise ValueError(f"one of {len(text):,} characters")
    return text
