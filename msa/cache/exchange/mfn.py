"""MFN's arrays: X_train.h5, y_train.h5, X_valid.h5, ... with all modalities side by side in the columns. Read only.

Layout   FOLDER/X_train.h5 and y_train.h5, and the same of valid and test: each one dataset `data`, X (n, T, D) and
         y (n,) or (n, 1). One .h5 with groups X_train, y_train, ... that hold `data` is read as well.
Columns  Nothing in the files says which are of what: modality=text:0:300,audio:300:374,face:374:409 does, with the
         first column and the one after the last. What is in none of them is left out.
Ids      There are none: samples are called by their split and place.
Labels   A scale, classes, or several columns, as msa/annotations/tasks.py decides and the import prints.
Lengths  Rows of nothing but zeros before the first value are padding, as in MulT's pickles: the modalities are aligned,
         so sound and face have the rows the text has, and any before them that hold values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from msa import regular
from msa.annotations import tasks
from msa.annotations.splits import NAMES
from msa.cache.exchange import _corpus, _hdf5
from msa.cache.exchange._columns import check_rows
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable, unknown_source
from msa.cache.exchange._lengths import NOTHING, ZEROS, Padding, as_text, filled, is_padded, trimmed
from msa.cache.exchange._padded import TaskName
from msa.cache.format import fingerprint
from msa.cache.write.dataset_index import Corpus
from msa.config import checked, settings_of
from msa.errors import ConfigError, SourceError
from msa.types import Modality, Sample

LAYOUT = "FOLDER/X_train.h5 and y_train.h5, X_valid.h5, ..., each with a dataset data: (n, T, D) and (n,)"
FIX = f"is it the right folder? Known is {LAYOUT}"
MOST_LABELS = 1000
_X = re.compile(rf"X_({'|'.join(NAMES)})(?:\.h5|\.hdf5)?")


@dataclass(frozen=True)
class Config:
    modality: str = ""  # which columns are of what, end exclusive: text:0:300,audio:300:374
    task: TaskName = "auto"  # what labels are; mosi: from -3 to 3, sims: from -1 to 1; auto: judged from them
    range: tuple[float, ...] = ()  # low, high of labels that are another scale: 0,5
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    padding: Padding = "front"  # at which end

    def __post_init__(self) -> None:
        checked(self)
        tasks.Settings.of(self)


@dataclass(frozen=True)
class _Part:
    """One split: X as rows of T * D numbers, y (n, k)."""

    name: str
    rows: _hdf5.Rows
    shape: tuple[int, int]  # T, D
    y: np.ndarray
    digest: bytes

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class _Columns:
    """The states of one modality in a split, padding included."""

    part: _Part
    start: int
    stop: int

    def __len__(self) -> int:
        return len(self.part)

    def read(self, i: int) -> np.ndarray:
        """Return (T, stop - start) of sample i. Raises Unreadable."""
        return self.part.rows.read(i, i + 1).reshape(self.part.shape)[:, self.start : self.stop]


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return the dataset in a folder of MFN's, called `name` or as the folder is.

    Raises SourceError and ConfigError.
    """
    parts = _parts(path)
    widths = {part.name: part.shape[1] for part in parts}
    if len(set(widths.values())) > 1:
        differing = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise SourceError(f"{path}: X has the width {differing}", fix="take files of one extraction")
    ranges = _ranges(config.modality, parts[0].shape[1], path)
    decision, samples = _samples(parts, config)
    features = [_feature(m, start, stop, ranges, parts, config.padding) for m, (start, stop) in ranges.items()]
    corpus = Corpus(
        _corpus.corpus_name(name or path.resolve().stem),
        decision.task,
        unknown_source(path, "arrays of the layout mfn", LAYOUT),
        samples,
        settings=settings_of(config, "range", "classes") | {"task": decision.kind},
        labels=decision.sentence,
    )
    return Foreign("mfn", path, _corpus.digest_of(features, [sample.id for sample in samples]), corpus, features)


def _ranges(setting: str, width: int, path: Path) -> dict[Modality, tuple[int, int]]:
    """Return the columns of each modality. Raises ConfigError for what are none of `width` columns."""
    example = "write modality=text:0:300,audio:300:374: the first column, and the one after the last"
    if not setting.strip():
        raise ConfigError(f"{path}: X has {width} columns, and nothing says which are of what", fix=example)
    ranges: dict[Modality, tuple[int, int]] = {}
    for word in filter(None, (word.strip() for word in setting.split(","))):
        match = re.fullmatch(r"(\w+):(\d{1,9}):(\d{1,9})", word)
        kind = _corpus.modality_of(match[1]) if match else None
        if match is None or kind is None:
            raise ConfigError(f"modality={setting}: {word!r} is not MODALITY:START:END", fix=example)
        start, stop = int(match[2]), int(match[3])
        if not start < stop <= width:
            raise ConfigError(f"modality={setting}: {word} are none of the {width} columns of X", fix=example)
        if kind in ranges:
            raise ConfigError(f"modality={setting}: {kind} is named twice", fix=example)
        ranges[kind] = (start, stop)
    return ranges


# the files


