"""Names of datasets and modalities, and the facts that a file of ours carries: what all formats share."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import xxhash

from msa.annotations import rows
from msa.annotations.labels import NEAR
from msa.cache.exchange._foreign import Bundle, Feature, unknown_source
from msa.errors import ConfigError, SourceError, UnknownNameError
from msa.names import printable
from msa.types import Modality, Source, Task

ALIASES = {
    Modality.TEXT: ("text", "language"),
    Modality.AUDIO: ("audio", "acoustic"),
    Modality.IMAGE: ("image", "images"),
    Modality.FACE: ("face", "vision", "visual", "video"),  # in this field, what is seen in a video is a face
}
LONGEST_NAME = 200  # characters
LONGEST_JSON = 1 << 23  # characters
LONGEST_TEXT = 4096  # characters of a title, a licence, a citation
MOST_CLASSES = 10_000
NONE = "none"  # in a `modality` setting: leave it out


def corpus_name(name: str) -> str:
    """Return the name itself.

    Raises SourceError for one that `--data` could not tell from two datasets, or from a version, and for one that
    names no file: runs and exports are called after it.
    """
    if not name or set("+@") & set(name):
        raise SourceError(
            f"the corpus would be called {shown(name)}, and + and @ in a name join corpora or name a version",
            fix="give it another name with --name",
        )
    if not is_name(name) or set("/\\") & set(name) or name[0] == ".":
        raise SourceError(
            f"the corpus would be called {shown(name)}, which is no name of a file",
            fix=f"give it another with --name: at most {LONGEST_NAME} characters, no slash, no dot in front",
        )
    return name


def is_name(name: object) -> bool:
    """Return whether it is a text that a line of a terminal and a store can show."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and printable(name) == name


def shown(name: object) -> str:
    """Return a name that a file gives, as errors show it."""
    text = printable(name)
    return f"'{text if len(text) <= 60 else f'{text[:57]}...'}'"


def json_in(text: str | bytes) -> Any:
    """Return the value of a JSON text, None for NaN in it. Raises ValueError, also for what is nested too deeply."""
    text = text.decode("utf-8") if isinstance(text, bytes) else str(text)
    if len(text) > LONGEST_JSON:
        raise ValueError(f"{len(text):,} characters; at most {LONGEST_JSON:,} are read")
    return json.loads(rows.shallow(text), parse_constant=lambda name: None)


def modality_of(name: str) -> Modality | None:
    """Return the modality that a folder or group of this name holds."""
    return next((modality for modality, names in ALIASES.items() if name.lower() in names), None)


def kinds_in(setting: str, known: Iterable[str], kinds: Iterable[str] = ()) -> dict[str, str]:
    """Parse `covarep:audio,au:none` into {"covarep": "audio", "au": "none"}, the names spelled as in `known`.

    Raises UnknownNameError for a name or kind that there is not; `kinds` come beside the modalities and none.
    """
    spelled = {name.lower(): name for name in known}
    allowed = [*Modality, *kinds, NONE]
    kinds_by_name = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        name, colon, kind = (word.strip() for word in part.rpartition(":"))
        if not colon:
            raise ConfigError(
                f"modality={setting}: {part!r} says no modality", fix="write NAME:MODALITY, such as covarep:audio"
            )
        if name.lower() not in spelled:
            raise UnknownNameError("feature", name, spelled.values())
        if kind not in allowed:
            raise UnknownNameError("modality", kind, allowed)
        kinds_by_name[spelled[name.lower()]] = kind
    return kinds_by_name


def unplaced(where: object, name: str, kinds: Iterable[str] = ()) -> SourceError:
    """Return the error for a feature of unknown modality."""
    return SourceError(
        f"{where}: nothing says of which modality {name} is",
        fix=f"say it: modality={name}:KIND, with {', '.join([*Modality, *kinds])}, or {NONE} to leave it out",
    )


def digest_of(features: Iterable[Feature], ids: Iterable[str]) -> str:
    """Return the hexadecimal digest of what a file holds, from the digest of every sample's part of it."""
    state, ids = xxhash.xxh3_128(), sorted(ids)
    for feature in features:
        for id in ids:
            state.update(f"{feature.name}\0{id}\0".encode() + (feature.digest(id) or b""))
    return state.hexdigest()


# what a file of ours says of a dataset


