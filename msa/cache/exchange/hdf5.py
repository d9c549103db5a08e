"""One HDF5 file with a dataset and its hidden states, which any HDF5 library can read. Read and written.

Layout   Attributes of the file: format = "msa", version = 1, name, task and source (JSON). Datasets of n samples: id,
         split, group, text (strings, UTF-8), position, labels (n, k) float32 with the attribute names. A group
         features/MODALITY with data (rows, D), start (n,) and length (n,), and the attributes backbone, columns and
         provenance (JSON). docs/exchange.md has it in full.
Lengths  `length` rows from `start` on; nothing is padded. -1: the sample lacks this modality; 0: it should have it,
         and `reason` (n,), where it is there, says why it has not.
Needed   id and one group of features. Without start the samples' rows follow one another; without length, too, each
         sample has one row. Without split, parts are drawn. Without task it is judged from the labels
         (msa/annotations/tasks.py), or said by the settings task, range, classes.
Traps    Links and data in other files are not followed; rows that were never written are failures, not zeros.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from msa.annotations import tasks
from msa.annotations.splits import NAMES
from msa.annotations.tasks import Decision, Settings
from msa.cache.exchange import _corpus, _hdf5
from msa.cache.exchange._columns import names_of
from msa.cache.exchange._foreign import Bundle, Feature, Foreign, Unreadable
from msa.cache.exchange._output import whole
from msa.cache.format import fingerprint, layout
from msa.cache.index import Index
from msa.cache.read.view import ViewReader
from msa.cache.write.dataset_index import Corpus
from msa.config import checked, settings_of
from msa.errors import SourceError, StoreError
from msa.types import Modality, Raw, Sample, Split, Task

FORMAT, VERSION = "msa", 1
LAYOUT = "id, split, group, text, position, labels, features/MODALITY/{data, start, length}"


@dataclass(frozen=True)
class Config:
    split: Literal["by_group", "random"] = "by_group"  # what stays together where parts are drawn
    task: Literal["auto", "classes", "regression"] = "auto"  # what labels are; auto: as the file says, or judged
    range: tuple[float, ...] = ()  # low, high of labels that are a scale; nothing: as the file says, or as they reach
    classes: str = ""  # names of the classes in the order of their numbers: bad,good

    def __post_init__(self) -> None:
        checked(self)
        Settings.of(self)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return an HDF5 file of this layout as a corpus.

    Raises SourceError for another layout, version, or a damaged file.
    """
    file = _hdf5.opened(path)
    _check_version(path, file)
    ids = _ids(path, file)
    names, numbers = _labels(path, file, len(ids))
    decision = _decide(path, file, numbers, config)
    task = decision.task
    if unknown := set(names) - set(_corpus.label_names(task)):
        raise SourceError(
            f"{path}: a column of labels is called {min(unknown)!r}",
            fix=f"call them {', '.join(_corpus.label_names(task))}, in the attribute names of labels",
        )
    corpus = Corpus(
        name=_corpus.corpus_name(name or str(_hdf5.attribute(file, "name") or path.stem)),
        task=task,
        source=_corpus.source_in(_json(file, "source"), path, "An HDF5 file", LAYOUT),
        labels=decision.sentence,
        samples=_samples(path, file, ids, task, names, numbers, config),
        settings=settings_of(config, "task", "range", "classes"),
    )
    features = _features(path, file, ids)
    return Foreign("hdf5", path, _corpus.digest_of(features, ids), corpus, features)


def _check_version(path: Path, file: Any) -> None:
    format, version = _hdf5.attribute(file, "format"), _hdf5.attribute(file, "version")
    if format != FORMAT:
        raise SourceError(
            f"{path}: the attribute format is {format!r}, not {FORMAT!r}",
            fix="a computational sequence of the CMU-MultimodalSDK is of the format csd; others have to be converted",
        )
    if version != VERSION:
        raise SourceError(
            f"{path} is of version {version!r}, this msa reads version {VERSION}",
            fix="update msa, or export the file again with an older one",
        )


