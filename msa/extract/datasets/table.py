"""Your own data: a CSV, TSV or JSONL file with one sample per row.

Columns  id, split, label, text, image, audio, video, start, end, group, position; leave out what you lack, others are
         ignored. Paths are relative to the table's folder; start and end are seconds of the audio or video file. A
         row with a video and no audio takes the video's sound. A row without an id is called by its number: row1.
Label    all among negative, neutral, positive: sentiment; all numbers: a regression over their range; else classes.
         Class numbers (0, 1, 2) therefore read as a regression: write names.
Split    train, valid (val, dev, validation) or test; where it is empty a part is drawn, and rows of one group (a
         speaker, video or dialogue) stay together unless split=random.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msa.config import checked
from msa.errors import SourceError
from msa.extract.datasets import _rows
from msa.extract.datasets._layout import in_order, misplaced
from msa.extract.splits import NAMES
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Source, Split, Task

TASK: Task | None = None  # depends on the labels: see task()
SOURCE = Source(
    title="The table",
    home="your own files",
    licence="whatever the owner of the data allows",
    redistribution=False,  # nobody here can know, so passing features on has to be a decision of the user's
    citation="",
    layout="NAME.csv, NAME.tsv or NAME.jsonl, columns among: id, split, label, text, image, audio, video, start, end, "
    "group, position",
)
COLUMNS = ("id", "split", "label", "text", "image", "audio", "video", "start", "end", "group", "position")


@dataclass(frozen=True)
class Config:
    split: Literal["by_group", "random"] = "by_group"  # what stays together when parts are drawn

    def __post_init__(self) -> None:
        checked(self)


def name(root: Path) -> str:
    """The corpus's name: the file's, without its ending. Raises SourceError where it would be taken for another's."""
    others = {path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[!_]*.py")} - {"table"}
    if root.stem in others or set("+@") & set(root.stem):
        raise SourceError(
            f"{root.name} would be called {root.stem!r}, which is a corpus of its own or joins corpora in --data",
            fix="rename the file: its name, without the ending, is what the corpus is called",
        )
    return root.stem


def task(root: Path, config: Config = Config()) -> Task:
    """What the labels are, judged from all of them; a Task without range or classes where there is none."""
    return _task([label for row in _table(root) if (label := row.label()) is not None])


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Every row of the table at `root`, by id."""
    rows = _table(root)
    _check_ids(rows)
    _check_files(rows)
    kind = _task([label for row in rows if (label := row.label()) is not None])
    return in_order(_sample(row, kind, config) for row in rows)


@dataclass(frozen=True)
class _Row:
    """A row of the table, with what an error has to say about where it is."""

    table: Path
    line: int
    number: int  # of the row: 1 for the first below the header
    cells: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.text("id").strip() or f"row{self.number}"

    def error(self, what: str, fix: str) -> SourceError:
        return SourceError(f"{self.table}, line {self.line}: {what}", fix=fix)

    def text(self, column: str) -> str:
        """The cell as it stands; "" where it is empty."""
        cell = self.cells.get(column, "")
        if isinstance(cell, str):
            return cell
        if isinstance(cell, (bool, list, dict)):
            raise self.error(f"{column} holds {cell!r}", fix="a cell is a text or a number")
        return str(cell)

    def amount(self, column: str) -> float | None:
        """The cell as a number from 0 on; None where it is empty."""
        cell = self.text(column)
        amount = _number(cell) if cell else None
        if cell and (amount is None or not 0 <= amount < math.inf):
            raise self.error(f"{column} is {cell!r}", fix="write a number >= 0, or leave the cell empty")
        return amount

    def path(self, column: str) -> Path | None:
        """The cell as a path, relative to the table's folder."""
        cell = self.text(column).strip()
        return self.table.parent / cell if cell else None

    def label(self) -> str | None:
        """The label as it is written; a `nan` that some program wrote for "no label" is refused, not learned."""
        cell = self.text("label").strip()
        if cell and not math.isfinite(_number(cell) or 0.0):
            raise self.error(f"the label is {cell!r}", fix="leave the cell empty where nobody labelled the sample")
        return cell or None

    def split(self) -> Split | None:
        cell = self.text("split").strip().lower()
        if cell and cell not in NAMES:
            raise self.error(f"split is {cell!r}", fix=f"use one of {', '.join(NAMES)}, or leave the cell empty")
        return NAMES.get(cell)


def _table(root: Path) -> list[_Row]:
    if not root.is_file():
        raise misplaced(SOURCE, root, "a folder, not a file" if root.is_dir() else "no such file")
    columns, rows = _rows.read(root)
    if not set(columns) & set(COLUMNS):
        raise misplaced(SOURCE, root, f"none of its columns is known: {', '.join(columns) or 'there are none'}")
    return [_Row(root, line, number, cells) for number, (line, cells) in enumerate(rows, start=1)]


def _check_ids(rows: Sequence[_Row]) -> None:
    first: dict[str, _Row] = {}
    for row in rows:
        if (other := first.setdefault(row.id, row)) is not row:
            raise row.error(f"id {row.id!r} is already in line {other.line}", fix="give every row an id of its own")


def _check_files(rows: Sequence[_Row]) -> None:
    """One lost file is extraction's to report; if all are lost the paths mean another folder, which is said at once."""
    paths = [path for row in rows for column in ("image", "audio", "video") if (path := row.path(column))]
    if paths and not any(path.exists() for path in paths):
        raise SourceError(
            f"{rows[0].table}: none of the {len(paths)} files it names exists, not even {paths[0]}",
            fix=f"write the paths relative to the table's folder, {rows[0].table.parent}, or in full",
        )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _task(labels: Sequence[str]) -> Task:
    if not labels:
        return Task()
    if {label.lower() for label in labels} <= set(SENTIMENT.classes):
        return SENTIMENT
    odd = {label for label in labels if label.lower() not in SENTIMENT.classes}
    if len(labels) >= 10 * sum(label in odd for label in labels):
        raise SourceError(
            f"all labels but {', '.join(map(repr, sorted(odd)))} are among {', '.join(SENTIMENT.classes)}",
            fix="correct them in the table; labels of your own kind must be the rule, not the exception",
        )
    numbers = [number for label in labels if (number := _number(label)) is not None]
    if len(numbers) == len(labels):
        return Task(low=min(numbers), high=max(numbers))
    return Task(classes=tuple(sorted(set(labels))))


def _sample(row: _Row, kind: Task, config: Config) -> Sample | Dropped:
    raw = _raw(row)
    if not raw:
        return Dropped(row.id, "no text, image, audio or video", f"line {row.line}")
    label, group = row.label(), row.text("group").strip()
    position = row.amount("position") or 0.0
    if position != int(position):
        raise row.error(f"position is {position}", fix="write a whole number: 0 for the first in its group")
    return Sample(
        id=row.id,
        label=label if label is None else _as(kind, label),
        raw=raw,
        split=row.split(),
        group=group,
        position=int(position),
        keep_together=group if config.split == "by_group" else "",
    )


def _as(kind: Task, label: str) -> str | float:
    if not kind.classes:
        return float(label)
    return label.lower() if kind is SENTIMENT else label


def _raw(row: _Row) -> dict[Modality, Raw]:
    """What the row has; the sound of a video stands in for an audio file."""
    start, end = row.amount("start") or 0.0, row.amount("end")
    if end is not None and end <= start:
        raise row.error(f"the span ends at {end} s and starts at {start} s", fix="write an end after the start")
    raw = {Modality.TEXT: Raw(text=row.text("text"))} if row.text("text") else {}
    if image := row.path("image"):
        raw[Modality.IMAGE] = Raw(path=image)
    if sound := row.path("audio") or row.path("video"):
        raw[Modality.AUDIO] = Raw(path=sound, start=start, end=end)
    return raw
