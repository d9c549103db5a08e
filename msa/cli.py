"""The command line: `msa extract`, `list`, `predict`, `demo`; `msa cache` and `msa fuse` have files of their own.

A body is: import, one call, print.
"""

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from msa import __version__, catalog
from msa.commands import cache, console, fuse, user_defaults
from msa.commands.options import (
    Commands,
    DeviceOption,
    FolderOption,
    JsonOption,
    about,
    folder_of,
    interrupted,
    listed,
    print_corpus,
    print_json,
    print_run,
)
from msa.errors import MsaError, UnknownNameError
from msa.names import shell_command
from msa.types import Modality

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache.app, name="cache")
app.add_typer(fuse.app, name="fuse")

SHOWN = 20  # rows of a table of predictions; all are in its CSV
INTERRUPTED = 130  # the exit code of Ctrl-C


def main() -> None:
    """Entry point: mendable errors become two lines and exit code 1; anything else is a bug and keeps its traceback."""
    # Threads that wait shall sleep: where cores are shared, spinning ones made encoding ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's request to stop is a Ctrl-C
    try:
        app()
    except MsaError as error:
        console.fail(error.what, error.fix)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            interrupted()
        raise


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"msa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Multimodal sentiment analysis in two stages: extract hidden states once, train light fusion heads many times."""


@app.command()
def extract(
    dataset: Annotated[str, typer.Option(help="What to read: see `msa list datasets`.")],
    root: Annotated[Path | None, typer.Option(help="Where it lies (for `table`: the file). Remembered.")] = None,
    store: FolderOption = None,
    preset: Annotated[str, typer.Option(help="paper (needs weights) or classic (needs none).")] = "paper",
    text: Annotated[str | None, typer.Option(help="Backbone for text, hf:PATH_OR_ID, or none.")] = None,
    image: Annotated[str | None, typer.Option(help="Backbone for images, timm:NAME[@CHECKPOINT], or none.")] = None,
    audio: Annotated[str | None, typer.Option(help="Backbone for audio, hf:PATH_OR_ID, or none.")] = None,
    face: Annotated[str | None, typer.Option(help="Backbone for faces in videos, or none.")] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.01, max=240, help="Frames per second that are searched for faces.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Of the dataset (rule=strict) or a backbone (text.max_length=64)."
        ),
    ] = None,
    split: Annotated[Path | None, typer.Option(help="JSON or CSV that names the samples of each part.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, where the corpus has no official one.")] = 42,
    limit: Annotated[int | None, typer.Option(min=1, help="Extract only the first so many samples.")] = None,
    max_errors: Annotated[int | None, typer.Option(min=0, help="Stop when more samples than this fail.")] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try again what failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be extracted, write nothing.")] = False,
    device: DeviceOption = "auto",
    engine: Annotated[
        str, typer.Option(help="pipeline (decode, forward and write at once), serial, or dask (many processes).")
    ] = "pipeline",
    workers: Annotated[int, typer.Option(min=1, help="Of engine dask: processes on this machine.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Of engine dask: a scheduler that runs already, tcp://HOST:PORT or its file.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Only the I-th of N parts: for job arrays that schedule themselves.")
    ] = "1/1",
    batch_budget: Annotated[
        int | None, typer.Option(min=1, help="Tokens, frames or samples of a batch. Default: what fits the device.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which decoding one sample is given up.")] = 600,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of sound, or of frames, that one sample may have.")
    ] = 7200,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels that a picture may have; a frame of a video a quarter.")
    ] = 178_956_970,
    json_: JsonOption = False,
) -> None:
    """Turn a corpus into hidden states, once: text, images, audio and faces through frozen backbones into the store.

    Interrupted runs go on where they stopped; a sample that cannot be read is recorded, and the run goes on.
    A corpus that was imported (`msa cache import`) is named as it is in the store: its texts are extracted.
    """
    path = folder_of(store)
    if dataset not in catalog.names("dataset") and not (path / "zarr.json").exists():  # before anything heavy
        raise UnknownNameError("dataset", dataset, catalog.names("dataset"))
    from msa.cache.store import FeatureStore
    from msa.cache.write import recovery
    from msa.extract import job as jobs
    from msa.extract.media.decode import Bounds
    from msa.extract.pipeline import Limits

    named = {Modality.TEXT: text, Modality.IMAGE: image, Modality.AUDIO: audio, Modality.FACE: face}
    job = jobs.Job(
        dataset=dataset,
        root=user_defaults.root(dataset, root),
        root_given=root is not None,
        preset=preset,
        backbones={m: name for m, name in named.items() if name},
        settings=(*(set_ or ()), *jobs.fps_setting(fps, face)),
        split_file=split,
        seed=seed,
        device=device,
        limits=Limits(
            limit,
            max_errors,
            retry_errors,
            budget=batch_budget,
            share=jobs.share(shard),
            clip=Bounds(max_seconds, max_pixels),
        ),
        engine=jobs.engine(engine, workers, scheduler, timeout),
    )
    bar = console.Bar()
    existing = FeatureStore.open(path) if (path / "zarr.json").exists() else None
    jobs.check(job, existing)
    found = jobs.survey(job, existing, bar)
    if not json_:
        print_corpus(found.index)
        console.unreadable(found.unreadable)
        if found.remark:
            console.warn(found.remark)
    if dry_run:
        estimates = jobs.estimate(job, found, existing)
        print_json(
            {
                "counts": found.index.counts(),
                **about(found.index),
                "unreadable": found.unreadable,
                "views": [asdict(e) for e in estimates],
            },
            json_,
        )
        return None if json_ else console.estimates(estimates, path)
    recipes = jobs.recipes(job, found, existing)  # weights that cannot be had are refused before a store is made
    if not json_:
        console.weights([recipe.spec for recipe in recipes])
    opened = FeatureStore.create(path)
    if remark := user_defaults.keep(path, {dataset: root} if root is not None else {}):
        console.warn(remark)
    for line in dict.fromkeys(line for recipe in recipes for line in recovery.silent(path, recipe.view_id)):
        console.warn(line)
    reports = jobs.execute(job, found, recipes, opened, bar)
    print_json({"store": str(path), **about(found.index), "views": [asdict(r) for r in reports]}, json_)
    if not json_:
        console.extracted(reports, path, {r.modality: found.paths(Modality(r.modality)) for r in reports if r.failed})
    return None


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="datasets, backbones, heads or formats.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
) -> None:
    """What there is to choose from: datasets, backbones, heads, formats; with a name, what can be set there."""
    listed(kind, name)


