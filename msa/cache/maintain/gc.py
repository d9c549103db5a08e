"""`msa cache gc`: delete garbage, which no generation that may still be read needs and no living writer works on.

Kept are the files of the newest generation, of every tagged one, and of every one that was the newest at some moment of
the grace period, because a reader may have opened it then. Kept are the segments of living writers; what killed ones
had committed is published first. Garbage is

    superseded         what only older generations name; their manifests stay, and `msa cache log` says so
    never published    what no generation names, once it is older than the grace period
    unfinished         temporary files and folders of that age

Collecting takes no lock. It gives a folder a temporary name, then reads what is published, and puts back what that
needs; a process that publishes a reference to an old folder (a borrowed segment, a rollback, a tag) checks afterwards
that the folder is there. One of the two always sees the other. A view is never moved, for a writer may begin a segment
in it at any moment: it is emptied from within, and a folder that is not empty any more stays (`_EmptiedView`).
"""

import errno
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG

from msa.cache.format import generations, layout, limits, local_files, tags
from msa.cache.format.files import TEMPORARY
from msa.cache.store import FeatureStore
from msa.cache.write import heartbeat, recovery
from msa.cache.write.journal import Journal
from msa.cache.write.segment import JOURNAL
from msa.errors import ConfigError, MsaError

GRACE = "24h"
FLOOR_S = 900.0  # files touched more recently may be about to be published, however short the grace period is
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Garbage:
    """A file or folder that may be deleted: its path relative to the store, its bytes, and which kind it is."""

    path: str
    nbytes: int
    what: str


@dataclass(frozen=True)
class GcPlan:
    """What collecting would do."""

    kept: Mapping[int, str]  # generation -> why its files stay
    garbage: tuple[Garbage, ...]
    left: Mapping[str, int]  # view -> samples that killed writers had committed
    damaged: tuple[str, ...] = field(default=())  # why segments of killed writers cannot be published

    @property
    def nbytes(self) -> int:
        """Bytes that would be freed."""
        return sum(item.nbytes for item in self.garbage)


