"""History of a store: what each generation changed, tags, and rolling back.

A tag is a small immutable file, `tags/<name>.json`, that names a generation and keeps its files from `msa cache gc`.
Rolling back publishes a new generation with the content of an old one; no generation is ever taken out of the history.
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
    """Difference between two generations in one dataset (`view` is empty), or in one view of it."""

    dataset: str
    view: str  # "text roberta.base"
    added: int  # samples
    removed: int
    failed: int  # failure records: more, or fewer where negative
    segments: tuple[int, int] = (0, 0)  # before, after
    nbytes: int = 0  # of files of its own: more, or fewer where negative
    close: int = 0  # samples that were extracted again and differ by rounding
    apart: Sequence[str] = ()  # a text per view on samples that differ by more than that

    def __str__(self) -> str:
        """Return one line, such as "+ mvsa-single text roberta.base 4,511 samples"."""
        what = f"{self.dataset} {self.view}".strip()
        if self.added and self.removed:
            words = [f"{self.added:,} samples more, {self.removed:,} fewer"]
        elif self.added or self.removed:
            words = [_many(self.added or self.removed, "sample")]
        elif all(self.segments) and self.segments[0] != self.segments[1] and not self.failed:
            words = [f"{_many(self.segments[0], 'segment')} became {self.segments[1]}"]
        else:
            words = [] if self.failed or self.close or self.apart else ["published again"]
        if self.close:
            words.append(f"{_many(self.close, 'sample')} extracted again, different by rounding")
        words += [f"extracted again and different: {what}" for what in self.apart]
        if self.failed:
            words.append(f"{self.failed:,} failed" if self.failed > 0 else f"{_many(-self.failed, 'failure')} fewer")
        sign = "+" if self.added and not self.removed else "-" if self.removed and not self.added else "~"
        return f"{sign} {what} {', '.join(words)}"


@dataclass(frozen=True)
class Generation:
    """One line of the log. `whole`: all its files are there, so that it can be read and rolled back to."""

    number: int
    created: str
    creator: str
    note: str = ""
    changes: Sequence[Change] = ()
    tags: Sequence[str] = ()
    whole: bool = True
    damage: str = field(default="", kw_only=True)  # why it cannot be read

    @property
    def lines(self) -> list[str]:
        """What happened, as printable lines."""
        lines = [self.note] if self.note else []
        lines += [str(change) for change in self.changes]
        lines += [self.damage] if self.damage else []
        return [printable(line) for line in lines] or ["nothing changed"]


def log(store: Path, limit: int | None = None) -> Iterator[Generation]:
    """Yield the generations of a store, the newest first, at most `limit`."""
    numbers, tagged = generations.generations(store), tags.read(store)
    present: dict[str, bool] = {}
    shown_from = max(0, len(numbers) - (limit or len(numbers)))
    manifest = _read(store, numbers[-1]) if numbers else None
    for i in range(len(numbers) - 1, shown_from - 1, -1):
        before = _read(store, numbers[i - 1]) if i else Manifest()
        names = [name for name, number in tagged.items() if number == numbers[i]]
        if isinstance(manifest, MsaError):
            yield Generation(numbers[i], "", "", tags=names, whole=False, damage=manifest.what)
        elif manifest is not None:
            folders = manifest.needed
            present |= {folder: (store / folder).exists() for folder in folders if folder not in present}
            changes = [] if isinstance(before, MsaError) else changed(store, before, manifest)
            whole = all(present[folder] for folder in folders)
            yield Generation(numbers[i], manifest.created, manifest.creator, manifest.note, changes, names, whole)
        manifest = before


def diff(store: Path, before: int | str, after: int | str) -> list[Change]:
    """Return the differences between two generations, each named by number or tag."""
    old, new = (generations.read(store, tags.generation_of(store, name)) for name in (before, after))
    return changed(store, old, new, states=True)


def changed(store: Path, before: Manifest, after: Manifest, states: bool = False) -> list[Change]:
    """Return what differs between two manifests: datasets first, then their views, the oldest first.

    Args:
        store: The folder.
        before: The earlier manifest.
        after: The later one.
        states: Compare hidden states of samples that were extracted again, where both files are still on the disk.
    """
    datasets = {**before.datasets, **after.datasets}
    names, changes = _called(datasets), []
    for fingerprint, entry in datasets.items():
        old, new = (side.datasets.get(fingerprint) for side in (before, after))
        if old != new:
            size = (_size(new.files) if new else 0) - (_size(old.files) if old else 0)
            n = entry.samples
            changes.append(Change(names[fingerprint], "", n if not old else 0, n if not new else 0, 0, nbytes=size))
    for view_id in {**before.views, **after.views}:
        for fingerprint in datasets:
            sides = [[e for e in side.segments_of(view_id) if e.dataset == fingerprint] for side in (before, after)]
            if _facts(sides[0]) != _facts(sides[1]):
                change = _of_view(store, view_id, names[fingerprint], *sides)
                changes.append(_compared(store, view_id, fingerprint, change, *sides) if states else change)
    return changes


def tag(store: Path, name: str, generation: int | str | None = None) -> int:
    """Name a generation, by default the newest, and return its number. Its files stay as long as the tag does."""
    if not tags.is_name(name):
        raise ConfigError(
            f"{name!r} is not a valid name of a tag",
            fix="use letters, digits, '.', '_' and '-', at most 64, at least one letter among them, no sign in front",
        )
    newest = max(generations.generations(store), default=0)
    wanted = newest if generation is None else tags.generation_of(store, generation)
    if not wanted:
        raise StoreError(f"{store} is empty: there is no generation to name", fix="extract or import something first")
    manifest = generations.read(store, wanted)
    refuse_if_incomplete(store, manifest)
    with generations.writable(store):
        local_files.make_folder(store, store / "tags")
    path = store / layout.tag_path(name)
    facts = {"generation": wanted, "created": generations.now(), "creator": generations.creator()}
    if not generations.create_durably(store, path, json.dumps(facts, indent=1).encode()):
        present = tags.read(store).get(name)
        if present == wanted:
            return wanted
        raise StoreError(
            f"there is a tag {name} already, of generation {present}",
            fix=f"choose another name, or delete that one: {shell_command('msa', 'cache', 'tag', name, '--delete')}",
        )
    if not appears(lambda: not missing_files(store, manifest)):  # collected in this moment: see gc.py
        local_files.remove(store, path, missing_ok=True)
        refuse_if_incomplete(store, manifest)
    return wanted


def untag(store: Path, name: str) -> None:
    """Delete a tag. The generation stays in the history; files that only it needs are left to `msa cache gc`."""
    if name not in tags.read(store):
        raise UnknownNameError("tag", name, tags.read(store))
    with generations.writable(store):
        local_files.remove(store, store / layout.tag_path(name), missing_ok=True)


def rollback(store: Path, name: int | str) -> Manifest:
    """Publish a new generation with the content of an old one. Raises StoreError where files of it are gone.

    A generation that another process publishes at the same time counts as earlier and stays in the history.
    """
    wanted = tags.generation_of(store, name)
    old = generations.read(store, wanted)
    refuse_if_incomplete(store, old)
    replaced: list[Manifest] = []

    def change(newest: Manifest) -> Manifest:
        replaced[:] = [newest]
        if (newest.datasets, newest.views) == (old.datasets, old.views):
            raise Unchanged
        return replace(newest, datasets=old.datasets, views=old.views)

    def back(newest: Manifest) -> Manifest:
        return replace(newest, datasets=replaced[0].datasets, views=replaced[0].views)

    name_text = "" if str(name) == str(wanted) else f" ({name})"
    try:
        published = generations.publish(store, change, f"rolled back to {wanted}{name_text}")
    except Unchanged:
        return replaced[0]
    if not appears(lambda: not missing_files(store, old)):  # collected in this moment: see gc.py
        generations.publish(store, back, f"gave up rolling back to {wanted}: its files were being deleted")
        refuse_if_incomplete(store, old)
    return published


def missing_files(store: Path, manifest: Manifest) -> list[str]:
    """Return the files of a generation that are gone or of another size, relative to the store."""
    missing = []
    for folder, files in manifest.needed.items():
        for name, (size, _) in files.items():
            try:
                sound = (store / folder / name).stat().st_size == size
            except OSError:
                sound = False
            if not sound:
                missing.append(f"{folder}/{name}")
    return missing


def refuse_if_incomplete(store: Path, manifest: Manifest) -> None:
    """Raise StoreError where a generation can no longer be read as a whole."""
    if missing := missing_files(store, manifest):
        raise StoreError(
            f"{store}: generation {manifest.generation} needs {_many(len(missing), 'file')} that "
            f"{'is' if len(missing) == 1 else 'are'} gone, such as {missing[0]}",
            fix="choose one that `msa cache log` does not call collected; a tag protects one from `msa cache gc`",
        )


def _of_view(store: Path, view_id: str, dataset: str, before: list[SegmentEntry], after: list[SegmentEntry]) -> Change:
    """Return the change of a view of a dataset whose segments or counts differ."""
    old_ids, new_ids = ({entry.id for entry in entries} for entries in (before, after))
    left_out, brought = [e for e in before if e.id not in new_ids], [e for e in after if e.id not in old_ids]
    removed, added = (sum(e.samples for e in entries) for entries in (left_out, brought))
    if left_out and brought:  # rewritten: compare the row numbers, unless the old ones were deleted since
        folder = store / layout.segments_path(view_id)
        try:
            old_rows, new_rows = (_samples(folder, entries) for entries in (left_out, brought))
            removed, added = len(old_rows - new_rows), len(new_rows - old_rows)
        except (MsaError, OSError, ValueError, KeyError):
            removed, added = max(0, removed - added), max(0, added - removed)
    failed = sum(e.failed for e in after) - sum(e.failed for e in before)
    size = sum(_size(e.files) for e in after) - sum(_size(e.files) for e in before)
    return Change(dataset, _name(store, view_id), added, removed, failed, (len(before), len(after)), size)


def _compared(
    store: Path, view_id: str, dataset: str, change: Change, before: list[SegmentEntry], after: list[SegmentEntry]
) -> Change:
    """Return a change with the comparison of hidden states of samples that are in other segments than before.

    Copies of a compaction are left out: it compares them itself.
    """
    old_ids, new_ids = ({entry.id for entry in entries} for entries in (before, after))
    folder = store / layout.view_path(view_id)
    try:
        brought = [entry for entry in after if entry.id not in old_ids and not _is_copy(folder / "seg" / entry.id)]
        left_out = [entry for entry in before if entry.id not in new_ids] if brought else []
        if not left_out:
            return change
        index, attributes = Index.read(store / layout.index_path(dataset)), of_view(folder / "zarr.json")
        readers = [
            ViewReader(folder / "seg", View(view_id, dataset, attributes, entries), len(index))
            for entries in (left_out, brought)
        ]
        both = np.flatnonzero((readers[0].length >= 0) & (readers[1].length >= 0)).tolist()
        comparison = rounding.compare(change.view, [(row, row, index.ids[row]) for row in both], *readers)
    except (MsaError, OSError):  # deleted since, or damaged, which is for `verify` to say
        return change
    return replace(change, close=comparison.close, apart=rounding.as_text(comparison.apart, NAMED))


def _is_copy(segment: Path) -> bool:
    return "compacted" in SegmentAttributes.read(segment / "zarr.json").run


def _samples(folder: Path, entries: Iterable[SegmentEntry]) -> set[int]:
    return {int(row) for entry in entries for row in layout.read_array(folder / entry.id / "sample")}


def _facts(entries: Iterable[SegmentEntry]) -> list[tuple[str, int, int]]:
    return sorted((entry.id, entry.samples, entry.failed) for entry in entries)


def _called(datasets: Mapping[str, DatasetEntry]) -> dict[str, str]:
    """Return fingerprint -> name, with the fingerprint where several datasets have that name."""
    names = [entry.name for entry in datasets.values()]
    return {f: e.name if names.count(e.name) == 1 else f"{e.name}@{f[:8]}" for f, e in datasets.items()}


def _name(store: Path, view_id: str) -> str:
    """Return modality and backbone of a view; its id where its attributes are gone."""
    try:
        attributes = limits.read_json(store / layout.view_path(view_id) / "zarr.json")["attributes"]
        return f"{attributes['modality']} {attributes['backbone']}"
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
