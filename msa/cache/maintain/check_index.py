"""Check an index of a dataset; and what both checks, of an index and of a segment, have in common.

Nothing here raises for damage: problems are what these functions return.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from msa.annotations.labels import NEAR
from msa.cache.format import layout, limits
from msa.cache.format.fingerprint import DIGEST
from msa.cache.format.manifest import DatasetEntry, Files
from msa.cache.index import Index, odd_labels
from msa.errors import MsaError

READ_ERRORS = (
    MsaError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
    MemoryError,
)


MISMATCH = "does not match"  # how a problem begins where a file has its size and another SHA-256


def reason(error: BaseException) -> str:
    """Return what went wrong, without the fix."""
    return str(getattr(error, "what", error))


@dataclass(frozen=True)
class Problem:
    """A fault: file or folder, what is wrong with it, and the ids of the samples it touches."""

    where: str
    what: str
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = ", ".join(self.samples[:5]) + (f" and {len(self.samples) - 5} more" if len(self.samples) > 5 else "")
        return f"{self.where}: {self.what}" + (f" (samples {named})" if named else "")


@dataclass
class CheckedIndex:
    """An index of n samples, as far as it can be read. `ids` is None where they are damaged."""

    name: str
    n: int
    ids: list[str] | None = None
    digests: dict[str, np.ndarray] = field(default_factory=dict)  # modality -> (n, 16) uint8
    problems: list[Problem] = field(default_factory=list)

    def named(self, rows: Iterable[int]) -> tuple[str, ...]:
        """Return the ids of rows, or their numbers where there are no ids."""
        ids = self.ids
        return tuple(ids[row] if ids is not None and 0 <= row < len(ids) else f"row {row}" for row in rows)


def check_files(root: Path, folder: Path, files: Files) -> dict[str, str]:
    """Return published file -> what is wrong with it: missing, another size, other bytes, or not a regular file."""
    known = {digest: name for name, (_, digest) in files.items()}
    problems = {}
    for name, (size, digest) in files.items():
        path = folder / name
        try:
            limits.check_inside(root, path)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                problems[name] = "is not a regular file"
            elif status.st_size != size:
                problems[name] = f"has {status.st_size} bytes, the manifest says {size}"
            elif (actual := limits.sha256(path)) != digest:
                problems[name] = f"{MISMATCH} the SHA-256 in the manifest"
                if belongs_to := known.get(actual):
                    problems[name] += f": it holds what belongs into {belongs_to}"
        except (FileNotFoundError, NotADirectoryError):
            problems[name] = "is missing"
        except (OSError, MsaError) as error:
            problems[name] = f"cannot be read: {reason(error)}"
    return problems


def read_arrays(folder: Path, files: Files, bad: Mapping[str, str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the sound small arrays of a folder by name, and name -> what is wrong with the others."""
    arrays, unreadable = {}, {}
    for name in sorted({file.partition("/")[0] for file in files if "/" in file} - {"data"}):
        if any(file.startswith(f"{name}/") for file in bad):
            continue  # its files are problems already
        try:
            missing = next((chunk for chunk in chunks(folder / name) if f"{name}/{chunk}" not in files), None)
            if missing is not None:
                unreadable[name] = f"needs {missing}, which the manifest does not name"
            else:
                arrays[name] = layout.read_array(folder / name)
        except READ_ERRORS as error:
            unreadable[name] = f"cannot be read: {reason(error)}"
    return arrays, unreadable


