"""Samples -> the index of their corpus: splits drawn where none is official, labels as numbers, and what leaks.

Raw corpora and foreign files pass here alike, so that both are split, counted and checked by the same rules.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa import splits
from msa.cache import fingerprint, layout
from msa.cache.index import Index
from msa.errors import SourceError
from msa.types import Dropped, Modality, Sample, Source, Split, Task

MISSING = bytes(fingerprint.DIGEST)


@dataclass(frozen=True)
class Inputs:
    """What the raw material of one sample is: a digest per modality, and its text."""

    digests: Mapping[Modality, bytes]
    text: str = ""
    encoding: str = ""

    @property
    def contents(self) -> list[bytes]:
        """What must not stand on both sides of a split: equal texts, equal pictures, equal recordings."""
        return [modality.encode() + digest for modality, digest in self.digests.items()]


@dataclass(frozen=True)
class Corpus:
    """Everything known of a corpus before its hidden states."""

    name: str
    task: Task
    source: Source
    samples: Sequence[Sample]
    dropped: Sequence[Dropped] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # the reader's, as shown
    origin: str = ""  # the foreign format it was imported from; nothing: its raw material

    def split_by(self, path: Path | None) -> "Corpus":
        """The same with the parts a split file names, without what it does not name. Raises SourceError."""
        if path is None:
            return self
        kept, unnamed = splits.apply_named(self.samples, splits.named(path))
        return replace(self, samples=kept, dropped=[*self.dropped, *unnamed])

    def kept(self, where: object) -> "Corpus":
        """The same. Raises SourceError where no sample is left."""
        if self.samples:
            return self
        reasons = ", ".join(f"{reason}: {n}" for reason, n in Counter(d.reason for d in self.dropped).items())
        raise SourceError(
            f"no sample of {self.name} is left under {where} ({reasons or 'none was found'})", fix="see above"
        )


def index_of(corpus: Corpus, inputs: Sequence[Inputs], split_file: Path | None = None, seed: int = 42) -> Index:
    """The index of a corpus whose sample i has `inputs[i]`; `split_file` is only named here, see `Corpus.split_by`."""
    samples = corpus.samples
    parts = splits.draw(samples, [content.contents for content in inputs], seed)
    modalities = sorted({m for found in inputs for m in found.digests})
    names, labels = _labels(corpus.task, samples)
    digest = lambda m: b"".join(found.digests.get(m, MISSING) for found in inputs)  # noqa: E731
    return Index(
        name=corpus.name,
        task=corpus.task,
        ids=[sample.id for sample in samples],
        split=np.array([layout.SPLITS.index(part) for part in parts], np.uint8),
        labels=labels,
        label_names=names,
        group=[sample.group for sample in samples],
        position=np.array([sample.position for sample in samples], np.int64),
        text=[found.text for found in inputs],
        digests={m: np.frombuffer(digest(m), np.uint8).reshape(-1, fingerprint.DIGEST) for m in modalities},
        about={
            "origin": corpus.origin,
            "source": asdict(corpus.source),
            "settings": dict(corpus.settings),
            "split": _how_split(samples, split_file, seed),
            "dropped": dict(Counter(d.reason for d in corpus.dropped).most_common()),
            "dropped_ids": [[d.id, d.reason, d.detail] for d in corpus.dropped],
            "encodings": dict(Counter(f.encoding for f in inputs if f.encoding)),
            "leaks": _leaks(samples, parts, inputs),
        },
    )


def _labels(task: Task, samples: Sequence[Sample]) -> tuple[tuple[str, ...], np.ndarray]:
    """Column names and (n, k) float32: the label that is trained on, then one column per modality labelled apart."""
    if task.multilabel:
        rows = np.full((len(samples), len(task.classes)), np.nan, np.float32)
        for i, sample in enumerate(samples):
            label: Any = sample.label
            if label is not None:
                rows[i] = label
        return task.classes, rows
    labelled = sorted({m for sample in samples for m in sample.modality_labels})
    columns: list[list[Any]] = [
        [s.label for s in samples],
        *[[s.modality_labels.get(m) for s in samples] for m in labelled],
    ]
    values = np.array([[_number(task, label) for label in column] for column in columns], np.float32).T
    return ("label", *(f"label_{m}" for m in labelled)), values


def _number(task: Task, label: Any) -> float:
    """A class number or value; NaN where nobody labelled."""
    if label is None:
        return float("nan")
    return float(task.classes.index(str(label)) if task.classes else label)


def _how_split(samples: Sequence[Sample], split_file: Path | None, seed: int) -> str:
    official = sum(sample.split is not None for sample in samples)
    if split_file:
        return f"named by {split_file.name} ({fingerprint.sha256(split_file)[:12]})"
    drawn = f"drawn 8:1:1 by duplicate group, seed {seed}"
    if not official:
        return drawn
    return "official" if official == len(samples) else f"official for {official}, others {drawn}"


def _leaks(samples: Sequence[Sample], parts: Sequence[Split], inputs: Sequence[Inputs]) -> list[str]:
    placed = [replace(sample, split=part) for sample, part in zip(samples, parts, strict=True)]
    kinds = {modality for found in inputs for modality in found.digests}
    return splits.leaks(placed, {m: [found.digests.get(m) for found in inputs] for m in sorted(kinds)})
