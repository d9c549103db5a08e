"""Changes to what is published that write no hidden states: retract failures, remove datasets and views."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from msa.cache.format import generations, local_files, tags
from msa.cache.format.manifest import Manifest
from msa.cache.maintain import gc
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write import journal, segment
from msa.errors import ConfigError, StoreError, UnknownNameError


@dataclass(frozen=True)
class Removed:
    """Bytes that were freed, and bytes that `msa cache gc` frees once no generation it keeps needs them."""

    freed: int
    later: int
    tags: tuple[str, ...] = ()  # that keep some of it


def retract_failures(store: FeatureStore, view: View) -> int:
    """Retract the failure records of a dataset in a view, so that its samples are tried again; return how many."""
    if not view.failed:
        return 0

    def change(old: Manifest) -> Manifest:
        segments = old.segments_of(view.id)
        return old.with_segments(view.id, (replace(s, failed=0) if s.dataset == view.dataset else s for s in segments))

    store.manifest = generations.publish(store.path, change)
    return view.failed


def remove(store: FeatureStore, *, dataset: str | None = None, view: str | None = None, now: bool = False) -> Removed:
    """Publish a generation without a dataset (and its hidden states) or without a view.

    Its files stay for readers of older generations and for `rollback` until `msa cache gc` deletes them. With `now`,
    what no tag needs is deleted at once. Raises UnknownNameError.
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
    for folder in gc.dead(store.path):  # what killed runs left of it must not be published later
        try:
            of_dataset = (journal.header(folder / segment.JOURNAL) or {}).get("dataset") in [*fingerprints]
        except StoreError:
            of_dataset = False  # not a regular file: nothing is ever published from it
        if folder.parent.parent.name in views or of_dataset:
            with suppress(FileNotFoundError):  # another run took it over
                local_files.remove_tree(store.path, folder)
    needed_before, needed_now = before[0].needed, store.manifest.needed
    doomed = {folder: files for folder, files in needed_before.items() if folder not in needed_now}
    total = sum(size for files in doomed.values() for size, _ in files.values())
    freed = gc.delete_now(store.path, doomed) if now else 0
    present = {folder for folder in doomed if (store.path / folder).exists()}
    keeping = [
        name
        for name, number in tags.read(store.path).items()
        if present & generations.read(store.path, number).needed.keys()
    ]
    return Removed(freed, max(0, total - freed), tuple(keeping))


def matching_view(store: FeatureStore, text: str) -> str:
    """Return the id of the view that `text` names. Raises UnknownNameError for none and ConfigError for several."""
    views = {view.id: view for fingerprint in store.manifest.datasets for view in store.views(fingerprint)}
    matches = [view_id for view_id, view in views.items() if view.is_called(text)]
    if not matches:
        raise UnknownNameError("view", text, views)
    if len(matches) > 1:
        named = ", ".join(f"{views[view_id].name}@{view_id}" for view_id in matches)
        raise ConfigError(f"{text!r} names {len(matches)} views: {named}", fix="name one of them by its id")
    return matches[0]


def referenced(store: FeatureStore) -> dict[Path, int]:
    """Return folder -> bytes of its files, for every folder that the pinned generation needs."""
    needed = store.manifest.needed
    return {store.path / folder: sum(size for size, _ in files.values()) for folder, files in needed.items()}
