"""Manifest: what one generation publishes, as values that decode and validate themselves.

`Manifest.decode` is the one place that turns the bytes of a manifest into values, and refuses what no manifest of msa
says; `encode` turns them back. Keys of later versions are kept in `rest` and written again.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from msa.cache.format import layout, limits
from msa.errors import StoreError

JSON = dict[str, Any]
_NUMBERED = re.compile(r"(?:^|[/\\])([0-9]{8})\.json$")
_MAX_GENERATION = 10**8


class FileEntry(NamedTuple):
    """Size and hash of a published file, as the manifest records them."""

    size: int
    sha256: str


Files = Mapping[str, FileEntry]  # path relative to the folder of the dataset, view or segment -> its entry


class _Decoded(Mapping[str, FileEntry]):
    """Files as JSON holds them, {path: [bytes, SHA-256]}; an entry is made when it is asked for.

    A manifest may name a million files. An object for each would double the time that opening a store takes.
    """

    __slots__ = ("_known",)

    def __init__(self, known: Mapping[str, Sequence[Any]]) -> None:
        self._known = known

    def __getitem__(self, name: str) -> FileEntry:
        return FileEntry(*self._known[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True)
class DatasetEntry:
    """What a manifest says of a dataset: the index of `samples` samples under `index/<fingerprint>/`."""

    name: str
    samples: int
    files: Files
    published: int = 0  # generation in which the entry was published last
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, where: Path | str, fingerprint: str, value: object) -> Self:
        """Decode one value of `datasets`. Raises StoreError."""
        what, known = f"dataset {fingerprint}", limits.check_object(where, f"dataset {fingerprint}", value)
        limits.check_printable(where, f"the name of {what}", known.get("name"))
        samples = limits.check_whole(where, f"samples of {what}", known.get("samples"), 0, limits.MAX_SAMPLES)
        published = _published(where, what, known)
        files = _files(where, what, known.get("files"))
        room = sum(files[name].size for name in files if name.startswith("split/c"))
        if files and samples > room:  # a byte per sample
            limits.refuse(where, f"{what} has {samples} samples, and its files hold at most {room}")
        return cls(known["name"], samples, files, published, _rest(known, "name", "samples", "files", "published"))

    def to_json(self) -> JSON:
        """Return the value as it stands in a manifest."""
        return {"name": self.name, "samples": self.samples, "files": _plain(self.files)} | _end(self)


@dataclass(frozen=True, slots=True)  # a store may have many
class SegmentEntry:
    """What a manifest says of a segment: some samples of one dataset in one view.

    A borrowed segment has no data of its own: its tables point into the data of segment `data_of` of the same view.
    """

    id: str
    dataset: str  # fingerprint of the index that its row numbers refer to
    samples: int  # that have hidden states
    failed: int  # failure records; 0 where there are records means that they were retracted
    files: Files
    data_of: str | None = None
    data_files: Files = field(default_factory=dict)  # of a borrowed segment: the files of its owner's data
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, where: Path | str, view: str, value: object) -> Self:
        """Decode one element of `segments` of a view. Raises StoreError."""
        known = limits.check_object(where, f"a segment of view {view}", value)
        name = limits.check_name(where, f"a segment of view {view}", known.get("id"), "segment")
        what = f"segment {name}"
        if not isinstance(known.get("dataset"), str):
            limits.refuse(where, f"{what} is of dataset {limits.short(known.get('dataset'))}, which is not there")
        samples, failed = (
            limits.check_whole(where, f"{key} of {what}", known.get(key), 0, limits.MAX_SAMPLES)
            for key in ("samples", "failed")
        )
        files = _files(where, what, known.get("files"))
        if ("data_of" in known) != ("data_files" in known):
            limits.refuse(where, f"{what} has one of `data_of` and `data_files` without the other")
        data_of: str | None = None
        data_files: Files = {}
        if "data_of" in known:
            data_of = limits.check_name(where, f"data_of of {what}", known["data_of"], "segment")
            data_files = _files(where, what, known["data_files"])
            if outside := next((path for path in data_files if not path.startswith("data/")), None):
                limits.refuse(where, f"{what} borrows {limits.short(outside)}, which is no data")
        rest = _rest(known, "id", "dataset", "samples", "failed", "files", "data_of", "data_files")
        return cls(name, known["dataset"], samples, failed, files, data_of, data_files, rest)

    def to_json(self) -> JSON:
        """Return the value as it stands in a manifest."""
        known = {name: getattr(self, name) for name in ("id", "dataset", "samples", "failed")}
        known["files"] = _plain(self.files)
        if self.data_of is not None:
            known |= {"data_of": self.data_of, "data_files": _plain(self.data_files)}
        return known | dict(self.rest)

    @property
    def data_id(self) -> str:
        """The segment that holds its data: itself, or the one that it borrows from."""
        return self.id if self.data_of is None else self.data_of

    @property
    def data(self) -> Files:
        """The files of its data, own or borrowed, relative to the folder of segment `data_id`."""
        files = self.files if self.data_of is None else self.data_files
        return {name: facts for name, facts in files.items() if name.startswith("data/")}

    @property
    def shards(self) -> Files:
        """Those files of its data that hold hidden states."""
        return {name: facts for name, facts in self.data.items() if name.startswith("data/c")}

    @property
    def tables(self) -> Files:
        """Its own files besides the data: small arrays and attributes."""
        return {name: facts for name, facts in self.files.items() if not name.startswith("data/")}

    @property
    def by_segment(self) -> list[tuple[str, Files]]:
        """All files it needs: (segment id, files in its folder), its own folder first, then the one it borrows from."""
        own = (self.id, self.files)
        return [own] if self.data_of is None else [own, (self.data_of, self.data_files)]


@dataclass(frozen=True)
class ViewEntry:
    """What a manifest says of a view: its `zarr.json` and the segments that are published."""

    files: Files
    segments: Sequence[SegmentEntry] = ()
    published: int = 0  # generation in which the entry was published last
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, where: Path | str, view: str, value: object) -> Self:
        """Decode one value of `views`. Raises StoreError."""
        known = limits.check_object(where, f"view {view}", value)
        files = _files(where, f"view {view}", known.get("files"))
        published = _published(where, f"view {view}", known)
        given = known.get("segments")
        if not isinstance(given, list):
            limits.refuse(where, f"view {view} has segments {limits.short(given)}, expected a list")
        segments, seen = [SegmentEntry.from_json(where, view, one) for one in given], set[str]()
        for segment in segments:
            if segment.id in seen:
                limits.refuse(where, f"view {view} has segment {segment.id} twice")
            seen.add(segment.id)
        return cls(files, tuple(segments), published, _rest(known, "files", "segments", "published"))

    def to_json(self) -> JSON:
        """Return the value as it stands in a manifest."""
        segments = [segment.to_json() for segment in self.segments]
        return {"files": _plain(self.files), "segments": segments} | _end(self)

    def of(self, dataset: str) -> list[SegmentEntry]:
        """The segments of one dataset, in order of publication."""
        return [segment for segment in self.segments if segment.dataset == dataset]


Entry = TypeVar("Entry", DatasetEntry, ViewEntry)


@dataclass(frozen=True)
class Manifest:
    """One generation of a store. Generation 0 is an empty store, of which there is no file."""

    generation: int = 0
    datasets: Mapping[str, DatasetEntry] = field(default_factory=dict)  # by fingerprint
    views: Mapping[str, ViewEntry] = field(default_factory=dict)  # by id
    created: str = ""  # ISO 8601, UTC
    creator: str = ""
    note: str = ""
    msa_format: int = layout.FORMAT
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def decode(cls, where: Path | str, data: bytes) -> Self:
        """Parse and validate the bytes of a manifest; `where` names them. Raises StoreError."""
        known = limits.parse(where, data)
        check_format(where, known.get("msa_format"))
        return cls.from_json(where, known)

    @classmethod
    def from_json(cls, where: Path | str, value: object) -> Self:
        """Decode a manifest whose format number was checked. Raises StoreError for names, sizes or references that no
        manifest of msa has, and where it does not match its checksum."""
        known = limits.check_object(where, "the manifest", value)
        msa_format = limits.check_whole(where, "msa_format", known.get("msa_format"), 1, limits.MAX_SAMPLES)
        number = limits.check_whole(where, "generation", known.get("generation"), 0, _MAX_GENERATION)
        named = _NUMBERED.search(str(where))
        if named and int(named[1]) != number:
            limits.refuse(where, f"says that it is generation {number}")
        for key in ("created", "creator"):
            limits.check_printable(where, key, known.get(key, ""))
        datasets, views = dict[str, DatasetEntry](), dict[str, ViewEntry]()
        for dataset, entry in limits.check_object(where, "datasets", known.get("datasets")).items():
            limits.check_name(where, "a dataset", dataset, "id")
            datasets[dataset] = DatasetEntry.from_json(where, dataset, entry)
        for view, entry in limits.check_object(where, "views", known.get("views")).items():
            limits.check_name(where, "a view", view, "id")
            views[view] = ViewEntry.from_json(where, view, entry)
            for segment in views[view].segments:
                if segment.dataset not in datasets:
                    of = limits.short(segment.dataset)
                    limits.refuse(where, f"segment {segment.id} is of dataset {of}, which is not there")
        if "checksum" in known and known["checksum"] != checksum(known):
            limits.refuse(where, "does not match the checksum it holds")
        said = {key: str(known.get(key, "")) for key in ("created", "creator", "note")}
        names = ("msa_format", "generation", "datasets", "views", "created", "creator", "note", "checksum")
        return cls(number, datasets, views, msa_format=msa_format, rest=_rest(known, *names), **said)

    def to_json(self) -> JSON:
        """Return everything it says but the checksum."""
        known: JSON = {
            "msa_format": self.msa_format,
            "generation": self.generation,
            "datasets": {name: entry.to_json() for name, entry in self.datasets.items()},
            "views": {name: entry.to_json() for name, entry in self.views.items()},
        }
        said = {"created": self.created, "creator": self.creator, "note": self.note}
        return known | {key: text for key, text in said.items() if text} | dict(self.rest)

    def encode(self) -> bytes:
        """Return the bytes of its file, with the checksum."""
        known = self.to_json()
        return json.dumps(known | {"checksum": checksum(known)}, indent=1).encode()

    def segments_of(self, view: str) -> Sequence[SegmentEntry]:
        """The published segments of a view, in order of publication; none of a view that is not there."""
        return self.views[view].segments if view in self.views else ()

    @property
    def segments(self) -> Iterator[tuple[str, SegmentEntry]]:
        """(view id, segment) of every published segment."""
        return ((view, segment) for view, entry in self.views.items() for segment in entry.segments)

    @property
    def needed(self) -> dict[str, dict[str, FileEntry]]:
        """Folder, relative to the store, -> the files of it that this generation needs."""
        files = {layout.index_path(fingerprint): dict(entry.files) for fingerprint, entry in self.datasets.items()}
        for view, entry in self.views.items():
            files[layout.view_path(view)] = dict(entry.files)
            for segment in entry.segments:
                for name, some in segment.by_segment:
                    files.setdefault(layout.segment_path(view, name), {}).update(some)
        return files

    def with_dataset(self, fingerprint: str, entry: DatasetEntry) -> Self:
        """Return a copy in which a dataset is added, or replaced in its place."""
        return replace(self, datasets={**self.datasets, fingerprint: entry})

    def with_view(self, view: str, entry: ViewEntry) -> Self:
        """Return a copy in which a view is added, or replaced in its place."""
        return replace(self, views={**self.views, view: entry})

    def with_segments(self, view: str, segments: Iterable[SegmentEntry], **changes: Any) -> Self:
        """Return a copy with new segments for an existing view; keywords change its other fields."""
        return self.with_view(view, replace(self.views[view], segments=tuple(segments), **changes))

    def without_segments(self, ids: Iterable[str]) -> Self:
        """Return a copy without these segments; views stay, also empty ones."""
        gone = set(ids)
        left = {
            view: replace(entry, segments=tuple(one for one in entry.segments if one.id not in gone))
            for view, entry in self.views.items()
        }
        return replace(self, views=left)


def in_order(entries: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    """Return the datasets or views of a manifest, the oldest first: by the generation they were last published in."""
    return sorted(entries.items(), key=lambda item: item[1].published)


def check_format(path: Path | str, number: object) -> None:
    """Refuse what a newer version wrote, before anything of it is interpreted."""
    if not isinstance(number, int):
        raise StoreError(
            f"{path} is not part of an msa store",
            fix="give the folder that `msa extract` wrote to; if this is it, mend it with `msa cache repair`",
        )
    if number > layout.FORMAT:
        raise StoreError(
            f"{path} has store format {number}, this version of msa reads up to {layout.FORMAT}",
            fix="upgrade msa, or export the store with the version that wrote it",
        )


def checksum(known: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its key `checksum`, as sorted JSON without spaces."""
    rest = {key: value for key, value in known.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _files(where: Path | str, what: str, value: object) -> Files:
    """Decode {path: [bytes, SHA-256]}. Raises StoreError."""
    return _Decoded(limits.check_files(where, what, value))


def _published(where: Path | str, what: str, known: Mapping[str, Any]) -> int:
    return limits.check_whole(where, f"published of {what}", known.get("published", 0), 0, _MAX_GENERATION)


def _rest(known: Mapping[str, Any], *names: str) -> JSON:
    """What a later version says besides."""
    return {} if known.keys() <= set(names) else {key: value for key, value in known.items() if key not in names}


def _plain(files: Files) -> dict[str, list[Any]]:
    return {name: list(facts) for name, facts in files.items()}


def _end(entry: DatasetEntry | ViewEntry) -> JSON:
    return ({"published": entry.published} if entry.published else {}) | dict(entry.rest)
