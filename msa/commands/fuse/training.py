"""`msa fuse train`: one head from the store, with its baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msa import catalog
from msa.commands import exits
from msa.commands.console import as_json, note, say, sheet
from msa.commands.options import (
    DataOption,
    JsonOption,
    ModalitiesOption,
    ModalityViewOption,
    PairingOption,
    SeedsOption,
    StoreOption,
    store_of,
)
from msa.errors import UnknownNameError
from msa.names import shell_command

if TYPE_CHECKING:
    from msa.fuse.runs.run import Run


def train(
    model: Annotated[str, typer.Option(help="Head to train; `msa fuse list` lists them.")] = "cmsta",
    preset: Annotated[str, typer.Option(help="Preset of the head: default, paper, ...")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    rho: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of pairs with matching labels; only with --pairing noisy_match."),
    ] = 0.5,
    pair_seed: Annotated[int, typer.Option(help="Seed of the pairing.")] = 42,
    modalities: ModalitiesOption = None,
    view: ModalityViewOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the head or the training: layers=2, lr=1e-4.")
    ] = None,
    seeds: SeedsOption = "5",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/MODEL-DATA-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat this run: same data, settings and seeds, except what --set changes.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train a head and compare it with two baselines.

    The baselines are a linear probe and the majority class. The test split is scored once, after all training.
    """
    if model not in catalog.names("head"):
        raise UnknownNameError("head", model, catalog.names("head"))
    from msa.fuse.experiments import request

    wanted = request.Request(model, preset, data, pairing, rho, pair_seed, modalities, view or [], set_ or [], seeds)
    source = store if resume or like else store_of(store)
    run = request.train(wanted, source, out, resume, like, note, lambda folder: _resumable(folder, source))
    if json_:
        as_json({"run": str(run.folder), **run.metrics})
    else:
        print_run(run)


def _resumable(folder: Path, store: str | Path | None) -> None:
    """Register the command that resumes this training. It names a remote store: a run's own address is not trusted."""
    address = ["--store", str(store)] if "://" in str(store) else []
    command = shell_command("msa", "fuse", "train", "--resume", str(folder), *address)
    exits.continues_with(command, folder / "run.json")


def print_run(run: "Run") -> None:
    """Print the table of a run, and the paths of its files."""
    from msa.fuse.experiments import tables

    sheet(tables.sheet(run))
    say(files(run))


def files(run: "Run") -> str:
    """Return the line that names the files of a run."""
    return f"run: {run.folder}  ({', '.join([*run.pictures, 'predictions.csv', 'metrics.json'])})"
