"""Changes to what is published that write no hidden states: borrow, retract, remove."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msa.cache import layout, manifest, segment
from msa.cache.files import remove_tree
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.cache.view import View
from msa.errors import ConfigError, UnknownNameError


def borrow(store: FeatureStore, view_id: str, dataset: str, digests: np.ndarray, rows: Sequence[int]) -> int:
    """Serve `rows` of a corpus from hidden states the view already holds of equal inputs; returns how many.

    A corpus whose labels, splits or sample list changed is another corpus with the same inputs: nothing is
    encoded again, a segment without data of its own points into the old one. `digests` is (n, 16) uint8.
    """
    wanted: dict[str, list[int]] = {}
    for row in rows:
        wanted.setdefault(digests[row].tobytes().hex(), []).append(row)
    entries = []
    for old in store.manifest["views"].get(view_id, {"segments": []})["segments"]:
        folder = store.path / "views" / view_id / "seg" / old["id"]
        there = segment.table(folder)
        found = [states._replace(sample=row) for states in there for row in wanted.pop(states.digest, ())]
        if found:
            run = layout.read_json(folder / "zarr.json")["attributes"]["run"]
            owner = old.get("data_of", old["id"])
            made = folder.parent / segment.new_name()
            made.mkdir()
            attributes = {"dataset": dataset, "run": run, "failures": [], "data_of": owner}
            segment.write_small(made, found, attributes)
            entries.append(segment.describe(made))
    store.publish(view_id, entries)
    return sum(entry["samples"] for entry in entries)


def carry_over(store: FeatureStore, index: Index, before: str | None) -> dict[str, int]:
    """Serve a new version of a corpus from the views of the one `before`; view id -> how many samples.

    Without it a corrected label or another split would leave a corpus without what was extracted of it so far.
    """
    now = store.datasets[index.name]
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

    def change(new: manifest.Manifest) -> None:
        for entry in new["views"][view.id]["segments"]:
            if entry["dataset"] == view.dataset:
                entry["failed"] = 0

    store.manifest = manifest.publish(store.path, change)
    return view.failed


def remove(store: FeatureStore, *, dataset: str | None = None, view: str | None = None) -> int:
    """Take a dataset (with its hidden states) or a view out of the store; returns the bytes freed."""
    before = referenced(store)
    fingerprints = {f for f, about in store.manifest["datasets"].items() if about["name"] == dataset}
    views = {matching_view(store, view)} if view is not None else set()
    if not fingerprints and not views:
        known = store.datasets if dataset else store.manifest["views"]
        raise UnknownNameError("dataset" if dataset else "view", str(dataset or view), known)

    def change(new: manifest.Manifest) -> None:
        for fingerprint in fingerprints:
            new["datasets"].pop(fingerprint, None)
        for view_id, about in list(new["views"].items()):
            about["segments"] = [e for e in about["segments"] if e["dataset"] not in fingerprints]
            if view_id in views or not about["segments"]:
                del new["views"][view_id]

    store.manifest = manifest.publish(store.path, change)
    doomed = {path: size for path, size in before.items() if path not in referenced(store)}
    for path in sorted(doomed, key=lambda folder: -len(folder.parts)):
        if path.exists() and not any(path.glob(f"seg/*/{segment.JOURNAL}")):  # another run is filling this view
            remove_tree(path)
    return sum(doomed.values())


def matching_view(store: FeatureStore, text: str) -> str:
    """The one view that `text` names. Raises UnknownNameError for none and ConfigError for several."""
    all_of = {view.id: view for fingerprint in store.manifest["datasets"] for view in store.views(fingerprint)}
    fit = [view_id for view_id, view in all_of.items() if view.is_called(text)]
    if not fit:
        raise UnknownNameError("view", text, all_of)
    if len(fit) > 1:
        named = ", ".join(f"{all_of[view_id].name}@{view_id}" for view_id in fit)
        raise ConfigError(f"{text!r} names {len(fit)} views: {named}", fix="name one of them by its id")
    return fit[0]


def referenced(store: FeatureStore) -> dict[Path, int]:
    """Folder -> bytes of its files, for every folder the pinned generation needs."""
    size = lambda files: sum(n for n, _ in files.values())  # noqa: E731
    found = {store.path / "index" / f: size(about["files"]) for f, about in store.manifest["datasets"].items()}
    for view_id, about in store.manifest["views"].items():
        folder = store.path / "views" / view_id
        found[folder] = size(about["files"])
        for entry in about["segments"]:
            found[folder / "seg" / entry["id"]] = size(entry["files"])
            if "data_of" in entry:
                found.setdefault(folder / "seg" / entry["data_of"], size(entry["data_files"]))
    return found
