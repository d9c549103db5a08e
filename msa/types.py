"""The nouns of the project: frozen dataclasses, standard library only, known to every room."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Modality(StrEnum):
    """What kind of raw material a hidden state comes from."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FACE = "face"


class Split(StrEnum):
    """The part of a corpus a sample belongs to."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Task:
    """What a label is: one of `classes`, or, where there are none, a number in [low, high].

    With `multilabel` the classes are yes/no labels of their own, as many at once as there are: each has an intensity
    (or 0 and 1), and above 0 means yes, as CMU-MOSEI's emotions have it.
    """

    classes: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    multilabel: bool = False

    @property
    def outputs(self) -> int:
        """How many numbers a head predicts: one logit per class, or one value."""
        return len(self.classes) or 1

    @property
    def single(self) -> bool:
        """Is a label the number of one class?"""
        return bool(self.classes) and not self.multilabel

    def named(self, yes: Iterable[bool]) -> str:
        """The classes a multilabel answer says yes to, such as "happy, surprise"."""
        return ", ".join(name for name, said in zip(self.classes, yes, strict=True) if said) or "none"


SENTIMENT = Task(classes=("negative", "neutral", "positive"))  # the order of class numbers everywhere


@dataclass(frozen=True, slots=True)
class Raw:
    """Where one modality of one sample is: a literal `text`, or a file and a span of it in seconds."""

    path: Path | None = None
    text: str | None = None
    start: float = 0.0
    end: float | None = None  # None: to the end of the file


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled post or clip, before anything of it has been decoded."""

    id: str
    # a class name, a number, of a multilabel task a number per class (NaN: not said), or None where nobody labelled it
    label: str | float | tuple[float, ...] | None
    raw: Mapping[Modality, Raw]
    split: Split | None = None  # None: the corpus has no official split, so one is drawn
    group: str = ""  # speaker, video or dialogue
    position: int = 0  # order inside the group
    keep_together: str = ""  # samples that share this key are never drawn into different splits
    modality_labels: Mapping[Modality, str | float] = field(default_factory=dict)  # MVSA, CH-SIMS


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample of the corpus that is left out on purpose, and why. `reason` is short: it is counted."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a corpus comes from, what may be done with it, and how it lies on disk."""

    title: str
    home: str
    licence: str
    redistribution: bool  # may features of it be passed on?
    citation: str
    layout: str  # shown where the raw data is not found
