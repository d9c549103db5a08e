"""Generations: small immutable JSON files that say what of a store is published.

A new generation is made by writing it whole under a temporary name and then creating its final name with link(2),
which the file system grants to exactly one of several writers. The losers read the winner's generation, apply their
change to that, and try again: nothing is locked and nothing is lost.
"""

import getpass
import json
import os
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msa.cache.files import TEMPORARY, sync_folder
from msa.cache.layout import FORMAT, read_json
from msa.errors import StoreError

Manifest = dict[str, Any]
EMPTY: Manifest = {"msa_format": FORMAT, "generation": 0, "datasets": {}, "views": {}}


def generations(store: Path) -> list[int]:
    """The numbers of all published generations, ascending."""
    return sorted(int(path.stem) for path in (store / "manifests").glob("[0-9]*.json"))


def read(store: Path, generation: int | None = None) -> Manifest:
    """A generation, or the newest one. Raises StoreError where it is missing or newer than this version."""
    known = generations(store)
    number = generation if generation is not None else (known[-1] if known else 0)
    if number == 0:
        return deepcopy(EMPTY)
    path = _path(store, number)
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise StoreError(f"{store} has no generation {number}", fix=f"choose one of {known}") from None
    except (ValueError, AssertionError) as error:
        raise StoreError(f"damaged store: {path} cannot be read: {error}", fix="restore it from a copy") from None
    check_format(path, manifest.get("msa_format"))
    return manifest


def check_format(path: Path, found: object) -> None:
    """Refuse what a newer version wrote, before anything of it is interpreted."""
    if not isinstance(found, int):
        raise StoreError(f"{path} is not part of an msa store", fix="give the folder that `msa extract` wrote to")
    if found > FORMAT:
        raise StoreError(
            f"{path} has store format {found}, this version of msa reads up to {FORMAT}",
            fix="upgrade msa, or export the store with the version that wrote it",
        )


def publish(store: Path, change: Callable[[Manifest], None]) -> Manifest:
    """Apply `change` to the newest generation and publish the result as the next one; retried on conflict."""
    folder = store / "manifests"
    while True:
        manifest = read(store)
        change(manifest)
        manifest["generation"] += 1
        manifest["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        manifest["creator"] = _creator()
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, _path(store, manifest["generation"]))
        except FileExistsError:
            continue
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
        return manifest


def in_order(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Datasets or views of a manifest, the oldest first: by the generation they were last published in."""
    return sorted(entries.items(), key=lambda item: item[1].get("published", 0))


def _path(store: Path, generation: int) -> Path:
    return store / "manifests" / f"{generation:08d}.json"


def _creator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())
