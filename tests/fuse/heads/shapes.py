"""Check the shapes that comments and docstrings of heads and modules state, while the code runs.

A comment behind an assignment or a return (`# (B, T, d)`, `# each (B, L_m, d)`), and a docstring (`x (B, T, D) under
mask (B, T) -> (B, d)`) are parsed into specs. `Tracer` compares them with the values of each call. A symbol is one
number within a call. Symbols of settings (`dim: int = 128  # d`), `outputs` and `M` come from the head under test.
A symbol with an index (`D_m`, `L_s`) is one number per modality. See docs/decisions/0006-shapes-by-comment.md.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

SYMBOL = r"[A-Za-z]\w*"
DIM = rf"(?:\d+ ?)?(?:{SYMBOL}|\d+)(?: {SYMBOL})*(?:\^2)?"
TERM = rf"{DIM}(?: [+-] {DIM})*"
SHAPE = re.compile(rf"\(({TERM}(?:, {TERM})*,?|\.\.\.(?:, {TERM})*|)\)")
WORDS = {
    *("outputs", "heads", "width", "hidden", "units", "dim", "memory", "gamma", "joint", "unimodal", "ffn", "rnn"),
    *("classes", "context", "rows", "steps", "text_out", "dim_head", "factor", "z_y", "n", "or", "more"),
}
Spec = tuple[str, ...]  # the dims of one shape, as written


@dataclass(frozen=True)
class Stated:
    """A statement whose comment states shapes."""

    first: int
    last: int
    targets: tuple[str, ...]  # expressions; () for a return
    shapes: tuple[Spec, ...]
    each: bool  # one shape for everything


@dataclass(frozen=True)
class Signature:
    """What the docstring of a function, or the comment at its return, states."""

    name: str
    line: int
    tensors: tuple[str, ...]  # parameters declared as tensors, or as several of them
    arguments: Mapping[str, Spec]
    result: tuple[Spec, ...]
    returns: bool  # a comment at a return states the result


@dataclass(frozen=True)
class Source:
    """All that a file states."""

    statements: Mapping[int, Stated]  # by every line of the statement
    signatures: Mapping[int, Signature]  # by first line of the function
    symbols: Mapping[str, str]  # symbol -> field of Config


def shapes_of(text: str) -> list[tuple[int, int, Spec]]:
    """Return start, end and dims of every shape in a text."""
    found = []
    for match in SHAPE.finditer(text):
        dims = tuple(dim for dim in (part.strip() for part in match[1].split(",")) if dim)
        names = [name for dim in dims for name in re.findall(SYMBOL, dim)]
        if all(len(name.partition("_")[0]) == 1 or name in WORDS for name in names):
            before = text[: match.start()].rstrip()
            scalar = not dims and (not before or before.endswith(("->", ",", "each")))  # in `f()` there is no shape
            vector = len(dims) == 1 and match[1].endswith(",")  # nor in `sqrt(d)`
            if scalar or vector or len(dims) > 1:
                found.append((match.start(), match.end(), dims))
    return found


@cache
def source(path: str) -> Source:
    """Return what the comments and docstrings of a file state."""
    text = Path(path).read_text("utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    tree = ast.parse(text)
    statements: dict[int, Stated] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr):
            assert node.end_lineno is not None
            stated = _stated(node, comments.get(node.end_lineno, ""))
            if stated is not None:
                statements |= dict.fromkeys(range(stated.first, stated.last + 1), stated)
    signatures = {
        _first(node): _signature(node, comments) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    return Source(statements, signatures, _symbols(tree, comments))


def _first(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _stated(node: ast.stmt, comment: str) -> Stated | None:
    found = [dims for _, _, dims in shapes_of(comment.partition(" -> ")[2] or comment)]
    if not found:
        return None
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return None  # a field
    if isinstance(getattr(node, "value", None), ast.Lambda):
        return None
    if isinstance(node, ast.Return):
        targets: tuple[str, ...] = ()
    elif isinstance(node, ast.Expr):
        call = node.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "append"):
            return None
        targets = (f"{ast.unparse(call.func.value)}[-1]",)
    else:
        nodes = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
        if len(nodes) > 1:  # a = b = value
            nodes = nodes[:1]
        parts = nodes[0].elts if isinstance(nodes[0], ast.Tuple) else nodes
        targets = tuple(ast.unparse(p.value if isinstance(p, ast.Starred) else p) for p in parts)
    if len(found) > len(targets) > 0 and ") or (" not in comment:
        return None
    each = len(found) == 1 and ("each" in comment or len(targets) == 1)
    if len(found) < len(targets) and not each:
        targets = targets[: len(found)]  # `distance, taken = ..., []  # (S, P)`
    return Stated(node.lineno, node.end_lineno or node.lineno, targets, tuple(found), each)


def _signature(node: ast.FunctionDef, comments: Mapping[int, str]) -> Signature:
    parameters = [a for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs] if a.annotation]
    kinds = {a.arg: ast.unparse(a.annotation) for a in parameters if a.annotation}
    tensors = tuple(
        name for name, kind in kinds.items() if re.fullmatch(r"Tensor( \| None)?|Parts|Named|list\[Tensor\]", kind)
    )
    text = " ".join((ast.get_docstring(node) or "").split())
    left, arrow, right = text.partition(" -> ")
    right, *rest = re.split(r"(?<!eq)\. ", right, maxsplit=1)  # arguments may also follow the result
    left = ". ".join([left, *rest])
    arguments: dict[str, Spec] = {}
    result: list[Spec] = []
    taken = 0
    for start, end, dims in shapes_of(left):
        gap = left[taken:start]
        tail = re.search(r"((?:[\w()]+(?:, | and ))*[\w()]+)`?,?(?: each)?$", gap.rstrip())
        words = re.findall(SYMBOL, tail[1]) if tail else []
        named = [name for word in words if (name := _parameter(word, kinds)) in tensors]
        if not named and not arguments and not gap.strip(" `") and tensors:
            named = [tensors[0]]  # `(B, T, D) under mask (B, T) -> ...`
        arguments |= dict.fromkeys([n for n in named if n not in arguments], dims)
        if not named and not arrow:
            result.append(dims)
        taken = end
    result += [dims for _, _, dims in shapes_of(right)]
    returns = any(
        isinstance(inner, ast.Return) and shapes_of(comments.get(inner.end_lineno or 0, "")) for inner in ast.walk(node)
    )
    return Signature(node.name, node.lineno, tensors, arguments, tuple(result), returns)


def _parameter(word: str, known: Mapping[str, str]) -> str:
    """The parameter that a word of a docstring names: `Query` is query, `F_m` and `f_m` are f."""
    return next((c for c in (word, word.lower(), word.partition("_")[0].lower()) if c in known), "")


def _symbols(tree: ast.Module, comments: Mapping[int, str]) -> dict[str, str]:
    """Symbol -> field of Config, where the comment behind a field begins with a symbol."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            for item in node.body:
                comment = comments.get(item.lineno, "")
                match = re.match(r"([A-Za-z](?:_\w)?)(?=$|[,;.])", comment)
                if match and isinstance(item, ast.AnnAssign) and "at most" not in comment:
                    found[match[1]] = ast.unparse(item.target)
    return found


