"""The CSV files msa writes, and their cells: no text in them is taken for a formula by a spreadsheet program.

An id, a label or a text of others may begin with `=`, `+`, `-` or `@`, and a spreadsheet would compute or fetch what
follows. Such a text is written with an apostrophe before it, as spreadsheets themselves mark text; numbers stay as they
are. Readers of msa take exactly that apostrophe off again, so that every text comes back as it was: one that is an
apostrophe and such a sign to begin with is written with two.
"""

import csv
import re
from collections.abc import Iterable
from typing import TextIO

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")


def guarded(cell: object) -> object:
    """Return the cell as it is written: a text that a spreadsheet would compute with an apostrophe before it."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def plain(cell: str) -> str:
    """Return the text that `guarded` was given for this cell."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell


class Writer:
    """Writes rows of cells into an open text file, as CSV with lines that end in CRLF: a lone CR or LF is quoted."""

    def __init__(self, file: TextIO) -> None:
        self._table = csv.writer(file)

    def row(self, cells: Iterable[object]) -> None:
        """Write one row; None is an empty cell."""
        self._table.writerow([guarded(cell) for cell in cells])

    def rows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several."""
        for cells in rows:
            self.row(cells)
