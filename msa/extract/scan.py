"""A corpus on disk -> its index: every sample with label, split and input digests, and what was left out and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from msa import catalog
from msa.cache import fingerprint, layout
from msa.cache.index import Index
from msa.config import with_settings
from msa.errors import SourceError
from msa.extract import media, splits
from msa.types import Dropped, Modality, Raw, Sample, Split, Task

MISSING = bytes(fingerprint.DIGEST)


@dataclass(frozen=True)
class Scan:
    """The index of a corpus, and where the raw material of each of its rows lies."""

    index: Index
    raws: Sequence[Mapping[Modality, Raw]]


def scan(
    dataset: str,
    root: Path,
    *,
    settings: Sequence[str] = (),
    split_file: Path | None = None,
    seed: int = 42,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Read a corpus's labels and hash its raw material; nothing is decoded but text.

    `settings` are `name=value` pairs for the dataset's Config; `split_file` names the samples of each part and
    leaves out the rest. `advance(done, total)` is called as files are hashed.
    """
    module = catalog.load("dataset", dataset)
    config = with_settings(module.Config(), settings, f"setting of {dataset}")
    found = list(module.samples(root, config))
    samples = [item for item in found if isinstance(item, Sample)]
    dropped = [item for item in found if isinstance(item, Dropped)]
    if split_file:
        samples, unnamed = splits.apply_named(samples, splits.named(split_file))
        dropped += unnamed
    if not samples:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in Counter(d.reason for d in dropped).items())
        raise SourceError(
            f"no sample of {dataset} is left under {root} ({reasons or 'none was found'})", fix="see above"
        )
    inputs = [_inputs(sample, i, len(samples), advance) for i, sample in enumerate(samples)]
    task = module.TASK or module.task(root, config)
    parts = splits.draw(samples, [content.contents for content in inputs], seed)
    about = {
        "source": asdict(module.SOURCE),
        "settings": asdict(config),
        "split": _how_split(samples, split_file, seed),
        "dropped": dict(Counter(d.reason for d in dropped).most_common()),
        "dropped_ids": [[d.id, d.reason, d.detail] for d in dropped],
        "encodings": dict(Counter(f.encoding for f in inputs if f.encoding)),
        "leaks": _leaks(samples, parts, inputs),
    }
    return Scan(_index(_name(module, dataset, root), task, samples, parts, inputs, about), [s.raw for s in samples])


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


def _inputs(sample: Sample, done: int, total: int, advance: Callable[[int, int], None]) -> Inputs:
    advance(done, total)
    digests: dict[Modality, bytes] = {}
    text, encoding = "", ""
    for modality, raw in sample.raw.items():
        try:
            if modality is Modality.TEXT:
                text, encoding = media.read_text(raw)
                digests[modality] = fingerprint.of_text(text)
            else:
                digests[modality] = fingerprint.of_file(media.existing(raw), raw.start, raw.end)
        except (OSError, media.MediaError):  # extraction will meet it again and record why; it equals no other
            digests[modality] = fingerprint.of_text(f"unreadable {modality} of {sample.id}")
    return Inputs(digests, text, encoding)


def _how_split(samples: Sequence[Sample], split_file: Path | None, seed: int) -> str:
    official = sum(sample.split is not None for sample in samples)
    if split_file:
        return f"named by {split_file.name} ({fingerprint.sha256(split_file)[:12]})"
    drawn = f"drawn 8:1:1 by duplicate group, seed {seed}"
    return (
        drawn
        if not official
        else "official"
        if official == len(samples)
        else f"official for {official}, others {drawn}"
    )


def _leaks(samples: Sequence[Sample], parts: Sequence[Split], inputs: Sequence[Inputs]) -> list[str]:
    placed = [replace(sample, split=part) for sample, part in zip(samples, parts, strict=True)]
    kinds = {modality for found in inputs for modality in found.digests}
    return splits.leaks(placed, {m: [found.digests.get(m) for found in inputs] for m in sorted(kinds)})


def _index(
    name: str,
    task: Task,
    samples: Sequence[Sample],
    parts: Sequence[Split],
    inputs: Sequence[Inputs],
    about: Mapping[str, Any],
) -> Index:
    modalities = sorted({m for found in inputs for m in found.digests})
    labelled = sorted({m for sample in samples for m in sample.modality_labels})
    columns = [[s.label for s in samples], *[[s.modality_labels.get(m) for s in samples] for m in labelled]]
    digest = lambda m: b"".join(found.digests.get(m, MISSING) for found in inputs)  # noqa: E731
    return Index(
        name=name,
        task=task,
        ids=[sample.id for sample in samples],
        split=np.array([layout.SPLITS.index(part) for part in parts], np.uint8),
        labels=np.array([[_number(task, label) for label in column] for column in columns], np.float32).T,
        label_names=("label", *(f"label_{m}" for m in labelled)),
        group=[sample.group for sample in samples],
        position=np.array([sample.position for sample in samples], np.int64),
        text=[found.text for found in inputs],
        digests={m: np.frombuffer(digest(m), np.uint8).reshape(-1, fingerprint.DIGEST) for m in modalities},
        about=about,
    )


def _number(task: Task, label: str | float | None) -> float:
    """A class number or value; NaN where nobody labelled."""
    if label is None:
        return float("nan")
    return float(task.classes.index(str(label)) if task.classes else label)


def _name(module: ModuleType, dataset: str, root: Path) -> str:
    return str(module.name(root)) if hasattr(module, "name") else dataset
