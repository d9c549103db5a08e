"""Your own clips: a folder of videos or recordings, with transcripts and labels beside them.

Files    Every video and recording in the folder and below is a sample, called by its path without the ending: a/1 is
         a/1.mp4. A video gives sound and faces.
Table    One CSV, TSV or JSONL in the folder, where there is one: a row per clip, with the columns of `--dataset table`.
         The clip is named in a column file, video, audio, clip or id, with or without its ending. A file without a row
         is left out. Several rows of one clip want ids of their own, and start and end.
Text     The column text; else NAME.txt, NAME.srt or NAME.vtt beside NAME.mp4. cues=true makes a sample of each
         subtitle, with its span of the clip: NAME_1, NAME_2, ...
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from msa.annotations import labels
from msa.annotations import rows as records
from msa.annotations.labels import Row
from msa.annotations.rows import natural
from msa.annotations.tasks import Decision
from msa.errors import SourceError
from msa.extract.datasets import table
from msa.extract.datasets._layout import files, misplaced
from msa.types import Dropped, Sample, Source, Task

TASK: Task | None = None  # depends on the labels: see task()
SOURCE = Source(
    title="The folder of clips",
    home="your own files",
    licence="whatever the owner of the data allows",
    redistribution=False,
    citation="",
    layout="FOLDER/NAME.mp4 (or .mov, .mkv, .avi, .webm, .wav, .mp3, .flac, .m4a, .ogg), FOLDER/NAME.txt or NAME.srt, "
    "and where there are labels FOLDER/labels.csv with columns file, label, text, ...",
)
VIDEO = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")
AUDIO = (".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac")
TABLES = (".csv", ".tsv", ".jsonl")
NAMING = ("file", "video", "audio", "clip", "id")  # columns that may name the file of a row, the first that is there

LARGEST_TRANSCRIPT = 1 << 26  # bytes

_TIME = r"(?:(\d+):)?(\d\d):(\d\d)[,.](\d{1,3})"
_SPAN = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_MARKUP = re.compile(r"<[^<>]*>|\{[^{}]*\}")


@dataclass(frozen=True)
class Config(table.Config):
    COLUMNS: ClassVar[tuple[str, ...]] = (*table.COLUMNS, *(name for name in NAMING if name not in table.COLUMNS))

    table: str = ""  # the table's file, where several lie in the folder
    cues: bool = False  # a sample for each subtitle of a clip, with its span


def name(root: Path) -> str:
    """Return the corpus's name: the folder's. Raises SourceError where it would be taken for another's."""
    return table.name(Path(root.resolve().name))


def task(root: Path, config: Config = Config()) -> Task:
    """Return what the labels are, judged from all of them; a Task without range or classes where there is none."""
    return decided(root, config).task


def decided(root: Path, config: Config = Config()) -> Decision:
    """Return the task, and the reason for it."""
    return table.of_labels(_rows(root, config)[0], config)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every clip below `root`, by name. Raises SourceError."""
    rows, dropped = _rows(root, config)
    yield from table.of_rows(rows, config)
    yield from dropped


def _rows(root: Path, config: Config) -> tuple[list[Row], list[Dropped]]:
    """Return a row for every sample, as a table would have it, and the files that are none."""
    if not root.is_dir():
        raise misplaced(SOURCE, root, "a file, not a folder" if root.exists() else "no such folder")
    clips = {_stem(path.relative_to(root)): path for path in files(root, VIDEO + AUDIO)}
    if not clips:
        raise misplaced(SOURCE, root, "no video or recording in it")
    path = _table(root, config)
    if path is None:
        rows = [Row(root / "clips", n, n, {"id": stem}) for n, stem in enumerate(sorted(clips, key=natural), start=1)]
        named = {row.id: row.id for row in rows}
    else:
        _, rows = labels.rows(path, config.names())
        named = _named(path, rows)
    whole = [_whole(row, named[row.id], clips, root) for row in rows]
    rows_of_clips = [part for row in whole for part in (_cues(row, clips) if config.cues else [row])]
    unused = sorted(clips.keys() - set(map(_clip, named.values())), key=natural)
    return rows_of_clips, [
        Dropped(stem, "no row in the table", clips[stem].relative_to(root).as_posix()) for stem in unused
    ]


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _table(root: Path, config: Config) -> Path | None:
    """Return the table of the folder; None where there is none. Raises SourceError where there are several."""
    if config.table:
        return root / config.table
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES and _counts(path)]
    if len(tables) > 1:
        raise SourceError(
            f"{root} has several tables: {', '.join(path.name for path in tables)}",
            fix=f"say which one has the labels: --set table={tables[0].name}",
        )
    return tables[0] if tables else None


def _counts(path: Path) -> bool:
    """Return whether a file belongs to the data. macOS puts a `._NAME` beside each. A pipe is refused later."""
    return path.name[0] != "." and not path.is_dir()


def _named(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Return id -> the file of each row, with or without its ending."""
    column = next((name for name in NAMING if any(row.text(name).strip() for row in rows)), None)
    if column is None:
        raise SourceError(
            f"{path} names no clip: it has none of the columns {', '.join(NAMING)}",
            fix="add a column file, or say which column it is: --set columns=file:NAME,label:NAME,text:NAME",
        )
    file_of = {}
    for row in rows:
        cell = row.text(column).strip().replace("\\", "/").removeprefix("./")
        if not cell:
            raise row.error(f"{column} is empty", fix="name the clip, or delete the line")
        file_of[row.id] = cell
    return file_of


