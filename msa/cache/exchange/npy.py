"""A folder with a table of labels and one .npy file per sample and modality. Read and written.

Layout   FOLDER/samples.csv (id, split, label, text, group, position; also .tsv or .jsonl, see `table`) and
         FOLDER/MODALITY/ID.npy of shape (T, D), or (D,) which is one row. The folders are called text, audio, image,
         face (or vision, video); others are named by a setting: modality=covarep:audio. An id may hold a slash (a file
         in a folder of the folder); what no file name can hold is written as in web addresses: %2F.
Labels   As msa/labels.py says: classes or a scale, judged, printed, or said by task, range, classes. label_text,
         label_audio, ... label one modality alone. Several at once are a column each: labels=happy,sad. Where a
         corpus.json lies beside the table, as in what is exported, it says the task.
Lengths  T of each file; nothing is padded. Values stay as they are; float16 stays float16 where every file has it.
Traps    A row without a file is a recorded failure where other rows have one, or lacks that modality: missing=absent.
         A file without a row is dropped. A width other than that of most files, a torn file and one that holds Python
         objects are failures; no pickle is ever opened.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from msa import labels, records, regular
from msa.cache import fingerprint, layout
from msa.cache.exchange import _corpus, _table
from msa.cache.exchange._output import whole
from msa.cache.foreign import Bundle, Feature, Foreign, Unreadable
from msa.cache.indexing import Corpus
from msa.config import checked, settings_of
from msa.errors import SourceError, StoreError
from msa.labels import Row
from msa.tasks import Settings
from msa.types import Dropped, Modality, Task

LARGEST_FILE = 4 * layout.SHARD_BYTES  # bytes: of a sample in float64, and twice that
TABLE, ABOUT, VERSION = "samples.csv", "corpus.json", 1
SAFE = " !$&'()+,;=@[]{}"  # in file names, besides letters, digits and _.-~
LAYOUT = "FOLDER/samples.csv (id, split, label, text, group, position) and FOLDER/MODALITY/ID.npy, each (T, D) or (D,)"


@dataclass(frozen=True)
class Config:
    table: str = TABLE  # the table of labels, in the folder
    modality: str = ""  # what folders are that are not called after a modality: covarep:audio,au:face,old:none
    labels: str = ""  # columns of a label that is several at once: happy,sad,anger
    range: tuple[float, ...] = ()  # low, high of labels that are a scale; nothing: as far as they reach
    task: Literal["auto", "classes", "regression"] = "auto"  # what labels are that are numbers; auto: judged from them
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    missing: Literal["failed", "absent"] = "failed"  # what a row without a file is, where other rows have one
    split: Literal["by_group", "random"] = "by_group"  # what stays together when parts are drawn

    def __post_init__(self) -> None:
        checked(self)
        labels.check_range(self.range)
        self.told()

    def told(self) -> Settings:
        """What these settings say of the labels. Raises ConfigError."""
        return Settings.of(self.task, self.range, self.classes)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """A folder of .npy files as a corpus. Raises SourceError where there is no table, or no feature."""
    for file in (path / config.table, path / ABOUT):
        regular.check_inside(path, file)
    if not (path / config.table).exists():
        raise SourceError(f"{path} has no table of labels {config.table}", fix=f"lay it like this: {LAYOUT}")
    about = _about(path / ABOUT)
    columns, rows = labels.rows(path / config.table)
    decision = _table.decide(columns, rows, _told(about, config), config.told())
    folders = [_Folder.below(path / folder, modality, rows) for folder, modality in _folders(path, config)]
    corpus = Corpus(
        name=_corpus.corpus_name(name or str(about.get("name") or path.resolve().name)),
        task=decision.task,
        labels=decision.sentence,
        source=_corpus.source_in(about.get("source"), path, "A folder of .npy files", LAYOUT),
        samples=[_table.sample(row, decision, columns, config.split == "by_group") for row in rows],
        dropped=[Dropped(file, f"no row in {config.table}") for folder in folders for file in folder.others],
        settings=settings_of(config, "task", "classes"),
    )
    told = about.get("features")
    features = [folder.feature(rows, told if isinstance(told, dict) else {}, config) for folder in folders]
    return Foreign("npy", path, _corpus.digest_of(features, [row.id for row in rows]), corpus, features)


def _about(path: Path) -> Mapping[str, Any]:
    """What an exported folder says of its corpus; nothing where it was not exported by us."""
    if not path.exists():
        return {}
    try:
        found = _corpus.json_in(records.bytes_of(path, _corpus.LONGEST_JSON))
    except ValueError as error:
        raise SourceError(f"{path}: {error}", fix="mend or delete it: the table of labels is enough") from error
    if not isinstance(found, dict) or found.get("format") != "msa":
        return {}
    if found.get("version") != VERSION:
        raise SourceError(
            f"{path} is of version {found.get('version')!r}, this msa reads {VERSION}",
            fix="update msa, or delete the file: the table of labels is enough",
        )
    return found


def _told(about: Mapping[str, Any], config: Config) -> Task | None:
    """The task that settings or an exported folder's corpus.json say; None where the labels have to."""
    if classes := tuple(filter(None, (name.strip() for name in config.labels.split(",")))):
        return Task(classes=classes, multilabel=True)
    return None if config.told() != Settings() else _corpus.task_in(about.get("task"), ABOUT)


