"""Taking over what killed writers left behind."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from msa.cache.files import TEMPORARY, write_durably
from msa.cache.fingerprint import sha256
from msa.cache.segment import JOURNAL, Journal, describe, new_name, seal, whoami
from msa.errors import StoreError

CLAIM = ".claim"  # folders of segments that are being taken over: .claim~HOST~PID~STARTED~NAME
HEADER_AFTER_S = 10.0  # a journal without a first line for so long will not get one
SILENT_AFTER_S = 900.0  # a writer on another machine that has not been heard of for so long is taken for dead


def adopt(parent: Path, published: Callable[[], set[str]]) -> list[dict[str, Any]]:
    """Seal what dead writers left in `parent` (views/<view>/seg) and return the manifest entries.

    A segment is claimed by renaming its folder to one that names the claimant, which succeeds for one of several and
    leaves nobody in doubt. Only then is `published` asked: a dead writer publishes no more. Shards whose journal line
    is missing are discarded: their samples are simply not there yet.
    """
    entries = []
    for journal in sorted(parent.glob(f"*/{JOURNAL}")):
        folder = journal.parent
        if folder.name.startswith(TEMPORARY) or _alive(folder):
            continue
        if folder.name in published():
            journal.unlink(missing_ok=True)  # killed between publishing and tidying up
            continue
        claimed = parent / _claim(new_name())
        try:
            folder.rename(claimed)
        except FileNotFoundError:
            continue  # somebody else was faster
        _discard_uncommitted(claimed)
        _take_over(claimed / JOURNAL)
        if seal(claimed):
            final = parent / claimed.name.rpartition("~")[2]
            claimed.rename(final)
            entries.append(describe(final))
    return entries


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


def _alive(folder: Path) -> bool:
    """Does somebody still work on this segment: the claimant its name tells of, or else the writer of its journal?"""
    journal = folder / JOURNAL
    try:
        if folder.name.startswith(f"{CLAIM}~"):
            _, host, pid, started, _ = folder.name.split("~")
            owner: dict[str, Any] = {"host": host, "pid": int(pid), "started": float(started)}
        else:
            owner = json.loads(journal.read_bytes().partition(b"\n")[0])["writer"]
        if owner["host"] == socket.gethostname():
            process = psutil.Process(owner["pid"])
            buried = process.status() == psutil.STATUS_ZOMBIE  # dead, and nobody asked after it
            return not buried and abs(process.create_time() - owner["started"]) < 1.0
        return time.time() - journal.stat().st_mtime < SILENT_AFTER_S
    except psutil.NoSuchProcess:
        return False
    except FileNotFoundError:
        return True  # claimed by somebody else this very moment
    except (ValueError, KeyError, TypeError):
        return time.time() - journal.stat().st_mtime < HEADER_AFTER_S  # not written yet, or torn by a power cut


def _discard_uncommitted(folder: Path) -> None:
    journal = Journal.read(folder)
    shards = journal.shards if journal else {}
    for path in (folder / "data" / "c").glob("*/*"):
        line = shards.get(int(path.parent.name))
        if path.name.startswith(TEMPORARY) or line is None:
            path.unlink()
    for number, line in shards.items():
        path = folder / "data" / "c" / str(number) / "0"
        if not path.exists() or sha256(path) != line["sha256"]:
            raise StoreError(
                f"{path} was committed with SHA-256 {line['sha256'][:12]}… and has changed since",
                fix=f"the disk may be failing; remove {folder} to extract its samples again",
            )
