"""What a person sees: progress, tables, the end of a command. Nothing here computes.

Names, ids, reasons and paths come from files and stores of others. All output passes `_plain`, in the few functions at
the top that print: what a terminal would obey is shown as an escape, and nothing is taken for markup.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as TerminalProgress
from rich.table import Column, Table
from rich.text import Text

from msa.names import printable, shell_command
from msa.progress import Progress

ROOMY = 100  # columns of a terminal from which on progress shows more than bar, numbers, time left and errors
PIPE_WIDTH = 160  # columns where the output goes to a file or another program

# What is to be typed or copied: between backticks, from `msa` on, or an option and its value
COMMAND = re.compile(
    r"`[^`\n]*`"
    r"|\bmsa (?:extract|list|predict|demo|cache|fuse)\b(?:(?! [(]|[,;:] )[^`\n])*"
    r"|--[a-z][a-z-]*(?: [^\s(-]\S*)?"
)
HELD = "\ue000"  # stands for a space between words that stay together

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def _plain(text: object, lines: bool = False) -> str:
    """What may be printed of a text that a stranger may have written. `lines`: line ends in it are ours, and stay."""
    return escape("\n".join(map(printable, str(text).split("\n"))) if lines else printable(text))


def _lines(console: Console, text: object, mark: str = "", style: str = "", own: bool = False) -> None:
    """Print prose. On a terminal, long lines are broken between words, and never inside a command.

    Args:
        console: where it is printed.
        text: what a stranger may have written part of.
        mark: a word in colour that stands before it.
        style: that of the mark, or of all where there is no mark.
        own: line ends in the text are ours, and stay.
    """
    plain = "\n".join(map(printable, str(text).split("\n"))) if own else printable(text)
    plain = f"{mark} {plain}" if mark else plain
    line = Text(_broken(plain, console.width) if console.is_terminal else plain)
    line.stylize(style, 0, len(mark) if mark else len(line))
    console.print(line, soft_wrap=True)


def _broken(text: str, width: int) -> str:
    """Break lines at spaces so that they fit `width` columns, each indented as it began; commands stay in one line."""
    shown = []
    for line in text.split("\n"):
        room = line[: len(line) - len(line.lstrip(" "))]
        held = COMMAND.sub(lambda command: command[0].replace(" ", HELD), line[len(room) :])
        row = ""
        for i, word in enumerate(held.split(" ")):
            if i and cell_len(room + row) + 1 + cell_len(word) > width:
                shown.append(room + row.rstrip())
                row = word
            else:
                row += f" {word}" if i else word
        shown.append(room + row)
    return "\n".join(shown).replace(HELD, " ")


def _description() -> TextColumn:
    """The name of what goes on, cut so that bar, numbers and time left are always whole."""
    width = 28 if err.width < ROOMY else None
    return TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=width))


class Bar(Progress):
    """Progress bar on a terminal: done, rate, time left, errors so far. Shows nothing where output goes to a file."""

    def __init__(self) -> None:
        self._bar: TerminalProgress | None = None
        self._failed = 0

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Start a new line."""
        self._failed = 0
        self._bar = TerminalProgress(
            _description(),
            BarColumn(bar_width=16 if err.width < ROOMY else 40),
            *self._columns(err.width >= ROOMY),
            console=err,
            disable=not err.is_terminal or not total,
        )
        self._bar.start()
        self._bar.add_task(_plain(name), total=total, completed=done, rate="", errors="", status="")

    def _columns(self, roomy: bool) -> Sequence[str | ProgressColumn]:
        """The columns after the bar."""
        few = [MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[errors]}")]
        more = [TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[status]}", style="dim")]
        return [*few, *more] if roomy else few

    def advance(self, done: int, failed: int = 0) -> None:
        """Move on, and show rate and errors."""
        if self._bar is None or self._bar.disable:
            return
        self._failed += failed
        task = self._bar.tasks[0]
        self._bar.advance(task.id, done + failed)
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        errors = f"[red]{self._failed} failed[/red]" if self._failed else ""
        self._bar.update(task.id, rate=rate, errors=errors)

    def status(self, line: str) -> None:
        """Show what limits the work, at the end of the line."""
        if self._bar is not None and not self._bar.disable:
            self._bar.update(self._bar.tasks[0].id, status=_plain(line))

    def end(self) -> None:
        """Leave the finished line standing."""
        if self._bar is not None:
            self._bar.stop()


