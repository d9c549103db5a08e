"""What may be published: segments whose corpus and data are there, with samples nobody else was faster to bring."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from msa.cache.format.manifest import Files, Manifest, SegmentEntry, ViewEntry
from msa.cache.write.segment import taken, without
from msa.errors import StoreError

BACK_AFTER_S = 2.0  # what a sweep took away by mistake it has put back by then


class Nothing(Exception):
    """There is nothing to publish: raised by a change, it leaves the store at the generation it has."""


def admit(
    parent: Path, old: Manifest, view_id: str, files: Files, entries: Sequence[SegmentEntry]
) -> tuple[list[SegmentEntry], Manifest]:
    """Put sealed segments of `parent` (views/<view>/seg) into a manifest; returns them as they now lie on disk, and it.

    Left out are those of a corpus that was removed meanwhile, those that borrow data which is gone, and samples that
    other segments of the same corpus hold already. Raises Nothing where nothing remains, and StoreError where a segment
    was taken over.
    """
    there = old.segments_of(view_id)
    admitted: list[SegmentEntry] = []
    for entry in entries:
        if not (parent / entry.id).exists():
            raise StoreError(
                f"{parent / entry.id} was taken over by another run, which believed its writer dead",
                fix="run the command again: it continues after what the other run has done",
            )
        if entry.dataset in old.datasets and has_data(parent, entry):
            _wait_for(parent, there)
            left = without(parent, entry, taken(parent, [*there, *admitted], entry))
            admitted += [left] if left else []
    if not admitted:
        raise Nothing
    view = old.views.get(view_id, ViewEntry(files))
    view = replace(view, segments=(*view.segments, *admitted), published=old.generation + 1)
    return admitted, old.with_view(view_id, view)


def _wait_for(parent: Path, entries: Sequence[SegmentEntry]) -> None:
    """Until segments that a sweep has taken in its hands are back, or one does not come back."""
    for entry in entries:
        if not soon((parent / entry.id / "zarr.json").exists):
            return  # the generation that names it is an old one: `publish` finds out


def has_data(parent: Path, entry: SegmentEntry) -> bool:
    """Is the data of a segment, its own or borrowed, on disk?"""
    return (parent / entry.data_id / "data" / "zarr.json").exists()


def keeps_data(parent: Path, entry: SegmentEntry) -> bool:
    """The same after publication."""
    return soon(lambda: has_data(parent, entry))


def soon(there: Callable[[], bool]) -> bool:
    """Is something there, or there again soon?

    A sweep that meets a publication takes away first, then reads what is published, and puts back what that needs.
    """
    until = time.monotonic() + BACK_AFTER_S
    while not (found := there()) and time.monotonic() < until:
        time.sleep(0.02)
    return found
