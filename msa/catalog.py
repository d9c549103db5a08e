"""Catalog of datasets, backbones, heads and formats: the files of a folder, and plug-ins of the same kind.

A file registers itself by its place, so this module keeps no list. Other packages register modules under the entry
point groups `msa.datasets`, `msa.backbones`, `msa.heads` and `msa.formats`. Descriptions and backbone names are read
from the syntax tree: listing a hundred heads imports none of them. Loading checks the names that a file must or may
define, so that a misspelt one (`TRAINS`) is an error and not a setting without effect.
"""

import ast
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from weakref import WeakSet

from msa.errors import ConfigError, UnknownNameError

ROOMS = {
    "dataset": "msa.extract.datasets",
    "backbone": "msa.extract.backbones",
    "head": "msa.fuse.heads",
    "format": "msa.cache.exchange",
}
REQUIRED = {
    "dataset": ("TASK", "SOURCE", "samples"),
    "backbone": ("SPECS", "load"),
    "head": ("Config",),
    "format": ("Config", "read"),
}
SETTINGS = {
    "head": ("PRESETS", "SEARCH", "TRAIN")
}  # the only upper-case names of a file; its own constants begin with _
CHECKS = {"head": ("msa.fuse.train.model", "declared")}  # called with the module: it knows the keys inside
_sound: WeakSet[ModuleType] = WeakSet()  # modules that passed


def names(kind: str) -> list[str]:
    """Return the public names of a kind, sorted: `mvsa_single.py` is `mvsa-single`."""
    return sorted([*_files(kind), *_plugins(kind)])


def load(kind: str, name: str) -> ModuleType:
    """Import and check the module behind a public name.

    Raises UnknownNameError with the near match, and ConfigError where the file lacks a name it must define, or defines
    one that means nothing here.
    """
    if name in _files(kind):
        return _checked(kind, import_module(f"{ROOMS[kind]}.{name.replace('-', '_')}"))
    if plugin := _plugins(kind).get(name):
        module = plugin.load()
        assert isinstance(module, ModuleType), f"the entry point {plugin.value} must name a module"
        return _checked(kind, module)
    raise UnknownNameError(kind, name, names(kind))


def describe(kind: str) -> dict[str, str]:
    """Return public name -> first line of the module's docstring."""
    return {name: (ast.get_docstring(_tree(kind, name)) or "").partition("\n")[0] for name in names(kind)}


def variants(name: str) -> list[str]:
    """Return the keys of a backbone file's SPECS, in the order written: `hubert` -> ["base", "large"]."""
    for assigned, value in _assignments(_tree("backbone", name)):
        if assigned == ["SPECS"] and isinstance(value, ast.Dict):
            return [str(ast.literal_eval(key)) for key in value.keys if key]
    return []


def backbones() -> dict[str, str]:
    """Return every `family.variant` with its family's description."""
    lines = describe("backbone")
    return {f"{name}.{variant}": lines[name] for name in lines for variant in variants(name)}


def _files(kind: str) -> dict[str, Path]:
    spec = find_spec(ROOMS[kind])
    folders: Iterable[str] = (spec.submodule_search_locations or []) if spec else []
    files = (path for folder in folders for path in Path(folder).glob("*.py"))
    return {path.stem.replace("_", "-"): path for path in files if not path.stem.startswith("_")}


def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"msa.{kind}s")}


def _tree(kind: str, name: str) -> ast.Module:
    path = _files(kind).get(name)
    if path is None:
        spec = find_spec(_plugins(kind)[name].module)
        assert spec is not None and spec.origin is not None, f"the plug-in {name} has no source file"
        path = Path(spec.origin)
    return ast.parse(path.read_text("utf-8"))


def _checked(kind: str, module: ModuleType) -> ModuleType:
    if module in _sound:
        return module
    where = module.__file__ or module.__name__
    defined = [name for name in vars(module) if not name.startswith("_")]
    for name in REQUIRED.get(kind, ()):
        if name not in defined:
            near = get_close_matches(name, [other for other in defined if other not in REQUIRED[kind]], n=1)
            raise ConfigError(
                f"{where} defines no {name}, which a {kind}'s file must",
                fix=(f"did you mean {name!r} by {near[0]!r}? " if near else "") + f"a {kind}'s file: docs/adding.md",
            )
    if kind in SETTINGS and module.__file__:
        tree = ast.parse(Path(module.__file__).read_text("utf-8"))
        for name in (name for assigned, _ in _assignments(tree) for name in assigned):
            if name.isupper() and not name.startswith("_") and name not in SETTINGS[kind]:
                raise unknown_key(where, name, SETTINGS[kind], f"a constant of your own begins with _, as _{name}")
    if kind in CHECKS:
        owner, check = CHECKS[kind]
        getattr(import_module(owner), check)(module)
    _sound.add(module)
    return module


def unknown_key(where: str, key: str, known: Iterable[str], more: str = "") -> ConfigError:
    """Return the error of a name in a file (`where`, and where in it) that means nothing there, with the near match."""
    near = get_close_matches(key, known := sorted(map(str, known)), n=1, cutoff=0.5)
    words = [f"did you mean {near[0]!r}?" if near else "", f"known: {', '.join(known) or 'none'}", more]
    return ConfigError(f"{where} defines {key!r}, which means nothing there", fix="; ".join(filter(None, words)))


def _assignments(tree: ast.Module) -> Iterator[tuple[list[str], ast.expr | None]]:
    """Yield the names that each assignment of a file's top level binds, and the value."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
            yield [part.id for part in parts if isinstance(part, ast.Name)], node.value