@dataclass
class Tracer:
    """Compares what the files below `folders` state with what happens, while it is entered."""

    folders: tuple[str, ...]
    config: object = None
    known: Mapping[str, int] = field(default_factory=dict)  # outputs, and M in methods of `owner`
    owner: type = Tensor  # the class of the head under test
    wrong: list[str] = field(default_factory=list)
    met: set[tuple[str, int]] = field(default_factory=set)  # file and first line of what was compared
    _frames: dict[int, tuple[dict[Any, int], Stated | None]] = field(default_factory=dict)

    def __enter__(self) -> "Tracer":
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        if not any(folder in path for folder in self.folders) or frame.f_code.co_name.startswith("<"):
            return None
        read, env = source(path), self._env(frame, source(path))
        self._frames[id(frame)] = env, None
        if signature := read.signatures.get(frame.f_code.co_firstlineno):
            for name, dims in signature.arguments.items():
                if frame.f_locals.get(name) is not None:
                    self._compare(frame, frame.f_locals[name], [dims], False, env, signature.line, name)
        return self._local

    def _env(self, frame: Any, read: Source) -> dict[Any, int]:
        env: dict[Any, int] = {"outputs": self.known["outputs"]} if "outputs" in self.known else {}
        config = self.config if type(self.config).__module__ == frame.f_globals.get("__name__") else None
        settings = {f.name: getattr(config, f.name) for f in fields(config)} if config is not None else {}  # type: ignore[arg-type]
        env |= {symbol: settings[name] for symbol, name in read.symbols.items() if type(settings.get(name)) is int}
        env |= {name: value for name, value in settings.items() if name in WORDS and type(value) is int}
        own = frame.f_locals.get("self")
        if isinstance(own, self.owner) and "M" in self.known:
            env["M"] = self.known["M"]
        if (batch := frame.f_locals.get("batch")) is not None and hasattr(batch, "mask"):
            env["B"] = len(batch)
        for values in (vars(own) if hasattr(own, "__dict__") else {}, frame.f_locals):
            env |= {name: values[name] for name in WORDS & set(values) if type(values[name]) is int}
        return env

    def _local(self, frame: Any, event: str, arg: Any) -> Any:
        env, pending = self._frames[id(frame)]
        read = source(frame.f_code.co_filename)
        if event == "exception":
            self._frames[id(frame)] = env, None
            return self._local
        if pending and pending.targets and (event == "return" or not pending.first <= frame.f_lineno <= pending.last):
            self._check(frame, pending, env)
            pending = None
        if event == "line":
            pending = read.statements.get(frame.f_lineno, pending if pending and not pending.targets else None)
            self._frames[id(frame)] = env, pending
        if event == "return":
            del self._frames[id(frame)]
            if arg is not None:
                self._result(frame, arg, pending, read.signatures.get(frame.f_code.co_firstlineno), env)
        return self._local

    def _result(self, frame: Any, value: Any, pending: Stated | None, signature: Signature | None, env: Any) -> None:
        if pending and not pending.targets:
            self._compare(frame, value, list(pending.shapes), pending.each, env, pending.first, "return")
        if signature and signature.result:
            self._compare(frame, value, list(signature.result), False, env, signature.line, "result")

    def _check(self, frame: Any, stated: Stated, env: dict[Any, int]) -> None:
        values = [eval(target, frame.f_globals, frame.f_locals) for target in stated.targets]
        if len(values) == len(stated.shapes) and len(values) > 1:
            for target, value, dims in zip(stated.targets, values, stated.shapes, strict=True):
                self._compare(frame, value, [dims], False, env, stated.first, target)
        else:
            for target, value in zip(stated.targets, values, strict=True):
                self._compare(frame, value, list(stated.shapes), False, env, stated.first, target)

    def _compare(self, frame: Any, value: Any, shapes: list[Spec], each: bool, env: Any, line: int, what: str) -> None:
        """Every tensor in `value` has one of the shapes; where there are as many values as shapes, its own."""
        if isinstance(value, tuple) and len(value) == len(shapes) > 1:
            for part, dims in zip(value, shapes, strict=True):
                self._compare(frame, part, [dims], each, env, line, what)
            return
        for key, tensor in tensors(value):
            path = frame.f_code.co_filename
            self.met.add((path, line))
            for dims in shapes:
                trial = dict(env)
                if fits(tuple(tensor.shape), dims, trial, key):
                    env |= trial
                    break
            else:
                stated = " or ".join(f"({', '.join(dims)})" for dims in shapes)
                numbers = {k: v for k, v in env.items() if any(str(k) in dim for dims in shapes for dim in dims)}
                self.wrong.append(f"{Path(path).name}:{line} {what}: {tuple(tensor.shape)} is no {stated} {numbers}")


