"""What strangers write never steers a terminal, whichever function prints it."""

import inspect
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest

from msa import cli, commands
from msa.commands import console, progress
from msa.errors import SourceError
from msa.fuse.experiments.tables import Sheet

EVIL = "a\x1b[2Jb\x07c\rd\x9b31me\u202ef\ud800[red]g[/red]\x00\x7f"
FORGED = "fine\nerror: all is lost"
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Evil:
    """An object every attribute, item and text of which is hostile, and every number of which is 3."""

    def __init__(self, **given):
        self.__dict__.update(given)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return EVIL

    def __str__(self):
        return EVIL


class Index:
    name = EVIL
    task = Evil(classes=())
    full_about = {"split": EVIL, "dropped": {EVIL: 1}, "encodings": {EVIL: 2}, "leaks": [EVIL]}  # noqa: RUF012

    def __len__(self):
        return 3

    def counts(self):
        return {"train": {EVIL: 3, "unlabelled": 0}}

    def rows(self, split):
        return [1]


REPORT = Evil(written=1, seconds=1.0, already=1, failed=[(EVIL, EVIL, EVIL)], recovered=1, borrowed=1, counts={EVIL: 1})
REPORT.__dict__ |= {"bound": "decode", "padding": 0.5, "share": 0.5, "failed_before": 1, "not_finite": {EVIL: 1}}
VIEW = dict.fromkeys(("modality", "backbone", "id", "dtype", "created", "creator", "device", "versions"), EVIL)
VIEW |= {
    "samples": 1,
    "failed": 1,
    "pending": 1,
    "dim": 3,
    "counts": {EVIL: 1},
    "recipe": {EVIL: EVIL},
    "facts": {EVIL: EVIL},
}
VIEW |= {"weights": {"name": EVIL, "revision": EVIL, "sha256": EVIL, "licence": EVIL, "redistribution": False}}
VIEW |= {"failures": [{"id": EVIL, "stage": EVIL, "reason": EVIL}] * 5}
SOURCE = dict.fromkeys(("title", "home", "licence", "citation"), EVIL) | {"redistribution": False}
INFO = {
    "store": EVIL,
    "format": 1,
    "generation": 3,
    "bytes": 5,
    "datasets": [
        {"name": EVIL, "fingerprint": EVIL, "samples": 3, "split": EVIL, "source": SOURCE}
        | {"dropped": {EVIL: 1}, "leaks": [EVIL], "views": [VIEW]}
    ],
}
ROW = {
    "dataset": EVIL,
    "modality": EVIL,
    "backbone": EVIL,
    "view": EVIL,
    "samples": 1,
    "failed": 0,
    "dim": 3,
    "bytes": 4,
}
SCORES = {"seeds": [{"seed": EVIL, "values": {EVIL: 0.5}}], "notes": [EVIL]}
LITTER = SimpleNamespace(what=EVIL, nbytes=3)
SIZES = Evil(nbytes=3, segments=2, shards=1)
COMPACTED = Evil(before=SIZES, after=SIZES)
CALLS = {
    "console.show": [EVIL, [EVIL, EVIL], [[EVIL, EVIL]]],
    "console.say": [EVIL],
    "console.note": [EVIL],
    "console.warn": [EVIL],
    "console.fail": [EVIL, EVIL],
    "console.document": [EVIL],
    "console.as_json": [{EVIL: [EVIL, Evil()]}],
    "console.store": [EVIL, EVIL],
    "console.command": [EVIL],
    "console.sheet": [Sheet(EVIL, (EVIL, EVIL), ((EVIL, EVIL),), (EVIL,))],
    "dataset.print_dataset": [Index()],
    "dataset.print_failures": [[(EVIL, f"{EVIL}{n}", EVIL, EVIL) for n in range(20)]],
    "extract.print_unreadable": [[(f"{EVIL}{n}", EVIL, EVIL) for n in range(9)]],
    "extract.print_weights": [[Evil()]],
    "extract.print_estimates": [[Evil(rows=2.0, dim=3, bytes=5)], EVIL],
    "extract.print_extracted": [[REPORT], EVIL, {}],
    "listing.print_settings": [EVIL, {EVIL: [(EVIL, EVIL, EVIL)]}],
    "predict.print_predictions": [[Evil(output={EVIL: 0.5}, used=[EVIL], notes=[EVIL])]],
    "cache.contents.print_views": [EVIL, {EVIL: EVIL, "b" + EVIL: ""}, [ROW]],
    "cache.contents.print_info": [INFO, False],
    "cache.contents.print_citations": [[(EVIL, EVIL)]],
    "cache.checks.print_problems": [EVIL, [Evil()], [Evil()], EVIL],
    "cache.checks.print_repair": [EVIL, [Evil()], [EVIL]],
    "cache.history.print_log": [[Evil(tags=[EVIL], whole=False, told=[EVIL, EVIL])]],
    "cache.history.print_changes": [[Evil(segments=(1, 2), nbytes=3)]],
    "cache.space.print_removed": [EVIL, EVIL, 3, Evil(freed=3, later=3, tags=[EVIL])],
    "cache.space.print_plan": [Evil(kept={1: EVIL, 2: "recent"}, left={EVIL: 3}, garbage=[LITTER])],
    "cache.space.print_collected": [Evil(damaged=[EVIL]), 3, False],
    "cache.space.print_compacted": [[COMPACTED], False],
    "cache.sharing.print_restrictions": [[Evil()]],
    "cache.sharing.print_transferred": [
        Evil(datasets=[EVIL], files=1, bytes=1, samples=2, close=3, licences=[(EVIL, EVIL)])
    ],
    "cache.exchange.print_imported": [
        [Evil(written=1, borrowed=1, already=1, failed=[(EVIL, EVIL)], not_finite={EVIL: 1})],
        EVIL,
    ],
    "fuse.results.print_scores": [EVIL, SCORES],
}
# These print through others, or return text.
ELSEWHERE = {"console.confirm", "console.plain", "console.size", "console.count"}
ELSEWHERE |= {"listing.print_list", "fuse.training.print_run"}


