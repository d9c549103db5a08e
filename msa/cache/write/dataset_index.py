"""Build the index of a dataset from its samples: splits drawn where none is official, labels as numbers, leaks.

Raw datasets and foreign files both pass here, so that they are split, counted and checked by the same rules.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.annotations import splits
from msa.annotations.tasks import describe
from msa.cache.format import fingerprint, layout
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
        """Keys of content that must not be in two splits: equal texts, equal pictures, equal recordings."""
        return [modality.encode() + digest for modality, digest in self.digests.items()]


@dataclass(frozen=True)
class Corpus:
    """Everything that is known of a dataset before its hidden states."""

    name: str
    task: Task
    source: Source
    samples: Sequence[Sample]
    dropped: Sequence[Dropped] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # the reader's, as shown
    labels: str = ""  # what they are and why, in a sentence, where that was judged
    origin: str = ""  # the foreign format it was imported from; nothing: its raw material

    def split_by(self, path: Path | None) -> "Corpus":
        """Return the dataset with the splits of a file, without samples that it does not name. Raises SourceError."""
        if path is None:
            return self
        kept, unnamed = splits.apply_named(self.samples, splits.named(path))
        return replace(self, samples=kept, dropped=[*self.dropped, *unnamed])

    def kept(self, where: object) -> "Corpus":
        """Return the dataset. Raises SourceError where no sample is left."""
        if self.samples:
            return self
        reasons = ", ".join(f"{reason}: {n}" for reason, n in Counter(d.reason for d in self.dropped).items())
        raise SourceError(
            f"no sample of {self.name} is left under {where} ({reasons or 'none was found'})", fix="see above"
        )


def index_of(
    corpus: Corpus,
    inputs: Sequence[Inputs],
    split_file: Path | None = None,
    seed: int = 42,
    drawing: splits.Config = splits.Config(),
) -> Index:
    """Return the index of a dataset whose sample i has `inputs[i]`.

    Args:
        corpus: The samples and all that is known of them.
        inputs: Digests and text of each sample.
        split_file: The file that the splits were read from, for its name; see `Corpus.split_by`.
        seed: Seed of splits that are drawn.
        drawing: How splits are drawn.
    """
    samples = corpus.samples
    strata = _strata(corpus.task, samples) if drawing.stratify else None
    parts = splits.draw(samples, [content.contents for content in inputs], seed, strata=strata)
    modalities = sorted({m for input in inputs for m in input.digests})
    names, labels = _labels(corpus.task, samples)
    digest = lambda m: b"".join(input.digests.get(m, MISSING) for input in inputs)  # noqa: E731
    return Index(
        name=corpus.name,
        task=corpus.task,
        ids=[sample.id for sample in samples],
        split=np.array([layout.SPLITS.index(part) for part in parts], np.uint8),
        labels=labels,
        label_names=names,
        group=[sample.group for sample in samples],
        position=np.array([sample.position for sample in samples], np.int64),
        text=[input.text for input in inputs],
        digests={m: np.frombuffer(digest(m), np.uint8).reshape(-1, fingerprint.DIGEST) for m in modalities},
        about={
            "origin": corpus.origin,
            "source": asdict(corpus.source),
            "settings": dict(corpus.settings),
            "labels": corpus.labels or describe(corpus.task),
            "split": _how_split(samples, split_file, seed, drawing.stratify),
            "dropped": dict(Counter(d.reason for d in corpus.dropped).most_common()),
            "dropped_ids": [[d.id, d.reason, d.detail] for d in corpus.dropped],
            "encodings": dict(Counter(f.encoding for f in inputs if f.encoding)),
            "leaks": _leaks(samples, parts, inputs),
        },
    )


def _labels(task: Task, samples: Sequence[Sample]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return column names and (n, k) float32: the label that is trained on, then one for each labelled modality."""
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
    """Return a class number or value; NaN for no label."""
    if label is None:
        return float("nan")
    return float(task.classes.index(str(label)) if task.classes else label)


def _strata(task: Task, samples: Sequence[Sample]) -> list[str]:
    """Return the stratum of each sample for stratified splits.

    It is the class, the fifth of the range that the value is in, or the rarest of several labels.
    """
    if task.single:
        return ["" if s.label is None else str(s.label) for s in samples]
    if task.multilabel:
        yes = [[name for name, v in zip(task.classes, _several(s.label), strict=False) if v > 0] for s in samples]
        common = Counter(name for names in yes for name in names)
        return [min(names, key=lambda name: (common[name], name), default="") for names in yes]
    values = np.array([np.nan if s.label is None else float(s.label) for s in samples])  # type: ignore[arg-type]
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, (0.2, 0.4, 0.6, 0.8))) if len(known) else known
    return [str(int(np.searchsorted(edges, v, "right"))) if np.isfinite(v) else "" for v in values]


def _several(label: Any) -> Sequence[float]:
    return () if label is None else label


def _how_split(samples: Sequence[Sample], split_file: Path | None, seed: int, stratified: bool) -> str:
    official = sum(sample.split is not None for sample in samples)
    if split_file:
        return f"named by {split_file.name} ({fingerprint.sha256(split_file)[:12]})"
    drawn = f"drawn 8:1:1 by duplicate group, {'stratified by label, ' if stratified else ''}seed {seed}"
    if not official:
        return drawn
    return "official" if official == len(samples) else f"official for {official}, others {drawn}"


def _leaks(samples: Sequence[Sample], parts: Sequence[Split], inputs: Sequence[Inputs]) -> list[str]:
    placed = [replace(sample, split=part) for sample, part in zip(samples, parts, strict=True)]
    kinds = {modality for input in inputs for modality in input.digests}
    return splits.leaks(placed, {m: [input.digests.get(m) for input in inputs] for m in sorted(kinds)})
