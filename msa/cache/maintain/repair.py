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
from msa.cache.maintain.verify import LINK, Report, report
from msa.cache.write import reuse, segment
from msa.cache.write.segment import Form, Row, SegmentWriter
from msa.errors import MsaError, StoreError
from msa.names import shell_command
from msa.progress import Progress


@dataclass
class Change:
    """What becomes of one segment: `kept` (m,) bool stay where they are, `moved` (m,) are copied to a new one.

    `entry` is what a manifest shall say instead where nothing has to be written; `old` is False for a segment that is
    in no manifest.
    """

    part: CheckedSegment
    kept: np.ndarray
    moved: np.ndarray
    entry: SegmentEntry | None = None
    old: bool = True


@dataclass
class Plan:
    """What can be done about what was found. `steps` say it; `dropped` holds corpus and view of samples to come."""

    report: Report
    steps: list[Problem] = field(default_factory=list)
    groups: dict[Path, bytes] = field(default_factory=dict)  # zarr.json files that are written again
    aside: list[Path] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    datasets: dict[str, DatasetEntry] = field(default_factory=dict)  # entries that take the place of older ones
    views: dict[str, Files] = field(default_factory=dict)  # the same: their `files`
    lost_views: set[str] = field(default_factory=set)
    lost_datasets: set[str] = field(default_factory=set)  # whose index has to be made again
    commands: list[str] = field(default_factory=list)

    @property
    def publishes(self) -> bool:
        """Does it need a new generation?"""
        newest = max(self.report.damaged, default=0) > self.report.generation
        return bool(self.changes or self.datasets or self.views or self.lost_views or newest)


def plan(path: Path, progress: Progress = Progress(), corpora: Sequence[str] | None = None) -> Plan:
    """Examine a store to the last number and say what would be done about every fault.

    `corpora` are the names `msa extract` knows, where that is known: what bears another name was somebody's own table.
    """
    return _plan(report(path, deep=True, progress=progress), corpora)


def carry_out(found: Plan, progress: Progress = Progress()) -> Report:
    """Do it, and examine what is there then. Raises StoreError where the store cannot be written."""
    path = found.report.path
    if links := [path / problem.where for problem in found.report.problems if problem.what == LINK]:
        for link in links:
            _set_aside(path, link)
        found = _plan(report(path, deep=True, progress=progress), None)  # of what is really there
    for file, data in found.groups.items():
        local_files.make_folder(path, file.parent)
        local_files.write(path, file, data)
    if found.publishes:
        _publish(found)
    for file in found.aside:
        _set_aside(path, file)
    return report(path, deep=True, progress=progress)


def _plan(found: Report, corpora: Sequence[str] | None) -> Plan:
    made = Plan(found)
    _groups(made)
    _manifests(made)
    _datasets(made)
    _views(made)
    _segments(made)
    for problem in found.problems:
        if problem.what in ("not named by any manifest", LINK) or problem.where.startswith("tags/"):
            made.aside.append(found.path / problem.where)
            made.steps.append(Problem(problem.where, "is set aside"))
    made.commands = list(_commands(made, corpora))
    return made


def _groups(made: Plan) -> None:
    """The groups around everything have no content of their own."""
    for problem in made.report.problems:
        if problem.where in ("zarr.json", "index/zarr.json", "views/zarr.json"):
            if "msa_format" in problem.what:
                raise StoreError(
                    f"{made.report.path}: {problem}", fix="repair it with the version of msa that wrote it"
                )
            attributes = {"msa_format": layout.FORMAT} if problem.where == "zarr.json" else {}
            made.groups[made.report.path / problem.where] = json.dumps(layout.group_metadata(attributes)).encode()
            made.steps.append(Problem(problem.where, "is written again"))


def _manifests(made: Plan) -> None:
    for number, what in made.report.damaged.items():
        path = made.report.path / layout.manifest_path(number)
        made.aside.append(path)
        newest = number > made.report.generation
        again = f"generation {made.report.generation} is published again, with what came after it"
        again = again if made.report.generation else "what is whole on the disk is published again"
        then = f"; {again}" if newest else ""
        made.steps.append(Problem(f"manifests/{path.name}", f"{what}: it is set aside{then}"))