def _json(of: Any, name: str) -> Any:
    """Return the value an attribute holds as JSON; None where there is none."""
    text = _hdf5.attribute(of, name)
    try:
        return None if text is None else _corpus.json_in(text)
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{of.file.filename}: the attribute {name} is no JSON ({error})", fix="correct it, or leave it out"
        ) from error


# samples


def _ids(path: Path, file: Any) -> list[str]:
    dataset = _hdf5.child(file, "id", "Dataset")
    ids = _hdf5.strings(dataset) if dataset is not None else []
    if not ids:
        raise SourceError(f"{path} names no sample: id is missing or empty", fix=f"write it in this layout: {LAYOUT}")
    twice, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise SourceError(f"{path}: id {twice!r} is there {times} times", fix="give every sample its own")
    return ids


def _column(path: Path, group: Any, name: str, n: int) -> Any:
    """Return a dataset with a row per sample; None where there is none."""
    dataset = _hdf5.child(group, name, "Dataset")
    if dataset is not None and (not dataset.shape or dataset.shape[0] != n):
        raise SourceError(
            f"{path}: {dataset.name} has shape {list(dataset.shape)}, for {n} samples", fix=_hdf5.GET_AGAIN
        )
    return dataset


def _strings(path: Path, file: Any, name: str, n: int) -> list[str]:
    dataset = _column(path, file, name, n)
    return [""] * n if dataset is None else _hdf5.strings(dataset)


def _whole_numbers(path: Path, group: Any, name: str, n: int) -> np.ndarray | None:
    """Return (n,) int64, None where there is no such dataset."""
    dataset = _column(path, group, name, n)
    if dataset is None:
        return None
    values = _hdf5.whole(dataset)
    if values.dtype.kind not in "iu" or values.shape != (n,):
        raise SourceError(
            f"{path}: {dataset.name} holds {values.dtype}{list(values.shape)}, not {n} whole numbers",
            fix=_hdf5.GET_AGAIN,
        )
    return values.astype(np.int64)


def _labels(path: Path, file: Any, n: int) -> tuple[list[str], np.ndarray]:
    """Return the names and values (n, k) of the labels; NaN where there are none."""
    dataset = _column(path, file, "labels", n)
    if dataset is None:
        return ["label"], np.full((n, 1), np.nan, np.float32)
    values = _hdf5.whole(dataset)
    values = values[:, None] if values.ndim == 1 else values
    names = _hdf5.attribute(dataset, "names") or ["label"]
    if (
        values.dtype.kind not in _hdf5.NUMBERS
        or values.ndim != 2
        or values.shape[1] != len(names)
        or isinstance(names, str)
    ):
        raise SourceError(
            f"{path}: labels hold {values.dtype}{list(values.shape)} and are called {names_of(names)}",
            fix="write numbers (n, k), and k names into the attribute names",
        )
    return names, values


def _decide(path: Path, file: Any, numbers: np.ndarray, config: Config) -> Decision:
    """Return what the labels are: as set, as the file says, or judged. Class numbers count from 0 on afterwards."""
    stated = _corpus.task_in(_json(file, "task"), path)
    if stated and Settings.of(config) == Settings():
        return Decision(stated, "classes" if stated.classes else "regression", "as the file says")
    judged = tasks.of_numbers(numbers.reshape(-1), Settings.of(config))
    given = numbers.copy()
    for number, value in enumerate(judged.numbers):
        numbers[given == value] = number
    return judged


