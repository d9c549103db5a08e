"""Index of one dataset: what stage 2 needs of a sample besides its hidden states.

Opening an index reads metadata alone; arrays and texts are read on access, so a dataset of a million samples opens as
fast as one of a thousand.
"""

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from msa.cache.format import fingerprint, layout, limits, local_files
from msa.cache.format.attributes import IndexAttributes, task_json, with_defaults
from msa.cache.format.small_arrays import Lazy
from msa.errors import StoreError
from msa.types import Modality, Split, Task

PIECE = 16_384  # texts that are decoded at a time; an index of no more is decoded whole on first access
LAZY = ("split", "labels", "position")  # arrays that `Index.read` does not read yet
TEXTS = ("id", "group", "text")


@dataclass(frozen=True)
class Index:
    """n samples of one dataset, in a fixed order; a view's `sample` numbers are rows of it.

    `labels` is (n, k) float32 - class numbers or values, NaN where there is no label - under `label_names`, of which
    the first, "label", is the one trained on; of a multilabel task the first C are, and bear the names of its classes.
    `digests` maps each modality to (n, 16) uint8, all zero where a sample lacks it. `about` holds what is shown and
    never computed with: source, licence, what was dropped, leaks.
    """

    name: str
    task: Task
    ids: Sequence[str]
    split: np.ndarray  # (n,) uint8, see layout.SPLITS
    labels: np.ndarray
    label_names: tuple[str, ...]
    group: Sequence[str]
    position: np.ndarray  # (n,) int64
    text: Sequence[str]
    digests: Mapping[Modality, np.ndarray]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    if not TYPE_CHECKING:  # or the type checker would take any name for an attribute

        def __getattr__(self, name: str) -> np.ndarray:
            """Read one of LAZY. Raises StoreError where it is damaged."""
            if name not in LAZY or "_lazy" not in self.__dict__:
                raise AttributeError(f"an index has no {name}")
            values = self.__dict__["_lazy"][name][:]
            if problem := _odd(self.task, name, values):
                raise _damaged(self.__dict__["_folder"], problem)
            self.__dict__[name] = values
            return values

    def __reduce__(self) -> tuple[Any, ...]:  # whole: its folder may not be on the machine it is sent to
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Index, tuple((values | {"digests": dict(self.digests)}).values())

    @property
    def y(self) -> np.ndarray:
        """(n,) float32: the label that is trained on; of a multilabel task (n, C), a column per class."""
        return np.asarray(self.labels[:, : self.task.outputs] if self.task.multilabel else self.labels[:, 0])

    def rows(self, split: Split) -> np.ndarray:
        """Return the row numbers of a split, ascending."""
        return np.flatnonzero(self.split == layout.SPLITS.index(split))

    def has(self, modality: Modality) -> np.ndarray:
        """Return (n,) bool: which samples have raw material of this modality."""
        digest = self.digests.get(modality)
        return np.zeros(len(self), bool) if digest is None else np.asarray(digest.any(axis=1))

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Return the rows (k,) int64 of these ids, -1 for unknown ones. Passes once over all ids of the index."""
        wanted = set(ids)
        row_of = {id: row for row, id in enumerate(self.ids) if id in wanted}
        return np.array([row_of.get(id, -1) for id in ids], np.int64)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the samples of each split by class, and the unlabelled; a sample may have several classes."""
        y, counts = self.y, {}
        labelled = np.isfinite(y) if y.ndim == 1 else np.isfinite(y).all(1)
        for split in Split:
            rows = self.rows(split)
            known = rows[labelled[rows]]
            if self.task.multilabel:
                table = {name: int((y[known, n] > 0).sum()) for n, name in enumerate(self.task.classes)}
            else:
                table = {name: int((y[known] == n).sum()) for n, name in enumerate(self.task.classes)}
            counts[split.value] = (table or {"labelled": len(known)}) | {"unlabelled": len(rows) - len(known)}
        return counts

    @property
    def full_about(self) -> dict[str, Any]:
        """`about` with every key of docs/store-format.md, empty where the index leaves it out."""
        return with_defaults(self.about)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides a training set: samples, inputs, labels, splits, groups."""
        hashes = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in self._arrays().items()}
        facts = {"name": self.name, "task": task_json(self.task), "label_names": list(self.label_names)}
        return fingerprint.key(facts | {"arrays": hashes})

    def check(self) -> None:
        """Raise StoreError where a reader would refuse this index."""
        with limits.writing(f"a dataset called {self.name[:60]!r}"):
            self._attributes.validate()
            wrong = next((what for name in LAZY if (what := _odd(self.task, name, getattr(self, name)))), "")
            if not wrong and len(set(self.ids)) < len(self):
                wrong = "two samples have one id"
            if wrong:
                raise _damaged(Path("its index"), wrong)

    def write(self, folder: Path) -> Path:
        """Write `folder/<fingerprint>/` whole or not at all, unless it is there; return it.

        Raises StoreError where a reader would refuse it; nothing is written then.
        """
        self.check()
        final, store = folder / self.fingerprint, folder.parent
        if local_files.is_folder(store, final):
            return final
        with local_files.folder_durably(store, final) as temporary:
            layout.write_group(temporary, self._arrays(), self._attributes.to_json(), root=store)
        return final

    @property
    def _attributes(self) -> IndexAttributes:
        return IndexAttributes(self.name, self.task, self.label_names, self.about)

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Open an index; shapes are checked now, values when they are read.

        Raises StoreError where an array is missing or of another shape or dtype.
        """
        attributes = IndexAttributes.read(folder / "zarr.json")
        there = (folder / name for name in local_files.listed(folder, folder))
        array = {path.name: Lazy(path) for path in there if (path / "zarr.json").exists()}
        n = len(array["split"]) if "split" in array else 0
        _check(folder, array, n, len(attributes.label_names))
        digests = {Modality(m): array[f"digest_{m}"] for m in Modality if f"digest_{m}" in array}
        index = object.__new__(cls)
        index.__dict__.update(
            name=attributes.name,
            task=attributes.task,
            ids=Texts(folder, "id", array, n),
            label_names=attributes.label_names,
            group=Texts(folder, "group", array, n),
            text=Texts(folder, "text", array, n),
            digests=_Digests(digests),
            about=attributes.about,
            _lazy={name: array[name] for name in LAZY},
            _folder=folder,
        )
        return index

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"split": self.split, "labels": self.labels, "position": self.position}
        for name, strings in {"id": self.ids, "group": self.group, "text": self.text}.items():
            arrays[f"{name}_bytes"], arrays[f"{name}_offsets"] = _pack(strings)
        return arrays | {f"digest_{modality}": digest for modality, digest in sorted(self.digests.items())}


