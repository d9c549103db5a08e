"""Conflict rules for publishing.

Segments whose dataset or data are gone are dropped, and samples that another writer published first.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from msa.cache.format import layout
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.manifest import Files, Manifest, SegmentEntry, ViewEntry
from msa.cache.write import segment
from msa.errors import StoreError

BACK_AFTER_S = 2.0  # what a garbage collection took away by mistake it has put back by then


class Unchanged(Exception):
    """There is nothing to publish. Raised by a change, it leaves the store at the generation it has."""


def add_segments(
    parent: Path, old: Manifest, view_id: str, files: Files, entries: Sequence[SegmentEntry]
) -> tuple[list[SegmentEntry], Manifest]:
    """Add sealed segments to a view; return them as they now lie on disk, and the new manifest.

    Left out are segments of a dataset that was removed meanwhile, those that borrow data which is gone, and samples
    that other segments of the same dataset hold already.

    Args:
        parent: Folder of the view's segments.
        old: The newest generation.
        view_id: The view.
        files: Files of the view itself, for one that is not published yet.
        entries: Sealed segments of this writer.

    Raises:
        Unchanged: Nothing remains.
        StoreError: A segment was taken over by another run.
    """
    published = old.segments_of(view_id)
    added: list[SegmentEntry] = []
    for entry in entries:
        if not (parent / entry.id).exists():
            raise StoreError(
                f"{parent / entry.id} was taken over by another run, which believed its writer dead",
                fix="run the command again: it continues after what the other run has done",
            )
        if entry.dataset in old.datasets and has_data(parent, entry):
            _wait_for(parent, published)
            rest = _without(parent, entry, _samples_of(parent, [*published, *added], entry.dataset))
            added += [rest] if rest else []
    if not added:
        raise Unchanged
    view = old.views.get(view_id, ViewEntry(files))
    view = replace(view, segments=(*view.segments, *added), published=old.generation + 1)
    return added, old.with_view(view_id, view)


def _wait_for(parent: Path, entries: Iterable[SegmentEntry]) -> None:
    """Wait until segments that a garbage collection took away are back, or one does not come back."""
    for entry in entries:
        if not appears((parent / entry.id / "zarr.json").exists):
            return  # the generation that names it is an old one: publishing retries with a newer one


def _samples_of(parent: Path, segments: Iterable[SegmentEntry], dataset: str) -> set[int]:
    """Return the samples of a dataset that these segments hold."""
    folders = [parent / entry.id for entry in segments if entry.dataset == dataset]
    return {int(sample) for folder in folders for sample in layout.read_array(folder / "sample")}


def _without(parent: Path, entry: SegmentEntry, samples: set[int]) -> SegmentEntry | None:
    """Take samples out of a segment that is not published yet; return its new entry, None where nothing is left."""
    folder = parent / entry.id
    rows = segment.table(folder) if samples else []
    kept = [row for row in rows if row.sample not in samples]
    attributes = SegmentAttributes.read(folder / "zarr.json")
    failures = [failure for failure in attributes.failures if failure["sample"] not in samples]
    if len(kept) == len(rows) and len(failures) == len(attributes.failures):
        return entry
    if not kept and not failures:
        return None
    segment.write_small(folder, kept, replace(attributes, failures=failures))
    return segment.describe(folder)


def has_data(parent: Path, entry: SegmentEntry) -> bool:
    """Return whether the data of a segment, its own or borrowed, is on disk."""
    return (parent / entry.data_id / "data" / "zarr.json").exists()


def keeps_data(parent: Path, entry: SegmentEntry) -> bool:
    """Return whether the data of a segment is on disk after publication, once a garbage collection put it back."""
    return appears(lambda: has_data(parent, entry))


def appears(exists: Callable[[], bool]) -> bool:
    """Return whether `exists` becomes true within BACK_AFTER_S.

    A garbage collection that meets a publication takes away first, then reads what is published, and puts back what
    that needs.
    """
    until = time.monotonic() + BACK_AFTER_S
    while not (result := exists()) and time.monotonic() < until:
        time.sleep(0.02)
    return result
