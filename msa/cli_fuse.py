"""`msa fuse`: train fusion heads from the store, and look at their results. A body is: import, one call, print."""

from pathlib import Path
from typing import Annotated

import typer

from msa import catalog, commands, terminal
from msa.commands import JsonOption, StoreOption, print_json, print_run
from msa.errors import UnknownNameError

app = typer.Typer(help="Train fusion heads from the store, and look at their results.", no_args_is_help=True)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="A head: see `msa fuse list`.")] = "cmsta",
    preset: Annotated[str, typer.Option(help="Of the head: default, paper, ...")] = "default",
    data: Annotated[
        str | None, typer.Option(help="A dataset, or two: mvsa-single+ravdess. Default: what there is.")
    ] = None,
    pairing: Annotated[str, typer.Option(help="random, union, label_matched, zip or noisy_match.")] = "random",
    rho: Annotated[float, typer.Option(min=0, max=1, help="Of noisy_match: how often the label is matched.")] = 0.5,
    pair_seed: Annotated[int, typer.Option(help="Of the pairing.")] = 42,
    modalities: Annotated[str | None, typer.Option(help="Only these, such as text,image.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="Which view: text=roberta.base. Default: the newest.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of head or training: layers=2, lr=1e-4.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many from 42 on, or which: 3 or 7,8,9.")] = "5",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/MODEL-DATA-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    like: Annotated[Path | None, typer.Option(help="Repeat a run: same data, settings and seeds.")] = None,
    json_: JsonOption = False,
) -> None:
    """Train a head from the store, test it once, and show it beside a linear probe and the majority class."""
    if model not in catalog.names("head"):
        raise UnknownNameError("head", model, catalog.names("head"))
    from msa.fuse import request

    asked = request.Request(model, preset, data, pairing, rho, pair_seed, modalities, view or [], set_ or [], seeds)
    run = request.train(asked, store, out, resume, like, terminal.note)
    print_json({"run": str(run.folder), **run.metrics}, json_)
    if not json_:
        print_run(run)


@app.command("eval")
def eval_(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[
        str | None, typer.Option(help="Another dataset with the same views. Default: the run's own.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Default: the store the run was trained from.")] = None,
    json_: JsonOption = False,
) -> None:
    """Score a trained run again on the test part of its own data, or of another corpus."""
    from msa.fuse.evaluate import evaluate

    name, found = evaluate(run, store, data)
    print_json({"data": name, **found}, json_)
    if not json_:
        terminal.scores(f"{run} on the test part of {name}", found)


@app.command("list")
def list_heads(
    model: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
) -> None:
    """The heads that can be trained, and their papers; with a name, what can be set."""
    commands.listed("heads", model)


@app.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="One run folder or several.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    json_: JsonOption = False,
) -> None:
    """The results of runs: every seed, mean, spread, yardsticks, pairing, and where the plots are."""
    from msa import results
    from msa.fuse.run import Run

    opened = [Run.open(folder) for folder in runs]
    print_json([{"run": str(run.folder), **run.record, **run.metrics} for run in opened], json_)
    for run in () if json_ else opened:
        if markdown:
            typer.echo(results.markdown(results.sheet(run)) + "\n")
        else:
            print_run(run)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A run folder of the head hcl.", show_default=False)],
    what: Annotated[str, typer.Option(help="entropy, attention or tsne.", show_default=False)],
    seed: Annotated[int | None, typer.Option(help="Default: the one with the lowest validation loss.")] = None,
    store: Annotated[Path | None, typer.Option(help="Default: the store the run was trained from.")] = None,
) -> None:
    """Draw the HCL paper's pictures of a run, and write the numbers behind them: PNG and CSV.

    entropy trains twice, with COWA and without; attention and tsne show the weights the run has kept.
    """
    from msa.fuse import pictures

    for path in pictures.plot(run, what, store, seed, terminal.note):
        terminal.say(str(path))
