"""`msa cache compact`: many small segments of a view become few with full shards; no hidden state changes a bit.

Kills, slow backbones, job arrays and repairs leave segments that hold little, shards that were closed early, and rows
that no sample refers to any more. The samples are written anew, read back and compared, and published in a new
generation in place of the old segments, which stay for readers of older generations until `msa cache gc`. Whoever
finds a compaction that was killed takes it for an extraction of samples that are all there, and removes it.
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

from msa.cache.format import generations, layout, local_files
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
SPARE = 1.05  # room that must be free, as a multiple of what is written


@dataclass(frozen=True)
class Size:
    """How many segments and shards, and the bytes of those shards."""

    segments: int = 0
    shards: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Compaction:
    """What compacting a view does, or would do."""

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
    """Compact one view, named like `msa cache ls` does, or all; what there is nothing to gain from is left as it is.

    Raises StoreError where there is no room, where a hidden state cannot be read, or where somebody else changed the
    same segments meanwhile; the store is then as it was.
    """
    store.manifest = generations.read(store.path)
    wanted = [remove.matching_view(store, view)] if view is not None else list(store.manifest.views)
    found = []
    for view_id in wanted:
        job = _Job.of(store, view_id, shard_bytes)
        if job.worth_it:
            found.append(job.report if dry_run else job.run(progress))
    return found


@dataclass
class _Job:
    """One view: the entries that are replaced, by corpus in the order of publication, and what they become."""

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
        """Which segments of a view do not fill their shards, and what they would come to."""
        parent = store.path / layout.segments_path(view_id)
        entries = store.manifest.segments_of(view_id)
        extents = {e.id: {(start, length) for _, start, length in _table(parent / e.id)} for e in entries}
        meta = layout.read_json(parent / entries[0].data_id / "data" / "zarr.json")
        longest = max((length for one in extents.values() for _, length in one), default=1)
        form = _form(meta["shape"][1], meta["attributes"]["dtype"], shard_bytes, longest)
        poor, before = set(), Size()
        for owner in {entry.data_id for entry in entries}:
            mine = [entry for entry in entries if entry.data_id == owner]
            shards = [facts.size for facts in mine[0].shards.values()]
            live = sum(length for _, length in set[tuple[int, int]]().union(*(extents[e.id] for e in mine)))
            if live < FULL * len(shards) * form.shard or not shards:
                poor.add(owner)
                before = Size(before.segments + len(mine), before.shards + len(shards), before.nbytes + sum(shards))
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
        """What is known before anything is written."""
        about = self.store.attributes(self.view_id)
        label = f"{about['modality']} {about['backbone']}"
        return Compaction(self.view_id, label, self.before, self.after)

    def run(self, progress: Progress) -> Compaction:
        """Write, read back, publish; whatever goes wrong before that leaves nothing behind."""
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
        """The samples of one corpus after the other; corpus -> row -> hash of the hidden states."""
        hashes: dict[str, dict[int, int]] = {}
        there: dict[
            tuple[str, int], tuple[SegmentEntry, int, int]
        ] = {}  # digest, hash -> segment of an earlier corpus, rows
        for fingerprint, entries in self.entries.items():
            mine, lent = hashes.setdefault(fingerprint, {}), dict[str, tuple[SegmentEntry, list[Row]]]()
            run = _run(self._folder, entries)
            writer: SegmentWriter | None = None
            known: dict[str, int] = {}  # digest -> hash, of what this segment holds
            for row, states in self._rows(fingerprint, entries):
                mine[row.sample] = hash_ = xxhash.xxh3_128_intdigest(states.tobytes())
                if found := there.get((row.digest, hash_)):
                    entry, start, length = found
                    rows = lent.setdefault(entry.id, (entry, []))[1]
                    rows.append(row._replace(start=start, length=length))
                else:
                    writer = writer or self._writer(fingerprint, run)
                    if known.setdefault(row.digest, hash_) != hash_:  # two runs, two roundings of one input: keep both
                        writer.forget(bytes.fromhex(row.digest))
                        known[row.digest] = hash_
                    writer.write(row.sample, bytes.fromhex(row.digest), states, row.counts)
                progress.advance(1, 0)
            for failure in _failures(self._folder, entries):
                if failure["sample"] not in mine:
                    writer = writer or self._writer(fingerprint, run)
                    digest, counts = bytes.fromhex(failure["digest"]), failure.get("counts")
                    writer.fail(failure["sample"], digest, failure["stage"], failure["reason"], counts)
            if writer and (made := writer.seal()):
                self._made.append(made)
                for row in segment.table(self._folder / made.id):
                    there[row.digest, mine[row.sample]] = made, row.start, row.length
            for entry, rows in lent.values():
                about = SegmentAttributes(fingerprint, run)
                self._made.append(reuse.lend(self._folder, entry, rows, about))
        return hashes

    def _rows(self, fingerprint: str, entries: Sequence[SegmentEntry]) -> Iterator[tuple[Row, np.ndarray]]:
        """Every sample with its hidden states as they are stored, by row number."""
        reader = self.store.reader(self._view(fingerprint, entries))
        rows = {row.sample: row for entry in entries for row in segment.table(self._folder / entry.id)}
        for sample in sorted(rows):
            yield rows[sample], _as_stored(reader.read(sample), self.form)

    def _compare(self, hashes: Mapping[str, Mapping[int, int]]) -> None:
        """Read everything back."""
        for fingerprint, mine in hashes.items():
            entries = [entry for entry in self._made if entry.dataset == fingerprint]
            reader = self.store.reader(self._view(fingerprint, entries))
            for sample, hash_ in mine.items():
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
                    f"{self.store.path}: somebody removed or rewrote segments of {self.view_id} meanwhile",
                    fix="run `msa cache compact` again; the store is as they left it",
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
    """The usual form, with shards that hold the longest sample whatever wrote it."""
    usual = Form.of(width, dtype, shard_bytes)
    return Form(width, dtype, usual.chunk, max(usual.shard, -(-longest // usual.chunk) * usual.chunk))


def _foreseen(parent: Path, chosen: Mapping[str, Sequence[SegmentEntry]], form: Form) -> Size:
    """What will be written: each corpus brings what none before it has, and borrows the rest."""
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
    """The size of the file of a shard: whole chunks, each with its crc, and the index, with its own."""
    chunk = form.chunk * form.width * form.stored.itemsize + 4
    return -(-rows // form.chunk) * chunk + form.shard // form.chunk * 16 + 4


def _table(folder: Path) -> list[tuple[int, int, int]]:
    """Sample, start and length of every sample of a segment."""
    return list(zip(*(values.tolist() for values in segment.places(folder)), strict=True))


def _as_stored(states: np.ndarray, form: Form) -> np.ndarray:
    """Hidden states as a writer takes them: of bfloat16 the upper half of a float32, which loses nothing here."""
    if form.dtype == "bfloat16":
        return (np.ascontiguousarray(states, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(states, form.stored)


def _failures(folder: Path, entries: Iterable[SegmentEntry]) -> Iterator[dict[str, Any]]:
    """The records of failures that were not taken back."""
    for entry in entries:
        if entry.failed:
            yield from SegmentAttributes.read(folder / entry.id / "zarr.json").failures


def _run(folder: Path, entries: Iterable[SegmentEntry]) -> dict[str, Any]:
    """What is said of the processes that encoded: all that differ are kept, each with how many samples it brought."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        run = dict(SegmentAttributes.read(folder / entry.id / "zarr.json").run)
        parts = run.pop("compacted", None) or [{**run, "samples": entry.samples}]
        for part in parts:
            same = next((one for one in found if one | {"samples": 0} == part | {"samples": 0}), None)
            if same is None:
                found.append(dict(part))
            else:
                same["samples"] += part["samples"]
    last = {name: value for name, value in found[-1].items() if name != "samples"}
    return last if len(found) == 1 else {**last, "compacted": found}