def _samples(
    path: Path, file: Any, ids: Sequence[str], task: Task, names: Sequence[str], numbers: np.ndarray, config: Config
) -> list[Sample]:
    n, by_group = len(ids), config.split == "by_group"
    parts, groups, texts = (_strings(path, file, name, n) for name in ("split", "group", "text"))
    position = _whole_numbers(path, file, "position", n)
    samples = []
    for row, id in enumerate(ids):
        try:
            label, alone = _corpus.label_of(task, names, numbers[row])
        except (ValueError, KeyError) as error:
            raise SourceError(f"{path}: the label of {id}: {error}", fix=f"correct it, or {tasks.SAY}") from error
        samples.append(
            Sample(
                id=id,
                label=label,
                raw={Modality.TEXT: Raw(text=texts[row])} if texts[row].strip() else {},
                split=_part(path, id, parts[row]),
                group=groups[row],
                position=0 if position is None else int(position[row]),
                keep_together=groups[row] if by_group else "",
                modality_labels=alone,
            )
        )
    return samples


def _part(path: Path, id: str, name: str) -> Split | None:
    if name and name.lower() not in NAMES:
        raise SourceError(f"{path}: {id} is in {name!r}", fix=f"use one of {', '.join(NAMES)}, or an empty string")
    return NAMES.get(name.lower())


# features


def _features(path: Path, file: Any, ids: Sequence[str]) -> list[Feature]:
    groups = _hdf5.child(file, "features", "Group")
    names = [] if groups is None else _hdf5.names(groups)
    if not names:
        raise SourceError(f"{path} holds no features", fix=f"write it in this layout: {LAYOUT}")
    stored = {name: _Stored.of(path, _hdf5.child(groups, name, "Group"), ids) for name in names}
    room = _hdf5.Room.of(path)
    for name, feature in stored.items():
        for id, (start, length) in feature.spans.items():
            room.take((name, id), feature.rows, start, start + length)
    return [feature.feature(name, ids) for name, feature in stored.items()]


@dataclass(frozen=True)
class _Stored:
    """The rows of one feature and where in them each sample's are."""

    group: Any
    rows: _hdf5.Rows
    spans: Mapping[str, tuple[int, int]]  # id -> start, length; without those that lack it
    reasons: Mapping[str, str]  # id -> why it has no hidden states, where the file says so

    @classmethod
    def of(cls, path: Path, group: Any, ids: Sequence[str]) -> "_Stored":
        n, data = len(ids), _hdf5.child(group, "data", "Dataset")
        if data is None:
            raise SourceError(f"{path}: {group.name} has no data", fix=f"write it in this layout: {LAYOUT}")
        rows = _hdf5.Rows.of(data)
        length, start = (_whole_numbers(path, group, name, n) for name in ("length", "start"))
        if length is None:
            if len(rows) != n:
                raise SourceError(f"{path}: {group.name} has {len(rows)} rows for {n} samples", fix="add its length")
            length = np.ones(n, np.int64)
        if start is None:
            start = np.cumsum([0, *length.clip(min=0)[:-1]])
        spans = {id: (int(s), int(t)) for id, s, t in zip(ids, start, length, strict=True) if t >= 0}
        reasons = zip(ids, _strings(path, group, "reason", n), strict=True)
        return cls(group, rows, spans, {id: reason for id, reason in reasons if reason})

    def feature(self, name: str, ids: Sequence[str]) -> Feature:
        kind = _corpus.modality_of(str(_hdf5.attribute(self.group, "modality") or name))
        if kind is None:
            raise SourceError(
                f"{self.group.file.filename}: nothing says of which modality {self.group.name} is",
                fix=f"give it an attribute modality: one of {', '.join(Modality)}",
            )
        provenance = _json(self.group, "provenance")
        digests = {id: self._digest(name, id) for id in self.spans}
        return Feature(
            name=name,
            modality=kind,
            dim=self.rows.width,
            read=self._read,
            digest=digests.get,
            columns=_corpus.columns_in(_hdf5.attribute(self.group, "columns"), self.rows.width),
            dtype="float16" if self.rows.data.dtype == np.float16 else "float32",
            facts={"exported from": provenance} if isinstance(provenance, dict) else {},
        )

    def _read(self, id: str) -> np.ndarray:
        """Return (T, D) of a sample."""
        start, length = self.spans[id]
        if not length:
            raise Unreadable(self.reasons.get(id, "no hidden states in the file"))
        return self.rows.read(start, start + length)

    def _digest(self, name: str, id: str) -> bytes:
        """Return a digest of the values, so that equal samples are kept together and stored once."""
        try:
            states = np.ascontiguousarray(self._read(id))
        except Unreadable:
            return fingerprint.of_text(f"unreadable {name} of {id}")
        return xxhash.xxh3_128_digest(f"{states.dtype.str}{states.shape}".encode() + states.tobytes())


