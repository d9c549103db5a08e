"""Licences of what is shared: those of the datasets, and of the weights that made the views."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msa.cache.format.manifest import in_order
from msa.cache.read.view import View
from msa.cache.share.subset import ALL, Selection, meant
from msa.cache.store import FeatureStore

FORBIDDING = ("non-commercial", "research", "academic", "noderivatives", "-nd", "no redistribution", "whatever")


@dataclass(frozen=True)
class Restriction:
    """Reason not to share a dataset or a view."""

    what: str
    why: str


def licences(store: FeatureStore, wanted: Selection = ALL) -> list[tuple[str, str]]:
    """Return name and licence of every dataset and of all weights in a selection."""
    by_name = {}
    for dataset, view in _selected(store, wanted):
        if view is None:
            by_name[f"dataset {dataset.partition('@')[0]}"] = str(_source(store, dataset).get("licence", "not said"))
        else:
            by_name[f"{view.modality} {view.name}"] = str(_weights(view).get("licence") or "not said")
    return sorted(by_name.items())


def restrictions(store: FeatureStore, wanted: Selection = ALL) -> list[Restriction]:
    """Return what forbids, or does not clearly allow, to share a selection with others; [] where nothing does."""
    reasons = []
    for dataset, view in _selected(store, wanted):
        if view is None:
            source = _source(store, dataset)
            if source.get("redistribution", True) is not True:
                name = f"dataset {dataset.partition('@')[0]}"
                reasons.append(Restriction(name, f"its licence is: {source['licence']}"))
        elif not may_be_shared(view):
            why = f"the licence of its weights is: {_weights(view).get('licence') or 'not known'}"
            reasons.append(Restriction(f"{view.modality} {view.name}", why))
    return list(dict.fromkeys(reasons))


def may_be_shared(view: View) -> bool:
    """Return whether the licence of the weights allows to share a view; weights of unknown licence do not."""
    weights = _weights(view)
    licence = str(weights.get("licence") or "")
    unknown = bool(weights.get("name")) and not licence
    return not unknown and not any(word in licence.lower() for word in FORBIDDING)


def _selected(store: FeatureStore, wanted: Selection) -> Iterator[tuple[str, View | None]]:
    """Yield (name@fingerprint, None) of every dataset in a selection, then (name@fingerprint, view) of its views."""
    datasets, views, _ = meant(store, wanted)
    for fingerprint, entry in in_order(store.manifest.datasets):
        if fingerprint in datasets:
            yield f"{entry.name}@{fingerprint}", None
            for view in store.views(fingerprint):
                if view.id in views:
                    yield f"{entry.name}@{fingerprint}", view


def _source(store: FeatureStore, dataset: str) -> Mapping[str, Any]:
    source: Mapping[str, Any] = store.index(dataset).full_about["source"]
    return source


def _weights(view: View) -> Mapping[str, Any]:
    weights: Mapping[str, Any] = view.attributes.get("weights", {})
    return weights
