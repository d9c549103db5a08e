"""What is left of a published segment: which of its samples can still be had, and what is wrong with the others.

Shards are walked chunk by chunk with code of its own, so that a defect of the reader is found too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from msa.cache.format import layout, limits
from msa.cache.format.fingerprint import DIGEST
from msa.cache.format.zarr_array import Data
from msa.cache.maintain.check_index import READABLE, Corpus, Files, arrays, faults
from msa.errors import StoreError

CRC = 4  # bytes
MISSING = 2**64 - 1
TABLES = ("sample", "start", "length", "digest")
TOGETHER = 64  # chunks that zarr-python is asked for at a time


@dataclass
class Segment:
    """m samples of one corpus in one view, as far as they can be read.

    `usable` says whether its tables are; without them m is 0. `lost` (m,) tells whose hidden states are gone or wrong,
    `unsound` which shards are not what was written, `findings` (file, what, positions in the table or None: all).
    """

    view: str
    entry: Mapping[str, Any]
    usable: bool = False
    attributes: dict[str, Any] | None = None  # None: its zarr.json cannot be believed
    sample: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    start: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    digest: np.ndarray = field(default_factory=lambda: np.zeros((0, DIGEST), np.uint8))
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    unsound: set[int] = field(default_factory=set)
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    shard_rows: int = 0  # of one file of its data; 0: its zarr.json is of no use
    spoilt: bool = False  # whatever its tables say, none of it can be believed
    findings: list[tuple[str, str, np.ndarray | None]] = field(default_factory=list)

    def say(self, where: str, what: str, positions: np.ndarray | None = None, lost: bool = True) -> None:
        """Note a finding; what it concerns is lost, unless it is not."""
        self.findings.append((where, what, positions))
        if lost and positions is None:
            self.spoilt = True
            self.lost[:] = True
        elif lost:
            self.lost[positions] = True


def segment(
    root: Path, view: str, about: Mapping[str, Any] | None, entry: Mapping[str, Any], corpus: Corpus, deep: bool
) -> Segment:
    """Examine one segment. `about` are the attributes of its view, None where they cannot be read."""
    found = Segment(view, entry)
    parent, where = root / "views" / view / "seg", f"views/{view}/seg/{entry['id']}"
    data_files = entry.get("data_files") or {n: f for n, f in entry["files"].items() if n.startswith("data/")}
    small = {name: facts for name, facts in entry["files"].items() if name not in data_files}
    bad = faults(root, parent / entry["id"], small)
    tables, why = arrays(parent / entry["id"], small, bad)
    for file, what in bad.items():
        found.say(f"{where}/{file}", what, lost=file != "zarr.json")
    for name, what in why.items():
        found.say(f"{where}/{name}", what)
    _attributes(found, parent / entry["id"], where, tables, corpus.n, "zarr.json" in bad)
    _tables(found, where, tables, corpus, about)
    owner = entry.get("data_of", entry["id"])
    _data(found, root, parent / owner, f"views/{view}/seg/{owner}", data_files, about, deep)
    return found


def _attributes(found: Segment, home: Path, where: str, tables: Mapping[str, np.ndarray], n: int, said: bool) -> None:
    """Its provenance, which decides no hidden states. `said`: that the file is damaged was noted already."""
    entry, wrong = found.entry, ""
    try:
        own = limits.segment_attributes(home / "zarr.json", n)
        failures, counted = own["failures"], own.get("counted", [])
        table = tables.get("counts", np.zeros((0, len(counted)), np.int64))
        if counted and "counts/zarr.json" not in entry["files"]:
            wrong = f"has {len(counted)} names for counts, and no counts"
        for key in ("dataset", "data_of"):
            if own.get(key) != entry.get(key):
                wrong = f"says {key} {own.get(key)}, the manifest says {entry.get(key)}"
        if table.ndim != 2 or table.shape[1] != len(counted) or (table < 0).any():
            wrong = f"has {len(counted)} names for counts {list(table.shape)}"
    except READABLE as error:
        wrong = f"cannot be read: {getattr(error, 'what', error)}"
    if not wrong:
        found.attributes = own
        if entry["failed"] not in (0, len(failures)):
            found.say(where, f"has {len(failures)} failures, the manifest says {entry['failed']}", lost=False)
    elif not said:
        found.say(f"{where}/zarr.json", wrong, lost=False)


def _tables(
    found: Segment, where: str, tables: Mapping[str, np.ndarray], corpus: Corpus, about: Mapping[str, Any] | None
) -> None:
    sizes = {len(tables[name]) for name in TABLES if name in tables}
    if not all(name in tables for name in TABLES) or len(sizes) != 1 or tables["digest"].shape[1:] != (DIGEST,):
        if all(name in tables for name in TABLES):
            found.say(where, f"has tables of {sorted(sizes)} samples")
        elif not found.spoilt:
            found.say(where, "lacks one of its tables")
        return
    found.usable = True
    found.sample, found.start = tables["sample"].astype(np.int64), tables["start"].astype(np.int64)
    found.length, found.digest = tables["length"].astype(np.int64), tables["digest"]
    found.lost = np.full(len(found.sample), found.spoilt)
    found.counts = tables.get("counts", np.zeros((len(found.sample), 0), np.int64))
    if len(found.counts) != len(found.sample):
        found.say(f"{where}/counts", f"has numbers of {len(found.counts)} samples")
        found.counts = np.zeros((len(found.sample), 0), np.int64)
    if len(found.sample) != found.entry["samples"]:
        found.say(where, f"has {len(found.sample)} samples, the manifest says {found.entry['samples']}", lost=False)
    outside = (found.sample < 0) | (found.sample >= corpus.n)
    if outside.any():
        found.say(f"{where}/sample", f"has rows outside the {corpus.n} of its index", np.flatnonzero(outside))
    first = np.unique(found.sample, return_index=True)[1]
    again = np.setdiff1d(np.arange(len(found.sample)), first)
    if len(again):
        found.say(f"{where}/sample", "has samples that stand twice", again)
    known = corpus.digests.get(about["modality"]) if about and "modality" in about else None
    imported = about is not None and "imported" in about.get("identity", {})  # theirs are of features, not of media
    if known is not None and not imported:
        inside = np.flatnonzero(~outside)
        other = inside[(known[found.sample[inside]] != found.digest[inside]).any(1)]
        if len(other):
            found.say(f"{where}/digest", "has hidden states of other inputs than the index names", other)


@dataclass(frozen=True)
class _Laid:
    """How a `data` array lies on disk. `chunk` is 0 where only zarr-python can read it."""

    rows: int
    width: int
    dtype: str
    shard: int  # rows of one file
    chunk: int
    crc: bool

    @property
    def stored(self) -> np.dtype:
        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")

    @classmethod
    def read(cls, path: Path, about: Mapping[str, Any] | None) -> "_Laid":
        """Raises StoreError where it is no such array, or not the view's."""
        meta = limits.read_json(path / "zarr.json")
        limits.check_data(path / "zarr.json", meta)
        rows, width = meta["shape"]
        dtype = meta["attributes"]["dtype"]
        if about is not None and (about.get("dim", width), about.get("dtype", dtype)) != (width, dtype):
            raise StoreError(
                f"{path}: {dtype}[T, {width}], the view says {about.get('dtype')}[T, {about.get('dim')}]",
                fix="extract again",
            )
        shard, codecs = meta["chunk_grid"]["configuration"]["chunk_shape"][0], meta["codecs"]
        inner = codecs[0]["configuration"]["chunk_shape"][0] if codecs[0]["name"] == "sharding_indexed" else 0
        known = layout.data_metadata(rows, width, dtype, inner or 1, shard)["codecs"]
        bare = [codec | {"configuration": codec["configuration"] | {"codecs": _raw(codec)}} for codec in known]
        return cls(rows, width, dtype, shard, inner if codecs in (known, bare) else 0, codecs != bare)


