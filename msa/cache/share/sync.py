"""Push, pull, merge and clone stores, between folders, object stores and (to read) web servers.

Names of published files never mean anything else, so a file that the other side has by name and SHA-256 is not sent.
Files are sent first, small and large; when all have arrived and are checked, one new generation makes them visible.
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
from msa.cache.format.manifest import DatasetEntry, FileEntry, Files, Manifest, SegmentEntry, ViewEntry
from msa.cache.share import merge as merging
from msa.cache.share.licences import licences
from msa.cache.share.subset import ALL, Selection, Subset, meant, narrow, select
from msa.cache.share.transfer import File, Sent, absent, check, damaged, files, send, settle
from msa.cache.storage import site
from msa.cache.storage.site import Disk, Site
from msa.cache.store import FeatureStore
from msa.cache.write import heartbeat, segment
from msa.cache.write.publish import Unchanged, keeps_data
from msa.errors import ConfigError, StoreError
from msa.progress import Progress


@dataclass(frozen=True)
class Result:
    """What a transfer did: its target, what was sent, and what the target holds of the selection now."""

    to: str
    generation: int
    files: int
    bytes: int  # that were sent
    datasets: Sequence[str]  # names
    samples: int  # in all selected views, whether they were sent or present before
    licences: Sequence[tuple[str, str]] = ()  # of datasets and weights
    close: int = 0  # samples of both whose hidden states differ by rounding


def push(store: FeatureStore, to: str | Path, wanted: Selection = ALL, progress: Progress = Progress()) -> Result:
    """Upload a store or a subset of it to another place, where a store is made if there is none.

    Two pushes at once both succeed: the later one is published on top of the other. Raises StoreError.
    """
    target = site.site(to)
    if not target.writable:
        raise StoreError(
            f"{target} can only be read from: a web server takes no files",
            fix="push to the folder or bucket it serves",
        )
    return _transfer(store, target, wanted, progress)


def pull(origin: str | Path, into: Path, wanted: Selection = ALL, progress: Progress = Progress()) -> Result:
    """Download a store or a subset of it into the store in a folder, which is made if there is none."""
    return _transfer(FeatureStore.open(origin), Disk(into), wanted, progress)


def merge(other: str | Path, into: Path, progress: Progress = Progress()) -> Result:
    """Add another store; two datasets of one name become one, with the samples of both.

    Samples that both have are kept once: of hidden states that differ by rounding, those of `into` stay. Raises
    StoreError, before anything is written, where they differ: in input, in label or split, or in hidden states by more
    than rounding (see rounding.py). The message names the samples.
    """
    theirs = FeatureStore.open(other)
    mine = FeatureStore.create(into)
    united = merging.unite(mine, theirs)
    compared = merging.agreed(mine, theirs)
    result = _transfer(theirs, Disk(into), ALL, progress)
    merging.publish(FeatureStore.open(into), united)
    now = FeatureStore.open(into)
    held = sum(view.samples for name in result.datasets for view in now.views(name))
    return replace(result, generation=now.manifest.generation, samples=held, close=compared.close)


def clone(origin: str | Path, to: str | Path, progress: Progress = Progress()) -> Result:
    """Copy the newest generation of a store, number and all, to where there is none. History and tags stay behind."""
    store, target = FeatureStore.open(origin), site.site(to)
    _check_target(target)
    if numbers := target.numbers():
        raise ConfigError(
            f"{target} holds a store already, at generation {numbers[-1]}",
            fix="name a new place, or add to this one with `msa cache push`",
        )
    number = store.manifest.generation
    subset = Subset(store, store.path, store.manifest)
    selected, sent = _views_by_dataset(subset), _send_files(subset, Manifest(), target, progress)
    _make_store(target)
    if number and not target.create(number, store.manifest.encode()):
        raise StoreError(f"{target} was published to meanwhile", fix="add to it with `msa cache push`")
    target.hint(number)
    return _result(target, store.manifest, selected, sent, licences(store))


def _transfer(store: FeatureStore, target: Site, wanted: Selection, progress: Progress) -> Result:
    meant(store, wanted)  # an invalid selection is refused before anything is made
    _check_target(target)
    with _staging(target) as folder:
        before = generations.read(target)
        segments_present = {entry.id: entry for _, entry in before.segments}
        subset = select(store, wanted, folder, segments_present)
        selected = _views_by_dataset(subset)
        _drop_present(subset, before, target)
        with _kept_from_gc(subset, target, folder):
            sent = _send_files(subset, before, target, progress)
            _make_store(target)
            published = _publish(subset, target)
        return _result(target, published, selected, sent, licences(store, wanted))


@contextmanager
def _kept_from_gc(subset: Subset, target: Site, staging: Path) -> Iterator[None]:
    """Keep files that arrived from garbage collection while the rest is sent, for hours: no manifest names them yet."""
    if not isinstance(target, Disk):
        yield
        return
    folders = [target.store / name for name in subset.manifest.needed]
    about = [folder / "zarr.json" for folder in folders]  # by which gc dates a dataset or view
    with heartbeat.kept(target.store, staging, *folders, *about):
        yield


@contextmanager
def _staging(target: Site) -> Iterator[Path]:
    """Make the folder in which a subset is laid out: on the disk of a target folder, for it may be as large as all."""
    with ExitStack() as stack:
        if isinstance(target, Disk):
            with generations.writable(target.store):
                folder = stack.enter_context(local_files.folder_for_now(target.store, target.store / "views"))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=TEMPORARY)))
        yield folder


def _check_target(target: Site) -> None:
    """Refuse a target that holds something else, or a store of a newer version, before anything is sent."""
    if isinstance(target, Disk):
        FeatureStore.create(target.store)
    elif target.size("zarr.json") is not None:
        site.check_root(target)


def _drop_present(subset: Subset, there: Manifest, target: Site) -> None:
    """Take out of a subset what the target has: segments by name, samples that other segments hold."""
    other = _opened(target, there)
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
    """Return a segment without the samples that segments of the target hold; None where nothing is left.

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


