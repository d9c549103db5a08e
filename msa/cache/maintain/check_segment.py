"""Check a published segment: which of its samples are whole, and what is wrong with the others.

Two readers look at the hidden states: the one that training uses, and zarr-python.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import layout
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.fingerprint import DIGEST
from msa.cache.format.manifest import Files, SegmentEntry
from msa.cache.format.shard import Shard
from msa.cache.format.zarr_array import Data
from msa.cache.maintain.check_index import MISMATCH, READ_ERRORS, CheckedIndex, check_files, read_arrays, reason
from msa.errors import StoreError

Rows = tuple[int, int]  # first row, row behind the last
TABLES = ("sample", "start", "length", "digest")
READ_BYTES = 2**24  # of hidden states that zarr-python reads at a time; a larger chunk is read by itself


@dataclass
class CheckedSegment:
    """A segment of m samples, as far as it can be read.

    Attributes:
        view: Id of its view.
        entry: What the manifest says of it.
        usable: Its tables can be read; without them m is 0.
        attributes: Of its zarr.json; None where that is damaged.
        sample, start, length, digest, counts: Its tables, a row per sample.
        lost: (m,) bool: the hidden states of the sample are damaged or gone.
        all_lost: No sample is whole, whatever the tables say.
        damaged_shards: Numbers of the shards that are not what was written.
        shard_rows: Rows of one shard of its data; 0 where the metadata of the data is damaged.
        findings: (file, what is wrong, positions in the tables; None: all samples).
    """

    view: str
    entry: SegmentEntry
    usable: bool = False
    attributes: SegmentAttributes | None = None
    sample: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    start: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    digest: np.ndarray = field(default_factory=lambda: np.zeros((0, DIGEST), np.uint8))
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    all_lost: bool = False
    damaged_shards: set[int] = field(default_factory=set)
    shard_rows: int = 0
    findings: list[tuple[str, str, np.ndarray | None]] = field(default_factory=list)

    def add(self, where: str, what: str, positions: np.ndarray | None = None, lost: bool = True) -> None:
        """Note a finding, and that the samples at `positions` (None: all) are lost, unless `lost` is False."""
        self.findings.append((where, what, positions))
        if lost and positions is None:
            self.all_lost = True
            self.lost[:] = True
        elif lost:
            self.lost[positions] = True

    def touching(self, ranges: Sequence[Rows]) -> np.ndarray:
        """Return the positions of samples with rows in any of these ranges."""
        hit = np.zeros(len(self.start), bool)
        for low, high in ranges:
            hit |= (self.start < high) & (self.start + self.length > low)
        return np.flatnonzero(hit)

    def in_shard(self, number: int) -> np.ndarray:
        """Return the positions of samples with rows in a shard."""
        return self.touching([(number * self.shard_rows, (number + 1) * self.shard_rows)])


def check_segment(
    root: Path,
    view: str,
    attributes: Mapping[str, Any] | None,
    entry: SegmentEntry,
    index: CheckedIndex,
    deep: bool,
) -> CheckedSegment:
    """Check one segment.

    Args:
        root: The store.
        view: Id of its view.
        attributes: Of the view; None where they cannot be read.
        entry: What the manifest says of the segment.
        index: The index that its row numbers refer to.
        deep: Also read every hidden state.
    """
    checked = CheckedSegment(view, entry)
    where = layout.segment_path(view, entry.id)
    folder = root / where
    bad = check_files(root, folder, entry.tables)
    tables, unreadable = read_arrays(folder, entry.tables, bad)
    for file, what in bad.items():
        checked.add(f"{where}/{file}", what, lost=file != "zarr.json")
    for name, what in unreadable.items():
        checked.add(f"{where}/{name}", what)
    _check_attributes(checked, folder, where, tables, index.n, "zarr.json" in bad)
    _check_tables(checked, where, tables, index, attributes)
    _check_data(checked, root, root / layout.segment_path(view, entry.data_id), entry.data, attributes, deep)
    return checked


def _check_attributes(
    checked: CheckedSegment, folder: Path, where: str, tables: Mapping[str, np.ndarray], n: int, known_bad: bool
) -> None:
    """Check its provenance, on which no hidden state depends.

    Args:
        checked: Takes the findings.
        folder: Of the segment.
        where: The same, relative to the store.
        tables: Its small arrays.
        n: Samples of the index.
        known_bad: The file has a finding already.
    """
    entry, wrong = checked.entry, ""
    try:
        own = SegmentAttributes.read(folder / "zarr.json", n)
        failures, counted = own.failures, own.counted
        table = tables.get("counts", np.zeros((0, len(counted)), np.int64))
        if counted and "counts/zarr.json" not in entry.files:
            wrong = f"has {len(counted)} names for counts, and no counts"
        for key in ("dataset", "data_of"):
            if getattr(own, key) != getattr(entry, key):
                wrong = f"says {key} {getattr(own, key)}, the manifest says {getattr(entry, key)}"
        if table.ndim != 2 or table.shape[1] != len(counted) or (table < 0).any():
            wrong = f"has {len(counted)} names for counts {list(table.shape)}"
    except READ_ERRORS as error:
        wrong = f"cannot be read: {reason(error)}"
    if not wrong:
        checked.attributes = own
        if entry.failed not in (0, len(failures)):
            checked.add(where, f"has {len(failures)} failures, the manifest says {entry.failed}", lost=False)
    elif not known_bad:
        checked.add(f"{where}/zarr.json", wrong, lost=False)


def _check_tables(
    checked: CheckedSegment,
    where: str,
    tables: Mapping[str, np.ndarray],
    index: CheckedIndex,
    attributes: Mapping[str, Any] | None,
) -> None:
    """Check the tables against each other, the manifest and the index.

    Args:
        checked: Takes the tables and the findings.
        where: The segment, relative to the store.
        tables: Its small arrays.
        index: The index that its row numbers refer to.
        attributes: Of the view; None where they cannot be read.
    """
    sizes = {len(tables[name]) for name in TABLES if name in tables}
    if not all(name in tables for name in TABLES) or len(sizes) != 1 or tables["digest"].shape[1:] != (DIGEST,):
        if all(name in tables for name in TABLES):
            checked.add(where, f"has tables of {sorted(sizes)} samples")
        elif not checked.all_lost:
            checked.add(where, "lacks one of its tables")
        return
    checked.usable = True
    checked.sample, checked.start = tables["sample"].astype(np.int64), tables["start"].astype(np.int64)
    checked.length, checked.digest = tables["length"].astype(np.int64), tables["digest"]
    checked.lost = np.full(len(checked.sample), checked.all_lost)
    checked.counts = tables.get("counts", np.zeros((len(checked.sample), 0), np.int64))
    m = len(checked.sample)
    if len(checked.counts) != m:
        checked.add(f"{where}/counts", f"has numbers of {len(checked.counts)} samples, the other tables have {m}")
        checked.counts = np.zeros((m, 0), np.int64)
    if m != checked.entry.samples:
        checked.add(where, f"has {m} samples, the manifest says {checked.entry.samples}", lost=False)
    outside = (checked.sample < 0) | (checked.sample >= index.n)
    if outside.any():
        checked.add(f"{where}/sample", f"has rows outside the {index.n} of its index", np.flatnonzero(outside))
    repeated = np.setdiff1d(np.arange(m), np.unique(checked.sample, return_index=True)[1])
    if len(repeated):
        checked.add(f"{where}/sample", "has samples that stand twice", repeated)
    known = index.digests.get(attributes["modality"]) if attributes and "modality" in attributes else None
    imported = attributes is not None and "imported" in attributes.get("identity", {})  # digests of features, not media
    if known is not None and not imported:
        inside = np.flatnonzero(~outside)
        other = inside[(known[checked.sample[inside]] != checked.digest[inside]).any(1)]
        if len(other):
            checked.add(f"{where}/digest", "has hidden states of other inputs than the index names", other)


def _check_data(
    checked: CheckedSegment,
    root: Path,
    owner: Path,
    files: Files,
    attributes: Mapping[str, Any] | None,
    deep: bool,
) -> None:
    """Check the files of the data and, if `deep`, every hidden state.

    Args:
        checked: Takes the findings.
        root: The store.
        owner: Folder of the segment that holds the data, its own or the one it borrows from.
        files: What the manifest says of the files of the data.
        attributes: Of the view; None where they cannot be read.
        deep: Also read every hidden state.
    """
    bad, where = check_files(root, owner, files), owner.relative_to(root).as_posix()
    data: Data | None = None
    if "data/zarr.json" not in files or "data/zarr.json" in bad:
        checked.add(f"{where}/data/zarr.json", bad.pop("data/zarr.json", "is not named by the manifest"))
    try:
        data = _open_data(owner / "data", attributes)
        checked.shard_rows = data.file_rows
    except READ_ERRORS as error:
        if not checked.all_lost:
            checked.add(f"{where}/data/zarr.json", f"cannot be read: {reason(error)}")
    number_of = {name: shard_number(name) for name in sorted(files, key=shard_number) if shard_number(name) >= 0}
    for name, what in bad.items():
        number = number_of.get(name, -1)
        positions = checked.in_shard(number) if data and checked.usable else None
        if data and positions is not None and len(positions) and what.startswith(MISMATCH):
            narrowed = _in_damaged_chunks(checked, data, number)
            positions = positions if narrowed is None else narrowed
        checked.add(f"{where}/{name}", what, positions)
        checked.damaged_shards.add(number)
    if data is None:
        return
    for name in sorted(set(files) - {"data/zarr.json"}):
        if not 0 <= number_of.get(name, -1) * data.file_rows < data.rows:
            checked.add(f"{where}/{name}", "is named by the manifest, and lies beyond the data", np.zeros(0, np.int64))
    if not checked.usable:
        return
    _check_bounds(checked, where, data)
    for number in np.unique(checked.start[~checked.lost] // data.file_rows).tolist():
        if number not in number_of.values():
            checked.add(f"{where}/data/c/{number}/0", "is named by no manifest", checked.in_shard(number))
    if deep:
        _check_states(checked, where, data, number_of, bad)


def _open_data(path: Path, attributes: Mapping[str, Any] | None) -> Data:
    """Open a `data` array. Raises StoreError where it is damaged, or of another width or dtype than its view."""
    data = Data(path)
    said = attributes or {}
    if (said.get("dim", data.width), said.get("dtype", data.dtype)) != (data.width, data.dtype):
        raise StoreError(
            f"{path}: {data.dtype}[T, {data.width}], the view says {said.get('dtype')}[T, {said.get('dim')}]",
            fix="extract again",
        )
    return data


def _check_bounds(checked: CheckedSegment, where: str, data: Data) -> None:
    """Find samples that point outside the data, across two shards, or into another sample."""
    start, end = checked.start, checked.start + checked.length
    outside = (start < 0) | (checked.length <= 0) | (start > data.rows - checked.length)
    if data.grid:
        outside |= start // data.file_rows != (end - 1) // data.file_rows
    if outside.any():
        checked.add(f"{where}/start", "points outside its data", np.flatnonzero(outside))
    inside = np.flatnonzero(~outside)
    order = inside[np.lexsort((end[inside], start[inside]))]
    if not len(order):
        return
    reach = np.maximum.accumulate(end[order])
    same = (start[order][1:] == start[order][:-1]) & (end[order][1:] == end[order][:-1])
    overlapping = np.flatnonzero((start[order][1:] < reach[:-1]) & ~same)
    if len(overlapping):
        both = np.unique(np.r_[order[overlapping], order[overlapping + 1]])
        checked.add(f"{where}/start", "has samples that overlap", both)


def _check_states(
    checked: CheckedSegment, where: str, data: Data, number_of: Mapping[str, int], bad: Mapping[str, str]
) -> None:
    """Read every chunk of every shard.

    Args:
        checked: Takes the findings.
        where: The segment that holds the data, relative to the store.
        data: Its `data` array.
        number_of: File -> number of the shard.
        bad: File -> what is known to be wrong with it already.
    """
    for name, number in number_of.items():
        if name in bad and not (data.grid and bad[name].startswith(MISMATCH)):
            continue
        try:
            damaged, odd = _read_shard(data, number)
        except READ_ERRORS as error:
            if name not in bad:
                checked.add(f"{where}/{name}", reason(error), checked.in_shard(number))
                checked.damaged_shards.add(number)
            continue
        if name not in bad and len(hit := checked.touching(damaged)):
            checked.add(f"{where}/{name}", "has chunks that do not match their checksums", hit)
            checked.damaged_shards.add(number)
        end = checked.start + checked.length
        if len(hit := np.flatnonzero(np.searchsorted(odd, checked.start) < np.searchsorted(odd, end))):
            checked.add(f"{where}/{name}", "has NaN or infinity in the hidden states", hit)


def _read_shard(data: Data, number: int) -> tuple[list[Rows], np.ndarray]:
    """Return the row ranges of damaged or missing chunks, and the rows with NaN or infinity.

    Raises StoreError where the shard cannot be read, and where zarr-python reads other numbers than `Shard`.
    """
    import zarr

    array: Any = zarr.open_array(data.path, mode="r")
    first, end = number * data.file_rows, min((number + 1) * data.file_rows, data.rows)
    shard, damaged, sound, step = data.file(number), list[Rows](), [(first, end)], 1
    if isinstance(shard, Shard):
        broken = _damaged_chunks(shard) | ~shard.written
        borders = np.flatnonzero(np.diff(np.r_[True, broken, True]))  # begin and end of each run of sound chunks
        sound = np.minimum(first + borders * shard.grid.chunk_rows, end).reshape(-1, 2).tolist()
        damaged, step = _row_ranges(shard, broken, first), shard.grid.chunk_rows
    else:
        data.check_inflated(data.path / "c" / str(number) / "0")
    step *= max(1, READ_BYTES // (step * data.width * data.stored.itemsize))
    odd = [np.zeros(0, np.int64)]
    for low, high in _pieces(sound, step):
        states = np.asarray(array[low:high])
        finite = (states & 0x7F80) != 0x7F80 if data.dtype == "bfloat16" else np.isfinite(states)
        odd.append(low + np.flatnonzero(~finite.all(1)))
        if isinstance(shard, Shard) and shard.rows(low - first, high - first) != states.tobytes():
            raise StoreError(
                f"{shard.path}: zarr-python reads other numbers in rows {low} to {high - 1}", fix="report this as a bug"
            )
    return damaged, np.concatenate(odd)


def _pieces(ranges: Sequence[Rows], step: int) -> Iterator[Rows]:
    """Cut ranges into pieces of at most `step` rows."""
    for begin, end in ranges:
        for low in range(begin, end, step):
            yield low, min(low + step, end)


def _damaged_chunks(shard: Shard) -> np.ndarray:
    """Return (chunks,) bool: chunks that were written and do not match their checksum. Raises StoreError."""
    damaged = np.zeros(shard.grid.chunks, bool)
    for chunk in np.flatnonzero(shard.written).tolist():
        try:
            shard.check(shard.untouched(np.array([chunk])))
        except StoreError:
            damaged[chunk] = True
    return damaged


def _row_ranges(shard: Shard, chunks: np.ndarray, first: int) -> list[Rows]:
    """Return the rows of these chunks, (chunks,) bool, of a shard that begins at row `first`."""
    size = shard.grid.chunk_rows
    return [(first + n * size, first + (n + 1) * size) for n in np.flatnonzero(chunks).tolist()]


def _in_damaged_chunks(checked: CheckedSegment, data: Data, number: int) -> np.ndarray | None:
    """Return the positions of samples in damaged or missing chunks of a shard; None where all chunks are sound."""
    shard = data.file(number)
    if not isinstance(shard, Shard) or not shard.grid.crc:
        return None
    try:
        damaged = _damaged_chunks(shard)
    except READ_ERRORS:
        return None
    ranges = _row_ranges(shard, damaged | ~shard.written, number * data.file_rows)
    return checked.touching(ranges) if damaged.any() else None


def shard_number(name: str) -> int:
    """Return which shard a file of `data` is: 7 for data/c/7/0; -1 where it is none."""
    parts = name.replace(".", "/").split("/")
    return int(parts[2]) if len(parts) >= 3 and parts[:2] == ["data", "c"] else -1


def sound_states(path: Path, checked: CheckedSegment, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield position and hidden states (T, D), as stored, of `chosen` (m,) samples, all of whose chunks are sound."""
    import zarr

    if not chosen.any():
        return  # its metadata may be what is damaged
    array: Any = zarr.open_array(path, mode="r")
    for position in np.flatnonzero(chosen).tolist():
        start, length = int(checked.start[position]), int(checked.length[position])
        yield position, np.asarray(array[start : start + length])
