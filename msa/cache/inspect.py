"""What is in a store and where it comes from, as plain values: `msa cache info`."""

from collections import Counter
from typing import Any

from msa.cache import layout, segment
from msa.cache.housekeeping import referenced
from msa.cache.store import FeatureStore
from msa.cache.view import View


def describe(store: FeatureStore) -> dict[str, Any]:
    """Corpora with their sources and splits; views with recipe, weights, versions and failures."""
    return {
        "store": str(store.path),
        "format": store.manifest["msa_format"],
        "generation": store.manifest["generation"],
        "bytes": sum(referenced(store).values()),
        "datasets": [_dataset(store, fingerprint) for fingerprint in store.manifest["datasets"]],
    }


def _dataset(store: FeatureStore, fingerprint: str) -> dict[str, Any]:
    index = store.index(fingerprint)
    return {
        "name": index.name,
        "fingerprint": fingerprint,
        "samples": len(index),
        "parts": {name: int((index.split == n).sum()) for n, name in enumerate(layout.SPLITS)},
        **dict(index.about),
        "views": [_view(store, view, list(index.ids)) for view in store.views(fingerprint)],
    }


def _view(store: FeatureStore, view: View, ids: list[str]) -> dict[str, Any]:
    reader = store.reader(view)
    folder = store.path / "views" / view.id / "seg"
    run = layout.read_json(folder / view.entries[-1]["id"] / "zarr.json")["attributes"]["run"]
    counts = Counter[str]()
    for entry in view.entries:
        counts.update(segment.counts(folder / entry["id"]))
    for failure in reader.failures.values():  # without those that were taken back
        counts.update(failure.get("counts", {}))
    wanted = int(store.index(view.dataset).has(view.modality).sum())
    failures = [{"id": ids[row], **failure} for row, failure in sorted(reader.failures.items())]
    return {
        **dict(view.attributes),
        "id": view.id,
        "samples": view.samples,
        "failed": len(failures),
        "pending": wanted - view.samples - len(failures),
        "bytes": view.nbytes,
        "device": run.get("device", ""),
        "versions": ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items()),
        "counts": dict(counts),
        "failures": failures,
    }
