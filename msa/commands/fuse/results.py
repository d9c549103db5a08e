"""`msa fuse eval`, `list`, `show` and `plot`: what runs achieved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from msa.commands import listing
from msa.commands.console import as_json, document, note, say, sheet, show, warn
from msa.commands.fuse.sweeps import FILES_OF_A_BENCH
from msa.commands.fuse.training import files
from msa.commands.options import JsonOption
from msa.errors import ConfigError

RunArgument = Annotated[Path, typer.Argument(help="Run folder of `msa fuse train`.", show_default=False)]
RunStoreOption = Annotated[str | None, typer.Option(help="Store to read. Default: the one the run was trained from.")]


def eval_(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Option(help="Another dataset with the same views. Default: the dataset of the run.")
    ] = None,
    store: RunStoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Score a trained run on the test split of a dataset."""
    from msa.fuse.experiments.evaluate import evaluate

    name, scores = evaluate(run, store, data)
    if json_:
        as_json({"data": name, **scores})
    else:
        print_scores(f"{run} on the test split of {name}", scores)


def list_heads(
    model: Annotated[str | None, typer.Argument(help="Name of a head: list its settings.", show_default=False)] = None,
) -> None:
    """List the heads, or the settings of one head."""
    listing.print_list("heads", model)


def show_(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or benches, or a folder that contains some.")],
    each: Annotated[bool, typer.Option("--each", help="Print each run by itself, with all its seeds.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show the results of runs and benches.

    One run is shown with all its seeds, its baselines and the paths of its plots. Several runs share one table, which
    shows the settings that differ between them.
    """
    from msa.fuse.experiments import bench_tables, compare, tables
    from msa.fuse.experiments.sweep import baselines

    opened, benches, damaged = compare.opened(runs)
    for why in damaged:
        warn(f"left out: {why}")
    if json_:
        results = [{"run": str(run.folder), **run.record, **run.metrics, "beside": baselines(run)} for run in opened]
        return as_json([*results, *benches.values()])
    sheets = [(bench_tables.bench_sheet(table), FILES_OF_A_BENCH.format(folder)) for folder, table in benches.items()]
    if len(opened) > 1 and not each:
        sheets.append((tables.compared_sheet(opened), ""))
    else:
        for run in opened:
            try:
                sheets.append((tables.sheet(run), files(run)))
            except ConfigError as error:  # for example an unfinished run
                if len(opened) == 1:
                    raise
                warn(f"left out: {error.what}")
    for n, (table, paths) in enumerate(sheets):
        if markdown:
            document(tables.markdown(table) + "\n")
            continue
        if n:
            say()
        sheet(table)
        if paths:
            say(paths)
    return None


def plot(
    run: Annotated[Path, typer.Argument(help="Run folder of the head hcl.", show_default=False)],
    what: Annotated[str, typer.Option(help="Plot to draw: entropy, attention or tsne.", show_default=False)],
    seed: Annotated[
        int | None, typer.Option(help="Seed of the run. Default: the one with the lowest validation loss.")
    ] = None,
    store: RunStoreOption = None,
) -> None:
    """Draw the plots of the HCL paper for a run.

    Writes each plot as PNG and its numbers as CSV. entropy trains twice, with COWA and without; attention and tsne use
    the weights of the run.
    """
    from msa.fuse.report import pictures

    for path in pictures.plot(run, what, store, seed, note):
        say(str(path))


def print_scores(title: str, scores: Mapping[str, Any]) -> None:
    """Print the metrics of a run, a column for each seed."""
    names = list(scores["seeds"][0]["values"])
    rows = [[name, *(f"{row['values'].get(name, float('nan')):.3f}" for row in scores["seeds"])] for name in names]
    show(title, ["", *(f"seed {row['seed']}" for row in scores["seeds"])], rows, len(scores["seeds"]))
    for remark in scores["notes"]:
        say(f"  {remark}")
