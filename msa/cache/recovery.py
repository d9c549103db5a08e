"""Taking over what killed writers left behind."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from msa.cache.files import TEMPORARY
from msa.cache.fingerprint import sha256
from msa.cache.segment import JOURNAL, Journal, new_name, seal
from msa.errors import StoreError

SILENT_AFTER_S = 900.0  # a writer on another machine that has not been heard of for so long is taken for dead


def adopt(parent: Path, published: set[str]) -> list[dict[str, Any]]:
    """Seal what dead writers left in `parent` (views/<view>/seg) and return the manifest entries.

    A segment is claimed by renaming its folder, which succeeds for one claimant. Shards whose journal line or
    checksum is missing are discarded: their samples are simply not there yet.
    """
    entries = []
    for journal in sorted(parent.glob(f"[!.]*/{JOURNAL}")):
        folder = journal.parent
        if folder.name in published:
            journal.unlink()  # killed between publishing and tidying up
        elif not _alive(journal):
            claimed = parent / new_name()
            try:
                folder.rename(claimed)
            except FileNotFoundError:
                continue  # somebody else was faster
            _discard_uncommitted(claimed)
            if made := seal(claimed):
                entries.append(made)
    return entries


def _alive(journal: Path) -> bool:
    writer = json.loads(journal.read_bytes().partition(b"\n")[0] or b"{}").get("writer")
    if writer is None or writer["host"] != socket.gethostname():
        return time.time() - journal.stat().st_mtime < SILENT_AFTER_S
    try:
        return abs(psutil.Process(writer["pid"]).create_time() - writer["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False


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
