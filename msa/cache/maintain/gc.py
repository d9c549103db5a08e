"""`msa cache gc`: free what no generation needs that anybody may still read, and nothing that anybody still writes.

Kept are the files of the newest generation, of every tagged one, and of every one that was the newest at some moment of
the grace period, because a reader may have opened it then. Kept are the segments of living writers; what killed ones
had committed is published first. Of everything else goes

    superseded         what only older generations name; their manifests stay, and `msa cache log` says so
    never published    what nobody names, once it is older than the grace period
    unfinished         temporary files and folders of that age

A sweep takes no lock. It gives a folder a temporary name, then reads what is published, and puts back what that needs;
whoever publishes a reference to an old folder (a borrowed segment, a rollback, a tag) looks afterwards whether the
folder is there. One of the two always sees the other. A view is never moved, for a writer may begin a segment in it at
any moment: it is taken apart from within, and a folder that is not empty any more stays (`_Vacated`).
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
from msa.cache.write.segment import JOURNAL, Journal
from msa.errors import ConfigError, MsaError

GRACE = "24h"
FLOOR_S = 900.0  # what was touched so recently may be about to be published, however short the grace period is
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Litter:
    """A file or folder that may go: its path relative to the store, its bytes, and what it is."""

    path: str
    nbytes: int
    what: str


@dataclass(frozen=True)
class Survey:
    """What a sweep would do. `kept` says why a generation is; `left` are samples of killed writers, by view."""

    kept: Mapping[int, str]
    litter: tuple[Litter, ...]
    left: Mapping[str, int]
    damaged: tuple[str, ...] = field(default=())  # what killed writers left and cannot be taken over

    @property
    def nbytes(self) -> int:
        """What would be freed."""
        return sum(item.nbytes for item in self.litter)


def seconds(text: str) -> float:
    """A span of time: `24h`, `7d`, `30m`, `90s` or 0. Raises ConfigError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*|\s*0\s*", text)
    if not found:
        raise ConfigError(f"invalid duration {text!r}", fix="write it as 24h, 7d, 30m or 0")
    return float(found[1]) * UNITS[found[2]] if found[1] else 0.0


def survey(store: Path, grace_s: float) -> Survey:
    """What may go from a store, and what killed writers left. Changes nothing, and works where nothing can be written.

    Raises StoreError where a generation that is kept cannot be read: nobody knows what it needs.
    """
    now = _now(store)
    keeps = kept(store, grace_s, now)
    needed = _needed(store, keeps)
    newest = max(keeps, default=0)  # what has been published since is nothing that once was
    older = {number for number in generations.generations(store) if number < newest}
    once = _needed(store, older - keeps.keys(), forgiving=True)
    rules = _Rules(store, now, grace_s, needed, once)
    left, damaged = Counter[str](), []
    for folder in dead(store):
        try:
            recovery.check(store, folder, generations.read(store))
            left[folder.parent.parent.name] += _committed(folder)
        except MsaError as error:  # it stays, for a person to look at
            damaged.append(f"{error.what}; {error.fix}")
        except FileNotFoundError:
            continue  # another run took it over
    return Survey(keeps, tuple(rules.litter()), {view: n for view, n in left.items() if n}, tuple(damaged))


def kept(store: Path, grace_s: float, now: float) -> dict[int, str]:
    """Generation -> why its files stay: `the newest`, `tag NAME`, or `recent`."""
    known, tagged = generations.generations(store), tags.read(store)
    found = {known[-1]: "the newest"} if known else {}
    for name, number in tagged.items():
        found[number] = f"{found[number]}, tag {name}" if number in found else f"tag {name}"
    for number, successor in pairwise(known):
        if number not in found and now - _made(store, successor) < grace_s:
            found[number] = "recent"
    return dict(sorted(found.items()))


def sweep(store: FeatureStore, grace_s: float) -> tuple[Survey, int]:
    """Publish what killed writers left, then remove what may go; returns what was found and the bytes freed.

    Raises StoreError where nothing can be written.
    """
    damaged: list[str] = []
    for view_id in sorted({path.parent.parent.name for path in dead(store.path)}):
        if (store.path / layout.view_path(view_id) / "zarr.json").exists():
            try:
                store.recover(view_id)
            except MsaError as error:  # it stays, for a person to look at
                damaged.append(f"{error.what}; {error.fix}")
    found = survey(store.path, grace_s)
    freed = remove(store.path, found.litter, grace_s)
    return Survey(found.kept, found.litter, found.left, tuple(dict.fromkeys([*damaged, *found.damaged]))), freed


