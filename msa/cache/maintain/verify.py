"""Is a store what it says it is? Every fault is found and named with the samples it concerns; nothing is printed.

Every published file is compared with the manifest (size, SHA-256), every table with the index. `deep` also compares
every chunk with its checksum and with what zarr-python reads, and looks for NaN and infinity. No damage stops it.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import Any

import numpy as np

from msa.cache.format import fingerprint, generations, layout, limits, local_files
from msa.cache.format.attributes import of_view
from msa.cache.format.files import TEMPORARY
from msa.cache.format.layout import FORMAT
from msa.cache.format.manifest import Manifest, ViewEntry
from msa.cache.maintain.check_index import READ_ERRORS, CheckedIndex, Problem, check_files, check_index, reason
from msa.cache.maintain.check_segment import CheckedSegment, check_segment
from msa.cache.store import FeatureStore
from msa.cache.write.segment import JOURNAL
from msa.errors import StoreError
from msa.progress import Progress

__all__ = ["Problem", "Report", "report", "verify"]

_GENERATION = re.compile(r"([0-9]{8})\.json")
LINK = "is a symbolic link, and nothing in a store is one: it is not followed"


@dataclass
class Report:
    """What was found in one generation of a store. `remarks` are no faults: what has not been extracted yet, litter."""

    path: Path
    generation: int
    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)  # generations that cannot be read
    corpora: dict[str, CheckedIndex] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)  # whose zarr.json is damaged -> how
    segments: list[CheckedSegment] = field(default_factory=list)


def verify(store: FeatureStore | Path, deep: bool = False) -> list[Problem]:
    """Every fault of a store: of the generation it is pinned to, or, of a path, the newest that can be read."""
    return report(store, deep).problems


def report(store: FeatureStore | Path, deep: bool = False, progress: Progress = Progress()) -> Report:
    """Examine everything that is published. Raises StoreError only where there is no store on this disk."""
    path = store.path if isinstance(store, FeatureStore) else store
    if getattr(store, "blocks", None) is not None:
        raise StoreError(f"{path} is a cache of a remote store", fix="bring it here first: msa cache pull URL")
    if not (path / "manifests").is_dir() and not (path / "zarr.json").exists():
        raise StoreError(f"there is no store at {path}", fix="name the folder `msa extract` wrote to")
    found = _newest(path)
    if isinstance(store, FeatureStore):
        found.generation, found.manifest = store.manifest.generation, store.manifest
    _root(found)
    found.problems += _links(found)
    _tags(found)
    datasets, entries = found.manifest.datasets, list(found.manifest.segments)
    progress.begin("verify", len(datasets) + len(entries), 0)
    try:
        for dataset, about in datasets.items():
            found.corpora[dataset] = _guarded(
                found, layout.index_path(dataset), check_index, path, dataset, about
            ) or CheckedIndex(about.name, about.samples)
            found.problems += found.corpora[dataset].problems
            progress.advance(1, 0)
        attributes = {view: _attributes(found, view, about) for view, about in found.manifest.views.items()}
        for view, entry in entries:
            where, of = layout.segment_path(view, entry.id), found.corpora[entry.dataset]
            one = _guarded(found, where, check_segment, path, view, attributes[view], entry, of, deep)
            found.segments.append(one or CheckedSegment(view, entry))
            progress.advance(1, 0)
    finally:
        progress.end()
    _samples(found, attributes)
    found.problems += _strangers(found)
    found.problems += _unnamed(found)
    return found


def _newest(path: Path) -> Report:
    """The newest generation that can be read; every one that cannot is a problem."""
    numbers = sorted(int(m[1]) for name in _names(path / "manifests", path) if (m := _GENERATION.fullmatch(name)))
    found, newer = Report(path, 0, Manifest()), False
    for number in numbers:
        where = layout.manifest_path(number)
        try:
            known = limits.read_json(path / where)
            newer |= type(known.get("msa_format")) is int and known["msa_format"] > FORMAT
            limits.check_inside(path, path / where)
            decoded = Manifest.from_json(where, known)
        except READ_ERRORS as error:
            found.damaged[number] = reason(error)
        else:
            found.generation, found.manifest = number, decoded
    if newer:
        generations.read(path)  # says which format, and that this version is too old to judge it
    for number, what in found.damaged.items():
        instead = "" if number < found.generation else f"; what follows is of generation {found.generation}"
        found.problems.append(Problem(layout.manifest_path(number), what + instead))
    if found.damaged and not found.generation:
        found.problems.append(Problem("manifests", "no generation can be read"))
    if gaps := sorted(set(range(1, max(numbers, default=0))) - set(numbers)):
        told = ", ".join(map(str, gaps[:5])) + (f" and {len(gaps) - 5} more" if len(gaps) > 5 else "")
        found.remarks.append(Problem("manifests", f"generation {told} is missing: it can no longer be opened"))
    return found


def _root(found: Report) -> None:
    """The group the whole store is."""
    for name in ("zarr.json", "index/zarr.json", "views/zarr.json"):
        try:
            root = limits.read_json(found.path / name)
            number = root.get("attributes", {}).get("msa_format")
            if root.get("zarr_format") != 3 or root.get("node_type") != "group":
                found.problems.append(Problem(name, "is not the metadata of a Zarr v3 group"))
            elif name == "zarr.json" and (type(number) is not int or number > FORMAT):
                found.problems.append(Problem(name, f"has msa_format {number!r}, expected {FORMAT}"))
        except FileNotFoundError:
            found.problems.append(Problem(name, "is missing"))
        except READ_ERRORS as error:
            found.problems.append(Problem(name, f"cannot be read: {reason(error)}"))


def _tags(found: Report) -> None:
    """Names of generations: each must say one that is there."""
    for path in (found.path / "tags" / name for name in _names(found.path / "tags", found.path)):
        if path.name.startswith(TEMPORARY) or path.suffix != ".json":  # set aside by a repair; none of ours
            continue
        where = f"tags/{path.name}"
        try:
            number = limits.read_json(path).get("generation")
            if number in found.damaged:
                found.problems.append(Problem(where, f"names generation {number}, which cannot be read"))
            elif type(number) is not int or not (found.path / layout.manifest_path(number)).is_file():
                found.problems.append(Problem(where, f"names generation {number!r}, which is not there"))
        except READ_ERRORS as error:
            found.problems.append(Problem(where, f"cannot be read: {reason(error)}"))


def _attributes(found: Report, view: str, about: ViewEntry) -> dict[str, Any] | None:
    """The provenance of a view, None where it is damaged, which concerns all its samples."""
    folder = found.path / layout.view_path(view)
    bad = check_files(found.path, folder, about.files)
    what = "; ".join(bad.values())
    try:
        attributes = of_view(folder / "zarr.json")
        if not what and "identity" in attributes and fingerprint.key(attributes["identity"]) != view:
            what = "does not hold the identity its name, a hash of it, stands for"
    except READ_ERRORS as error:
        attributes, what = {}, what or f"cannot be read: {reason(error)}"
    if not what:
        return attributes
    found.views[view] = what
    return None


def _samples(found: Report, attributes: Mapping[str, dict[str, Any] | None]) -> None:
    """Say whom each finding concerns, and look across the segments of a view: who stands twice, who is missing."""
    for view in found.manifest.views:
        parts = [part for part in found.segments if part.view == view]
        for dataset in dict.fromkeys(part.entry.dataset for part in parts):
            mine = [part for part in parts if part.entry.dataset == dataset]
            _one_view(found, found.corpora[dataset], mine, attributes[view])
        if view in found.views:
            of = [found.corpora[part.entry.dataset].named(part.sample.tolist()) for part in parts]
            touched = tuple(dict.fromkeys(id for ids in of for id in ids))
            found.problems.append(Problem(f"views/{view}/zarr.json", found.views[view], touched))


def _one_view(
    found: Report, of: CheckedIndex, parts: list[CheckedSegment], attributes: Mapping[str, Any] | None
) -> None:
    where = f"{of.name}/{parts[0].view}"
    there = np.zeros(of.n, np.int64)
    failed = np.zeros(of.n, bool)
    for part in parts:
        rows = np.unique(part.sample[(part.sample >= 0) & (part.sample < of.n)])
        there[rows] += 1
        if part.attributes is not None and part.entry.failed:
            failed[[f["sample"] for f in part.attributes.failures if 0 <= f["sample"] < of.n]] = True
    known = of.digests.get(str(attributes["modality"])) if attributes else None
    wanted = known.any(1) if known is not None else np.ones(of.n, bool)
    nowhere = np.flatnonzero(wanted & (there == 0) & ~failed)
    for part in parts:
        for file, what, positions in part.findings:
            rows = part.sample if positions is None else part.sample[positions]
            # whom a table named that cannot be read: it is among those that stand in no other
            rows = nowhere if positions is None and not part.usable else rows
            found.problems.append(Problem(file, what, of.named(rows.tolist())))
    if len(twice := np.flatnonzero(there > 1)):
        found.problems.append(
            Problem(where, f"{len(twice)} samples stand in more than one segment", of.named(twice.tolist()))
        )
    if len(nowhere) and all(part.usable for part in parts):
        found.remarks.append(
            Problem(where, f"{len(nowhere)} samples are not extracted yet", of.named(nowhere.tolist()))
        )


def _guarded(found: Report, where: str, examine: Any, *arguments: Any) -> Any:
    """Whatever no check foresaw is a problem of what was checked, and of all it holds."""
    try:
        return examine(*arguments)
    except Exception as error:
        found.problems.append(Problem(where, f"cannot be checked: {type(error).__name__}: {error}"))
        return None


def _strangers(found: Report) -> Iterator[Problem]:
    """Files in published folders that no manifest names."""
    named, folders = _named(found)
    for folder, open_segment in folders.items():
        for path in _below(found.path, folder, deep=folder.parent.name != "views"):
            if path in named or open_segment or path.name.startswith(TEMPORARY) or path.name == JOURNAL:
                continue
            if path.is_symlink():
                continue  # named already
            yield Problem(path.relative_to(found.path).as_posix(), "not named by any manifest")


def _named(found: Report) -> tuple[set[Path], dict[Path, bool]]:
    """Every published file; every folder that is published itself, and whether somebody writes in it still.

    Of a segment that only lends its data, whatever else it holds is of no concern.
    """
    named: set[Path] = set()
    folders: dict[Path, bool] = {}
    for name in (*map(layout.index_path, found.manifest.datasets), *map(layout.view_path, found.manifest.views)):
        folders[found.path / name] = False
    for view, entry in found.manifest.segments:
        folder = found.path / layout.segment_path(view, entry.id)
        folders[folder] = (folder / JOURNAL).exists()
    for name, files in found.manifest.needed.items():
        named |= {found.path / name / file for file in files}
    return named, folders


def _below(root: Path, folder: Path, deep: bool) -> list[Path]:
    """Everything in a folder that is no folder; links are not followed. Of a view only what lies in it directly."""
    try:
        if deep:
            return [
                path for path, about in local_files.tree(root, folder) if path != folder and not S_ISDIR(about.st_mode)
            ]
        below = {path.name for path in local_files.folders(root, folder)}
        return [folder / name for name in local_files.listed(root, folder) if name not in below]
    except (StoreError, OSError):
        return []  # a link or a file in its place: said where it is examined


def _names(folder: Path, root: Path) -> list[str]:
    """What lies in a folder; nothing where a link or a file is in its place."""
    try:
        return local_files.listed(root, folder)
    except (StoreError, OSError):
        return []


def _links(found: Report) -> Iterator[Problem]:
    """Links among the folders and files that make a store: all that is behind one counts as missing."""
    for top in ("zarr.json", "index", "views", "manifests", "tags"):
        try:
            for path, about in local_files.tree(found.path, found.path / top):
                below = path.relative_to(found.path).parts
                if S_ISLNK(about.st_mode) and not any(name.startswith(TEMPORARY) for name in below):
                    yield Problem("/".join(below), LINK)
        except (StoreError, OSError) as error:
            yield Problem(top, f"cannot be listed: {reason(error)}")


def _unnamed(found: Report) -> Iterator[Problem]:
    """Whole segments that no generation names, although nobody writes them any more: the manifest that did is gone."""
    folders = []
    with suppress(StoreError):
        views = local_files.folders(found.path, found.path / "views")
        for view in views:
            with suppress(StoreError):
                folders += [p for p in local_files.folders(found.path, view / "seg") if limits.is_segment(p.name)]
    known = _ever_named(found)
    for folder in folders:
        if (folder.parent.parent.name, folder.name) in known or (folder / JOURNAL).exists():
            continue
        where = folder.relative_to(found.path).as_posix()
        try:
            about = limits.read_json(folder / "zarr.json")["attributes"]
            of = found.corpora.get(about["dataset"])
            rows = limits.read_json(folder / "sample" / "zarr.json")["shape"][0]
            yield Problem(where, f"holds {rows} samples, and no generation names it", _whose(folder, of))
        except READ_ERRORS:
            found.remarks.append(Problem(where, "is half a segment that nobody writes any more"))


def _whose(folder: Path, of: CheckedIndex | None) -> tuple[str, ...]:
    from msa.cache.format.layout import read_array

    rows = read_array(folder / "sample").tolist()
    return of.named(rows) if of else tuple(f"row {row}" for row in rows)


def _ever_named(found: Report) -> set[tuple[str, str]]:
    """View and segment of everything any generation names, also one that was published a moment ago."""
    known: set[tuple[str, str]] = set()
    for path in (found.path / "manifests" / name for name in _names(found.path / "manifests", found.path)):
        number = _GENERATION.fullmatch(path.name)
        if number is None or int(number[1]) in found.damaged:
            continue
        try:
            for view, entry in Manifest.decode(path, limits.read_bytes(path, limits.MAX_JSON)).segments:
                known |= {(view, entry.id), (view, entry.data_id)}
        except READ_ERRORS:
            continue  # it was named as a problem already
    return known
