"""Is a store what it says it is? Every fault is found and named with the samples it concerns; nothing is printed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.fingerprint import sha256
from msa.cache.segment import JOURNAL
from msa.cache.store import FeatureStore
from msa.cache.view import View, ViewReader
from msa.errors import MsaError


@dataclass(frozen=True)
class Problem:
    """A fault: where it lies, what is wrong, and whose hidden states it touches."""

    where: str
    what: str
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = ", ".join(self.samples[:5]) + (f" and {len(self.samples) - 5} more" if len(self.samples) > 5 else "")
        return f"{self.where}: {self.what}" + (f" (samples {named})" if named else "")


def verify(store: FeatureStore) -> list[Problem]:
    """Check every published file, table and hidden state of the pinned generation."""
    problems = list(_files(store))
    if any(problem.what != "not named by any manifest" for problem in problems):
        problems += _affected(store)
    else:
        problems += _contents(store)
    return problems


def _files(store: FeatureStore) -> Iterator[Problem]:
    known: set[Path] = set()
    for folder, files in _published(store):
        for name, (size, digest) in files.items():
            path = folder / name
            known.add(path)
            where = path.relative_to(store.path).as_posix()
            if not path.is_file():
                yield Problem(where, "is missing")
            elif path.stat().st_size != size:
                yield Problem(where, f"has {path.stat().st_size} bytes, the manifest says {size}")
            elif sha256(path) != digest:
                yield Problem(where, "does not match the SHA-256 in the manifest")
    for folder in _segments(store):
        for path in folder.rglob("*") if not (folder / JOURNAL).exists() else ():
            if path.is_file() and path not in known:
                yield Problem(path.relative_to(store.path).as_posix(), "not named by any manifest")


def _segments(store: FeatureStore) -> Iterator[Path]:
    """Published segments; of one that only lends its data, whatever else it holds is of no concern."""
    for view_id, about in store.manifest["views"].items():
        for entry in about["segments"]:
            yield store.path / "views" / view_id / "seg" / entry["id"]


def _published(store: FeatureStore) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for fingerprint, about in store.manifest["datasets"].items():
        yield store.path / "index" / fingerprint, about["files"]
    for view_id, about in store.manifest["views"].items():
        yield store.path / "views" / view_id, about["files"]
        for entry in about["segments"]:
            yield store.path / "views" / view_id / "seg" / entry["id"], entry["files"]
            if "data_of" in entry:
                yield store.path / "views" / view_id / "seg" / entry["data_of"], entry["data_files"]


def _views(store: FeatureStore) -> Iterator[tuple[str, list[str], View, ViewReader | Problem]]:
    for fingerprint, about in store.manifest["datasets"].items():
        try:
            ids = list(store.index(fingerprint).ids)
            views = store.views(fingerprint)
        except (MsaError, ValueError, OSError, KeyError):
            continue  # its files were named already
        for view in views:
            where = f"{about['name']}/{view.name}@{view.id}"
            try:
                yield where, ids, view, store.reader(view)
            except (MsaError, ValueError, OSError, KeyError) as error:
                yield where, ids, view, Problem(where, f"cannot be opened: {error}", tuple(ids))


def _affected(store: FeatureStore) -> Iterator[Problem]:
    """After damage to files: which samples can no longer be read."""
    for where, ids, _, reader in _views(store):
        if isinstance(reader, Problem):
            yield reader
            continue
        lost = tuple(ids[row] for row in np.flatnonzero(reader.length >= 0) if not _readable(reader, int(row)))
        if lost:
            yield Problem(where, f"{len(lost)} of {int((reader.length >= 0).sum())} samples cannot be read", lost)


def _readable(reader: ViewReader, row: int) -> bool:
    try:
        reader.read(row)
    except (MsaError, OSError, ValueError):
        return False
    return True


def _contents(store: FeatureStore) -> Iterator[Problem]:
    for where, ids, view, reader in _views(store):
        if isinstance(reader, Problem):
            yield reader
            continue
        if len(set(ids)) != len(ids):
            yield Problem(where, "sample ids are not unique")
        present = np.flatnonzero(reader.length >= 0)
        if len(present) != view.samples:
            yield Problem(where, f"{view.samples - len(present)} samples stand in more than one segment")
        wrong = tuple(ids[row] for row in present if not np.isfinite(reader.read(int(row))).all())
        if wrong:
            yield Problem(where, "NaN or infinity in the hidden states", wrong)
