"""The house: who may import whom, what a command may load, and what every command, module and error owes its reader."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import msa
from msa import cli, errors

HOUSE = Path(msa.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
HEAVY = ("torch", "zarr", "numpy", "transformers", "h5py", "PIL", "librosa", "sklearn", "matplotlib")

# Room -> what it may import besides itself; the most specific room counts. COMPOSITIONS know everything.
NOUNS = {"msa.types", "msa.errors", "msa.names", "msa.progress", "msa.regular", "msa.annotations"}
SETTINGS = {"msa.catalog", "msa.config", "msa.device"}
FORMAT = NOUNS | {"msa.cache.format"}
CACHE = FORMAT | {f"msa.cache.{room}" for room in ("index", "storage", "read", "write", "interop", "store")}
HEAD = {"msa.fuse.head", "msa.fuse.metrics"}
TRAIN = NOUNS | SETTINGS | HEAD | {"msa.cache", "msa.fuse.files", "msa.fuse.data", "msa.fuse.train"}
ARROWS = {
    "msa": set(),
    "msa.types": set(),
    "msa.errors": set(),
    "msa.progress": set(),
    "msa.names": {"msa.errors"},
    "msa.regular": {"msa.errors", "msa.names"},
    "msa.annotations": NOUNS,
    "msa.catalog": {"msa.errors"},
    "msa.device": {"msa.errors"},
    "msa.config": NOUNS,
    "msa.commands.user_defaults": NOUNS,
    "msa.commands.console": NOUNS,
    "msa.commands.progress": NOUNS | {"msa.commands.console"},
    "msa.cache": NOUNS,
    "msa.cache.format": FORMAT,
    "msa.cache.index": FORMAT,
    "msa.cache.storage": FORMAT,
    "msa.cache.read": FORMAT | {"msa.cache.index", "msa.cache.storage"},
    "msa.cache.write": FORMAT | {"msa.cache.index", "msa.cache.storage", "msa.cache.read"},
    "msa.cache.interop": FORMAT | {"msa.cache.index", "msa.cache.read", "msa.cache.write"},
    "msa.cache.store": CACHE,
    "msa.cache.share": CACHE,
    "msa.cache.maintain": CACHE | {"msa.cache.share"},
    "msa.cache.exchange": CACHE | SETTINGS | {"msa.cache.maintain"},
    "msa.extract": NOUNS | SETTINGS | {"msa.cache"},
    "msa.fuse.files": NOUNS | {"msa.cache.format"},
    "msa.fuse.head": NOUNS,
    "msa.fuse.metrics": NOUNS,
    "msa.fuse.modules": NOUNS | HEAD,
    "msa.fuse.heads": NOUNS | HEAD | {"msa.config"} | {"msa.fuse.modules"},
    "msa.fuse.data": NOUNS | HEAD | {"msa.cache", "msa.device"},
    "msa.fuse.train": TRAIN,
    "msa.fuse.runs": TRAIN,
    "msa.fuse.experiments": TRAIN | {"msa.fuse.runs"},
    "msa.fuse.report": TRAIN | {"msa.fuse.runs", "msa.fuse.experiments"},
    "msa.demo": {"msa.errors"},
}
# Leaves know the protocol of their room and never each other, except where one dataset is a variant of another.
LEAVES = {"msa.extract.datasets", "msa.extract.backbones", "msa.fuse.heads", "msa.cache.exchange"}
BY_NAME = {
    ("msa.extract.datasets.mvsa_single", "msa.extract.datasets.mvsa"),
    ("msa.extract.datasets.clips", "msa.extract.datasets.table"),
    ("msa.predict", "msa.extract.datasets.table"),  # the user's own rows, whatever else is installed
}


def module(path: Path) -> str:
    name = ".".join(("msa", *path.relative_to(HOUSE).with_suffix("").parts))
    return name.removesuffix(".__init__")


MODULES = {module(path): ast.parse(path.read_text("utf-8")) for path in FILES}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


# The commands may import every room, except those of their modules that have arrows of their own.
COMMAND_LINE = {"msa.cli"} | {name for name in MODULES if within(name, "msa.commands") and name not in ARROWS}
COMPOSITIONS = COMMAND_LINE | {"msa.predict", "msa.demo.tour"}


def imports(tree: ast.Module) -> Iterator[str]:
    """Modules of ours that are imported anywhere in a file: at the top, in functions, for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if within(alias.name, "msa"))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            if within(node.module or "", "msa"):
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES else str(node.module) for name in full)


