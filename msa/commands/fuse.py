"""`msa fuse`: train fusion heads from the store, and look at their results. A body is: import, one call, print."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from msa import catalog
from msa.commands import console, options
from msa.commands.options import JsonOption, StoreOption, print_json, print_run
from msa.errors import ConfigError, UnknownNameError
from msa.names import shell_command

DataOption = Annotated[str | None, typer.Option(help="A dataset, or two: mvsa-single+ravdess. Default: what there is.")]
PairingOption = Annotated[str, typer.Option(help="random, union, label_matched, zip or noisy_match.")]
ModalitiesOption = Annotated[str | None, typer.Option(help="Only these, such as text,image.")]
ViewOption = Annotated[list[str] | None, typer.Option(help="Which view: text=roberta.base. Default: the newest.")]
SeedsOption = Annotated[str, typer.Option(help="How many from 42 on, or which: 3 or 7,8,9.")]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Trainings at once. Default: one for each GPU, or else each core.")
]
SchedulerOption = Annotated[
    str | None, typer.Option(help="A dask cluster that sees store and folder: tcp://HOST:PORT or its file.")
]

FILES_OF_A_BENCH = "{}  (bench.md, bench.csv, bench.json, bench.png, runs/)"

app = typer.Typer(help="Train fusion heads from the store, and look at their results.", no_args_is_help=True)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="A head: see `msa fuse list`.")] = "cmsta",
    preset: Annotated[str, typer.Option(help="Of the head: default, paper, ...")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    rho: Annotated[float, typer.Option(min=0, max=1, help="Of noisy_match: how often the label is matched.")] = 0.5,
    pair_seed: Annotated[int, typer.Option(help="Of the pairing.")] = 42,
    modalities: ModalitiesOption = None,
    view: ViewOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of head or training: layers=2, lr=1e-4.")
    ] = None,
    seeds: SeedsOption = "5",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/MODEL-DATA-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat a run: same data, settings and seeds, but for what --set changes.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train a head from the store, test it once, and show it beside a linear probe and the majority class."""
    if model not in catalog.names("head"):
        raise UnknownNameError("head", model, catalog.names("head"))
    from msa.fuse.experiments import request

    asked = request.Request(model, preset, data, pairing, rho, pair_seed, modalities, view or [], set_ or [], seeds)
    where = store if resume or like else options.store_of(store)
    run = request.train(asked, where, out, resume, like, console.note, lambda folder: _resumes(folder, where))
    print_json({"run": str(run.folder), **run.metrics}, json_)
    if not json_:
        print_run(run)


def _resumes(folder: Path, store: str | Path | None) -> None:
    """Say how a training continues after Ctrl-C; an address is named again, since no run is believed there."""
    named = ["--store", str(store)] if "://" in str(store) else []
    again = shell_command("msa", "fuse", "train", "--resume", str(folder), *named)
    options.continues_with(again, folder / "run.json")


