"""MulT's and MultiBench's pickles: {train, valid, test} of arrays padded at the front. Read only.

Layout   {split: {text, vision, audio, labels, id}}: text is word vectors (GloVe, 300 wide), labels (n, 1, 1) one value
         from -3 to 3. IEMOCAP's labels (n, 4, 2) and the emotions of MOSEI are refused.
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

from msa.cache.exchange import _pickle
from msa.cache.exchange._arrays import ArrayOnFile
from msa.cache.exchange._columns import Part, is_column, items, number, parts, string
from msa.cache.exchange._padded import LONGEST_ID, Row, assembled, in_clips, placed, without_ids
from msa.cache.foreign import Foreign
from msa.config import checked
from msa.errors import SourceError

LAYOUT = "{train, valid, test}{text, vision, audio, labels, id}, padded at the front"


@dataclass(frozen=True)
class Config:
    task: Literal["auto", "mosi", "sims"] = "auto"  # labels from -3 to 3 or from -1 to 1; auto: judged from them
    vision: Literal["face", "image"] = "face"  # what `vision` shows
    padding: Literal["front", "back", "none"] = "front"  # at which end

    def __post_init__(self) -> None:
        checked(self)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """The corpus in a pickle of this family, called `name` or as the file is. Raises SourceError."""
    found = parts(path, _pickle.load(path))
    _check_family(found)
    rows = [row for number, part in enumerate(found) for row in _rows(number, part)]
    return assembled("mult", LAYOUT, found, rows, config, config.padding, without_ids(found), name)


def _check_family(found: Sequence[Part]) -> None:
    theirs = {"regression_labels", "raw_text", "text_bert", "classification_labels", "annotations"}
    if any(theirs & part.values.keys() for part in found):
        raise SourceError(
            f"{found[0].path} is of the family of MMSA: it has "
            f"{', '.join(sorted(theirs & set().union(*(part.values for part in found))))}",
            fix="import it with the format mmsa",
        )
    for part in found:
        labels = part.values.get("labels")
        shape = labels.shape if isinstance(labels, np.ndarray | ArrayOnFile) else ()
        if shape and part.size and math.prod(shape) != part.size:
            raise SourceError(
                f"{part.where('labels')} has the shape {list(shape)}: emotions, or several labels of a sample",
                fix="only one sentiment per sample is read: write the label that is meant into an array (n, 1, 1)",
            )


def _rows(number: int, part: Part) -> list[Row]:
    """The samples of a split, in the file's order."""
    names = _names(part)
    labels = part.numbers("labels") if part.has("labels") else np.full(part.size, np.nan)
    return [Row(number, i, *names[i], label=float(labels[i])) for i in range(part.size)]


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
    """A text, or a number as it is written."""
    found = str(value) if isinstance(value, float | np.floating) else string(value)
    if len(found) > LONGEST_ID:
        raise ValueError(f"one of {len(found):,} characters")
    return found
