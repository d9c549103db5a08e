"""Random one-line mutations of the package, each run against the tests of its room: which does no test notice?

python -m benchmarks.mutations [--seed 0] [--count 40] [--room cache/format] [--workers 2] [--list]

A mutation turns a comparison, an `and`, an operator, a number or a condition of one line into another. The tests of a
module are those of the same folder in tests/, files that are named after it or name it first. Two processes that each
change a copy of their own need half an hour to two hours for 40; a survivor takes the whole room.
"""

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
ROOMS = ("cache", "fuse", "extract")
LIMIT_S = 900.0
Edit = tuple[int, int, int, tuple[str, str]]  # line, first column, column behind, (old, new)
TESTS_ELSEWHERE = {"fuse/modules": "fuse/heads"}  # modules are tested within the heads that are made of them
SWAPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"),
}


@dataclass(frozen=True)
class Mutation:
    """A line of a file, counted from 1, and what it becomes."""

    path: str
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n- {self.old.strip()}\n+ {self.new.strip()}"


def mutations(path: str, text: str) -> list[Mutation]:
    """Return every mutation of a module that changes one line; a few do not compile."""
    lines, known = text.splitlines(), {}
    for line, begin, end, new in edits(ast.parse(text)):
        old = lines[line - 1]
        if not old.isascii() or end <= begin:
            continue  # columns count bytes; a condition of several lines may end further left
        segment = old[begin:end]
        match = re.search(rf"(?<![\w<>=!*/]){re.escape(new[0])}(?![\w<>=*/])", segment) if new[0] else None
        if new[0] and not match:
            continue  # over two lines
        changed = segment[: match.start()] + new[1] + segment[match.end() :] if match else new[1]
        known[line, begin, end] = Mutation(path, line, old, old[:begin] + changed + old[end:])
    return list(known.values())


def applied(mutation: Mutation, text: str) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[: mutation.line - 1], mutation.new, *lines[mutation.line :], ""])


def compiles(mutation: Mutation, text: str) -> bool:
    try:
        compile(applied(mutation, text), mutation.path, "exec")
    except SyntaxError:
        return False
    return True


def edits(tree: ast.AST) -> Iterator[Edit]:
    """Yield the changes of one line; an empty `old` means the whole span."""
    for node in nodes(tree):
        if isinstance(node, ast.Compare):
            yield from between([node.left, *node.comparators], node.ops)
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values, [node.op] * len(node.values))
        elif isinstance(node, ast.BinOp):
            yield from between([node.left, node.right], [node.op])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.lineno, node.col_offset, node.operand.col_offset, ("not ", "")
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node.lineno, node.col_offset, node.end_col_offset or 0, ("", str(value))
        elif isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise | ast.Return | ast.Continue | ast.Break):
            yield node.test.lineno, node.test.col_offset, node.test.end_col_offset or 0, ("", "False")


def between(operands: Sequence[ast.expr], operators: Sequence[ast.AST]) -> Iterator[Edit]:
    """Yield the changes of the operators between the operands."""
    for left, operator, right in zip(operands, operators, operands[1:], strict=False):
        if left.end_lineno == right.lineno and type(operator) in SWAPS:
            yield right.lineno, left.end_col_offset or 0, right.col_offset, SWAPS[type(operator)]


