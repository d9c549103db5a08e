"""The house: who may import whom, what a command may load, and what every command, module and error owes its reader."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import msa
from msa import cli, errors

HOUSE = Path(msa.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
HEAVY = ("torch", "zarr", "numpy", "transformers", "h5py", "PIL", "librosa", "sklearn", "matplotlib")

# Room -> what it may import besides itself; the most specific room counts. COMPOSITIONS know everything.
NOUNS = {"msa.types", "msa.errors", "msa.names", "msa.regular", "msa.annotations"}
SETTINGS = {"msa.catalog", "msa.config"}
FORMAT = NOUNS | {"msa.cache.format", "msa.cache.progress"}
CACHE = FORMAT | {f"msa.cache.{room}" for room in ("index", "storage", "read", "write", "interop", "store")}
HEAD = {"msa.fuse.head", "msa.fuse.metrics"}
TRAIN = NOUNS | SETTINGS | HEAD | {"msa.cache", "msa.fuse.data", "msa.fuse.train"}
ARROWS = {
    "msa": set(),
    "msa.types": set(),
    "msa.errors": set(),
    "msa.names": {"msa.errors"},
    "msa.regular": {"msa.errors", "msa.names"},
    "msa.annotations": NOUNS,
    "msa.catalog": {"msa.errors"},
    "msa.config": NOUNS,
    "msa.commands.user_defaults": NOUNS,
    "msa.commands.console": NOUNS,
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
    "msa.fuse.head": NOUNS,
    "msa.fuse.metrics": NOUNS,
    "msa.fuse.modules": NOUNS | HEAD,
    "msa.fuse.heads": NOUNS | HEAD | {"msa.config"} | {"msa.fuse.modules"},
    "msa.fuse.data": NOUNS | HEAD | {"msa.cache"},
    "msa.fuse.train": TRAIN,
    "msa.fuse.runs": TRAIN,
    "msa.fuse.experiments": TRAIN | {"msa.fuse.runs"},
    "msa.fuse.report": TRAIN | {"msa.fuse.runs", "msa.fuse.experiments"},
    "msa.demo": {"msa.errors"},
}
COMMAND_LINE = {"msa.cli", "msa.commands.cache", "msa.commands.fuse", "msa.commands.options"}
COMPOSITIONS = COMMAND_LINE | {"msa.predict", "msa.demo.tour"}
# Leaves know the protocol of their room and never each other, except where one corpus is a variant of another.
LEAVES = {"msa.extract.datasets", "msa.extract.backbones", "msa.fuse.heads", "msa.cache.exchange"}
VARIANTS = {
    ("msa.extract.datasets.mvsa_single", "msa.extract.datasets.mvsa"),
    ("msa.extract.datasets.clips", "msa.extract.datasets.table"),
}
# Arrows that point up today.
UP = {
    ("msa.cache.store", "msa.cache.maintain.history"),
    ("msa.cache.share.merge", "msa.cache.maintain.remove"),
    ("msa.fuse.train.loop", "msa.fuse.runs.files"),
}


def module(path: Path) -> str:
    name = ".".join(("msa", *path.relative_to(HOUSE).with_suffix("").parts))
    return name.removesuffix(".__init__")


MODULES = {module(path): ast.parse(path.read_text("utf-8")) for path in FILES}


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


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


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
    assert arrows_up(MODULES) == UP


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


def test_nobody_imports_the_command_line_or_a_composition():
    asked = {(name, other) for name, tree in MODULES.items() for other in imports(tree) if other in COMPOSITIONS}
    assert {name for name, _ in asked} <= COMMAND_LINE
    assert {name for name, other in asked if other == "msa.cli"} == set()


@pytest.mark.parametrize("name", MODULES)
def test_leaves_do_not_know_each_other(name):
    home = name.rpartition(".")[0]
    if home not in LEAVES or name.rpartition(".")[2].startswith("_"):
        return
    others = {
        other
        for other in imports(MODULES[name])
        if within(other, home) and not other.rpartition(".")[2].startswith("_")
    }
    assert {(name, other) for other in others} <= VARIANTS


def test_only_leaves_are_loaded_by_name():
    """A leaf imported from elsewhere would have to be kept in step by hand; `catalog.load` is the way to one."""
    allowed = {("msa.predict", "msa.extract.datasets.table")}  # the user's own rows, whatever else is installed
    asked = {
        (name, other)
        for name, tree in MODULES.items()
        for other in imports(tree)
        if other.rpartition(".")[0] in LEAVES and not other.rpartition(".")[2].startswith("_")
    }
    assert {(name, other) for name, other in asked if name.rpartition(".")[0] not in LEAVES} <= allowed


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


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself_and_every_option(name):
    command = COMMANDS[name]
    assert command.help, "it has no help"
    assert command.help.partition("\n")[0].endswith("."), "its first line is no sentence"
    assert [p.name for p in command.params if not p.help] == []


# Calls that change or walk the folders they are given by name, and so follow links; local_files.py has them for stores.
FOLLOWING = {
    *("unlink", "rmtree", "rmdir", "rename", "renames", "move", "copyfile", "copytree", "copy2", "truncate"),
    *("mkdir", "makedirs", "mkdtemp", "touch", "utime", "chmod", "link", "symlink", "symlink_to", "hardlink_to"),
    *("glob", "rglob", "iterdir", "walk", "scandir", "listdir", "write_bytes", "write_text"),
    *("os.open", "os.replace"),
}
# What is not in a store: the user's exports, and the mirror of remote stores in the user's own cache folder.
ELSEWHERE = {"msa.cache.format.local_files", "msa.cache.exchange", "msa.cache.format.files", "msa.cache.storage.mirror"}
IN_A_STORE = [
    name
    for name in MODULES
    if (within(name, "msa.cache") or name == "msa.extract.work.crash_journal")
    and not any(within(name, e) for e in ELSEWHERE)
]
ALLOWED = {
    ("msa.cache.format.limits", "os.open"),  # to read, and not through a link
    ("msa.cache.write.heartbeat", "utime"),  # of a file this process made a moment before, and not through a link
    ("msa.cache.write.segment", "truncate"),  # of an open file
    ("msa.cache.share.transfer", "truncate"),
}


@pytest.mark.parametrize("name", IN_A_STORE)
def test_nothing_in_a_store_is_changed_or_listed_but_by_one_module(name):
    """A store is a stranger's: `local_files` alone reaches below its root without following a link that lies there."""
    wrong = {(called, line) for called, line in calls(MODULES[name]) if (name, called) not in ALLOWED}
    assert not wrong, (
        f"{name}: use msa.cache.format.local_files for {', '.join(f'{c} (line {n})' for c, n in sorted(wrong))}"
    )


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


