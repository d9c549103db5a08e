"""Rows of a CSV, TSV or JSONL file with their line numbers; what is torn or ambiguous is an error that names one.

A CSV may be what a spreadsheet writes where the decimal sign is a comma: cells parted by semicolons, 3,5 for 3.5, a
first line `sep=;`. A text file of a spreadsheet is UTF-16 with tabs.

And the order in which people number things: clip 2 before clip 10.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from msa import regular
from msa.annotations.cells import plain
from msa.errors import SourceError
from msa.names import printable

DEEPEST_JSON = 64  # levels; Python itself fails somewhere beyond nine hundred
# Far beyond any table of samples, and small enough for the memory: a cell of one letter takes fifty bytes of it.
LARGEST = 1 << 28  # bytes of a file
LONGEST_LINE = 1 << 26  # characters
LONGEST_CELL = 1 << 24  # characters
LONGEST_NAME = 200  # characters of a column's name
MOST_COLUMNS, MOST_ROWS, MOST_CELLS = 10_000, 1 << 21, 1 << 25
SHOWN = 10  # names in a message
Line = tuple[int, dict[str, Any]]  # line number, cells by column; an empty cell is left out

NAMED = ("id", "text")  # columns in which 3,5 is not a number
# Errors in capitals of any language, as in #NAME?, #REF!, #¡REF!, #DIV/0!, #N/A, #NV; and numbers cut to a few digits
_SPOILED = re.compile(r"#[¡¿]?[A-ZÀ-ÖØ-Þ0-9_/]{2,20}[!?]|#N/?[AVD]|[+-]?\d(?:[.,]\d*)?E\+\d{1,3}")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?\s*")


def read(path: Path) -> tuple[list[str], list[Line]]:
    """Return the columns, in lower case, and the rows. A TSV is quoted like a CSV: a cell may hold a tab or a line end.

    Raises SourceError, also for what is no regular file, or larger than the limits above.
    """
    kinds = {".csv": ",;\t", ".tsv": "\t", ".txt": "\t", ".jsonl": "", ".ndjson": ""}
    if path.suffix.lower() not in kinds:
        fix = "end its name with .csv, .tsv or .jsonl"
        if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
            fix = "save the sheet as CSV (UTF-8) in the spreadsheet program, and name that file"
        raise SourceError(f"{path}: not a table that msa reads", fix=fix)
    delimiters = kinds[path.suffix.lower()]
    return _delimited(path, delimiters) if delimiters else _json_lines(path)


def bytes_of(path: Path, most: int = LARGEST) -> bytes:
    """Return the bytes of a file that a user named.

    Raises SourceError, also for one that is absent or larger than `most`.
    """
    try:
        return regular.read(path, most, "is it the right file? Name one of the kind that is asked for")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{path} cannot be read: {why}", fix="name a file that is there and may be read") from error


def text_of(path: Path, most: int = LARGEST) -> str:
    """Return the file as UTF-8, or as UTF-16 where a byte-order mark says so. Raises SourceError.

    Unlike for texts of samples, no encoding is guessed: ids are names.
    """
    data = bytes_of(path, most)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{path}, line {line}: not UTF-8 ({error.reason})",
            fix="save the file as UTF-8; in a spreadsheet program as 'CSV UTF-8'",
        ) from error


def shallow(text: str) -> str:
    """Return the JSON text itself. Raises ValueError for one that is nested absurdly, before Python fails at it."""
    depth = 0
    for token in re.finditer(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', text, re.DOTALL):  # reads no letter twice
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)  # a string counts nothing
        if depth > DEEPEST_JSON:
            raise ValueError(f"nested more than {DEEPEST_JSON} deep")
    return text


def listed(names: Collection[str]) -> str:
    """Return the first few of the names of columns, as messages show them; "none" where there are none."""
    shown = [printable(name) for name in names if name]
    more = [f"{len(shown) - SHOWN:,} more"] if len(shown) > SHOWN else []
    return ", ".join([*shown[:SHOWN], *more]) or "none"


def whole_characters(text: str) -> str:
    """Join surrogate pairs and replace lone ones by U+FFFD: JSON lets them through, no file or tokenizer takes them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def spoiled(cell: str) -> bool:
    """Return whether a spreadsheet spoiled an id: `#NAME?` of one that began with `=` or `-`, `1.2E+17` of digits."""
    return bool(_SPOILED.fullmatch(cell.strip()))


