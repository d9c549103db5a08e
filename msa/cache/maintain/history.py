"""The generations of a store as a history: what each brought, names for some of them, and the way back to one.

A tag is a small immutable file, `tags/<name>.json`, that names a generation and keeps its files from being swept.
Rolling back publishes a new generation with the content of an old one; nothing is ever taken out of the history.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msa.cache.format import generations, layout, limits, local_files, tags
from msa.cache.format.attributes import SegmentAttributes, of_view
from msa.cache.format.manifest import DatasetEntry, Files, Manifest, SegmentEntry
from msa.cache.index import Index
from msa.cache.read import rounding
from msa.cache.read.view import View, ViewReader
from msa.cache.write.publish import Unchanged, appears
from msa.errors import ConfigError, MsaError, StoreError, UnknownNameError
from msa.names import printable, shell_command

NAMED = 5  # samples in a line


@dataclass(frozen=True)
class Change:
    """What became of one corpus (`view` is empty), or of one view of it, between two generations."""

    dataset: str
    view: str  # "text roberta.base"
    added: int  # samples
    removed: int
    failed: int  # failure records: more, or fewer where negative
    segments: tuple[int, int] = (0, 0)  # before, after
    nbytes: int = 0  # of files of its own: more, or fewer where negative
    close: int = 0  # samples that were made anew and differ by rounding
    apart: Sequence[str] = ()  # what differs by more than that, a text for each view: samples and how far

    def __str__(self) -> str:
        """One line, such as "+ mvsa-single text roberta.base 4,511 samples"."""
        what = f"{self.dataset} {self.view}".strip()
        if self.added and self.removed:
            told = [f"{self.added:,} samples more, {self.removed:,} fewer"]
        elif self.added or self.removed:
            told = [_many(self.added or self.removed, "sample")]
        elif all(self.segments) and self.segments[0] != self.segments[1] and not self.failed:
            told = [f"{_many(self.segments[0], 'segment')} became {self.segments[1]}"]
        else:
            told = [] if self.failed or self.close or self.apart else ["published again"]
        if self.close:
            told.append(f"{_many(self.close, 'sample')} made anew, different by rounding")
        told += [f"made anew and different: {what}" for what in self.apart]
        if self.failed:
            told.append(f"{self.failed:,} failed" if self.failed > 0 else f"{_many(-self.failed, 'failure')} fewer")
        sign = "+" if self.added and not self.removed else "-" if self.removed and not self.added else "~"
        return f"{sign} {what} {', '.join(told)}"


@dataclass(frozen=True)
class Generation:
    """One line of the log. `whole`: all it names is still there, so that it can be read and rolled back to."""

    number: int
    created: str
    creator: str
    note: str = ""
    changes: Sequence[Change] = ()
    tags: Sequence[str] = ()
    whole: bool = True
    damage: str = field(default="", kw_only=True)  # why nothing is known of it

    @property
    def told(self) -> list[str]:
        """What happened, a line each."""
        lines = [self.note] if self.note else []
        lines += [str(change) for change in self.changes]
        lines += [self.damage] if self.damage else []
        return [printable(line) for line in lines] or ["nothing changed"]


def log(store: Path, limit: int | None = None) -> Iterator[Generation]:
    """Generations of a store, the newest first."""
    known, named = generations.generations(store), tags.read(store)
    present: dict[str, bool] = {}
    shown_from = max(0, len(known) - (limit or len(known)))
    here = _read(store, known[-1]) if known else None
    for i in range(len(known) - 1, shown_from - 1, -1):
        before = _read(store, known[i - 1]) if i else Manifest()
        called = [name for name, number in named.items() if number == known[i]]
        if isinstance(here, MsaError):
            yield Generation(known[i], "", "", tags=called, whole=False, damage=here.what)
        elif here is not None:
            folders = here.needed
            present |= {folder: (store / folder).exists() for folder in folders if folder not in present}
            changes = [] if isinstance(before, MsaError) else changed(store, before, here)
            whole = all(present[folder] for folder in folders)
            yield Generation(known[i], here.created, here.creator, here.note, changes, called, whole)
        here = before


def diff(store: Path, before: int | str, after: int | str) -> list[Change]:
    """What became of every corpus and view from one generation to another, each named by number or tag."""
    was, now = (generations.read(store, tags.generation_of(store, name)) for name in (before, after))
    return changed(store, was, now, states=True)


def changed(store: Path, before: Manifest, after: Manifest, states: bool = False) -> list[Change]:
    """What differs between two manifests: corpora first, then their views, the oldest first.

    With `states`, what was made anew is compared with what was there, where both are still on the disk.
    """
    datasets = {**before.datasets, **after.datasets}
    called, found = _called(datasets), []
    for fingerprint, entry in datasets.items():
        was, now = (side.datasets.get(fingerprint) for side in (before, after))
        if was != now:
            size = (_size(now.files) if now else 0) - (_size(was.files) if was else 0)
            n = entry.samples
            found.append(Change(called[fingerprint], "", n if not was else 0, n if not now else 0, 0, nbytes=size))
    for view_id in {**before.views, **after.views}:
        for fingerprint in datasets:
            mine = [[e for e in side.segments_of(view_id) if e.dataset == fingerprint] for side in (before, after)]
            if _facts(mine[0]) != _facts(mine[1]):
                change = _of_view(store, view_id, called[fingerprint], *mine)
                found.append(_compared(store, view_id, fingerprint, change, *mine) if states else change)
    return found


def tag(store: Path, name: str, generation: int | str | None = None) -> int:
    """Name a generation, by default the newest, for good: it is not swept while it has a name. Returns its number."""
    if not tags.is_name(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a tag",
            fix="use letters, digits, '.', '_' and '-', at most 64, at least one letter among them, no sign in front",
        )
    newest = max(generations.generations(store), default=0)
    wanted = newest if generation is None else tags.generation_of(store, generation)
    if not wanted:
        raise StoreError(f"{store} is empty: there is no generation to name", fix="extract or import something first")
    about = generations.read(store, wanted)
    refuse_if_swept(store, about)
    with generations.writable(store):
        local_files.make_folder(store, store / "tags")
    path = store / layout.tag_path(name)
    facts = {"generation": wanted, "created": generations.now(), "creator": generations.creator()}
    if not generations.create_durably(store, path, json.dumps(facts, indent=1).encode()):
        there = tags.read(store).get(name)
        if there == wanted:
            return wanted
        raise StoreError(
            f"there is a tag {name} already, of generation {there}",
            fix=f"choose another name, or delete that one: {shell_command('msa', 'cache', 'tag', name, '--delete')}",
        )
    if not appears(lambda: not lacking(store, about)):  # swept in the very moment
        local_files.remove(store, path, missing_ok=True)
        refuse_if_swept(store, about)
    return wanted


def untag(store: Path, name: str) -> None:
    """Delete a tag. The generation stays in the history; what only it needs is swept some day."""
    if name not in tags.read(store):
        raise UnknownNameError("tag", name, tags.read(store))
    with generations.writable(store):
        local_files.remove(store, store / layout.tag_path(name), missing_ok=True)


def rollback(store: Path, name: int | str) -> Manifest:
    """Publish a new generation with the content of an old one. Raises StoreError where files of it were swept.

    What others publish in the same moment is as if they had published before: it stays in the history.
    """
    wanted = tags.generation_of(store, name)
    old = generations.read(store, wanted)
    refuse_if_swept(store, old)
    replaced: list[Manifest] = []

    def change(newest: Manifest) -> Manifest:
        replaced[:] = [newest]
        if (newest.datasets, newest.views) == (old.datasets, old.views):
            raise Unchanged
        return replace(newest, datasets=old.datasets, views=old.views)

    def back(newest: Manifest) -> Manifest:
        return replace(newest, datasets=replaced[0].datasets, views=replaced[0].views)

    called = "" if str(name) == str(wanted) else f" ({name})"
    try:
        made = generations.publish(store, change, f"rolled back to {wanted}{called}")
    except Unchanged:
        return replaced[0]
    if not appears(lambda: not lacking(store, old)):  # swept in the very moment: see sweeping.py
        generations.publish(store, back, f"gave up rolling back to {wanted}: it was being swept")
        refuse_if_swept(store, old)
    return made


def lacking(store: Path, about: Manifest) -> list[str]:
    """Files that a generation names and that are gone, or are not of the size it says; relative to the store."""
    found = []
    for folder, files in about.needed.items():
        for name, (size, _) in files.items():
            try:
                there = (store / folder / name).stat().st_size == size
            except OSError:
                there = False
            if not there:
                found.append(f"{folder}/{name}")
    return found


def refuse_if_swept(store: Path, about: Manifest) -> None:
    """Raise StoreError where a generation can no longer be read as a whole."""
    if gone := lacking(store, about):
        raise StoreError(
            f"{store}: generation {about.generation} needs {_many(len(gone), 'file')} that "
            f"{'is' if len(gone) == 1 else 'are'} not there any more, such as {gone[0]}",
            fix="choose one that `msa cache log` does not call swept; `msa cache tag` keeps one from being swept",
        )


def _of_view(store: Path, view_id: str, dataset: str, was: list[SegmentEntry], now: list[SegmentEntry]) -> Change:
    """What became of a view of a corpus whose segments or counts differ."""
    old, new = ({entry.id for entry in entries} for entries in (was, now))
    gone, come = [e for e in was if e.id not in new], [e for e in now if e.id not in old]
    removed, added = (sum(e.samples for e in entries) for entries in (gone, come))
    if gone and come:  # rewritten: the samples themselves tell, unless the old ones were swept since
        folder = store / layout.segments_path(view_id)
        try:
            before, after = (_samples(folder, entries) for entries in (gone, come))
            removed, added = len(before - after), len(after - before)
        except (MsaError, OSError, ValueError, KeyError):
            removed, added = max(0, removed - added), max(0, added - removed)
    failed = sum(e.failed for e in now) - sum(e.failed for e in was)
    size = sum(_size(e.files) for e in now) - sum(_size(e.files) for e in was)
    return Change(dataset, _name(store, view_id), added, removed, failed, (len(was), len(now)), size)


def _compared(
    store: Path, view_id: str, dataset: str, change: Change, was: list[SegmentEntry], now: list[SegmentEntry]
) -> Change:
    """A change, with what became of the hidden states of samples that stand in other segments than before.

    A compaction compares what it has copied itself, and is not looked at again.
    """
    old, new = ({entry.id for entry in entries} for entries in (was, now))
    folder = store / layout.view_path(view_id)
    try:
        come = [entry for entry in now if entry.id not in old and not _is_copy(folder / "seg" / entry.id)]
        gone = [entry for entry in was if entry.id not in new] if come else []
        if not gone:
            return change
        index, attributes = Index.read(store / layout.index_path(dataset)), of_view(folder / "zarr.json")
        sides = [
            ViewReader(folder / "seg", View(view_id, dataset, attributes, entries), len(index))
            for entries in (gone, come)
        ]
        both = np.flatnonzero((sides[0].length >= 0) & (sides[1].length >= 0)).tolist()
        found = rounding.compare(change.view, [(row, row, index.ids[row]) for row in both], *sides)
    except (MsaError, OSError):  # swept since, or damaged, which `verify` tells
        return change
    return replace(change, close=found.close, apart=rounding.told(found.apart, NAMED))


def _is_copy(segment: Path) -> bool:
    return "compacted" in SegmentAttributes.read(segment / "zarr.json").run


def _samples(folder: Path, entries: Iterable[SegmentEntry]) -> set[int]:
    return {int(row) for entry in entries for row in layout.read_array(folder / entry.id / "sample")}


def _facts(entries: Iterable[SegmentEntry]) -> list[tuple[str, int, int]]:
    return sorted((entry.id, entry.samples, entry.failed) for entry in entries)


def _called(datasets: Mapping[str, DatasetEntry]) -> dict[str, str]:
    """Fingerprint -> name, with the fingerprint where several have that name."""
    names = [entry.name for entry in datasets.values()]
    return {f: e.name if names.count(e.name) == 1 else f"{e.name}@{f[:8]}" for f, e in datasets.items()}


def _name(store: Path, view_id: str) -> str:
    """Modality and backbone of a view; its id alone where it was swept."""
    try:
        about = limits.read_json(store / layout.view_path(view_id) / "zarr.json")["attributes"]
        return f"{about['modality']} {about['backbone']}"
    except (MsaError, OSError, KeyError, TypeError):
        return f"view {view_id}"


def _read(store: Path, wanted: int) -> Manifest | MsaError:
    try:
        return generations.read(store, wanted)
    except MsaError as error:
        return error


def _size(files: Files) -> int:
    return sum(facts.size for facts in files.values())


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
