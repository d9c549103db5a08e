"""Changes to what is published that write no hidden states: borrow, retract, remove."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import generations, layout, limits, local_files, tags
from msa.cache.format.manifest import Manifest, SegmentEntry
from msa.cache.index import Index
from msa.cache.maintain import gc
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write import heartbeat, journal, segment
from msa.cache.write.liveness import whoami
from msa.errors import ConfigError, StoreError, UnknownNameError


@dataclass(frozen=True)
class Removed:
    """Bytes that were freed, and bytes that `msa cache gc` frees once no generation it keeps needs them."""

    freed: int
    later: int
    tags: tuple[str, ...] = ()  # that keep some of it


def borrow(store: FeatureStore, view_id: str, dataset: str, digests: np.ndarray, rows: Sequence[int]) -> int:
    """Serve `rows` of a corpus from hidden states the view already holds of equal inputs; returns how many.

    A corpus whose labels, splits or sample list changed is another corpus with the same inputs: nothing is
    encoded again, a segment without data of its own points into the old one. `digests` is (n, 16) uint8.
    """
    entries: list[SegmentEntry] = []
    while True:
        newest = generations.read(store.path)  # a pinned generation may be hours old, and what it names removed
        segments = newest.segments_of(view_id)
        try:
            entries.extend(_lent(store.path / layout.segments_path(view_id), segments, dataset, digests, rows))
            break
        except (StoreError, FileNotFoundError):
            for entry in entries:
                with suppress(FileNotFoundError):
                    local_files.remove_tree(store.path, store.path / layout.segment_path(view_id, entry.id))
            entries.clear()
            same = {entry.id for entry in generations.read(store.path).segments_of(view_id)}
            if {entry.id for entry in segments} <= same:
                raise  # else a segment was removed while it was read
    return sum(entry.samples for entry in store.publish(view_id, entries))


def _lent(
    parent: Path, segments: Sequence[SegmentEntry], dataset: str, digests: np.ndarray, rows: Sequence[int]
) -> Iterator[SegmentEntry]:
    """Entries of new segments that serve `rows` from what segments of `parent` hold of equal inputs."""
    wanted: dict[str, list[int]] = {}
    for row in rows:
        wanted.setdefault(digests[row].tobytes().hex(), []).append(row)
    for old in segments:
        there = segment.table(parent / old.id)
        found = [states._replace(sample=row) for states in there for row in wanted.pop(states.digest, ())]
        if found:
            run = limits.segment_attributes(parent / old.id / "zarr.json")["run"]
            yield lend(parent, old, found, {"dataset": dataset, "run": run, "failures": []})


def lend(parent: Path, old: SegmentEntry, rows: Sequence[segment.Row], attributes: Mapping[str, Any]) -> SegmentEntry:
    """Make a segment of `rows` that point into the data of a published one; returns its manifest entry.

    Until it is published it has a journal, so that others leave it alone while we live and remove it when we do not.
    """
    made = parent / segment.new_name()
    store = layout.store_of(made)
    local_files.make_folder(store, made, new=True)
    header = {"dataset": attributes["dataset"], "data_of": old.data_id, "run": attributes["run"], "writer": whoami()}
    local_files.write(store, made / segment.JOURNAL, json.dumps(header).encode() + b"\n")
    heartbeat.keep(made / segment.JOURNAL)  # until it is published
    segment.write_small(made, rows, {**attributes, "data_of": old.data_id})
    files, failed = segment.files(store, made), len(attributes["failures"])
    return SegmentEntry(made.name, attributes["dataset"], len(rows), failed, files, old.data_id, old.data)


def carry_over(store: FeatureStore, index: Index, before: str | None) -> dict[str, int]:
    """Serve a new version of a corpus from the views of the one `before`; view id -> how many samples.

    Without it a corrected label or another split would leave a corpus without what was extracted of it so far.
    """
    now = store.datasets.get(index.name)
    if now is None:
        raise StoreError(
            f"{store.path}: {index.name} was removed from the store while it was added",
            fix="run the same command again if it was removed by mistake",
        )
    if before is None or before == now:
        return {}
    found = {}
    for view in store.views(before):
        digests = index.digests.get(view.modality)
        there = {other.id for other in store.views(now)}
        if digests is not None and view.id not in there:
            rows = np.flatnonzero(index.has(view.modality)).tolist()
            if n := borrow(store, view.id, now, digests, rows):
                found[view.id] = n
    return found


def retract_failures(store: FeatureStore, view: View) -> int:
    """Forget a corpus's failure records in a view, so that those samples are tried again; how many there were."""
    if not view.failed:
        return 0

    def change(old: Manifest) -> Manifest:
        segments = old.segments_of(view.id)
        return old.with_segments(view.id, (replace(s, failed=0) if s.dataset == view.dataset else s for s in segments))

    store.manifest = generations.publish(store.path, change)
    return view.failed


