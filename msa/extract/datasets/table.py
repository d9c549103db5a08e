"""Your own data: a CSV, TSV or JSONL file with one sample per row.

Columns  id, split, label, text, image, audio, video, face, start, end, group, position; leave out what you lack, others
         are ignored. Paths are relative to the table's folder. A video gives the sound and the face of its row, unless
         audio or face names another file; face may be a video, a picture or the CSV that OpenFace writes. start and end
         are seconds of the sound and of the video; a picture or CSV of the face is taken whole. A row without an id is
         called by its number: row1. Columns of other names are said with columns=label:Sentiment,text:Tweet. A CSV of a
         spreadsheet program may have semicolons and decimal commas.
Label    all among negative, neutral, positive (or -1, 0, 1): sentiment; words and whole numbers such as 0, 1, 2:
         classes; other numbers: a scale as far as they reach. What was decided is printed. task=classes and
         task=regression say it, classes=bad,good names the classes of numbers, and `range` says how far a scale goes
         where few samples do not show it: range=-3,3 is scored by the rules of CMU-MOSI, range=-1,1 by CH-SIMS's.
Split    train, valid (val, dev, validation) or test; where it is empty a part is drawn, and rows of one group (a
         speaker, video or dialogue) stay together unless split=random.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from msa.annotations import labels
from msa.annotations import rows as records
from msa.annotations.labels import Row
from msa.annotations.tasks import Decision, Settings
from msa.config import checked
from msa.errors import ConfigError, SourceError, UnknownNameError
from msa.extract.datasets._layout import in_order, misplaced
from msa.names import shell_command
from msa.types import Dropped, Modality, Raw, Sample, Source, Task

TASK: Task | None = None  # depends on the labels: see task()
SOURCE = Source(
    title="The table",
    home="your own files",
    licence="whatever the owner of the data allows",
    redistribution=False,  # unknown here, so passing features on has to be a decision of the user
    citation="",
    layout="NAME.csv, NAME.tsv or NAME.jsonl, columns among: id, split, label, text, image, audio, video, face, "
    "start, end, group, position",
)
FILES = ("image", "audio", "video", "face")
WHOLE = (".csv", ".jpg", ".jpeg", ".png", ".bmp", ".webp")  # of a face: tables and pictures, which no span cuts
COLUMNS = ("id", "split", "label", "text", *FILES, "start", "end", "group", "position")


@dataclass(frozen=True)
class Config:
    COLUMNS: ClassVar[tuple[str, ...]] = COLUMNS  # those that `columns` may name

    split: Literal["by_group", "random"] = "by_group"  # what stays together when parts are drawn
    range: tuple[float, ...] = ()  # low, high of labels that are a scale; nothing: as far as they reach
    task: Literal["auto", "classes", "regression"] = "auto"  # what labels are that are numbers; auto: judged from them
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    columns: tuple[str, ...] = ()  # what columns are called here: label:Sentiment,text:Tweet

    def __post_init__(self) -> None:
        checked(self)
        Settings.of(self)
        self.names()

    def names(self) -> dict[str, str]:
        """Return column of msa -> what it is called in the table, in lower case. Raises ConfigError."""
        pairs = [word.partition(":") for word in self.columns]
        for column, colon, called in pairs:
            if not colon or not called.strip():
                raise ConfigError(
                    f"columns={','.join(self.columns)}: {column!r} is not of the form COLUMN:NAME",
                    fix="write columns=label:Sentiment,text:Tweet",
                )
            if column.strip() not in self.COLUMNS:
                raise UnknownNameError("column", column.strip(), self.COLUMNS)
        return {column.strip(): called.strip().lower() for column, _, called in pairs}


def name(root: Path) -> str:
    """Return the dataset's name: the file's, without suffix. Raises SourceError where it is another dataset's name."""
    others = {path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[!_]*.py")} - {"table", "clips"}
    if root.stem in others or set("+@") & set(root.stem):
        raise SourceError(
            f"{root.name} would be called {root.stem!r}, which is a corpus of its own or joins corpora in --data",
            fix="rename the file: its name, without the ending, is what the corpus is called",
        )
    return root.stem


def task(root: Path, config: Config = Config()) -> Task:
    """Return what the labels are, judged from all of them; a Task without range or classes where there is none."""
    return decided(root, config).task


def decided(root: Path, config: Config = Config()) -> Decision:
    """Return the task, and the reason for it."""
    return of_labels(_table(root, config), config)


def of_labels(rows: Sequence[Row], config: Config) -> Decision:
    """Return what the labels of some rows are; without any, name the columns that are not read: one may hold them."""
    decision = labels.decide(rows, Settings.of(config))
    unread = [name for name in (rows[0].cells if rows else ()) if name and name not in config.COLUMNS]
    if decision.kind != "none" or not unread:
        return decision
    way_out = f"not read: {', '.join(unread)}; if one has the labels: --set columns=label:NAME"
    return replace(decision, instead=way_out)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of the table at `root`, by id."""
    return of_rows(_table(root, config), config)


def of_rows(rows: Sequence[Row], config: Config) -> Iterator[Sample | Dropped]:
    """Yield the samples of some rows, by id. Raises SourceError."""
    _check_files(rows)
    _check_spans(rows)
    kind = labels.decide(rows, Settings.of(config))
    return in_order(_sample(row, kind, config) for row in rows)


def _table(root: Path, config: Config) -> list[Row]:
    if root.is_dir():
        raise SourceError(
            f"{root} is a folder, and a table is a file",
            fix="name the file in it, or read the videos and recordings in it: "
            + shell_command("--dataset", "clips", "--root", root),
        )
    if not root.exists():
        raise misplaced(SOURCE, root, "no such file")
    columns, rows = labels.rows(root, config.names())
    if not set(columns) & set(COLUMNS):
        known = ", ".join(COLUMNS)
        raise SourceError(
            f"{root}: none of its columns is known: {records.listed(columns)}",
            fix=f"msa knows {known}; say which is which: --set columns=label:NAME,text:NAME",
        )
    return rows


def _check_files(rows: Sequence[Row]) -> None:
    """One lost file is extraction's to report; if all are lost the paths mean another folder, which is said at once."""
    paths = [path for row in rows for column in FILES if (path := _path(row, column))]
    if paths and not any(path.exists() for path in paths):
        raise SourceError(
            f"{rows[0].table}: none of the {len(paths)} files it names exists, not even {paths[0]}",
            fix=f"write the paths relative to the table's folder, {rows[0].table.parent}, or in full",
        )


def _check_spans(rows: Sequence[Row]) -> None:
    """Refuse one table of faces for several spans: it would be read whole, and each row get the faces of all."""
    first: dict[Path, Row] = {}
    for row in rows:
        face = _path(row, "face")
        if face and face.suffix.lower() == ".csv":
            other = first.setdefault(face, row)
            if _span(other) != _span(row):
                raise row.error(
                    f"{face} is the face of line {other.line} too, where start and end differ",
                    fix="a CSV of faces is read whole: cut it into one for each row, or name the video itself",
                )


def _sample(row: Row, kind: Decision, config: Config) -> Sample | Dropped:
    raw = _raw(row)
    if not raw:
        return Dropped(row.id, "no text, image, audio, video or face", f"line {row.line}")
    return Sample(
        id=row.id,
        label=row.value(kind.task, numbers=kind.numbers),
        raw=raw,
        split=row.split(),
        group=row.group,
        position=row.position(),
        keep_together=row.group if config.split == "by_group" else "",
    )


def _raw(row: Row) -> dict[Modality, Raw]:
    """Return what the row has; a video stands in for what no file of its own is named for."""
    start, end = _span(row)
    raw = {Modality.TEXT: Raw(text=row.text("text"))} if row.text("text") else {}
    if image := _path(row, "image"):
        raw[Modality.IMAGE] = Raw(path=image)
    if sound := _path(row, "audio") or _path(row, "video"):
        raw[Modality.AUDIO] = Raw(path=sound, start=start, end=end)
    if face := _path(row, "face") or _path(row, "video"):
        raw[Modality.FACE] = Raw(path=face) if face.suffix.lower() in WHOLE else Raw(path=face, start=start, end=end)
    return raw


def _path(row: Row, column: str) -> Path | None:
    """The cell as a path, relative to the table's folder; with / for the \\ of Windows where only that file exists."""
    cell = row.text(column).strip()
    path = row.table.parent / cell
    if "\\" in cell and not path.exists() and (other := row.table.parent / cell.replace("\\", "/")).exists():
        return other
    return path if cell else None


def _span(row: Row) -> tuple[float, float | None]:
    """Return start and end of the span in s; end None: to the end of the file."""
    start, end = row.amount("start") or 0.0, row.amount("end")
    if end is not None and end <= start:
        raise row.error(f"the span ends at {end} s and starts at {start} s", fix="write an end after the start")
    return start, end
