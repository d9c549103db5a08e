"""Damage planted in a store: is it detected, are the right samples named, and do repair and extraction undo it?"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import layout
from msa.cache.format.fingerprint import sha256
from msa.cache.format.layout import write_group
from msa.cache.format.manifest import SegmentEntry, checksum
from msa.cache.format.shard import Buffer, Grid
from msa.cache.format.small_arrays import CRC
from msa.cache.maintain import repair
from msa.cache.maintain.verify import Report, check_store
from msa.cache.store import FeatureStore
from tests.cache import sample_store

BACKBONES = ("made.words", "made.tones")
SAMPLES = 16


@dataclass(frozen=True)
class Part:
    """A segment of the store before anything was planted in it, read through zarr-python."""

    view: str
    folder: Path  # relative to the store
    entry: SegmentEntry
    data: Path
    ids: np.ndarray  # (m,) of its samples
    start: np.ndarray
    end: np.ndarray

    def touching(self, low: int, high: int) -> set[str]:
        """Samples with rows in [low, high)."""
        return set(self.ids[(self.start < high) & (self.end > low)].tolist())


@dataclass
class Ground:
    """A sound store, and whom each of its files concerns; faults are planted in copies of it."""

    path: Path
    parts: list[Part] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=dict)  # by dataset

    @classmethod
    def lay(cls, path: Path, backbones: tuple[str, ...] = BACKBONES, n: int = SAMPLES) -> "Ground":
        """Two versions of one corpus; the later one borrows, and then gets samples of its own."""
        import zarr

        store = FeatureStore.create(path)
        first, again, _ = sample_store.corpora(n)
        again.digests["text"][-1] ^= 1  # the last published segment is lent to no other
        again.digests["audio"][1] ^= 1
        for index in (first, again):
            sample_store.complete(store, index, backbones)
        made = cls(path)
        group = zarr.open_group(path, mode="r")
        for dataset in store.manifest.datasets:
            made.ids[dataset] = list(store.index(dataset).ids)
        for view, entry in store.manifest.segments:
            folder = Path(layout.segment_path(view, entry.id))
            table = group[folder.as_posix()]
            ids = np.array(made.ids[entry.dataset], object)[table["sample"][:]]
            data = folder.parent / entry.data_id / "data"
            end = table["start"][:] + table["length"][:]
            made.parts.append(Part(view, folder, entry, data, ids, table["start"][:], end))
        return made


@dataclass(frozen=True)
class Planted:
    """A fault: what was done, where, and who is concerned: all of `least` and none beyond `most` (None: any)."""

    where: str
    least: frozenset[str] = frozenset()
    most: frozenset[str] | None = frozenset()
    unseen: bool = False  # only `deep` finds it


Kind = Callable[[Ground, Path, random.Random], Planted]


def exactly(where: object, samples: set[str], unseen: bool = False) -> Planted:
    """These samples are to be named and no others."""
    return Planted(str(where), frozenset(samples), frozenset(samples), unseen)


# bytes of files


def flip(path: Path, rng: random.Random, low: int = 0, high: int | None = None) -> int:
    """Flip one bit of a file; returns which byte."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(low, len(data) if high is None else high)
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return at


def cut(path: Path, rng: random.Random) -> None:
    """Truncate a file."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def owners(ground: Ground) -> list[Part]:
    """Segments that hold data."""
    return [
        part for part in ground.parts if part.data.parent == part.folder and (ground.path / part.data / "c").exists()
    ]


def shards(ground: Ground, part: Part) -> list[Path]:
    return sorted((ground.path / part.data / "c").glob("*/0"), key=lambda path: int(path.parent.name))


def concerned(ground: Ground, part: Part, low: int, high: int) -> set[str]:
    """Samples of every segment that points into these rows of one segment's data."""
    return {id for other in ground.parts if other.data == part.data for id in other.touching(low, high)}


def a_shard(ground: Ground, rng: random.Random) -> tuple[Part, int, set[str]]:
    part = rng.choice(owners(ground))
    number = rng.randrange(len(shards(ground, part)))
    return part, number, concerned(ground, part, number * sample_store.SHARD, (number + 1) * sample_store.SHARD)


