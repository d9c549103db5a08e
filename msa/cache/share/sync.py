"""Handing stores on: push, pull, merge and clone, between folders, object stores and (to read) web servers.

What is published has names that never mean anything else, so whatever the other side has by name and SHA-256 stays
where it is. Files travel first, small and large; when all are there and checked, one new generation makes them visible.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import generations, layout, limits, local_files
from msa.cache.format.files import TEMPORARY
from msa.cache.format.manifest import DatasetEntry, FileEntry, Files, Manifest, SegmentEntry, ViewEntry, in_order
from msa.cache.read.view import View
from msa.cache.share import merge as merging
from msa.cache.share.subset import Selection, Subset, meant, narrow, select
from msa.cache.share.transfer import File, Sent, absent, check, damaged, files, send, settle
from msa.cache.storage import site
from msa.cache.storage.site import Disk, Site
from msa.cache.store import FeatureStore
from msa.cache.write import heartbeat, segment
from msa.cache.write.publish import Unchanged, keeps_data
from msa.errors import ConfigError, StoreError
from msa.progress import Progress

ALL = Selection()
FORBIDDING = ("non-commercial", "research", "academic", "noderivatives", "-nd", "no redistribution", "whatever")


@dataclass(frozen=True)
class Result:
    """What came of it: where to, what travelled, and what the other side has of it now."""

    to: str
    generation: int
    files: int
    bytes: int  # that travelled
    datasets: Sequence[str]  # names
    samples: int  # in all views that were asked for; whether they travelled or were there
    licences: Sequence[tuple[str, str]] = ()  # of corpora and weights
    close: int = 0  # samples of both whose hidden states differ by rounding


@dataclass(frozen=True)
class Restriction:
    """A reason not to hand something on."""

    what: str
    why: str


def push(store: FeatureStore, to: str | Path, wanted: Selection = ALL, progress: Progress = Progress()) -> Result:
    """Add a part of a store, or all of it, to another place, where a store is made if there is none.

    Two pushes at once both succeed: the later one is published on top of the other. Raises StoreError.
    """
    target = site.site(to)
    if not target.writable:
        raise StoreError(
            f"{target} can only be read from: a web server takes no files",
            fix="push to the folder or bucket it serves",
        )
    return _bring(store, target, wanted, progress)


def pull(origin: str | Path, into: Path, wanted: Selection = ALL, progress: Progress = Progress()) -> Result:
    """Add a part of a store elsewhere, or all of it, to a store in a folder, which is made if there is none."""
    return _bring(FeatureStore.open(origin), Disk(into), wanted, progress)


def merge(other: str | Path, into: Path, progress: Progress = Progress()) -> Result:
    """Add another store; corpora of one name become one, with the samples of both.

    Samples that both have count once: of hidden states that differ by rounding, those of `into` stay. Raises
    StoreError, before anything is written, where they differ: in input, in label or part, or in hidden states by more
    than rounding (see rounding.py); it names them.
    """
    theirs = FeatureStore.open(other)
    mine = FeatureStore.create(into)
    united = merging.unite(mine, theirs)
    compared = merging.agreed(mine, theirs)
    result = _bring(theirs, Disk(into), ALL, progress)
    merging.publish(FeatureStore.open(into), united)
    now = FeatureStore.open(into)
    held = sum(view.samples for name in result.datasets for view in now.views(name))
    return replace(result, generation=now.manifest.generation, samples=held, close=compared.close)


def clone(origin: str | Path, to: str | Path, progress: Progress = Progress()) -> Result:
    """Copy the newest generation of a store, number and all, to where there is none. History and tags stay behind."""
    store, target = FeatureStore.open(origin), site.site(to)
    _begin(target)
    if numbers := target.numbers():
        raise ConfigError(
            f"{target} holds a store already, at generation {numbers[-1]}",
            fix="name a new place, or add to this one with `msa cache push`",
        )
    number = store.manifest.generation
    subset = Subset(store, store.path, store.manifest)
    asked, sent = _asked(subset), _carry(subset, Manifest(), target, progress)
    _make(target)
    if number and not target.create(number, store.manifest.encode()):
        raise StoreError(f"{target} was published to meanwhile", fix="add to it with `msa cache push`")
    target.hint(number)
    return _result(target, store.manifest, asked, sent, licences(store))


def licences(store: FeatureStore, wanted: Selection = ALL) -> list[tuple[str, str]]:
    """Every corpus and every weights that are meant, and under which licence each is."""
    found = {}
    for name, view in _meant(store, wanted):
        if view is None:
            source = _source(store, name)
            found[f"dataset {name.partition('@')[0]}"] = str(source.get("licence", "not said"))
        else:
            weights = view.attributes.get("weights", {})
            found[f"{view.modality} {view.name}"] = str(weights.get("licence") or "not said")
    return sorted(found.items())


def restrictions(store: FeatureStore, wanted: Selection = ALL) -> list[Restriction]:
    """What forbids, or does not clearly allow, that others are given this part of a store; empty: nothing does."""
    found = []
    for name, view in _meant(store, wanted):
        if view is None:
            source = _source(store, name)
            if source.get("redistribution", True) is not True:
                found.append(Restriction(f"dataset {name.partition('@')[0]}", f"its licence is: {source['licence']}"))
            continue
        licence = view.attributes.get("weights", {}).get("licence")
        if not may_be_handed_on(view):
            told = f"the licence of its weights is: {licence or 'not known'}"
            found.append(Restriction(f"{view.modality} {view.name}", told))
    return list(dict.fromkeys(found))


def may_be_handed_on(view: View) -> bool:
    """Does nothing in the licence of its weights forbid to hand a view on, and is there one where there are weights?"""
    weights = view.attributes.get("weights", {})
    licence = str(weights.get("licence") or "")
    unknown = bool(weights.get("name")) and not licence
    return not unknown and not any(word in licence.lower() for word in FORBIDDING)


def _meant(store: FeatureStore, wanted: Selection) -> Iterator[tuple[str, Any]]:
    """(fingerprint, None) of every corpus that is meant, and (fingerprint, view) of every view of it."""
    datasets, views, _ = meant(store, wanted)
    for fingerprint, entry in in_order(store.manifest.datasets):
        if fingerprint in datasets:
            yield f"{entry.name}@{fingerprint}", None
            for view in store.views(fingerprint):
                if view.id in views:
                    yield f"{entry.name}@{fingerprint}", view


def _source(store: FeatureStore, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = store.index(name).told["source"]
    return found


def _bring(store: FeatureStore, target: Site, wanted: Selection, progress: Progress) -> Result:
    meant(store, wanted)  # what cannot be meant is said before anything is made
    _begin(target)
    with _staging(target) as folder:
        before = generations.read(target)
        there = {entry.id: entry for _, entry in before.segments}
        subset = select(store, wanted, folder, there)
        asked = _asked(subset)
        _leave_out(subset, before, target)
        with _unswept(subset, target, folder):
            sent = _carry(subset, before, target, progress)
            _make(target)
            published = _publish(subset, target)
        return _result(target, published, asked, sent, licences(store, wanted))


@contextmanager
def _unswept(subset: Subset, target: Site, staging: Path) -> Iterator[None]:
    """Keep what arrives from being swept while the rest is under way, which may take hours: nothing names it yet."""
    if not isinstance(target, Disk):
        yield
        return
    folders = [target.store / name for name in subset.manifest.needed]
    about = [folder / "zarr.json" for folder in folders]  # what a sweep looks at of a corpus or view that is there
    with heartbeat.kept(target.store, staging, *folders, *about):
        yield


@contextmanager
def _staging(target: Site) -> Iterator[Path]:
    """Where a part is laid out before it travels: beside a folder's views, for it may be as large as all of it."""
    with ExitStack() as stack:
        if isinstance(target, Disk):
            with generations.writable(target.store):
                folder = stack.enter_context(local_files.folder_for_now(target.store, target.store / "views"))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=TEMPORARY)))
        yield folder


