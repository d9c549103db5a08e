"""One `msa extract`: a dataset, the backbones for its modalities, a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa import catalog
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.config import modality as modality_of
from msa.device import pick_device
from msa.errors import BackboneError, ConfigError, SourceError, UnknownNameError
from msa.extract import pipeline, presets, scan
from msa.extract.media import decode
from msa.extract.pipeline import PIPELINE, SERIAL, Engine, Limits, RemoteEngine, Report
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan
from msa.extract.work.forward import Failure, attempt, hidden_states
from msa.names import shell_command
from msa.progress import Progress
from msa.types import Modality, Source

SKIP = "none"  # as a backbone's name: leave this modality out
SAMPLED = 8  # clips a dry run encodes to learn how large the hidden states are


@dataclass(frozen=True)
class Job:
    """The arguments of an extraction."""

    dataset: str
    root: Path | None
    preset: str = "paper"
    backbones: Mapping[Modality, str] = field(default_factory=dict)  # where they differ from the preset
    settings: Sequence[str] = ()  # name=value of the dataset; modality.name=value of a backbone
    split_file: Path | None = None
    seed: int = 42
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    engine: Engine | RemoteEngine = PIPELINE
    root_given: bool = True  # by the user, rather than remembered: it takes precedence over an imported dataset


def engine(
    name: str, workers: int = 2, scheduler: str | None = None, timeout_s: float = 600.0
) -> Engine | RemoteEngine:
    """Return the engine of a name.

    Args:
        name: pipeline, serial or dask.
        workers: that dask starts on this machine, where no scheduler is given.
        scheduler: address or file of a running dask scheduler.
        timeout_s: for decoding one sample.

    Raises:
        UnknownNameError: there is no such engine.
        ConfigError: a scheduler is given for another engine than dask.
    """
    from msa.extract.work.cluster import Cluster

    engines: dict[str, Engine | RemoteEngine] = {
        "pipeline": replace(PIPELINE, timeout_s=timeout_s),
        "serial": replace(SERIAL, timeout_s=timeout_s),
        "dask": Cluster(scheduler, workers, timeout_s),
    }
    if name not in engines:
        raise UnknownNameError("engine", name, engines)
    if scheduler is not None and name != "dask":
        raise ConfigError(f"--scheduler is of engine dask, not of {name}", fix="add --engine dask")
    return engines[name]


def fps_setting(fps: float | None, face: str | None) -> list[str]:
    """Return `--fps` as the setting it stands for. Raises ConfigError where no backbone reads frames."""
    if fps is not None and face is not None and not face.startswith("pyfeat"):
        raise ConfigError(
            f"--fps {fps:g} says how often a video is searched for faces, and --face is {face}",
            fix="leave --fps out, or give --face pyfeat",
        )
    return [] if fps is None else [f"face.fps={fps}"]


def share(text: str) -> tuple[int, int]:
    """Return (2, 8) of `2/8`: the second of eight parts."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ConfigError(f"--shard {text} is not I/N with 1 <= I <= N", fix="write I/N, from 1/N to N/N, such as 2/8")
    return int(i), int(n)


def survey(job: Job, store: FeatureStore | None = None, progress: Progress = Progress()) -> Scan:
    """Read and hash the dataset; one that was imported and has no files here gives its texts from the store.

    Raises SourceError with home page, licence and layout of the dataset where no root is known.
    """
    if store is not None and job.dataset.partition("@")[0] in store.datasets:
        stored = store.index(job.dataset)
        if job.root is None or (stored.about.get("origin") and not job.root_given):
            return scan.of_store(_unsplit(job, stored))
    if job.root is None:
        source: Source = catalog.load("dataset", job.dataset).SOURCE
        raise SourceError(
            f"no --root was given for {job.dataset}, and none before: {source.title}, from {source.home} "
            f"(licence: {source.licence})",
            fix=f"{shell_command('msa', 'extract', '--dataset', job.dataset)} --root PATH; "
            f"expected below it:\n{source.layout}",
        )

    def advance(done: int, total: int) -> None:
        if done == 0:
            progress.begin(f"reading {job.dataset}", total, 0)
        progress.advance(1, 0)

    own = [s for s in job.settings if "." not in s.partition("=")[0]]
    try:
        return scan.scan(job.dataset, job.root, settings=own, split_file=job.split_file, seed=job.seed, advance=advance)
    finally:
        progress.end()


def _unsplit(job: Job, index: Index) -> Index:
    if job.split_file or [s for s in job.settings if "." not in s.partition("=")[0]]:
        raise ConfigError(
            f"{index.name} is in the store with its labels and its split, which do not change there",
            fix="give --split and the settings of the dataset where it is imported or extracted from its files",
        )
    return index


def check(job: Job, store: FeatureStore | None = None) -> None:
    """Refuse a misspelt dataset, preset, backbone or setting before the dataset is read, which may take minutes."""
    stored = store.datasets if store is not None else {}
    if job.dataset.partition("@")[0] not in stored:
        catalog.load("dataset", job.dataset)
    named = dict(presets.preset(job.preset)) | dict(job.backbones)
    for modality, name in named.items():
        if name != SKIP:
            presets.spec_of(modality, name, _options(job, modality))
    for setting in job.settings:
        prefix, dot, _ = setting.partition("=")[0].partition(".")
        if dot:
            modality_of(prefix)