def facts(bundle: Bundle) -> dict[str, Any]:
    """Name, task and source of the dataset, and the provenance of each view: plain values for JSON."""
    return {
        "name": bundle.index.name,
        "task": asdict(bundle.index.task),
        "source": bundle.index.about.get("source"),
        "features": {
            str(modality): {"view": view.id, **view.attributes, "columns": list(view.attributes.get("columns", ()))}
            for modality, view in bundle.views()
        },
    }


def lost(bundle: Bundle) -> list[str]:
    """Return remarks on what our files do not carry over."""
    remarks = []
    for modality, reader in bundle.readers.items():
        without = int((reader.length < 0).sum())
        if without:
            remarks.append(
                f"{without} of {len(bundle.index)} samples have no {modality} states: nothing stands for them"
            )
        if reader.view.attributes.get("dtype") == "bfloat16":
            remarks.append(f"{modality} is bfloat16 here, and written as float32: equal values, twice the size")
    if (bundle.index.split > 2).any():
        remarks.append("samples without a part stay without one; it is drawn when they are imported")
    return [*remarks, "digests of the raw material and what was dropped from the corpus stay behind"]


def task_in(stated: Any, where: object) -> Task | None:
    """Return the task that `facts` wrote, None where the file states none. Raises SourceError for what is no task."""
    if stated is None:
        return None
    try:
        task = Task(
            tuple(map(str, stated["classes"])),
            float(stated["low"]),
            float(stated["high"]),
            bool(stated.get("multilabel")),
        )
        if not all(map(math.isfinite, (task.low, task.high))) or len(task.classes) > MOST_CLASSES:
            raise ValueError
        if not all(map(is_name, task.classes)):
            raise ValueError
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(
            f"{where}: {shown(stated)} is no task",
            fix='write {"classes": [names], "low": 0, "high": 0, "multilabel": false}',
        ) from error
    if len(set(task.classes)) < len(task.classes):
        raise SourceError(f"{where}: the task names a class twice: {', '.join(task.classes)}", fix="name each once")
    return task


def columns_in(stated: Any, dim: int) -> tuple[str, ...]:
    """Return the names of the last columns of a feature; none where the file states something else."""
    fits = isinstance(stated, (list, tuple)) and len(stated) <= dim and all(map(is_name, stated))
    return tuple(stated) if fits else ()


def source_in(stated: Any, path: Path, title: str, layout: str) -> Source:
    """Return the source that `facts` wrote, else the source of a file of unknown licence."""
    unknown = unknown_source(path, title, layout)
    if not isinstance(stated, Mapping):
        return unknown
    kinds = {field.name: type(getattr(unknown, field.name)) for field in fields(Source)}
    known: dict[str, Any] = {
        name: printable(stated[name])[:LONGEST_TEXT] if kind is str else stated[name]
        for name, kind in kinds.items()
        if isinstance(stated.get(name), kind)
    }
    return Source(**known) if known.keys() == kinds.keys() else unknown


# labels: numbers in an index, names and values in a sample

Label = str | float | tuple[float, ...] | None


def label_of(task: Task, names: Sequence[str], numbers: Sequence[float]) -> tuple[Label, dict[Modality, str | float]]:
    """Return the label of a sample and those of single modalities from a row of `Index.labels`.

    Raises ValueError for a number that is none of the task's classes, or outside of its range.
    """
    values = dict(zip(names, map(float, numbers), strict=True))
    if task.multilabel:
        several = tuple(values[name] for name in task.classes)
        if any(map(math.isinf, several)):
            raise ValueError("an infinite number is no label")
        return (None if all(map(math.isnan, several)) else several), {}
    alone = {name.removeprefix("label_"): _label(task, value) for name, value in values.items() if name != "label"}
    return _label(task, values["label"]), {Modality(m): label for m, label in alone.items() if label is not None}


def _label(task: Task, value: float) -> str | float | None:
    if math.isnan(value):
        return None
    if task.classes:
        if value not in range(len(task.classes)):
            raise ValueError(f"{value:g} is the number of none of {len(task.classes)} classes")
        return task.classes[int(value)]
    if not math.isfinite(value) or (task.low < task.high and not task.low - NEAR <= value <= task.high + NEAR):
        raise ValueError(f"{value:g} is not in the range from {task.low:g} to {task.high:g}")
    return value


def label_names(task: Task) -> list[str]:
    """Return every name a column of labels may have."""
    return list(task.classes) if task.multilabel else ["label", *(f"label_{modality}" for modality in Modality)]