def remove(store: FeatureStore, *, dataset: str | None = None, view: str | None = None, now: bool = False) -> Removed:
    """Publish a generation without a dataset (and its hidden states) or without a view.

    Its files stay for those who read an older generation, and for the way back, until they are swept. `now` frees at
    once whatever no tag needs.
    """
    fingerprints = {f for f, entry in store.manifest.datasets.items() if entry.name == dataset}
    views = {matching_view(store, view)} if view is not None else set()
    if not fingerprints and not views:
        known = store.datasets if dataset else store.manifest.views
        raise UnknownNameError("dataset" if dataset else "view", str(dataset or view), known)
    before: list[Manifest] = []

    def change(old: Manifest) -> Manifest:
        before[:] = [old]
        kept = {
            view_id: replace(entry, segments=tuple(s for s in entry.segments if s.dataset not in fingerprints))
            for view_id, entry in old.views.items()
            if view_id not in views
        }
        datasets = {
            fingerprint: entry for fingerprint, entry in old.datasets.items() if fingerprint not in fingerprints
        }
        return replace(old, datasets=datasets, views={v: entry for v, entry in kept.items() if entry.segments})

    store.manifest = generations.publish(store.path, change)
    for folder in gc.dead(store.path):  # what killed runs left of it shall not come back
        try:
            mine = (journal.header(folder / segment.JOURNAL) or {}).get("dataset") in [*fingerprints]
        except StoreError:
            mine = False  # no regular file: what it was of cannot be told, and nothing is ever taken over from it
        if folder.parent.parent.name in views or mine:
            with suppress(FileNotFoundError):  # another run took it over
                local_files.remove_tree(store.path, folder)
    had, has = before[0].needed, store.manifest.needed
    doomed = {folder: files for folder, files in had.items() if folder not in has}
    total = sum(size for files in doomed.values() for size, _ in files.values())
    freed = gc.remove_now(store.path, doomed) if now else 0
    still = {folder for folder in doomed if (store.path / folder).exists()}
    needing = [
        name
        for name, number in tags.read(store.path).items()
        if still & generations.read(store.path, number).needed.keys()
    ]
    return Removed(freed, max(0, total - freed), tuple(needing))


def matching_view(store: FeatureStore, text: str) -> str:
    """The one view that `text` names. Raises UnknownNameError for none and ConfigError for several."""
    all_of = {view.id: view for fingerprint in store.manifest.datasets for view in store.views(fingerprint)}
    fit = [view_id for view_id, view in all_of.items() if view.is_called(text)]
    if not fit:
        raise UnknownNameError("view", text, all_of)
    if len(fit) > 1:
        named = ", ".join(f"{all_of[view_id].name}@{view_id}" for view_id in fit)
        raise ConfigError(f"{text!r} names {len(fit)} views: {named}", fix="name one of them by its id")
    return fit[0]


def referenced(store: FeatureStore) -> dict[Path, int]:
    """Folder -> bytes of its files, for every folder the pinned generation needs."""
    found = store.manifest.needed
    return {store.path / folder: sum(size for size, _ in files.values()) for folder, files in found.items()}
