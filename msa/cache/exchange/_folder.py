"""A folder with a table of labels and one file per sample and modality: what `npy` and `csvs` share.

FOLDER/samples.csv, FOLDER/MODALITY/ID.SUFFIX. Files are found among those that are there, so that no id leads out. A
link is followed where it leads to a file in FOLDER, as git-annex and DVC lay files; what leads elsewhere is refused.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from msa import regular
from msa.annotations import labels
from msa.annotations import rows as records
from msa.annotations.labels import Row
from msa.annotations.tasks import Settings
from msa.cache.exchange import _corpus, _table
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable
from msa.cache.format import fingerprint, layout
from msa.cache.write.dataset_index import Corpus
from msa.config import checked, settings_of
from msa.errors import SourceError
from msa.types import Dropped, Modality, Task

LARGEST_FILE = 4 * layout.SHARD_BYTES  # bytes: of a sample in float64, and twice that
TABLE, ABOUT, VERSION = "samples.csv", "corpus.json", 1
SAFE = " !$&'()+,;=@[]{}"  # in file names, besides letters, digits and _.-~


@dataclass(frozen=True)
class Config:
    """Settings of a folder of files."""

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
        Settings.of(self)


def corpus(
    format: str,
    path: Path,
    config: Config,
    name: str | None,
    suffix: str,
    layout: str,
    feature: Callable[["Files", Mapping[str, Any]], Feature],
) -> Foreign:
    """Read such a folder as a dataset. Raises SourceError where there is no table, or no feature.

    Args:
        format: The format's name.
        path: The folder.
        config: Its settings.
        name: What the dataset is to be called; None: as it says, or as the folder.
        suffix: How the names of the files end.
        layout: How such a folder lies, for messages.
        feature: Makes a feature of the files of a folder, and of what a corpus.json says of it.
    """
    for file in (path / config.table, path / ABOUT):
        regular.check_inside(path, file)
    if not (path / config.table).exists():
        raise SourceError(f"{path} has no table of labels {config.table}", fix=f"lay it like this: {layout}")
    about = _about(path / ABOUT)
    columns, rows = labels.rows(path / config.table)
    decision = _table.decide(columns, rows, _stated_task(about, config), Settings.of(config))
    folders = [
        Files.below(path, folder, modality, rows, suffix, config.missing)
        for folder, modality in _folders(path, config, suffix, layout)
    ]
    made = Corpus(
        name=_corpus.corpus_name(name or str(about.get("name") or path.resolve().name)),
        task=decision.task,
        labels=decision.sentence,
        source=_corpus.source_in(about.get("source"), path, f"A folder of {suffix} files", layout),
        samples=[_table.sample(row, decision, columns, config.split == "by_group") for row in rows],
        dropped=[Dropped(file, f"no row in {config.table}") for folder in folders for file in folder.others],
        settings=settings_of(config, "task", "classes"),
    )
    features_stated = about.get("features")
    features = [feature(files, features_stated if isinstance(features_stated, dict) else {}) for files in folders]
    return Foreign(format, path, _corpus.digest_of(features, [row.id for row in rows]), made, features)


def _about(path: Path) -> Mapping[str, Any]:
    """Return what the corpus.json of an exported folder says; {} for a folder that another program wrote."""
    if not path.exists():
        return {}
    try:
        stated = _corpus.json_in(records.bytes_of(path, _corpus.LONGEST_JSON))
    except ValueError as error:
        raise SourceError(f"{path}: {error}", fix="mend or delete it: the table of labels is enough") from error
    if not isinstance(stated, dict) or stated.get("format") != "msa":
        return {}
    if stated.get("version") != VERSION:
        raise SourceError(
            f"{path} is of version {stated.get('version')!r}, this msa reads {VERSION}",
            fix="update msa, or delete the file: the table of labels is enough",
        )
    return stated


def _stated_task(about: Mapping[str, Any], config: Config) -> Task | None:
    """Return the task that settings or an exported folder's corpus.json state; None: judged from the labels."""
    if classes := tuple(filter(None, (name.strip() for name in config.labels.split(",")))):
        return Task(classes=classes, multilabel=True)
    return None if Settings.of(config) != Settings() else _corpus.task_in(about.get("task"), ABOUT)


