"""Unite two datasets of one name: the union of their samples by id, if they agree on the samples that both have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from msa.annotations import splits
from msa.cache.format import layout
from msa.cache.index import Index
from msa.cache.read import rounding
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.errors import StoreError
from msa.types import Modality, Sample, Split

NAMED = 5  # samples in a message


def unite(mine: FeatureStore, theirs: FeatureStore) -> list[Index]:
    """Return the union of every dataset that both stores have in different versions; nothing is written.

    Raises StoreError where they disagree, and names the samples.
    """
    united = []
    for name, fingerprint in theirs.datasets.items():
        if name in mine.datasets and mine.datasets[name] != fingerprint:
            old, new = mine.index(name), theirs.index(name)
            if set(new.ids) <= set(old.ids):
                check(mine.where, old, theirs.where, new)
                united.append(old)
            elif set(old.ids) <= set(new.ids):
                check(mine.where, old, theirs.where, new)
                united.append(new)
            else:
                united.append(union(mine.where, old, theirs.where, new))
    return united


def agreed(mine: FeatureStore, theirs: FeatureStore) -> rounding.Compared:
    """Compare the hidden states that both have of one input by one recipe; nothing is written.

    Raises StoreError where they differ by more than rounding; it names the samples and how far they are apart.
    """
    compared = rounding.between(mine, theirs)
    if compared.apart:
        raise StoreError(
            f"{mine.where} and {theirs.where} differ in {'; '.join(rounding.as_text(compared.apart, NAMED))}: "
            "more than the rounding of other threads or processors",
            fix="`msa cache verify --deep` and `msa cache info` (device, threads, versions) on both sides tell which "
            "is wrong; remove that view (`msa cache rm`), and merge again",
        )
    return compared


def publish(store: FeatureStore, united: Sequence[Index]) -> None:
    """Add united datasets, and serve them from the hidden states of all their versions in the store."""
    for index in united:
        fingerprint = store.add_index(index)
        for view_id in list(store.manifest.views):
            modality = Modality(store.attributes(view_id)["modality"])
            mine = [view for view in store.views(fingerprint) if view.id == view_id]
            has = index.has(modality)
            for view in mine:
                has &= store.reader(view).length < 0
            if modality in index.digests and has.any() and _is_of(store, view_id, index.name):
                reuse.borrow(store, view_id, fingerprint, index.digests[modality], np.flatnonzero(has).tolist())


def _is_of(store: FeatureStore, view_id: str, name: str) -> bool:
    """Return whether a view has a segment of a dataset of this name."""
    datasets = {f for f, entry in store.manifest.datasets.items() if entry.name == name}
    return any(entry.dataset in datasets for entry in store.manifest.segments_of(view_id))


def union(here: str, mine: Index, there: str, theirs: Index) -> Index:
    """Return my samples, then those that I lack. Raises StoreError where both have a sample and disagree on it."""
    check(here, mine, there, theirs)
    known = set(mine.ids)
    new = np.array([i for i, id in enumerate(theirs.ids) if id not in known], np.int64)
    other = {id: i for i, id in enumerate(theirs.ids)}
    digests = {}
    for modality in sorted({*mine.digests, *theirs.digests}):
        own, more = (_digests(index, modality) for index in (mine, theirs))
        own = own.copy()
        for i in np.flatnonzero(~own.any(axis=1)).tolist():  # what only they have of a sample that both have
            if (j := other.get(mine.ids[i])) is not None:
                own[i] = more[j]
        digests[modality] = np.concatenate([own, more[new]])
    joined = Index(
        name=mine.name,
        task=mine.task,
        ids=[*mine.ids, *(theirs.ids[i] for i in new)],
        split=np.concatenate([mine.split, theirs.split[new]]),
        labels=np.concatenate([mine.labels, theirs.labels[new]]),
        label_names=mine.label_names,
        group=[*mine.group, *(theirs.group[i] for i in new)],
        position=np.concatenate([mine.position, theirs.position[new]]),
        text=[*mine.text, *(theirs.text[i] for i in new)],
        digests=digests,
        about={},
    )
    return replace(joined, about=_about(joined, mine, theirs))


def check(here: str, mine: Index, there: str, theirs: Index) -> None:
    """Refuse datasets that are labelled differently, or disagree on a sample that both have. Raises StoreError."""
    if (mine.task, mine.label_names) != (theirs.task, theirs.label_names):
        labels = [f"{', '.join(i.task.classes) or f'[{i.task.low:g}, {i.task.high:g}]'} ({', '.join(i.label_names)})"
                for i in (mine, theirs)]  # fmt: skip
        raise StoreError(
            f"{mine.name} has the labels {labels[0]} in {here} and {labels[1]} in {there}",
            fix="give one of them another name: they are two datasets",
        )
    other = {id: i for i, id in enumerate(theirs.ids)}
    pairs = [(i, other[id]) for i, id in enumerate(mine.ids) if id in other]
    a, b = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    wrong: dict[str, np.ndarray] = {
        "label": ~np.isclose(mine.labels[a], theirs.labels[b], rtol=0, atol=0, equal_nan=True).all(axis=1),
        "split": mine.split[a] != theirs.split[b],
        "group": np.array([mine.group[i] != theirs.group[j] for i, j in pairs], bool),
        "position": mine.position[a] != theirs.position[b],
    }
    for modality in sorted({*mine.digests} & {*theirs.digests}):
        own, more = mine.digests[modality][a], theirs.digests[modality][b]
        wrong[str(modality)] = own.any(axis=1) & more.any(axis=1) & (own != more).any(axis=1)
    differing = {what: [mine.ids[i] for i in a[bad]] for what, bad in wrong.items() if bad.any()}
    if differing:
        raise differ(here, there, differing)


def differ(here: str, there: str, differing: Mapping[str, Sequence[str]]) -> StoreError:
    """Return the error for samples on which two stores disagree, {"label": ids, "text": ids}."""
    differences = []
    for what, ids in differing.items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        differences.append(f"the {what} of {', '.join(ids[:NAMED])}{more}")
    return StoreError(
        f"{here} and {there} differ in {'; '.join(differences)}",
        fix="mend the one that is wrong and extract it again, or `msa cache pull` the other: it becomes the newest "
        "version of its name, beside yours, which stays as name@fingerprint",
    )


def _digests(index: Index, modality: Modality) -> np.ndarray:
    digests = index.digests.get(modality)
    return np.zeros((len(index), 16), np.uint8) if digests is None else np.asarray(digests)


def _about(joined: Index, mine: Index, theirs: Index) -> dict[str, Any]:
    """Return `about` of a union: mine, what both dropped, and what now leaks between its splits."""
    ids = set(joined.ids)
    dropped = {row[0]: row for about in (theirs.about, mine.about) for row in about.get("dropped_ids", [])}
    left = [row for id, row in dropped.items() if id not in ids]
    parts = dict(enumerate(Split))
    samples = [
        Sample(id, None, {}, split=parts.get(int(part)), group=group)
        for id, part, group in zip(joined.ids, joined.split, joined.group, strict=True)
    ]
    kinds = {str(m): [row.tobytes() if row.any() else None for row in d] for m, d in joined.digests.items()}
    assert tuple(split.value for split in Split) == layout.SPLITS
    splits_said = {index.about.get("split", "") for index in (mine, theirs)}
    encodings = Counter(mine.about.get("encodings", {})) + Counter(theirs.about.get("encodings", {}))
    return dict(mine.about) | {
        "split": " and ".join(sorted(map(str, splits_said))),
        "dropped": dict(Counter(row[1] for row in left).most_common()),
        "dropped_ids": left,
        "encodings": dict(encodings),
        "leaks": splits.leaks(samples, kinds),
    }
