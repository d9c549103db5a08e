"""A corpus of padded arrays, put together: samples, task, and features that are read one sample at a time."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import xxhash

from msa.cache import fingerprint
from msa.cache.exchange._columns import FEATURES, Part, names_of
from msa.cache.exchange._corpus import corpus_name
from msa.cache.exchange._lengths import NOTHING, Bounds, Padding, Rows, bounds_of, filled
from msa.cache.foreign import Feature, Foreign, Unreadable, unknown_source
from msa.cache.indexing import Corpus
from msa.errors import SourceError
from msa.records import natural
from msa.types import Dropped, Modality, Raw, Sample, Split, Task

LONGEST_ID = 4096  # characters
TASKS = {"mosi": Task(low=-3.0, high=3.0), "sims": Task(low=-1.0, high=1.0)}


@dataclass(frozen=True)
class Row:
    """One sample as the file has it, and where: row `row` of part number `part`."""

    part: int
    row: int
    id: str
    group: str = ""
    order: tuple[Any, ...] = ()  # by which the samples of a group follow each other
    text: str = ""
    label: float = float("nan")
    modality_labels: Mapping[Modality, float] = field(default_factory=dict)


class Settings(Protocol):
    """What the formats' settings have in common; those of a format are a dataclass."""

    @property
    def task(self) -> str: ...  # a name in TASKS, or auto
    @property
    def vision(self) -> str: ...  # the modality of `vision`