def _begin(target: Site) -> None:
    """Refuse a place that holds something else, or a store of a newer version, before anything travels."""
    if isinstance(target, Disk):
        FeatureStore.create(target.store)
    elif target.size("zarr.json") is not None:
        site.check_root(target)


def _leave_out(subset: Subset, there: Manifest, target: Site) -> None:
    """Take out of a subset what the other side has: segments by name, samples that other segments hold."""
    other = _seen(target, there)
    for view_id, view in subset.manifest.views.items():
        held = there.segments_of(view_id)
        named = {entry.id: entry for entry in held}
        left = []
        for entry in view.segments:
            if old := named.get(entry.id):
                _check_same(subset, target, view_id, entry, old)
            elif new := _without_held(subset, view_id, entry, other, held):
                left.append(new)
        subset.manifest = subset.manifest.with_segments(view_id, left)


def _without_held(
    subset: Subset, view_id: str, entry: SegmentEntry, other: FeatureStore, held: Sequence[SegmentEntry]
) -> SegmentEntry | None:
    """A segment without the samples that segments of the other side hold; None where nothing is left.

    Raises StoreError where both have a sample, made from different input.
    """
    others = [old for old in held if old.dataset == entry.dataset]
    if not others:
        return entry
    n = subset.store.manifest.datasets[entry.dataset].samples
    digest, taken = np.zeros((n, 16), np.uint8), np.zeros(n, bool)
    for old in others:
        folder = other.tables(view_id, old)
        rows, _, _ = segment.places(folder, n)
        taken[rows], digest[rows] = True, layout.read_array(folder / "digest")
    home = subset.tables(view_id, entry)
    sample, _, _ = segment.places(home, n)
    both = taken[sample]
    unequal = sample[both][(layout.read_array(home / "digest")[both] != digest[sample[both]]).any(axis=1)]
    if len(unequal):
        ids = subset.store.index(entry.dataset).ids
        raise merging.differ(subset.store.where, other.where, {"input": [ids[row] for row in unequal]})
    if not both.any() and not segment.failures(home, entry, taken):
        return entry
    return narrow(subset, view_id, entry, ~taken)