def _clip(cell: str) -> str:
    """Return what a clip is called: its path without the ending."""
    return _stem(Path(cell)) if Path(cell).suffix.lower() in VIDEO + AUDIO else cell


def _whole(row: Row, cell: str, clips: dict[str, Path], root: Path) -> Row:
    """Return the row with its file and text; a missing clip keeps its expected path, and fails by itself."""
    stem = _clip(cell)
    path = clips.get(stem, root / (cell if cell != stem else f"{stem}{VIDEO[0]}"))
    kind = "audio" if path.suffix.lower() in AUDIO else "video"
    id = row.text("id").strip() or (stem if row.id.startswith("row") else row.id)
    cells = {k: v for k, v in row.cells.items() if k not in ("video", "audio")} | {"id": id, kind: str(path.resolve())}
    if not row.text("text").strip() and (text := _transcript(path)):
        cells["text"] = text
    return Row(row.table, row.line, row.number, cells)


def _transcript(path: Path) -> str:
    """Return the text beside a clip: NAME.txt, or all subtitles of NAME.srt or NAME.vtt; else empty."""
    plain = path.with_suffix(".txt")
    if plain.exists():
        return records.text_of(plain, LARGEST_TRANSCRIPT).strip()
    return " ".join(text for _, _, text in _subtitles(path))


def _cues(row: Row, clips: dict[str, Path]) -> list[Row]:
    """Return a row for each subtitle of a clip, or the row itself where it has none."""
    path = Path(row.text("video") or row.text("audio"))
    subtitles = _subtitles(path)
    facts = {"group": row.group or row.id}
    return [
        Row(
            row.table,
            row.line,
            n,
            dict(row.cells)
            | facts
            | {"id": f"{row.id}_{n}", "text": text, "start": str(start), "end": str(end), "position": str(n - 1)},
        )
        for n, (start, end, text) in enumerate(subtitles, start=1)
    ] or [row]


def _subtitles(clip: Path) -> list[tuple[float, float, str]]:
    """Begin and end in seconds, and the text, of every subtitle in NAME.srt or NAME.vtt beside a clip."""
    path = next((p for p in (clip.with_suffix(".srt"), clip.with_suffix(".vtt")) if p.exists()), None)
    if path is None:
        return []
    subtitles = []
    whole = records.text_of(path, LARGEST_TRANSCRIPT).replace("\r\n", "\n").replace("\r", "\n")
    for block in re.split(r"\n\s*\n", whole):
        lines = block.strip().split("\n")
        at = next((i for i, line in enumerate(lines) if _SPAN.match(line)), None)
        if at is None:
            continue  # the heading of a .vtt, a note
        span = _SPAN.match(lines[at])
        assert span is not None
        start, end = _seconds(span.groups()[:4]), _seconds(span.groups()[4:])
        text = " ".join(_MARKUP.sub("", " ".join(lines[at + 1 :])).split())
        if text and end > start:
            subtitles.append((start, end, text))
    return subtitles


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
