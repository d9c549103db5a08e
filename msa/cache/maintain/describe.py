"""What is in a store and where it comes from, as plain values: `msa cache info`; and what to cite for it."""

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

WEIGHTS: dict[str, Any] = {"name": "", "revision": None, "sha256": "", "licence": "", "path": ""}  # where none are said


def describe(store: FeatureStore) -> dict[str, Any]:
    """Corpora with their sources and splits; views with recipe, weights, versions, files and the status of samples."""
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
    """(what, how to cite it) of every corpus, backbone and format in a store, each once."""
    found: dict[str, str] = {}
    for fingerprint, entry in in_order(store.manifest.datasets):
        source = store.index(fingerprint).full_about["source"]
        told = [source["citation"] or source["title"] or "its source is not known", source["home"]]
        found[f"dataset {entry.name}"] = ", ".join(map(str, filter(None, told)))
        for view in store.views(fingerprint):
            weights = view.attributes.get("weights", {})
            told = [view.attributes.get("source") or "its paper is not known"]
            if weights.get("name"):
                told += [f"weights {weights['name']}", f"revision {weights.get('revision') or '-'}"]
            found[f"{view.modality} {view.name}"] = ", ".join(map(str, told))
    return [*found.items(), *FORMATS]


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
    for failure in reader.failures.values():  # without those that were taken back
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
    """What each run of a view was made with, the last one last: device, versions, and how many samples are of it."""
    found = []
    for entry in view.entries:
        run = SegmentAttributes.read(store.tables(view.id, entry) / "zarr.json").run
        found.append(dict(run) | {"segment": entry.id, "samples": entry.samples, "failed": entry.failed})
    return found


def _creator(store: FeatureStore, view: View) -> str:
    """Who published a view last, as long as that generation can be read."""
    number = store.manifest.views[view.id].published
    try:
        return generations.read(store.blocks.site if store.blocks else store.path, number).creator
    except StoreError:
        return ""
