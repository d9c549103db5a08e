"""Datasets of padded arrays: samples, task, and features that are read one sample at a time."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import xxhash

from msa.annotations import tasks
from msa.annotations.rows import natural
from msa.annotations.tasks import SAY, Decision
from msa.cache.exchange._columns import FEATURES, Part, names_of
from msa.cache.exchange._corpus import corpus_name
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable, unknown_source
from msa.cache.exchange._lengths import NOTHING, Bounds, Padding, Rows, bounds_of, filled
from msa.cache.format import fingerprint
from msa.cache.write.dataset_index import Corpus
from msa.config import settings_of
from msa.errors import SourceError
from msa.types import Dropped, Modality, Raw, Sample, Split, Task

TaskName = Literal["auto", "mosi", "sims", "classes", "regression", "labels"]
LONGEST_ID = 4096  # characters


@dataclass(frozen=True)
class Row:
    """One sample as the file has it, and where: row `row` of part number `part`."""

    part: int
    row: int
    id: str
    group: str = ""
    order: tuple[Any, ...] = ()  # by which the samples of a group follow each other
    text: str = ""
    label: float | str | tuple[float, ...] | None = float("nan")  # a number until it is known what it is
    modality_labels: Mapping[Modality, float | str | None] = field(default_factory=dict)
    split: Split | None = None  # where the part has none


class Settings(tasks.Options, Protocol):
    """What the settings of formats of padded arrays have in common."""

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
    decision: Decision | None = None,
) -> Foreign:
    """Return the dataset whose samples are `rows`.

    Args:
        format: Name of the format.
        layout: Layout of such files, for the source.
        parts: Splits of the file.
        rows: Samples.
        config: Settings of the format.
        padding: End that is padded; None: judged from the values.
        facts: Provenance of every feature.
        name: Name of the dataset; None: that of the file.
        decision: What the labels are, where `rows` have them as a task has them; None: judged here.

    Raises:
        SourceError: The file has no features, or samples that contradict each other.
    """
    path = parts[0].path
    modalities = {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": Modality(config.vision)}
    if decision is None:
        decision, rows = judged(rows, tasks.Settings.of(config))
    listed, dropped, kept = samples(parts, rows, decision.task)
    digest = fingerprint.of_file(path)
    facts = {**facts, "task": f"{decision.kind}: {decision.why}"}
    made = [_feature(key, kind, parts, kept, padding, digest, facts) for key, kind in modalities.items()]
    features = [feature for feature in made if feature]
    if not features:
        keys = names_of(parts[0].values)
        raise SourceError(f"{path} has no {', '.join(FEATURES)}; its keys are {keys}", fix="is it the right file?")
    settings = settings_of(config, "range", "classes") | {"task": decision.kind}
    source = unknown_source(path, f"a pickle of the layout {format}", layout)
    called = corpus_name(path.stem if name is None else name)
    corpus = Corpus(called, decision.task, source, listed, dropped, settings, decision.sentence)
    return Foreign(format, path, digest.hex(), corpus, features)


# samples


def placed(part: Part) -> list[str]:
    """Return ids for a split without any: where a sample stands."""
    return [f"{part.name or 'sample'}_{i}" for i in range(part.size)]


def without_ids(parts: Sequence[Part]) -> dict[str, str]:
    """Return the fact, for the provenance, that some splits have no ids."""
    names = [part.name or "the file" for part in parts if not part.has("id")]
    return {"ids": f"none in {', '.join(names)}: samples are called by their place"} if names else {}


def in_clips(id: str) -> tuple[str, tuple[Any, ...]]:
    """Return the video and the place in it that an id names: `video$_$clip`, or `video[clip]`; none in any other."""
    match = re.fullmatch(r"(.+)(?:\$_\$(.*)|\[(\d+)\])", id, re.DOTALL)
    return (match[1], natural(match[2] if match[3] is None else match[3])) if match else ("", ())


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
    return [_sample(parts[row.part].split or row.split, row, position[row.id]) for row in kept], dropped, kept


def _sample(split: Split | None, row: Row, position: int) -> Sample:
    apart = {m: label for m, label in row.modality_labels.items() if label is not None and label == label}
    return Sample(
        id=row.id,
        label=row.label if row.label == row.label else None,  # NaN: not labelled
        raw={Modality.TEXT: Raw(text=row.text)} if row.text.strip() else {},
        split=split,
        group=row.group,
        position=position,
        keep_together=row.group,
        modality_labels=apart,
    )


def _positions(rows: Iterable[Row]) -> dict[str, int]:
    """Return the rank of each id in its group; 0 for those without one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group or f"\0{row.id}", []).append(row)
    ranked = [enumerate(sorted(group, key=lambda row: row.order)) for group in groups.values()]
    return {row.id: rank for group in ranked for rank, row in group}


def _check_range(part: Part, row: Row, task: Task) -> None:
    if task.classes:
        return
    labels = [label for label in (row.label, *row.modality_labels.values()) if isinstance(label, float)]
    odd = [label for label in labels if not np.isnan(label) and not task.low - 1e-5 <= label <= task.high + 1e-5]
    if odd:
        raise SourceError(
            f"{part.path}: {row.id} has the label {odd[0]:g}, outside [{task.low:g}, {task.high:g}]",
            fix=f"correct it, or {SAY}",
        )


def judged(rows: Sequence[Row], settings: tasks.Settings) -> tuple[Decision, Sequence[Row]]:
    """Judge what the labels of `rows` are; return the decision, and the rows with labels as its task has them."""
    numbers = np.array([row.label for row in rows], np.float64)
    apart = any(row.modality_labels for row in rows)
    decision = tasks.of_numbers(numbers, settings, scales=True, apart=apart)
    if not decision.task.single or decision.kind == "none":
        return decision, rows
    return decision, [classed(row, decision) for row in rows]


def classed(row: Row, decision: Decision) -> Row:
    """Return the row with the names of its classes for their numbers. Raises SourceError for a number of no class."""
    try:
        alone = {m: decision.label(float(label or 0)) for m, label in row.modality_labels.items()}
        return replace(row, label=decision.label(float(row.label)), modality_labels=alone)  # type: ignore[arg-type]
    except ValueError as error:
        raise SourceError(f"the label of {row.id}: {error}", fix=f"correct it, or {SAY}") from error


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
    """Return the column `key` of every split that has it; None where none has. `source`: digest of the whole file."""
    columns: dict[int, tuple[Rows, Bounds]] = {}
    rules, cut = dict[str, None](), 0
    for i, part in enumerate(parts):
        if part.size and part.has(key):
            rows = Rows(part, key)
            bounds, how, longer = bounds_of(key, part, rows, padding)
            columns[i], rules[how], cut = (rows, bounds), None, cut + longer
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

    more = {"lengths": "; ".join(rules)} | ({"lengths longer than the array, cut": cut} if cut else {})
    halves = all(rows.regular and rows.values.dtype == np.float16 for rows, _ in columns.values())
    dtype = "float16" if halves else "float32"
    return Feature(key, modality, dim, read, digest, dtype=dtype, facts={**facts, **more})


def _width(key: str, parts: Sequence[Part], columns: Mapping[int, tuple[Rows, Bounds]]) -> int | None:
    """Return D of a feature. Raises SourceError where splits differ in it."""
    widths = {parts[i].name: width for i, (rows, _) in columns.items() if (width := rows.width())}
    if len(set(widths.values())) > 1:
        differing = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise SourceError(
            f"{parts[0].path}: {key} has the width {differing}",
            fix="a feature has one width: take files of one extraction",
        )
    return next(iter(widths.values()), None)
