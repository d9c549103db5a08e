"""Rows of a table of labelled samples as people write them: id, split, label, group; and what task the labels are.

Label    all among negative, neutral, positive: sentiment; all numbers: classes or a scale, see annotations/tasks.py;
         else classes, in alphabetical order. Upper and lower case mean the same where no classes differ by it alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msa.annotations import rows as records
from msa.annotations import tasks
from msa.annotations.splits import NAMES
from msa.annotations.tasks import Decision, Settings
from msa.errors import ConfigError, SourceError
from msa.types import SENTIMENT, Split, Task

NEAR = 1e-6  # labels went through float32 somewhere: 2.8000002 is not outside of [-2.8, 2.8]


@dataclass(frozen=True)
class Row:
    """Row of a table, with the place that an error about it names."""

    table: Path
    line: int
    number: int  # of the row: 1 for the first below the header
    cells: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self._name("id") or f"row{self.number}"

    @property
    def group(self) -> str:
        return self._name("group")

    def _name(self, column: str) -> str:
        """Return a cell that tells samples apart. Raises SourceError for what a spreadsheet program made of one."""
        cell = self.text(column).strip()
        if records.spoiled(cell):
            raise self.error(
                f"the {column} is {cell!r}: a spreadsheet program took it for a formula or a number",
                fix="get the table as it was before, or import it with this column as text",
            )
        return cell

    def error(self, what: str, fix: str) -> SourceError:
        return SourceError(f"{self.table}, line {self.line}: {what}", fix=fix)

    def text(self, column: str) -> str:
        """Return the cell as it stands; "" where it is empty."""
        cell = self.cells.get(column, "")
        if isinstance(cell, str):
            return cell
        if isinstance(cell, (bool, list, dict)):
            held = cell if isinstance(cell, bool) else f"a {type(cell).__name__}"
            raise self.error(f"{column} holds {held}", fix="a cell is a text or a number")
        return str(cell)

    def amount(self, column: str) -> float | None:
        """Return the cell as a number from 0 on; None where it is empty."""
        cell = self.text(column)
        amount = _number(cell) if cell else None
        if cell and (amount is None or not 0 <= amount < math.inf):
            raise self.error(f"{column} is {cell!r}", fix="write a number >= 0, or leave the cell empty")
        return amount

    def position(self) -> int:
        """Return the place in the group; 0 where the cell is empty."""
        position = self.amount("position") or 0.0
        if position != int(position):
            raise self.error(f"position is {position}", fix="write a whole number: 0 for the first in its group")
        return int(position)

    def split(self, column: str = "split") -> Split | None:
        """Return the split; None where the cell is empty. Raises SourceError for another name."""
        cell = self.text(column).strip().lower()
        if cell and cell not in NAMES:
            raise self.error(f"{column} is {cell!r}", fix=f"use one of {', '.join(NAMES)}, or leave the cell empty")
        return NAMES.get(cell)

    def label(self, column: str = "label") -> str | None:
        """Return the label as it is written; a `nan` that some program wrote for "no label" is refused, not learned."""
        cell = self.text(column).strip()
        if cell.startswith("#") and records.spoiled(cell):
            raise self.error(
                f"the {column} is {cell!r}, an error of a spreadsheet program",
                fix="write the label, or leave the cell empty where the sample has no label",
            )
        if cell and not math.isfinite(_number(cell) or 0.0):
            raise self.error(f"the {column} is {cell!r}", fix="leave the cell empty where the sample has no label")
        return cell or None

    def value(
        self, task: Task, column: str = "label", numbers: Mapping[float, str] = MappingProxyType({})
    ) -> str | float | None:
        """Return the label as the task has it; None where the cell is empty. Raises SourceError for any other.

        `numbers` names the classes of a table that has their numbers.
        """
        label = self.label(column)
        if label is None:
            return None
        if task.single and label not in task.classes:
            label = numbers.get(_number(label) or 0.0, label) if _number(label) is not None else label
        if task.single:
            near = [name for name in task.classes if name.lower() == label.lower()]
            if label not in task.classes and len(near) != 1:
                raise self.error(f"the {column} is {label!r}", fix=f"use one of {', '.join(task.classes)}")
            return label if label in task.classes else near[0]
        number = _number(label)
        if number is None:
            raise self.error(f"the {column} is {label!r}", fix="write a number, or leave the cell empty")
        if task.low < task.high and not task.low - NEAR <= number <= task.high + NEAR:
            raise self.error(
                f"the {column} is {label}, and labels go from {task.low:g} to {task.high:g}",
                fix="correct the label, or the range: --set range=LOW,HIGH; --set task=classes if it is a class",
            )
        return number


def rows(table: Path, names: Mapping[str, str] = MappingProxyType({})) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a CSV, TSV or JSONL file. Raises SourceError where two rows have one id.

    `names` says which column of the file stands for which of msa's, such as {"label": "sentiment"}.
    """
    columns, lines = records.read(table)
    if lost := [f"{column}:{called}" for column, called in names.items() if called not in columns]:
        raise SourceError(
            f"{table} has no column for {', '.join(lost)}; it has {records.listed(columns)}",
            fix="name the columns as the first line of the table does",
        )
    if names:
        columns_by_name = {called: column for column, called in names.items()}
        columns = [columns_by_name.get(name, "" if name in names else name) for name in columns]
        lines = [
            (line, {columns_by_name.get(n, n): c for n, c in cells.items() if n in columns_by_name or n not in names})
            for line, cells in lines
        ]
    read = [Row(table, line, number, cells) for number, (line, cells) in enumerate(lines, start=1)]
    first: dict[str, Row] = {}
    for row in read:
        if (other := first.setdefault(row.id, row)) is not row:
            raise row.error(f"id {row.id!r} is already in line {other.line}", fix="give every row an id of its own")
    return columns, read


def decide(rows: Sequence[Row], settings: Settings = Settings(), columns: Sequence[str] = ("label",)) -> Decision:
    """Return what the labels in these columns are, judged from all of them where `settings` does not say it.

    Raises SourceError for a few labels that are unlike all others, ConfigError for labels that `settings` does not fit.
    """
    import numpy as np

    labels = [label for row in rows for column in columns if (label := row.label(column)) is not None]
    numbers = [number for label in labels if (number := _number(label)) is not None]
    if settings.range or len(numbers) == len(labels):
        return tasks.of_numbers(np.array(numbers, np.float64), settings)
    if settings.task == "regression":
        word = next(label for label in labels if _number(label) is None)
        raise ConfigError(f"task is regression, and {word!r} is no number", fix="correct it in the table")
    if settings.classes:
        return Decision(Task(classes=settings.classes), "classes", "as set")
    odd = {label for label in labels if label.lower() not in SENTIMENT.classes}
    if not odd:
        return Decision(SENTIMENT, "classes", "texts")
    if len(labels) >= 10 * sum(label in odd for label in labels):
        raise SourceError(
            f"{rows[0].table}: all labels but {', '.join(map(repr, sorted(odd)))} are among "
            f"{', '.join(SENTIMENT.classes)}",
            fix="correct them in the table; labels of your own kind must be the rule, not the exception",
        )
    return Decision(Task(classes=tuple(sorted(set(labels)))), "classes", "texts")


def task_of(rows: Sequence[Row], limits: Sequence[float] = (), columns: Sequence[str] = ("label",)) -> Task:
    """Return the task of `decide` where the user sets no more than a range."""
    return decide(rows, Settings(range=tuple(limits)), columns).task


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
