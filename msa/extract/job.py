"""One `msa extract`: a corpus, the backbones for its modalities, a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa import catalog
from msa.cache.index import Index
from msa.cache.segment import Form
from msa.cache.store import FeatureStore
from msa.config import modality as modality_of
from msa.errors import BackboneError, ConfigError, SourceError
from msa.extract import media, pipeline, presets, scan
from msa.extract.forward import Failure, attempt, hidden_states
from msa.extract.pipeline import Limits, Progress, Report, Unwatched
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan
from msa.types import Modality, Source, Split

SKIP = "none"  # as a backbone's name: leave this modality out
SAMPLED = 8  # clips a dry run encodes to learn how large the hidden states are


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    dataset: str
    root: Path | None
    preset: str = "paper"
    backbones: Mapping[Modality, str] = field(default_factory=dict)  # where they differ from the preset
    settings: Sequence[str] = ()  # name=value of the dataset; modality.name=value of a backbone
    split_file: Path | None = None
    seed: int = 42
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)


def survey(job: Job, progress: Progress = Unwatched()) -> Scan:
    """Read and hash the corpus. Raises SourceError with its home page, licence and layout where it is not found."""
    if job.root is None:
        source: Source = catalog.load("dataset", job.dataset).SOURCE
        raise SourceError(
            f"msa does not know where {source.title} lies (home {source.home}, licence: {source.licence})",
            fix=f"msa extract --dataset {job.dataset} --root PATH; expected below it:\n{source.layout}",
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


def check(job: Job) -> None:
    """Refuse a misspelt preset, backbone or setting before a corpus is read, which may take minutes."""
    named = dict(presets.preset(job.preset)) | dict(job.backbones)
    for modality, name in named.items():
        if name != SKIP:
            presets.spec_of(modality, name, _options(job, modality))
    for setting in job.settings:
        prefix, dot, _ = setting.partition("=")[0].partition(".")
        if dot:
            modality_of(prefix)


def recipes(job: Job, index: Index, store: FeatureStore | None) -> list[Recipe]:
    """The recipe of every modality the corpus has. All weights are found before anything is extracted."""
    wanted = chosen(job, index)
    return [Recipe.resolve(m, name, _options(job, m), store) for m, name in wanted.items()]


def chosen(job: Job, index: Index) -> dict[Modality, str]:
    """The backbone for each modality the corpus has: the preset's, unless another or none was named."""
    there = [m for m in Modality if index.has(m).any()]
    if strange := sorted(set(job.backbones) - set(there)):
        raise ConfigError(
            f"{index.name} has no {strange[0]}", fix=f"leave out --{strange[0]}; it has {', '.join(there)}"
        )
    of_others = {s.partition(".")[0] for s in job.settings if "." in s.partition("=")[0]} - set(there)
    if of_others:
        raise ConfigError(
            f"{index.name} has no {', '.join(sorted(of_others))}, and a setting is about it",
            fix=f"leave that --set out; it has {', '.join(there)}",
        )
    names = {m: job.backbones.get(m) or presets.preset(job.preset).get(m, SKIP) for m in there}
    wanted = {m: name for m, name in names.items() if name != SKIP}
    if not wanted:
        raise ConfigError("every modality is left out", fix="name a backbone for at least one")
    return wanted


def _options(job: Job, modality: Modality) -> list[str]:
    prefix = f"{modality}."
    return [s.removeprefix(prefix) for s in job.settings if s.startswith(prefix)]


def execute(
    job: Job, found: Scan, todo: Sequence[Recipe], store: FeatureStore, progress: Progress = Unwatched()
) -> list[Report]:
    """Extract the corpus into the store, one recipe after the other."""
    device = pick_device(job.device)
    return [pipeline.extract(store, found, recipe, device, job.limits, progress) for recipe in todo]


def pick_device(asked: str) -> str:
    """`auto` is the GPU where there is one. Raises ConfigError where a GPU is asked for in vain."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {asked}: torch {torch.__version__} sees no GPU here", fix="use --device auto or cpu"
        )
    return asked


@dataclass(frozen=True)
class Estimate:
    """What extracting one modality would take; `problem` says why it cannot be told."""

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


def estimate(job: Job, found: Scan, store: FeatureStore | None) -> list[Estimate]:
    """What would be extracted, from encoding a few samples; nothing is written."""
    return [_estimate(job, found, store, m, name) for m, name in chosen(job, found.index).items()]


def _estimate(job: Job, found: Scan, store: FeatureStore | None, modality: Modality, name: str) -> Estimate:
    _, spec = presets.spec_of(modality, name, _options(job, modality))
    rows = np.flatnonzero(found.index.has(modality)[: job.limits.samples])
    facts: dict[str, Any] = {"weights": spec.weights or "none needed", "licence": spec.licence, "samples": len(rows)}
    try:
        recipe = Recipe.resolve(modality, name, _options(job, modality), store)
    except BackboneError as error:
        return Estimate(modality, name, problem=str(error), **facts)
    backbone = recipe.load(pick_device(job.device))
    tried = rows[np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).astype(int)]
    clips = [attempt(lambda row=row: media.clip(modality, found.raws[row][modality])) for row in tried]  # type: ignore[misc]
    encoded = hidden_states(backbone, tried.tolist(), clips).values()
    states = [state for state in encoded if not isinstance(state, Failure)]
    mean = float(np.mean([len(s) for s in states])) if states else 0.0
    size = int(mean * backbone.dim * Form.of(backbone.dim, spec.dtype).stored.itemsize * len(rows))
    already = store is not None and recipe.view_id in store.manifest["views"]
    return Estimate(modality, name, dim=backbone.dim, rows=mean, bytes=size, already=already, **facts)


def counts(index: Index) -> dict[str, dict[str, int]]:
    """Split -> class -> how many samples, with the unlabelled named."""
    table: dict[str, dict[str, int]] = {}
    for split in Split:
        y = index.y[index.rows(split)]
        if index.task.classes:
            table[split] = {name: int((y == number).sum()) for number, name in enumerate(index.task.classes)}
        else:
            table[split] = {"labelled": int(np.isfinite(y).sum())}
        table[split]["unlabelled"] = int(np.isnan(y).sum())
    return table