def room(name: str) -> str:
    return max((room for room in ARROWS if within(name, room)), key=len)


def arrows_up(modules: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """(importer, imported): imports that the importer's room may not have. Imports for types alone do not count."""
    wrong = set()
    for name in modules.keys() - COMPOSITIONS:
        allowed = ARROWS[room(name)] | {room(name)}
        for other in set(imports(running(modules[name]))) - {"msa"}:
            if not any(within(other, target) and target != "msa" for target in allowed):
                wrong.add((name, other))
    return wrong


def test_arrows_point_down():
    assert arrows_up(MODULES) == set()


def test_an_arrow_that_points_up_is_found():
    modules = {
        "msa.cache.format.layout": ast.parse(
            "def f():\n    from msa.cache.store import Store\n    import msa.fuse.head"
        )
    }
    assert arrows_up(modules) == {
        ("msa.cache.format.layout", "msa.cache.store"),
        ("msa.cache.format.layout", "msa.fuse.head"),
    }


def circles(modules: dict[str, ast.Module]) -> list[list[str]]:
    """Groups of files that import each other at whatever distance; imports for types alone do not count."""
    known = {name: {other for other in imports(running(tree)) if other in modules} for name, tree in modules.items()}
    reach = {name: set() for name in known}
    for name in known:
        waiting = list(known[name])
        while waiting:
            other = waiting.pop()
            if other not in reach[name]:
                reach[name].add(other)
                waiting.extend(known[other])
    groups = {tuple(sorted({name} | {o for o in reach[name] if name in reach[o]})) for name in known}
    return sorted(list(group) for group in groups if len(group) > 1)


def running(tree: ast.Module) -> ast.Module:
    """The same file without what stands under `if TYPE_CHECKING`."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body=body, type_ignores=[])


def test_no_files_import_each_other():
    assert circles(MODULES) == []


def test_a_circle_is_found():
    modules = {f"msa.{a}": ast.parse(f"def f():\n    import msa.{b}") for a, b in ("xy", "yz", "zx")}
    assert circles(modules) == [["msa.x", "msa.y", "msa.z"]]


def test_only_the_command_line_imports_the_command_line_or_a_composition():
    pairs = {(name, other) for name, tree in MODULES.items() for other in imports(tree) if other in COMPOSITIONS}
    assert {name for name, _ in pairs} <= COMMAND_LINE
    assert {name for name, other in pairs if other == "msa.cli"} == set()


def is_leaf(name: str) -> bool:
    home, _, stem = name.rpartition(".")
    return home in LEAVES and not stem.startswith("_")


def imports_of_leaves(modules: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """(importer, leaf): a leaf that is imported by name would have to be kept in step by hand; see `catalog.load`."""
    return {(name, other) for name, tree in modules.items() for other in imports(tree) if is_leaf(other)}


def test_leaves_are_imported_by_name_only_by_their_variants():
    assert imports_of_leaves(MODULES) == BY_NAME


def test_an_imported_leaf_is_found():
    tree = ast.parse("def f():\n    from msa.fuse.heads.lmf import LMF\n    from msa.extract.datasets import _clips")
    assert imports_of_leaves({"msa.fuse.heads.tfn": tree}) == {("msa.fuse.heads.tfn", "msa.fuse.heads.lmf")}


def test_tests_import_benchmarks_only_to_test_them():
    """What both use (faults, made stores) lies in tests/."""
    assert imports_of_benchmarks(Path(__file__).parent) == []


def imports_of_benchmarks(folder: Path) -> list[Path]:
    importing = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    paths = [path for path in folder.rglob("*.py") if path.parent != folder / "benchmarks"]
    return [path for path in sorted(paths) if importing.search(path.read_text("utf-8"))]


def test_an_import_of_a_benchmark_is_found(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for path in ("test_a.py", "test_b.py", "benchmarks/test_c.py"):
        (tmp_path / path).write_text(
            "import os\n" if path == "test_a.py" else "def f():\n    from benchmarks import x\n"
        )
    assert imports_of_benchmarks(tmp_path) == [tmp_path / "test_b.py"]


@pytest.mark.parametrize("words", ["--help", "list", "fuse list", "cache --help", "extract --help"])
def test_looking_around_loads_nothing_heavy(words):
    code = (
        "import sys\nfrom msa.cli import main\n"
        f"sys.argv = ['msa', *{words.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.splitlines()[-1] == "loaded: []"


def commands(name: str, command) -> Iterator[tuple[str, object]]:
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {word}", below)


COMMANDS = dict(commands("msa", typer.main.get_command(cli.app)))


def summary(command) -> str:
    """The first paragraph of a command's help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def unexplained(known: dict[str, object]) -> list[str]:
    """Commands and groups whose help begins with no sentence of at most 60 characters; options without help."""
    sentence = re.compile(r"(?=.{,60}$)[A-Z][^.]*\.")
    wrong = [name for name, command in known.items() if not sentence.fullmatch(summary(command))]
    return wrong + [f"{name}: {p.name}" for name, command in known.items() for p in command.params if not p.help]


def test_commands_explain_themselves_and_every_option():
    assert len(COMMANDS) > 20
    assert unexplained(COMMANDS) == []


def test_a_command_without_help_is_found():
    silent = click.Command("silent", params=[click.Option(["--depth"])])
    helps = {"no": "Short", "two": "One. Two.", "long": f"Write {'x' * 60}.", "good": "Write it.\n\nAll of it. Now."}
    known = {"silent": silent, **{name: click.Command(name, help=text) for name, text in helps.items()}}
    assert unexplained(known) == ["silent", "no", "two", "long", "silent: depth"]


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if hasattr(command, "commands")])
def test_a_list_of_commands_fits_80_columns_uncut(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    group = COMMANDS[name]
    lines = group.get_help(group.make_context(name, ["--help"], resilient_parsing=True)).splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines[lines.index("Commands:") + 1 :])
    assert rows == {word: summary(command) for word, command in group.commands.items()}


