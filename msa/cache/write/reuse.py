"""Borrowed segments: segments without data of their own, whose tables point into the data of another of the same view.

A dataset whose labels, splits or list of samples changed is another dataset with the same inputs. It is served from
the hidden states that are there, and nothing is encoded again.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from msa.cache.format import generations, layout, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.fingerprint import DIGEST
from msa.cache.format.manifest import SegmentEntry
from msa.cache.index import Index
from msa.cache.read.view import View
from msa.cache.write import heartbeat, segment
from msa.cache.write.journal import Row
from msa.cache.write.liveness import whoami
from msa.cache.write.segment import JOURNAL
from msa.errors import StoreError

if TYPE_CHECKING:
    from msa.cache.store import FeatureStore


def borrow(store: "FeatureStore", view_id: str, dataset: str, digests: np.ndarray, rows: Sequence[int]) -> int:
    """Serve samples of a dataset from hidden states that the view holds of equal inputs; return how many.

    Args:
        store: The store; it is published to.
        view_id: The view.
        dataset: Fingerprint of the dataset.
        digests: (n, 16) uint8, digests of the dataset's inputs.
        rows: Which samples are wanted.
    """
    made: list[SegmentEntry] = []
    while True:
        newest = generations.read(store.path)  # a pinned generation may be hours old, and what it names removed
        segments = newest.segments_of(view_id)
        try:
            made.extend(_borrowed(store.path / layout.segments_path(view_id), segments, dataset, digests, rows))
            break
        except (StoreError, FileNotFoundError):
            for entry in made:
                with suppress(FileNotFoundError):
                    local_files.remove_tree(store.path, store.path / layout.segment_path(view_id, entry.id))
            made.clear()
            present = {entry.id for entry in generations.read(store.path).segments_of(view_id)}
            if {entry.id for entry in segments} <= present:
                raise  # else a segment was removed while it was read
    return sum(entry.samples for entry in store.publish(view_id, made))


def carry_over(store: "FeatureStore", index: Index, before: str | None, same_rows: bool = False) -> dict[str, int]:
    """Serve a new version of a dataset from the views of an older one; return the number of samples by view id.

    Without it a corrected label or another split would leave a dataset without what was extracted of it so far.

    Args:
        store: The store; it is published to.
        index: The new version, which is published already.
        before: Fingerprint of the older version; None where there is none.
        same_rows: Row i is the same sample in both: equal inputs are found by the digests that the views recorded.
            Those of imported features need not be the digests of the index.

    Raises:
        StoreError: The new version was removed meanwhile.
    """
    now = store.datasets.get(index.name)
    if now is None:
        raise StoreError(
            f"{store.path}: {index.name} was removed from the store while it was added",
            fix="run the same command again if it was removed by mistake",
        )
    if before is None or before == now:
        return {}
    present = {view.id for view in store.views(now)}
    carried = {}
    for view in store.views(before):
        digests = _recorded(store, view, len(index)) if same_rows else index.digests.get(view.modality)
        if digests is not None and view.id not in present:
            rows = np.flatnonzero(digests.any(axis=1)).tolist()
            if count := borrow(store, view.id, now, digests, rows):
                carried[view.id] = count
    return carried


def _recorded(store: "FeatureStore", view: View, n: int) -> np.ndarray:
    """Return the digests (n, 16) that the segments of a view recorded, 0 for samples without hidden states."""
    digests = np.zeros((n, DIGEST), np.uint8)
    for entry in view.entries:
        for row in segment.table(store.path / layout.segment_path(view.id, entry.id)):
            digests[row.sample] = np.frombuffer(bytes.fromhex(row.digest), np.uint8)
    return digests


def _borrowed(
    parent: Path, segments: Sequence[SegmentEntry], dataset: str, digests: np.ndarray, rows: Sequence[int]
) -> Iterator[SegmentEntry]:
    """Make segments that serve `rows` from what segments of `parent` hold of equal inputs; yield their entries."""
    wanted: dict[str, list[int]] = {}
    for row in rows:
        wanted.setdefault(digests[row].tobytes().hex(), []).append(row)
    for entry in segments:
        table = segment.table(parent / entry.id)
        equal = [held._replace(sample=row) for held in table for row in wanted.pop(held.digest, ())]
        if equal:
            run = SegmentAttributes.read(parent / entry.id / "zarr.json").run
            yield lend(parent, entry, equal, SegmentAttributes(dataset, run))


def lend(parent: Path, owner: SegmentEntry, rows: Sequence[Row], attributes: SegmentAttributes) -> SegmentEntry:
    """Make a segment of `rows` that point into the data of a published one; return its manifest entry.

    Until it is published it has a journal, so that others leave it alone while this process lives, and remove it
    when it is dead.

    Args:
        parent: Folder of the view's segments.
        owner: The published segment, which may be borrowed itself.
        rows: Samples, with their places in the owner's data.
        attributes: Of the new segment.
    """
    folder = parent / segment.new_name()
    store = layout.store_of(folder)
    local_files.make_folder(store, folder, new=True)
    header = {"dataset": attributes.dataset, "data_of": owner.data_id, "run": attributes.run, "writer": whoami()}
    local_files.write(store, folder / JOURNAL, json.dumps(header).encode() + b"\n")
    heartbeat.keep(folder / JOURNAL)  # until it is published
    return _write(store, folder, owner, rows, attributes)


def narrow(tables: Path, owner: SegmentEntry, kept: np.ndarray, store: Path, folder: Path) -> SegmentEntry | None:
    """Make a segment of some samples of another, in a store of its own that is not read; return its manifest entry.

    Args:
        tables: Folder with the tables of the other segment.
        owner: Its entry.
        kept: (n,) bool, which samples of the dataset are kept.
        store: Root of the store that `folder` is in.
        folder: Folder of the new segment; one that was made before is written anew, with the same content.

    Returns:
        None where it holds none of the samples, nor a failure record of one.
    """
    rows, failures = segment.table(tables, kept), segment.failures(tables, owner, kept)
    if not rows and not failures:
        return None
    local_files.make_folder(store, folder)
    attributes = SegmentAttributes.read(tables / "zarr.json", len(kept))
    return _write(store, folder, owner, rows, replace(attributes, failures=failures))


def _write(
    store: Path, folder: Path, owner: SegmentEntry, rows: Sequence[Row], attributes: SegmentAttributes
) -> SegmentEntry:
    segment.write_small(folder, rows, replace(attributes, data_of=owner.data_id))
    files, failed = segment.files(store, folder), len(attributes.failures)
    return SegmentEntry(folder.name, attributes.dataset, len(rows), failed, files, owner.data_id, owner.data)