def _opened(target: Site, generation: Manifest) -> FeatureStore:
    """Open the target as a store at a generation."""
    if isinstance(target, Disk):
        return FeatureStore(target.store, generation)
    from msa.cache.storage.mirror import Blocks

    assert isinstance(target, site.Remote)
    blocks = Blocks(target, generation)
    return FeatureStore(blocks.root, generation, blocks)


def _send_files(subset: Subset, there: Manifest, target: Site, progress: Progress) -> Sent:
    """Send all files of a subset that a generation of the target does not name. Readers see nothing of it yet."""
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
    """Send an index, whole, and return its entry. One that the target has is the same and stays."""
    index_files = files(source, {folder: entry.files})
    if isinstance(target, Disk):
        final = target.store / folder
        if not local_files.lstat(target.store, final / "zarr.json"):
            with local_files.folder_durably(target.store, final) as temporary:
                for file in index_files:
                    path = temporary / file.name.removeprefix(f"{folder}/")
                    local_files.make_folder(target.store, path.parent)
                    local_files.write(target.store, path, _read(file, sent), durably=False)
        return replace(entry, files=segment.files(target.store, final))
    facts = dict(entry.files)
    for file in index_files:
        data = _read(file, sent)
        held = settle(file.name, data, target)
        if held != data:
            if file.name != f"{folder}/zarr.json":  # metadata that is only shown may differ, arrays may not
                raise damaged(file)
            facts["zarr.json"] = FileEntry(len(held), _sha256(held))
    return replace(entry, files=facts)


def _provenance(source: Site, folder: str, needed: Files, target: Site, sent: Sent) -> Files:
    """Send the metadata of a view; return what the target has in the end: the first writer decides."""
    facts = {}
    for file in files(source, {folder: needed}):
        data = _read(file, sent)
        held = settle(file.name, data, target)
        facts[file.name.removeprefix(f"{folder}/")] = FileEntry(len(held), _sha256(held))
    target.add(f"{folder}/seg/zarr.json", _group({}))
    return facts


def _read(file: File, sent: Sent) -> bytes:
    """Read a small file, whole and checked."""
    try:
        data = file.source.read(file.name, max(file.size, 1))
    except FileNotFoundError:
        raise absent(file) from None
    sent.add(len(data))
    return check(file, data)


def _make_store(target: Site) -> None:
    """Make a store of the target, if it is none: its groups, and last the file that marks it as one."""
    for name in ("index/zarr.json", "views/zarr.json"):
        target.add(name, _group({}))
    if isinstance(target, Disk):
        local_files.make_folder(target.store, target.store / "manifests")
    if not target.add("zarr.json", _group({"msa_format": layout.FORMAT})):
        site.check_root(target)


def _publish(subset: Subset, target: Site) -> Manifest:
    """Publish a subset in a new generation; return the newest one where there is nothing new in it."""

    added: dict[str, Sequence[SegmentEntry]] = {}

    def change(before: Manifest) -> Manifest:
        added.clear()
        number, new = before.generation + 1, before
        for fingerprint, entry in subset.manifest.datasets.items():
            if fingerprint not in new.datasets:
                new = new.with_dataset(fingerprint, replace(entry, published=number))
        # others may have published since the files were chosen: what they sent is left out
        late = Subset(subset.store, subset.staging, subset.manifest, subset.made)
        _drop_present(late, before, target)
        _send_files(_without_sent(late, subset), before, target, Progress())
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
    """Retract segments whose data gc collected in the moment they were published: see maintain/gc.py."""
    lost = {
        entry.id
        for view_id, entries in added.items()
        for entry in entries
        if not keeps_data(target.store / layout.segments_path(view_id), entry)
    }

    if lost:
        generations.publish(target, lambda old: old.without_segments(lost), note="retracted: its data was collected")
        raise StoreError(
            f"{target}: gc collected the data of {len(lost)} segments at the same moment", fix="run the command again"
        )


def _without_sent(late: Subset, carried: Subset) -> Subset:
    """Return the segments of a subset that another does not hold."""
    new = late.manifest.without_segments(entry.id for _, entry in carried.manifest.segments)
    views = {view_id: replace(view, files={}) for view_id, view in new.views.items()}
    return Subset(late.store, late.staging, Manifest(views=views), late.made)


def _origin(where: str) -> str:
    """Return a place as it is kept in a note: an address; of a folder only its last name."""
    return where if site.is_url(where) else Path(where).resolve().name


def _views_by_dataset(subset: Subset) -> dict[str, set[str]]:
    """Return the views of each dataset in a subset."""
    views: dict[str, set[str]] = {fingerprint: set() for fingerprint in subset.manifest.datasets}
    for view_id, entry in subset.manifest.segments:
        views[entry.dataset].add(view_id)
    return views


def _result(
    target: Site,
    published: Manifest,
    selected: Mapping[str, set[str]],
    sent: Sent,
    known: Sequence[tuple[str, str]],
) -> Result:
    names = dict.fromkeys(published.datasets[fingerprint].name for fingerprint in selected)
    held = sum(entry.samples for view, entry in published.segments if view in selected.get(entry.dataset, ()))
    return Result(str(target), published.generation, sent.files, sent.nbytes, list(names), held, known)


def _group(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps(layout.group_metadata(attributes)).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