@app.command()
def predict(
    run: Annotated[Path, typer.Option(help="A run folder of `msa fuse train`.")],
    text: Annotated[str | None, typer.Option(help="The text itself.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file.")] = None,
    audio: Annotated[Path | None, typer.Option(help="An audio file.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video: its sound, its faces, or both.")] = None,
    table: Annotated[Path | None, typer.Option(help="A CSV or JSONL of many: id, text, image, audio, ...")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Of --table: columns=text:Tweet,label:Mood."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Of --table: the CSV to write. Default: TABLE-predictions.csv, in this folder.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=NAME", help="Where weights lie here: text=hf:FOLDER. Default: where they lay."),
    ] = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Predict from raw input with a trained run, through the same recipe it was trained on.

    --table writes one row for each of its rows to a CSV. The exit code is 1 where a sample got no prediction.
    """
    from msa import predict as predicting
    from msa.config import by_modality

    if table and (text is not None or image or audio or video):
        raise typer.BadParameter("give either --table or single inputs")
    given = (text, image, audio, video)
    samples, dropped = predicting.from_table(table, set_ or ()) if table else ([predicting.one(*given)], [])
    if (out or set_) and not table:
        raise typer.BadParameter(f"{'--out' if out else '--set'} is of --table")
    if remark := predicting.collapsed(run):
        console.warn(remark)
    found = predicting.predict(run, samples, device, by_modality(weights or (), "--weights")) + dropped
    print_json([asdict(p) for p in found], json_)
    if table:
        out = out or Path(f"{table.stem}-predictions.csv")
        predicting.write_csv(found, out)
    if not json_:
        console.predictions(found[:SHOWN] if table else found)
    lacking = sum(not p.label for p in found)
    if out:
        console.note(f"{len(found)} rows, {lacking} without a prediction: {out}")
    if lacking:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where data, store and run go.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings.")] = 2,
) -> None:
    """See the whole way on data msa makes itself: posts with pictures and voices -> hidden states -> trained heads."""
    from msa.demo import tour

    run = tour.take(folder, seeds, console.Bar(), console.note)
    print_run(run)
    console.say()
    console.say("Ask it something:")
    asked = ["--text", "what a wonderful day", "--image", tour.a_picture(folder)]
    console.say(f"  {shell_command('msa', 'predict', '--run', run.folder, *asked)}")


if __name__ == "__main__":
    main()
