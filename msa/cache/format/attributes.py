"""Attributes of an index, a view and a segment: decoded and validated where they are read, and before they are written.

Each reader takes the zarr.json of a group and raises StoreError where anything in it is of another kind than
docs/store-format.md says. Keys of later versions are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from msa.cache.format import layout, limits
from msa.cache.format.manifest import JSON, check_format
from msa.types import Modality, Task

MAX_CLASSES = 1024  # of a task; a table of true against predicted has a cell for each pair
_LABELS = {f"label_{modality}" for modality in Modality}
_SOURCE = ("title", "home", "licence", "citation", "layout")


def of_group(path: Path) -> JSON:
    """Return the attributes in the zarr.json of a group, not yet validated."""
    try:
        return limits.check_object(path, "attributes", limits.read_json(path).get("attributes"))
    except FileNotFoundError:
        limits.refuse(path, "the file is missing")


def check_root(where: Path | str, group: JSON) -> None:
    """Refuse the zarr.json of what is no store, or of a store that a newer version wrote. Raises StoreError."""
    check_format(where, limits.check_object(where, "attributes", group.get("attributes", {})).get("msa_format"))


@dataclass(frozen=True)
class IndexAttributes:
    """What an index says of its dataset besides its arrays. `about` is shown and never computed with."""

    name: str
    task: Task
    label_names: tuple[str, ...]
    about: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Decode the zarr.json of an index. Raises StoreError."""
        return cls.from_json(path, of_group(path))

    @classmethod
    def from_json(cls, where: Path | str, known: JSON) -> Self:
        """Decode the attributes of an index. Raises StoreError where they are no task with labels."""
        limits.check_printable(where, "its name", known.get("name"))
        task = _task(where, limits.check_object(where, "its task", known.get("task")))
        names = limits.check_names(where, "label_names", known.get("label_names"))
        if task.multilabel:
            if not task.classes or names[: len(task.classes)] != list(task.classes):
                limits.refuse(where, "has several labels at a time, and no column for each")
        elif names[:1] != ["label"] or not {*names[1:]} <= _LABELS:
            limits.refuse(where, f"has columns of labels called {limits.short(', '.join(names))}")
        splits = list(layout.SPLITS)
        if known.get("splits", splits) != splits:
            limits.refuse(where, f"says splits {limits.short(known['splits'])}, expected {', '.join(splits)}")
        about = limits.check_object(where, "about", known.get("about"))
        _check_about(where, about)
        return cls(known["name"], task, tuple(names), about)

    def to_json(self) -> JSON:
        """Return the attributes as an index keeps them."""
        labels = {"label_names": list(self.label_names), "splits": list(layout.SPLITS)}
        return {"name": self.name, "task": task_json(self.task)} | labels | {"about": dict(self.about)}

    def validate(self) -> None:
        """Raise StoreError where a reader would refuse them."""
        self.from_json("its index", limits.as_read("its index", self.to_json()))


def task_json(task: Task) -> JSON:
    """Return a task as an index keeps it: `multilabel` only where it is true, so that all others keep their key."""
    return {name: value for name, value in asdict(task).items() if name != "multilabel" or value}


def with_defaults(about: Mapping[str, Any]) -> JSON:
    """Return `about` of an index with every key of docs/store-format.md, empty where the index leaves it out."""
    source = about.get("source", {})
    source = {"title": source} if isinstance(source, str) else source
    empty: JSON = {"origin": "", "settings": {}, "split": "", "dropped": {}, "dropped_ids": [], "encodings": {}}
    empty_source = dict.fromkeys(_SOURCE, "") | {"redistribution": False}
    return empty | {"leaks": []} | dict(about) | {"source": empty_source | source}


@dataclass(frozen=True)
class SegmentAttributes:
    """What a segment says of itself: `run` describes the process that encoded, `failures` what could not be had."""

    dataset: str
    run: Mapping[str, Any]
    failures: Sequence[JSON] = ()
    counted: Sequence[str] = ()  # names of the columns of `counts`
    data_of: str | None = None  # of a borrowed segment: the one that owns the data
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, samples: int = limits.MAX_SAMPLES) -> Self:
        """Decode the zarr.json of a segment of a dataset of so many samples. Raises StoreError."""
        return cls.from_json(path, of_group(path), samples)

    @classmethod
    def from_json(cls, where: Path | str, known: JSON, samples: int = limits.MAX_SAMPLES) -> Self:
        """Decode the attributes of a segment. Raises StoreError, also where a failure is of no sample."""
        check_run(where, known.get("run"))
        failures = limits.check_list(where, "failures", known.get("failures"))
        for failure in failures:
            check_failure(where, failure, samples)
        counted = limits.check_names(where, "counted", known.get("counted", []))
        limits.check_text(where, "dataset", known.get("dataset"))
        data_of = known.get("data_of")
        if "data_of" in known:
            limits.check_name(where, "data_of", data_of, "segment")
        named = ("dataset", "run", "failures", "counted", "data_of")
        rest = {key: value for key, value in known.items() if key not in named}
        return cls(known["dataset"], known["run"], failures, counted, data_of, rest)

    def to_json(self) -> JSON:
        """Return the attributes as a segment keeps them."""
        known: JSON = {"dataset": self.dataset, "run": dict(self.run), "failures": list(self.failures)}
        known |= {"data_of": self.data_of} if self.data_of is not None else {}
        return known | dict(self.rest) | ({"counted": list(self.counted)} if self.counted else {})

    def validate(self) -> None:
        """Raise StoreError where a reader would refuse them."""
        self.from_json("its zarr.json", limits.as_read("its zarr.json", self.to_json()))


