"""Repair a store: keep what is whole, drop exactly the samples that are damaged.

`plan` says what would be done and changes nothing; `carry_out` does it. What remains is published as a new generation;
nothing is deleted: a damaged file gets a temporary name, which `msa cache gc` removes one day. The next `msa extract`
computes the dropped samples, and only those. No damaged byte is restored: docs/decisions/0011-no-bit-restoration.md.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import fingerprint, generations, layout, limits, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.format.files import TEMPORARY
from msa.cache.format.manifest import DatasetEntry, FileEntry, Files, Manifest, SegmentEntry, ViewEntry
from msa.cache.index import Index
from msa.cache.maintain.check_index import READ_ERRORS, CheckedIndex, Problem, check_index
from msa.cache.maintain.check_segment import CheckedSegment, check_segment, shard_number, sound_states
from msa.cache.maintain.verify import LINK, Report, check_store
from msa.cache.write import reuse, segment
from msa.cache.write.journal import Row
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import MsaError, StoreError
from msa.names import shell_command
from msa.progress import Progress


@dataclass
class Change:
    """What becomes of one segment of m samples; samples that are neither kept nor moved are dropped."""

    segment: CheckedSegment
    kept: np.ndarray  # (m,) bool: samples whose data stays where it is
    moved: np.ndarray  # (m,) bool: samples that are copied to a new segment
    entry: SegmentEntry | None = None  # replaces the one in the manifest, where nothing has to be written
    published: bool = True  # a manifest names the segment


@dataclass
class Plan:
    """What a repair will do. `steps` say it for people, `commands` bring back what is dropped or missing."""

    report: Report
    steps: list[Problem] = field(default_factory=list)
    groups: dict[Path, bytes] = field(default_factory=dict)  # zarr.json files that are written again
    aside: list[Path] = field(default_factory=list)  # files and folders that get a temporary name
    changes: list[Change] = field(default_factory=list)
    datasets: dict[str, DatasetEntry] = field(default_factory=dict)  # entries to publish
    views: dict[str, Files] = field(default_factory=dict)  # `files` of views to publish
    lost_views: set[str] = field(default_factory=set)
    lost_datasets: set[str] = field(default_factory=set)  # their index has to be written again by `msa extract`
    commands: list[str] = field(default_factory=list)

    @property
    def publishes(self) -> bool:
        """Whether a new generation is needed."""
        newest = max(self.report.damaged, default=0) > self.report.generation
        return bool(self.changes or self.datasets or self.views or self.lost_views or newest)


def plan(path: Path, progress: Progress = Progress(), known: Sequence[str] | None = None) -> Plan:
    """Check a store in depth and return what would be done about every fault.

    `known` are the names of datasets that `msa extract` has a reader for; others are taken for tables of the user.
    """
    return _plan(check_store(path, deep=True, progress=progress), known)


def carry_out(plan: Plan, progress: Progress = Progress()) -> Report:
    """Carry out a plan and check the store again. Raises StoreError where the store cannot be written."""
    path = plan.report.path
    if links := [path / problem.where for problem in plan.report.problems if problem.what == LINK]:
        for link in links:
            _set_aside(path, link)
        plan = _plan(check_store(path, deep=True, progress=progress), None)  # without what lay behind links
    for file, data in plan.groups.items():
        local_files.make_folder(path, file.parent)
        local_files.write(path, file, data)
    if plan.publishes:
        _publish(plan)
    for file in plan.aside:
        _set_aside(path, file)
    return check_store(path, deep=True, progress=progress)


def _plan(report: Report, known: Sequence[str] | None) -> Plan:
    plan = Plan(report)
    _groups(plan)
    _manifests(plan)
    _datasets(plan)
    _views(plan)
    _segments(plan)
    for problem in report.problems:
        if problem.what in ("not named by any manifest", LINK) or problem.where.startswith("tags/"):
            plan.aside.append(report.path / problem.where)
            plan.steps.append(Problem(problem.where, "is set aside"))
    plan.commands = list(_commands(plan, known))
    return plan


def _groups(plan: Plan) -> None:
    """Plan to write damaged Zarr groups again: they have no content of their own."""
    for problem in plan.report.problems:
        if problem.where in ("zarr.json", "index/zarr.json", "views/zarr.json"):
            if "msa_format" in problem.what:
                raise StoreError(
                    f"{plan.report.path}: {problem}", fix="repair it with the version of msa that wrote it"
                )
            attributes = {"msa_format": layout.FORMAT} if problem.where == "zarr.json" else {}
            plan.groups[plan.report.path / problem.where] = json.dumps(layout.group_metadata(attributes)).encode()
            plan.steps.append(Problem(problem.where, "is written again"))


def _manifests(plan: Plan) -> None:
    """Plan to set damaged manifests aside."""
    for number, what in plan.report.damaged.items():
        path = plan.report.path / layout.manifest_path(number)
        plan.aside.append(path)
        newest = number > plan.report.generation
        again = f"generation {plan.report.generation} is published again, with what came after it"
        again = again if plan.report.generation else "what is whole on the disk is published again"
        then = f"; {again}" if newest else ""
        plan.steps.append(Problem(f"manifests/{path.name}", f"{what}: it is set aside{then}"))


def _datasets(plan: Plan) -> None:
    """Plan to accept a damaged index whose contents still have its fingerprint, and to set others aside."""
    for dataset, index in plan.report.indices.items():
        if not index.problems:
            continue
        where = layout.index_path(dataset)
        folder = plan.report.path / where
        ids = index.named(range(index.n))
        try:
            proved = Index.read(folder).fingerprint == dataset
        except READ_ERRORS:
            proved = False
        if proved:
            plan.datasets[dataset] = DatasetEntry(index.name, index.n, segment.files(plan.report.path, folder))
            plan.steps.append(Problem(where, "its contents still have its fingerprint: accepted as it is"))
        else:
            plan.lost_datasets.add(dataset)
            what = "is missing"
            if os.path.lexists(folder):
                plan.aside.append(folder)
                what = "is set aside"
            plan.steps.append(
                Problem(where, f"{what}; its hidden states stay, and are used once it is extracted again", ids)
            )


def _views(plan: Plan) -> None:
    """Plan to accept damaged attributes of a view whose identity still has its id, and to drop other views."""
    for view, what in plan.report.views.items():
        path = plan.report.path / layout.view_path(view) / "zarr.json"
        where = f"{layout.view_path(view)}/zarr.json"
        try:
            about = limits.read_json(path)["attributes"]
            proved = fingerprint.key(about["identity"]) == view and about["dim"] > 0 and bool(about["modality"])
        except READ_ERRORS:
            proved = False
        if proved:
            plan.views[view] = {"zarr.json": FileEntry(path.stat().st_size, limits.sha256(path))}
            plan.steps.append(Problem(where, "its identity still has its id: accepted as it is"))
        else:
            plan.lost_views.add(view)
            if path.exists():
                plan.aside.append(path)
            plan.steps.append(Problem(where, f"{what}: all samples of the view are dropped"))


def _segments(plan: Plan) -> None:
    """Plan what each segment keeps, and which whole segments that no manifest names are published again."""
    report = plan.report
    seen: dict[tuple[str, str], set[int]] = {}
    for segment_ in report.segments:
        if segment_.view in plan.lost_views:
            plan.changes.append(
                Change(segment_, np.zeros(len(segment_.sample), bool), np.zeros(len(segment_.sample), bool))
            )
            continue
        _segment(plan, segment_, seen.setdefault((segment_.view, segment_.entry.dataset), set()), published=True)
    for where in [p.where for p in report.problems if p.what.endswith("no generation names it")]:
        folder = report.path / where
        orphan = _orphan(plan, folder)
        if orphan is not None:
            _segment(plan, orphan, seen.setdefault((orphan.view, orphan.entry.dataset), set()), published=False)
            if plan.changes and plan.changes[-1].segment is orphan:
                continue
        plan.aside.append(folder)
        plan.steps.append(Problem(where, "is set aside: it has no sample that others lack"))


def _segment(plan: Plan, checked: CheckedSegment, seen: set[int], published: bool) -> None:
    """Plan what one segment keeps.

    Args:
        made: Takes the change.
        part: The segment.
        seen: Rows of the dataset that an earlier segment of the view keeps; its own are added.
        published: A manifest names it.
    """
    root = plan.report.path
    where = layout.segment_path(checked.view, checked.entry.id)
    good = ~checked.lost & ~np.isin(checked.sample, list(seen))
    if checked.attributes is None and checked.usable and checked.counts.size:
        good &= ~checked.counts.any(1)  # the names of its counts are lost
    if checked.usable and not checked.shard_rows:
        good[:] = False
    seen.update(checked.sample[good].tolist())
    if published and not checked.findings and good.all() and checked.usable:
        return
    if not published and not good.any():
        return
    in_bad = (
        np.isin(checked.start // max(checked.shard_rows, 1), list(checked.damaged_shards)) if checked.usable else good
    )
    change = Change(checked, good & ~in_bad, good & in_bad, published=published)
    home = {where, f"{where}/zarr.json"}
    if (
        good.all()
        and checked.usable
        and checked.attributes is not None
        and {one[0] for one in checked.findings} <= home
    ):
        own = root / where / "zarr.json"
        change.entry = replace(
            checked.entry,
            samples=len(checked.sample),
            failed=min(checked.entry.failed, len(checked.attributes.failures)),
            files={**checked.entry.files, "zarr.json": FileEntry(own.stat().st_size, limits.sha256(own))},
        )
    plan.changes.append(change)
    index = plan.report.indices.get(checked.entry.dataset, CheckedIndex("", 0))
    dropped_rows = checked.sample[~good] if checked.usable else np.zeros(0, np.int64)
    words = [f"{int(change.kept.sum())} samples stay"]
    if change.moved.any():
        words.append(f"{int(change.moved.sum())} are copied out of damaged shards")
    dropped = len(dropped_rows) if checked.usable else checked.entry.samples
    words.append(f"{dropped} are dropped")
    plan.steps.append(Problem(where, ", ".join(words), index.named(dropped_rows.tolist())))


def _orphan(plan: Plan, folder: Path) -> CheckedSegment | None:
    """Return a whole segment whose manifest is gone, checked like a published one; None where it is of no use."""
    report, view = plan.report, folder.parent.parent.name
    try:
        entry = segment.describe(folder)
        attributes = limits.read_json(report.path / layout.view_path(view) / "zarr.json")["attributes"]
        if view not in report.manifest.views:
            if fingerprint.key(attributes["identity"]) != view:
                return None
            about = report.path / layout.view_path(view) / "zarr.json"
            plan.views[view] = {"zarr.json": FileEntry(about.stat().st_size, limits.sha256(about))}
        dataset = entry.dataset
        if dataset not in report.indices:
            index_folder = report.path / layout.index_path(dataset)
            index = Index.read(index_folder)
            dataset_entry = DatasetEntry(index.name, len(index), segment.files(report.path, index_folder))
            checked = check_index(report.path, dataset, dataset_entry)
            if checked.problems:
                return None
            report.indices[dataset] = checked
            plan.datasets[dataset] = dataset_entry
            plan.steps.append(Problem(layout.index_path(dataset), f"{index.name} is published again"))
        return check_segment(report.path, view, attributes, entry, report.indices[dataset], deep=True)
    except READ_ERRORS:
        return None


def _publish(plan: Plan) -> None:
    """Write the segments that replace damaged ones, and a generation that names them."""
    ready = [(change, _written(plan, change)) for change in plan.changes]

    def change(new: Manifest) -> Manifest:
        number = new.generation + 1
        for dataset, entry in plan.datasets.items():
            old = new.datasets.get(dataset, replace(entry, published=number))
            new = new.with_dataset(dataset, replace(old, name=entry.name, samples=entry.samples, files=entry.files))
        for view, files in plan.views.items():
            new = new.with_view(view, replace(new.views.get(view, ViewEntry(files, published=number)), files=files))
        for replaced, entries in ready:
            segments = list(new.segments_of(replaced.segment.view))
            ids = [segment.id for segment in segments]
            if replaced.segment.entry.id in ids:
                at = ids.index(replaced.segment.entry.id)
                segments[at : at + 1] = entries
            elif not replaced.published:
                segments += entries
            if replaced.segment.view in new.views:
                new = new.with_segments(replaced.segment.view, segments)
        return replace(new, views={view: entry for view, entry in new.views.items() if entry.segments})

    note = "repaired"
    if max(plan.report.damaged, default=0) > plan.report.generation:
        _publish_past(plan, change, note)
    else:
        generations.publish(plan.report.path, change, note)
    for replaced, entries in ready:
        for entry in entries:
            folder = plan.report.path / layout.segment_path(replaced.segment.view, entry.id)
            segment.close(folder)


def _publish_past(plan: Plan, change: Callable[[Manifest], Manifest], note: str) -> None:
    """Publish a change of the newest generation that can be read, under a number that was never used."""
    place = generations.place(plan.report.path)
    while True:
        number = max([*place.numbers(), *plan.report.damaged])
        new = change(replace(plan.report.manifest, generation=number))
        if place.create(number + 1, generations.stamped(new, number + 1, note).encode()):
            return


def _written(plan: Plan, change: Change) -> list[SegmentEntry]:
    """Write the segments that replace one, where any has to be written, and return their entries."""
    if change.entry is not None:
        return [change.entry]
    checked, root = change.segment, plan.report.path
    failures = checked.attributes.failures if checked.attributes and checked.entry.failed else []
    entries = []
    if change.kept.any():
        entries.append(_lent(root, checked, change.kept, failures))
        failures = []
    if change.moved.any() or (failures and checked.view not in plan.lost_views):
        entries += _copied(root, checked, change.moved, failures)
    return entries


def _lent(root: Path, checked: CheckedSegment, kept: np.ndarray, failures: Sequence[Any]) -> SegmentEntry:
    """Write a borrowed segment of the samples whose shards are whole."""
    parent = root / layout.segments_path(checked.view)
    attributes = SegmentAttributes(checked.entry.dataset, _run(checked), failures)
    entry = reuse.lend(parent, checked.entry, _rows(checked, kept), attributes)
    local_files.sync(root, parent)
    start, end = checked.start[kept], (checked.start + checked.length)[kept]
    needed = {-1, *(np.r_[start, end - 1] // checked.shard_rows).tolist()}  # -1: data/zarr.json
    return replace(
        entry, data_files={name: of for name, of in entry.data_files.items() if shard_number(name) in needed}
    )


def _copied(root: Path, checked: CheckedSegment, moved: np.ndarray, failures: Sequence[Any]) -> list[SegmentEntry]:
    """Write a segment of the samples of damaged shards whose chunks match their checksums."""
    about = limits.read_json(root / layout.view_path(checked.view) / "zarr.json")["attributes"]
    parent = root / layout.segments_path(checked.view)
    form = Form.of(about["dim"], about.get("dtype", "float16"))
    writer = SegmentWriter(parent / segment.new_name(), checked.entry.dataset, form, _run(checked))
    owner = parent / checked.entry.data_id
    rows = dict(zip(np.flatnonzero(moved).tolist(), _rows(checked, moved), strict=True))
    for position, states in sound_states(owner / "data", checked, moved):
        writer.write(rows[position].sample, bytes.fromhex(rows[position].digest), states, rows[position].counts)
    for failure in failures:
        writer.fail(
            failure["sample"],
            bytes.fromhex(failure["digest"]),
            failure["stage"],
            failure["reason"],
            failure.get("counts"),
        )
    entry = writer.seal()
    return [entry] if entry else []


def _rows(checked: CheckedSegment, chosen: np.ndarray) -> list[Row]:
    """Return what the tables say of `chosen` (m,) samples."""
    names = checked.attributes.counted if checked.attributes else []
    rows = []
    for position in np.flatnonzero(chosen).tolist():
        numbers = checked.counts[position].tolist() if names else []
        counts = {name: n for name, n in zip(names, numbers, strict=True) if n}
        place = int(checked.sample[position]), int(checked.start[position]), int(checked.length[position])
        rows.append(Row(*place, checked.digest[position].tobytes().hex(), counts))
    return rows


def _run(checked: CheckedSegment) -> dict[str, Any]:
    return dict(checked.attributes.run) if checked.attributes else {}


def _set_aside(root: Path, path: Path) -> None:
    """Give a file or folder a temporary name, under which it is not read and not lost."""
    with suppress(FileNotFoundError):
        local_files.rename(root, path, path.with_name(f"{TEMPORARY}aside-{uuid.uuid4().hex[:8]}-{path.name[:50]}"))
        local_files.sync(root, path.parent)


def _commands(plan: Plan, known: Sequence[str] | None) -> Iterator[str]:
    """Yield the commands that bring back what is dropped: one per dataset, and one per imported view."""
    wanted: dict[str, dict[str, str]] = {}
    imported: list[str] = []
    imported_datasets = set()  # `msa extract` finds their texts in the store
    dropping = [c.segment for c in plan.changes if not (c.segment.usable and bool((c.kept | c.moved).all()))]
    of_lost = [checked for checked in plan.report.segments if checked.entry.dataset in plan.lost_datasets]
    for checked in [*dropping, *of_lost]:
        entry = plan.report.manifest.datasets.get(checked.entry.dataset)
        name = entry.name if entry else "?"
        if _origin(plan, checked.entry.dataset):
            imported_datasets.add(name)
        try:
            about = limits.read_json(plan.report.path / layout.view_path(checked.view) / "zarr.json")["attributes"]
            if origin := about["identity"].get("imported"):
                into = ["--name", name, "--store", plan.report.path]
                command = shell_command("msa", "cache", "import", origin, "FILE", *into)
                imported.append(f"{command}  # {shell_command(about['source'])}")
            else:
                wanted.setdefault(name, {})[about["modality"]] = _backbone(about)
        except (MsaError, *READ_ERRORS):
            wanted.setdefault(name, {})
    for dataset in plan.lost_datasets - {checked.entry.dataset for checked in of_lost}:
        wanted.setdefault(plan.report.indices[dataset].name, {})
    for name, backbones in wanted.items():
        of_each = [word for m in ("text", "image", "audio", "face") for word in (f"--{m}", backbones.get(m, "none"))]
        rest = [*(of_each if backbones else ()), "--store", plan.report.path]
        if known is None or name in known or name in imported_datasets:
            yield shell_command("msa", "extract", "--dataset", name, *rest)
        else:
            command = shell_command("msa", "extract", "--dataset", "table", "--root", "FILE", *rest)
            yield f"{command}  # FILE: the table that {shell_command(name)} was read from"
    yield from dict.fromkeys(imported)


def _origin(plan: Plan, dataset: str) -> str:
    """Return the foreign format that a dataset was imported from; empty where it was not, or cannot be read."""
    try:
        about = limits.read_json(plan.report.path / layout.index_path(dataset) / "zarr.json")["attributes"]["about"]
        return str(about.get("origin", ""))
    except READ_ERRORS:
        return ""


def _backbone(about: Mapping[str, Any]) -> str:
    """Return the name of a view's backbone on the command line."""
    weights = about.get("weights", {})
    free = re.match(r"(hf|timm):", about["backbone"])
    return str(weights.get("name") or about["backbone"]) if free else str(about["backbone"])