# Calls that change or walk the folders they are given by name, and so follow links; local_files.py has them for stores.
FOLLOWING = {
    *("unlink", "rmtree", "rmdir", "rename", "renames", "move", "copyfile", "copytree", "copy2", "truncate"),
    *("mkdir", "makedirs", "mkdtemp", "touch", "utime", "chmod", "link", "symlink", "symlink_to", "hardlink_to"),
    *("glob", "rglob", "iterdir", "walk", "scandir", "listdir", "write_bytes", "write_text"),
    *("os.open", "os.replace"),
}
# What is not in a store: the user's exports, and the mirror of remote stores in the user's own cache folder.
ELSEWHERE = {"msa.cache.format.local_files", "msa.cache.exchange", "msa.cache.format.files", "msa.cache.storage.mirror"}
ALLOWED = {
    ("msa.cache.format.limits", "os.open"),  # to read, and not through a link
    ("msa.cache.write.heartbeat", "utime"),  # of a file this process made a moment before, and not through a link
    ("msa.cache.write.segment", "truncate"),  # of an open file
    ("msa.cache.share.transfer", "truncate"),
}


def works_in_a_store(name: str) -> bool:
    inside = within(name, "msa.cache") or name == "msa.extract.work.crash_journal"
    return inside and not any(within(name, other) for other in ELSEWHERE)