def _folders(path: Path, config: Config, suffix: str, layout: str) -> Iterator[tuple[str, Modality]]:
    """Yield the sub-folders with such files, and of which modality each is."""
    ours = (p for p in path.iterdir() if p.name[0] != "." and p.is_dir())
    names = sorted(p.name for p in ours if next(p.rglob(f"*{suffix}"), None))
    kinds = _corpus.kinds_in(config.modality, names)
    if not names:
        raise SourceError(f"{path} has no folder of {suffix} files", fix=f"lay it like this: {layout}")
    for name in names:
        regular.check_inside(path, path / name)
        kind = kinds.get(name) or _corpus.modality_of(name)
        if kind is None:
            raise _corpus.unplaced(path, name)
        if kind != _corpus.NONE:
            yield name, Modality(kind)


@dataclass(frozen=True)
class Files:
    """The files of one feature, by the id of their sample."""

    root: Path  # the folder given
    path: Path
    modality: Modality
    files: Mapping[str, Path]
    others: Sequence[str]  # files that belong to no sample
    ids: Sequence[str]  # of all samples
    missing: str  # what a sample without a file is

    @classmethod
    def below(
        cls, root: Path, name: str, modality: Modality, rows: Sequence[Row], suffix: str, missing: str
    ) -> "Files":
        """Find the files in the folder `name` among those that are there. Raises SourceError where none is of a row.

        Args:
            root: The folder given.
            name: The folder in it.
            modality: What its files are of.
            rows: The samples.
            suffix: How file names end.
            missing: `failed` or `absent`: what a sample without a file is.
        """
        path = root / name
        files_there = {
            file.relative_to(path).as_posix(): file for file in _found(path, suffix) if file.name[:2] != "._"
        }
        names = {row.id: file_name(row.id, suffix) for row in rows}
        files = {id: files_there[name] for id, name in names.items() if name in files_there}
        taken = set(map(names.get, files))
        for id in names:
            plain = f"{id}{suffix}"  # written by others: the id as it is
            if id not in files and plain in files_there and plain not in taken:
                files[id] = files_there[plain]
        if not files:
            raise SourceError(
                f"{path}: none of {len(files_there)} files is called after an id: {next(iter(files_there))}, "
                f"and the ids are {', '.join(repr(row.id) for row in rows[:3])}",
                fix=f"call them ID{suffix}, or leave the folder out: modality={path.name}:{_corpus.NONE}",
            )
        used = set(files.values())
        others = [f"{path.name}/{name}" for name, file in files_there.items() if file not in used]
        return cls(root, path, modality, files, others, list(names), missing)

    def file(self, id: str) -> Path:
        """Return the path of a sample. Raises Unreadable where there is no file, or one that is not read."""
        if id not in self.files:
            raise Unreadable("no file")
        _check_file(self.root, self.files[id])
        return self.files[id]

    def digest(self, id: str) -> bytes | None:
        """Return a digest of the file; None for a sample that need not have one."""
        if id not in self.files:
            expected = self.missing == "failed"
            return fingerprint.of_text(f"missing {self.path.name} of {id}") if expected else None
        try:
            return fingerprint.of_file(self.file(id))
        except (OSError, Unreadable):  # reading meets it again and says why; it equals no other
            return fingerprint.of_text(f"unreadable {self.path.name} of {id}")

    def unreadable(self) -> SourceError:
        """Return the error for a folder without a readable file."""
        first = next(iter(self.files))
        why = f"not even {self.files[first].name}"
        try:
            self.file(first)
        except (OSError, Unreadable) as error:
            why += f": {error}"
        return SourceError(
            f"none of {len(self.files)} files in {self.path} can be read, {why}",
            fix=f"look at them, or leave the folder out: modality={self.path.name}:{_corpus.NONE}",
        )


def file_name(id: str, suffix: str) -> str:
    """Return the file name of a sample; what file names cannot hold, or hide, is written as in web addresses."""
    name = quote(id, safe=SAFE)
    return f"%2E{name[1:]}{suffix}" if name[:1] == "." else f"{name}{suffix}"


def _found(folder: Path, suffix: str) -> list[Path]:
    """Return the files below a folder, in alphabetical order; links to other folders are not followed."""
    names = [os.path.join(parent, name) for parent, _, files in os.walk(folder) for name in files]
    return sorted(Path(name) for name in names if name.endswith(suffix))


def _check_file(root: Path, path: Path) -> None:
    """Raise Unreadable for what is no regular file, too large for one sample, or a link out of the folder `root`."""
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            raise Unreadable("a link that leads out of the folder that was named, and is not followed")
        try:
            about = path.stat()
        except OSError:
            raise Unreadable("a link to nothing") from None
    if not stat.S_ISREG(about.st_mode):
        raise Unreadable("a pipe, a folder or a device, not a file")
    if not about.st_size:
        raise Unreadable("empty file")
    if about.st_size > LARGEST_FILE:
        raise Unreadable(f"{about.st_size / 1e6:,.0f} MB, more than a shard holds")