class Bytes(Bar):
    """Progress bar of a transfer: bytes, rate, time left."""

    def _columns(self, roomy: bool) -> Sequence[str | ProgressColumn]:
        return [DownloadColumn(), TimeRemainingColumn(), *([TransferSpeedColumn()] if roomy else [])]


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: int = 0, lines: bool = False
) -> None:
    """A table.

    Args:
        title: stands above it; may be empty.
        columns: their names.
        rows: a cell for each column.
        numbers: the last so many columns are right-aligned and never cut, however narrow the terminal is.
        lines: line ends in names and cells are ours and begin a new line, except in the first column.
    """
    if title:
        _lines(out, title, style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0) if numbers else (0, 2, 0, 0))
    for i, name in enumerate(columns):
        right = i >= len(columns) - numbers
        table.add_column(_plain(name, lines), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(_plain(cell, lines and i > 0) for i, cell in enumerate(row)))
    roomy = Console(width=10_000, emoji=False)
    needed = Measurement.get(roomy, roomy.options, table).maximum
    wide = Console(
        file=out.file, highlight=False, emoji=False, width=max(needed, out.width), force_terminal=out.is_terminal
    )
    (wide if numbers else out).print(table)


def say(line: str = "") -> None:
    """One line of output. A terminal shows a long one in several, broken between words."""
    _lines(out, line)


def note(line: str) -> None:
    """One line beside the output: progress, remarks."""
    _lines(err, line, style="dim" if sys.stderr.isatty() else "")


def warn(line: str) -> None:
    """One line that must be seen."""
    _lines(err, line, "note:", "yellow")


def store(where: Any, why: str) -> None:
    """Which store a command uses, where none was named: it is easily another one than is meant."""
    if why:
        _lines(err, f"{where} ({why})", "store:", "bold")


def command(line: str) -> None:
    """A command to be copied: it is not broken into lines."""
    err.print(f"  {_plain(line)}", soft_wrap=True)


def fail(what: str, fix: str) -> None:
    """The end of a command that could not be carried out."""
    _lines(err, what, "error:", "bold red")
    _lines(err, fix, "fix:", "bold", own=True)  # some show how a corpus has to lie


def document(text: str) -> None:
    """Lines for another program to read, such as a table in Markdown: neither folded nor coloured."""
    print("\n".join(map(printable, text.split("\n"))), file=out.file)


def as_json(value: Any) -> None:
    """A value as JSON, letters as they are; what a terminal would obey is written as JSON escapes it."""
    lines = json.dumps(value, indent=1, ensure_ascii=False, default=str).split("\n")
    print("\n".join(line if printable(line) == line else _escaped(line) for line in lines), file=out.file)


def _escaped(line: str) -> str:
    """A line of JSON in ASCII alone."""
    return "".join(c if " " <= c <= "~" else json.dumps(c)[1:-1] for c in line)


def confirm(question: str, err: bool = False) -> None:
    """Ask; whoever does not say yes has nothing done. `err`: standard output is for JSON alone."""
    typer.confirm(printable(question), abort=True, err=err)


