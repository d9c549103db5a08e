"""MAG-BERT's pickles (mosi.pkl, mosei.pkl): {train, dev, test} of lists of samples. Read only.

Layout   {split: [((words, visual, acoustic), label, segment), ...]}: words is a list of n words, visual (n, D) and
         acoustic (n, D) are aligned to them, label one number or an array (1, 1), segment the id.
Ids      The segment: `video[3]` or `video$_$3` are grouped by video, in the order of their numbers.
Features audio and vision. The words become the text, from which hidden states of any text encoder can be extracted.
Labels   A scale from -3 to 3 as in CMU-MOSI, or classes, as msa/annotations/tasks.py decides and the import prints.
Lengths  Every row is true: nothing is padded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msa.annotations import tasks
from msa.annotations.splits import NAMES
from msa.cache.exchange import _pickle
from msa.cache.exchange._columns import Part, check_rows, is_column, items, number, string
from msa.cache.exchange._foreign import Foreign
from msa.cache.exchange._padded import Row, TaskName, assembled, in_clips, judged
from msa.config import checked
from msa.errors import SourceError

LAYOUT = "{train, dev, test}[((words, visual, acoustic), label, segment)]"
FIX = f"is it the right file? Known are {LAYOUT}"


@dataclass(frozen=True)
class Config:
    task: TaskName = "auto"  # what labels are; mosi: from -3 to 3, sims: from -1 to 1; auto: judged from them
    range: tuple[float, ...] = ()  # low, high of labels that are another scale: 0,5
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    vision: Literal["face", "image"] = "face"  # what `visual` shows

    def __post_init__(self) -> None:
        checked(self)
        tasks.Settings.of(self)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return the dataset in a pickle of MAG-BERT's, called `name` or as the file is. Raises SourceError."""
    top = _pickle.load(path)
    if not isinstance(top, dict):
        raise SourceError(f"{path} holds a {type(top).__name__}, not a dict of splits", fix=FIX)
    splits = {str(key): value for key, value in top.items() if str(key).lower() in NAMES and is_column(value)}
    if not splits or len({NAMES[key.lower()] for key in splits}) < len(splits):
        raise SourceError(f"{path} has no lists of train, dev and test, or one of them twice", fix=FIX)
    parts: list[Part] = []
    rows: list[Row] = []
    for split, samples in splits.items():
        part, of_part = _part(path, split, samples, len(parts))
        parts.append(part)
        rows += of_part
    decision, labelled = judged(rows, tasks.Settings.of(config))
    return assembled("mag", LAYOUT, parts, labelled, config, "none", {}, name, decision)


def _part(path: Path, split: str, samples: Sequence[Any], place: int) -> tuple[Part, list[Row]]:
    """One split and its samples. Raises SourceError for another layout."""
    check_rows(path, split, len(samples))
    columns: dict[str, list[Any]] = {"vision": [], "audio": []}
    rows: list[Row] = []
    left = 4 * path.stat().st_size + (1 << 24)  # characters: one list of words may be named again and again
    for i, sample in enumerate(samples):
        try:
            (words, visual, acoustic), label, segment = sample
            text, left = _text(words, left)
            id = string(segment)
            rows.append(Row(place, i, id, *in_clips(id), text=text, label=number(label)))
        except (TypeError, ValueError) as error:
            raise SourceError(f"{path}: sample {i} of {split} is none: {error}", fix=FIX) from error
        columns["vision"].append(visual)
        columns["audio"].append(acoustic)
    values: Mapping[str, Any] = columns
    return Part(path, split, NAMES[split.lower()], values, len(samples)), rows


def _text(words: Any, left: int) -> tuple[str, int]:
    """Return the words with blanks between them, and how many characters are left. Raises TypeError and ValueError."""
    if not is_column(words):
        raise TypeError(f"a {type(words).__name__} in place of words")
    texts = []
    for word in items(words):
        texts.append(string(word))
        left -= len(texts[-1]) + 1
        if left < 0:
            raise ValueError("more words than the file holds: they are shared among samples")
    return " ".join(texts), left
