"""Recovery: take over what killed writers committed and did not publish."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msa.cache.format import layout, limits, local_files
from msa.cache.format.attributes import of_view
from msa.cache.format.manifest import Manifest, SegmentEntry
from msa.cache.write import heartbeat, journal, liveness
from msa.cache.write.journal import Journal
from msa.cache.write.liveness import SILENT_AFTER_S, whoami
from msa.cache.write.segment import JOURNAL, Form, describe, new_name, seal
from msa.errors import StoreError
from msa.names import printable

CLAIM = ".claim"  # folders of segments that are being taken over: .claim~HOST@BOOT~PID~STARTED~NAME


def adopt(store: Path, view_id: str, newest: Callable[[], Manifest]) -> list[SegmentEntry]:
    """Seal what dead writers left in a view and return the manifest entries.

    A segment is claimed by renaming its folder to one that names the claimant, which succeeds for one of
    several. The manifest, `newest`, is read before and after: a dask worker may have died after sealing, and the driver
    publishes that segment. Shards whose journal line is missing are discarded: their samples are not there yet.

    Raises StoreError where a journal or a folder is not as msa writes it; nothing of it is touched then.
    """
    entries: list[SegmentEntry] = []
    parent = store / layout.segments_path(view_id)
    if not local_files.lstat(store, parent.parent / "zarr.json"):
        return entries  # set aside by a repair: the next run writes it again, and the one after takes this over
    folders = list(left(store, view_id))
    now = heartbeat.time_of(store) if folders else None
    for folder in folders:
        if alive(folder, now) or not os.access(folder, os.W_OK):
            continue
        if folder.name in _published(newest(), view_id):
            local_files.remove(store, folder / JOURNAL, missing_ok=True)  # killed between publishing and tidying up
            continue
        try:
            check(store, folder, newest())
            claimed = parent / _claim(new_name())
            local_files.rename(store, folder, claimed)
        except (FileNotFoundError, PermissionError):
            continue  # another run was faster, or it belongs to a user who lets no other touch it
        if folder.name in _published(newest(), view_id):
            local_files.rename(store, claimed, folder)
            local_files.remove(store, folder / JOURNAL, missing_ok=True)
            continue
        try:
            local_files.touch(store, claimed / JOURNAL)  # it dates from the claim for others, not from the dead writer
            entries += _finished(store, claimed, parent / claimed.name.rpartition("~")[2])
        except FileNotFoundError:
            if local_files.lstat(store, claimed):
                raise  # else this process was suspended for so long that another one has claimed it
    return entries


def _finished(store: Path, claimed: Path, final: Path) -> list[SegmentEntry]:
    """Seal a claimed segment under its new name; return its entry, or nothing where nothing was committed."""
    with heartbeat.kept(
        store, claimed / JOURNAL
    ):  # hashing may take longer than the silence after which a writer counts as dead
        _take_over(store, claimed / JOURNAL)
        _discard_uncommitted(store, claimed)
        if seal(claimed) is None:
            return []
        heartbeat.keep(final / JOURNAL)  # until it is published
        local_files.rename(store, claimed, final)
    return [describe(final)]


def left(store: Path, view_id: str | None = None) -> Iterator[Path]:
    """Yield the segments that have a journal, of one view or of all: of living writers, of dead ones, and claims."""
    views = local_files.folders(store, store / "views") if view_id is None else [store / layout.view_path(view_id)]
    for view in views:
        if not limits.is_id(view.name):
            continue
        for folder in local_files.folders(store, view / "seg"):
            if is_segment(folder.name) and local_files.lstat(store, folder / JOURNAL):
                yield folder


def is_segment(name: str) -> bool:
    """Return whether a folder may be a segment by its name: one of ours, or one that is being taken over."""
    return limits.is_segment(name) or name.startswith(f"{CLAIM}~")


def _published(newest: Manifest, view_id: str) -> set[str]:
    return {segment.id for segment in newest.segments_of(view_id)}


def check(store: Path, folder: Path, newest: Manifest) -> None:
    """Raise StoreError where a segment that is to be taken over would damage the store, or leads out of it."""
    local_files.refuse_links(store, folder)
    noted = Journal.read(folder)
    if noted is None or "form" not in noted.header:
        return  # nothing was committed: sealing removes it
    about, form = of_view(folder.parents[1] / "zarr.json"), Form(**noted.header["form"])
    if (form.width, form.dtype) != (about["dim"], about.get("dtype", form.dtype)):
        what = f"holds {form.dtype} of width {form.width}, the view {about.get('dtype', 'float16')} of {about['dim']}"
    else:
        known = newest.datasets.get(noted.header["dataset"])
        samples = known.samples if known else limits.MAX_SAMPLES
        rows = [row.sample for row in noted.samples] + [failure["sample"] for failure in noted.failures]
        if max(rows, default=0) < samples:
            return
        what = f"has sample {max(rows)} of a dataset of {samples}"
    raise StoreError(
        f"{folder / JOURNAL} {what}",
        fix=f"remove {folder}: nothing in it is published, and its samples are extracted again",
    )


def alive(folder: Path, now: float | None) -> bool:
    """Return whether the owner of a segment is alive: the claimant in its name, or else the writer of its journal.

    `now` is the time by the clock of the disk (see heartbeat.py). Without it no process that cannot be seen is dead.
    """
    return dead_in(folder, now) > 0


def dead_in(folder: Path, now: float | None) -> float:
    """Return after how many more seconds of silence the owner of a segment counts as dead; 0 if dead, inf if alive."""
    try:
        with open(limits.open_regular(folder / JOURNAL), "rb") as file:
            touched, line = os.fstat(file.fileno()).st_mtime, file.readline(journal.MAX_HEADER)
    except (OSError, StoreError):
        return float("inf")  # claimed by another process this very moment, or unreadable for this user
    silent_s = now - touched if now is not None else -float("inf")
    try:
        return liveness.dead_in(_owner(folder, line), silent_s)
    except (StoreError, ValueError, KeyError, TypeError, OverflowError):
        return max(0.0, SILENT_AFTER_S - silent_s)  # torn by a power cut: there is no other sign of life


def silent(store: Path, view_id: str | None = None) -> list[str]:
    """Return a line for each writer that may be dead, of a view or of all: when its work will be taken over."""
    now = heartbeat.time_of(store)
    lines = []
    for folder in left(store, view_id) if now is not None else ():
        seconds = dead_in(folder, now)
        if not 0 < seconds <= liveness.SILENT_AFTER_S - liveness.QUIET_S:
            continue
        try:
            noted = Journal.read(folder)
        except (OSError, StoreError):
            continue  # what is wrong with it is said where it is taken over
        if noted and noted.samples:
            writer = noted.header.get("writer")
            host = writer.get("host") if isinstance(writer, dict) else None
            lines.append(
                f"a run on {printable(str(host or 'another machine'))} has been silent lately; if it is dead, "
                f"the {len(noted.samples)} samples it committed are taken over in {math.ceil(seconds / 60)} min; "
                "what begins before then extracts them again"
            )
    return lines


def _owner(folder: Path, header: bytes) -> Any:
    """Return the owner of a segment. A claimant is named by the folder first, and then in the journal."""
    if not folder.name.startswith(f"{CLAIM}~"):
        return limits.parse(folder / JOURNAL, header)["writer"]
    _, where, pid, started, _ = folder.name.split("~")
    host, _, boot = where.partition("@")
    named = {"host": host, "boot": boot, "pid": pid, "started": started}
    try:
        written = limits.parse(folder / JOURNAL, header)["writer"]
        same = all(str(written[key]) == named[key] for key in ("host", "boot", "pid"))
    except (StoreError, KeyError, TypeError):
        return named
    return written if same else named


def _take_over(store: Path, path: Path) -> None:
    """Replace the dead writer in the header by this process, which then owns the segment until it is published."""
    if (header := journal.header(path)) is None:
        return  # nothing was ever committed here: sealing removes it
    _, _, rest = limits.read_bytes(path, journal.MAX_BYTES).partition(b"\n")
    local_files.write(store, path, json.dumps(header | {"writer": whoami()}).encode() + b"\n", rest)


def _claim(name: str) -> str:
    me = whoami()
    return f"{CLAIM}~{me['host']}@{me.get('boot', '')}~{me['pid']}~{me['started']:.2f}~{name}"


def _discard_uncommitted(store: Path, folder: Path) -> None:
    """Remove all but the journal and the shards it commits; what else a segment holds is written again from these."""
    noted = Journal.read(folder)
    shards = {str(number): line["sha256"] for number, line in noted.shards.items()} if noted else {}
    data = folder / "data"
    keep = [(folder, {JOURNAL, "data"}), (data, {"c"}), (data / "c", {*shards})]
    for parent, names in [*keep, *((data / "c" / number, {"0"}) for number in shards)]:
        for name in set(local_files.listed(store, parent)) - names:
            local_files.remove(store, parent / name, missing_ok=True)
    for number, digest in shards.items():
        path = data / "c" / number / "0"
        try:
            same = limits.sha256(path) == digest
        except FileNotFoundError:
            same = False
        if not same:
            raise StoreError(
                f"{path} was committed with SHA-256 {digest[:12]}… and has changed since",
                fix=f"the disk may be failing; remove {folder} to extract its samples again",
            )