def printing() -> set[str]:
    """Functions that print: those of the console, and every `print_...` of the commands."""
    names = set()
    for info in pkgutil.walk_packages(commands.__path__, "msa.commands."):
        for name, value in vars(import_module(info.name)).items():
            own = inspect.isfunction(value) and value.__module__ == info.name and not name.startswith("_")
            if own and (name.startswith("print_") or info.name == "msa.commands.console"):
                names.add(f"{info.name.removeprefix('msa.commands.')}.{name}")
    return names


def test_every_function_that_prints_is_tried():
    assert printing() == CALLS.keys() | ELSEWHERE


@pytest.mark.parametrize("name", sorted(CALLS))
def test_no_function_lets_a_terminal_obey_what_a_stranger_wrote(name, capsys):
    room, _, function = name.rpartition(".")
    getattr(import_module(f"msa.commands.{room}"), function)(*CALLS[name])
    printed = "".join(capsys.readouterr())
    assert not OBEYED.search(printed), ascii(printed)
    assert r"\x1b[2Jb" in printed or r"\u001b[2Jb" in printed
    assert "[red]g[/red]" in re.sub(r"\s", "", printed)  # nothing is taken for markup


def test_a_question_is_plain_too(monkeypatch):
    asked = []
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text))
    console.confirm(EVIL)
    assert not OBEYED.search(asked[0])


@pytest.mark.parametrize("bar", [progress.Bar, progress.Bytes])
def test_progress_of_what_has_a_hostile_name(bar, monkeypatch, capsys):
    monkeypatch.setattr(console, "err", console.Console(stderr=True, force_terminal=True, width=300, no_color=True))
    made = bar()
    made.begin(EVIL, 10)
    made.advance(1, 1)
    made.status(EVIL)
    made.end()
    said = capsys.readouterr().err
    assert r"a\x1b[2Jb\x07c\rd\x9b31me" in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert "\u202e" not in said


