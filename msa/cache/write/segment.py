"""Segments: what one writer adds to a view, shard by shard, private until it is sealed and published.

While a segment is open, `journal.jsonl` says which shards are whole. A shard counts once its line is on disk; a
killed writer loses the shard it was filling and nothing else. The next run takes over what the dead one left.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from msa.cache.format import layout, limits, local_files, shard
from msa.cache.format.attributes import SegmentAttributes, check_run
from msa.cache.format.fingerprint import DIGEST
from msa.cache.format.manifest import FileEntry, SegmentEntry
from msa.cache.format.small_arrays import Lazy
from msa.cache.write import heartbeat, journal
from msa.cache.write.journal import Journal, Row
from msa.cache.write.liveness import whoami
from msa.errors import StoreError

JOURNAL = journal.NAME
FLUSH_AFTER_S = 60.0  # a slow backbone loses at most a minute, even where a shard takes an hour to fill
SMALL = ("sample", "start", "length", "digest", "counts")  # arrays of a segment besides `data`


@dataclass(frozen=True)
class Form:
    """Shape of a segment's `data` array, fixed before the first row is written."""

    width: int
    dtype: str
    chunk: int  # rows
    shard: int  # rows

    @classmethod
    def of(cls, width: int, dtype: str, shard_bytes: int = layout.SHARD_BYTES) -> "Form":
        """Return the usual chunk and shard sizes for rows of this width."""
        size = layout.stored(dtype).itemsize
        return cls(width, dtype, layout.chunk_rows(width, size), layout.shard_rows(width, size, shard_bytes))

    @property
    def stored(self) -> np.dtype:
        """The numpy dtype of the bytes on disk."""
        return layout.stored(self.dtype)


