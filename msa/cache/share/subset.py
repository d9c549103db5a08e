"""Subsets of a store: a manifest of whole segments where all of one is selected, else of new ones.

Where the selected samples of a segment hold most of its rows its data is taken as it is, under a small borrowed
segment that names those samples alone; else their rows are copied into a smaller segment. Either has a name that
follows from what it was made of, so that the same selection gives the same files, on any machine and on any day.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msa.annotations import rows as records
from msa.cache.format import layout, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.manifest import Manifest, SegmentEntry, ViewEntry, in_order
from msa.cache.format.zarr_array import Data
from msa.cache.read.view import View, ViewReader
from msa.cache.store import FeatureStore
from msa.cache.write import reuse, segment
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.types import Split

MOST = 0.75  # share of a segment's rows from which on its data is sent whole
PIECE_BYTES = 2**24  # of hidden states that are copied at a time


@dataclass(frozen=True)
class Selection:
    """Selection of datasets, views and samples; an empty field selects all."""

    datasets: Sequence[str] = ()  # names, or name@fingerprint
    views: Sequence[str] = ()  # backbone, id, or backbone@id
    splits: Sequence[str] = ()
    samples: Path | None = None  # ids, one a line, or a table with a column `id`

    @property
    def by_sample(self) -> bool:
        """Whether samples are left out."""
        return bool(self.splits or self.samples)


ALL = Selection()


@dataclass
class Subset:
    """Subset of a store: its manifest, and the folder of files that were made for it."""

    store: FeatureStore
    staging: Path  # laid out like a store
    manifest: Manifest = field(default_factory=Manifest)
    made: set[str] = field(default_factory=set)  # folders that lie in `staging`

    def tables(self, view_id: str, entry: SegmentEntry) -> Path:
        """Return the folder with the small arrays of a segment of the subset."""
        name = layout.segment_path(view_id, entry.id)
        return self.staging / name if name in self.made else self.store.tables(view_id, entry)

    def folder(self, view_id: str, segment_id: str) -> Path:
        """Return the folder of a segment that is to be made for the subset."""
        name = layout.segment_path(view_id, segment_id)
        self.made.add(name)
        return self.staging / name


def select(
    store: FeatureStore, wanted: Selection, staging: Path, known: Mapping[str, SegmentEntry] | None = None
) -> Subset:
    """Return a subset of a store. Raises UnknownNameError or ConfigError where the selection is empty.

    Args:
        store: The store.
        wanted: The selection.
        staging: Folder for new segments, laid out like a store.
        known: Segments, by id, that the target has; they are not made again.
    """
    subset = Subset(store, staging)
    datasets, views, rows = meant(store, wanted)
    chosen = {f: entry for f, entry in in_order(store.manifest.datasets) if f in datasets}
    made: dict[str, ViewEntry] = {}
    for view_id, view in in_order(store.manifest.views):
        wanted_segments = [e for e in view.segments if view_id in views and e.dataset in datasets]
        if rows is not None:
            parts = (_part(subset, view_id, e, rows[e.dataset], known or {}) for e in wanted_segments)
            wanted_segments = [part for part in parts if part]
        if wanted_segments:
            made[view_id] = replace(view, segments=tuple(wanted_segments))
    subset.manifest = Manifest(datasets=chosen, views=made)
    return subset


def meant(store: FeatureStore, wanted: Selection) -> tuple[set[str], set[str], dict[str, np.ndarray] | None]:
    """Return the datasets, the views and, for each dataset, the samples (n,) bool of a selection; None for all samples.

    A dataset without a selected sample is left out: its texts and labels were not selected either. Raises
    UnknownNameError or ConfigError where the selection is empty.
    """
    datasets = {store.dataset(name) for name in wanted.datasets} or set(store.manifest.datasets)
    views = _views(store, wanted.views)
    if wanted.views:
        datasets &= {e.dataset for v in views for e in store.manifest.segments_of(v)}
    if (wanted.datasets or wanted.views) and not datasets:
        raise ConfigError(
            f"{store.where} has no {', '.join(wanted.views)} of {', '.join(wanted.datasets) or 'any dataset'}",
            fix="see what there is with `msa cache ls`",
        )
    if not wanted.by_sample:
        return datasets, views, None
    rows = _rows(store, wanted, datasets)
    return {fingerprint for fingerprint, kept in rows.items() if kept.any()}, views, rows


def narrow(subset: Subset, view_id: str, entry: SegmentEntry, kept: np.ndarray) -> SegmentEntry | None:
    """Return a segment that borrows the data of another and has only the samples `kept`, (n,) bool; None for none."""
    folder = subset.folder(view_id, _name(entry, kept, "borrowed"))
    return reuse.narrow(subset.tables(view_id, entry), entry, kept, subset.staging, folder)


def _part(
    subset: Subset, view_id: str, entry: SegmentEntry, kept: np.ndarray, known: Mapping[str, SegmentEntry]
) -> SegmentEntry | None:
    """Return a segment with the samples `kept`, (n,) bool, of another; None for no samples."""
    home = subset.tables(view_id, entry)
    sample, start, length = segment.places(home, len(kept))
    wanted = kept[sample]
    if wanted.all() and len(segment.failures(home, entry, kept)) == len(segment.failures(home, entry)):
        return entry
    for how in ("borrowed", "copied"):
        if (name := _name(entry, kept, how)) in known:
            return known[name]
    if _share(start, length, wanted) >= MOST:
        return narrow(subset, view_id, entry, kept)
    return _copied(subset, view_id, entry, kept)


def _share(start: np.ndarray, length: np.ndarray, wanted: np.ndarray) -> float:
    """Return the share of a segment's rows that the selected samples have, each row counted once."""
    _, first = np.unique(start, return_index=True)
    _, selected = np.unique(start[wanted], return_index=True)
    return float(length[wanted][selected].sum() / max(1, length[first].sum()))