def following_links(modules: dict[str, ast.Module]) -> list[str]:
    """Calls in a store that may follow a link, as "module, line: call"."""
    return [
        f"{name}, line {line}: {called}"
        for name, tree in modules.items()
        if works_in_a_store(name)
        for called, line in calls(tree)
        if (name, called) not in ALLOWED
    ]


def test_only_local_files_changes_or_lists_what_lies_in_a_store():
    """A store is a stranger's: `local_files` alone reaches below its root without following a link that lies there."""
    assert following_links(MODULES) == [], "use msa.cache.format.local_files"


def test_a_store_that_follows_links_is_found():
    tree = ast.parse("import os\nos.unlink('x')")
    modules = {"msa.cache.write.segment": tree, "msa.cache.exchange.npy": tree, "msa.fuse.runs.run": tree}
    assert following_links(modules) == ["msa.cache.write.segment, line 2: unlink"]


def calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Calls of what follows links, and of `open` to write, unless of a descriptor that `local_files.opened` gave."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        for called in {name, f"{owner}.{name}"} & FOLLOWING if owner not in ("", "local_files") else ():
            yield called, node.lineno
        writing = ast.unparse(node.func) in ("open", "io.open") and any(
            isinstance(word, ast.Constant) and isinstance(word.value, str) and set(word.value) & set("wax+")
            for word in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
        )
        if writing and not ast.unparse(node.args[0]).startswith("local_files.opened("):
            yield "open", node.lineno