class Texts(Sequence[str]):
    """The n texts of `<name>_bytes` and `<name>_offsets`, read on access; compares equal to a list of them.

    Raises StoreError where the offsets do not fit the bytes.
    """

    def __init__(self, folder: Path, name: str, array: Mapping[str, Lazy], n: int) -> None:
        self._folder, self._name, self._n = folder, name, n
        self._bytes, self._offsets = array[f"{name}_bytes"], array[f"{name}_offsets"]

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if self._n <= PIECE:
            return self._all[at]
        if isinstance(at, slice):
            start, stop, step = at.indices(self._n)
            return self._cut(start, stop) if step == 1 else [self[i] for i in range(start, stop, step)]
        row = operator.index(at)
        row += self._n * (row < 0)
        if not 0 <= row < self._n:
            raise IndexError(f"row {at} of {self._n} texts")
        return self._cut(row, row + 1)[0]

    def __iter__(self) -> Iterator[str]:
        if self._n <= PIECE:
            return iter(self._all)
        return (text for a in range(0, self._n, PIECE) for text in self._cut(a, min(a + PIECE, self._n)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<{self._n} texts: {', '.join(map(repr, self[:3]))}{', ...' if self._n > 3 else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    @cached_property
    def _all(self) -> list[str]:
        return self._cut(0, self._n)

    def _cut(self, start: int, stop: int) -> list[str]:
        """Read the texts `start` to `stop` - 1."""
        if start >= stop and self._n:
            return []
        offsets = self._offsets[start : stop + 1].astype(np.int64)
        size, bounds = len(self._bytes), offsets.tolist()
        fits = (
            len(bounds) == stop + 1 - start and bounds[0] >= 0 and bounds[-1] <= size and (np.diff(offsets) >= 0).all()
        )
        if fits and (start or bounds[0] == 0) and (stop < self._n or bounds[-1] == size):
            joined, first = self._bytes[bounds[0] : bounds[-1]].tobytes(), bounds[0]
            try:
                if joined.isascii():  # a byte is a character
                    text = joined.decode("ascii")
                    return [text[a - first : b - first] for a, b in pairwise(bounds)]
                return [joined[a - first : b - first].decode("utf-8") for a, b in pairwise(bounds)]
            except UnicodeDecodeError:
                pass
        raise _damaged(self._folder, f"{self._name}_offsets cut no {self._n} texts out of {self._name}_bytes")


class _Digests(Mapping[Modality, np.ndarray]):
    """Modality -> digests (n, 16) uint8, read on access."""

    def __init__(self, left: Mapping[Modality, Lazy]) -> None:
        self._left = left
        self._known: dict[Modality, np.ndarray] = {}

    def __getitem__(self, modality: Modality) -> np.ndarray:
        if modality not in self._known:
            self._known[modality] = self._left[modality][:]
        return self._known[modality]

    def __iter__(self) -> Iterator[Modality]:
        return iter(self._left)

    def __len__(self) -> int:
        return len(self._left)


def _check(folder: Path, array: Mapping[str, Lazy], n: int, k: int) -> None:
    """Refuse an index whose arrays are missing, or do not fit n samples with k labels. Raises StoreError."""
    wanted: dict[str, tuple[int, ...] | None] = {"split": (n,), "labels": (n, k), "position": (n,)}
    wanted |= {f"{name}_bytes": None for name in TEXTS} | {f"{name}_offsets": (n + 1,) for name in TEXTS}
    wanted |= {name: (n, fingerprint.DIGEST) for name in array if name.startswith("digest_")}
    for name, shape in wanted.items():
        if name not in array:
            raise _damaged(folder, f"it has no array {name}")
        lazy = array[name]
        kind = "f" if name == "labels" else "iu"
        if lazy.dtype.kind not in kind or (lazy.shape != shape if shape else len(lazy.shape) != 1):
            raise _damaged(
                folder, f"{name} is {lazy.dtype}{list(lazy.shape)}, which {n} samples with {k} labels have not"
            )


def _odd(task: Task, name: str, values: np.ndarray) -> str:
    """Return what is wrong with the values of one of LAZY; empty where nothing is."""
    if name == "split":
        odd = ~np.isin(values, [*range(len(layout.SPLITS)), layout.NO_SPLIT])
        what = f"a part that is none of {len(layout.SPLITS)}"
    elif name == "labels":
        odd = odd_labels(values, len(task.classes) if task.single else 0)
        what = f"a label that is none of {len(task.classes)} classes" if task.single else "a label that is no number"
    else:
        return ""
    rows = np.flatnonzero(odd)
    return f"{what}, in {len(rows)} of {len(values)} rows, the first of them {rows[0]}" if len(rows) else ""


def odd_labels(values: np.ndarray, classes: int) -> np.ndarray:
    """Return (n,) bool: which rows of labels (n, k) hold one that is no finite number, or where there are `classes`,
    none of their numbers. NaN stands for no label and is none of these."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        if classes:
            good = (values >= 0) & (values < classes) & (values == np.floor(values))
        else:
            good = np.abs(values) <= limits.MAX_LABEL
    return np.asarray((known & ~good).any(axis=1))


def _pack(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encode strings as UTF-8 bytes (total,) and offsets (n + 1,): not every Zarr reader knows a string type."""
    encoded = [string.encode("utf-8", "replace") for string in strings]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"damaged store: {folder}: {what}", fix="run `msa cache verify`, and then `msa cache repair`")
