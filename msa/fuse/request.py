"""From the words of a command to an experiment and its folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from msa import remember
from msa.cache.store import FeatureStore
from msa.config import by_modality, modality
from msa.errors import ConfigError
from msa.fuse import experiment
from msa.fuse.experiment import SEEDS, Data, Experiment
from msa.fuse.model import Model
from msa.fuse.run import Run
from msa.fuse.train import Watch

RUNS = Path("runs")


@dataclass(frozen=True)
class Request:
    """`msa fuse train` as it was typed."""

    model: str
    preset: str = "default"
    data: str | None = None
    pairing: str = "random"
    rho: float = 0.5
    pair_seed: int = 42
    modalities: str | None = None
    views: Sequence[str] = ()
    settings: Sequence[str] = ()
    seeds: str = "5"


def train(
    asked: Request, store: Path | None, out: Path | None, resume: Path | None, like: Path | None, watch: Watch
) -> Run:
    """Carry a request out; says what it chose where nothing was said."""
    if again := resume or like:
        _alone(asked, out, resume, like)
        found = Run.open(again)
        wanted = Experiment.from_json(found.record["experiment"])
        opened = experiment.store_of(found, store)
    else:
        opened = FeatureStore.open(remember.store(store))
        wanted = Experiment(
            Model.of(asked.model, asked.preset, asked.settings), _data(asked, opened, watch), _seeds(asked.seeds)
        )
    folder = resume or out or _folder(wanted)
    watch(_said(wanted, opened, folder))
    return experiment.run(wanted, opened, folder, watch)


def _alone(asked: Request, out: Path | None, resume: Path | None, like: Path | None) -> None:
    """Refuse options that a run which is repeated or gone on with would have to ignore."""
    if resume and (like or out):
        raise ConfigError(f"--resume {resume} goes on in that folder", fix="leave out --like and --out")
    plain = Request(asked.model)  # a model is always named: which one was typed cannot be told from the default
    given = [f.name for f in fields(Request) if (getattr(asked, f.name) or None) != (getattr(plain, f.name) or None)]
    if given:
        raise ConfigError(
            f"--{'resume' if resume else 'like'} does as the run did, and {', '.join(given)} would change that",
            fix="leave these options out, or give all of them without it",
        )


def _data(asked: Request, store: FeatureStore, watch: Watch) -> Data:
    views = by_modality(asked.views, "--view")
    modalities = tuple(modality(m) for m in asked.modalities.split(",")) if asked.modalities else ()
    if asked.data is None:
        corpora, why = experiment.choose(store, modalities)
        watch(f"no --data: {why}")
    else:
        corpora = tuple(asked.data.split("+"))
    return Data(corpora, asked.pairing, asked.rho, asked.pair_seed, views, modalities)


def _seeds(text: str) -> tuple[int, ...]:
    """`3`: as many from 42 on; `7,8`: these, each once."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if numbers and all(part.isdecimal() for part in numbers):
        if "," in text:
            return tuple(dict.fromkeys(map(int, numbers)))
        if int(text):
            return tuple(range(SEEDS[0], SEEDS[0] + int(text)))
    raise ConfigError(f"--seeds {text}", fix="give how many (5), or which (7,8,9)")


def _folder(wanted: Experiment) -> Path:
    corpora = "+".join(name.partition("@")[0] for name in wanted.data.corpora)
    stem = f"{wanted.model.name}-{corpora}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, n = RUNS / stem, 1
    while folder.exists():
        folder, n = RUNS / f"{stem}-{n}", n + 1
    return folder


def _said(wanted: Experiment, store: FeatureStore, folder: Path) -> str:
    data = wanted.data
    paired = f", pairing {data.pairing}" if len(data.corpora) > 1 else ""
    corpora = " + ".join(name.partition("@")[0] for name in data.corpora)
    seeds = ", ".join(map(str, wanted.seeds))
    return (
        f"{wanted.model.name} ({wanted.model.preset}) on {corpora}{paired} from {store.path}; seeds {seeds} -> {folder}"
    )
