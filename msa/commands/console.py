"""Terminal output: lines, tables, JSON and questions. Every command prints through this module.

Names, ids, reasons and paths come from other people's files and stores. Each of the few functions at the top escapes
control characters (`_plain`), so that a terminal obeys none of them and nothing is taken for markup.
"""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from msa.names import printable

PIPE_WIDTH = 160  # columns where the output goes to a file or another program

# Text that is typed or copied: between backticks, from `msa` on, or an option and its value
COMMAND = re.compile(
    r"`[^`\n]*`"
    r"|\bmsa (?:extract|list|predict|demo|cache|fuse)\b(?:(?! [(]|[,;:] )[^`\n])*"
    r"|--[a-z][a-z-]*(?: [^\s(-]\S*)?"
)
NO_BREAK = "\ue000"  # stands for a space at which a line may not be broken

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def plain(text: object, lines: bool = False) -> str:
    """Return untrusted text with control characters and markup escaped. With `lines`, its line ends are kept."""
    return escape("\n".join(map(printable, str(text).split("\n"))) if lines else printable(text))


def _print(console: Console, text: object, mark: str = "", style: str = "", lines: bool = False) -> None:
    """Print prose. On a terminal, long lines are broken between words, never inside a command.

    Args:
        console: standard output or standard error.
        text: may contain untrusted text.
        mark: a coloured word before it, such as "error:".
        style: style of the mark, or of the whole text if there is no mark.
        lines: keep the line ends in the text; they are ours.
    """
    shown = "\n".join(map(printable, str(text).split("\n"))) if lines else printable(text)
    shown = f"{mark} {shown}" if mark else shown
    line = Text(_broken(shown, console.width) if console.is_terminal else shown)
    line.stylize(style, 0, len(mark) if mark else len(line))
    console.print(line, soft_wrap=True)


def _broken(text: str, width: int) -> str:
    """Return text with lines broken at spaces to fit `width` columns, keeping their indent; commands stay whole."""
    broken = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        kept = COMMAND.sub(lambda command: command[0].replace(" ", NO_BREAK), line[len(indent) :])
        row = ""
        for i, word in enumerate(kept.split(" ")):
            if i and cell_len(indent + row) + 1 + cell_len(word) > width:
                broken.append(indent + row.rstrip())
                row = word
            else:
                row += f" {word}" if i else word
        broken.append(indent + row)
    return "\n".join(broken).replace(NO_BREAK, " ")


def say(line: str = "") -> None:
    """Print one line to standard output."""
    _print(out, line)


def note(line: str) -> None:
    """Print one line of progress or a remark to standard error."""
    _print(err, line, style="dim" if sys.stderr.isatty() else "")


def warn(line: str) -> None:
    """Print one line to standard error that the user should not miss."""
    _print(err, line, "note:", "yellow")


def store(where: Any, why: str) -> None:
    """Print which store a command uses if the command line names none: the default may not be the intended one."""
    if why:
        _print(err, f"{where} ({why})", "store:", "bold")


def command(line: str) -> None:
    """Print a command to be copied to standard error, in one line."""
    err.print(f"  {plain(line)}", soft_wrap=True)


def fail(what: str, fix: str) -> None:
    """Print the error that ends a command, and the way out."""
    _print(err, what, "error:", "bold red")
    _print(err, fix, "fix:", "bold", lines=True)  # some fixes show the layout of a dataset on disk


def document(text: str) -> None:
    """Print lines for another program, such as a table in Markdown: neither folded nor coloured."""
    print("\n".join(map(printable, text.split("\n"))), file=out.file)


def as_json(value: Any) -> None:
    """Print a value as JSON. Letters stay as they are; control characters become JSON escapes."""
    lines = json.dumps(value, indent=1, ensure_ascii=False, default=str).split("\n")
    print("\n".join(line if printable(line) == line else _ascii(line) for line in lines), file=out.file)


def _ascii(line: str) -> str:
    return "".join(c if " " <= c <= "~" else json.dumps(c)[1:-1] for c in line)


def confirm(question: str, err: bool = False) -> None:
    """Ask a yes/no question and abort unless the answer is yes. `err`: standard output is reserved for JSON."""
    typer.confirm(printable(question), abort=True, err=err)


def size(nbytes: float) -> str:
    """Return a number of bytes in readable units."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit != "MB" else f"{nbytes:.1f} MB"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def count(number: int, noun: str) -> str:
    """Return a number and its noun, such as "1 sample" or "2,000 samples"."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: int = 0, lines: bool = False
) -> None:
    """Print a table.

    Args:
        title: printed above it; may be empty.
        columns: their headings.
        rows: one cell per column.
        numbers: how many of the last columns hold numbers: right-aligned, and never cut on a narrow terminal.
        lines: keep line ends in headings and cells, except in the first column.
    """
    if title:
        _print(out, title, style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0) if numbers else (0, 2, 0, 0))
    for i, name in enumerate(columns):
        right = i >= len(columns) - numbers
        table.add_column(plain(name, lines), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(plain(cell, lines and i > 0) for i, cell in enumerate(row)))
    unlimited = Console(width=10_000, emoji=False)
    needed = Measurement.get(unlimited, unlimited.options, table).maximum
    wide = Console(
        file=out.file, highlight=False, emoji=False, width=max(needed, out.width), force_terminal=out.is_terminal
    )
    (wide if numbers else out).print(table)


def sheet(table: Any) -> None:
    """Print a table of results and its remarks. If it is too wide for the terminal, print its columns in several
    pieces, each with the first column."""
    cells = [table.columns, *table.rows]
    widths = [max(len(line) for row in cells for line in row[i].split("\n")) for i in range(len(table.columns))]
    for n, piece in enumerate(_pieces(widths, out.width if out.is_terminal else sum(widths) + len(widths))):
        if n:
            say()
        show(
            "" if n else table.title,
            [table.columns[0], *table.columns[piece]],
            [[row[0], *row[piece]] for row in table.rows if any(row[piece])],
            len(table.columns[piece]),
            lines=True,
        )
    for remark in table.remarks:
        say(f"  {remark}")


def _pieces(widths: Sequence[int], width: int) -> list[slice]:
    """Return the columns after the first in slices, each of which fits beside the first column within `width`."""
    pieces, begin, used = [], 1, widths[0] + 1
    for i in range(1, len(widths)):
        if i > begin and used + widths[i] > width:
            pieces.append(slice(begin, i))
            begin, used = i, widths[0] + 1
        used += widths[i] + 1
    return [*pieces, slice(begin, len(widths))]