def remove(store: Path, litter: Iterable[Litter], grace_s: float, touched_before: float | None = None) -> int:
    """Take litter away, and put back what turns out to be needed; returns the bytes freed.

    `touched_before` is when the corpora and views among it must have been touched last; default: FLOOR_S ago.
    """
    items = list(litter)
    limit = _now(store) - FLOOR_S if touched_before is None else touched_before
    with generations.writable(store):
        freed = _remove_unfinished(store, [item for item in items if item.what == "unfinished"])
        for segments in (True, False):  # a view goes after its segments
            away: list[tuple[Litter, _Moved | _Vacated]] = []
            for item in items:
                if item.what != "unfinished" and ("/seg/" in item.path) == segments:
                    taken = _Vacated if item.path.startswith("views/") and not segments else _Moved
                    with suppress(FileNotFoundError):  # another sweep was faster
                        away.append((item, taken(store, store / item.path)))
            needed = _needed(store, kept(store, grace_s, _now(store))) if away else set()
            for item, doomed in away:
                wanted = item.path in needed or not (segments or doomed.touched <= limit)
                if (wanted and doomed.put_back()) or not doomed.destroy():
                    continue
                freed += item.nbytes
    return freed


def remove_now(store: Path, folders: Collection[str]) -> int:
    """Free, of folders that were just taken out of the newest generation, those that no tag needs; the bytes freed.

    Who reads an older generation meets missing files. What living writers work on stays.
    """
    needed, now = _needed(store, kept(store, 0.0, _now(store))), _now(store)
    rules = _Rules(store, now, 0.0, needed, set(folders), floor_s=0.0)
    return remove(store, [item for item in rules.litter() if item.path in folders], 0.0, touched_before=now + FLOOR_S)


@dataclass(frozen=True)
class _Rules:
    """What is litter: nothing that is `needed`; what `once` was published goes sooner than what never was."""

    store: Path
    now: float
    grace_s: float
    needed: Collection[str]
    once: Collection[str]
    floor_s: float = FLOOR_S

    def litter(self) -> Iterator[Litter]:
        """Everything that may go; segments before the views they are in."""
        for room in ("manifests", "tags", "index", "views"):
            yield from self._unfinished(self.store / room)
        for folder in _folders(self.store, self.store / "index", limits.is_id):
            yield from self._unneeded(folder, bool(self._idle_for(folder / "zarr.json")))
        for view in _folders(self.store, self.store / "views", limits.is_id):
            yield from self._unfinished(view)
            yield from self._unfinished(view / "seg")
            going = []
            for segment in _folders(self.store, view / "seg", recovery.is_segment):
                noted = local_files.lstat(self.store, segment / JOURNAL)
                if noted and (local_files.lstat(self.store, view / "zarr.json") or recovery.alive(segment, self.now)):
                    going.append(False)  # of a living writer, or of a dead one whose work is taken over, not swept
                    continue
                yield from self._unfinished(segment, deep=True)
                gone = list(self._unneeded(segment, idle=True))
                going.append(bool(gone))
                yield from gone
            yield from self._unneeded(view, all(going) and self._idle_for(view / "zarr.json"))

    def _unneeded(self, folder: Path, idle: bool) -> Iterator[Litter]:
        path = folder.relative_to(self.store).as_posix()
        if path in self.needed or not idle:
            return
        if path in self.once:
            yield Litter(path, _bytes(self.store, folder), "superseded")
        elif self.now - _newest(self.store, folder) >= max(self.grace_s, self.floor_s):
            yield Litter(path, _bytes(self.store, folder), "never published")

    def _unfinished(self, folder: Path, deep: bool = False) -> Iterator[Litter]:
        names = (folder / name for name in local_files.listed(self.store, folder))
        within = (path for path, _ in local_files.tree(self.store, folder)) if deep else names
        for path in sorted(path for path in within if path.name.startswith(TEMPORARY)):
            if self.now - _newest(self.store, path) >= max(self.grace_s, self.floor_s):
                yield Litter(path.relative_to(self.store).as_posix(), _bytes(self.store, path), "unfinished")

    def _idle_for(self, path: Path) -> bool:
        return self.now - _newest(self.store, path) >= self.floor_s


def _remove_unfinished(store: Path, litter: Iterable[Litter]) -> int:
    freed = 0
    for item in litter:
        with suppress(FileNotFoundError):
            local_files.remove(store, store / item.path)
            freed += item.nbytes
    return freed


