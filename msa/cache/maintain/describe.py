"""Contents and provenance of a store as plain values, for `msa cache info`; and what to cite."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from msa.cache.format import generations, layout
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.manifest import in_order
from msa.cache.index import Index
from msa.cache.maintain.remove import referenced
from msa.cache.read.view import View
from msa.cache.share import licences
from msa.cache.store import FeatureStore
from msa.cache.write import segment
from msa.errors import StoreError

FORMATS = (
    ("stores", "Zarr core specification, version 3, https://zarr-specs.readthedocs.io"),
    ("exports to HDF5", "The HDF Group: Hierarchical Data Format, version 5, https://www.hdfgroup.org"),
)

WEIGHTS: dict[str, Any] = {
    "name": "",
    "revision": None,
    "sha256": "",
    "licence": "",
    "path": "",
}  # where an encoder has none


def describe(store: FeatureStore) -> dict[str, Any]:
    """Return datasets with sources and splits; views with recipe, weights, versions, files and status of samples."""
    return {
        "store": store.where,
        "format": store.manifest.msa_format,
        "generation": store.manifest.generation,
        "created": store.manifest.created,
        "creator": store.manifest.creator,
        "bytes": sum(referenced(store).values()),
        "datasets": [_dataset(store, fingerprint) for fingerprint in store.manifest.datasets],
    }


def citations(store: FeatureStore) -> list[tuple[str, str]]:
    """Return (what, how to cite it) of every dataset, backbone and format in a store, each once."""
    citations_of: dict[str, str] = {}
    for fingerprint, entry in in_order(store.manifest.datasets):
        source = store.index(fingerprint).full_about["source"]
        parts = [source["citation"] or source["title"] or "source unknown", source["home"]]
        citations_of[f"dataset {entry.name}"] = ", ".join(map(str, filter(None, parts)))
        for view in store.views(fingerprint):
            weights = view.attributes.get("weights", {})
            parts = [view.attributes.get("source") or "paper unknown"]
            if weights.get("name"):
                parts += [f"weights {weights['name']}", f"revision {weights.get('revision') or '-'}"]
            citations_of[f"{view.modality} {view.name}"] = ", ".join(map(str, parts))
    return [*citations_of.items(), *FORMATS]


def _dataset(store: FeatureStore, fingerprint: str) -> dict[str, Any]:
    index = store.index(fingerprint)
    return {
        "name": index.name,
        "fingerprint": fingerprint,
        "samples": len(index),
        "parts": {name: int((index.split == n).sum()) for n, name in enumerate(layout.SPLITS)},
        "inputs": {
            str(m): {"samples": int(index.has(m).sum()), "sha256": hashlib.sha256(digest.tobytes()).hexdigest()}
            for m, digest in sorted(index.digests.items())
        },
        **index.full_about,
        "views": [_view(store, view, index) for view in store.views(fingerprint)],
    }


def _view(store: FeatureStore, view: View, index: Index) -> dict[str, Any]:
    reader = store.reader(view)
    counts = Counter[str]()
    for entry in view.entries:
        counts.update(segment.counts(store.tables(view.id, entry)))
    for failure in reader.failures.values():  # without retracted ones
        counts.update(failure.get("counts", {}))
    failures = [{"id": index.ids[row], **failure} for row, failure in sorted(reader.failures.items())]
    pending = index.has(view.modality) & (reader.length < 0)
    pending[list(reader.failures)] = False
    runs = _runs(store, view)
    identity = view.attributes.get("identity", {})
    weights = WEIGHTS | view.attributes.get("weights", {})
    return {
        "dtype": "float16",
        "created": "",
        **view.attributes,
        "id": view.id,
        "weights": weights | {"redistribution": licences.may_be_shared(view)},
        "recipe": dict(identity.get("decoding", {})) | dict(identity.get("options", {})),
        "samples": view.samples,
        "failed": len(failures),
        "pending": int(pending.sum()),
        "pending_ids": [index.ids[row] for row in np.flatnonzero(pending).tolist()],
        "bytes": view.nbytes,
        "device": runs[-1].get("device", ""),
        "versions": ", ".join(f"{name} {number}" for name, number in runs[-1].get("versions", {}).items()),
        "runs": runs,
        "creator": _creator(store, view),
        "counts": dict(counts),
        "failures": failures,
        "files": [
            {"segment": segment_id, "file": name, "bytes": facts.size, "sha256": facts.sha256}
            for entry in view.entries
            for segment_id, files in entry.by_segment
            for name, facts in files.items()
        ],
    }


def _runs(store: FeatureStore, view: View) -> list[dict[str, Any]]:
    """Return the runs of a view, the last one last: device, versions, number of samples."""
    runs = []
    for entry in view.entries:
        run = SegmentAttributes.read(store.tables(view.id, entry) / "zarr.json").run
        runs.append(dict(run) | {"segment": entry.id, "samples": entry.samples, "failed": entry.failed})
    return runs


def _creator(store: FeatureStore, view: View) -> str:
    """Return the creator of the generation that published a view last; empty where it cannot be read."""
    number = store.manifest.views[view.id].published
    try:
        return generations.read(store.blocks.site if store.blocks else store.path, number).creator
    except StoreError:
        return ""
