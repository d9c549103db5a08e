"""The command line. A body is: import, one call, print."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msa import __version__, catalog, remember, terminal
from msa.errors import MsaError, UnknownNameError
from msa.types import Modality

if TYPE_CHECKING:
    from msa.cache.store import FeatureStore
    from msa.fuse.run import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache = typer.Typer(help="Look into the store of hidden states, check it, clean it.", no_args_is_help=True)
fuse = typer.Typer(help="Train fusion heads from the store, and look at their results.", no_args_is_help=True)
app.add_typer(cache, name="cache")
app.add_typer(fuse, name="fuse")

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="The store. Default: MSA_STORE, the last one extracted to, ./msa-store.")
]
StoreArgument = Annotated[Path | None, typer.Argument(help="The store. Default: as with --store.", show_default=False)]
FREE = {
    "hf:PATH_OR_ID": "Any encoder of transformers, for text or audio, from a folder or the hub.",
    "timm:NAME[@CHECKPOINT]": "Any image model of timm, from the hub or a file.",
}
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DeviceOption = Annotated[str, typer.Option(help="auto (the GPU where there is one), cpu, cuda, cuda:1.")]


INTERRUPTED = 130  # the exit code of Ctrl-C


def main() -> None:
    """Entry point: mendable errors become two lines and exit code 1; anything else is a bug and keeps its traceback."""
    # Threads that wait shall sleep: where cores are shared, spinning ones made encoding ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's request to stop is a Ctrl-C
    try:
        app()
    except MsaError as error:
        terminal.fail(error.what, error.fix)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            terminal.note("interrupted; what was committed is kept, the same command goes on from there")
        raise


def _version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"msa {__version__}")
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
    store: StoreOption = None,
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
    json_: JsonOption = False,
) -> None:
    """Turn a corpus into hidden states, once: text, images, audio and faces through frozen backbones into the store.

    Interrupted runs go on where they stopped; a sample that cannot be read is recorded, and the run goes on.
    A corpus that was imported (`msa cache import`) is named as it is in the store: its texts are extracted.
    """
    path = remember.store(store)
    if dataset not in catalog.names("dataset") and not (path / "zarr.json").exists():  # before anything heavy
        raise UnknownNameError("dataset", dataset, catalog.names("dataset"))
    from msa.cache.store import FeatureStore
    from msa.extract import job as jobs
    from msa.extract.pipeline import Limits

    named = {Modality.TEXT: text, Modality.IMAGE: image, Modality.AUDIO: audio, Modality.FACE: face}
    job = jobs.Job(
        dataset=dataset,
        root=remember.root(dataset, root),
        root_given=root is not None,
        preset=preset,
        backbones={m: name for m, name in named.items() if name},
        settings=(*(set_ or ()), *jobs.fps_setting(fps, face)),
        split_file=split,
        seed=seed,
        device=device,
        limits=Limits(limit, max_errors, retry_errors, budget=batch_budget, share=jobs.share(shard)),
        engine=jobs.engine(engine, workers, scheduler, timeout),
    )
    bar = terminal.Bar()
    existing = FeatureStore.open(path) if (path / "zarr.json").exists() else None
    jobs.check(job, existing)
    found = jobs.survey(job, existing, bar)
    if not json_:
        terminal.corpus(found.index)
        if found.remark:
            terminal.warn(found.remark)
    if dry_run:
        estimates = jobs.estimate(job, found, existing)
        _print_json(
            {"counts": found.index.counts(), **_about(found.index), "views": [asdict(e) for e in estimates]}, json_
        )
        return None if json_ else terminal.estimates(estimates, path)
    recipes = jobs.recipes(job, found, existing)  # weights that cannot be had are refused before a store is made
    if not json_:
        terminal.weights([recipe.spec for recipe in recipes])
    opened = FeatureStore.create(path)
    remember.keep_store(path)
    if root is not None:
        remember.keep_root(dataset, root)
    reports = jobs.execute(job, found, recipes, opened, bar)
    _print_json({"store": str(path), **_about(found.index), "views": [asdict(r) for r in reports]}, json_)
    if not json_:
        terminal.extracted(reports, path)
    return None


def _about(index: Any) -> dict[str, Any]:
    kept = ("split", "dropped", "encodings", "leaks")
    return {"dataset": index.name, "samples": len(index), **{name: index.about[name] for name in kept}}


def _print_json(value: Any, wanted: bool) -> None:
    if wanted:
        typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="datasets, backbones, heads or formats.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
) -> None:
    """What there is to choose from: datasets, backbones, heads, formats; with a name, what can be set there."""
    tables: dict[str, Callable[[], dict[str, str]]] = {
        "datasets": lambda: catalog.describe("dataset"),
        "backbones": lambda: catalog.backbones() | FREE,
        "heads": lambda: catalog.describe("head"),
        "formats": lambda: catalog.describe("format"),
    }
    if kind is not None and kind not in tables:
        raise UnknownNameError("list", kind, tables)
    if kind is not None and name is not None:
        return terminal.settings(name, _settings(kind.removesuffix("s"), name))
    for title, rows in tables.items():
        if kind in (None, title):
            terminal.show(title, ["name", "what it is"], list(rows().items()))
    return None


def _settings(kind: str, name: str) -> dict[str, list[tuple[str, Any, str]]]:
    """Title -> (setting, default, what it is)."""
    from msa.config import describe

    if kind == "backbone":
        module = catalog.load(kind, name.partition(".")[0])
        return {key: [(o, v, "") for o, v in spec.options.items()] for key, spec in module.SPECS.items()}
    found = {"settings": describe(catalog.load(kind, name).Config)}
    if kind == "head":
        from msa.fuse.model import Model
        from msa.fuse.train import TrainConfig

        own = Model.of(name).training
        found["training"] = [(field, getattr(own, field), what) for field, _, what in describe(TrainConfig)]
    return found


@app.command()
def predict(
    run: Annotated[Path, typer.Option(help="A run folder of `msa fuse train`.")],
    text: Annotated[str | None, typer.Option(help="The text itself.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file.")] = None,
    audio: Annotated[Path | None, typer.Option(help="An audio file.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video: its sound, its faces, or both.")] = None,
    table: Annotated[Path | None, typer.Option(help="A CSV or JSONL of many: id, text, image, audio, ...")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=NAME", help="Where weights lie here: text=hf:FOLDER. Default: where they lay."),
    ] = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Say what a trained run makes of raw input, through the same recipe it was trained on."""
    from msa import predict as predicting
    from msa.config import by_modality

    if table and (text is not None or image or audio or video):
        raise typer.BadParameter("give either --table or single inputs")
    given = (text, image, audio, video)
    samples, dropped = predicting.from_table(table) if table else ([predicting.one(*given)], [])
    found = predicting.predict(run, samples, device, by_modality(weights or (), "--weights")) + dropped
    _print_json([asdict(p) for p in found], json_)
    if not json_:
        terminal.predictions(found)
    if not any(p.label for p in found):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where data, store and run go.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings.")] = 2,
) -> None:
    """See the whole way on data msa makes itself: posts with pictures and voices -> hidden states -> trained heads."""
    from msa.demo import tour

    run = tour.take(folder, seeds, terminal.Bar(), terminal.note)
    _print_run(run)
    terminal.say()
    terminal.say("Ask it something:")
    terminal.say(f"  msa predict --run {run.folder} --text 'what a wonderful day' --image {tour.a_picture(folder)}")