def _parts(path: Path) -> list[_Part]:
    """Return the splits of a folder, or of one file. Raises SourceError."""
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
    else:
        file = _hdf5.opened(path)
        names = _hdf5.names(file)
    splits = {match[1]: name for name in names if (match := _X.fullmatch(name))}
    if not splits or len({NAMES[split] for split in splits}) < len(splits):
        raise SourceError(f"{path} has no X_train, X_valid and X_test, or one of them twice", fix=FIX)
    parts = []
    for split in sorted(splits, key=lambda split: list(NAMES).index(split)):
        x, y = splits[split], f"y{splits[split][1:]}"
        if y not in names:
            raise SourceError(f"{path} has {x} and no {y}", fix=FIX)
        if path.is_dir():
            for inside in (path / x, path / y):
                regular.check_inside(path, inside)
            parts.append(_part(split, path / x, _hdf5.opened(path / x), _hdf5.opened(path / y)))
        else:
            parts.append(_part(split, path, _hdf5.child(file, x, "Group"), _hdf5.child(file, y, "Group")))
    return parts


def _part(split: str, path: Path, x_in: Any, y_in: Any) -> _Part:
    x, y = (_hdf5.child(group, "data", "Dataset") for group in (x_in, y_in))
    if x is None or y is None:
        raise SourceError(f"{path}: X or y of {split} has no dataset data", fix=FIX)
    rows = _hdf5.Rows.of(x, (3,))
    values, n = _hdf5.whole(y), len(rows)
    fits = values.dtype.kind in _hdf5.NUMBERS and values.shape[:1] == (n,) and values.size <= n * MOST_LABELS
    if 0 in x.shape or not fits:
        raise SourceError(
            f"{path}: X of {split} is {list(x.shape)}, y {values.dtype}{list(values.shape)}; expected (n, T, D), (n,)",
            fix=FIX,
        )
    check_rows(path, split, n)
    room = _hdf5.Room.of(path)
    for i in range(n):
        room.take((split, i), rows, i, i + 1)
    plain = values.reshape(n, -1).astype(np.float64)
    return _Part(split, rows, (x.shape[1], x.shape[2]), plain, fingerprint.of_file(path))


# samples and features


def _samples(parts: Sequence[_Part], config: Config) -> tuple[tasks.Decision, list[Sample]]:
    """Return what the labels of all splits are, and the samples with the labels as the task has them.

    Raises SourceError.
    """
    if len({part.y.shape[1] for part in parts}) > 1:
        raise SourceError("y has another number of labels in each split", fix=FIX)
    together = np.concatenate([part.y for part in parts])
    if together.shape[1] == 1:
        decision = tasks.of_numbers(together[:, 0], tasks.Settings.of(config), scales=True)
        values = together[:, 0]
    else:
        decision, values = tasks.of_columns(together, tasks.Settings.of(config), {})
    places = [(part, i) for part in parts for i in range(len(part))]
    return decision, [
        Sample(id=f"{part.name}_{i}", label=_label(decision, value, f"{part.name}_{i}"), raw={}, split=NAMES[part.name])
        for (part, i), value in zip(places, values, strict=True)
    ]


def _label(decision: tasks.Decision, value: Any, id: str) -> Any:
    if decision.task.multilabel:
        return tuple(value.tolist())
    if np.isnan(value):
        return None
    try:
        label = decision.label(float(value)) if decision.task.single and decision.kind != "none" else float(value)
    except ValueError as error:
        raise SourceError(f"the label of {id}: {error}", fix=f"correct it, or {tasks.SAY}") from error
    low, high = decision.task.low, decision.task.high
    if isinstance(label, float) and not low - 1e-5 <= label <= high + 1e-5:
        raise SourceError(
            f"{id} has the label {label:g}, outside [{low:g}, {high:g}]", fix=f"correct it, or {tasks.SAY}"
        )
    return label


def _feature(
    modality: Modality,
    start: int,
    stop: int,
    ranges: Mapping[Modality, tuple[int, int]],
    parts: Sequence[_Part],
    padding: Padding,
) -> Feature:
    """Return the columns from `start` to `stop` of every split."""
    place = {f"{part.name}_{i}": (part, i) for part in parts for i in range(len(part))}
    bounds = {}
    for part in parts:
        alone = trimmed(padding)
        text = _Columns(part, *ranges[Modality.TEXT]) if Modality.TEXT in ranges else None
        aligned = text is not None and modality is not Modality.TEXT and is_padded(text, alone)
        bounds[part.name] = as_text(text, alone, alone) if aligned and text is not None else alone

    def read(id: str) -> np.ndarray:
        part, i = place[id]
        states = _Columns(part, start, stop).read(i)
        first, end = bounds[part.name](i, states)
        if not filled(states[first:end]).any():
            raise Unreadable(NOTHING)
        return states[first:end]

    def digest(id: str) -> bytes:
        part, i = place[id]
        return xxhash.xxh3_128_digest(part.digest + f"{start}:{stop}\0{part.name}\0{i}".encode())

    facts = {
        "lengths": "every row, as set" if padding == "none" else ZEROS % padding,
        "columns": f"{start} to {stop} of {parts[0].shape[1]}",
        "ids": "none: samples are called by their place",
    }
    return Feature(modality, modality, stop - start, read, digest, facts=facts)
