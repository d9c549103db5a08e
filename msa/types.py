"""Types that every room shares: frozen dataclasses of the standard library."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Modality(StrEnum):
    """Kind of raw data that hidden states are computed from."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FACE = "face"


class Split(StrEnum):
    """Split of a dataset that a sample belongs to."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Task:
    """Kind of label: one of `classes`, or a number in [low, high] if there are no classes.

    With `multilabel`, each class is a yes/no label of its own, and a sample can have several. Each has an intensity (or
    0 and 1); above 0 means yes, as in CMU-MOSEI's emotions.
    """

    classes: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    multilabel: bool = False

    @property
    def outputs(self) -> int:
        """Number of outputs of a head: one logit per class, or one value."""
        return len(self.classes) or 1

    @property
    def single(self) -> bool:
        """Whether a label is exactly one class."""
        return bool(self.classes) and not self.multilabel

    def named(self, yes: Iterable[bool]) -> str:
        """Return the classes of a multilabel answer as text, such as "happy, surprise"."""
        return ", ".join(name for name, is_yes in zip(self.classes, yes, strict=True) if is_yes) or "none"


SENTIMENT = Task(classes=("negative", "neutral", "positive"))  # the order of class numbers everywhere


@dataclass(frozen=True, slots=True)
class Raw:
    """Raw data of one modality of one sample: a literal `text`, or a file and a span of it in seconds."""

    path: Path | None = None
    text: str | None = None
    start: float = 0.0
    end: float | None = None  # None: to the end of the file


@dataclass(frozen=True, slots=True)
class Sample:
    """One post or clip with its label, before decoding."""

    id: str
    # a class name, a number, one number per class of a multilabel task (NaN: unknown), or None: unlabelled
    label: str | float | tuple[float, ...] | None
    raw: Mapping[Modality, Raw]
    split: Split | None = None  # None: the dataset has no official split, so a random one is drawn
    group: str = ""  # speaker, video or dialogue
    position: int = 0  # order inside the group
    keep_together: str = ""  # samples that share this key are never drawn into different splits
    modality_labels: Mapping[Modality, str | float] = field(default_factory=dict)  # MVSA, CH-SIMS


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample that is left out on purpose, and why. Equal reasons are counted, so `reason` is short."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Origin of a dataset, its licence, and its layout on disk."""

    title: str
    home: str
    licence: str
    redistribution: bool  # whether its features may be shared
    citation: str
    layout: str  # shown if the raw data is not found