def assembled(
    format: str,
    layout: str,
    parts: Sequence[Part],
    rows: Sequence[Row],
    config: Settings,
    padding: Padding | None,
    facts: Mapping[str, Any],
    name: str | None,
) -> Foreign:
    """The corpus whose samples are `rows`. Raises SourceError where it has no features, or samples that cannot be."""
    path = parts[0].path
    modalities = {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": Modality(config.vision)}
    apart = any(row.modality_labels for row in rows)
    chosen, task, why = task_of(np.array([row.label for row in rows]), config.task, apart)
    listed, dropped, kept = samples(parts, rows, task)
    digest = fingerprint.of_file(path)
    facts = {**facts, "task": f"{chosen}: {why}"}
    made = [_feature(key, kind, parts, kept, padding, digest, facts) for key, kind in modalities.items()]
    features = [feature for feature in made if feature]
    if not features:
        keys = names_of(parts[0].values)
        raise SourceError(f"{path} has no {', '.join(FEATURES)}; its keys are {keys}", fix="is it the right file?")
    settings = asdict(config) | {"task": chosen}  # type: ignore[call-overload]
    source = unknown_source(path, f"a pickle of the layout {format}", layout)
    corpus = Corpus(corpus_name(path.stem if name is None else name), task, source, listed, dropped, settings)
    return Foreign(format, path, digest.hex(), corpus, features)


# samples


def placed(part: Part) -> list[str]:
    """Ids for a split without any: where a sample stands."""
    return [f"{part.name or 'sample'}_{i}" for i in range(part.size)]


def without_ids(parts: Sequence[Part]) -> dict[str, str]:
    """The fact that some splits have no ids."""
    names = [part.name or "the file" for part in parts if not part.has("id")]
    return {"ids": f"none in {', '.join(names)}: samples are called by their place"} if names else {}


def in_clips(id: str) -> tuple[str, tuple[Any, ...]]:
    """The video and the place in it that an id names: `video$_$clip`, or `video[clip]`; none in any other."""
    found = re.fullmatch(r"(.+)(?:\$_\$(.*)|\[(\d+)\])", id, re.DOTALL)
    return (found[1], natural(found[2] if found[3] is None else found[3])) if found else ("", ())


def samples(parts: Sequence[Part], rows: Iterable[Row], task: Task) -> tuple[list[Sample], list[Dropped], list[Row]]:
    """Samples, the second ones of an id that stands twice in a split, and the row of each sample.

    Raises SourceError for an id in two splits, and for a label outside the task's range.
    """
    first: dict[str, Row] = {}
    dropped = []
    for row in rows:
        if len(row.id) > LONGEST_ID:
            raise SourceError(
                f"{parts[0].path}: an id of {len(row.id):,} characters; at most {LONGEST_ID:,} are read",
                fix="give the samples shorter ids",
            )
        if (other := first.setdefault(row.id, row)) is row:
            _check_range(parts[row.part], row, task)
        elif other.part != row.part:
            raise SourceError(
                f"{parts[0].path}: id {row.id!r} is in {parts[other.part].name} and in {parts[row.part].name}",
                fix="a sample may be in one split only: ask the file's maker which, and leave it out of the other",
            )
        else:
            dropped.append(Dropped(row.id, "duplicate id", f"row {row.row}, first in row {other.row}"))
    kept = list(first.values())
    position = _positions(kept)
    return [_sample(parts[row.part].split, row, position[row.id]) for row in kept], dropped, kept


def _sample(split: Split | None, row: Row, position: int) -> Sample:
    apart = {modality: label for modality, label in row.modality_labels.items() if label == label}
    return Sample(
        id=row.id,
        label=row.label if row.label == row.label else None,  # NaN: nobody labelled it
        raw={Modality.TEXT: Raw(text=row.text)} if row.text.strip() else {},
        split=split,
        group=row.group,
        position=position,
        keep_together=row.group,
        modality_labels=apart,
    )


def _positions(rows: Iterable[Row]) -> dict[str, int]:
    """The rank of each id in its group; 0 for those without one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group or f"\0{row.id}", []).append(row)
    ranked = [enumerate(sorted(group, key=lambda row: row.order)) for group in groups.values()]
    return {row.id: rank for group in ranked for rank, row in group}


def _check_range(part: Part, row: Row, task: Task) -> None:
    labels = [row.label, *row.modality_labels.values()]
    odd = [label for label in labels if not np.isnan(label) and not task.low - 1e-5 <= label <= task.high + 1e-5]
    if odd:
        raise SourceError(
            f"{part.path}: {row.id} has the label {odd[0]:g}, outside [{task.low:g}, {task.high:g}]",
            fix="task=mosi reads labels from -3 to 3, task=sims from -1 to 1; other labels are not of this format",
        )


def task_of(labels: np.ndarray, choice: str, apart: bool = False) -> tuple[str, Task, str]:
    """Which task labels (n,) are of, its range, and how that is known; `apart`: modalities are labelled apart too."""
    known = labels[~np.isnan(labels)]
    far = int((np.abs(known) > 1).sum())
    if choice != "auto":
        return choice, TASKS[choice], "as set"
    if not known.size:
        return "none", Task(), "no labels"
    if apart:
        return "sims", TASKS["sims"], "modalities are labelled apart"
    name = "mosi" if far else "sims"
    return name, TASKS[name], f"{far:,} of {known.size:,} labels lie beyond 1"


# features


def _feature(
    key: str,
    modality: Modality,
    parts: Sequence[Part],
    kept: Sequence[Row],
    padding: Padding | None,
    source: bytes,
    facts: Mapping[str, Any],
) -> Feature | None:
    """The column `key` of every split that has it; None where none has. `source` is the digest of the whole file."""
    columns: dict[int, tuple[Rows, Bounds]] = {}
    said, cut = dict[str, None](), 0
    for i, part in enumerate(parts):
        if part.size and part.has(key):
            rows = Rows(part, key)
            bounds, how, longer = bounds_of(key, part, rows, padding)
            columns[i], said[how], cut = (rows, bounds), None, cut + longer
    dim = _width(key, parts, columns)
    place = {row.id: row for row in kept if row.part in columns and columns[row.part][0].has(row.row)}
    if dim is None or not place:
        return None

    def read(id: str) -> np.ndarray:
        row = place[id]
        rows, bounds = columns[row.part]
        states = rows.read(row.row)
        first, end = bounds(row.row, states)
        if not filled(states[first:end]).any():
            raise Unreadable(NOTHING)
        return states[first:end]

    def digest(id: str) -> bytes | None:
        if (row := place.get(id)) is None:
            return None
        return xxhash.xxh3_128_digest(source + f"{key}\0{parts[row.part].name}\0{row.row}".encode())

    more = {"lengths": "; ".join(said)} | ({"lengths longer than the array, cut": cut} if cut else {})
    halves = all(rows.regular and rows.values.dtype == np.float16 for rows, _ in columns.values())
    dtype = "float16" if halves else "float32"
    return Feature(key, modality, dim, read, digest, dtype=dtype, facts={**facts, **more})


def _width(key: str, parts: Sequence[Part], columns: Mapping[int, tuple[Rows, Bounds]]) -> int | None:
    """D of a feature. Raises SourceError where splits differ in it."""
    widths = {parts[i].name: width for i, (rows, _) in columns.items() if (width := rows.width())}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise SourceError(
            f"{parts[0].path}: {key} has the width {told}",
            fix="a feature has one width: take files of one extraction",
        )
    return next(iter(widths.values()), None)