def _copied(subset: Subset, view_id: str, entry: SegmentEntry, kept: np.ndarray) -> SegmentEntry | None:
    """Copy the hidden states of some samples of a segment into a new one."""
    home = subset.tables(view_id, entry)
    rows, failures = segment.table(home, kept), segment.failures(home, entry, kept)
    if not rows and not failures:
        return None
    store, run = subset.store, SegmentAttributes.read(home / "zarr.json", len(kept)).run
    view = View(view_id, entry.dataset, store.attributes(view_id), [entry])
    samples = store.manifest.datasets[view.dataset].samples
    reader = ViewReader(store.path / layout.segments_path(view_id), view, samples, store.blocks)
    form = _form(store, view, entry)
    folder = subset.folder(view_id, _name(entry, kept, "copied"))
    local_files.make_folder(subset.staging, folder.parent)
    writer = SegmentWriter(folder, view.dataset, form, run, flush_after_s=float("inf"))
    many = max(1, PIECE_BYTES // max(1, 4 * view.dim * int(np.mean([row.length for row in rows] or [1]))))
    for begin in range(0, len(rows), many):
        piece = rows[begin : begin + many]
        values, offsets = reader.flat(np.array([row.sample for row in piece], np.int64))
        for row, a, b in zip(piece, offsets[:-1], offsets[1:], strict=True):
            writer.write(row.sample, bytes.fromhex(row.digest), _as_stored(values[a:b], form), row.counts)
    for failure in failures:
        writer.fail(
            failure["sample"],
            bytes.fromhex(failure["digest"]),
            failure["stage"],
            failure["reason"],
            failure.get("counts"),
        )
    made = writer.seal()
    if made:
        segment.close(folder)
    return made


def _form(store: FeatureStore, view: View, entry: SegmentEntry) -> Form:
    """Return chunk and shard sizes of a segment's data, or the usual ones where another program wrote it."""
    data = Data(store.path / layout.segment_path(view.id, entry.data_id) / "data", store.blocks)
    if data.grid is None:
        return Form.of(view.dim, str(view.attributes["dtype"]))
    return Form(data.width, data.dtype, data.grid.chunk_rows, data.file_rows)


def _as_stored(values: np.ndarray, form: Form) -> np.ndarray:
    if form.dtype == "bfloat16":  # read as float32, whose lower half is 0
        return np.ascontiguousarray(values, np.float32).view(np.uint32).__rshift__(16).astype(np.uint16)
    return values


def _name(entry: SegmentEntry, kept: np.ndarray, how: str) -> str:
    """Return a segment name that depends on a segment and the samples kept of it: its time, and a hash."""
    what = hashlib.sha256(f"{how} {entry.id} {entry.failed} ".encode() + np.packbits(kept).tobytes())
    return entry.id[:16] + what.hexdigest()[:8]


def _views(store: FeatureStore, wanted: Sequence[str]) -> set[str]:
    known = {v.id: v for fingerprint in store.manifest.datasets for v in store.views(fingerprint)}
    if not wanted:
        return set(store.manifest.views)
    selected = set()
    for text in wanted:
        fit = {view_id for view_id, view in known.items() if view.is_called(text)}
        if not fit:
            raise UnknownNameError("view in this store", text, sorted({v.name for v in known.values()} | set(known)))
        selected |= fit
    return selected


def _rows(store: FeatureStore, wanted: Selection, datasets: set[str]) -> dict[str, np.ndarray]:
    """Return the selected samples of each dataset, (n,) bool."""
    ids = sorted(_ids(wanted.samples)) if wanted.samples else None
    if unknown := [split for split in wanted.splits if split not in list(Split)]:
        raise UnknownNameError("split", unknown[0], list(Split))
    selected, seen = {}, set[str]()
    for fingerprint in datasets:
        index = store.index(fingerprint)
        kept = np.isin(index.split, [layout.SPLITS.index(Split(s)) for s in wanted.splits or list(Split)])
        if not wanted.splits:
            kept[:] = True
        if ids is not None:
            rows = index.find(ids)
            named = np.zeros(len(index), bool)
            named[rows[rows >= 0]] = True
            kept &= named
            seen.update(id for id, row in zip(ids, rows.tolist(), strict=True) if row >= 0)
        selected[fingerprint] = kept
    if ids is not None and (lost := [id for id in ids if id not in seen]):
        raise ConfigError(
            f"{wanted.samples} names {len(lost)} of {len(ids)} samples that {store.where} does not have: "
            f"{', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}",
            fix="take them out, or name the dataset they are of",
        )
    if not any(kept.any() for kept in selected.values()):
        raise ConfigError(f"no sample of {store.where} is selected", fix="see the splits with `msa cache info`")
    return selected


def _ids(path: Path) -> set[str]:
    """Read ids from a text file, one a line, or from the column `id` of a CSV, TSV or JSONL file."""
    try:
        if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson"):
            ids = {str(cells["id"]) for _, cells in records.read(path)[1] if "id" in cells}
        else:
            ids = {line.strip() for line in records.text_of(path).splitlines() if line.strip()}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", fix="name a file with one id a line") from None
    if not ids:
        raise ConfigError(f"{path} names no sample", fix="give one id a line, or a CSV or JSONL with a column `id`")
    return ids