def seconds(text: str) -> float:
    """Return the seconds of a duration: `24h`, `7d`, `30m`, `90s` or 0. Raises ConfigError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*|\s*0\s*", text)
    if not match:
        raise ConfigError(f"invalid duration {text!r}", fix="write it as 24h, 7d, 30m or 0")
    return float(match[1]) * UNITS[match[2]] if match[1] else 0.0


def make_plan(store: Path, grace_s: float) -> GcPlan:
    """Find the garbage of a store, and what killed writers left. Changes nothing, also in a store that is read only.

    Raises StoreError where a generation that is kept cannot be read, since it is not known what it needs.
    """
    now = _now(store)
    keeps = kept(store, grace_s, now)
    needed = _needed(store, keeps)
    newest = max(keeps, default=0)  # a generation published since then is not an older one
    older = {number for number in generations.generations(store) if number < newest}
    once = _needed(store, older - keeps.keys(), forgiving=True)
    rules = _Rules(store, now, grace_s, needed, once)
    left, damaged = Counter[str](), []
    for folder in dead(store):
        try:
            recovery.check(store, folder, generations.read(store))
            left[folder.parent.parent.name] += _committed(folder)
        except MsaError as error:  # it stays, for the user to look at
            damaged.append(f"{error.what}; {error.fix}")
        except FileNotFoundError:
            continue  # another run took it over
    return GcPlan(keeps, tuple(rules.garbage()), {view: n for view, n in left.items() if n}, tuple(damaged))


def kept(store: Path, grace_s: float, now: float) -> dict[int, str]:
    """Return generation -> why its files stay: `the newest`, `tag NAME`, or `recent`."""
    known, tagged = generations.generations(store), tags.read(store)
    reasons = {known[-1]: "the newest"} if known else {}
    for name, number in tagged.items():
        reasons[number] = f"{reasons[number]}, tag {name}" if number in reasons else f"tag {name}"
    for number, successor in pairwise(known):
        if number not in reasons and now - _made(store, successor) < grace_s:
            reasons[number] = "recent"
    return dict(sorted(reasons.items()))


def collect(store: FeatureStore, grace_s: float) -> tuple[GcPlan, int]:
    """Publish what killed writers left, then delete the garbage. Return the plan and the bytes freed.

    Raises StoreError where nothing can be written.
    """
    damaged: list[str] = []
    for view_id in sorted({path.parent.parent.name for path in dead(store.path)}):
        if (store.path / layout.view_path(view_id) / "zarr.json").exists():
            try:
                store.recover(view_id)
            except MsaError as error:  # it stays, for the user to look at
                damaged.append(f"{error.what}; {error.fix}")
    plan = make_plan(store.path, grace_s)
    freed = delete(store.path, plan.garbage, grace_s)
    return GcPlan(plan.kept, plan.garbage, plan.left, tuple(dict.fromkeys([*damaged, *plan.damaged]))), freed


def delete(store: Path, garbage: Iterable[Garbage], grace_s: float, touched_before: float | None = None) -> int:
    """Delete garbage, but put back what turns out to be needed; return the bytes freed.

    Args:
        store: The folder.
        garbage: What to delete.
        grace_s: The grace period, in seconds.
        touched_before: Keep indices and views that were touched after this time; default: FLOOR_S ago.
    """
    items = list(garbage)
    limit = _now(store) - FLOOR_S if touched_before is None else touched_before
    with generations.writable(store):
        freed = _delete_unfinished(store, [item for item in items if item.what == "unfinished"])
        for segments in (True, False):  # a view goes after its segments
            away: list[tuple[Garbage, _Moved | _EmptiedView]] = []
            for item in items:
                if item.what != "unfinished" and ("/seg/" in item.path) == segments:
                    taken = _EmptiedView if item.path.startswith("views/") and not segments else _Moved
                    with suppress(FileNotFoundError):  # another process was faster
                        away.append((item, taken(store, store / item.path)))
            needed = _needed(store, kept(store, grace_s, _now(store))) if away else set()
            for item, doomed in away:
                wanted = item.path in needed or not (segments or doomed.touched <= limit)
                if (wanted and doomed.put_back()) or not doomed.destroy():
                    continue
                freed += item.nbytes
    return freed


def delete_now(store: Path, folders: Collection[str]) -> int:
    """Delete those of `folders`, just taken out of the newest generation, that no tag needs; return the bytes freed.

    Readers of an older generation will miss files. What living writers work on stays.
    """
    needed, now = _needed(store, kept(store, 0.0, _now(store))), _now(store)
    rules = _Rules(store, now, 0.0, needed, set(folders), floor_s=0.0)
    return delete(store, [item for item in rules.garbage() if item.path in folders], 0.0, touched_before=now + FLOOR_S)


@dataclass(frozen=True)
class _Rules:
    """Rules for what is garbage: never what is `needed`; what `once` was published sooner than what never was."""

    store: Path
    now: float
    grace_s: float
    needed: Collection[str]
    once: Collection[str]
    floor_s: float = FLOOR_S

    def garbage(self) -> Iterator[Garbage]:
        """Yield all garbage, segments before the views they are in."""
        for room in ("manifests", "tags", "index", "views"):
            yield from self._unfinished(self.store / room)
        for folder in _folders(self.store, self.store / "index", limits.is_id):
            yield from self._unneeded(folder, bool(self._idle_for(folder / "zarr.json")))
        for view in _folders(self.store, self.store / "views", limits.is_id):
            yield from self._unfinished(view)
            yield from self._unfinished(view / "seg")
            all_garbage = []
            for segment in _folders(self.store, view / "seg", recovery.is_segment):
                journaled = local_files.lstat(self.store, segment / JOURNAL)
                if journaled and (
                    local_files.lstat(self.store, view / "zarr.json") or recovery.alive(segment, self.now)
                ):
                    all_garbage.append(False)  # of a living writer, or of a killed one whose samples can be published
                    continue
                yield from self._unfinished(segment, deep=True)
                superseded = list(self._unneeded(segment, idle=True))
                all_garbage.append(bool(superseded))
                yield from superseded
            yield from self._unneeded(view, all(all_garbage) and self._idle_for(view / "zarr.json"))

    def _unneeded(self, folder: Path, idle: bool) -> Iterator[Garbage]:
        path = folder.relative_to(self.store).as_posix()
        if path in self.needed or not idle:
            return
        if path in self.once:
            yield Garbage(path, _bytes(self.store, folder), "superseded")
        elif self.now - _newest(self.store, folder) >= max(self.grace_s, self.floor_s):
            yield Garbage(path, _bytes(self.store, folder), "never published")

    def _unfinished(self, folder: Path, deep: bool = False) -> Iterator[Garbage]:
        names = (folder / name for name in local_files.listed(self.store, folder))
        within = (path for path, _ in local_files.tree(self.store, folder)) if deep else names
        for path in sorted(path for path in within if path.name.startswith(TEMPORARY)):
            if self.now - _newest(self.store, path) >= max(self.grace_s, self.floor_s):
                yield Garbage(path.relative_to(self.store).as_posix(), _bytes(self.store, path), "unfinished")

    def _idle_for(self, path: Path) -> bool:
        return self.now - _newest(self.store, path) >= self.floor_s


def _delete_unfinished(store: Path, garbage: Iterable[Garbage]) -> int:
    freed = 0
    for item in garbage:
        with suppress(FileNotFoundError):
            local_files.remove(store, store / item.path)
            freed += item.nbytes
    return freed


class _Moved:
    """A segment or index under a temporary name. Raises FileNotFoundError where it is gone."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder, self._doomed = store, folder, folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        local_files.rename(store, folder, self._doomed)
        self.touched = _newest(store, self._doomed / "zarr.json")

    def put_back(self) -> bool:
        """Give it its name again; False where another process has written it again."""
        if local_files.lstat(self.store, self.folder):
            return False
        local_files.rename(self.store, self._doomed, self.folder)
        return True

    def destroy(self) -> bool:
        """Delete it."""
        local_files.remove(self.store, self._doomed, missing_ok=True)  # another process may be faster
        return True


