"""Compare hidden states of one recipe and one input that other threads or instructions computed.

A sum is split by the number of threads and added in the order of the instructions at hand, so the last bits differ
from machine to machine. Measured, and bounded here with a margin of two, is the largest difference within a sample in
parts of the largest number of that sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from msa.cache.format.manifest import SegmentEntry
from msa.cache.read.view import View, ViewReader

if TYPE_CHECKING:
    from msa.cache.store import FeatureStore

# of the largest number of a sample: two units in the last place of the dtype; of float32, what sums of thousands lose
TOLERANCE = {"float16": 2.0**-9, "bfloat16": 2.0**-6, "float32": 2.0**-13}
AT_ONCE = 64  # samples


@dataclass
class Compared:
    """Samples that two sides have: how many are equal to the bit or within rounding, and which are not."""

    equal: int = 0
    close: int = 0
    apart: dict[str, list[tuple[str, float]]] = field(default_factory=dict)  # view -> (sample id, difference)

    def add(self, other: "Compared") -> None:
        """Add the counts of another comparison."""
        self.equal, self.close = self.equal + other.equal, self.close + other.close
        for view, samples in other.apart.items():
            self.apart.setdefault(view, []).extend(samples)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two samples (T, D), relative to the largest number in them.

    Infinity where the shapes differ, or one has a finite number where the other has none.
    """
    if a.shape != b.shape:
        return float("inf")
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    gap = np.abs(x - y)
    gap[np.isnan(x) & np.isnan(y)] = 0
    if not np.isfinite(gap).all():
        return float("inf")
    return float(gap.max() / max(np.nanmax(np.abs(x)), np.nanmax(np.abs(y))))


def compare(what: str, pairs: Sequence[tuple[int, int, str]], mine: ViewReader, theirs: ViewReader) -> Compared:
    """Compare samples of two readers of one view.

    Args:
        what: How the view is called in messages.
        pairs: Row of mine, row of theirs, and the id of the sample.
        mine: Reads one side.
        theirs: Reads the other.
    """
    compared, tolerance = Compared(), TOLERANCE[str(mine.view.attributes.get("dtype", "float16"))]
    for begin in range(0, len(pairs), AT_ONCE):
        part = pairs[begin : begin + AT_ONCE]
        here, there = _samples(mine, [row for row, _, _ in part]), _samples(theirs, [row for _, row, _ in part])
        for (_, _, id), a, b in zip(part, here, there, strict=True):
            gap = difference(a, b)
            if gap > tolerance:
                compared.apart.setdefault(what, []).append((id, gap))
            else:
                compared.equal, compared.close = compared.equal + (gap == 0), compared.close + (gap > 0)
    return compared


def between(mine: "FeatureStore", theirs: "FeatureStore") -> Compared:
    """Compare what two stores have of equal inputs by equal recipes, in datasets of one name.

    Segments of theirs whose data has the same SHA-256 as data of mine are not read.
    """
    compared = Compared()
    for view_id in sorted(mine.manifest.views.keys() & theirs.manifest.views.keys()):
        known = _shards(mine.manifest.segments_of(view_id))
        for other in _views(theirs, view_id):
            new = replace(other, entries=[entry for entry in other.entries if not _shards([entry]) <= known])
            left = _rows(theirs, new)
            for own in _views(mine, view_id) if left else ():
                if _name(mine, own) == _name(theirs, other):
                    here = _rows(mine, own)
                    pairs = [(here[digest][0], row, id) for digest, (row, id) in left.items() if digest in here]
                    compared.add(compare(f"{own.modality} {own.name}", pairs, mine.reader(own), theirs.reader(new)))
                    left = {digest: sample for digest, sample in left.items() if digest not in here}
    return compared


def as_text(apart: Mapping[str, Sequence[tuple[str, float]]], named: int) -> list[str]:
    """Return a line for each view of its unequal samples, those furthest apart first, with their differences."""
    lines = []
    for what, samples in apart.items():
        worst = sorted(samples, key=lambda sample: -sample[1])
        some = ", ".join(f"{id} ({_size(gap)})" for id, gap in worst[:named])
        more = f" and {len(worst) - named} more" if len(worst) > named else ""
        lines.append(f"the {what} of {some}{more}")
    return lines


def _size(gap: float) -> str:
    return "other lengths or no numbers" if gap == float("inf") else f"by {gap:.2g} of its largest number"


def _views(store: "FeatureStore", view_id: str) -> list[View]:
    """Return the view once for every dataset that it holds anything of."""
    return [view for dataset in store.manifest.datasets for view in store.views(dataset) if view.id == view_id]


def _rows(store: "FeatureStore", view: View) -> dict[bytes, tuple[int, str]]:
    """Map input digests to row and id of the samples that have hidden states."""
    index = store.index(view.dataset)
    digests = index.digests.get(view.modality)
    if digests is None or not view.entries:
        return {}
    rows: list[int] = np.flatnonzero(store.reader(view).length >= 0).tolist()
    return {digests[row].tobytes(): (row, index.ids[row]) for row in rows}


def _name(store: "FeatureStore", view: View) -> str:
    return store.manifest.datasets[view.dataset].name


def _shards(segments: Sequence[SegmentEntry]) -> set[str]:
    """Return the SHA-256 of all files that hold hidden states of these segments."""
    return {facts.sha256 for segment in segments for facts in segment.shards.values()}


def _samples(reader: ViewReader, rows: Sequence[int]) -> list[np.ndarray]:
    values, offsets = reader.flat(np.array(rows, np.int64))
    return [values[a:b] for a, b in pairwise(offsets.tolist())]