def _check_same(subset: Subset, target: Site, view_id: str, entry: SegmentEntry, old: SegmentEntry) -> None:
    for name, facts in entry.files.items():
        if name in old.files and old.files[name] != facts and entry.samples == old.samples:
            raise StoreError(
                f"segment {entry.id} of view {view_id} holds another {name} in {subset.store.where} "
                f"than in {target}: {facts.sha256[:12]}… and {old.files[name].sha256[:12]}…",
                fix="one of them was changed: `msa cache verify` says which",
            )


def _seen(target: Site, generation: Manifest) -> FeatureStore:
    """The other side as a store at some generation."""
    if isinstance(target, Disk):
        return FeatureStore(target.store, generation)
    from msa.cache.storage.mirror import Blocks

    assert isinstance(target, site.Remote)
    blocks = Blocks(target, generation)
    return FeatureStore(blocks.root, generation, blocks)


def _carry(subset: Subset, there: Manifest, target: Site, progress: Progress) -> Sent:
    """Bring all files of a subset that the other side's generation does not name. Nothing is visible by it."""
    origin = subset.store.blocks.site if subset.store.blocks else Disk(subset.store.path)
    known = there.needed
    wanted, small = [], Sent()
    for folder, needed in subset.manifest.needed.items():
        source = Disk(subset.staging) if folder in subset.made else origin
        new = {name: facts for name, facts in needed.items() if name not in known.get(folder, {})}
        if folder.startswith("index/"):
            if folder not in known:
                fingerprint = folder.removeprefix("index/")
                entry = _index(source, folder, subset.manifest.datasets[fingerprint], target, small)
                subset.manifest = subset.manifest.with_dataset(fingerprint, entry)
        elif folder.count("/") == 1:
            if folder not in known:
                view_id = folder.removeprefix("views/")
                brought = replace(subset.manifest.views[view_id], files=_provenance(source, folder, new, target, small))
                subset.manifest = subset.manifest.with_view(view_id, brought)
        else:
            wanted += files(source, {folder: new})
    sent = send(wanted, target, progress)
    for file in wanted:
        if isinstance(target, Disk) and file.name.endswith("/data/zarr.json"):
            limits.check_data(target.store / file.name, limits.read_json(target.store / file.name))
    return Sent(sent.files + small.files, sent.nbytes + small.nbytes)


def _index(source: Site, folder: str, entry: DatasetEntry, target: Site, sent: Sent) -> DatasetEntry:
    """Bring an index, whole; returns its entry. One that is there already has the same content and stays."""
    there = files(source, {folder: entry.files})
    if isinstance(target, Disk):
        final = target.store / folder
        if not local_files.lstat(target.store, final / "zarr.json"):
            with local_files.folder_durably(target.store, final) as temporary:
                for file in there:
                    path = temporary / file.name.removeprefix(f"{folder}/")
                    local_files.make_folder(target.store, path.parent)
                    local_files.write(target.store, path, _read(file, sent), durably=False)
        return replace(entry, files=segment.files(target.store, final))
    facts = dict(entry.files)
    for file in there:
        data = _read(file, sent)
        found = settle(file.name, data, target)
        if found != data:
            if file.name != f"{folder}/zarr.json":  # what is only shown may differ, what it was computed from not
                raise damaged(file)
            facts["zarr.json"] = FileEntry(len(found), _sha256(found))
    return replace(entry, files=facts)