@pytest.mark.parametrize(
    "line",
    [
        *("os.unlink(path)", "path.unlink()", "shutil.rmtree(path)", "os.replace(a, b)", "folder.glob('*')"),
        *("open(path, 'wb')", "open(path, mode='a')", "os.open(path, 0)", "path.write_text('')", "os.walk(path)"),
    ],
)
def test_a_call_that_follows_links_is_found(line):
    assert list(calls(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["local_files.link(a, b, c)", "text.replace('a', 'b')", "open(path, 'rb')", "open(path)"]
)
def test_a_call_that_follows_none_is_not(line):
    assert not list(calls(ast.parse(line)))


def test_there_is_no_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [path for path in FILES if path.stem in drawers or path.parent.name in drawers] == []


def public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions and methods a reader may call: neither their name nor their class's is private, none is nested."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def undocumented(modules: dict[str, ast.Module]) -> list[str]:
    """Modules, and functions of eight lines or more, without a docstring."""
    overriding = {"forward", "step", "run"}  # their class says what they do
    wrong = [name for name, tree in modules.items() if tree.body and not ast.get_docstring(tree)]
    return wrong + [
        f"{name}, line {f.lineno}: {f.name}"
        for name, tree in modules.items()
        for f in public_functions(tree)
        if f.end_lineno - f.lineno >= 8 and f.name not in overriding and not ast.get_docstring(f)
    ]


def test_modules_and_long_functions_have_docstrings():
    assert undocumented(MODULES) == []


def test_a_module_and_a_long_function_without_docstrings_are_found():
    body, deep = "    pass\n" * 9, "        pass\n" * 9
    trees = {
        "msa.x": f"def long():\n{body}\ndef _private():\n{body}\nclass A:\n    def b(self):\n{deep}",
        "msa.y": f'"""Y."""\ndef short():\n    pass\ndef long():\n    """Long."""\n{body}',
        "msa.empty": "",
    }
    found = undocumented({name: ast.parse(text) for name, text in trees.items()})
    assert [line.rpartition(" ")[2] for line in found] == ["msa.x", "long", "b"]


def test_the_tree_of_errors_is_these_six():
    ours = {name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == "msa.errors"}
    assert ours == {"MsaError", "UnknownNameError", "SourceError", "BackboneError", "StoreError", "ConfigError"}
    assert all(issubclass(getattr(errors, name), errors.MsaError) for name in ours)


@pytest.mark.parametrize("name", ["SourceError", "BackboneError", "StoreError", "ConfigError"])
def test_an_error_cannot_be_raised_without_the_way_out(name):
    with pytest.raises(TypeError, match="fix"):
        getattr(errors, name)("what happened")


def test_no_text_asks_to_install_a_package_called_msa():
    """On the public index `msa` is another's package, and installing it would replace this program."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE.parent, capture_output=True, text=True, check=True)
    asking = re.compile(r"\b(pip|pip3|pipx|uv|poetry)\b.* (install|add|run)\b.*[ '\"`]msa(?![\w/.-])")
    assert asking.search("pip install 'msa[face]'")
    assert asking.search("run pip install --upgrade msa, then")
    assert not asking.search("pip install --editable .")
    paths = [
        HOUSE.parent / name for name in tracked.stdout.split("\0") if name.endswith((".py", ".md", ".toml", ".yaml"))
    ]
    assert len(paths) > 100
    this = Path(__file__).resolve()
    assert [path for path in paths if path.resolve() != this and asking.search(path.read_text("utf-8"))] == []


def test_the_packages_that_read_faces_are_named_as_in_pyproject():
    from msa.extract.encoders.face import PACKAGES

    project = tomllib.loads((HOUSE.parent / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert " ".join(f"'{name}'" for name in project["face"]) == PACKAGES
    assert PACKAGES in (HOUSE.parent / "README.md").read_text("utf-8")


COMMAND = re.compile(r"(\bmsa (extract|predict|demo|cache|fuse)\b|\bhf download\b|\brm (-r )?)[^`;,:]*$")


def unquoted(tree: ast.AST) -> list[int]:
    """Lines of f-strings that put a value into a command themselves."""
    lines = []
    for node in ast.walk(tree):
        before = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else ():
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                call = part.value
                quoted = isinstance(call, ast.Call) and ast.unparse(call.func) == "shell_command"
                if COMMAND.search(before) and not quoted:
                    lines.append(node.lineno)
                before += "x"
    return lines


def test_names_stand_in_commands_quoted_for_a_shell():
    wrong = [f"{name}, line {line}" for name, tree in MODULES.items() for line in unquoted(tree)]
    assert wrong == [], "build it with names.shell_command"


@pytest.mark.parametrize("line", ['f"msa cache rm --dataset {n}"', "f\"rm '{n}'\"", 'f"`hf download {n}`"'])
def test_a_command_that_quotes_nothing_is_found(line):
    assert unquoted(ast.parse(line)) == [1]


def printing(modules: dict[str, ast.Module]) -> list[str]:
    """Modules that print to standard output or ask a question."""
    calls = {"print", "input", "typer.echo", "typer.secho", "typer.confirm", "typer.prompt", "sys.stdout.write"}
    nodes = [(name, node) for name, tree in modules.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [n for n, node in nodes if ast.unparse(node.func) in calls and "file" not in {k.arg for k in node.keywords}]
    return list(dict.fromkeys(names))


def test_the_console_alone_prints():
    """It escapes control characters in text of strangers."""
    assert printing(MODULES) == ["msa.commands.console"]


def test_a_module_that_prints_is_found():
    texts = {"msa.x": "def f():\n    print(1)", "msa.y": "import typer\ntyper.echo(1)", "msa.z": "print(1, file=f)"}
    assert printing({name: ast.parse(text) for name, text in texts.items()}) == ["msa.x", "msa.y"]


def test_csv_files_are_written_in_one_place():
    """There, no text becomes a formula of a spreadsheet."""
    writing = re.compile(r"csv\.(writer|DictWriter)|to_csv\(")
    assert [path.name for path in FILES if writing.search(path.read_text("utf-8"))] == ["cells.py"]


def test_every_test_that_the_promises_of_security_rest_on_is_there():
    text = (HOUSE.parent / "SECURITY.md").read_text("utf-8")
    named = re.findall(r"\]\((tests/[^)]+)\)", text)
    assert len(named) > 15
    assert [name for name in named if not (HOUSE.parent / name).is_file()] == []