# the files


def _folders(path: Path, config: Config) -> Iterator[tuple[str, Modality]]:
    """The sub-folders with .npy files, and of which modality each is."""
    there = sorted(p.name for p in path.iterdir() if p.name[0] != "." and p.is_dir() and next(p.rglob("*.npy"), None))
    said = _corpus.said(config.modality, there)
    if not there:
        raise SourceError(f"{path} has no folder of .npy files", fix=f"lay it like this: {LAYOUT}")
    for name in there:
        regular.check_inside(path, path / name)
        kind = said.get(name) or _corpus.modality_of(name)
        if kind is None:
            raise _corpus.unplaced(path, name)
        if kind != _corpus.NONE:
            yield name, Modality(kind)


@dataclass(frozen=True)
class _Folder:
    """The .npy files of one feature, by the id of their sample."""

    path: Path
    modality: Modality
    files: Mapping[str, Path]
    others: Sequence[str]  # files that belong to no sample

    @classmethod
    def below(cls, path: Path, modality: Modality, rows: Sequence[Row]) -> "_Folder":
        """Find the files among those that are there, so that no id, such as `../x`, leads out of the folder."""
        there = {file.relative_to(path).as_posix(): file for file in _found(path) if file.name[:2] != "._"}
        names = {row.id: _file_name(row.id) for row in rows}
        files = {id: there[name] for id, name in names.items() if name in there}
        taken = set(map(names.get, files))
        for id in names:
            name = f"{id}.npy"  # written by others: the id as it is
            if id not in files and name in there and name not in taken:
                files[id] = there[name]
        if not files:
            raise SourceError(
                f"{path}: none of {len(there)} files is called after an id: {next(iter(there))}, "
                f"and the ids are {', '.join(repr(row.id) for row in rows[:3])}",
                fix=f"call them ID.npy, or leave the folder out: modality={path.name}:{_corpus.NONE}",
            )
        used = set(files.values())
        return cls(path, modality, files, [f"{path.name}/{name}" for name, file in there.items() if file not in used])

    def feature(self, rows: Sequence[Row], told: Mapping[str, Any], config: Config) -> Feature:
        """The hidden states, lazily. Their width is that of most files. Raises SourceError where none can be read."""
        digests = {row.id: self._digest(row.id, config.missing == "failed") for row in rows}
        heads = [head for file in self.files.values() if (head := _head(file))]
        if not heads:
            first = next(iter(self.files.values()))
            raise SourceError(
                f"none of {len(self.files)} files in {self.path} can be read, not even {first.name}",
                fix=f"look at them, or leave the folder out: modality={self.path.name}:{_corpus.NONE}",
            )
        dim = Counter(shape[-1] for shape, _ in heads).most_common(1)[0][0]
        narrow = all(dtype == np.float16 for _, dtype in heads)
        from_ = told.get(self.path.name)
        facts = dict(from_) if isinstance(from_, dict) else {}
        return Feature(
            name=self.path.name,
            modality=self.modality,
            dim=dim,
            read=self._read,
            digest=digests.get,
            columns=_corpus.columns_in(facts.get("columns"), dim),
            dtype="float16" if narrow else "float32",
            facts={"exported from": facts} if facts else {},
        )

    def _digest(self, id: str, expected: bool) -> bytes | None:
        if id not in self.files:
            return fingerprint.of_text(f"missing {self.path.name} of {id}") if expected else None
        try:
            _check_file(self.files[id])
            return fingerprint.of_file(self.files[id])
        except (OSError, Unreadable):  # reading meets it again and says why; it equals no other
            return fingerprint.of_text(f"unreadable {self.path.name} of {id}")

    def _read(self, id: str) -> np.ndarray:
        """(T, D) of a sample."""
        if id not in self.files:
            raise Unreadable("no file")
        try:
            states = np.array(_open(self.files[id]))
        except Unreadable:
            raise
        except Exception as error:  # of many kinds, for a header is parsed as Python
            raise Unreadable(f"damaged file: {error}") from error
        return states[None] if states.ndim == 1 else states


