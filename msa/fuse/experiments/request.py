"""Turn the options of a command into an experiment and its folder, and run it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from msa.cache.store import FeatureStore
from msa.config import by_modality, modality
from msa.errors import ConfigError
from msa.fuse.experiments import bench as benching
from msa.fuse.experiments import experiment, papers, selection
from msa.fuse.experiments import reproduce as reproducing
from msa.fuse.experiments import tune as tuning
from msa.fuse.experiments.experiment import SEEDS, Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.workers import Workers
from msa.fuse.runs.run import Run
from msa.fuse.train.loop import Log
from msa.fuse.train.model import Model
from msa.names import folder_name

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
    asked: Request,
    store: str | Path | None,
    out: Path | None,
    resume: Path | None,
    like: Path | None,
    log: Log,
    begins: Callable[[Path], None] = lambda folder: None,
) -> Run:
    """Carry a request out, and say what was chosen where the request leaves it open.

    Args:
        asked: What is to be trained, on what.
        store: The store; with `resume` and `like` the run's own where it is None.
        out: The run's folder; None: a new one below runs/.
        resume: A run to continue.
        like: A run to repeat.
        log: Told every line of progress.
        begins: Told the run's folder before anything is written there.
    """
    if again := resume or like:
        _alone(asked, out, resume, like)
        run = Run.open(again)
        wanted = Experiment.from_json(run.record["experiment"])
        wanted = replace(wanted, model=wanted.model.changed(asked.settings))
        opened = experiment.store_of(run, store)
    else:
        assert store is not None  # only a run that is repeated or resumed knows its store
        opened = FeatureStore.open(store)
        wanted = Experiment(
            Model.of(asked.model, asked.preset, asked.settings), _data(asked, opened, log), _seeds(asked.seeds)
        )
    with _folder(resume or out, wanted) as folder:
        begins(folder)
        log(_said(wanted, opened, folder))
        return experiment.run(wanted, opened, folder, log)


def bench(
    asked: Request, models: Sequence[str], store: str | Path, out: Path | None, workers: Workers, log: Log
) -> tuple[dict[str, Any], Path]:
    """Carry out `msa fuse bench`: the table as plain values, and its folder."""
    opened = FeatureStore.open(store)
    data = _data(asked, opened, log)
    folder = out or RUNS / f"bench-{_named(data)}"
    log(f"{', '.join(models)} on {_corpora(data)} from {opened.where} -> {folder}")
    candidates = benching.heads(models, asked.preset)
    return benching.bench(candidates, data, _seeds(asked.seeds), opened, folder, workers, log), folder


def tune(
    asked: Request,
    models: Sequence[str],
    trials: int,
    store: str | Path,
    out: Path | None,
    workers: Workers,
    log: Log,
) -> tuple[dict[str, Any], Path]:
    """Carry out `msa fuse tune`: search, then compare the winners over all seeds; the table and its folder."""
    opened = FeatureStore.open(store)
    data = _data(asked, opened, log)
    folder = out or RUNS / f"tune-{_named(data)}"
    names = list(benching.heads(models, asked.preset))
    log(f"{trials} trials each of {', '.join(names)} on {_corpora(data)} from {opened.where} -> {folder}")
    tuned, failed = tuning.tune(names, asked.preset, data, opened, folder / "searches", trials, workers, log)
    winners = {name: benching.Candidate(winner.model) for name, winner in tuned.items()}
    searched = {name: winner.searched for name, winner in tuned.items()}
    table = folder / f"{trials}-trials"  # more of them may find other settings, which are another experiment
    return benching.bench(winners, data, _seeds(asked.seeds), opened, table, workers, log, failed, searched), table


def reproduce(
    asked: Request, name: str, store: str | Path, out: Path | None, workers: Workers, log: Log
) -> tuple[dict[str, Any], Path]:
    """Carry out `msa fuse reproduce`: the table and its folder."""
    experiment = papers.named(name)
    opened = FeatureStore.open(store)
    if asked.data is None and (available := reproducing.corpora(experiment, opened)):
        asked = replace(asked, data="+".join(available))
    data = _data(asked, opened, log)
    folder = out or RUNS / folder_name(f"{name.replace(':', '-')}-{_named(data)}")
    log(f"{experiment.title}, on {_corpora(data)} from {opened.where} -> {folder}")
    return reproducing.reproduce(name, data, _seeds(asked.seeds), opened, folder, workers, log), folder


def complexity(name: str, out: Path | None) -> tuple[dict[str, Any], Path]:
    """Carry out `msa fuse reproduce` of a table that needs no data: its title, rows and remark, and its folder."""
    folder = out or RUNS / folder_name(name.replace(":", "-"))
    return reproducing.complexity(papers.named(name), folder), folder


def _named(data: Data) -> str:
    """Return the datasets as part of a folder's name; names in a store are not trusted."""
    return folder_name(_corpora(data))