# writing


def write(bundle: Bundle, out: Path) -> list[str]:
    """Write a dataset as such a file; returns what could not be carried over. Raises StoreError where `out` exists."""
    import h5py

    remarks = _corpus.lost(bundle)
    facts = _corpus.facts(bundle)
    nbytes = sum(_rows(reader) * reader.view.dim * 4 for reader in bundle.readers.values())
    with whole(out, nbytes) as temporary, h5py.File(temporary, "w", libver=("v108", "latest")) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "name": facts["name"]})
        for name in ("task", "source"):
            file.attrs[name] = json.dumps(facts[name], ensure_ascii=False)
        remarks += _write_index(file, bundle.index)
        features = file.create_group("features")
        for modality, reader in bundle.readers.items():
            _write_feature(features.create_group(modality), modality, reader, bundle.index, facts["features"][modality])
    return remarks


def _write_index(file: Any, index: Index) -> list[str]:
    """Return the samples. A string of variable length ends at a NUL in HDF5, so texts lose theirs, which is said."""
    import h5py

    parts = [layout.SPLITS[part] if part < len(layout.SPLITS) else "" for part in index.split]
    for name, values in {"id": index.ids, "split": parts, "group": index.group, "text": index.text}.items():
        if name != "text" and (odd := next((value for value in values if "\0" in value), None)) is not None:
            raise StoreError(f"the {name} {odd!r} holds a NUL, which HDF5 ends a string at", fix="export it as npy")
        file.create_dataset(name, data=[value.replace("\0", "") for value in values], dtype=h5py.string_dtype())
    file["position"] = index.position
    file["labels"] = index.labels
    file["labels"].attrs["names"] = list(index.label_names)
    odd_texts = sum("\0" in text for text in index.text)
    return [f"{odd_texts} texts hold NUL characters, which are left out"] if odd_texts else []


def _rows(reader: ViewReader) -> int:
    return int(reader.length.clip(min=0).sum(dtype=np.int64))


def _reason(failure: Mapping[str, Any] | None) -> str:
    """Return why and at which stage a sample failed; "" where it did not."""
    return f"{failure['stage']}: {failure['reason']}".replace("\0", "") if failure else ""


def _write_feature(group: Any, modality: Modality, reader: ViewReader, index: Index, about: Mapping[str, Any]) -> None:
    import h5py

    expected = index.has(modality) | np.isin(np.arange(len(index)), list(reader.failures))
    length = np.where(reader.length >= 0, reader.length, np.where(expected, 0, -1)).astype(np.int64)
    start = np.cumsum([0, *length.clip(min=0)[:-1]])
    rows, width = _rows(reader), reader.view.dim
    dtype = np.dtype("float16" if about.get("dtype") == "float16" else "float32")
    chunk = max(1, min(rows, layout.chunk_rows(width, dtype.itemsize)))
    data = group.create_dataset(  # a checksum for every chunk: a flipped bit is an error for every reader
        "data", (rows, width), dtype, chunks=(chunk, width) if rows else None, fletcher32=rows > 0
    )
    for row in np.flatnonzero(length > 0).tolist():
        data[start[row] : start[row] + length[row]] = reader.read(row)
    group["start"], group["length"] = start, length
    if reader.failures:
        reasons = [_reason(reader.failures.get(row)) for row in range(len(index))]
        group.create_dataset("reason", data=reasons, dtype=h5py.string_dtype())
    group.attrs["backbone"] = reader.view.name
    group.attrs["columns"] = about["columns"]
    group.attrs["provenance"] = json.dumps(about, ensure_ascii=False, default=str)
