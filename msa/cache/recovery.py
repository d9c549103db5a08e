"""Taking over what killed writers left behind."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msa.cache import heartbeat, trust, writers
from msa.cache.files import TEMPORARY, write_durably
from msa.cache.fingerprint import sha256
from msa.cache.segment import JOURNAL, Journal, describe, new_name, seal
from msa.cache.writers import SILENT_AFTER_S, whoami
from msa.errors import StoreError

CLAIM = ".claim"  # folders of segments that are being taken over: .claim~HOST@BOOT~PID~STARTED~NAME
_HEADER = 2**20  # bytes of the first line of a journal: more than any writer has to say


def adopt(parent: Path, published: Callable[[], set[str]]) -> list[dict[str, Any]]:
    """Seal what dead writers left in `parent` (views/<view>/seg) and return the manifest entries.

    A segment is claimed by renaming its folder to one that names the claimant, which succeeds for one of several and
    leaves nobody in doubt. `published` is asked before and after: what a process of dask sealed before it died, another
    one publishes. Shards whose journal line is missing are discarded: their samples are simply not there yet.
    """
    entries: list[dict[str, Any]] = []
    left = sorted(parent.glob(f"*/{JOURNAL}"))
    now = heartbeat.time_of(parent.parents[2]) if left else None
    for journal in left:
        folder = journal.parent
        if folder.name.startswith(TEMPORARY) or alive(folder, now) or not os.access(folder, os.W_OK):
            continue
        if folder.name in published():
            journal.unlink(missing_ok=True)  # killed between publishing and tidying up
            continue
        claimed = parent / _claim(new_name())
        try:
            folder.rename(claimed)
        except (FileNotFoundError, PermissionError):
            continue  # somebody else was faster, or it belongs to somebody who lets nobody else touch it
        if folder.name in published():
            claimed.rename(folder)
            journal.unlink(missing_ok=True)
            continue
        try:
            os.utime(claimed / JOURNAL)  # what others see of it dates from the claim, not from the dead writer
            entries += _finished(claimed, parent / claimed.name.rpartition("~")[2])
        except FileNotFoundError:
            if claimed.exists():
                raise  # else this process was suspended for so long that another one has claimed it
    return entries


def _finished(claimed: Path, final: Path) -> list[dict[str, Any]]:
    """Seal a claimed segment under its new name; its entry, or nothing where nothing was committed."""
    with heartbeat.kept(claimed / JOURNAL):  # hashing what is there may take longer than any silence is borne
        _take_over(claimed / JOURNAL)
        _discard_uncommitted(claimed)
        if seal(claimed) is None:
            return []
        heartbeat.keep(final / JOURNAL)  # until it is published
        claimed.rename(final)
    return [describe(final)]


def alive(folder: Path, now: float | None) -> bool:
    """Does somebody still work on this segment: the claimant its name tells of, or else the writer of its journal?

    `now` is the time by the clock of the disk (see heartbeat.py). Without it nobody who cannot be seen is dead.
    """
    return dead_in(folder, now) > 0


def dead_in(folder: Path, now: float | None) -> float:
    """In how many seconds of further silence who works on a segment counts as dead: 0 if now, infinity if alive."""
    try:
        with open(trust.open_regular(folder / JOURNAL), "rb") as file:
            touched, line = os.fstat(file.fileno()).st_mtime, file.readline(_HEADER)
    except (OSError, StoreError):
        return float("inf")  # claimed by somebody else this very moment, or it is not ours to read
    silent_s = now - touched if now is not None else -float("inf")
    try:
        return writers.dead_in(_owner(folder, line), silent_s)
    except (StoreError, ValueError, KeyError, TypeError, OverflowError):
        return max(0.0, SILENT_AFTER_S - silent_s)  # torn by a power cut: there is no other sign of life


def _owner(folder: Path, header: bytes) -> Any:
    """Who works on a segment. A claimant has its name in that of the folder first, and then in the journal."""
    if not folder.name.startswith(f"{CLAIM}~"):
        return trust.parse(folder / JOURNAL, header)["writer"]
    _, where, pid, started, _ = folder.name.split("~")
    host, _, boot = where.partition("@")
    named = {"host": host, "boot": boot, "pid": pid, "started": started}
    try:
        written = trust.parse(folder / JOURNAL, header)["writer"]
        same = all(str(written[key]) == named[key] for key in ("host", "boot", "pid"))
    except (StoreError, KeyError, TypeError):
        return named
    return written if same else named


def _take_over(journal: Path) -> None:
    """Put our name where the dead writer's stood, so that the segment is ours until it is published."""
    first, _, rest = journal.read_bytes().partition(b"\n")
    try:
        header = json.loads(first) | {"writer": whoami()}
    except ValueError:
        return  # nothing was ever committed here: sealing removes it
    write_durably(journal, json.dumps(header).encode() + b"\n", rest)


def _claim(name: str) -> str:
    me = whoami()
    return f"{CLAIM}~{me['host']}@{me.get('boot', '')}~{me['pid']}~{me['started']:.2f}~{name}"


def _discard_uncommitted(folder: Path) -> None:
    for path in [*folder.rglob(f"{TEMPORARY}*"), *folder.rglob("*.partial")]:  # of ours, and of zarr-python
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    journal = Journal.read(folder)
    shards = journal.shards if journal else {}
    for path in (folder / "data" / "c").glob("*/*"):
        number = path.parent.name
        if path.name.startswith(TEMPORARY) or not number.isdecimal() or int(number) not in shards:
            path.unlink(missing_ok=True)
    for shard, line in shards.items():
        path = folder / "data" / "c" / str(shard) / "0"
        if not path.exists() or sha256(path) != line["sha256"]:
            raise StoreError(
                f"{path} was committed with SHA-256 {line['sha256'][:12]}… and has changed since",
                fix=f"the disk may be failing; remove {folder} to extract its samples again",
            )
