"""A second file of a dataset that is in the store: its views join what is there, where both mean the same samples.

They do where no sample of the file is new, and labels and official splits agree; what either leaves open is taken from
the other. Then the index that is there stays, with all its views. Where they differ, the file is a new version of the
dataset if that loses nothing, as one with corrected labels, and is refused if it would hide views that it lacks.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from msa.cache.format import layout
from msa.cache.index import Index
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write import segment
from msa.cache.write.journal import Row
from msa.errors import SourceError
from msa.names import shell_command

SHOWN = 3  # samples in a message


def joined(old: Index, new: Index) -> Index:
    """Return the index `old` with the inputs that only `new` knows, in the order of `old`; see `differences` before."""
    place = {id: row for row, id in enumerate(new.ids)}
    rows = np.array([place.get(id, -1) for id in old.ids])
    digests = dict(old.digests)
    for modality, theirs in new.digests.items():
        given = np.where((rows >= 0)[:, None], theirs[rows], np.uint8(0))
        mine = digests.get(modality, np.zeros_like(given))
        known = np.asarray(mine.any(axis=1))[:, None]
        digests[modality] = np.where(known, mine, given)
    text = [mine or (new.text[row] if row >= 0 else "") for mine, row in zip(old.text, rows, strict=True)]
    return replace(old, digests=digests, text=text)


def differences(old: Index, new: Index, official: Sequence[bool]) -> list[str]:
    """In what the samples of `new` differ from those of `old`, in sentences; nothing where they can be joined.

    Args:
        old: What is in the store.
        new: What a file says.
        official: Of each sample of `new`: does the file say its split? One that was drawn agrees with any other.
    """
    place = {id: row for row, id in enumerate(old.ids)}
    found = []
    unknown = [id for id in new.ids if id not in place]
    if unknown:
        found.append(f"{len(unknown)} of {len(new)} samples are new{_such(unknown)}")
    pairs = [(row, place[id]) for row, id in enumerate(new.ids) if id in place]
    mine = np.array([row for _, row in pairs], np.int64)
    theirs = np.array([row for row, _ in pairs], np.int64)
    if np.isfinite(new.labels).any():
        if (new.task, tuple(new.label_names)) != (old.task, tuple(old.label_names)):
            found.append("the labels are of another kind")
        else:
            other = np.isfinite(new.labels[theirs]) & (new.labels[theirs] != old.labels[mine])
            found += _count("labels", other.any(1), theirs, new)
    told = np.array(official, bool)[theirs]
    found += _count("splits", told & (new.split[theirs] != old.split[mine]), theirs, new)
    return found


def _count(what: str, other: np.ndarray, rows: np.ndarray, new: Index) -> list[str]:
    ids = [new.ids[row] for row in rows[other]]
    return [f"{len(ids)} of {len(rows)} samples have other {what}{_such(ids)}"] if ids else []


def _such(ids: Sequence[str]) -> str:
    return f" (such as {', '.join(ids[:SHOWN])})"


def check_kept(store: FeatureStore, index: Index, before: str, names: Sequence[str], unlike: Sequence[str]) -> None:
    """Raise SourceError where a new version of a dataset would leave views behind.

    Args:
        store: The store.
        index: The new version.
        before: Fingerprint of the old one.
        names: Views that the file brings.
        unlike: In what both differ.
    """
    lost = [view for view in store.views(before) if view.name not in names and not _carried(store, index, view)]
    if lost:
        views = ", ".join(f"{view.modality} ({view.name}@{view.id})" for view in lost)
        raise SourceError(
            f"{index.name} is in the store already, and this file is of other samples: {'; '.join(unlike)}. "
            f"Imported under the same name it would hide {views}",
            fix=f"give it another name with --name; or, if it is to replace the old one, "
            f"remove that first: {shell_command('msa', 'cache', 'rm', '--dataset', index.name)}",
        )


def _carried(store: FeatureStore, index: Index, view: View) -> bool:
    """Return whether the new version has a sample of equal input in this view."""
    if (digests := index.digests.get(view.modality)) is None:
        return False
    wanted = {row.tobytes().hex() for row in digests}
    return any(row.digest in wanted for row in _rows(store, view))


def _rows(store: FeatureStore, view: View) -> list[Row]:
    folder = store.path / layout.segments_path(view.id)
    return [row for entry in view.entries for row in segment.table(folder / entry.id)]