def in_data(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A flipped bit in a chunk, its checksum, or the shard's index."""
    part, number, everyone = a_shard(ground, rng)
    file = path / part.data / "c" / str(number) / "0"
    at, size = flip(file, rng), file.stat().st_size
    meta = json.loads((path / part.data / "zarr.json").read_text())
    rows, width = meta["codecs"][0]["configuration"]["chunk_shape"]
    nbytes = rows * width * np.dtype(meta["data_type"]).itemsize + CRC
    where = file.relative_to(path)
    if at >= size - sample_store.SHARD // rows * 16 - CRC:
        return exactly(where, everyone)
    low = number * sample_store.SHARD + at // nbytes * rows
    return exactly(where, concerned(ground, part, low, low + rows) or everyone)


def a_small(ground: Ground, path: Path, rng: random.Random, way: Callable[[Path, random.Random], object]) -> Planted:
    part = rng.choice(ground.parts)
    names = sorted(name for name in part.entry.files if not name.startswith("data/c"))
    name = rng.choice(names)
    way(path / part.folder / name, rng)
    if name == "data/zarr.json":
        return exactly(part.folder / name, concerned(ground, part, 0, 1 << 40))
    return exactly(part.folder / name, set(part.ids.tolist()))


def in_small(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A flipped bit in a table or in the metadata of a segment."""
    return a_small(ground, path, rng, flip)


def missing_small(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A table, or metadata of a segment, that is gone."""
    return a_small(ground, path, rng, lambda file, _: file.unlink())


def cut_small(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A truncated table of a segment."""
    return a_small(ground, path, rng, cut)


def missing_shard(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A shard that is gone."""
    part, number, everyone = a_shard(ground, rng)
    (path / part.data / "c" / str(number) / "0").unlink()
    return exactly(part.data / f"c/{number}/0", everyone)


def cut_shard(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A truncated shard."""
    part, number, everyone = a_shard(ground, rng)
    cut(path / part.data / "c" / str(number) / "0", rng)
    return exactly(part.data / f"c/{number}/0", everyone)


def swapped(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """Two shards of one segment that have changed places."""
    part = rng.choice([part for part in owners(ground) if len(shards(ground, part)) > 1])
    one, other = rng.sample(range(len(shards(ground, part))), 2)
    a, b = (path / part.data / "c" / str(n) / "0" for n in (one, other))
    (first, second) = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    hit = [concerned(ground, part, n * sample_store.SHARD, (n + 1) * sample_store.SHARD) for n in (one, other)]
    return exactly(part.data, hit[0] | hit[1])


def extra_shard(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A shard that no manifest names."""
    part = rng.choice(owners(ground))
    file = path / part.data / "c" / str(rng.randrange(len(shards(ground, part)), 99)) / "0"
    file.parent.mkdir()
    shutil.copy(shards(ground, part)[0], file)
    return exactly(file.relative_to(path), set())


def in_view(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """Damage to the provenance of a view: flipped, truncated, gone."""
    view = rng.choice(ground.parts).view
    file = path / "views" / view / "zarr.json"
    rng.choice([flip, cut, lambda file, _: file.unlink()])(file, rng)
    return exactly(f"views/{view}/zarr.json", {id for p in ground.parts if p.view == view for id in p.ids.tolist()})


def in_index(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """Damage to an index: a file flipped, truncated or gone."""
    file = rng.choice(sorted(p for p in (ground.path / "index").glob("*/**/*") if p.is_file())).relative_to(ground.path)
    rng.choice([flip, cut, lambda file, _: file.unlink()])(path / file, rng)
    ids = ground.ids[file.parts[1]]
    if file.parts[2].startswith("id_"):  # without ids the samples have no names
        return exactly(file, {f"row {n}" for n in range(len(ids))})
    concerned = ids[1::3] + ids[2::3] if file.parts[2] == "text_bytes" and file.name != "zarr.json" else ids
    return exactly(file, set(concerned))


def in_group(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """Damage to the groups around everything; a flipped bit in white space or a key they do not need is none."""
    name = rng.choice(["zarr.json", "index/zarr.json", "views/zarr.json"])
    rng.choice([cut, lambda file, _: file.unlink()])(path / name, rng)
    return exactly(name, set())


# manifests


def newest(path: Path) -> Path:
    return max((path / "manifests").glob("*.json"))


def last_published(ground: Ground) -> set[str]:
    return set(ground.parts[-1].ids.tolist())


def in_manifest(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A flipped bit in the newest manifest; what it published alone is named by no other."""
    flip(newest(path), rng)
    return exactly(f"manifests/{newest(path).name}", last_published(ground))


def no_manifest(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """The newest manifest is gone, or garbage, or an older one lies in its place."""
    file, names = newest(path), sorted((path / "manifests").glob("*.json"))
    way = rng.randrange(3)
    if way == 0:
        file.unlink()
    elif way == 1:
        file.write_bytes(rng.randbytes(rng.randrange(2000)))
    else:
        shutil.copy(rng.choice(names[:-1]), file)
    return exactly(f"manifests/{file.name}", last_published(ground))


def older_manifest(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """Damage to a manifest that is not in force any more."""
    file = rng.choice(sorted((path / "manifests").glob("*.json"))[:-1])
    rng.choice([flip, cut])(file, rng)
    return exactly(f"manifests/{file.name}", set())


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another manifest in the place of the newest, true to itself."""
    file = newest(path)
    known = json.loads(file.read_text())
    change(known)
    known["checksum"] = checksum(known)
    file.write_text(json.dumps(known))


def entry_of(manifest: dict[str, Any], part: Part) -> dict[str, Any]:
    found = [e for e in manifest["views"][part.view]["segments"] if e["id"] == part.entry.id]
    return dict(found[0]) if not found else found[0]


def wrong_manifest(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A manifest that claims other numbers of samples or failures, or leaves out a file."""
    part = rng.choice(ground.parts)
    way = rng.choice(["samples", "failed", "dataset"])

    def change(known: dict[str, Any]) -> None:
        if way == "dataset":
            known["datasets"][part.entry.dataset]["samples"] -= 1
        else:
            entry_of(known, part)[way] += rng.randrange(1, 5)

    edited(path, change)
    if way == "dataset":
        return Planted(f"index/{part.entry.dataset}", most=None)
    return exactly(part.folder, set(part.ids.tolist()))


def twice(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """The samples of a segment stand in another one too."""
    part = rng.choice([part for part in ground.parts if len(part.ids)])
    name = f"20260101-000000-{rng.getrandbits(32):08x}"
    shutil.copytree(path / part.folder, path / part.folder.parent / name)

    def change(known: dict[str, Any]) -> None:
        known["views"][part.view]["segments"].append({**entry_of(known, part), "id": name})

    edited(path, change)
    return exactly(part.view, set(part.ids.tolist()))


# tables and numbers that are true to their checksums, and wrong


def rewritten(path: Path, part: Part, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Other tables in a segment, with a manifest that knows them."""
    import zarr

    folder = path / part.folder
    group = zarr.open_group(folder, mode="r")
    arrays = {name: np.asarray(group[name][...]) for name in group.array_keys() if name != "data"}
    attributes = json.loads((folder / "zarr.json").read_text())["attributes"]
    change(arrays)
    for name in arrays:
        shutil.rmtree(folder / name)
    (folder / "zarr.json").unlink()
    write_group(folder, arrays, attributes)

    def known(manifest: dict[str, Any]) -> None:
        files = entry_of(manifest, part)["files"]
        for name in files:
            files[name] = [(folder / name).stat().st_size, sha256(folder / name)]

    edited(path, known)


def missing_sample(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """A sample that the manifest counts and no table holds."""
    part = rng.choice([part for part in ground.parts if len(part.ids) > 1])
    gone = rng.randrange(len(part.ids))
    rewritten(path, part, lambda arrays: arrays.update({n: np.delete(a, gone, 0) for n, a in arrays.items()}))
    return Planted(str(part.folder), most=frozenset(part.ids.tolist()))


def a_number(name: str, value: Callable[[np.ndarray, int, random.Random], object]) -> Kind:
    def plant(ground: Ground, path: Path, rng: random.Random) -> Planted:
        part = rng.choice([part for part in ground.parts if len(part.ids) > 2])
        at = rng.randrange(1, len(part.ids))

        def change(arrays: dict[str, np.ndarray]) -> None:
            arrays[name][at] = value(arrays[name], at, rng)

        rewritten(path, part, change)
        if name == "sample":  # it bears another's name, or none
            return Planted(str(part.folder), most=None)
        near = {part.ids[at]} if name == "digest" else set(part.ids.tolist())
        return Planted(str(part.folder), frozenset({part.ids[at]} if name != "start" else ()), frozenset(near))

    return plant


def not_a_number(ground: Ground, path: Path, rng: random.Random) -> Planted:
    """NaN or infinity in hidden states, in a shard that is true to its checksums and its SHA-256."""
    import zarr

    part, number, _ = a_shard(ground, rng)
    file = path / part.data / "c" / str(number) / "0"
    array = zarr.open_array(path / part.data, mode="r")
    low = number * sample_store.SHARD
    rows = np.asarray(array[low : low + sample_store.SHARD])
    used = [row for row in range(len(rows)) if concerned(ground, part, low + row, low + row + 1)]
    at, column = rng.choice(used), rng.randrange(rows.shape[1])
    odd = [0x7FC0, 0x7F80] if rows.dtype == np.uint16 else [np.nan, np.inf, -np.inf]
    rows[at, column] = rng.choice(odd)
    chunk = json.loads((path / part.data / "zarr.json").read_text())["codecs"][0]["configuration"]["chunk_shape"][0]
    buffer = Buffer(Grid(chunk, sample_store.SHARD // chunk, rows.itemsize * rows.shape[1]), rows.dtype)
    buffer.add(rows)
    file.write_bytes(b"".join(map(bytes, buffer.finish())))

    def known(manifest: dict[str, Any]) -> None:
        for other in ground.parts:
            if other.data == part.data:
                entry = entry_of(manifest, other)
                files = entry["data_files"] if "data_of" in entry else entry["files"]
                files[f"data/c/{number}/0"] = [file.stat().st_size, sha256(file)]

    edited(path, known)
    return exactly(file.relative_to(path), concerned(ground, part, low + at, low + at + 1), unseen=True)


KINDS: dict[str, Kind] = {
    "flipped bit in a shard": in_data,
    "flipped bit in a segment's tables": in_small,
    "flipped bit in the newest manifest": in_manifest,
    "damage to an index": in_index,
    "damage to a view's metadata": in_view,
    "damage to a group": in_group,
    "missing shard": missing_shard,
    "truncated shard": cut_shard,
    "swapped shards": swapped,
    "extra shard": extra_shard,
    "missing table": missing_small,
    "truncated table": cut_small,
    "manifest deleted, garbage or older": no_manifest,
    "damage to an older manifest": older_manifest,
    "manifest with wrong numbers": wrong_manifest,
    "samples that stand twice": twice,
    "sample missing from its table": missing_sample,
    "row number out of range or twice": a_number("sample", lambda a, at, rng: rng.choice([-1, 1 << 40, a[at - 1]])),
    "start out of range": a_number("start", lambda a, at, rng: rng.choice([-1, 1 << 40, 2**63 - 1])),
    "overlapping samples": a_number("length", lambda a, at, rng: rng.choice([0, -1, 1 << 30])),
    "hidden states of another input": a_number("digest", lambda a, at, rng: a[at] ^ np.uint8(1 << rng.randrange(8))),
    "NaN or infinity": not_a_number,
}


@dataclass(frozen=True)
class Verdict:
    """What became of one planted fault."""

    kind: str
    planted: Planted
    found: bool
    named: bool
    whole: bool | None  # after repair and extraction; None: not tried


def trial(ground: Ground, kind: str, path: Path, seed: int, repaired: bool = True) -> Verdict:
    """Plant a fault in a copy of the store at `path` and look for it; then repair the store and extract again."""
    shutil.copytree(ground.path, path)
    planted = KINDS[kind](ground, path, random.Random(seed))
    seen = check_store(path, deep=repaired or planted.unseen)
    named = {id for problem in seen.problems for id in problem.samples}
    right = planted.least <= named and (planted.most is None or named <= planted.most)
    return Verdict(kind, planted, bool(seen.problems), right, whole_again(ground, path) if repaired else None)


def whole_again(ground: Ground, path: Path) -> bool:
    """Repair, extract what is missing, and compare every number with what was put in."""
    left: Report = repair.carry_out(repair.plan(path))
    store = FeatureStore.open(path)
    first, again, _ = sample_store.corpora(SAMPLES)
    again.digests["text"][-1] ^= 1
    again.digests["audio"][1] ^= 1
    for index in (first, again):
        sample_store.complete(store, index, BACKBONES)
    if [problem for problem in left.problems if "index/" not in problem.where]:
        return False  # an index is there again once it is extracted; all else at once
    store = FeatureStore.open(path)
    return not check_store(path, deep=True).problems and all(equal(store, index) for index in (first, again))


def equal(store: FeatureStore, index: Any) -> bool:
    """Is every hidden state of a corpus what it was made to be?"""
    for backbone in BACKBONES:
        view_id, about = sample_store.attributes(backbone)
        view = next(view for view in store.views(index.fingerprint) if view.id == view_id)
        reader, digests = store.reader(view), index.digests[about["modality"]]
        for row in np.flatnonzero(index.has(about["modality"])).tolist():
            if row == 3 and row in reader.failures:
                continue
            if not np.array_equal(reader.read(row), sample_store.meant(backbone, digests[row])):
                return False
    return True


def trials(count: int, seed: int, folder: Path, repaired: bool = True) -> Iterator[Verdict]:
    """Plant `count` faults, of every kind in turn."""
    ground = Ground.lay(folder / "sound")
    names = list(KINDS)
    for number in range(count):
        path = folder / "planted"
        yield trial(ground, names[number % len(names)], path, seed + number, repaired)
        shutil.rmtree(path)
