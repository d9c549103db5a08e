"""The table of labels beside a folder of files: rows -> samples, and an index -> rows that read the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msa.annotations import labels
from msa.annotations import rows as records
from msa.annotations.cells import Writer
from msa.annotations.labels import Row
from msa.annotations.tasks import Decision, Settings
from msa.cache.exchange import _corpus
from msa.cache.format import layout
from msa.cache.index import Index
from msa.errors import SourceError, StoreError
from msa.types import Modality, Raw, Sample, Task

Columns = Sequence[str]


def decide(columns: Columns, rows: Sequence[Row], task: Task | None, settings: Settings) -> Decision:
    """Return `task`, or else what the labels in the table are. Raises SourceError where a class has no column."""
    if task and task.multilabel and (lacking := [name for name in task.classes if name.lower() not in columns]):
        raise SourceError(
            f"{rows[0].table if rows else 'the table'} has no column {', '.join(lacking)}; "
            f"its first line names {records.listed(columns)}",
            fix="name with labels=... the columns that there are",
        )
    if task:
        return Decision(task, "labels" if task.multilabel else "classes" if task.classes else "regression", "as set")
    return labels.decide(rows, settings, _single(columns))


def _single(columns: Columns) -> list[str]:
    """Return the columns of labels that are one class or one number."""
    return [name for name in _corpus.label_names(Task()) if name in columns]


def sample(row: Row, decision: Decision, columns: Columns, by_group: bool) -> Sample:
    """Return a row as a sample. Raises SourceError for a cell that cannot be meant."""
    text, task, numbers = row.text("text"), decision.task, decision.numbers
    single = () if task.multilabel else [name for name in _single(columns) if name != "label"]
    alone = {name: row.value(task, name, numbers) for name in single}
    return Sample(
        id=row.id,
        label=_several(row, task) if task.multilabel else row.value(task, numbers=numbers),
        raw={Modality.TEXT: Raw(text=text)} if text.strip() else {},
        split=row.split(),
        group=row.group,
        position=row.position(),
        keep_together=row.group if by_group else "",
        modality_labels={Modality(name[6:]): label for name, label in alone.items() if label is not None},
    )


def _several(row: Row, task: Task) -> tuple[float, ...] | None:
    """Return a number per class, NaN where a cell is empty; None where all are."""
    values = [row.value(Task(), name.lower()) for name in task.classes]
    if all(value is None for value in values):
        return None
    return tuple(float("nan") if value is None else float(value) for value in values)


def write(path: Path, index: Index) -> None:
    """Write the samples of an index. Raises StoreError where they would not read the same."""
    called = [name.lower() if index.task.multilabel else name for name in index.label_names]
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = Writer(file)
        table.row(["id", "split", *called, "group", "position", "text"])
        for row, id in enumerate(index.ids):
            part = layout.SPLITS[index.split[row]] if index.split[row] < len(layout.SPLITS) else ""
            cells = [_cell(index.task, value) for value in index.labels[row]]
            table.row([id, part, *cells, index.group[row], int(index.position[row]), index.text[row]])
    _check(path, index)


def _cell(task: Task, value: np.float32) -> str:
    """Return a class's name, or the shortest number that reads as the same float32; nothing for NaN."""
    if np.isnan(value):
        return ""
    if task.single:
        return task.classes[int(value)]
    short = str(value)
    return short if np.float32(float(short)) == value else repr(float(value))


def _check(path: Path, index: Index) -> None:
    """Read it again: a table drops blanks at the ends of cells, and has no place for two columns of one name."""
    try:
        columns, rows = labels.rows(path)
        samples = [sample(row, Decision(index.task, "", ""), columns, by_group=False) for row in rows]
    except SourceError as error:
        raise _unfit(index, error.what.replace(str(path), path.name)) from error
    if len(samples) != len(index):
        raise _unfit(index, f"{len(samples)} rows of {len(index)}")
    for row, again in enumerate(samples):
        split = layout.SPLITS[index.split[row]] if index.split[row] < len(layout.SPLITS) else None
        try:
            label, alone = _corpus.label_of(index.task, index.label_names, index.labels[row])
        except ValueError as error:
            raise _unfit(index, f"the label of {index.ids[row]}: {error}") from error
        raw = again.raw.get(Modality.TEXT)
        same = (
            (again.id, again.split, again.group, again.position, (raw.text if raw else ""))
            == (index.ids[row], split, index.group[row], index.position[row], index.text[row])
            and _equal(again.label, label)
            and again.modality_labels.keys() == alone.keys()
            and all(_equal(value, alone[modality]) for modality, value in again.modality_labels.items())
        )
        if not same:
            raise _unfit(index, f"sample {index.ids[row]!r} would not read the same")


def _equal(a: Any, b: Any) -> bool:
    if a is None or isinstance(a, str):
        return bool(a == b)
    return b is not None and np.array_equal(np.float32(a), np.float32(b), equal_nan=True)


def _unfit(index: Index, what: str) -> StoreError:
    return StoreError(
        f"{index.name} does not fit a table and a folder of files: {what}",
        fix="export it as hdf5, which holds any name",
    )