def recipes(job: Job, scanned: Scan, store: FeatureStore | None) -> list[Recipe]:
    """Return the recipe of every modality of the dataset. All weights are found before anything is extracted."""
    wanted = chosen(job, scanned)
    if wanted.get(Modality.FACE, "").startswith("openface") and not any(
        decode.is_table(raw[Modality.FACE]) for raw in scanned.raws if Modality.FACE in raw
    ):
        raise ConfigError(
            f"{wanted[Modality.FACE]} reads tables that OpenFace wrote, and {scanned.index.name} has videos for faces",
            fix="say where the tables are: --set openface=FOLDER (in a table of your own: the column face), "
            "or read the videos with --face pyfeat",
        )
    return [Recipe.resolve(m, name, _options(job, m), store) for m, name in wanted.items()]


def chosen(job: Job, scanned: Scan) -> dict[Modality, str]:
    """Return the backbone for each modality of the dataset: the preset's, unless another or none was named."""
    index, present = scanned.index, scanned.modalities
    if strange := sorted({m for m, name in job.backbones.items() if name != SKIP} - set(present)):
        raise ConfigError(
            f"{index.name} has no {strange[0]}", fix=f"leave out --{strange[0]}; it has {', '.join(present)}"
        )
    of_others = {s.partition(".")[0] for s in job.settings if "." in s.partition("=")[0]} - set(present)
    if of_others:
        raise ConfigError(
            f"{index.name} has no {', '.join(sorted(of_others))}, and a setting is about it",
            fix=f"leave that --set out; it has {', '.join(present)}",
        )
    names = {m: job.backbones.get(m) or presets.preset(job.preset).get(m, SKIP) for m in present}
    wanted = {m: name for m, name in names.items() if name != SKIP}
    if not wanted:
        raise ConfigError("every modality is left out", fix="name a backbone for at least one")
    return wanted


def _options(job: Job, modality: Modality) -> list[str]:
    prefix = f"{modality}."
    return [s.removeprefix(prefix) for s in job.settings if s.startswith(prefix)]


def execute(
    job: Job, scanned: Scan, todo: Sequence[Recipe], store: FeatureStore, progress: Progress = Progress()
) -> list[Report]:
    """Extract the dataset into the store: text, images, then sound and faces, together where one file holds both.

    Args:
        job: the arguments.
        scanned: the dataset.
        todo: the recipe of each modality.
        store: where the views are, or will be.
        progress: is told of every batch.
    """
    passes = [
        pipeline.extract(store, scanned, group, job.device, job.limits, progress, job.engine)
        for group in _passes(scanned, todo)
    ]
    return [report for reports in passes for report in reports]


def _passes(scanned: Scan, todo: Sequence[Recipe]) -> list[list[Recipe]]:
    """Group the recipes into passes: those that read the same files share one."""
    filmed = any(Modality.FACE in raw and raw.get(Modality.AUDIO) == raw[Modality.FACE] for raw in scanned.raws)
    of_video = [r for r in todo if filmed and r.spec.modality in (Modality.AUDIO, Modality.FACE)]
    return [[recipe] for recipe in todo if recipe not in of_video] + ([of_video] if of_video else [])


@dataclass(frozen=True)
class Estimate:
    """What extracting one modality would take; `problem` says why it cannot be estimated."""

    modality: Modality
    backbone: str
    weights: str
    licence: str
    samples: int
    dim: int = 0
    rows: float = 0.0  # mean T of the samples tried
    bytes: int = 0
    already: bool = False  # the store has a view of this recipe
    problem: str = ""


def estimate(job: Job, scanned: Scan, store: FeatureStore | None) -> list[Estimate]:
    """Estimate what would be extracted from encoding a few samples; nothing is written."""
    return [_estimate(job, scanned, store, m, name) for m, name in chosen(job, scanned).items()]


def _estimate(job: Job, scanned: Scan, store: FeatureStore | None, modality: Modality, name: str) -> Estimate:
    _, spec = presets.spec_of(modality, name, _options(job, modality))
    rows = np.array([row for row in scanned.rows(modality) if row < (job.limits.samples or np.inf)], np.int64)
    facts: dict[str, Any] = {"weights": spec.weights or "none needed", "licence": spec.licence, "samples": len(rows)}
    try:
        recipe = Recipe.resolve(modality, name, _options(job, modality), store)
    except BackboneError as error:
        return Estimate(modality, name, problem=str(error), **facts)
    tried = rows[np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).astype(int)]
    raws = [scanned.raws[row][modality] for row in tried]
    clips = [attempt(lambda raw=raw: decode.clip(modality, raw, recipe.sampling, job.limits.clip)) for raw in raws]  # type: ignore[misc]
    with recipe.loaded(pick_device(job.device)) as backbone:
        encoded = hidden_states(backbone, tried.tolist(), clips).values()
        dim = backbone.dim
    states = [state for state in encoded if not isinstance(state, Failure)]
    mean = float(np.mean([len(s) for s in states])) if states else 0.0
    size = int(mean * dim * Form.of(dim, spec.dtype).stored.itemsize * len(rows))
    already = store is not None and recipe.view_id in store.manifest.views
    return Estimate(modality, name, dim=dim, rows=mean, bytes=size, already=already, **facts)