def _raw(sharding: Mapping[str, Any]) -> list[Any]:
    return list(sharding["configuration"]["codecs"][:1])


def _data(
    found: Segment, root: Path, owner: Path, where: str, files: Files, about: Mapping[str, Any] | None, deep: bool
) -> None:
    bad = faults(root, owner, files)
    laid: _Laid | None = None
    if "data/zarr.json" not in files or "data/zarr.json" in bad:
        found.say(f"{where}/data/zarr.json", bad.pop("data/zarr.json", "is not named by the manifest"))
    try:
        laid = _Laid.read(owner / "data", about)
        found.shard_rows = laid.shard
    except READABLE as error:
        if not found.spoilt:
            found.say(f"{where}/data/zarr.json", f"cannot be read: {getattr(error, 'what', error)}")
    number_of = {name: _number(name) for name in sorted(files, key=_number) if _number(name) >= 0}
    for name, what in bad.items():
        positions = _in_shard(found, laid, number_of.get(name, -1)) if laid and found.usable else None
        if laid and positions is not None and len(positions) and what.startswith("does not match"):
            hit = _narrowed(found, owner / name, laid, number_of[name])
            positions = positions if hit is None else hit
        found.say(f"{where}/{name}", what, positions)
        found.unsound.add(number_of.get(name, -1))
    if laid is None:
        return
    for name in sorted(set(files) - {"data/zarr.json"}):
        if not 0 <= number_of.get(name, -1) * laid.shard < laid.rows:
            found.say(f"{where}/{name}", "is named by the manifest, and lies beyond the data", np.zeros(0, np.int64))
    if not found.usable:
        return
    _bounds(found, where, laid)
    for number in np.unique(found.start[~found.lost] // laid.shard).tolist():
        if f"data/c/{number}/0" not in files and not any(n == number for n in number_of.values()):
            found.say(f"{where}/data/c/{number}/0", "is named by no manifest", _in_shard(found, laid, number))
    if deep:
        _states(found, owner, where, laid, number_of, bad)


def _bounds(found: Segment, where: str, laid: _Laid) -> None:
    """Samples that point outside the data, across two shards, or into another sample."""
    start, end = found.start, found.start + found.length
    outside = (start < 0) | (found.length <= 0) | (start > laid.rows - found.length)
    if laid.chunk:
        outside |= start // laid.shard != (end - 1) // laid.shard
    if outside.any():
        found.say(f"{where}/start", "points outside its data", np.flatnonzero(outside))
    inside = np.flatnonzero(~outside)
    order = inside[np.lexsort((end[inside], start[inside]))]
    if not len(order):
        return
    reach = np.maximum.accumulate(end[order])
    same = (start[order][1:] == start[order][:-1]) & (end[order][1:] == end[order][:-1])
    clash = np.flatnonzero((start[order][1:] < reach[:-1]) & ~same)
    if len(clash):
        found.say(f"{where}/start", "has samples that overlap", np.unique(np.r_[order[clash], order[clash + 1]]))


def _states(
    found: Segment, owner: Path, where: str, laid: _Laid, number_of: Mapping[str, int], bad: Mapping[str, str]
) -> None:
    """Every chunk against its checksum, every number, and the same through zarr-python."""
    for name, number in number_of.items():
        if name in bad and (not laid.chunk or not bad[name].startswith("does not match")):
            continue
        try:
            broken, odd = _walk(owner / "data", owner / name, laid, number, compare=name not in bad)
        except READABLE as error:
            if name not in bad:
                found.say(f"{where}/{name}", str(getattr(error, "what", error)), _in_shard(found, laid, number))
                found.unsound.add(number)
            continue
        hit = _touching(found, broken) if name not in bad else np.zeros(0, np.int64)
        if len(hit):
            found.say(f"{where}/{name}", "has chunks that do not match their checksums", hit)
            found.unsound.add(number)
        if len(
            hit := np.flatnonzero(np.searchsorted(odd, found.start) < np.searchsorted(odd, found.start + found.length))
        ):
            found.say(f"{where}/{name}", "has NaN or infinity in the hidden states", hit)


def _walk(data: Path, path: Path, laid: _Laid, number: int, compare: bool) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Row ranges of chunks that are broken or missing, and all rows with NaN or infinity. Raises StoreError."""
    import zarr

    array: Any = zarr.open_array(data, mode="r") if compare or not laid.chunk else None
    base, broken, odd = number * laid.shard, [], [np.zeros(0, np.int64)]
    if not laid.chunk:
        Data(data).check_inflated(path)
        end = min(base + laid.shard, laid.rows)
        for low in range(base, end, 4096):
            odd += [low + _odd(np.asarray(array[low : min(low + 4096, end)]), laid)]
        return [], np.concatenate(odd)
    pieces: list[tuple[int, np.ndarray]] = []
    for chunk, rows in _chunks(path, laid):
        low = base + chunk * laid.chunk
        if rows is None:
            broken.append((low, low + laid.chunk))
            continue
        rows = rows[: max(0, laid.rows - low)]
        odd.append(low + _odd(rows, laid))
        pieces.append((low, rows))
        if array is not None and len(pieces) == TOGETHER:
            _compare(path, array, pieces)
            pieces.clear()
    if array is not None and not broken:
        _compare(path, array, pieces)
    return broken, np.concatenate(odd)


def _compare(path: Path, array: Any, pieces: Sequence[tuple[int, np.ndarray]]) -> None:
    for low, rows in _joined(pieces):
        theirs = np.asarray(array[low : low + len(rows)])
        if theirs.tobytes() != rows.tobytes():
            raise StoreError(f"{path}: zarr-python reads other numbers at row {low}", fix="report this as a bug")


def _joined(pieces: Sequence[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Neighbouring pieces as one."""
    begin = 0
    for i in range(1, len(pieces) + 1):
        if i == len(pieces) or pieces[i][0] != pieces[i - 1][0] + len(pieces[i - 1][1]):
            yield pieces[begin][0], np.concatenate([rows for _, rows in pieces[begin:i]])
            begin = i


def _chunks(path: Path, laid: _Laid, never_written: bool = True) -> Iterator[tuple[int, np.ndarray | None]]:
    """Every chunk of a shard as rows, None where it does not match its checksum or, with `never_written`, is not there.

    Raises StoreError where the index of the shard says nothing.
    """
    raw = np.memmap(path, np.uint8, mode="r")
    count = laid.shard // laid.chunk
    tail = raw[max(0, len(raw) - count * 16 - CRC) :]
    if len(tail) != count * 16 + CRC or not _holds(tail):
        raise StoreError(f"{path}: its chunk index does not match its checksum", fix="run `msa cache repair`")
    nbytes = laid.chunk * laid.width * laid.stored.itemsize
    for chunk, (offset, size) in enumerate(tail[:-CRC].view("<u8").reshape(count, 2).tolist()):
        if offset == size == MISSING:
            if never_written:
                yield chunk, None
            continue
        piece = raw[offset : offset + size] if offset + size <= len(raw) else raw[:0]
        good = len(piece) == nbytes + CRC * laid.crc and (not laid.crc or _holds(piece))
        rows = np.frombuffer(piece[:nbytes].tobytes(), laid.stored).reshape(laid.chunk, laid.width) if good else None
        yield chunk, rows


def _holds(piece: np.ndarray) -> bool:
    return int(google_crc32c.value(piece[:-CRC].tobytes())) == int.from_bytes(piece[-CRC:].tobytes(), "little")


def _odd(rows: np.ndarray, laid: _Laid) -> np.ndarray:
    """Numbers of rows that hold NaN or infinity."""
    fine = (rows & 0x7F80) != 0x7F80 if laid.dtype == "bfloat16" else np.isfinite(rows)
    return np.flatnonzero(~fine.all(1))


def _narrowed(found: Segment, path: Path, laid: _Laid, number: int) -> np.ndarray | None:
    """Positions whose chunks do not match their checksums; None where that does not explain what is wrong."""
    if not laid.chunk or not laid.crc:
        return None
    try:
        bad = [chunk for chunk, rows in _chunks(path, laid) if rows is None]
        whole = [chunk for chunk, rows in _chunks(path, laid, never_written=False) if rows is None]
    except READABLE:
        return None
    low = number * laid.shard
    return _touching(found, [(low + n * laid.chunk, low + (n + 1) * laid.chunk) for n in bad]) if whole else None


def _touching(found: Segment, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Positions of samples with rows in any of these ranges."""
    hit = np.zeros(len(found.start), bool)
    for low, high in ranges:
        hit |= (found.start < high) & (found.start + found.length > low)
    return np.flatnonzero(hit)


def _in_shard(found: Segment, laid: _Laid, number: int) -> np.ndarray:
    return _touching(found, [(number * laid.shard, (number + 1) * laid.shard)])


def _number(name: str) -> int:
    """Of the shard a file is: data/c/7/0 is 7; -1 of what is none."""
    parts = name.replace(".", "/").split("/")
    return int(parts[2]) if len(parts) >= 3 and parts[:2] == ["data", "c"] else -1


def salvaged(data: Path, part: Segment, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Position and hidden states (T, D), as stored, of `chosen` (m,) samples, all of whose chunks match checksums."""
    if not chosen.any():
        return  # its metadata may be what is damaged
    laid = _Laid.read(data, None)
    for number in np.unique(part.start[chosen] // laid.shard).tolist():
        good = dict(_chunks(data / "c" / str(number) / "0", laid))
        for at in np.flatnonzero(chosen & (part.start // laid.shard == number)).tolist():
            low, length = int(part.start[at]) - number * laid.shard, int(part.length[at])
            first, last = low // laid.chunk, (low + length - 1) // laid.chunk
            rows = np.concatenate([np.asarray(good[chunk]) for chunk in range(first, last + 1)])
            yield at, rows[low - first * laid.chunk :][:length]