class _EmptiedView:
    """A view without its `seg`, so that no writer can begin a segment, and with another name for its zarr.json.

    Where it has a segment again, nothing is changed, and it cannot be destroyed. Raises FileNotFoundError where it is
    gone.
    """

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder, self._about = store, folder, folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        status = local_files.lstat(store, folder / "zarr.json")
        if status is None:
            raise FileNotFoundError(folder / "zarr.json")
        self.touched = status.st_mtime
        self._empty = self._without_seg()
        if self._empty:
            local_files.rename(store, folder / "zarr.json", self._about)

    def _without_seg(self) -> bool:
        seg = self.folder / "seg"
        try:
            names = local_files.listed(self.store, seg)
            if names == ["zarr.json"]:
                local_files.remove(self.store, seg / "zarr.json", missing_ok=True)
            elif names:
                return False
            local_files.remove_empty(self.store, seg)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._make_seg()
            return False
        return True

    def _make_seg(self) -> None:
        """Make `seg` and its zarr.json, as writers do too."""
        seg = self.folder / "seg"
        local_files.make_folder(self.store, seg)
        if not local_files.lstat(self.store, seg / "zarr.json"):
            local_files.write(self.store, seg / "zarr.json", json.dumps(layout.group_metadata({})).encode())

    def put_back(self) -> bool:
        """Restore the view."""
        if self._empty:
            self._make_seg()
            with suppress(FileExistsError):  # a writer that needs the view has written the same
                local_files.link(self.store, self._about, self.folder / "zarr.json")
            local_files.remove(self.store, self._about)
        return True

    def destroy(self) -> bool:
        """Delete the view, unless a writer has begun a segment in it; return whether it was deleted."""
        if not self._empty:
            return False
        for name in local_files.listed(self.store, self.folder):
            if name not in ("seg", "zarr.json", self._about.name):
                local_files.remove(self.store, self.folder / name, missing_ok=True)
        if {"seg", "zarr.json"} & set(local_files.listed(self.store, self.folder)):
            return not self.put_back()
        metadata = limits.read_bytes(self._about, limits.MAX_JSON)
        local_files.remove(self.store, self._about)
        try:
            local_files.remove_empty(self.store, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not local_files.lstat(self.store, self.folder / "zarr.json"):
                local_files.write(self.store, self.folder / "zarr.json", metadata)
            return False
        return True


def _needed(store: Path, numbers: Iterable[int], forgiving: bool = False) -> set[str]:
    """Return the folders that any of these generations names."""
    folders: set[str] = set()
    for number in numbers:
        try:
            folders.update(generations.read(store, number).needed)
        except MsaError:
            if not forgiving:
                raise
    return folders


def _made(store: Path, number: int) -> float:
    """Return when a generation was published, by its writer's clock or by that of the disk, whichever is later."""
    by_disk = generations.Folder(store).path(number).stat().st_mtime
    try:
        return max(by_disk, datetime.fromisoformat(generations.read(store, number).created).timestamp())
    except (MsaError, KeyError, ValueError):
        return by_disk


def dead(store: Path) -> list[Path]:
    """Return the unpublished segments of killed writers."""
    left = list(recovery.left(store))
    now = heartbeat.time_of(store) if left else None
    return [folder for folder in left if not recovery.alive(folder, now)]


def _committed(folder: Path) -> int:
    """Return how many samples a journal says are on disk."""
    try:
        journal = Journal.read(folder)
    except (OSError, MsaError):
        return 0
    return len(journal.samples) if journal else 0


def _folders(store: Path, parent: Path, ours: Callable[[str], bool]) -> list[Path]:
    """Return the folders in `parent` whose names are `ours`; links and other files are left alone."""
    return [folder for folder in local_files.folders(store, parent) if ours(folder.name)]


def _bytes(store: Path, path: Path) -> int:
    return sum(about.st_size for _, about in local_files.tree(store, path) if S_ISREG(about.st_mode))


def _newest(store: Path, path: Path) -> float:
    """Return when anything of a file or folder was touched last; 0 where it is gone."""
    return max((about.st_mtime for _, about in local_files.tree(store, path)), default=0.0)


def _now(store: Path) -> float:
    """Return the time by the clock of the disk, on a network that of another machine, or by ours if that is earlier."""
    by_disk = heartbeat.time_of(store)
    return time.time() if by_disk is None else min(by_disk, time.time())
