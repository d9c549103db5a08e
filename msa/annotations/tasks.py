"""What task a column of labels is: classes, a scale, or several labels at a time; and why, in a sentence.

One decision for every import and for tables, from what the labels are. It is printed each time, with the setting that
says otherwise, since some labels can mean two things:

- words are classes, and `negative, neutral, positive` are sentiment; so are -1, 0 and 1;
- two whole numbers, or whole numbers without a gap from 0 or 1 on (at most MOST_CLASSES), are classes;
- fractions, negative whole numbers below -1, and whole numbers with gaps are a scale as far as they reach. In files of
  this field (`scales`) that is [-3, 3] as in CMU-MOSI or [-1, 1] as in CH-SIMS, where the labels fit there.

A setting comes before all that: task, range (low, high) and classes (names in the order of the class numbers).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from msa.errors import ConfigError
from msa.types import SENTIMENT, Task

if TYPE_CHECKING:
    import numpy as np

MOST_CLASSES = 20  # of whole numbers that are classes without a setting
OUTLIERS = 0.1  # of labels that may lie outside of a known scale and are taken for mistakes
SCALES = {"mosi": Task(low=-3.0, high=3.0), "sims": Task(low=-1.0, high=1.0)}
CALLED = {"mosi": "CMU-MOSI", "sims": "CH-SIMS"}
SAY = "say what they are: --set task=classes, with --set classes=a,b,c for names, or --set range=LOW,HIGH for a scale"


class Options(Protocol):
    """The options of a format or dataset that say what its labels are."""

    @property
    def task(self) -> str: ...
    @property
    def range(self) -> tuple[float, ...]: ...
    @property
    def classes(self) -> str: ...  # names, parted by commas


@dataclass(frozen=True)
class Settings:
    """What a user says of the labels; equal to `Settings()` where nothing is said."""

    task: str = "auto"  # auto, classes, regression, or the name of a scale
    range: tuple[float, ...] = ()  # low, high
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Options, task: str | None = None) -> "Settings":
        """Return what the options of a format or dataset say; `task` takes the place of the option of that name.

        Raises ConfigError for a range that is none, and where options contradict each other.
        """
        task, range = config.task if task is None else task, config.range
        if range and not (len(range) == 2 and -math.inf < range[0] < range[1] < math.inf):
            raise ConfigError(f"range is {tuple(range)}", fix="give the lowest and the highest label: range=-3,3")
        names = tuple(name.strip() for name in config.classes.split(",") if name.strip())
        if len(set(names)) < len(names):
            raise ConfigError(f"classes={config.classes} names a class twice", fix="name each class once")
        if names and (range or task in ("regression", *SCALES)):
            raise ConfigError(
                "classes names classes, and range or task asks for a scale", fix="say one of the two of the labels"
            )
        if range and task not in ("auto", "regression"):
            raise ConfigError(f"range is of a scale, and task is {task}", fix="leave one of the two out")
        return cls(task, tuple(range), names)


@dataclass(frozen=True)
class Decision:
    """A task, what it is called, and why it is this one."""

    task: Task
    kind: str  # none, classes, regression, labels, mosi, sims
    why: str
    instead: str = ""  # the settings that say otherwise
    numbers: Mapping[float, str] = field(default_factory=dict)  # label as a number -> name of its class

    @property
    def sentence(self) -> str:
        """What the labels are, why, and how to say otherwise."""
        what = describe(self.task)
        return f"{what} ({self.why})" + (f"; {self.instead}" if self.instead else "")

    def label(self, value: float) -> str | float | None:
        """Return the label of a sample: the name of its class, or the value; None for NaN.

        Raises ValueError for no class.
        """
        if value != value:  # NaN
            return None
        if not self.task.single:
            return float(value)
        if value not in self.numbers:
            raise ValueError(f"{value:g} is the number of no class")
        return self.numbers[value]


def describe(task: Task) -> str:
    """Return a task in words."""
    if task.multilabel:
        return f"{len(task.classes)} labels at a time, {_listed(task.classes)}"
    if task.classes:
        return f"{len(task.classes)} classes {_listed(task.classes)}"
    if not task.low < task.high:
        return "a scale without a range" if task.low or task.high else "none"
    rules = {(scale.low, scale.high): f", scored as {CALLED[name]}" for name, scale in SCALES.items()}
    return f"a scale from {task.low:g} to {task.high:g}{rules.get((task.low, task.high), '')}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:9], "..."] if len(names) > 9 else names)


def of_numbers(
    labels: "np.ndarray", settings: Settings = Settings(), scales: bool = False, apart: bool = False
) -> Decision:
    """Return what numeric labels (n,) are; NaN stands for none.

    Args:
        labels: the values, of any number type.
        settings: what the user says.
        scales: the file is of a format that holds sentiment from -3 to 3 or from -1 to 1, if it holds a scale.
        apart: single modalities are labelled, too, as in CH-SIMS.

    Raises:
        ConfigError: the labels are not what the user says.
    """
    import numpy as np

    known = labels[np.isfinite(labels)].astype(np.float64)
    values = np.unique(known)
    whole = bool(len(values)) and bool((values == np.round(values)).all())
    if settings.task in SCALES:
        return Decision(SCALES[settings.task], settings.task, "as set")
    if settings.range:
        return Decision(Task(low=settings.range[0], high=settings.range[1]), "regression", "as set")
    if not len(values):
        return Decision(Task(classes=settings.classes), "none", "no sample has a label")
    reach = Task(low=float(values[0]), high=float(values[-1]))
    if settings.task == "labels":
        raise ConfigError("the labels are said to be several at a time, and a sample has one", fix="leave out task")
    if settings.task == "classes" or settings.classes:
        return _classes(values, whole, settings.classes)
    if settings.task == "regression":
        return Decision(reach, "regression", f"as set, as far as {len(known):,} labels reach")
    if apart and scales and (np.abs(values) <= 1).all():
        return Decision(SCALES["sims"], "sims", "modalities are labelled apart", _classes_instead(whole))
    if whole and _are_classes(values):
        low, high = values[0], values[-1]
        instead = f"--set task=regression or --set range={low:g},{high:g} if they are a scale"
        return _named(values, f"whole numbers, {len(values)} distinct values", instead)
    if scales and (scale := _scale(known)):
        far = int((np.abs(known) > 1).sum())
        why = f"{far:,} of {len(known):,} labels lie beyond 1"
        return Decision(SCALES[scale], scale, why, _classes_instead(whole, "--set range=LOW,HIGH for another scale"))
    kind = "whole numbers" if whole else "numbers with fractions"
    why = f"{kind}, {len(values):,} distinct values, as far as they reach"
    return Decision(reach, "regression", why, _classes_instead(whole, "--set range=LOW,HIGH for its ends"))


def _classes_instead(whole: bool, other: str = "") -> str:
    return " or ".join(filter(None, [other, "--set task=classes if they are classes" if whole else ""]))


def _are_classes(values: "np.ndarray") -> bool:
    """Return whether distinct whole numbers, sorted, are class numbers. One alone says nothing."""
    n = len(values)
    if n == 2 or values.tolist() == [-1, 0, 1]:
        return True
    return 2 < n <= MOST_CLASSES and values[0] in (0, 1) and values[-1] - values[0] == n - 1


def _scale(known: "np.ndarray") -> str:
    """Return the scale of this field that nearly all labels lie in; "" for none."""
    import numpy as np

    size = np.abs(known)
    if (size > 3).mean() > OUTLIERS:
        return ""
    if (size > 1).any():
        return "mosi" if (known < 0).any() or (size > 3).any() or known.max() > 1 else ""
    return "sims" if (known < 0).any() or not (known > 0).any() else ""


def _classes(values: "np.ndarray", whole: bool, names: Sequence[str]) -> Decision:
    """Classes, as the user says, of distinct values; with names, in the order of the class numbers."""
    import numpy as np

    if not whole:
        raise ConfigError(
            f"the labels are said to be classes, and {values[values != np.round(values)][0]:g} is no class number",
            fix="leave out task and classes: labels with fractions are a scale",
        )
    if not names:
        return _named(values, "as set", "")
    k = len(names)
    for numbers in (np.arange(k), np.arange(1, k + 1), values if len(values) == k else values[:0]):
        if np.isin(values, numbers).all():
            task = Task(classes=tuple(names))
            return Decision(task, "classes", "as set", numbers=dict(zip(map(float, numbers), names, strict=True)))
    raise ConfigError(
        f"classes names {k} classes, and the labels are {_listed([f'{value:g}' for value in values])}",
        fix="name one class for each number, in their order, from 0 or from 1 on",
    )


def _named(values: "np.ndarray", why: str, instead: str) -> Decision:
    """Classes called by their numbers; -1, 0, 1 are sentiment."""
    if values.tolist() == [-1, 0, 1]:
        numbers = dict(zip((-1.0, 0.0, 1.0), SENTIMENT.classes, strict=True))
        return Decision(SENTIMENT, "classes", f"-1, 0, 1: {why}", instead, numbers)
    numbers = {float(value): f"{value:.0f}" for value in values}
    return Decision(Task(classes=tuple(numbers.values())), "classes", why, instead, numbers)


def of_classes(names: Sequence[str], why: str) -> Decision:
    """Labels that are class numbers from 0 on, of the classes `names`."""
    numbers = {float(number): name for number, name in enumerate(names)}
    return Decision(Task(classes=tuple(names)), "classes", why, "--set classes=a,b,c for other names", numbers)


def of_columns(
    labels: "np.ndarray", settings: Settings, known: Mapping[int, Sequence[str]]
) -> tuple[Decision, "np.ndarray"]:
    """Return what labels of several columns are, and the labels as (n, k) or (n,).

    Rows with a single 1 among zeros are one class each; all else are labels that hold several at a time.

    Args:
        labels: (n, k), or (n, k, 2) with a pair for no and yes; NaN where there is none.
        settings: what the user says.
        known: names of the columns by how many there are, where `settings` have none.

    Raises:
        ConfigError: there are other names than columns.
    """
    import numpy as np

    pairs = labels.ndim == 3 and labels.shape[2] == 2 and bool((np.nansum(labels, 2) == 1).all())
    values = labels[..., 1] if pairs else labels.reshape(len(labels), -1)
    k = values.shape[1]
    if settings.classes and len(settings.classes) != k:
        raise ConfigError(
            f"classes names {len(settings.classes)} labels, and a sample has {k}", fix="name one for each"
        )
    names = tuple(settings.classes or known.get(k, [str(i) for i in range(k)]))
    one_hot = bool((np.isin(values, (0, 1)).all(1) & (values.sum(1) == 1)).all()) and not pairs
    if settings.task == "classes" or (one_hot and settings.task == "auto"):
        if not one_hot:
            raise ConfigError("the labels are said to be classes, and several hold at a time", fix="--set task=labels")
        why = f"{k} columns, of which one is 1 in each row"
        return of_classes(names, why), values.argmax(1).astype(np.float64)
    why = f"{k} columns" + (" of no and yes" if pairs else "")
    instead = "" if settings.classes else "--set classes=a,b,c for other names"
    return Decision(Task(classes=names, multilabel=True), "labels", why, instead), values
