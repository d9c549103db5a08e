"""Taking over what killed writers left behind."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msa.cache.files import TEMPORARY, write_durably
from msa.cache.fingerprint import sha256
from msa.cache.segment import JOURNAL, Journal, describe, new_name, seal
from msa.cache.writers import lives, whoami
from msa.errors import StoreError

CLAIM = ".claim"  # folders of segments that are being taken over: .claim~HOST~PID~STARTED~NAME
HEADER_AFTER_S = 10.0  # a journal without a first line for so long will not get one


def adopt(parent: Path, published: Callable[[], set[str]]) -> list[dict[str, Any]]:
    """Seal what dead writers left in `parent` (views/<view>/seg) and return the manifest entries.

    A segment is claimed by renaming its folder to one that names the claimant, which succeeds for one of several and
    leaves nobody in doubt. `published` is asked before and after: what a process of dask sealed before it died, another
    one publishes. Shards whose journal line is missing are discarded: their samples are simply not there yet.
    """
    entries = []
    for journal in sorted(parent.glob(f"*/{JOURNAL}")):
        folder = journal.parent
        if folder.name.startswith(TEMPORARY) or alive(folder):
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
        _discard_uncommitted(claimed)
        _take_over(claimed / JOURNAL)
        if seal(claimed):
            final = parent / claimed.name.rpartition("~")[2]
            claimed.rename(final)
            entries.append(describe(final))
    return entries


def alive(folder: Path) -> bool:
    """Does somebody still work on this segment: the claimant its name tells of, or else the writer of its journal?"""
    journal = folder / JOURNAL
    silent_s = 0.0
    try:
        silent_s = time.time() - journal.stat().st_mtime
        if folder.name.startswith(f"{CLAIM}~"):
            _, host, pid, started, _ = folder.name.split("~")
            return lives({"host": host, "pid": pid, "started": started}, silent_s)
        return lives(json.loads(journal.read_bytes().partition(b"\n")[0])["writer"], silent_s)
    except FileNotFoundError:
        return True  # claimed by somebody else this very moment
    except (ValueError, KeyError, TypeError):
        return silent_s < HEADER_AFTER_S  # not written yet, or torn by a power cut


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
    return f"{CLAIM}~{me['host']}~{me['pid']}~{me['started']:.2f}~{name}"


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
