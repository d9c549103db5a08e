"""What CMU-MOSI, CMU-MOSEI and CH-SIMS share: clips in a folder per video, and one label.csv that says what they are.

Layout   that of MMSA and MMSA-FET (https://github.com/thuiar/MMSA-FET), in which all three corpora circulate
Ids      `VIDEO$_$CLIP`, as those toolkits join them: features imported from there and extracted here meet on them.
         A spreadsheet turns the clip 0001 into 1, so where no file has the very name of a row the one with equal
         numbers is taken, and the id is the longer of the two spellings: zeros get lost, never added.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from msa.annotations import rows as records
from msa.annotations.labels import Row
from msa.annotations.rows import natural
from msa.config import checked
from msa.errors import SourceError
from msa.extract.datasets._layout import files, in_order, misplaced
from msa.types import Dropped, Modality, Raw, Sample, Source

LABELS = "label.csv"
JOINT = "$_$"  # between video and clip in an id
LAYOUT = (
    f"{LABELS}   video_id, clip_id, text, label, mode (train, valid or test); others are ignored\nRaw/VIDEO/CLIP.mp4"
)
NEVER = {"", "nan", "none", "null"}  # how programs write that a clip has no label
ENOUGH = 100  # labels, of which none is beyond 1: in CMU-MOSI and CMU-MOSEI that does not happen by chance

Key = tuple[str, str]  # video, clip


@dataclass(frozen=True)
class Config:
    split: Literal["official", "by_video"] = "official"  # by_video: parts are drawn anew, a video's clips stay together
    media: bool = True  # no: the texts alone, for those who have label.csv without the clips
    openface: str = ""  # a folder of OpenFace's CSV files, VIDEO/CLIP.csv or VIDEO_CLIP.csv: read for the faces instead

    def __post_init__(self) -> None:
        checked(self)


@dataclass(frozen=True)
class Labels:
    """Which columns hold the label, in what range, and which hold the label of one modality alone."""

    low: float
    high: float
    columns: tuple[str, ...] = ("label",)  # several: the label is a tuple of their values
    alone: Mapping[Modality, str] = field(default_factory=dict)  # CH-SIMS
    where: str = "take the label.csv that comes with the clips"  # such columns are had


def load(root: Path, config: Config, source: Source, labels: Labels) -> Iterator[Sample | Dropped]:
    """Yield every row of label.csv by id, and every clip that no row is about. Raises SourceError.

    A row whose clip is missing is a sample: its text is there, and extraction records what is not.
    """
    folder = _folder(root, source)
    rows = _rows(folder / LABELS, labels, config)
    clips = _Files.below(_clips_folder(folder), ".mp4") if config.media else None
    faces = _Files.below(_openface_folder(config.openface, (root, folder)), ".csv") if config.openface else None
    clip_of = clips.of_rows(rows, "or read the texts alone: --set media=no") if clips else {}
    face_of = faces.of_rows(rows, "or leave openface out") if faces else {}
    samples = [_sample(row, clip_of.get(row.line), face_of.get(row.line), labels, config) for row in rows]
    return in_order([*_in_their_videos(_once(rows, samples)), *(clips.others(clip_of) if clips else ())])


# label.csv


def _key(row: Row) -> Key:
    """Return video and clip as they are written, but for the `.0` of a column that a program took for numbers."""
    video, clip = (re.sub(r"^(\d+)\.0+$", r"\1", row.text(name).strip()) for name in ("video_id", "clip_id"))
    if not video or not clip:
        raise row.error(f"video_id is {video!r} and clip_id {clip!r}", fix="fill both cells, or delete the line")
    if records.spoiled(video) or records.spoiled(clip):
        raise row.error(
            f"video_id is {video!r} and clip_id {clip!r}: a spreadsheet program took one for a formula or a number",
            fix=f"get {LABELS} as it was before, or import it with the ids as text",
        )
    return video, clip


def _value(row: Row, column: str, labels: Labels) -> float | None:
    """Return a label; None where the clip has none. One out of range is refused, not learned."""
    cell = row.text(column).strip()
    if cell.lower() in NEVER:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not labels.low - 1e-6 <= value <= labels.high + 1e-6:
        raise row.error(
            f"{column} is {cell!r}, the labels of this corpus are numbers from {labels.low:g} to {labels.high:g}",
            fix="correct it, or leave the cell empty for a clip without a label",
        )
    return value


def _label(row: Row, labels: Labels) -> float | tuple[float, ...] | None:
    """Return the label; of several columns their values, NaN where one of them is empty."""
    values = [_value(row, column, labels) for column in labels.columns]
    if all(value is None for value in values):
        return None
    return values[0] if len(values) == 1 else tuple(math.nan if value is None else value for value in values)


def _folder(root: Path, source: Source) -> Path:
    """Return `root`, or the one folder in it that holds label.csv."""
    if not root.is_dir():
        raise misplaced(source, root, "no such folder")
    holds = [path for path in (root, *sorted(root.iterdir())) if (path / LABELS).is_file()]
    if not holds:
        raise misplaced(source, root, f"no {LABELS} in it or in a folder of it")
    if len(holds) > 1 and holds[0] != root:
        raise SourceError(f"{root} holds several corpora: {', '.join(path.name for path in holds)}", fix="name one")
    return holds[0]


def _rows(table: Path, labels: Labels, config: Config) -> list[Row]:
    """Return the rows that are not empty, their label columns under the names that `labels` has for them."""
    header, lines = records.read(table)
    called = {column: _column(table, header, column) or column for column in labels.columns}
    needed = ["video_id", "clip_id", *called.values(), *(["mode"] if config.split == "official" else [])]
    if missing := [name for name in needed if name not in header]:
        raise SourceError(
            f"{table} has no column {', '.join(missing)}; its first line names {records.listed(header)}",
            fix="use split=by_video, which draws parts of its own" if missing == ["mode"] else labels.where,
        )
    named = [(line, cells | {c: cells.get(at, "") for c, at in called.items()}) for line, cells in lines if cells]
    rows = [Row(table, line, number, cells) for number, (line, cells) in enumerate(named, start=1)]
    _refuse_finer_labels(rows, labels)
    return rows


def _column(table: Path, header: Sequence[str], name: str) -> str | None:
    """Return what the column is called here: `happy` or `label_happy`."""
    columns = [each for each in (name, f"label_{name}") if each in header]
    if len(columns) == 2:
        raise SourceError(
            f"{table} has the columns {columns[0]} and {columns[1]}", fix="delete the one that is not meant"
        )
    return columns[0] if columns else None


def _refuse_finer_labels(rows: Sequence[Row], labels: Labels) -> None:
    """Labels from -1 to 1 read as labels from -3 to 3 would be scored by the wrong rules and look plausible."""
    if labels.low < -1 and labels.columns == ("label",):
        values = [value for row in rows if (value := _value(row, "label", labels)) is not None]
        if len(values) >= ENOUGH and max(map(abs, values)) <= 1:
            raise SourceError(
                f"{rows[0].table}: not one of {len(values)} labels is beyond 1, though they may reach {labels.high:g}",
                fix="CH-SIMS is --dataset sims; write a selection of your own as a table: --dataset table "
                f"--set range={labels.low:g},{labels.high:g}",
            )


# the files of the clips


@dataclass(frozen=True)
class _Files:
    """The files with one ending below a folder, each by the clip it is named after."""

    root: Path
    suffix: str
    paths: Mapping[Path, Key | None]

    @classmethod
    def below(cls, root: Path, suffix: str) -> "_Files":
        return cls(root, suffix, {path: _named(path.relative_to(root)) for path in files(root, (suffix,))})

    def of_rows(self, rows: Sequence[Row], otherwise: str) -> dict[int, tuple[Key, Path]]:
        """Return line -> the file of the clip and its spelling of the clip's name, or the path where it is expected.

        One lost file is extraction's to report. If all are lost it is another folder, which is said at once.
        """
        alike: dict[Key, list[tuple[Key, Path]]] = defaultdict(list)
        for path, key in self.paths.items():
            if key:
                alike[_bare(key)].append((key, path))
        clip_of = {row.line: self._of(row, alike[_bare(_key(row))]) for row in rows}
        if rows and not any(path in self.paths for _, path in clip_of.values()):
            raise SourceError(
                f"{self.root}: none of the {len(rows)} clips in {LABELS} has a file, not even "
                f"{'/'.join(_key(rows[0]))}{self.suffix}",
                fix=f"lay them as VIDEO/CLIP{self.suffix}, with the names that {LABELS} has, {otherwise}",
            )
        return clip_of

    def _of(self, row: Row, alike: Sequence[tuple[Key, Path]]) -> tuple[Key, Path]:
        own = _key(row)
        fitting = [(key, path) for key, path in alike if key == own] or alike
        if len(fitting) > 1:
            raise row.error(
                f"{'/'.join(own)} may be {fitting[0][1]} or {fitting[1][1]}",
                fix="write the ids exactly as the file is called, or move the wrong file away",
            )
        video, clip = own
        return fitting[0] if fitting else (own, self.root / video / f"{clip}{self.suffix}")

    def others(self, taken: Mapping[int, tuple[Key, Path]]) -> Iterator[Dropped]:
        """Yield the files that no row is about."""
        for path in self.paths.keys() - {path for _, path in taken.values()}:
            key, name = self.paths[path], path.relative_to(self.root).as_posix()
            yield Dropped(JOINT.join(key) if key else name, "no label", name)


def _named(path: Path) -> Key | None:
    """Return the clip a file is named after: VIDEO/CLIP, VIDEO_CLIP or VIDEO$_$CLIP; a clip has no underscore."""
    *folders, name = path.with_suffix("").parts
    if len(folders) == 1:
        return folders[0], name
    video, _, clip = name.rpartition(JOINT if JOINT in name else "_")
    return (video, clip) if video and clip and not folders else None


def _bare(key: Key) -> Key:
    """Remove the zeros that a spreadsheet takes off: 0001 and 1 are the same number."""
    video, clip = (re.sub(r"^0+(?=\d+$)", "", name) for name in key)
    return video, clip


def _clips_folder(folder: Path) -> Path:
    folders = [path for path in sorted(folder.iterdir()) if path.name.lower() == "raw" and path.is_dir()]
    if not folders:
        raise SourceError(
            f"{folder} has {LABELS} and no folder Raw with the clips",
            fix="put it there, or read the texts alone: --set media=no",
        )
    return folders[0]


def _openface_folder(name: str, bases: Iterable[Path]) -> Path:
    tried = [base / Path(name).expanduser() for base in dict.fromkeys(bases)]
    for path in tried:
        if path.is_dir():
            return path
    raise SourceError(
        f"openface={name}: there is no folder {' or '.join(map(str, tried))}",
        fix="name the folder with OpenFace's CSV files, in full or relative to --root",
    )


# samples


def _sample(
    row: Row, clip: tuple[Key, Path] | None, face: tuple[Key, Path] | None, labels: Labels, config: Config
) -> Sample | Dropped:
    spellings = [_key(row), *(match[0] for match in (clip, face) if match)]
    video, name = (max(names, key=len) for names in zip(*spellings, strict=True))
    id = f"{video}{JOINT}{name}"
    raw = {Modality.TEXT: Raw(text=text)} if (text := row.text("text").strip()) else {}
    if clip:
        raw |= {Modality.AUDIO: Raw(path=clip[1]), Modality.FACE: Raw(path=clip[1])}
    if face:
        raw[Modality.FACE] = Raw(path=face[1])
    if not raw:
        return Dropped(id, "no text, and no media asked for", f"line {row.line}")
    alone = {modality: _value(row, column.lower(), labels) for modality, column in labels.alone.items()}
    return Sample(
        id=id,
        label=_label(row, labels),
        raw=raw,
        split=row.split("mode") if config.split == "official" else None,
        group=video,
        keep_together=video,
        modality_labels={modality: value for modality, value in alone.items() if value is not None},
    )


def _once(rows: Sequence[Row], items: Sequence[Sample | Dropped]) -> Iterator[Sample | Dropped]:
    """Yield each clip once; a row that repeats another is dropped, one that says something else is an error."""
    first: dict[str, tuple[Row, Sample | Dropped]] = {}
    for row, item in zip(rows, items, strict=True):
        other, kept = first.setdefault(item.id, (row, item))
        if other is row:
            yield item
        elif item == kept or isinstance(item, Dropped):
            yield Dropped(f"{item.id}, line {row.line}", "row given twice", f"as line {other.line}")
        else:
            raise row.error(f"{item.id} is in line {other.line} too, and not the same", fix="delete the wrong line")


def _in_their_videos(items: Iterable[Sample | Dropped]) -> Iterator[Sample | Dropped]:
    """Yield the same, each sample with its number among the clips of its video, from 0."""
    before: Counter[str] = Counter()
    for item in sorted(items, key=lambda item: natural(item.id)):
        if isinstance(item, Sample):
            yield replace(item, position=before[item.group])
            before[item.group] += 1
        else:
            yield item