def _file_name(id: str) -> str:
    """The file of a sample, with what file names cannot hold, or hide, written as in web addresses."""
    name = quote(id, safe=SAFE)
    return f"%2E{name[1:]}.npy" if name[:1] == "." else f"{name}.npy"


def _found(folder: Path) -> list[Path]:
    """The .npy files below a folder, in alphabetical order; links to other folders are not followed."""
    names = [os.path.join(parent, name) for parent, _, files in os.walk(folder) for name in files]
    return sorted(Path(name) for name in names if name.endswith(".npy"))


def _check_file(path: Path) -> None:
    """Raise Unreadable for what is no regular file, too large for one sample, or a link out of the folder."""
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise Unreadable("a link, and links are not followed")
    if not stat.S_ISREG(about.st_mode):
        raise Unreadable("a pipe or a device, not a file")
    if not about.st_size:
        raise Unreadable("empty file")
    if about.st_size > LARGEST_FILE:
        raise Unreadable(f"{about.st_size / 1e6:,.0f} MB, more than a shard holds")


def _open(path: Path) -> np.ndarray:
    """The array, mapped and not loaded: a file that holds less than it says is an error here, whatever it says."""
    _check_file(path)
    mapped = np.lib.format.open_memmap(path, mode="r")  # refuses Python objects
    if mapped.dtype.kind not in "biuf":
        raise Unreadable(f"holds {mapped.dtype}, not numbers")
    return mapped


def _head(path: Path) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype of a file; None where it cannot be read."""
    try:
        found = _open(path)
    except Exception:  # recorded when the sample's turn comes
        return None
    return (found.shape, found.dtype.newbyteorder("=")) if found.ndim and found.size else None


# writing


def write(bundle: Bundle, out: Path) -> list[str]:
    """Write a corpus as such a folder; returns what could not be carried over.

    Raises StoreError where `out` exists, or a table or a file name cannot hold what the store holds.
    """
    index = bundle.index
    with whole(out, _size(bundle)) as folder:
        folder.mkdir()
        _table.write(folder / TABLE, index)
        about = {"format": "msa", "version": VERSION, **_corpus.facts(bundle)}
        (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False, default=str), "utf-8")
        for modality, reader in bundle.readers.items():
            (folder / modality).mkdir()
            for row in np.flatnonzero(reader.length >= 0).tolist():
                _write_states(folder / modality / _file_name(index.ids[row]), index.ids[row], reader.read(row))
    return _corpus.lost(bundle)


def _size(bundle: Bundle) -> int:
    """Bytes of the files, about: values, headers and texts."""
    texts = sum(len(text) for text in bundle.index.text)
    return texts + sum(
        int((reader.length[reader.length >= 0].astype(np.int64) * reader.view.dim * 4 + 128).sum())
        for reader in bundle.readers.values()
    )


def _write_states(path: Path, id: str, states: np.ndarray) -> None:
    try:
        with open(path, "xb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(states), allow_pickle=False)
    except OSError as error:
        if isinstance(error, FileExistsError):  # a disk that does not tell A from a
            raise StoreError(f"two ids would share the file {path.name}", fix="export it as hdf5") from error
        if len(path.name.encode()) > 255:
            raise StoreError(f"the id {id!r} is too long for a file name", fix="export it as hdf5") from error
        raise