@pytest.mark.parametrize("name", [name for name, tree in MODULES.items() if tree.body])
def test_modules_and_what_is_long_in_them_have_docstrings(name):
    tree = MODULES[name]
    assert ast.get_docstring(tree), "the module has none"
    overriding = {"forward", "loss", "run"}  # their class says what they do
    long = [f for f in public_functions(tree) if f.end_lineno - f.lineno >= 8 and f.name not in overriding]
    assert [f"{f.name}, line {f.lineno}" for f in long if not ast.get_docstring(f)] == []


def test_the_tree_of_errors_is_these_six():
    mine = {name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == "msa.errors"}
    assert mine == {"MsaError", "UnknownNameError", "SourceError", "BackboneError", "StoreError", "ConfigError"}
    assert all(issubclass(getattr(errors, name), errors.MsaError) for name in mine)


@pytest.mark.parametrize("name", ["SourceError", "BackboneError", "StoreError", "ConfigError"])
def test_an_error_cannot_be_raised_without_the_way_out(name):
    with pytest.raises(TypeError, match="fix"):
        getattr(errors, name)("what happened")


def test_nothing_tells_anybody_to_install_a_package_of_our_name():
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
    mine = Path(__file__).resolve()
    said = [path for path in paths if path.resolve() != mine and asking.search(path.read_text("utf-8"))]
    assert said == []


def test_the_packages_that_read_faces_are_named_as_in_pyproject():
    from msa.extract.encoders.face import PACKAGES

    wanted = tomllib.loads((HOUSE.parent / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert " ".join(f"'{name}'" for name in wanted["face"]) == PACKAGES
    assert PACKAGES in (HOUSE.parent / "README.md").read_text("utf-8")


COMMAND = re.compile(r"(\bmsa (extract|predict|demo|cache|fuse)\b|\bhf download\b|\brm (-r )?)[^`;,:]*$")


def unquoted(tree: ast.AST) -> list[int]:
    """Lines of f-strings that put a value into a command themselves."""
    found = []
    for node in ast.walk(tree):
        before = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else ():
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                call = part.value
                quoted = isinstance(call, ast.Call) and ast.unparse(call.func) == "shell_command"
                if COMMAND.search(before) and not quoted:
                    found.append(node.lineno)
                before += "x"
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_stand_in_commands_quoted_for_a_shell(name):
    assert unquoted(MODULES[name]) == [], "build it with names.shell_command"


@pytest.mark.parametrize("line", ['f"msa cache rm --dataset {n}"', "f\"rm '{n}'\"", 'f"`hf download {n}`"'])
def test_a_command_that_quotes_nothing_is_found(line):
    assert unquoted(ast.parse(line)) == [1]


def test_csv_files_are_written_in_one_place():
    """There, no text becomes a formula of a spreadsheet."""
    writing = re.compile(r"csv\.(writer|DictWriter)|to_csv\(")
    assert [path.name for path in FILES if writing.search(path.read_text("utf-8"))] == ["cells.py"]


def test_every_test_that_the_promises_of_security_rest_on_is_there():
    said = (HOUSE.parent / "SECURITY.md").read_text("utf-8")
    named = re.findall(r"\]\((tests/[^)]+)\)", said)
    assert len(named) > 15
    assert [name for name in named if not (HOUSE.parent / name).is_file()] == []
