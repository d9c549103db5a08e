"""`msa extract`: a dataset through frozen backbones into the store."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msa import catalog
from msa.commands import dataset as about
from msa.commands import user_defaults
from msa.commands.console import as_json, count, note, say, show, size, warn
from msa.commands.options import DeviceOption, DryRunOption, FolderOption, JsonOption, folder_of
from msa.commands.progress import Bar
from msa.errors import UnknownNameError
from msa.types import Modality

if TYPE_CHECKING:
    from msa.extract.job import Job


def extract(
    dataset: Annotated[str, typer.Option(help="Name of the dataset; `msa list datasets` lists them.")],
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the raw data (for `table`: the file). Default: the one given the last time."),
    ] = None,
    store: FolderOption = None,
    preset: Annotated[
        str, typer.Option(help="Backbones to use: paper (downloads weights) or classic (needs none).")
    ] = "paper",
    text: Annotated[str | None, typer.Option(help="Backbone for text: a name, hf:PATH_OR_ID, or none.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Backbone for images: a name, timm:NAME[@CHECKPOINT], or none.")
    ] = None,
    audio: Annotated[str | None, typer.Option(help="Backbone for audio: a name, hf:PATH_OR_ID, or none.")] = None,
    face: Annotated[str | None, typer.Option(help="Backbone for faces in videos: a name, or none.")] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.01, max=240, help="Frames per second in which faces are searched for.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the dataset (rule=strict) or of a backbone (text.max_length=64).",
        ),
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="JSON or CSV file that lists the samples of train, valid and test.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the random split; unused where the dataset has an official one.")
    ] = 42,
    limit: Annotated[int | None, typer.Option(min=1, help="Extract only the first N samples.")] = None,
    max_errors: Annotated[int | None, typer.Option(min=0, help="Stop when more than N samples fail.")] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try again the samples that failed in earlier runs.")
    ] = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="pipeline (decode, encode and write in parallel), serial (one after the other), "
            "or dask (several processes)."
        ),
    ] = "pipeline",
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on this machine; only with --engine dask.")] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address (tcp://HOST:PORT) or file of a running dask scheduler; only with --engine dask."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Extract only share I of N of the samples, as one task of a job array.")
    ] = "1/1",
    batch_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens, frames or audio samples per batch. Default: what fits the device."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit in seconds to decode one sample.")] = 600,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest audio or video of one sample, in seconds.")] = 7200,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Most pixels of an image; a video frame may have a quarter of it.")
    ] = 178_956_970,
    json_: JsonOption = False,
) -> None:
    """Extract hidden states from a dataset into a store.

    Text, images, audio and faces pass through frozen backbones once; heads are trained from the store. The same command
    continues an interrupted run. A sample that cannot be read is recorded in the store, and the run continues.

    For a dataset that was imported (`msa cache import`), give its name in the store: its texts are extracted.
    """
    path = folder_of(store)
    if dataset not in catalog.names("dataset") and not (path / "zarr.json").exists():  # before heavy imports
        raise UnknownNameError("dataset", dataset, catalog.names("dataset"))
    from msa.extract import job as jobs
    from msa.extract.media.decode import Bounds
    from msa.extract.pipeline import Limits

    backbones = {Modality.TEXT: text, Modality.IMAGE: image, Modality.AUDIO: audio, Modality.FACE: face}
    job = jobs.Job(
        dataset=dataset,
        root=user_defaults.root(dataset, root),
        root_given=root is not None,
        preset=preset,
        backbones={modality: name for modality, name in backbones.items() if name},
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
    _run(job, path, {dataset: root} if root else {}, dry_run, json_)


def _run(job: "Job", path: Path, roots: Mapping[str, Path], dry_run: bool, json_: bool) -> None:
    """Read the dataset, then print estimates or extract.

    Args:
        job: what to extract.
        path: the store.
        roots: folders of raw data to remember, by dataset.
        dry_run: print estimates, write nothing.
        json_: print one JSON document on standard output.
    """
    from msa.cache.store import FeatureStore
    from msa.cache.write import recovery
    from msa.extract import job as jobs

    bar = Bar()
    existing = FeatureStore.open(path) if (path / "zarr.json").exists() else None
    jobs.check(job, existing)
    scan = jobs.survey(job, existing, bar)
    facts = about.facts(scan.index)
    if not json_:
        about.print_dataset(scan.index)
        print_unreadable(scan.unreadable)
        if scan.remark:
            warn(scan.remark)
    if dry_run:
        views = jobs.estimate(job, scan, existing)
        if not json_:
            return print_estimates(views, path)
        counts = {"counts": scan.index.counts(), **facts, "unreadable": scan.unreadable}
        return as_json({**counts, "views": [asdict(view) for view in views]})
    recipes = jobs.recipes(job, scan, existing)  # missing weights are refused before a store is made
    if not json_:
        print_weights([recipe.spec for recipe in recipes])
    store = FeatureStore.create(path)
    if remark := user_defaults.keep(path, roots):
        warn(remark)
    for line in dict.fromkeys(line for recipe in recipes for line in recovery.silent(path, recipe.view_id)):
        warn(line)
    reports = jobs.execute(job, scan, recipes, store, bar)
    if json_:
        return as_json({"store": str(path), **facts, "views": [asdict(report) for report in reports]})
    paths = {report.modality: scan.paths(Modality(report.modality)) for report in reports if report.failed}
    return print_extracted(reports, path, paths)


def print_unreadable(files: Sequence[tuple[str, str, str]], limit: int = 5) -> None:
    """Print files that are missing or empty before anything is extracted, from (id, modality, path)."""
    modalities: dict[tuple[str, str], list[str]] = {}
    for id, modality, path in files:
        modalities.setdefault((id, path), []).append(modality)
    if modalities:
        number = len({path for _, path in modalities})
        warn(f"{count(number, 'file')} {'are' if number > 1 else 'is'} missing, empty or not readable:")
        for (id, path), names in list(modalities.items())[:limit]:
            say(f"  {id}: {', '.join(names)}: {path}")
        if len(modalities) > limit:
            say(f"  and {len(modalities) - limit} more")


def print_weights(specs: Sequence[Any]) -> None:
    """Print which weights are used, and their licences."""
    for spec in specs:
        if spec.weights:
            note(f"{spec.modality}: weights {spec.weights}, licence: {spec.licence or 'see their home page'}")


def print_estimates(views: Sequence[Any], store: Any) -> None:
    """Print what a dry run learnt."""
    rows = []
    for view in views:
        shape, nbytes = (f"{view.rows:.1f} x {view.dim}", size(view.bytes)) if view.dim else ("?", "?")
        weights = f"{view.weights} ({view.licence})" if view.licence else view.weights
        rows.append([view.modality, view.backbone, weights, view.samples, shape, nbytes])
    columns = ["modality", "backbone", "weights", "samples", "rows x dim", "on disk"]
    show(f"would be extracted into {store}", columns, rows, 3)
    for view in views:
        if view.already:
            say(f"  {view.modality}: the store has this view already; only missing samples would be extracted")
        if view.problem:
            warn(f"{view.modality}: {view.problem}")
    say("nothing was written")


def print_extracted(reports: Sequence[Any], store: Any, paths: Mapping[Modality, Mapping[str, Any]]) -> None:
    """Print the result of an extraction. `paths`: modality -> sample id -> its file, for samples that failed."""
    rows = []
    for report in reports:
        rate = f"{report.written / report.seconds:.1f}/s" if report.written and report.seconds else ""
        view = f"{report.name}@{report.view_id}"
        rows.append([report.modality, view, report.written, report.already, len(report.failed), rate])
    show(f"extracted into {store}", ["modality", "view", "new", "already there", "failed", "rate"], rows, 4)
    for report in reports:
        for line in _remarks(report):
            say(f"  {report.modality}: {line}")
    failed = [(report.modality, *failure) for report in reports for failure in report.failed]
    about.print_failures(
        [
            (modality, id, stage, f"{reason}: {paths[modality][id]}" if id in paths.get(modality, {}) else reason)
            for modality, id, stage, reason in failed
        ]
    )


def _remarks(report: Any) -> list[str]:
    from msa.extract.work.meter import LIMITS

    lines = []
    if report.recovered:
        lines.append(f"{count(report.recovered, 'sample')} recovered from an interrupted run")
    if report.borrowed:
        lines.append(f"{count(report.borrowed, 'sample')} reused from another version of this dataset")
    lines += [f"{number} {what}" for what, number in report.counts.items()]
    if report.written:
        # descriptors are computed while decoding: their share of the model's throughput means nothing
        peak = report.bound == "forward" or report.share > 0.05
        share = f" ({report.share:.0%} of the model's peak throughput)" if peak else ""
        padding = f", {report.padding:.1%} padding" if report.padding else ""
        lines.append(f"limited by {LIMITS[report.bound]}{share}{padding}")
    if report.failed_before:
        lines.append(f"{count(report.failed_before, 'sample')} failed in an earlier run, skipped; see --retry-errors")
    return lines