def test_a_name_cannot_forge_a_line_of_its_own(capsys):
    console.say(FORGED)
    console.warn(FORGED)
    console.note(FORGED)
    console.fail(FORGED, "try\nagain")
    console.show(FORGED, ["x"], [[FORGED]])
    console.sheet(Sheet("", ("", "a\nb"), ((FORGED, "1\n2"),)))
    said = capsys.readouterr()
    lines = [line.strip() for line in (said.out + said.err).splitlines()]
    assert not [line for line in lines if line.startswith("error: all")]
    assert "again" in lines  # our own line ends remain
    assert [line for line in lines if line in ("a", "b")] == ["a", "b"]


def test_json_stays_the_same_value(capsys):
    value = {"a\x9b\ud800": ["é情\u202e", "😀\x1b", 1.5, None]}
    console.as_json(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert "é" not in said.splitlines()[2]
    console.as_json({"情": "é"})
    assert capsys.readouterr().out == '{\n "情": "é"\n}\n'


@pytest.mark.parametrize(
    "words", [["cache", "ls"], ["cache", "info"], ["cache", "verify"], ["fuse", "train"], ["predict"]]
)
def test_errors_of_every_command_are_plain(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["msa", *words])
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(SourceError(EVIL, fix=EVIL)))
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert r"error: a\x1b[2Jb" in said
    assert r"fix: a\x1b[2Jb" in said
    assert not OBEYED.search(said)


@pytest.mark.parametrize("words", [["cache", "ls", "--store"], ["cache", "verify"], ["fuse", "show"]])
def test_a_path_that_is_no_utf8_is_shown_and_not_a_traceback(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "msa.cli", *words, bytes(tmp_path) + b"/caf\xe9\x1b[2J"], capture_output=True
    )
    assert done.returncode == 1
    assert rb"caf\udce9\x1b[2J" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stderr + done.stdout


def test_a_table_whose_name_is_no_utf8_is_refused_with_the_way_out(tmp_path):
    table = bytes(tmp_path) + b"/posts\xff.csv"
    with open(table, "w") as file:
        file.write("id,label,text\n" + "".join(f"p{i},{('good', 'bad')[i % 2]},word{i} text\n" for i in range(30)))
    words = ["extract", "--dataset", "table", "--root", table, "--store", bytes(tmp_path) + b"/st\xffore"]
    done = subprocess.run([sys.executable, "-m", "msa.cli", *words, "--preset", "classic"], capture_output=True)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1)
    assert b"\xff" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two three", ["one two", "three"]),
        ("  one two three", ["  one two", "  three"]),
        ("a b: --set stratify=true", ["a b:", "--set stratify=true"]),
        ("say `msa cache gc` now", ["say", "`msa cache gc`", "now"]),
        ("see: msa cache info STORE --failures", ["see:", "msa cache info STORE --failures"]),
        ("see: msa cache ls, or do not", ["see:", "msa cache ls,", "or do not"]),
        ("a /very/long/path b", ["a", "/very/long/path", "b"]),
        ("情感 情感 情感", ["情感 情感", "情感"]),
        ("a\n  b c", ["a", "  b c"]),
    ],
)
def test_prose_is_broken_between_words_and_never_inside_a_command(text, shown):
    assert console._broken(text, 12).split("\n") == shown


def test_a_terminal_gets_short_lines_and_a_pipe_whole_ones(monkeypatch, capsys):
    long = "many words " * 20 + "see: msa cache info STORE --failures"
    console.fail(long, long)
    assert capsys.readouterr().err == f"error: {long}\nfix: {long}\n"
    monkeypatch.setattr(console, "err", console.Console(stderr=True, force_terminal=True, width=80, no_color=True))
    console.fail(long, long)
    console.warn(long)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().err.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum("msa cache info STORE --failures" in line for line in lines) == 3