def of_view(path: Path) -> JSON:
    """Return the provenance of a view, out of its zarr.json. Raises StoreError where it lacks what a reader needs."""
    known = of_group(path)
    check_view(path, known)
    return known


def check_view(where: Path | str, known: Mapping[str, Any]) -> None:
    """Refuse the attributes of a view of which anything is of another kind than docs/store-format.md says."""
    limits.check_name(where, "its modality", known.get("modality"), "modality")
    limits.check_printable(where, "its backbone", known.get("backbone"))
    dim = limits.check_whole(where, "dim", known.get("dim"), 1, limits.MAX_WIDTH)
    if known.get("dtype", "float16") not in layout.DTYPES:
        limits.refuse(where, f"says dtype {limits.short(known['dtype'])}")
    columns = limits.check_list(where, "columns", known.get("columns", []))
    if len(columns) > dim:
        limits.refuse(where, f"names {len(columns)} columns of {dim}")
    for name in columns:
        limits.check_printable(where, "one of columns", name)
    for key in ("family", "source", "created"):
        limits.check_text(where, key, known.get(key, ""))
    limits.check_object(where, "facts", known.get("facts", {}))
    weights = limits.check_object(where, "weights", known.get("weights", {}))
    for key in ("name", "sha256", "path"):
        limits.check_text(where, f"{key} of its weights", weights.get(key, ""))
    for key in ("revision", "licence"):
        limits.check_text(where, f"{key} of its weights", "" if weights.get(key) is None else weights[key])
    identity = limits.check_object(where, "identity", known.get("identity", {}))
    for key in ("options", "decoding", "settings"):
        limits.check_object(where, f"{key} of its identity", identity.get(key, {}))
    limits.check_text(where, "imported of its identity", identity.get("imported", ""))


def check_failure(where: Path | str, value: object, samples: int = limits.MAX_SAMPLES) -> JSON:
    """Refuse the record of a failure that is of no sample, or says what no record says; return it."""
    failure = limits.check_object(where, "a failure", value)
    limits.check_whole(where, "sample of a failure", failure.get("sample"), 0, samples)
    for key in ("stage", "reason", "digest"):
        limits.check_text(where, f"{key} of a failure", failure.get(key))
    if not failure["stage"] or not limits.is_digest(failure["digest"]):
        stage, digest = limits.short(failure["stage"]), limits.short(failure["digest"])
        limits.refuse(where, f"has a failure at {stage} of {digest}")
    check_counts(where, failure.get("counts", {}))
    return failure


def check_run(where: Path | str, value: object) -> None:
    """Refuse what is no description of the process that encoded a segment."""
    run = limits.check_object(where, "the run", value)
    for key in ("device", "platform", "creator", "started"):
        limits.check_text(where, f"{key} of the run", run.get(key, ""))
    for key in ("versions", "plan"):
        limits.check_object(where, f"{key} of the run", run.get(key, {}))
    for value in limits.check_list(where, "compacted of the run", run.get("compacted", [])):
        part = limits.check_object(where, "a compacted run", value)
        limits.check_whole(where, "samples of a run", part.get("samples"), 0, limits.MAX_SAMPLES)
        check_run(where, part | {"compacted": []})


def check_counts(where: Path | str, value: object) -> None:
    """Refuse what was counted of a sample where that is no {name: number}."""
    for name, number in limits.check_object(where, "counts", value).items():
        limits.check_printable(where, "what was counted", name)
        limits.check_whole(where, name, number, 0, 2**63)


def _task(where: Path | str, known: JSON) -> Task:
    classes = limits.check_names(where, "classes", known.get("classes"))
    if len(classes) > MAX_CLASSES:
        limits.refuse(where, f"has {len(classes)} classes, at most {MAX_CLASSES} are read")
    low, high = (limits.check_number(where, key, known.get(key)) for key in ("low", "high"))
    if low > high:
        limits.refuse(where, f"has labels from {low:g} to {high:g}")
    multilabel = known.get("multilabel", False)
    if not isinstance(multilabel, bool):
        limits.refuse(where, f"says multilabel {limits.short(multilabel)}")
    return Task(tuple(classes), known["low"], known["high"], multilabel)


def _check_about(where: Path | str, about: Mapping[str, Any]) -> None:
    """Refuse `about` of an index of another kind; any of it may be missing."""
    for key in ("origin", "split"):
        limits.check_text(where, f"{key} of about", about.get(key, ""))
    limits.check_object(where, "settings of about", about.get("settings", {}))
    for key in ("dropped", "encodings"):
        for name, number in limits.check_object(where, f"{key} of about", about.get(key, {})).items():
            limits.check_whole(where, f"{key} of about, {limits.short(name)}", number, 0, 2**63)
    for leak in limits.check_list(where, "leaks of about", about.get("leaks", [])):
        limits.check_text(where, "one of leaks", leak)
    for row in limits.check_list(where, "dropped_ids of about", about.get("dropped_ids", [])):
        if not isinstance(row, list) or len(row) != 3 or not all(isinstance(word, str) for word in row):
            limits.refuse(where, f"says {limits.short(row)} of a dropped sample, expected [id, reason, detail]")
    source = about.get("source", {})
    if isinstance(source, str):  # its title alone
        return
    for key in _SOURCE:
        limits.check_text(where, f"{key} of source", limits.check_object(where, "source of about", source).get(key, ""))
    if not isinstance(source.get("redistribution", False), bool):
        limits.refuse(where, f"says redistribution {limits.short(source['redistribution'])}")