@app.command()
def bench(
    models: Annotated[str, typer.Option(help="all, or some: cmsta,hcl,lmf.")] = "all",
    preset: Annotated[str, typer.Option(help="Of every head.")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; one that was begun is gone on with. Default: runs/bench-DATA.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train many heads under one protocol and show them in one table, with what it takes to believe it.

    Same hidden states, parts, pairing, seeds and choice of the best epoch for all; rate, batch and patience are each
    head's own. The test part is scored once, after all have been trained. Linear probes of all modalities and of each
    alone stand beside them, and a paper's figure where corpora, test samples and encoders are the paper's.
    """
    from msa.fuse.experiments import request
    from msa.fuse.experiments.sweep import Workers

    asked = request.Request("", preset, data, pairing, modalities=modalities, views=view or [], seeds=seeds)
    workers, where = Workers(jobs, scheduler), options.store_of(store)
    found, folder = request.bench(asked, models.split(","), where, out, workers, console.note)
    _show(found, folder, json_)


@app.command()
def tune(
    models: Annotated[str, typer.Option(help="all, or some: cmsta,hcl,lmf.")],
    trials: Annotated[int, typer.Option(min=1, help="Trainings spent on each head.")] = 20,
    preset: Annotated[str, typer.Option(help="Where the search of each head begins.")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; one that was begun is gone on with. Default: runs/tune-DATA.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Seek settings on the validation part alone, as long for every head, then compare the winners over all seeds.

    Searched are rate, weight decay, batch, every dropout, and what a head's file names in SEARCH. Trials that look
    hopeless are given up early; they count, as do those whose settings cannot be trained. The search sees a table
    without the test part. Each number of trials has a table of its own, such as runs/tune-DATA/20-trials.
    """
    from msa.fuse.experiments import request
    from msa.fuse.experiments.sweep import Workers

    asked = request.Request("", preset, data, pairing, modalities=modalities, views=view or [], seeds=seeds)
    workers, where = Workers(jobs, scheduler), options.store_of(store)
    found, folder = request.tune(asked, models.split(","), trials, where, out, workers, console.note)
    _show(found, folder, json_)


@app.command()
def reproduce(
    table: Annotated[
        str, typer.Argument(help="cmsta:table2, table3, fig5, fig6, or hcl:table1 to table6.", show_default=False)
    ],
    data: Annotated[
        str | None, typer.Option(help="Datasets. Default: the paper's, as far as the store has them.")
    ] = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; one that was begun is gone on with. Default: runs/TABLE-DATA.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run a table or figure of the two papers on what of its data is in the store.

    The printed figures stand beside ours where corpora, test samples and encoders are the paper's, and nowhere else.
    hcl:table2 counts weights and operations and needs no data; of what its figures are, the paper does not say.
    """
    from msa.fuse import files as runfiles
    from msa.fuse.experiments import papers, request, tables
    from msa.fuse.experiments.sweep import Workers

    if not papers.named(table).settings:
        given = {"--data": data, "--modalities": modalities, "--view": view, "--store": store, "--scheduler": scheduler}
        if unused := [name for name, value in given.items() if value]:
            raise ConfigError(f"{table} needs no data", fix=f"leave out {', '.join(unused)}")
        found, folder = request.complexity(table, out)
        sheet = tables.complexity_sheet(**found)
        runfiles.write(folder / "complexity.md", f"{tables.markdown(sheet)}\n".encode())
        print_json({"folder": str(folder), **found}, json_)
        if not json_:
            console.sheet(sheet)
            console.say(f"{folder}  (complexity.md, .csv, .json, .png)")
        return None
    asked = request.Request("", "default", data, pairing, modalities=modalities, views=view or [], seeds=seeds)
    workers, where = Workers(jobs, scheduler), options.store_of(store)
    made, folder = request.reproduce(asked, table, where, out, workers, console.note)
    return _show(made, folder, json_)


def _show(found: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print a table of many heads, and write it beside its numbers."""
    from msa.fuse import files as runfiles
    from msa.fuse.experiments import tables

    sheet = tables.bench_sheet(found)
    runfiles.write(folder / "bench.md", f"{tables.markdown(sheet)}\n".encode())
    print_json({"folder": str(folder), **found}, as_json)
    if not as_json:
        console.sheet(sheet)
        console.say(FILES_OF_A_BENCH.format(folder))


@app.command("eval")
def eval_(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[
        str | None, typer.Option(help="Another dataset with the same views. Default: the run's own.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Default: the store the run was trained from.")] = None,
    json_: JsonOption = False,
) -> None:
    """Score a trained run again on the test part of its own data, or of another corpus."""
    from msa.fuse.experiments.evaluate import evaluate

    name, found = evaluate(run, store, data)
    print_json({"data": name, **found}, json_)
    if not json_:
        console.scores(f"{run} on the test part of {name}", found)


@app.command("list")
def list_heads(
    model: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
) -> None:
    """The heads that can be trained, and their papers; with a name, what can be set."""
    options.listed("heads", model)


@app.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or benches, or a folder that holds some.")],
    each: Annotated[bool, typer.Option("--each", help="Every run by itself, with all seeds.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show the results of runs and benches; several runs in one table with what differs between them.

    A folder that holds runs, such as runs, stands for all of them. One run is shown with every seed, its baselines and
    where its plots are; --each shows every run so.
    """
    from msa.fuse.experiments import compare, tables
    from msa.fuse.experiments.sweep import beside

    opened, benches, damaged = compare.opened(runs)
    for why in damaged:
        console.warn(f"left out: {why}")
    found = [{"run": str(run.folder), **run.record, **run.metrics, "beside": beside(run)} for run in opened]
    print_json([*found, *benches.values()], json_)
    if json_:
        return
    sheets = [(tables.bench_sheet(table), FILES_OF_A_BENCH.format(folder)) for folder, table in benches.items()]
    if len(opened) > 1 and not each:
        sheets.append((tables.compared_sheet(opened), ""))
    else:
        for run in opened:
            try:
                sheets.append((tables.sheet(run), options.files_of(run)))
            except ConfigError as error:  # such as an unfinished one
                if len(opened) == 1:
                    raise
                console.warn(f"left out: {error.what}")
    for n, (sheet, files) in enumerate(sheets):
        if markdown:
            console.document(tables.markdown(sheet) + "\n")
            continue
        if n:
            console.say()
        console.sheet(sheet)
        if files:
            console.say(files)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A run folder of the head hcl.", show_default=False)],
    what: Annotated[str, typer.Option(help="entropy, attention or tsne.", show_default=False)],
    seed: Annotated[int | None, typer.Option(help="Default: the one with the lowest validation loss.")] = None,
    store: Annotated[str | None, typer.Option(help="Default: the store the run was trained from.")] = None,
) -> None:
    """Draw the HCL paper's pictures of a run, and write the numbers behind them: PNG and CSV.

    entropy trains twice, with COWA and without; attention and tsne show the weights the run has kept.
    """
    from msa.fuse.report import pictures

    for path in pictures.plot(run, what, store, seed, console.note):
        console.say(str(path))