def _corpora(data: Data) -> str:
    return "+".join(name.partition("@")[0] for name in data.corpora)


def _alone(asked: Request, out: Path | None, resume: Path | None, like: Path | None) -> None:
    """Refuse options that a run which is repeated or resumed would have to ignore; a repeated one takes settings."""
    if resume and (like or out):
        raise ConfigError(f"--resume {resume} goes on in that folder", fix="leave out --like and --out")
    plain = Request(asked.model)  # a model is always named: which one was typed cannot be told from the default
    taken = {"settings"} if like else set()
    given = [
        f.name
        for f in fields(Request)
        if f.name not in taken and (getattr(asked, f.name) or None) != (getattr(plain, f.name) or None)
    ]
    if given:
        raise ConfigError(
            f"--{'resume' if resume else 'like'} does as the run did, and {', '.join(given)} would change that",
            fix="leave these options out, or give all of them without it",
        )


def _data(asked: Request, store: FeatureStore, log: Log) -> Data:
    views = by_modality(asked.views, "--view")
    modalities = tuple(modality(m) for m in asked.modalities.split(",")) if asked.modalities else ()
    if asked.data is None:
        corpora, why = selection.choose(store, modalities)
        log(f"no --data: {why}")
    else:
        corpora = tuple(asked.data.split("+"))
    return Data(corpora, asked.pairing, asked.rho, asked.pair_seed, views, modalities)


def _seeds(text: str) -> tuple[int, ...]:
    """Return seeds: `3` means as many from 42 on, `7,8` means these, each once."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if numbers and all(part.isdecimal() for part in numbers):
        if "," in text:
            return tuple(dict.fromkeys(map(int, numbers)))
        if int(text):
            return tuple(range(SEEDS[0], SEEDS[0] + int(text)))
    raise ConfigError(f"--seeds {text}", fix="give how many (5), or which (7,8,9)")


@contextmanager
def _folder(named: Path | None, wanted: Experiment) -> Iterator[Path]:
    """Give the folder a run was told to lie in, or one below `runs/` that no other run has, not even of this second."""
    folder = named or _made(f"{wanted.model.name}-{_named(wanted.data)}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        yield folder
    finally:
        if named is None:
            with suppress(OSError):
                folder.rmdir()  # refused before anything was written


def _made(stem: str) -> Path:
    """Make a folder below `runs/`. Raises ConfigError where nothing can be written."""
    try:
        RUNS.mkdir(exist_ok=True)
        for n in count():
            folder = RUNS / (f"{stem}-{n}" if n else stem)
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise ConfigError(
            f"no run can be written to {RUNS.absolute()}: {error.strerror}", fix="name another folder with --out"
        ) from error
    raise AssertionError


def _said(wanted: Experiment, store: FeatureStore, folder: Path) -> str:
    data = wanted.data
    paired = f", pairing {data.pairing}" if len(data.corpora) > 1 else ""
    corpora = _corpora(data).replace("+", " + ")
    seeds = ", ".join(map(str, wanted.seeds))
    head = f"{wanted.model.name} ({wanted.model.preset})"
    return f"{head} on {corpora}{paired} from {store.where}; seeds {seeds} -> {folder}"