class SegmentWriter:
    """Appends samples to a new segment. `write` and `fail` buffer; `flush` commits; `seal` makes it publishable."""

    def __init__(
        self, folder: Path, dataset: str, form: Form, run: Mapping[str, Any], flush_after_s: float = FLUSH_AFTER_S
    ) -> None:
        self.folder = folder
        self.form = form
        self.nbytes = 0  # of the rows written so far
        self._flush_after_s = flush_after_s
        self._shard = 0
        self._noted = False  # is there a journal?
        grid = shard.Grid(form.chunk, form.shard // form.chunk, form.width * form.stored.itemsize)
        self._buffer = shard.Buffer(grid, form.stored.newbyteorder("<"))
        self._samples: list[Row] = []
        self._failures: list[dict[str, Any]] = []
        self._seen: dict[str, tuple[int, int]] = {}  # digest -> start, length: duplicates cost nothing
        self._flushed = time.monotonic()
        with limits.writing(f"segment {folder.name}"):
            check_run("the run", limits.as_read("the run", run))
        self._store = layout.store_of(folder)
        try:
            local_files.make_folder(self._store, folder, new=True)
        except FileNotFoundError:
            raise StoreError(
                f"{folder.parent.parent} was removed from the store in this very moment",
                fix="run the same command again if it was removed by mistake",
            ) from None
        local_files.make_folder(self._store, folder / "data" / "c")
        self._note({"dataset": dataset, "form": vars(form), "run": dict(run), "writer": whoami()})
        heartbeat.keep(folder / JOURNAL, self)
        for made in (folder / "data" / "c", folder / "data", folder, folder.parent):
            local_files.sync(self._store, made)

    def write(self, sample: int, digest: bytes, rows: np.ndarray, counts: Mapping[str, int] | None = None) -> None:
        """Add the hidden states (T, D) of a sample, and what has to be known of it, such as {"NaN set to 0": 2}.

        Raises StoreError where they do not fit this segment.
        """
        if rows.ndim != 2 or rows.shape[1] != self.form.width or rows.dtype != self.form.stored or not len(rows):
            raise StoreError(
                f"{self.folder.parent.parent.name}: got {rows.dtype}{list(rows.shape)}, "
                f"this view holds {self.form.stored}[T > 0, {self.form.width}]",
                fix="this is a defect of the backbone: `encode` must return (T, dim) arrays of the spec's dtype",
            )
        if (known := self._seen.get(digest.hex())) is None:
            if len(rows) > self.form.shard:
                raise StoreError(
                    f"a sample of {len(rows)} rows does not fit a shard of {self.form.shard}",
                    fix="cut the sample into spans (`start`, `end`) or lower the backbone's maximum length",
                )
            if self._buffer.used + len(rows) > self.form.shard:
                self.flush()
            known = self._shard * self.form.shard + self._buffer.used, len(rows)
            self._buffer.add(rows)
            self.nbytes += rows.nbytes
            self._seen[digest.hex()] = known
        self._samples.append(Row(sample, *known, digest.hex(), dict(counts or {})))
        if time.monotonic() - self._flushed > self._flush_after_s:
            self.flush()

    def fail(
        self, sample: int, digest: bytes, stage: str, reason: str, counts: Mapping[str, int] | None = None
    ) -> None:
        """Record the failure of a sample: it is neither dropped nor zeros. What was counted of it is kept too."""
        record = {"sample": sample, "digest": digest.hex(), "stage": stage, "reason": reason}
        self._failures.append(record | ({"counts": dict(counts)} if counts else {}))

    def flush(self) -> None:
        """Commit what is buffered: shard file first, then the journal line that makes it count."""
        self._flushed = time.monotonic()
        if not self._samples and not self._failures:
            return
        line: dict[str, Any] = {"samples": self._samples, "failures": self._failures}
        used, number = self._buffer.used, self._shard
        parts = self._buffer.finish() if used else []
        self.discard()  # first: an interrupt below must not leave it to be committed twice
        with self._unless_taken_over():
            if used:
                self._shard += 1
                path = self.folder / "data" / "c" / str(number) / "0"
                local_files.make_folder(self._store, path.parent, new=True)
                with ThreadPoolExecutor(1) as beside:  # both take about as long, and neither holds the interpreter
                    digest = beside.submit(_sha256, parts)
                    local_files.write(self._store, path, *parts)
                local_files.sync(self._store, path.parent.parent)
                line |= {"shard": number, "rows": used, "sha256": digest.result()}
            self._note(line)

    def forget(self, digest: bytes) -> None:
        """Store the next sample of this digest anew: its hidden states differ from those of the one before."""
        self._seen.pop(digest.hex(), None)

    def discard(self) -> None:
        """Drop what is buffered and not committed: there is no room for it."""
        self._samples, self._failures = [], []
        self._buffer.used = 0

    def seal(self) -> SegmentEntry | None:
        """Flush, write the metadata, and return the segment's manifest entry; None where nothing was written."""
        self.flush()
        with self._unless_taken_over():
            entry = seal(self.folder)
        heartbeat.keep(self.folder / JOURNAL) if entry else heartbeat.drop(self.folder / JOURNAL)  # until published
        return entry

    def _note(self, line: Mapping[str, Any]) -> None:
        """Append a line to the journal, whole and durably, or nothing: another one may follow."""
        left = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        flags = os.O_WRONLY | os.O_APPEND | (0 if self._noted else os.O_CREAT | os.O_EXCL)
        with open(local_files.opened(self._store, self.folder / JOURNAL, flags), "ab", buffering=0) as file:
            before = file.tell()
            self._noted = True
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
                os.stat(
                    self.folder / JOURNAL
                )  # else it was renamed meanwhile: the process that did it need not see this line
            except BaseException:
                with suppress(OSError):
                    file.truncate(before)
                raise

    @contextmanager
    def _unless_taken_over(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._seen.clear()  # what was not committed is nothing that a later sample could point to
            if not isinstance(error, FileNotFoundError):
                raise
            raise StoreError(
                f"{self.folder} was taken over by another run, which believed this one dead",
                fix="run the command again: it continues after what the other run has done",
            ) from None


def seal(folder: Path) -> SegmentEntry | None:
    """Write the metadata of a segment from its journal; doing it twice changes nothing. Raises StoreError."""
    store, noted = layout.store_of(folder), Journal.read(folder)
    if noted is None or not (noted.samples or noted.failures):
        local_files.remove_tree(store, folder)
        return None
    committed = {str(number) for number in noted.shards}
    for name in local_files.listed(store, folder / "data" / "c"):
        if name not in committed:  # written, and never committed: the disk was full, or the run was stopped
            local_files.remove(store, folder / "data" / "c" / name)
    form = Form(**noted.header["form"])
    last = max(noted.shards, default=-1)
    rows = last * form.shard + noted.shards[last]["rows"] if noted.shards else 0
    metadata = layout.data_metadata(rows, form.width, form.dtype, form.chunk, form.shard)
    local_files.write(store, folder / "data" / "zarr.json", json.dumps(metadata, indent=1).encode())
    attributes = SegmentAttributes(noted.header["dataset"], noted.header["run"], noted.failures)
    write_small(folder, noted.samples, attributes)
    return describe(folder)


def close(folder: Path) -> None:
    """Remove the journal of a segment that is published, or that no other process can see."""
    heartbeat.drop(folder / JOURNAL)
    local_files.remove(layout.store_of(folder), folder / JOURNAL, missing_ok=True)


def write_small(folder: Path, samples: Sequence[Row], attributes: SegmentAttributes) -> None:
    """Write `sample`, `start`, `length`, `digest`, `counts` and the attributes of a segment, durably.

    They are sorted by sample, so that a reader finds one without reading all. The attribute `counted` names the columns
    of `counts`; without any, neither is written.
    """
    samples = sorted(samples, key=attrgetter("sample"))
    table = np.array([row[:3] for row in samples], np.int64).reshape(-1, 3)
    digest = np.frombuffer(bytes.fromhex("".join(row.digest for row in samples)), np.uint8).reshape(-1, DIGEST)
    names = sorted({what for row in samples for what in row.counts})
    arrays: dict[str, np.ndarray] = {
        "sample": table[:, 0],
        "start": table[:, 1],
        "length": table[:, 2].astype(np.int32),
        "digest": digest,
    }
    attributes = replace(attributes, counted=names)
    if names:
        arrays["counts"] = np.array([[row.counts.get(what, 0) for what in names] for row in samples], np.int64)
    with limits.writing(f"segment {folder.name}"):
        attributes.validate()
    store = layout.store_of(folder)
    for name in (*SMALL, "zarr.json"):
        local_files.remove(store, folder / name, missing_ok=True)
    ascending = bool((np.diff(table[:, 0]) > 0).all())
    known = {"sample": {"sorted": True}} if ascending else {}
    layout.write_group(folder, arrays, attributes.to_json(), known, root=store)
    local_files.sync_tree(store, folder)


def describe(folder: Path) -> SegmentEntry:
    """Return the manifest entry of a sealed segment: counts, and size and SHA-256 of every file.

    Raises StoreError.
    """
    store = layout.store_of(folder)
    attributes = SegmentAttributes.read(folder / "zarr.json")
    samples = limits.read_json(folder / "sample" / "zarr.json")["shape"][0]
    own, failed = files(store, folder, known=_hashed(folder)), len(attributes.failures)
    entry = SegmentEntry(folder.name, attributes.dataset, samples, failed, own)
    if attributes.data_of is None:
        return entry
    data = files(store, folder.parent / attributes.data_of, "data")
    return replace(entry, data_of=attributes.data_of, data_files=data)


def table(folder: Path, kept: np.ndarray | None = None) -> list[Row]:
    """Return the samples of a sealed segment; with `kept`, (n,) bool over the dataset, only those.

    Of a large table no more rows are read than are kept.
    """
    sample, start, length = places(folder, limits.MAX_SAMPLES if kept is None else len(kept))
    at = slice(None) if kept is None else np.flatnonzero(kept[sample])
    digest = [row.tobytes().hex() for row in Lazy(folder / "digest")[at]]
    names, numbers = counted(folder)
    counts = [[]] * len(digest) if numbers is None else numbers[at].tolist()
    by_name = [{name: n for name, n in zip(names, row, strict=True) if n} for row in counts]
    columns = (sample[at].tolist(), start[at].tolist(), length[at].tolist(), digest, by_name)
    return [Row(*row) for row in zip(*columns, strict=True)]


def failures(folder: Path, entry: SegmentEntry, kept: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return the failure records of a published segment that were not retracted; with `kept`, of those samples."""
    if not entry.failed:
        return []
    samples = limits.MAX_SAMPLES if kept is None else len(kept)
    records = SegmentAttributes.read(folder / "zarr.json", samples).failures
    return [record for record in records if kept is None or kept[record["sample"]]]


def places(folder: Path, samples: int = limits.MAX_SAMPLES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `sample`, `start`, `length` (m,) of a sealed segment of a dataset of so many samples.

    Raises StoreError where its tables are not of one length, or name samples or rows that cannot be.
    """
    arrays = [layout.read_array(folder / name) for name in ("sample", "start", "length")]
    sample, start, length = arrays
    fits = all(values.shape == (len(sample),) and values.dtype.kind in "iu" for values in arrays)
    fits = fits and Lazy(folder / "digest").shape == (len(sample), DIGEST)
    if fits and len(sample):
        fits = bool(sample.min() >= 0 and sample.max() < samples and start.min() >= 0 and length.min() > 0)
    if not fits:
        raise _damaged(folder, "its tables are not of one length, or name samples or rows that there cannot be")
    return sample, start, length


def counted(folder: Path) -> tuple[list[str], Lazy | None]:
    """Return names (k,) of what was counted of each sample, and the numbers (m, k), not read yet; None for no names.

    Raises StoreError where the numbers do not match the names.
    """
    names = list(SegmentAttributes.read(folder / "zarr.json").counted)
    if not names:
        return [], None
    values = Lazy(folder / "counts")
    if values.shape != (Lazy(folder / "sample").shape[0], len(names)) or values.dtype.kind not in "iu":
        raise _damaged(folder, f"its counts have shape {list(values.shape)}, and {len(names)} names")
    return names, values


def counts(folder: Path) -> dict[str, int]:
    """Return what was counted of the samples of a sealed segment, all together; not of its failures."""
    names, values = counted(folder)
    return {} if values is None else dict(zip(names, values[:].sum(0).tolist(), strict=True))


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"damaged store: {folder}: {what}", fix="run `msa cache verify`, and then `msa cache repair`")


def files(store: Path, folder: Path, below: str = ".", known: Mapping[str, str] | None = None) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every finished file of a folder, or of a folder in it, by relative path.

    Args:
        store: The store it lies in.
        folder: Of an index or a segment.
        below: The folder in it.
        known: Hashes that are known already.

    Raises:
        StoreError: There is a link among them, or anything else that is no file.
    """
    local_files.refuse_links(store, folder / below)
    hashes, entries = known or {}, dict[str, FileEntry]()
    for path, about in local_files.tree(store, folder / below):
        name = path.relative_to(folder).as_posix()
        if S_ISREG(about.st_mode) and path.name != JOURNAL:
            entries[name] = FileEntry(about.st_size, hashes.get(name) or limits.sha256(path))
    return dict(sorted(entries.items()))


def _hashed(folder: Path) -> dict[str, str]:
    """Return the shards of a segment whose hashes were taken when they were committed, while its journal is there."""
    noted = Journal.read(folder) if (folder / JOURNAL).exists() else None
    return {f"data/c/{number}/0": line["sha256"] for number, line in noted.shards.items()} if noted else {}


def _sha256(parts: Iterable[bytes | memoryview]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def new_name() -> str:
    """Return a new segment name: the time, and a random number."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
