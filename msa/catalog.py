"""What there is to choose from: the files of a folder, and plug-ins of the same kind.

A dataset, backbone or head is registered by the file it stands in, so this module keeps no list. Descriptions
and backbone names are read from the syntax tree: listing a hundred heads imports none of them.
"""

import ast
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from msa.errors import UnknownNameError

ROOMS = {
    "dataset": "msa.extract.datasets",
    "backbone": "msa.extract.backbones",
    "head": "msa.fuse.heads",
    "format": "msa.cache.exchange",
}


def names(kind: str) -> list[str]:
    """The public names of a kind, sorted: `mvsa_single.py` is `mvsa-single`."""
    return sorted([*_files(kind), *_plugins(kind)])


def load(kind: str, name: str) -> ModuleType:
    """Import the module behind a public name; raises UnknownNameError with the near match."""
    if name in _files(kind):
        return import_module(f"{ROOMS[kind]}.{name.replace('-', '_')}")
    if plugin := _plugins(kind).get(name):
        module = plugin.load()
        assert isinstance(module, ModuleType), f"the entry point {plugin.value} must name a module"
        return module
    raise UnknownNameError(kind, name, names(kind))


def describe(kind: str) -> dict[str, str]:
    """Public name -> first line of the module's docstring."""
    return {name: (ast.get_docstring(_tree(kind, name)) or "").partition("\n")[0] for name in names(kind)}


def variants(name: str) -> list[str]:
    """The keys of a backbone file's SPECS, in the order written: `hubert` -> ["base", "large"]."""
    for node in _tree("backbone", name).body:
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        named = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(node, "value", None)
        if named == ["SPECS"] and isinstance(value, ast.Dict):
            return [str(ast.literal_eval(key)) for key in value.keys if key]
    return []


def backbones() -> dict[str, str]:
    """Every `family.variant` that can be named, with its family's description."""
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
