"""predictions.csv: what every seed predicts for every test sample, written and read back."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from msa.types import Task


@dataclass(frozen=True)
class Tested:
    """(corpus, id) of every test sample, labels (n,) or (n, classes), groups (n,) as they are numbered in the run, and
    outputs (n, outputs) of each seed."""

    ids: list[tuple[str, str]]
    y: np.ndarray
    group: np.ndarray
    outputs: list[np.ndarray]


def in_words(task: Task, y: Any, p: np.ndarray) -> tuple[object, ...]:
    """Return the cells of label and, for classes, prediction: y a number or (C,), p (outputs,)."""
    if task.multilabel:
        return task.named(y > 0), task.named(p > 0.5)
    return (task.classes[int(y)], task.classes[int(p.argmax())]) if task.classes else (float(y),)


def as_number(task: Task, label: str) -> Any:
    """Return the label in a cell: a class number, a value, or for several labels which hold."""
    if task.multilabel:
        return [name in label.split(", ") for name in task.classes]
    return task.classes.index(label) if task.classes else float(label)