def size(nbytes: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit != "MB" else f"{nbytes:.1f} MB"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def corpus(index: Any) -> None:
    """What a corpus holds: counts per split and class, what was left out and why, what leaks."""
    about, counts = index.told, index.counts()
    columns = list(next(iter(counts.values())))
    columns = [name for name in columns if name != "unlabelled" or any(row[name] for row in counts.values())]
    rows = [[split, *(row[name] for name in columns), len(index.rows(split))] for split, row in counts.items()]
    rows.append(["all", *(sum(row[name] for row in counts.values()) for name in columns), len(index)])
    show(
        f"{index.name}: {len(index)} samples, split {about['split']}",
        ["split", *columns, "total"],
        rows,
        len(columns) + 1,
    )
    if told := about.get("labels"):
        say(f"  labels: {told}")
    for reason, number in about["dropped"].items():
        say(f"  left out: {number} x {reason}")
    for encoding, number in about["encodings"].items():
        if encoding not in ("str", "utf-8-sig"):
            say(f"  {number} texts are not UTF-8 and were read as {encoding}")
    for leak in about["leaks"]:
        warn(leak if "in more than one part" in leak else f"in more than one part: {leak}")


def unreadable(found: Sequence[tuple[str, str, str]], limit: int = 5) -> None:
    """Files that are missing or empty, seen before anything is extracted: id, modality, path."""
    of: dict[tuple[str, str], list[str]] = {}
    for id, modality, path in found:
        of.setdefault((id, path), []).append(modality)
    if of:
        many = len({path for _, path in of})
        warn(f"{many} file{'s are' if many > 1 else ' is'} missing, empty or not readable:")
        for (id, path), modalities in list(of.items())[:limit]:
            say(f"  {id}: {', '.join(modalities)}: {path}")
        if len(of) > limit:
            say(f"  and {len(of) - limit} more")


def failures(found: Sequence[tuple[str, str, str, str]], limit: int = 10) -> None:
    """Samples without hidden states: modality, id, stage, reason."""
    of: dict[tuple[str, str, str], list[str]] = {}
    for modality, id, stage, reason in found:
        of.setdefault((id, stage, reason), []).append(modality)
    if of:
        rows = [(id, ", ".join(modalities), stage, reason) for (id, stage, reason), modalities in of.items()]
        many = len({id for id, _, _ in of})
        title = f"{many} sample{'s' * (many > 1)} could not be had, all of it or in part (recorded in the store)"
        show(title, ["id", "modalities", "stage", "reason"], rows[:limit])
        if len(rows) > limit:
            say(f"  and {len(rows) - limit} more: msa cache info STORE --failures")


def estimates(found: Sequence[Any], store: Any) -> None:
    """What a dry run learnt."""
    rows = []
    for e in found:
        shape = f"{e.rows:.1f} x {e.dim}" if e.dim else "?"
        weights = f"{e.weights} ({e.licence})" if e.licence else e.weights
        rows.append([e.modality, e.backbone, weights, e.samples, shape, size(e.bytes) if e.dim else "?"])
    show(f"would go to {store}", ["modality", "backbone", "weights", "samples", "rows x dim", "on disk"], rows, 3)
    for e in found:
        if e.already:
            say(f"  {e.modality}: the store has this view already; only what is missing would be extracted")
        if e.problem:
            warn(f"{e.modality}: {e.problem}")
    say("nothing was written")


def extracted(reports: Sequence[Any], store: Any, tried: Mapping[str, Mapping[str, Any]]) -> None:
    """The end of an extraction. `tried` has the file of each modality and sample that has one."""
    rows = []
    for r in reports:
        rate = f"{r.written / r.seconds:.1f}/s" if r.written and r.seconds else ""
        rows.append([r.modality, f"{r.name}@{r.view_id}", r.written, r.already, len(r.failed), rate])
    show(f"extracted into {store}", ["modality", "view", "new", "already there", "failed", "rate"], rows, 4)
    for r in reports:
        if r.recovered:
            say(f"  {r.modality}: {r.recovered} samples were taken over from an interrupted run")
        if r.borrowed:
            say(f"  {r.modality}: {r.borrowed} samples were already there for another version of this corpus")
        for what, number in r.counts.items():
            say(f"  {r.modality}: {number} {what}")
        if r.written:
            padding = f", {r.padding:.1%} padding" if r.padding else ""
            speed = f"{r.share:.0%} of the bare forward's speed, " if r.bound == "forward" or r.share > 0.05 else ""
            say(f"  {r.modality}: {speed}bound by {r.bound}{padding}")  # descriptors are made while decoding
        if r.failed_before:
            say(f"  {r.modality}: {r.failed_before} failed before and were left alone: --retry-errors tries them again")
    failures(
        [
            (r.modality, id, stage, f"{reason}: {tried[r.modality][id]}" if id in tried.get(r.modality, {}) else reason)
            for r in reports
            for id, stage, reason in r.failed
        ]
    )


def imported(found: Sequence[Any], store: Any) -> None:
    """The end of an import."""
    rows = [[r.modality, f"{r.name}@{r.view_id}", r.written, r.already, len(r.failed)] for r in found]
    show(f"imported into {store}", ["modality", "view", "new", "already there", "failed"], rows, 3)
    for r in found:
        if r.borrowed:
            say(f"  {r.modality}: {r.borrowed} samples were already there for another version of this corpus")
        for what, number in r.not_finite.items():
            say(f"  {r.modality}: {number} {what}")
    failures([(r.modality, id, "import", reason) for r in found for id, reason in r.failed])


def findings(store: Any, problems: Sequence[Any], remarks: Sequence[Any], then: str = "") -> None:
    """What a check of a store found, and what is worth knowing besides. `then`: what to do about problems."""
    for problem in problems:
        say(str(problem))
    for remark in remarks:
        note(str(remark))
    count = f"{len(problems)} problem" + "s" * (len(problems) > 1)
    then = then or "`msa cache repair --dry-run` says what can be done"
    say(f"{store}: {f'{count}; {then}' if problems else 'everything is as it should be'}")


def mending(store: Any, steps: Sequence[Any], commands: Sequence[str]) -> None:
    """What a repair does, and what is to be run after it."""
    for step in steps:
        say(str(step))
    if not steps:
        say(f"{store}: there is nothing to repair")
    for command in commands:
        note(f"afterwards, bring back what is dropped or missing: {command}")


def weights(found: Sequence[Any]) -> None:
    """Whose weights are about to be used, and under which licence."""
    for spec in found:
        if spec.weights:
            note(f"{spec.modality}: weights {spec.weights}, licence: {spec.licence or 'see where they come from'}")


def views(path: Any, datasets: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """`msa cache ls`."""
    columns = ["dataset", "modality", "backbone", "view", "samples", "failed", "dim", "size"]
    cells = [[*(row[name] for name in columns[:-1]), size(row["bytes"])] for row in rows]
    show(str(path), columns, cells, 4)
    for name in datasets:
        if name not in {row["dataset"] for row in rows}:
            say(f"  {name}: nothing extracted yet")


def shared(result: Any) -> None:
    """`msa cache push`, `pull`, `merge` and `clone`."""
    what = ", ".join(result.datasets) or "nothing"
    travelled = f"{result.files} files, {size(result.bytes)} travelled" if result.files else "all of it was there"
    held = f"{result.samples:,} samples in all views"
    say(f"{what}: {held}, in {result.to} (generation {result.generation}); {travelled}")
    if result.close:
        say(f"  {result.close:,} samples of both differ by rounding: those of {result.to} stay as they are")
    for name, licence in result.licences:
        say(f"  {name}: licence: {licence}")


def restrictions(found: Sequence[Any]) -> None:
    """What forbids to hand a store on."""
    for one in found:
        warn(f"{one.what} may not be handed on as far as is known: {one.why}")


def provenance(found: Mapping[str, Any], every_failure: bool) -> None:
    """`msa cache info`."""
    say(f"{found['store']}: format {found['format']}, generation {found['generation']}, {size(found['bytes'])}")
    for dataset in found["datasets"]:
        source = dataset["source"]
        say()
        say(f"{dataset['name']}@{dataset['fingerprint']}: {dataset['samples']} samples, split {dataset['split']}")
        say(f"  source    {source['title']}, {source['home']}")
        say(f"  licence   {source['licence']}" + ("" if source["redistribution"] else " - not to be passed on"))
        if source["citation"]:
            say(f"  cite      {source['citation']}")
        for reason, number in dataset["dropped"].items():
            say(f"  left out  {number} x {reason}")
        for leak in dataset["leaks"]:
            say(f"  leak      {leak}")
        for view in dataset["views"]:
            weights = view["weights"]
            counted = f"{view['samples']} samples, {view['failed']} failed, {view['pending']} not extracted"
            where = f"{view['backbone']}@{view['id']}"
            say(f"  {view['modality']:<9} {where}: {counted}, {view['dim']} wide {view['dtype']}")
            if weights["name"]:
                proof = f"revision {weights['revision'] or '-'}, sha256 {weights['sha256'][:16]}…"
                say(f"    weights {weights['name']}, {proof}, licence {weights['licence'] or 'its own'}")
                if not weights["redistribution"]:
                    say("    weights not to be passed on, as far as is known, and neither what came from them")
            if view["recipe"]:
                say(f"    recipe  {', '.join(f'{option}={value}' for option, value in view['recipe'].items())}")
            for fact, value in view.get("facts", {}).items():
                say(f"    {fact}: {value}")
            for what, number in view["counts"].items():
                say(f"    counted {number} {what}")
            by = f" by {view['creator']}" if view["creator"] else ""
            where = f"{view['device']}{_arithmetic(view.get('runs', ()))}"
            say(f"    made    {view['created']}{by} on {where}, {view['versions']}")
            shown = view["failures"] if every_failure else view["failures"][:3]
            for failure in shown:
                say(f"    failed  {failure['id']}: {failure['stage']}: {failure['reason']}")
            if len(shown) < len(view["failures"]):
                say(f"    failed  and {len(view['failures']) - len(shown)} more: --failures lists them all")


def citations(found: Sequence[tuple[str, str]]) -> None:
    """`msa cache info --cite`."""
    for what, how in found:
        say(f"{what}: {how}")


def removed(what: str, store: Any, generation: int, found: Any) -> None:
    """`msa cache rm` from a store that was at some generation before."""
    say(f"removed {what}" + (f", {size(found.freed)} freed" if found.freed else ""))
    if found.later and found.tags:
        say(f"  {size(found.later)} stay, because a tag needs them: {', '.join(found.tags)}")
    elif found.later:
        say(f"  {size(found.later)} are freed by `msa cache gc`, a day from now; until then the way back is")
        say(f"  {shell_command('msa', 'cache', 'rollback', generation, '--store', store)}")


def log(found: Sequence[Any]) -> None:
    """`msa cache log`."""
    rows: list[list[object]] = []
    for one in found:
        state = ", ".join([*one.tags, *([] if one.whole else ["swept"])])
        for i, line in enumerate(one.told):
            rows.append([one.number, one.created, one.creator, state, line] if not i else ["", "", "", "", line])
    show("", ["generation", "when", "who", "tags", "what"], rows)


def _arithmetic(runs: Sequence[Mapping[str, Any]]) -> str:
    """Threads and instructions of the runs of a view, each once; nothing of runs that did not note them."""
    told = [
        f"{run['threads']} thread{'s' * (run['threads'] != 1)}, {run['cpu']}"
        for run in runs
        if {"threads", "cpu"} <= run.keys()
    ]
    return "".join(f" ({one})" for one in dict.fromkeys(told))


def changes(found: Sequence[Any]) -> None:
    """`msa cache diff`: a line for each corpus and view."""
    for change in found:
        segments = f"{change.segments[0]} -> {change.segments[1]} segments, " if any(change.segments) else ""
        say(f"{change}  ({segments}{'-' if change.nbytes < 0 else '+'}{size(abs(change.nbytes))})")
    if not found:
        say("nothing differs")


def survey(found: Any) -> None:
    """`msa cache gc`: what is kept, and what may go."""
    recent = [number for number, why in found.kept.items() if why == "recent"]
    for number, why in found.kept.items():
        if number not in recent:
            say(f"keeps generation {number}: {why}")
    if recent:
        named = f"generation {recent[0]}" if len(recent) == 1 else f"{len(recent)} generations from {recent[0]} on"
        say(f"keeps {named}: the newest at some moment of the grace period, so somebody may read it")
    for view, number in found.left.items():
        say(f"killed runs left {number} samples in view {view}: they are published")
    kinds = {item.what: [i for i in found.litter if i.what == item.what] for item in found.litter}
    for what, items in kinds.items():
        many = (
            f"{len(items)} folder{'s' * (len(items) > 1)} or files" if what == "unfinished" else f"{len(items)} folders"
        )
        say(f"{what}: {many}, {size(sum(item.nbytes for item in items))}")


def swept(found: Any, freed: int, dry_run: bool) -> None:
    """The end of `msa cache gc`."""
    for line in found.damaged:
        warn(line)
    if dry_run:
        say(f"{size(found.nbytes)} would be freed; nothing was removed")
    else:
        say(f"{size(freed)} freed" if freed else "nothing to free")


def compacted(found: Sequence[Any], dry_run: bool) -> None:
    """`msa cache compact`."""
    for one in found:
        was, will = one.before, one.after
        verb = "would become" if dry_run else "became"
        before, after = (f"{one.segments} with {one.shards} shards, {size(one.nbytes)}" for one in (was, will))
        say(f"{one.label}: segments: {before}, {verb} {after}")
    if not found:
        say("nothing to gain: segments are few and their shards are full")
    elif not dry_run:
        say("`msa cache gc` frees the old segments, a day from now")


def settings(name: str, found: Mapping[str, Sequence[tuple[str, Any, str]]]) -> None:
    """`msa list KIND NAME`: what `--set` takes."""
    for title, rows in found.items():
        show(f"{name}: {title}", ["--set", "default", "what it is"], rows)


def predictions(found: Sequence[Any]) -> None:
    """`msa predict`."""
    names = list(next((p.output for p in found if p.output), {}))
    rows = [
        [
            p.id,
            p.label or "-",
            *(f"{p.output[n]:.3f}" if p.output else "-" for n in names),
            "+".join(p.used),
            "; ".join(p.notes),
        ]
        for p in found
    ]
    columns = ["id", "prediction", *names, "modalities", "notes"]
    if not any(p.notes for p in found):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    show("", columns, rows)


def scores(title: str, found: Mapping[str, Any]) -> None:
    """`msa fuse eval`."""
    names = list(found["seeds"][0]["values"])
    rows = [[name, *(f"{row['values'].get(name, float('nan')):.3f}" for row in found["seeds"])] for name in names]
    show(title, ["", *(f"seed {row['seed']}" for row in found["seeds"])], rows, len(found["seeds"]))
    for text in found["notes"]:
        say(f"  {text}")


def sheet(found: Any) -> None:
    """A table of results and what belongs under it. One that is too wide for the terminal stands there in pieces, each
    with the names of its rows."""
    rows = [found.columns, *found.rows]
    wide = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(len(found.columns))]
    for n, piece in enumerate(_pieces(wide, out.width if out.is_terminal else sum(wide) + len(wide))):
        if n:
            say()
        some = [[row[0], *row[piece]] for row in found.rows if any(row[piece])]
        show(
            "" if n else found.title,
            [found.columns[0], *found.columns[piece]],
            some,
            len(found.columns[piece]),
            lines=True,
        )
    for remark in found.remarks:
        say(f"  {remark}")


def _pieces(wide: Sequence[int], room: int) -> list[slice]:
    """Columns from the second on, as many at a time as stand beside the first in a room so wide."""
    found, begin, taken = [], 1, wide[0] + 1
    for i in range(1, len(wide)):
        if i > begin and taken + wide[i] > room:
            found.append(slice(begin, i))
            begin, taken = i, wide[0] + 1
        taken += wide[i] + 1
    return [*found, slice(begin, len(wide))]