def chunks(path: Path) -> Iterator[str]:
    """Yield the files of an array besides its zarr.json. Raises StoreError and OSError."""
    meta = limits.read_json(path / "zarr.json")
    shape = limits.check_array(path / "zarr.json", meta)
    size = meta["chunk_grid"]["configuration"]["chunk_shape"]
    separator = meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    grid = [range(-(-n // of)) for n, of in zip(shape, size, strict=True)]
    for place in product(*grid):
        yield separator.join(["c", *map(str, place)])


def check_index(root: Path, fingerprint: str, entry: DatasetEntry) -> CheckedIndex:
    """Check one index, as a manifest describes it."""
    where = layout.index_path(fingerprint)
    folder, checked = root / where, CheckedIndex(entry.name, entry.samples)
    if not os.path.lexists(folder):  # one problem, not one for every file
        checked.problems.append(Problem(where, "is missing", checked.named(range(checked.n))))
        return checked
    bad = check_files(root, folder, entry.files)
    table, unreadable = read_arrays(folder, entry.files, bad)
    checked.ids = _ids(table, checked.n)
    for file, what in bad.items():
        rows = _rows_of(folder, file, table, checked.n)
        checked.problems.append(Problem(f"{where}/{file}", what, checked.named(rows)))
    checked.problems += [
        Problem(f"{where}/{name}", what, checked.named(range(checked.n))) for name, what in unreadable.items()
    ]
    digests = {name.removeprefix("digest_"): values for name, values in table.items() if name.startswith("digest_")}
    checked.digests = {name: values for name, values in digests.items() if values.shape == (checked.n, DIGEST)}
    if not checked.problems:
        checked.problems += [
            Problem(where, what, checked.named(rows)) for what, rows in _contents(folder, fingerprint, entry, table)
        ]
    return checked


def _contents(
    folder: Path, fingerprint: str, entry: DatasetEntry, table: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, Iterable[int]]]:
    """Yield (what is wrong, rows) of an index whose files have the SHA-256 of the manifest."""
    n = entry.samples
    wanted = {
        "split": n,
        "labels": n,
        "position": n,
        "id_offsets": n + 1,
        "group_offsets": n + 1,
        "text_offsets": n + 1,
    }
    for name in {*wanted, *(m for m in table if m.startswith("digest_"))}:
        if name not in table:
            yield f"has no array {name}", range(n)
        elif len(table[name]) != wanted.get(name, n):
            yield f"has {len(table[name])} of {name}, the manifest says {n} samples", range(n)
    for name in ("id", "group", "text"):
        if not {f"{name}_bytes", f"{name}_offsets"} <= table.keys():
            continue
        if rows := _unreadable(table[f"{name}_bytes"], table[f"{name}_offsets"]):
            yield f"has offsets in {name}_offsets that do not fit {name}_bytes", rows
    try:
        index = Index.read(folder)
        if index.name != entry.name:
            yield f"is called {index.name!r}, the manifest says {entry.name!r}", range(n)
        yield from _values(index, table)
        if index.fingerprint != fingerprint:
            yield "has contents of another fingerprint", range(n)
    except READ_ERRORS as error:
        yield f"cannot be read: {reason(error)}", range(n)


def _values(index: Index, table: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Iterable[int]]]:
    """Yield (what is wrong, rows) of ids, splits and labels that no index may hold."""
    repeated = {id for id, count in Counter(index.ids).items() if count > 1}
    if repeated:
        yield "has sample ids that stand twice", [row for row, id in enumerate(index.ids) if id in repeated]
    odd = ~np.isin(table["split"], [*range(len(layout.SPLITS)), layout.NO_SPLIT])
    if odd.any():
        yield "has splits of unknown numbers", np.flatnonzero(odd).tolist()
    task, labels = index.task, np.asarray(table["labels"])
    odd = odd_labels(labels, len(task.classes) if task.single else 0)
    if odd.any():
        yield "has labels that are neither a class nor finite", np.flatnonzero(odd).tolist()
    elif not task.classes and task.low < task.high:
        outside = (labels < task.low - NEAR) | (labels > task.high + NEAR)
        if outside.any():
            yield f"has labels outside of {task.low:g} to {task.high:g}", np.flatnonzero(outside.any(1)).tolist()


def _ids(table: Mapping[str, np.ndarray], n: int) -> list[str] | None:
    if "id_bytes" not in table or "id_offsets" not in table or len(table["id_offsets"]) != n + 1:
        return None
    data, offsets = table["id_bytes"].tobytes(), table["id_offsets"].tolist()
    if _unreadable(table["id_bytes"], table["id_offsets"]):
        return None
    return [data[a:b].decode() for a, b in pairwise(offsets)]


def _unreadable(data: np.ndarray, offsets: np.ndarray) -> list[int]:
    """Return the rows whose offsets are out of order or out of bounds, or whose bytes are not UTF-8."""
    bounds, joined = offsets.astype(np.int64), data.tobytes()
    wrong = (bounds[:-1] < 0) | (bounds[1:] < bounds[:-1]) | (bounds[1:] > len(joined))
    if len(bounds) and (bounds[0] != 0 or bounds[-1] != len(joined)):
        wrong[:] = True
    if wrong.any():
        return np.flatnonzero(wrong).tolist()
    wrong_rows = []
    for row, (a, b) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        try:
            joined[a:b].decode()
        except UnicodeDecodeError:
            wrong_rows.append(row)
    return wrong_rows


def _rows_of(folder: Path, file: str, table: Mapping[str, np.ndarray], n: int) -> Iterable[int]:
    """Return the rows of an index that one of its files concerns."""
    name, _, number = file.partition("/c/")
    try:
        size = limits.read_json(folder / name / "zarr.json")["chunk_grid"]["configuration"]["chunk_shape"][0]
        low = int(number.partition("/")[0]) * size
    except READ_ERRORS:
        return range(n)  # its attributes, or an array whose zarr.json is damaged
    if name.endswith("_offsets"):
        return range(max(0, low - 1), min(n, low + size))
    if not name.endswith("_bytes"):
        return range(low, min(n, low + size))
    offsets = table.get(name.replace("_bytes", "_offsets"))
    if offsets is None or len(offsets) != n + 1:
        return range(n)
    touched = (offsets[:-1] < low + size) & (offsets[1:] > low) & (offsets[1:] > offsets[:-1])
    return np.flatnonzero(touched).tolist()
