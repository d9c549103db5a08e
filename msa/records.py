"""Rows of a CSV, TSV or JSONL file with their line numbers; what is torn or ambiguous is an error that names one.

And the order in which people number things: clip 2 before clip 10.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msa.errors import SourceError

Row = tuple[int, dict[str, Any]]  # line number, cells by column; an empty cell is left out


def read(path: Path) -> tuple[list[str], list[Row]]:
    """The columns, in lower case, and the rows. A TSV is quoted like a CSV: a cell may hold a tab or a line end."""
    kinds = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}
    if path.suffix.lower() not in kinds:
        raise SourceError(f"{path}: what kind of table is this?", fix="end its name with .csv, .tsv or .jsonl")
    delimiter = kinds[path.suffix.lower()]
    return _delimited(path, delimiter) if delimiter else _json_lines(path)


def text_of(path: Path) -> str:
    """The file as UTF-8, with or without a byte-order mark. Unlike in media.py nothing is guessed: ids are names."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}, line {line}: not UTF-8 ({error.reason})", fix="save the file as UTF-8") from error


def natural(id: str) -> tuple[list[str | int], str]:
    """A sort key that puts `clip2` before `clip10`; ids that differ only in leading zeros keep a fixed order."""
    words = re.split(r"(\d+)", id)  # text and digits in turn; Python reads no number of more than 4,300 digits
    return [int(word[:4000]) if word.isdecimal() else word for word in words], id


def _delimited(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    lines = _cells(path, delimiter)
    header = [name.strip().lower() for name in next(lines, (1, []))[1]]
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise SourceError(f"{path}: the header names {', '.join(sorted(twice))} twice", fix="rename one of the columns")
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise SourceError(
                f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}",
                fix='put a text that holds the separator between quotes: "like this, one cell"',
            )
        rows.append((line, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}))
    return header, rows


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of every record; a quote that is never closed would swallow the rest, so it is an error."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{path}, line {line}: {error}", fix='close the quotes, and write " in a text as ""'
            ) from error
        if cells:
            yield line, cells


def _json_lines(path: Path) -> tuple[list[str], list[Row]]:
    rows = []
    for line, text in enumerate(text_of(path).split("\n"), start=1):  # not splitlines: U+2028 may stand in a string
        if text.strip():
            rows.append((line, _object(path, line, text)))
    return list(dict.fromkeys(name for _, cells in rows for name in cells)), rows


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        cells = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{path}, line {line}: {error}", fix="write one JSON object per line") from error
    if not isinstance(cells, dict):
        raise SourceError(f"{path}, line {line}: a {type(cells).__name__}", fix="write one JSON object per line")
    return {name.strip().lower(): cell for name, cell in cells.items() if cell is not None and str(cell).strip()}