def tensors(value: Any, key: Any = None) -> Iterator[tuple[Any, Tensor]]:
    """Yield each tensor in a value, with the key it has in a mapping."""
    if isinstance(value, Tensor):
        yield key, value
    elif isinstance(value, Mapping) or hasattr(value, "items"):
        for name, part in value.items():
            yield from tensors(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part, key)


def fits(shape: tuple[int, ...], dims: Spec, env: dict[Any, int], key: Any = None) -> bool:
    """Has a tensor these dims? Binds the symbols that had no number yet."""
    if dims[:1] == ("...",):
        dims, shape = dims[1:], shape[len(shape) - len(dims) + 1 :]
    return len(shape) == len(dims) and all(_fits(n, dim, env, key) for n, dim in zip(shape, dims, strict=True))


def _fits(number: int, dim: str, env: dict[Any, int], key: Any) -> bool:
    if " or " in dim or "or more" in dim:
        parts = dim.split(" or ")
        return any(part == "more" or _fits(number, part, env, key) for part in parts)
    total, unknown, factor = 0, None, 0
    for sign, term in re.findall(r"(^|[+-]) ?([^+-]+)", dim):
        power = term.strip().endswith("^2")
        value, missing = -1 if sign == "-" else 1, []
        for name in re.findall(rf"\d+|{SYMBOL}", term.replace("^2", "")):
            symbol: Any = (name, key) if "_" in name and name not in env and name not in WORDS else name
            if name.isdigit():
                value *= int(name)
            elif symbol in env:
                value *= env[symbol] ** (2 if power else 1)
            else:
                missing.append(symbol)
        if len(missing) > 1 or (missing and unknown):
            return True  # two numbers unknown: nothing can be said
        if missing:
            unknown, factor = missing[0], value
        else:
            total += value
    if unknown is None:
        return number == total
    rest = number - total
    if factor == 0 or rest % factor or rest // factor < 0:
        return False
    if not (isinstance(unknown, tuple) and unknown[1] is None):  # D_m in a loop: another number each time
        env[unknown] = rest // factor
    return True
