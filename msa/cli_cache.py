"""`msa cache`: look into the store, check it, share it, clean it. A body is: import, one call, print."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from msa import catalog, remember, terminal
from msa.commands import JsonOption, StoreArgument, StoreOption, about, open_store, print_json

app = typer.Typer(help="Look into the store of hidden states, check it, clean it.", no_args_is_help=True)


@app.command()
def ls(store: StoreOption = None, json_: JsonOption = False) -> None:
    """The datasets and views of a store."""
    opened = open_store(store)
    views = [(name, view) for name in opened.datasets for view in opened.views(name)]
    rows = [
        {"dataset": name, "modality": v.modality, "backbone": v.name, "view": v.id, "samples": v.samples}
        | {"failed": v.failed, "dim": v.dim, "bytes": v.nbytes}
        for name, v in views
    ]
    print_json(rows, json_)
    if not json_:
        terminal.views(opened.path, opened.datasets, rows)


@app.command()
def info(
    store: StoreArgument = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every sample that could not be extracted.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Where everything in a store comes from: corpora, recipes, weights, licences, versions, failures."""
    from msa.cache.inspect import describe

    found = describe(open_store(store))
    print_json(found, json_)
    if not json_:
        terminal.provenance(found, failures)


@app.command()
def verify(store: StoreArgument = None, json_: JsonOption = False) -> None:
    """Check every file, table and hidden state; exit code 1 when something is wrong."""
    from msa.cache.verify import verify as check

    opened = open_store(store)
    problems = check(opened)
    print_json([asdict(p) for p in problems], json_)
    if not json_:
        for problem in problems:
            terminal.say(str(problem))
        terminal.say(f"{opened.path}: {f'{len(problems)} problems' if problems else 'everything is as it should be'}")
    raise typer.Exit(code=bool(problems))


@app.command()
def rm(
    dataset: Annotated[str | None, typer.Option(help="A dataset, with its hidden states.")] = None,
    view: Annotated[str | None, typer.Option(help="A view, by id: see `msa cache ls`.")] = None,
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a dataset or a view from a store and free its space."""
    from msa.cache.housekeeping import remove

    if (dataset is None) == (view is None):
        raise typer.BadParameter("name either --dataset or --view")
    opened = open_store(store)
    if not yes:
        typer.confirm(f"remove {dataset or view} from {opened.path}?", abort=True)
    freed = remove(opened, dataset=dataset, view=view)
    terminal.say(f"removed {dataset or view}, {terminal.size(freed)} freed")


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(help="What it is: see `msa list formats`.", show_default=False)],
    source: Annotated[Path, typer.Argument(help="The file or folder.", show_default=False)],
    store: StoreOption = None,
    name: Annotated[str | None, typer.Option(help="What to call the corpus. Default: after the file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the format: `msa list formats NAME`.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="JSON or CSV that names the samples of each part.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, where the file has none.")] = 42,
    json_: JsonOption = False,
) -> None:
    """Take over hidden states that others made: pickles, .npy, HDF5, .csd. Nothing in a file is ever executed.

    Padding is taken off, what is not finite becomes 0 and is counted, and every head trains on the result.
    """
    module = catalog.load("format", format)
    from msa.cache import importing
    from msa.cache.store import FeatureStore
    from msa.config import with_settings

    foreign = module.read(source, with_settings(module.Config(), set_ or (), f"setting of {format}"), name)
    path = remember.store(store)
    opened = FeatureStore.create(path)
    remember.keep_store(path)
    index, found = importing.bring_in(opened, foreign, split, seed, terminal.Bar())
    print_json({"store": str(path), **about(index), "views": [asdict(i) for i in found]}, json_)
    if not json_:
        terminal.corpus(index)
        if missing := importing.lacking(index):
            terminal.warn(missing)
        terminal.imported(found, path)


@app.command()
def export(
    format: Annotated[str, typer.Argument(help="One that `msa list formats` says can be written.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The file or folder to make.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="The corpus: see `msa cache ls`.", show_default=False)],
    view: Annotated[list[str] | None, typer.Option(help="Which view: text=roberta.base. Default: the newest.")] = None,
    store: StoreOption = None,
) -> None:
    """Write a corpus with its hidden states for other programs."""
    module = catalog.load("format", format)
    from msa.cache import exporting
    from msa.config import by_modality

    remarks = exporting.export(open_store(store), dataset, by_modality(view or (), "--view"), format, module, out)
    terminal.say(f"{dataset} was written to {out}")
    for remark in remarks:
        terminal.say(f"  {remark}")
