"""`msa fuse bench`, `tune` and `reproduce`: many heads under one protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from msa.errors import ConfigError

if TYPE_CHECKING:
    from msa.fuse.experiments.request import Request

JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Trainings to run in parallel. Default: one per GPU, or else one per core.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(help="Address (tcp://HOST:PORT) or file of a dask cluster that can read the store and the folder."),
]
ModelsOption = Annotated[str, typer.Option(help="Heads to compare: all, or names such as cmsta,hcl,lmf.")]

FILES_OF_A_BENCH = "{}  (bench.md, bench.csv, bench.json, bench.png, runs/)"


def _out(folder: str) -> Any:
    return typer.Option(help=f"Folder of the results; an unfinished one is continued. Default: {folder}.")


def bench(
    models: ModelsOption = "all",
    preset: Annotated[str, typer.Option(help="Preset of every head.")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ModalityViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[Path | None, _out("runs/bench-DATA")] = None,
    json_: JsonOption = False,
) -> None:
    """Train many heads under one protocol and compare them.

    All heads get the same hidden states, splits, pairing, seeds and rule for the best epoch. Learning rate, batch size
    and patience are each head's own. The test split is scored once, after all training.

    The table also has linear probes of all modalities and of each modality alone. It quotes a paper's figure only where
    datasets, test samples and encoders are the paper's.
    """
    from msa.fuse.experiments import request
    from msa.fuse.experiments.workers import Workers

    wanted = _request(preset, data, pairing, modalities, view, seeds)
    source = store_of(store)
    table, folder = request.bench(wanted, models.split(","), source, out, Workers(jobs, scheduler), note)
    _finish(table, folder, json_)


def tune(
    models: ModelsOption,
    trials: Annotated[int, typer.Option(min=1, help="Number of trainings in the search of each head.")] = 20,
    preset: Annotated[str, typer.Option(help="Preset at which the search of each head starts.")] = "default",
    data: DataOption = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ModalityViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[Path | None, _out("runs/tune-DATA")] = None,
    json_: JsonOption = False,
) -> None:
    """Search settings for each head, then compare the best.

    The search uses the validation split; its table has no test samples. Every head gets the same number of trials. They
    vary learning rate, weight decay, batch size, every dropout, and the settings in the head's SEARCH. A hopeless
    trial is stopped early; it counts, and so does one whose settings cannot be trained.

    The best settings of each head are then trained with all seeds. Each number of trials has its own table, such as
    runs/tune-DATA/20-trials.
    """
    from msa.fuse.experiments import request
    from msa.fuse.experiments.workers import Workers

    wanted = _request(preset, data, pairing, modalities, view, seeds)
    source = store_of(store)
    table, folder = request.tune(wanted, models.split(","), trials, source, out, Workers(jobs, scheduler), note)
    _finish(table, folder, json_)


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            help="cmsta:table2, cmsta:table3, cmsta:fig5, cmsta:fig6, or hcl:table1 to hcl:table6.", show_default=False
        ),
    ],
    data: Annotated[str | None, typer.Option(help="Datasets. Default: those of the paper that the store has.")] = None,
    pairing: PairingOption = "random",
    modalities: ModalitiesOption = None,
    view: ModalityViewOption = None,
    seeds: SeedsOption = "5",
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    store: StoreOption = None,
    out: Annotated[Path | None, _out("runs/TABLE-DATA")] = None,
    json_: JsonOption = False,
) -> None:
    """Reproduce a table or figure of the CM-STA or HCL paper.

    The printed figures are quoted beside the new ones only where datasets, test samples and encoders are the paper's.
    hcl:table2 counts weights and operations and needs no data; the paper does not say what its figures count.
    """
    from msa.fuse import files as runfiles
    from msa.fuse.experiments import bench_tables, papers, request, tables
    from msa.fuse.experiments.workers import Workers

    if papers.named(table).settings:
        wanted = _request("default", data, pairing, modalities, view, seeds)
        source = store_of(store)
        result, folder = request.reproduce(wanted, table, source, out, Workers(jobs, scheduler), note)
        return _finish(result, folder, json_)
    given = {"--data": data, "--modalities": modalities, "--view": view, "--store": store, "--scheduler": scheduler}
    if unused := [name for name, value in given.items() if value]:
        raise ConfigError(f"{table} needs no data", fix=f"leave out {', '.join(unused)}")
    counts, folder = request.complexity(table, out)
    costs = bench_tables.complexity_sheet(**counts)
    runfiles.write(folder / "complexity.md", f"{tables.markdown(costs)}\n".encode())
    if json_:
        return as_json({"folder": str(folder), **counts})
    sheet(costs)
    return say(f"{folder}  (complexity.md, .csv, .json, .png)")


def _request(
    preset: str, data: str | None, pairing: str, modalities: str | None, view: list[str] | None, seeds: str
) -> "Request":
    from msa.fuse.experiments.request import Request

    return Request("", preset, data, pairing, modalities=modalities, views=view or [], seeds=seeds)


def _finish(table: Mapping[str, Any], folder: Path, json_: bool) -> None:
    """Write a table of many heads as Markdown beside its numbers, and print it."""
    from msa.fuse import files as runfiles
    from msa.fuse.experiments import bench_tables, tables

    result = bench_tables.bench_sheet(table)
    runfiles.write(folder / "bench.md", f"{tables.markdown(result)}\n".encode())
    if json_:
        return as_json({"folder": str(folder), **table})
    sheet(result)
    return say(FILES_OF_A_BENCH.format(folder))