def _datasets(made: Plan) -> None:
    """An index is named after its contents: where these are proved, so is it, whatever its files are said to be."""
    for dataset, of in made.report.corpora.items():
        if not of.problems:
            continue
        where = layout.index_path(dataset)
        folder = made.report.path / where
        everyone = of.named(range(of.n))
        try:
            proved = Index.read(folder).fingerprint == dataset
        except READ_ERRORS:
            proved = False
        if proved:
            made.datasets[dataset] = DatasetEntry(of.name, of.n, segment.files(made.report.path, folder))
            made.steps.append(Problem(where, "still is what its name, a hash of its contents, says: accepted as it is"))
        else:
            made.lost_datasets.add(dataset)
            what = "is missing"
            if os.path.lexists(folder):
                made.aside.append(folder)
                what = "is set aside"
            made.steps.append(
                Problem(where, f"{what}; its hidden states stay, and fit it once it is made again", everyone)
            )


def _views(made: Plan) -> None:
    for view, what in made.report.views.items():
        path = made.report.path / layout.view_path(view) / "zarr.json"
        where = f"{layout.view_path(view)}/zarr.json"
        try:
            about = limits.read_json(path)["attributes"]
            proved = fingerprint.key(about["identity"]) == view and about["dim"] > 0 and bool(about["modality"])
        except READ_ERRORS:
            proved = False
        if proved:
            made.views[view] = {"zarr.json": FileEntry(path.stat().st_size, limits.sha256(path))}
            made.steps.append(
                Problem(where, "still holds the identity its name, a hash of it, says: accepted as it is")
            )
        else:
            made.lost_views.add(view)
            if path.exists():
                made.aside.append(path)
            made.steps.append(Problem(where, f"{what}: without it the view means nothing, and all of it is dropped"))


def _segments(made: Plan) -> None:
    """Of every view and corpus: what each segment keeps, and what no manifest names although it is whole."""
    found = made.report
    seen: dict[tuple[str, str], set[int]] = {}
    for part in found.segments:
        if part.view in made.lost_views:
            made.changes.append(Change(part, np.zeros(len(part.sample), bool), np.zeros(len(part.sample), bool)))
            continue
        _one(made, part, seen.setdefault((part.view, part.entry.dataset), set()), old=True)
    for where in [p.where for p in found.problems if p.what.endswith("no generation names it")]:
        folder = found.path / where
        orphan = _adoptable(made, folder)
        if orphan is not None:
            _one(made, orphan, seen.setdefault((orphan.view, orphan.entry.dataset), set()), old=False)
            if made.changes and made.changes[-1].part is orphan:
                continue
        made.aside.append(folder)
        made.steps.append(Problem(where, "is set aside: nothing in it is missing elsewhere"))


