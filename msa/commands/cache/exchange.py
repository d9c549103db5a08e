"""`msa cache import` and `msa cache export`: features in other programs' file formats."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from msa import catalog
from msa.commands import dataset as about
from msa.commands import user_defaults
from msa.commands.console import as_json, count, say, show, warn
from msa.commands.options import FolderOption, JsonOption, ModalityViewOption, StoreOption, folder_of, open_store
from msa.commands.progress import Bar


def import_(
    format: Annotated[
        str, typer.Argument(help="Format of the source; `msa list formats` lists them.", show_default=False)
    ],
    source: Annotated[Path, typer.Argument(help="File or folder to import.", show_default=False)],
    store: FolderOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset in the store. Default: the name of the file.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the format; `msa list formats NAME` lists them."
        ),
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="JSON or CSV file that lists the samples of train, valid and test.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random split; unused where the file has a split.")] = 42,
    json_: JsonOption = False,
) -> None:
    """Import features from the files of other programs.

    Reads pickles, .npy, HDF5, .csd and more; nothing in a file is executed. Padding is removed, and values that are not
    finite become 0 and are counted. Every head can be trained on the result.
    """
    module = catalog.load("format", format)
    from msa.annotations.splits import Config as SplitConfig
    from msa.cache.exchange import _import as importing
    from msa.cache.store import FeatureStore
    from msa.config import taking, with_settings

    split_config, own = taking(SplitConfig(), set_ or ())
    foreign = module.read(source, with_settings(module.Config(), own, f"setting of {format}", split_config), name)
    path = folder_of(store)
    opened = FeatureStore.create(path)
    index, views = importing.bring_in(opened, foreign, split, seed, Bar(), split_config)
    if remark := user_defaults.keep(path):  # only now that the store has content
        warn(remark)
    if json_:
        return as_json({"store": str(path), **about.facts(index), "views": [asdict(view) for view in views]})
    about.print_dataset(index)
    if missing := importing.lacking(index):
        warn(missing)
    print_imported(views, path)
    ids = {view.view_id for view in views}
    if others := [f"{v.modality}: {v.name}@{v.id}" for v in opened.views(index.name) if v.id not in ids]:
        say(f"  earlier views of {index.name}: {', '.join(others)}")
    return None


def export(
    format: Annotated[str, typer.Argument(help="Format to write; `msa list formats` lists them.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File or folder to create.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="Dataset to export; `msa cache ls` lists them.", show_default=False)],
    view: ModalityViewOption = None,
    store: StoreOption = None,
) -> None:
    """Export a dataset with its features for other programs."""
    module = catalog.load("format", format)
    from msa.cache.exchange import _export as exporting
    from msa.config import by_modality

    remarks = exporting.export(open_store(store), dataset, by_modality(view or (), "--view"), format, module, out)
    say(f"exported {dataset} to {out}")
    for remark in remarks:
        say(f"  {remark}")


def print_imported(views: Sequence[Any], store: Any) -> None:
    """Print the result of an import."""
    rows = [
        [view.modality, f"{view.name}@{view.view_id}", view.written, view.already, len(view.failed)] for view in views
    ]
    show(f"imported into {store}", ["modality", "view", "new", "already there", "failed"], rows, 3)
    for view in views:
        if view.borrowed:
            say(f"  {view.modality}: {count(view.borrowed, 'sample')} reused from another version of this dataset")
        for what, number in view.not_finite.items():
            say(f"  {view.modality}: {number} {what}")
    about.print_failures([(view.modality, id, "import", reason) for view in views for id, reason in view.failed])
