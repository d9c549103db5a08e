"""The index of one corpus: everything stage 2 needs to know of a sample besides its hidden states."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache import fingerprint, layout
from msa.cache.files import folder_durably
from msa.types import Modality, Split, Task


@dataclass(frozen=True)
class Index:
    """n samples of one corpus, in a fixed order; a view's `sample` numbers are rows of it.

    `labels` is (n, k) float32 - class numbers or values, NaN where nobody labelled - under `label_names`, of which
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

    @property
    def y(self) -> np.ndarray:
        """(n,) float32: the label that is trained on; of a multilabel task (n, C), a column per class."""
        return np.asarray(self.labels[:, : self.task.outputs] if self.task.multilabel else self.labels[:, 0])

    def rows(self, split: Split) -> np.ndarray:
        """Row numbers of a split, ascending."""
        return np.flatnonzero(self.split == layout.SPLITS.index(split))

    def has(self, modality: Modality) -> np.ndarray:
        """(n,) bool: which samples have raw material of this modality."""
        digest = self.digests.get(modality)
        return np.zeros(len(self), bool) if digest is None else np.asarray(digest.any(axis=1))

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> class -> how many samples, with the unlabelled named; several classes may be said of one sample."""
        y, found = self.y, {}
        labelled = np.isfinite(y) if y.ndim == 1 else np.isfinite(y).all(1)
        for split in Split:
            rows = self.rows(split)
            known = rows[labelled[rows]]
            if self.task.multilabel:
                table = {name: int((y[known, n] > 0).sum()) for n, name in enumerate(self.task.classes)}
            else:
                table = {name: int((y[known] == n).sum()) for n, name in enumerate(self.task.classes)}
            found[split.value] = (table or {"labelled": len(known)}) | {"unlabelled": len(rows) - len(known)}
        return found

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides a training set: samples, inputs, labels, splits, groups."""
        hashes = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in self._arrays().items()}
        facts = {"name": self.name, "task": _facts(self.task), "label_names": list(self.label_names)}
        return fingerprint.key(facts | {"arrays": hashes})

    def write(self, folder: Path) -> Path:
        """Write `folder/<fingerprint>/` whole or not at all; what is there already is the same and stays."""
        final = folder / self.fingerprint
        if final.exists():
            return final
        attributes = {
            "name": self.name,
            "task": _facts(self.task),
            "label_names": list(self.label_names),
            "splits": list(layout.SPLITS),
            "about": dict(self.about),
        }
        with folder_durably(final) as temporary:
            layout.write_group(temporary, self._arrays(), attributes)
        return final

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read what `write` wrote."""
        attributes = layout.read_json(folder / "zarr.json")["attributes"]
        task = attributes["task"]
        array = {path.name: layout.read_array(path) for path in folder.iterdir() if path.is_dir()}
        prefix = "digest_"
        return cls(
            name=attributes["name"],
            task=Task(tuple(task["classes"]), task["low"], task["high"], task.get("multilabel", False)),
            ids=_unpack(array["id_bytes"], array["id_offsets"]),
            split=array["split"],
            labels=array["labels"],
            label_names=tuple(attributes["label_names"]),
            group=_unpack(array["group_bytes"], array["group_offsets"]),
            position=array["position"],
            text=_unpack(array["text_bytes"], array["text_offsets"]),
            digests={Modality(n.removeprefix(prefix)): v for n, v in array.items() if n.startswith(prefix)},
            about=attributes["about"],
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"split": self.split, "labels": self.labels, "position": self.position}
        for name, strings in {"id": self.ids, "group": self.group, "text": self.text}.items():
            arrays[f"{name}_bytes"], arrays[f"{name}_offsets"] = _pack(strings)
        return arrays | {f"digest_{modality}": digest for modality, digest in sorted(self.digests.items())}


def _facts(task: Task) -> dict[str, Any]:
    """The task as an index keeps it: `multilabel` where it holds, so that all others keep the key they always had."""
    return {name: value for name, value in asdict(task).items() if name != "multilabel" or value}


def _pack(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Strings as UTF-8 bytes (total,) and offsets (n + 1,): Zarr v3 has no string type that every reader knows."""
    encoded = [string.encode("utf-8", "replace") for string in strings]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _unpack(data: np.ndarray, offsets: np.ndarray) -> list[str]:
    joined, bounds = data.tobytes(), offsets.tolist()
    return [joined[a:b].decode("utf-8") for a, b in pairwise(bounds)]