def _one(made: Plan, part: CheckedSegment, seen: set[int], old: bool) -> None:
    root = made.report.path
    where = layout.segment_path(part.view, part.entry.id)
    good = ~part.lost & ~np.isin(part.sample, list(seen))
    if part.attributes is None and part.usable and part.counts.size:
        good &= ~part.counts.any(1)  # what was counted has lost its name
    if part.usable and not part.shard_rows:
        good[:] = False
    seen.update(part.sample[good].tolist())
    if old and not part.findings and good.all() and part.usable:
        return
    if not old and not good.any():
        return
    in_bad = np.isin(part.start // max(part.shard_rows, 1), list(part.damaged_shards)) if part.usable else good
    change = Change(part, good & ~in_bad, good & in_bad, old=old)
    home = {where, f"{where}/zarr.json"}
    if good.all() and part.usable and part.attributes is not None and {one[0] for one in part.findings} <= home:
        own = root / where / "zarr.json"
        change.entry = replace(
            part.entry,
            samples=len(part.sample),
            failed=min(part.entry.failed, len(part.attributes.failures)),
            files={**part.entry.files, "zarr.json": FileEntry(own.stat().st_size, limits.sha256(own))},
        )
    made.changes.append(change)
    of = made.report.corpora.get(part.entry.dataset, CheckedIndex("", 0))
    gone = part.sample[~good] if part.usable else np.zeros(0, np.int64)
    said = [f"{int(change.kept.sum())} samples stay"]
    if change.moved.any():
        said.append(f"{int(change.moved.sum())} are copied out of damaged shards")
    dropped = len(gone) if part.usable else part.entry.samples
    said.append(f"{dropped} are dropped")
    made.steps.append(Problem(where, ", ".join(said), of.named(gone.tolist())))


def _adoptable(made: Plan, folder: Path) -> CheckedSegment | None:
    """A whole segment whose manifest is gone, as if one named it."""
    found, view = made.report, folder.parent.parent.name
    try:
        entry = segment.describe(folder)
        attributes = limits.read_json(found.path / layout.view_path(view) / "zarr.json")["attributes"]
        if view not in found.manifest.views:
            if fingerprint.key(attributes["identity"]) != view:
                return None
            about = found.path / layout.view_path(view) / "zarr.json"
            made.views[view] = {"zarr.json": FileEntry(about.stat().st_size, limits.sha256(about))}
        dataset = entry.dataset
        if dataset not in found.corpora:
            home = found.path / layout.index_path(dataset)
            index = Index.read(home)
            known = DatasetEntry(index.name, len(index), segment.files(found.path, home))
            of = check_index(found.path, dataset, known)
            if of.problems:
                return None
            found.corpora[dataset] = of
            made.datasets[dataset] = known
            made.steps.append(Problem(layout.index_path(dataset), f"{index.name} is published again"))
        return check_segment(found.path, view, attributes, entry, found.corpora[dataset], deep=True)
    except READ_ERRORS:
        return None


def _publish(made: Plan) -> None:
    """Write the segments that take the place of damaged ones, and a generation that names them."""
    ready = [(change, _written(made, change)) for change in made.changes]

    def change(new: Manifest) -> Manifest:
        number = new.generation + 1
        for dataset, entry in made.datasets.items():
            old = new.datasets.get(dataset, replace(entry, published=number))
            new = new.with_dataset(dataset, replace(old, name=entry.name, samples=entry.samples, files=entry.files))
        for view, files in made.views.items():
            new = new.with_view(view, replace(new.views.get(view, ViewEntry(files, published=number)), files=files))
        for one, entries in ready:
            segments = list(new.segments_of(one.part.view))
            ids = [segment.id for segment in segments]
            if one.part.entry.id in ids:
                at = ids.index(one.part.entry.id)
                segments[at : at + 1] = entries
            elif not one.old:
                segments += entries
            if one.part.view in new.views:
                new = new.with_segments(one.part.view, segments)
        return replace(new, views={view: entry for view, entry in new.views.items() if entry.segments})

    note = "repaired"
    if max(made.report.damaged, default=0) > made.report.generation:
        _publish_past(made, change, note)
    else:
        generations.publish(made.report.path, change, note)
    for one, entries in ready:
        for entry in entries:
            folder = made.report.path / layout.segment_path(one.part.view, entry.id)
            segment.close(folder)


def _publish_past(made: Plan, change: Callable[[Manifest], Manifest], note: str) -> None:
    """Publish what follows from the newest generation that can be read, under a number nobody has had."""
    place = generations.place(made.report.path)
    while True:
        number = max([*place.numbers(), *made.report.damaged])
        new = change(replace(made.report.manifest, generation=number))
        if place.create(number + 1, generations.stamped(new, number + 1, note).encode()):
            return


def _written(made: Plan, change: Change) -> list[SegmentEntry]:
    """The entries that take the place of a segment's, written where they have to be."""
    if change.entry is not None:
        return [change.entry]
    part, root = change.part, made.report.path
    failures = part.attributes.failures if part.attributes and part.entry.failed else []
    found = []
    if change.kept.any():
        found.append(_lent(root, part, change.kept, failures))
        failures = []
    if change.moved.any() or (failures and part.view not in made.lost_views):
        found += _copied(root, part, change.moved, failures)
    return found


def _lent(root: Path, part: CheckedSegment, kept: np.ndarray, failures: Sequence[Any]) -> SegmentEntry:
    """A segment without data of its own, for the samples whose shards are whole."""
    parent = root / layout.segments_path(part.view)
    attributes = SegmentAttributes(part.entry.dataset, _run(part), failures)
    made = reuse.lend(parent, part.entry, _rows(part, kept), attributes)
    local_files.sync(root, parent)
    first, last = part.start[kept] // part.shard_rows, (part.start + part.length - 1)[kept] // part.shard_rows
    needed = {int(n) for n in np.r_[first, last]}
    known = made.data_files.items()
    files = {name: facts for name, facts in known if name == "data/zarr.json" or shard_number(name) in needed}
    return replace(made, data_files=files)


def _copied(root: Path, part: CheckedSegment, moved: np.ndarray, failures: Sequence[Any]) -> list[SegmentEntry]:
    """A new segment of samples that still match their checksums, although their shard is damaged elsewhere."""
    about = limits.read_json(root / layout.view_path(part.view) / "zarr.json")["attributes"]
    parent = root / layout.segments_path(part.view)
    form = Form.of(about["dim"], about.get("dtype", "float16"))
    writer = SegmentWriter(parent / segment.new_name(), part.entry.dataset, form, _run(part))
    owner = parent / part.entry.data_id
    rows = dict(zip(np.flatnonzero(moved).tolist(), _rows(part, moved), strict=True))
    for position, states in sound_states(owner / "data", part, moved):
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


def _rows(part: CheckedSegment, chosen: np.ndarray) -> list[Row]:
    names = part.attributes.counted if part.attributes else []
    found = []
    for at in np.flatnonzero(chosen).tolist():
        numbers = part.counts[at].tolist() if names else []
        counts = {name: n for name, n in zip(names, numbers, strict=True) if n}
        place = int(part.sample[at]), int(part.start[at]), int(part.length[at])
        found.append(Row(*place, part.digest[at].tobytes().hex(), counts))
    return found


def _run(part: CheckedSegment) -> dict[str, Any]:
    return dict(part.attributes.run) if part.attributes else {}


def _set_aside(root: Path, path: Path) -> None:
    """Give it a temporary name: nothing reads it any more, and nothing is lost."""
    with suppress(FileNotFoundError):
        local_files.rename(root, path, path.with_name(f"{TEMPORARY}aside-{uuid.uuid4().hex[:8]}-{path.name[:50]}"))
        local_files.sync(root, path.parent)


def _commands(made: Plan, corpora: Sequence[str] | None) -> Iterator[str]:
    """What brings back what is dropped: a command per corpus."""
    wanted: dict[str, dict[str, str]] = {}
    imported: list[str] = []
    in_store = set()  # corpora that were imported, whose texts are nowhere else
    dropping = [c.part for c in made.changes if not (c.part.usable and bool((c.kept | c.moved).all()))]
    of_lost = [part for part in made.report.segments if part.entry.dataset in made.lost_datasets]
    for part in [*dropping, *of_lost]:
        known_dataset = made.report.manifest.datasets.get(part.entry.dataset)
        name = known_dataset.name if known_dataset else "?"
        if _origin(made, part.entry.dataset):
            in_store.add(name)
        try:
            about = limits.read_json(made.report.path / layout.view_path(part.view) / "zarr.json")["attributes"]
            if known := about["identity"].get("imported"):
                into = ["--name", name, "--store", made.report.path]
                told = shell_command("msa", "cache", "import", known, "FILE", *into)
                imported.append(f"{told}  # {shell_command(about['source'])}")
            else:
                wanted.setdefault(name, {})[about["modality"]] = _backbone(about)
        except (MsaError, *READ_ERRORS):
            wanted.setdefault(name, {})
    for dataset in made.lost_datasets - {part.entry.dataset for part in of_lost}:
        wanted.setdefault(made.report.corpora[dataset].name, {})
    for name, backbones in wanted.items():
        of_each = [word for m in ("text", "image", "audio", "face") for word in (f"--{m}", backbones.get(m, "none"))]
        rest = [*(of_each if backbones else ()), "--store", made.report.path]
        if corpora is None or name in corpora or name in in_store:
            yield shell_command("msa", "extract", "--dataset", name, *rest)
        else:
            told = shell_command("msa", "extract", "--dataset", "table", "--root", "FILE", *rest)
            yield f"{told}  # FILE: the table that {shell_command(name)} was read from"
    yield from dict.fromkeys(imported)


def _origin(made: Plan, dataset: str) -> str:
    """The foreign format a corpus was imported from; empty where it was not, or nobody can tell any more."""
    try:
        about = limits.read_json(made.report.path / layout.index_path(dataset) / "zarr.json")["attributes"]["about"]
        return str(about.get("origin", ""))
    except READ_ERRORS:
        return ""


def _backbone(about: Mapping[str, Any]) -> str:
    """How the command line calls the backbone of a view."""
    weights = about.get("weights", {})
    free = re.match(r"(hf|timm):", about["backbone"])
    return str(weights.get("name") or about["backbone"]) if free else str(about["backbone"])
