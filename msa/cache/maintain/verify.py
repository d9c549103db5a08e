"""Check a store: find every fault and name the samples it concerns.

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

__all__ = ["Problem", "Report", "check_store", "verify"]

_GENERATION = re.compile(r"([0-9]{8})\.json")
LINK = "is a symbolic link, and nothing in a store is one: it is not followed"


@dataclass
class Report:
    """Result of checking one generation of a store. `remarks` are no faults: samples not extracted yet, garbage."""

    path: Path
    generation: int
    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)  # generation that cannot be read -> why
    indices: dict[str, CheckedIndex] = field(default_factory=dict)  # by fingerprint
    views: dict[str, str] = field(default_factory=dict)  # view whose zarr.json is damaged -> what is wrong
    segments: list[CheckedSegment] = field(default_factory=list)


def verify(store: FeatureStore | Path, deep: bool = False) -> list[Problem]:
    """Return every fault of a store: of the generation it is pinned to, or, of a path, the newest that can be read."""
    return check_store(store, deep).problems


def check_store(store: FeatureStore | Path, deep: bool = False, progress: Progress = Progress()) -> Report:
    """Check everything that is published. Raises StoreError only where there is no store on this disk."""
    path = store.path if isinstance(store, FeatureStore) else store
    if getattr(store, "blocks", None) is not None:
        raise StoreError(f"{path} is a cache of a remote store", fix="bring it here first: msa cache pull URL")
    if not (path / "manifests").is_dir() and not (path / "zarr.json").exists():
        raise StoreError(f"there is no store at {path}", fix="name the folder `msa extract` wrote to")
    report = _newest(path)
    if isinstance(store, FeatureStore):
        report.generation, report.manifest = store.manifest.generation, store.manifest
    _check_groups(report)
    report.problems += _links(report)
    _check_tags(report)
    datasets, entries = report.manifest.datasets, list(report.manifest.segments)
    progress.begin("verify", len(datasets) + len(entries), 0)
    try:
        for dataset, about in datasets.items():
            report.indices[dataset] = _guarded(
                report, layout.index_path(dataset), check_index, path, dataset, about
            ) or CheckedIndex(about.name, about.samples)
            report.problems += report.indices[dataset].problems
            progress.advance(1, 0)
        attributes = {view: _attributes(report, view, about) for view, about in report.manifest.views.items()}
        for view, entry in entries:
            where, index = layout.segment_path(view, entry.id), report.indices[entry.dataset]
            segment = _guarded(report, where, check_segment, path, view, attributes[view], entry, index, deep)
            report.segments.append(segment or CheckedSegment(view, entry))
            progress.advance(1, 0)
    finally:
        progress.end()
    _name_samples(report, attributes)
    report.problems += _unexpected_files(report)
    report.problems += _unnamed_segments(report)
    return report


def _newest(path: Path) -> Report:
    """Return a report of the newest generation that can be read, with a problem for each that cannot."""
    numbers = sorted(int(m[1]) for name in _listed(path / "manifests", path) if (m := _GENERATION.fullmatch(name)))
    report, too_new = Report(path, 0, Manifest()), False
    for number in numbers:
        where = layout.manifest_path(number)
        try:
            decoded_json = limits.read_json(path / where)
            too_new |= type(decoded_json.get("msa_format")) is int and decoded_json["msa_format"] > FORMAT
            limits.check_inside(path, path / where)
            decoded = Manifest.from_json(where, decoded_json)
        except READ_ERRORS as error:
            report.damaged[number] = reason(error)
        else:
            report.generation, report.manifest = number, decoded
    if too_new:
        generations.read(path)  # says which format, and that this version is too old to judge it
    for number, what in report.damaged.items():
        instead = "" if number < report.generation else f"; what follows is of generation {report.generation}"
        report.problems.append(Problem(layout.manifest_path(number), what + instead))
    if report.damaged and not report.generation:
        report.problems.append(Problem("manifests", "no generation can be read"))
    if gaps := sorted(set(range(1, max(numbers, default=0))) - set(numbers)):
        numbers_text = ", ".join(map(str, gaps[:5])) + (f" and {len(gaps) - 5} more" if len(gaps) > 5 else "")
        report.remarks.append(Problem("manifests", f"generation {numbers_text} is missing: it can no longer be opened"))
    return report


def _check_groups(report: Report) -> None:
    """Check the Zarr groups of the store, of its indices and of its views."""
    for name in ("zarr.json", "index/zarr.json", "views/zarr.json"):
        try:
            root = limits.read_json(report.path / name)
            number = root.get("attributes", {}).get("msa_format")
            if root.get("zarr_format") != 3 or root.get("node_type") != "group":
                report.problems.append(Problem(name, "is not the metadata of a Zarr v3 group"))
            elif name == "zarr.json" and (type(number) is not int or number > FORMAT):
                report.problems.append(Problem(name, f"has msa_format {number!r}, expected {FORMAT}"))
        except FileNotFoundError:
            report.problems.append(Problem(name, "is missing"))
        except READ_ERRORS as error:
            report.problems.append(Problem(name, f"cannot be read: {reason(error)}"))


def _check_tags(report: Report) -> None:
    """Check that each tag names a generation that is there."""
    for path in (report.path / "tags" / name for name in _listed(report.path / "tags", report.path)):
        if path.name.startswith(TEMPORARY) or path.suffix != ".json":  # set aside by a repair, or not written by msa
            continue
        where = f"tags/{path.name}"
        try:
            number = limits.read_json(path).get("generation")
            if number in report.damaged:
                report.problems.append(Problem(where, f"names generation {number}, which cannot be read"))
            elif type(number) is not int or not (report.path / layout.manifest_path(number)).is_file():
                report.problems.append(Problem(where, f"names generation {number!r}, which is not there"))
        except READ_ERRORS as error:
            report.problems.append(Problem(where, f"cannot be read: {reason(error)}"))


def _attributes(report: Report, view: str, about: ViewEntry) -> dict[str, Any] | None:
    """Return the attributes of a view; None where they are damaged, which concerns all its samples."""
    folder = report.path / layout.view_path(view)
    bad = check_files(report.path, folder, about.files)
    what = "; ".join(bad.values())
    try:
        attributes = of_view(folder / "zarr.json")
        if not what and "identity" in attributes and fingerprint.key(attributes["identity"]) != view:
            what = "holds another identity than the one its name is a hash of"
    except READ_ERRORS as error:
        attributes, what = {}, what or f"cannot be read: {reason(error)}"
    if not what:
        return attributes
    report.views[view] = what
    return None


def _name_samples(report: Report, attributes: Mapping[str, dict[str, Any] | None]) -> None:
    """Name the samples of each finding, and those that stand in several segments of a view, or in none."""
    for view in report.manifest.views:
        parts = [part for part in report.segments if part.view == view]
        for dataset in dict.fromkeys(part.entry.dataset for part in parts):
            of_dataset = [part for part in parts if part.entry.dataset == dataset]
            _check_view(report, report.indices[dataset], of_dataset, attributes[view])
        if view in report.views:
            ids = [report.indices[part.entry.dataset].named(part.sample.tolist()) for part in parts]
            touched = tuple(dict.fromkeys(id for ids in ids for id in ids))
            report.problems.append(Problem(f"views/{view}/zarr.json", report.views[view], touched))


def _check_view(
    report: Report, index: CheckedIndex, parts: list[CheckedSegment], attributes: Mapping[str, Any] | None
) -> None:
    where = f"{index.name}/{parts[0].view}"
    copies = np.zeros(index.n, np.int64)
    failed = np.zeros(index.n, bool)
    for part in parts:
        rows = np.unique(part.sample[(part.sample >= 0) & (part.sample < index.n)])
        copies[rows] += 1
        if part.attributes is not None and part.entry.failed:
            failed[[f["sample"] for f in part.attributes.failures if 0 <= f["sample"] < index.n]] = True
    digests = index.digests.get(str(attributes["modality"])) if attributes else None
    wanted = digests.any(1) if digests is not None else np.ones(index.n, bool)
    missing = np.flatnonzero(wanted & (copies == 0) & ~failed)
    for part in parts:
        for file, what, positions in part.findings:
            rows = part.sample if positions is None else part.sample[positions]
            # samples of a table that cannot be read are among those that are in no other segment
            rows = missing if positions is None and not part.usable else rows
            report.problems.append(Problem(file, what, index.named(rows.tolist())))
    if len(twice := np.flatnonzero(copies > 1)):
        report.problems.append(
            Problem(where, f"{len(twice)} samples stand in more than one segment", index.named(twice.tolist()))
        )
    if len(missing) and all(part.usable for part in parts):
        report.remarks.append(
            Problem(where, f"{len(missing)} samples are not extracted yet", index.named(missing.tolist()))
        )


def _guarded(report: Report, where: str, check: Any, *arguments: Any) -> Any:
    """Return what a check returns; an exception it did not foresee becomes a problem, and None is returned."""
    try:
        return check(*arguments)
    except Exception as error:
        report.problems.append(Problem(where, f"cannot be checked: {type(error).__name__}: {error}"))
        return None


def _unexpected_files(report: Report) -> Iterator[Problem]:
    """Yield a problem for each file in a published folder that no manifest names."""
    named, folders = _published(report)
    for folder, open_segment in folders.items():
        for path in _below(report.path, folder, deep=folder.parent.name != "views"):
            if path in named or open_segment or path.name.startswith(TEMPORARY) or path.name == JOURNAL:
                continue
            if path.is_symlink():
                continue  # a problem of its own, see _links
            yield Problem(path.relative_to(report.path).as_posix(), "not named by any manifest")


def _published(report: Report) -> tuple[set[Path], dict[Path, bool]]:
    """Return the published files, and published folder -> whether a writer still has a journal in it.

    Of a segment that is published only as the owner of borrowed data, no other file is looked at.
    """
    named: set[Path] = set()
    folders: dict[Path, bool] = {}
    for name in (*map(layout.index_path, report.manifest.datasets), *map(layout.view_path, report.manifest.views)):
        folders[report.path / name] = False
    for view, entry in report.manifest.segments:
        folder = report.path / layout.segment_path(view, entry.id)
        folders[folder] = (folder / JOURNAL).exists()
    for name, files in report.manifest.needed.items():
        named |= {report.path / name / file for file in files}
    return named, folders


def _below(root: Path, folder: Path, deep: bool) -> list[Path]:
    """Return everything in a folder but folders, without following links; with `deep`, at every depth."""
    try:
        if deep:
            return [
                path for path, about in local_files.tree(root, folder) if path != folder and not S_ISDIR(about.st_mode)
            ]
        below = {path.name for path in local_files.folders(root, folder)}
        return [folder / name for name in local_files.listed(root, folder) if name not in below]
    except (StoreError, OSError):
        return []  # a link or a file in its place, which is a problem already


def _listed(folder: Path, root: Path) -> list[str]:
    """Return the names in a folder; none where a link or a file is in its place."""
    try:
        return local_files.listed(root, folder)
    except (StoreError, OSError):
        return []


def _links(report: Report) -> Iterator[Problem]:
    """Yield a problem for each link among the files of a store: everything behind it counts as missing."""
    for top in ("zarr.json", "index", "views", "manifests", "tags"):
        try:
            for path, about in local_files.tree(report.path, report.path / top):
                below = path.relative_to(report.path).parts
                if S_ISLNK(about.st_mode) and not any(name.startswith(TEMPORARY) for name in below):
                    yield Problem("/".join(below), LINK)
        except (StoreError, OSError) as error:
            yield Problem(top, f"cannot be listed: {reason(error)}")


def _unnamed_segments(report: Report) -> Iterator[Problem]:
    """Yield a problem for each whole segment without a writer that no generation names: its manifest is gone."""
    folders = []
    with suppress(StoreError):
        views = local_files.folders(report.path, report.path / "views")
        for view in views:
            with suppress(StoreError):
                folders += [p for p in local_files.folders(report.path, view / "seg") if limits.is_segment(p.name)]
    named = _ever_named(report)
    for folder in folders:
        if (folder.parent.parent.name, folder.name) in named or (folder / JOURNAL).exists():
            continue
        where = folder.relative_to(report.path).as_posix()
        try:
            about = limits.read_json(folder / "zarr.json")["attributes"]
            index = report.indices.get(about["dataset"])
            rows = limits.read_json(folder / "sample" / "zarr.json")["shape"][0]
            yield Problem(where, f"holds {rows} samples, and no generation names it", _ids_in(folder, index))
        except READ_ERRORS:
            report.remarks.append(Problem(where, "is half a segment without a writer"))


def _ids_in(folder: Path, index: CheckedIndex | None) -> tuple[str, ...]:
    from msa.cache.format.layout import read_array

    rows = read_array(folder / "sample").tolist()
    return index.named(rows) if index else tuple(f"row {row}" for row in rows)


def _ever_named(report: Report) -> set[tuple[str, str]]:
    """Return (view, segment) of everything that any generation names, also one that was published a moment ago."""
    named: set[tuple[str, str]] = set()
    for path in (report.path / "manifests" / name for name in _listed(report.path / "manifests", report.path)):
        number = _GENERATION.fullmatch(path.name)
        if number is None or int(number[1]) in report.damaged:
            continue
        try:
            for view, entry in Manifest.decode(path, limits.read_bytes(path, limits.MAX_JSON)).segments:
                named |= {(view, entry.id), (view, entry.data_id)}
        except READ_ERRORS:
            continue  # a problem already
    return named