class _Moved:
    """A segment or corpus under a temporary name. Raises FileNotFoundError where it is gone."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder, self._doomed = store, folder, folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        local_files.rename(store, folder, self._doomed)
        self.touched = _newest(store, self._doomed / "zarr.json")

    def put_back(self) -> bool:
        """Give it its name again; False where somebody else has made it anew."""
        if local_files.lstat(self.store, self.folder):
            return False
        local_files.rename(self.store, self._doomed, self.folder)
        return True

    def destroy(self) -> bool:
        """Delete it."""
        local_files.remove(self.store, self._doomed, missing_ok=True)  # another gc may be faster
        return True


class _Vacated:
    """A view without its `seg`, into which nobody can begin to write, and with another name for its zarr.json.

    Where there is a segment in it again, nothing is changed, and it cannot be destroyed. Raises FileNotFoundError where
    it is gone.
    """

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder, self._about = store, folder, folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        about = local_files.lstat(store, folder / "zarr.json")
        if about is None:
            raise FileNotFoundError(folder / "zarr.json")
        self.touched = about.st_mtime
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
            self._furnish()
            return False
        return True

    def _furnish(self) -> None:
        """What every `seg` has; writers see to it themselves, too."""
        seg = self.folder / "seg"
        local_files.make_folder(self.store, seg)
        if not local_files.lstat(self.store, seg / "zarr.json"):
            local_files.write(self.store, seg / "zarr.json", json.dumps(layout.group_metadata({})).encode())

    def put_back(self) -> bool:
        """Make it as it was."""
        if self._empty:
            self._furnish()
            with suppress(FileExistsError):  # whoever needs the view again has written the same
                local_files.link(self.store, self._about, self.folder / "zarr.json")
            local_files.remove(self.store, self._about)
        return True

    def destroy(self) -> bool:
        """Delete it, unless somebody began to write to it again; did we?"""
        if not self._empty:
            return False
        for name in local_files.listed(self.store, self.folder):
            if name not in ("seg", "zarr.json", self._about.name):
                local_files.remove(self.store, self.folder / name, missing_ok=True)
        if {"seg", "zarr.json"} & set(local_files.listed(self.store, self.folder)):
            return not self.put_back()
        about = limits.read_bytes(self._about, limits.MAX_JSON)
        local_files.remove(self.store, self._about)
        try:
            local_files.remove_empty(self.store, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not local_files.lstat(self.store, self.folder / "zarr.json"):
                local_files.write(self.store, self.folder / "zarr.json", about)
            return False
        return True


def _needed(store: Path, numbers: Iterable[int], forgiving: bool = False) -> set[str]:
    """Folders that any of these generations names."""
    found: set[str] = set()
    for number in numbers:
        try:
            found.update(generations.read(store, number).needed)
        except MsaError:
            if not forgiving:
                raise
    return found


def _made(store: Path, number: int) -> float:
    """When a generation was published, by its writer's clock or by that of the disk, whichever is later."""
    there = generations.Folder(store).path(number).stat().st_mtime
    try:
        return max(there, datetime.fromisoformat(generations.read(store, number).created).timestamp())
    except (MsaError, KeyError, ValueError):
        return there


def dead(store: Path) -> list[Path]:
    """Segments that killed writers left behind, none of them published."""
    left = list(recovery.left(store))
    now = heartbeat.time_of(store) if left else None
    return [folder for folder in left if not recovery.alive(folder, now)]


def _committed(folder: Path) -> int:
    """How many samples a journal says are on disk."""
    try:
        journal = Journal.read(folder)
    except (OSError, MsaError):
        return 0
    return len(journal.samples) if journal else 0


def _folders(store: Path, parent: Path, ours: Callable[[str], bool]) -> list[Path]:
    """Folders of ours in `parent`, by their names; whatever else lies there is left alone, links too."""
    return [folder for folder in local_files.folders(store, parent) if ours(folder.name)]


def _bytes(store: Path, path: Path) -> int:
    return sum(about.st_size for _, about in local_files.tree(store, path) if S_ISREG(about.st_mode))


def _newest(store: Path, path: Path) -> float:
    """When anything of a file or folder was touched last; 0 where it is gone."""
    return max((about.st_mtime for _, about in local_files.tree(store, path)), default=0.0)


def _now(store: Path) -> float:
    """The time by the clock of the disk, which on a network is another machine's, or by ours if that is earlier."""
    there = heartbeat.time_of(store)
    return time.time() if there is None else min(there, time.time())