def natural(id: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `clip2` before `clip10`; ids that differ only in leading zeros keep a fixed order."""
    words = re.split(r"(\d+)", id)  # text and digits in turn; Python reads no number of more than 4,300 digits
    return [int(word[:4000]) if word.isdecimal() else word for word in words], id


def _delimited(path: Path, delimiters: str) -> tuple[list[str], list[Line]]:
    text = text_of(path)
    skipped = 0
    if named := re.match(r"sep=(.)\r?\n", text):  # a spreadsheet's own note on how it parted the cells
        text, delimiters, skipped = text[named.end() :], named[1], 1
    delimiter = _delimiter(text, delimiters)
    lines = _cells(path, text, delimiter, skipped)
    header = [name.strip().lower() for name in next(lines, (1, []))[1]]
    _check_names(path, header)
    if twice := sorted(name for name, times in Counter(header).items() if name and times > 1):
        raise SourceError(f"{path}: the header names {listed(twice)} twice", fix="rename one of the columns")
    rows: list[Line] = []
    left = MOST_CELLS
    for line, cells in lines:
        if len(rows) == MOST_ROWS or (left := left - len(cells)) < 0:
            raise _too_much(path, line)
        if len(cells) != len(header):
            raise SourceError(
                f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}",
                fix='put a text that holds the separator between quotes: "like this, one cell"',
            )
        rows.append((line, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}))
    return header, _with_points(rows) if delimiter == ";" else rows


def _check_names(path: Path, names: Collection[str]) -> None:
    """Refuse a header of more or longer names than a table of samples has. Raises SourceError."""
    if len(names) > MOST_COLUMNS:
        raise SourceError(
            f"{path} has {len(names):,} columns; at most {MOST_COLUMNS:,} are read",
            fix="leave out those that are not needed: numbers that are features belong into files of their own",
        )
    if (longest := max(map(len, names), default=0)) > LONGEST_NAME:
        raise SourceError(
            f"{path}: a column's name has {longest:,} letters; at most {LONGEST_NAME} are read",
            fix="name the columns in the first line",
        )


def _too_much(path: Path, line: int) -> SourceError:
    return SourceError(
        f"{path} goes on after line {line:,}; at most {MOST_ROWS:,} rows and {MOST_CELLS:,} cells are read",
        fix="leave out the columns that are not needed, or divide the table",
    )


def _lines(path: Path, text: str) -> Iterator[str]:
    """Yield the lines with their ends, which may be those of any system. Raises SourceError for one without end."""
    for number, match in enumerate(re.finditer(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++", text), start=1):
        if (length := match.end() - match.start()) > LONGEST_LINE:
            raise SourceError(
                f"{path}, line {number} has {length:,} characters; at most {LONGEST_LINE:,} are read",
                fix="is it a table, with one sample in each row?",
            )
        yield match[0]


def _delimiter(text: str, delimiters: str) -> str:
    """Return the character that divides the header into most cells; of several the first."""
    header = re.sub(r'"[^"]*"', "", text.split("\n", 1)[0])
    return max(delimiters, key=lambda delimiter: (header.count(delimiter), -delimiters.index(delimiter)))


def _with_points(rows: list[Line]) -> list[Line]:
    """Return the rows with 3.5 for 3,5 in the columns that hold nothing but numbers."""
    cells: dict[str, list[str]] = {}
    for _, row in rows:
        for name, cell in row.items():
            cells.setdefault(name, []).append(cell)
    numeric = {
        name for name, column in cells.items() if name not in NAMED and all(map(_DECIMAL_COMMA.fullmatch, column))
    }
    return [(line, {n: c.replace(",", ".") if n in numeric else c for n, c in row.items()}) for line, row in rows]


def _cells(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every record. Raises SourceError for a quote that is never closed."""
    reader = csv.reader(_lines(path, text), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1 + skipped
        limit = csv.field_size_limit(LONGEST_CELL)  # a transcript may have more than 131,072 letters
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{path}, line {line}: {error}", fix='close the quotes, and write " in a text as ""'
            ) from error
        finally:
            csv.field_size_limit(limit)  # others in this process may rely on theirs
        if cells:
            yield line, [plain(cell) for cell in cells]


def _json_lines(path: Path) -> tuple[list[str], list[Line]]:
    rows: list[Line] = []
    columns: dict[str, None] = {}
    left = MOST_CELLS
    for line, text in enumerate(_lines(path, text_of(path)), start=1):  # not splitlines: U+2028 may stand in a string
        if text.strip():
            cells = _object(path, line, text)
            if len(rows) == MOST_ROWS or (left := left - len(cells)) < 0:
                raise _too_much(path, line)
            rows.append((line, cells))
            if not columns.keys() >= cells.keys():
                columns.update(dict.fromkeys(cells))
                _check_names(path, columns)
    return list(columns), rows


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        cells = json.loads(shallow(text))
    except ValueError as error:
        raise SourceError(f"{path}, line {line}: {error}", fix="write one JSON object per line") from error
    if not isinstance(cells, dict):
        raise SourceError(f"{path}, line {line}: a {type(cells).__name__}", fix="write one JSON object per line")
    return {
        whole_characters(name).strip().lower(): _plain(cell)
        for name, cell in cells.items()
        if cell is not None and (not isinstance(cell, str) or cell.strip())
    }


def _plain(cell: Any) -> Any:
    """Return the cell; of a list or an object, which is no cell, an empty one."""
    if isinstance(cell, str):
        return whole_characters(cell)
    return type(cell)() if isinstance(cell, list | dict) else cell
