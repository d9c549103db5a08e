"""`msa list`: the datasets, backbones, heads and formats there are, and the settings of one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from msa import catalog
from msa.annotations import splits
from msa.commands.console import show
from msa.errors import UnknownNameError

# Backbones that have no file of their own
FREE = {
    "hf:PATH_OR_ID": "Any encoder of transformers, for text or audio, from a folder or the hub.",
    "timm:NAME[@CHECKPOINT]": "Any image model of timm, from the hub or a file.",
}


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="One of datasets, backbones, heads, formats. Default: all.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="Name of one of them: list its settings.", show_default=False)
    ] = None,
) -> None:
    """List datasets, backbones, heads and formats.

    With a name, list the settings that `--set` takes for it.
    """
    print_list(kind, name)


def print_list(kind: str | None, name: str | None) -> None:
    """Print what there is of a kind, or of every kind; with a name, its settings."""
    tables: dict[str, Callable[[], dict[str, str]]] = {
        "datasets": lambda: catalog.describe("dataset"),
        "backbones": lambda: catalog.backbones() | FREE,
        "heads": lambda: catalog.describe("head"),
        "formats": lambda: catalog.describe("format"),
    }
    if kind is not None and kind not in tables:
        raise UnknownNameError("list", kind, tables)
    if kind is not None and name is not None:
        return print_settings(name, _settings(kind.removesuffix("s"), name))
    for title, rows in tables.items():
        if kind in (None, title):
            show(title, ["name", "description"], list(rows().items()))
    return None


def print_settings(name: str, tables: Mapping[str, Sequence[tuple[str, Any, str]]]) -> None:
    """Print what `--set` takes, from title -> (setting, default, description)."""
    for title, rows in tables.items():
        show(f"{name}: {title}", ["--set", "default", "description"], rows)


def _settings(kind: str, name: str) -> dict[str, list[tuple[str, Any, str]]]:
    from msa.config import describe

    if kind == "backbone":
        from msa.extract.presets import described

        return described(name)
    tables = {"settings": describe(catalog.load(kind, name).Config)}
    if kind in ("dataset", "format"):
        tables["random split"] = describe(splits.Config)
    if kind == "head":
        from msa.fuse.train.config import TrainConfig
        from msa.fuse.train.model import Model

        own = Model.of(name).training
        tables["training"] = [(field, getattr(own, field), what) for field, _, what in describe(TrainConfig)]
    return tables
