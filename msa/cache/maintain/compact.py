"""`msa cache compact`: many small segments of a view become few with full shards; no hidden state changes a bit.

Kills, slow backbones, job arrays and repairs leave segments that hold little, shards that were closed early, and rows
that no sample refers to any more. The samples are written anew, read back and compared, and published in a new
generation in place of the old segments, which stay for readers of older generations until `msa cache gc`. The
remains of a killed compaction look like an extraction of samples that are all there, and are removed like one.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from msa.cache.format import generations, layout, limits, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.manifest import Manifest, SegmentEntry, in_order
from msa.cache.maintain import remove
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write import reuse, segment
from msa.cache.write.journal import Row
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import StoreError
from msa.progress import Progress

FULL = 0.8  # a segment whose rows fill so much of its shards is left as it is
SPARE = 1.05  # free space that is needed, as a multiple of what is written


@dataclass(frozen=True)
class Size:
    """Number of segments and shards, and the bytes of those shards."""

    segments: int = 0
    shards: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Compaction:
    """Result of compacting a view, or what it would be."""

    view: str
    label: str  # "text roberta.base"
    before: Size
    after: Size


def compact(
    store: FeatureStore,
    view: str | None = None,
    progress: Progress = Progress(),
    dry_run: bool = False,
    shard_bytes: int = layout.SHARD_BYTES,
) -> list[Compaction]:
    """Compact one view or all, and return what was compacted; views with nothing to gain are left as they are.

    Raises StoreError where there is not enough space, where a hidden state cannot be read, or where another process
    changed the same segments meanwhile; the store is then as it was.

    Args:
        store: The folder.
        view: Name or id of a view; None: all.
        progress: Callbacks for progress.
        dry_run: Write nothing.
        shard_bytes: Size of a full shard.
    """
    store.manifest = generations.read(store.path)
    wanted = [remove.matching_view(store, view)] if view is not None else list(store.manifest.views)
    results = []
    for view_id in wanted:
        job = _Job.of(store, view_id, shard_bytes)
        if job.worth_it:
            results.append(job.report if dry_run else job.run(progress))
    return results


@dataclass
class _Job:
    """Compaction of one view: the entries to replace, by dataset in order of publication, and what they become."""

    store: FeatureStore
    view_id: str
    form: Form
    entries: Mapping[str, Sequence[SegmentEntry]]
    before: Size
    after: Size
    _made: list[SegmentEntry] = field(default_factory=list)
    _begun: list[str] = field(default_factory=list)  # segments that were begun, sealed or not

    @classmethod
    def of(cls, store: FeatureStore, view_id: str, shard_bytes: int) -> "_Job":
        """Find the segments of a view that do not fill their shards, and estimate what they become."""
        parent = store.path / layout.segments_path(view_id)
        entries = store.manifest.segments_of(view_id)
        extents = {e.id: {(start, length) for _, start, length in _table(parent / e.id)} for e in entries}
        meta = limits.read_json(parent / entries[0].data_id / "data" / "zarr.json")
        longest = max((length for extent in extents.values() for _, length in extent), default=1)
        form = _form(meta["shape"][1], meta["attributes"]["dtype"], shard_bytes, longest)
        poor, before = set(), Size()
        for owner in {entry.data_id for entry in entries}:
            of_owner = [entry for entry in entries if entry.data_id == owner]
            shards = [facts.size for facts in of_owner[0].shards.values()]
            used_rows = sum(length for _, length in set[tuple[int, int]]().union(*(extents[e.id] for e in of_owner)))
            if used_rows < FULL * len(shards) * form.shard or not shards:
                poor.add(owner)
                before = Size(before.segments + len(of_owner), before.shards + len(shards), before.nbytes + sum(shards))
        order = [fingerprint for fingerprint, _ in in_order(store.manifest.datasets)]
        chosen = {f: [e for e in entries if e.dataset == f and e.data_id in poor] for f in order}
        chosen = {fingerprint: some for fingerprint, some in chosen.items() if some}
        return cls(store, view_id, form, chosen, before, _foreseen(parent, chosen, form))

    @property
    def worth_it(self) -> bool:
        """Fewer segments or shards, or a fifth fewer bytes."""
        was, will = self.before, self.after
        return will.segments < was.segments or will.shards < was.shards or will.nbytes < FULL * was.nbytes

    @property
    def report(self) -> Compaction:
        """The result as far as it is known before anything is written."""
        about = self.store.attributes(self.view_id)
        label = f"{about['modality']} {about['backbone']}"
        return Compaction(self.view_id, label, self.before, self.after)

    def run(self, progress: Progress) -> Compaction:
        """Write, read back, publish. A failure before publishing leaves nothing behind."""
        free = shutil.disk_usage(self.store.path).free
        if free < SPARE * self.after.nbytes:
            raise StoreError(
                f"{self.store.path}: compacting {self.report.label} writes {self.after.nbytes / 1e6:.0f} MB, "
                f"{free / 1e6:.0f} MB are free",
                fix="free some space, or compact the views one at a time and run `msa cache gc` in between",
            )
        samples = sum(entry.samples for entries in self.entries.values() for entry in entries)
        progress.begin(f"compact {self.report.label}", samples, 0)
        try:
            hashes = self._write(progress)
            self._compare(hashes)
            self._publish()
        except BaseException:
            for name in [entry.id for entry in self._made] + self._begun:
                with suppress(FileNotFoundError):
                    local_files.remove_tree(self.store.path, self._folder / name)
            raise
        finally:
            progress.end()
        return self.report

    def _write(self, progress: Progress) -> dict[str, dict[int, int]]:
        """Write the samples of one dataset after the other; return dataset -> row -> hash of the hidden states."""
        hashes: dict[str, dict[int, int]] = {}
        written: dict[
            tuple[str, int], tuple[SegmentEntry, int, int]
        ] = {}  # digest, hash -> segment of an earlier corpus, rows
        for fingerprint, entries in self.entries.items():
            of_dataset, lent = hashes.setdefault(fingerprint, {}), dict[str, tuple[SegmentEntry, list[Row]]]()
            run = _run(self._folder, entries)
            writer: SegmentWriter | None = None
            hash_of: dict[str, int] = {}  # digest -> hash, of what this segment holds
            for row, states in self._rows(fingerprint, entries):
                of_dataset[row.sample] = hash_ = xxhash.xxh3_128_intdigest(states.tobytes())
                if lender := written.get((row.digest, hash_)):
                    entry, start, length = lender
                    rows = lent.setdefault(entry.id, (entry, []))[1]
                    rows.append(row._replace(start=start, length=length))
                else:
                    writer = writer or self._writer(fingerprint, run)
                    if (
                        hash_of.setdefault(row.digest, hash_) != hash_
                    ):  # two runs rounded one input differently: keep both
                        writer.forget(bytes.fromhex(row.digest))
                        hash_of[row.digest] = hash_
                    writer.write(row.sample, bytes.fromhex(row.digest), states, row.counts)
                progress.advance(1, 0)
            for failure in _failures(self._folder, entries):
                if failure["sample"] not in of_dataset:
                    writer = writer or self._writer(fingerprint, run)
                    digest, counts = bytes.fromhex(failure["digest"]), failure.get("counts")
                    writer.fail(failure["sample"], digest, failure["stage"], failure["reason"], counts)
            if writer and (made := writer.seal()):
                self._made.append(made)
                for row in segment.table(self._folder / made.id):
                    written[row.digest, of_dataset[row.sample]] = made, row.start, row.length
            for entry, rows in lent.values():
                about = SegmentAttributes(fingerprint, run)
                self._made.append(reuse.lend(self._folder, entry, rows, about))
        return hashes

    def _rows(self, fingerprint: str, entries: Sequence[SegmentEntry]) -> Iterator[tuple[Row, np.ndarray]]:
        """Yield every sample with its hidden states as they are stored, by row number."""
        reader = self.store.reader(self._view(fingerprint, entries))
        rows = {row.sample: row for entry in entries for row in segment.table(self._folder / entry.id)}
        for sample in sorted(rows):
            yield rows[sample], _as_stored(reader.read(sample), self.form)

    def _compare(self, hashes: Mapping[str, Mapping[int, int]]) -> None:
        """Read everything back and compare it. Raises StoreError."""
        for fingerprint, expected in hashes.items():
            entries = [entry for entry in self._made if entry.dataset == fingerprint]
            reader = self.store.reader(self._view(fingerprint, entries))
            for sample, hash_ in expected.items():
                states = _as_stored(reader.read(sample), self.form)
                if xxhash.xxh3_128_intdigest(states.tobytes()) != hash_:
                    raise StoreError(
                        f"{self._folder}: row {sample} was written and is not what is read back",
                        fix="the disk or the memory may be failing; the store is as it was",
                    )

    def _publish(self) -> None:
        replaced = {entry.id: entry for entries in self.entries.values() for entry in entries}

        def change(old: Manifest) -> Manifest:
            segments = old.segments_of(self.view_id)
            now = {entry.id: entry for entry in segments}
            changed = any(now.get(name) != entry for name, entry in replaced.items())
            if changed or self.entries.keys() - old.datasets.keys():
                raise StoreError(
                    f"{self.store.path}: another process removed or rewrote segments of {self.view_id} meanwhile",
                    fix="run `msa cache compact` again; the store keeps that change",
                )
            first = min(i for i, entry in enumerate(segments) if entry.id in replaced)
            kept = [entry for entry in segments if entry.id not in replaced]
            return old.with_segments(self.view_id, [*kept[:first], *self._made, *kept[first:]])

        self.store.manifest = generations.publish(self.store.path, change, f"compacted {self.report.label}")
        for entry in self._made:
            segment.close(self._folder / entry.id)

    def _writer(self, fingerprint: str, run: Mapping[str, Any]) -> SegmentWriter:
        writer = self.store.writer(self.view_id, fingerprint, self.form, run, math.inf)
        self._begun.append(writer.folder.name)
        return writer

    def _view(self, fingerprint: str, entries: Sequence[SegmentEntry]) -> View:
        return View(self.view_id, fingerprint, self.store.attributes(self.view_id), entries)

    @property
    def _folder(self) -> Path:
        return self.store.path / layout.segments_path(self.view_id)


def _form(width: int, dtype: str, shard_bytes: int, longest: int) -> Form:
    """Return the default form, with shards that can hold the longest sample."""
    usual = Form.of(width, dtype, shard_bytes)
    return Form(width, dtype, usual.chunk, max(usual.shard, -(-longest // usual.chunk) * usual.chunk))


def _foreseen(parent: Path, chosen: Mapping[str, Sequence[SegmentEntry]], form: Form) -> Size:
    """Return what will be written: each dataset stores what none before it has, and borrows the rest."""
    brought: dict[tuple[str, int], str] = {}  # whose data, start -> the corpus that brings it
    total = Size()
    for fingerprint, entries in chosen.items():
        lenders, own = set(), any(entry.failed for entry in entries)
        used: list[int] = []  # rows of each shard
        table = [(*row, entry.data_id) for entry in entries for row in _table(parent / entry.id)]
        for _, start, length, owner in sorted(table):
            lender = brought.get((owner, start))
            if lender is None:
                brought[owner, start], own = fingerprint, True
                if not used or used[-1] + length > form.shard:
                    used.append(0)
                used[-1] += length
            elif lender != fingerprint:
                lenders.add(lender)
        nbytes = sum(_shard_bytes(rows, form) for rows in used)
        total = Size(total.segments + own + len(lenders), total.shards + len(used), total.nbytes + nbytes)
    return total


def _shard_bytes(rows: int, form: Form) -> int:
    """Return the bytes of a shard: whole chunks and the index, each with its crc."""
    chunk = form.chunk * form.width * form.stored.itemsize + 4
    return -(-rows // form.chunk) * chunk + form.shard // form.chunk * 16 + 4


def _table(folder: Path) -> list[tuple[int, int, int]]:
    """Return sample, start and length of every sample of a segment."""
    return list(zip(*(values.tolist() for values in segment.places(folder)), strict=True))


def _as_stored(states: np.ndarray, form: Form) -> np.ndarray:
    """Return hidden states as a writer takes them: of bfloat16 the upper half of a float32, which is exact here."""
    if form.dtype == "bfloat16":
        return (np.ascontiguousarray(states, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(states, form.stored)


def _failures(folder: Path, entries: Iterable[SegmentEntry]) -> Iterator[dict[str, Any]]:
    """Yield the records of failures that were not retracted."""
    for entry in entries:
        if entry.failed:
            yield from SegmentAttributes.read(folder / entry.id / "zarr.json").failures


def _run(folder: Path, entries: Iterable[SegmentEntry]) -> dict[str, Any]:
    """Return what is known of the runs that extracted: all that differ, each with its number of samples."""
    runs: list[dict[str, Any]] = []
    for entry in entries:
        run = dict(SegmentAttributes.read(folder / entry.id / "zarr.json").run)
        parts = run.pop("compacted", None) or [{**run, "samples": entry.samples}]
        for part in parts:
            same = next((other for other in runs if other | {"samples": 0} == part | {"samples": 0}), None)
            if same is None:
                runs.append(dict(part))
            else:
                same["samples"] += part["samples"]
    last = {name: value for name, value in runs[-1].items() if name != "samples"}
    return last if len(runs) == 1 else {**last, "compacted": runs}