@cache.command()
def ls(store: StoreOption = None, json_: JsonOption = False) -> None:
    """The datasets and views of a store."""
    opened = _open(store)
    views = [(name, view) for name in opened.datasets for view in opened.views(name)]
    rows = [
        {"dataset": name, "modality": v.modality, "backbone": v.name, "view": v.id, "samples": v.samples}
        | {"failed": v.failed, "dim": v.dim, "bytes": v.nbytes}
        for name, v in views
    ]
    _print_json(rows, json_)
    if not json_:
        terminal.views(opened.path, opened.datasets, rows)


@cache.command()
def info(
    store: StoreArgument = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every sample that could not be extracted.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Where everything in a store comes from: corpora, recipes, weights, licences, versions, failures."""
    from msa.cache.inspect import describe

    found = describe(_open(store))
    _print_json(found, json_)
    if not json_:
        terminal.provenance(found, failures)


@cache.command()
def verify(store: StoreArgument = None, json_: JsonOption = False) -> None:
    """Check every file, table and hidden state; exit code 1 when something is wrong."""
    from msa.cache.verify import verify as check

    opened = _open(store)
    problems = check(opened)
    _print_json([asdict(p) for p in problems], json_)
    if not json_:
        for problem in problems:
            terminal.say(str(problem))
        terminal.say(f"{opened.path}: {f'{len(problems)} problems' if problems else 'everything is as it should be'}")
    raise typer.Exit(code=bool(problems))


@cache.command()
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
    opened = _open(store)
    if not yes:
        typer.confirm(f"remove {dataset or view} from {opened.path}?", abort=True)
    freed = remove(opened, dataset=dataset, view=view)
    terminal.say(f"removed {dataset or view}, {terminal.size(freed)} freed")


@cache.command("import")
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
    _print_json({"store": str(path), **_about(index), "views": [asdict(i) for i in found]}, json_)
    if not json_:
        terminal.corpus(index)
        if missing := importing.lacking(index):
            terminal.warn(missing)
        terminal.imported(found, path)


@cache.command()
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

    remarks = exporting.export(_open(store), dataset, by_modality(view or (), "--view"), format, module, out)
    terminal.say(f"{dataset} was written to {out}")
    for remark in remarks:
        terminal.say(f"  {remark}")


def _open(store: Path | None) -> "FeatureStore":
    from msa.cache.store import FeatureStore

    return FeatureStore.open(remember.store(store))


@fuse.command()
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
    _print_json({"run": str(run.folder), **run.metrics}, json_)
    if not json_:
        _print_run(run)


@fuse.command("eval")
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
    _print_json({"data": name, **found}, json_)
    if not json_:
        terminal.scores(f"{run} on the test part of {name}", found)


@fuse.command("list")
def list_heads(
    model: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
) -> None:
    """The heads that can be trained, and their papers; with a name, what can be set."""
    list_("heads", model)


@fuse.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="One run folder or several.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    json_: JsonOption = False,
) -> None:
    """The results of runs: every seed, mean, spread, yardsticks, pairing, and where the plots are."""
    from msa import results
    from msa.fuse.run import Run

    opened = [Run.open(folder) for folder in runs]
    _print_json([{"run": str(run.folder), **run.record, **run.metrics} for run in opened], json_)
    for run in () if json_ else opened:
        if markdown:
            typer.echo(results.markdown(results.sheet(run)) + "\n")
        else:
            _print_run(run)


@fuse.command()
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


def _print_run(run: "Run") -> None:
    from msa import results

    terminal.sheet(results.sheet(run))
    terminal.say(f"run: {run.folder}  ({', '.join([*run.pictures, 'predictions.csv', 'metrics.json'])})")


if __name__ == "__main__":
    main()