def nodes(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """Yield what runs inside functions, and the conditions, operators and comparisons outside of them.

    Left out: annotations and decorators; f-strings, in which Python 3.11 knows no columns; settings, which are
    constants of modules and classes and default values, since a test of them could only repeat them; `strict` of `zip`,
    which guards against what does not happen.
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "defaults", "kw_defaults"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                if inside or not isinstance(child, ast.Constant):
                    yield child
                yield from nodes(child, inside or isinstance(child, ast.FunctionDef))


def room_tests(module: str, root: Path = ROOT) -> list[str]:
    """Return the test files of a module's room: first those named after it, then those that name it."""
    room = str(Path(module).parent.relative_to("msa"))
    folder, stem = root / "tests" / TESTS_ELSEWHERE.get(room, room), Path(module).stem
    name = re.compile(rf"\b{re.escape(stem.strip('_'))}\b")
    rank = {p: (p.stem != f"test_{stem}", not name.search(p.read_text("utf-8")), p) for p in folder.glob("test_*.py")}
    return [str(path.relative_to(root)) for path in sorted(rank, key=lambda path: rank[path])]


def sample(seed: int, count: int, room: str = "") -> list[Mutation]:
    """Draw lines that can be mutated, each as likely as any other, and a mutation of each."""
    paths = sorted(p for top in ([room] if room else ROOMS) for p in (ROOT / "msa" / top).rglob("*.py"))
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    lines: dict[tuple[str, int], list[Mutation]] = defaultdict(list)
    for path, text in texts.items():
        for mutation in mutations(path, text):
            lines[path, mutation.line].append(mutation)
    chance = random.Random(seed)
    drawn = map(chance.choice, chance.sample(list(lines.values()), len(lines)))
    return list(islice((mutation for mutation in drawn if compiles(mutation, texts[mutation.path])), count))


def copy(folder: Path) -> Path:
    """Copy what git knows; byte code there is valid by its source's hash, not by its time."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "msa", "tests"]
    subprocess.run(compiling, cwd=folder, check=True)
    return folder


def verdict(mutation: Mutation, folder: Path) -> str:
    """Return "killed by TEST", "survived", "timeout" or "no tests".

    A test that fails without the mutation too is left out, and the others are run again.
    """
    path, tests = folder / mutation.path, room_tests(mutation.path, folder)
    text, broken = path.read_text("utf-8"), list[str]()
    while tests:
        path.write_text(applied(mutation, text), "utf-8")
        try:
            code, failed = run_tests([*tests, *(f"--deselect={test}" for test in broken)], folder)
        finally:
            path.write_text(text, "utf-8")
        if code is None:
            return "timeout"
        if code == 0:
            return "survived"
        if not failed or run_tests([failed], folder)[0] == 0:
            return f"killed by {failed or f'exit code {code}'}"
        broken.append(failed)
    return "no tests"


def run_tests(words: list[str], folder: Path) -> tuple[int | None, str]:
    """Return pytest's exit code, None where it took too long, and the test that failed first."""
    own = {"PYTHONPATH": str(folder), "MSA_HOME": str(folder / ".home"), "TMPDIR": str(folder.parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]
    where = {"cwd": folder, "env": os.environ | own, "start_new_session": True}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **where)
    try:
        output, _ = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return None, ""
    # A program's own output without an end of line may stand before it.
    failed = re.search(r"(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output.decode("utf-8", "replace"), re.MULTILINE)
    return child.returncode, failed[1] if failed else ""


def main(words: list[str] | None = None) -> None:
    """Draw mutations, run them, print a line for each and the diff of each survivor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--room", default="", help=f"a folder of msa, such as cache/format; default: {ROOMS}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutations only")
    asked = parser.parse_args(words or [])
    drawn = sample(asked.seed, asked.count, asked.room)
    if asked.list:
        print(*drawn, sep="\n")
        return
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="msa-mutations-") as name:
        idle: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.workers):
            idle.put(copy(Path(name) / str(number) / "msa"))

        def run(mutation: Mutation) -> None:
            folder = idle.get()
            try:
                result = verdict(mutation, folder)
            finally:
                idle.put(folder)
            counts[result.partition(" ")[0]] += 1
            print(f"{mutation}\n  {result}", flush=True)

        with ThreadPoolExecutor(asked.workers) as pool:
            list(pool.map(run, drawn))
    print(f"seed {asked.seed}: {counts['killed']} of {len(drawn)} killed; {dict(counts)}")


if __name__ == "__main__":
    main(sys.argv[1:])