def _provenance(source: Site, folder: str, needed: Files, target: Site, sent: Sent) -> Files:
    """Bring the metadata of a view, unless it is there; returns what is: whoever comes first decides."""
    facts = {}
    for file in files(source, {folder: needed}):
        data = _read(file, sent)
        found = settle(file.name, data, target)
        facts[file.name.removeprefix(f"{folder}/")] = FileEntry(len(found), _sha256(found))
    target.add(f"{folder}/seg/zarr.json", _group({}))
    return facts


def _read(file: File, sent: Sent) -> bytes:
    """A small file, whole and checked."""
    try:
        data = file.source.read(file.name, max(file.size, 1))
    except FileNotFoundError:
        raise absent(file) from None
    sent.add(len(data))
    return check(file, data)


def _make(target: Site) -> None:
    """Make a place a store, if it is none: its groups, and last the file that says so."""
    for name in ("index/zarr.json", "views/zarr.json"):
        target.add(name, _group({}))
    if isinstance(target, Disk):
        local_files.make_folder(target.store, target.store / "manifests")
    if not target.add("zarr.json", _group({"msa_format": layout.FORMAT})):
        site.check_root(target)


def _publish(subset: Subset, target: Site) -> Manifest:
    """Make a subset visible in a new generation; in the newest one where there is nothing new in it."""

    added: dict[str, Sequence[SegmentEntry]] = {}

    def change(before: Manifest) -> Manifest:
        added.clear()
        number, new = before.generation + 1, before
        for fingerprint, entry in subset.manifest.datasets.items():
            if fingerprint not in new.datasets:
                new = new.with_dataset(fingerprint, replace(entry, published=number))
        # others may have published since the files were chosen: what they brought is left out
        late = Subset(subset.store, subset.staging, subset.manifest, subset.made)
        _leave_out(late, before, target)
        _carry(_only_new(late, subset), before, target, Progress())
        for view_id, view in late.manifest.views.items():
            if view.segments:
                added[view_id] = view.segments
                held = new.views.get(view_id, ViewEntry(view.files))
                segments = (*held.segments, *view.segments)
                new = new.with_view(view_id, replace(held, segments=segments, published=number))
        if new == before:
            raise Unchanged
        return new

    try:
        published = generations.publish(target, change, note=f"from {_origin(subset.store.where)}")
    except Unchanged:
        return generations.read(target)
    if isinstance(target, Disk):
        _check_kept(target, added)
    return published


def _check_kept(target: Disk, added: Mapping[str, Sequence[SegmentEntry]]) -> None:
    """Take segments back whose data was swept in the very moment they were published: see sweeping.py."""
    lost = {
        entry.id
        for view_id, entries in added.items()
        for entry in entries
        if not keeps_data(target.store / layout.segments_path(view_id), entry)
    }

    if lost:
        generations.publish(target, lambda old: old.without_segments(lost), note="taken back: its data was swept")
        raise StoreError(
            f"{target}: what {len(lost)} segments point to was swept at the same moment", fix="run the command again"
        )


def _only_new(late: Subset, carried: Subset) -> Subset:
    """The segments of a subset that another does not hold."""
    new = late.manifest.without_segments(entry.id for _, entry in carried.manifest.segments)
    views = {view_id: replace(view, files={}) for view_id, view in new.views.items()}
    return Subset(late.store, late.staging, Manifest(views=views), late.made)


def _origin(where: str) -> str:
    """A place as it is kept in a note: an address; of a folder only its last name, which says enough."""
    return where if site.is_url(where) else Path(where).resolve().name


def _asked(subset: Subset) -> dict[str, set[str]]:
    """The corpora of a subset, and which views of each are in it."""
    found: dict[str, set[str]] = {fingerprint: set() for fingerprint in subset.manifest.datasets}
    for view_id, entry in subset.manifest.segments:
        found[entry.dataset].add(view_id)
    return found


def _result(
    target: Site,
    published: Manifest,
    asked: Mapping[str, set[str]],
    sent: Sent,
    known: Sequence[tuple[str, str]],
) -> Result:
    names = dict.fromkeys(published.datasets[fingerprint].name for fingerprint in asked)
    held = sum(entry.samples for view, entry in published.segments if view in asked.get(entry.dataset, ()))
    return Result(str(target), published.generation, sent.files, sent.nbytes, list(names), held, known)


def _group(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps(layout.group_metadata(attributes)).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
