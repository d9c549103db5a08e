"""Settings sought on the validation part alone, with the same budget for every head; the winner refitted over seeds.

Training is handed a table without the test part, so no trial can see it. Every trial trains one seed with the head's
usual early stopping; one that is worse at an epoch than the median of those before it is given up (optuna's median
pruner). The search of each head is kept in its folder (`search.log`), and an interrupted one goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from msa.cache import layout
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, MsaError
from msa.fuse.data import Normalisation, Part, Table
from msa.fuse.experiment import Data
from msa.fuse.head import FusionHead
from msa.fuse.model import Model
from msa.fuse.race import Workers, pool, slug
from msa.fuse.train import Watch, fit
from msa.types import Split

if TYPE_CHECKING:
    import optuna

SEED = 42  # of the trials and of the search
STARTUP = 5  # trials before any is pruned
FIRST_EPOCHS = 3  # of a trial that are never pruned


@dataclass(frozen=True)
class Search:
    """One head's search, as plain values: it travels to another process."""

    model: str
    preset: str
    data: Data
    store: str
    generation: int
    folder: str
    trials: int

    def run(self) -> dict[str, Any]:
        """Do the trials that are still to be done; the best settings, its value, and how many trials there were."""
        store = FeatureStore.open(self.store, self.generation)
        return search(self, without_test(self.data.load(store)))


def tune(
    models: Sequence[str],
    preset: str,
    named: Data,
    store: FeatureStore,
    folder: Path,
    trials: int,
    workers: Workers,
    watch: Watch = lambda line: None,
) -> dict[str, Model]:
    """The best settings of each head by `trials` trials each. Raises ConfigError where no trial of any came through."""
    if trials < 1:
        raise ConfigError(f"{trials} trials find nothing", fix="--trials 20")
    found: dict[str, Model] = {}
    searches = [
        Search(name, preset, named, store.address, store.manifest["generation"],
               str(folder / slug(name)), trials)
        for name in models
    ]  # fmt: skip
    with pool(workers) as processes:
        futures = {processes.submit(Search.run, one): one.model for one in searches}
        for future in as_completed(futures):
            name = futures[future]
            try:
                best = future.result()
            except MsaError as error:
                watch(f"{name}: cannot be tuned: {error.what}")
                continue
            found[name] = Model.of(name, preset, best["settings"])
            told = ", ".join(best["settings"])
            trials_told = f"{best['trials']} trials, {best['pruned']} of them pruned"
            watch(f"{name}: validation {best['value']:.4f} after {trials_told}: {told}")
    if not found:
        raise ConfigError("none of the heads could be tuned", fix="see the reasons above")
    return {name: found[name] for name in models if name in found}


def without_test(data: Table) -> Table:
    """The training and validation samples of a table: all that a search may know."""
    return data.take(np.flatnonzero(data.split != layout.SPLITS.index(Split.TEST)))


def search(wanted: Search, data: Table) -> dict[str, Any]:
    """Trials up to the budget on this data; the best of them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(wanted.folder)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "search.log")))
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    study = optuna.create_study(
        storage=storage,
        study_name=f"{wanted.model}:{wanted.preset}",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=SEED, multivariate=True),
        pruner=optuna.pruners.MedianPruner(STARTUP, FIRST_EPOCHS),
    )
    start = Model.of(wanted.model, wanted.preset)
    if not study.trials:
        study.enqueue_trial(_defaults(start))  # a search must not end below where it began
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, valid = data.part(Split.TRAIN), data.part(Split.VALID)
    while len(study.get_trials(deepcopy=False, states=done)) < wanted.trials:
        study.optimize(lambda trial: _trial(trial, start, train, valid, device), n_trials=1, catch=(MsaError,))
        if (
            all(trial.state == optuna.trial.TrialState.FAIL for trial in study.trials[-STARTUP:])
            and len(study.trials) >= STARTUP
        ):
            raise ConfigError(
                f"{STARTUP} trials of {wanted.model} failed one after the other", fix="train it by itself to see why"
            )
    finished = study.get_trials(deepcopy=False, states=done)
    return {
        "settings": _settings(study.best_trial.params),
        "value": study.best_value,
        "trials": len(finished),
        "pruned": sum(trial.state == optuna.trial.TrialState.PRUNED for trial in finished),
    }


def space(model: Model) -> dict[str, Callable[["optuna.Trial"], Any]]:
    """What is searched: rate, decay and batch around the preset's, every dropout, and what the head's file names in
    SEARCH, a setting -> its choices."""
    own = model.training
    found: dict[str, Callable[[optuna.Trial], Any]] = {
        "lr": lambda trial: trial.suggest_float("lr", own.lr / 10, own.lr * 10, log=True),
        "weight_decay": lambda trial: trial.suggest_float("weight_decay", 0.0, max(0.01, 3 * own.weight_decay)),
        "batch": lambda trial: trial.suggest_categorical("batch", sorted({16, 32, 64, own.batch})),
    }
    for field in fields(model.module.Config):
        if "dropout" in field.name and isinstance(model.settings[field.name], float):
            found[field.name] = partial(_dropout, name=field.name)
    choices_of: Mapping[str, Sequence[Any]] = getattr(model.module, "SEARCH", {})
    for name, choices in choices_of.items():
        found[name] = partial(_choice, name=name, choices=list(choices))
    return found


def _dropout(trial: "optuna.Trial", name: str) -> float:
    return trial.suggest_float(name, 0.0, 0.6)


def _choice(trial: "optuna.Trial", name: str, choices: Sequence[Any]) -> Any:
    return trial.suggest_categorical(name, choices)


def _trial(trial: "optuna.Trial", start: Model, train: Part, valid: Part, device: str) -> float:
    """The lowest validation criterion of one training."""
    import optuna

    settings = _settings({name: suggest(trial) for name, suggest in space(start).items()})
    model = Model.of(start.name, start.preset, settings)
    data = train.table
    by = model.training.criterion(data.task)

    def judge(epoch: int, head: FusionHead, losses: Mapping[str, float]) -> None:
        trial.report(losses[by], epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    norm = Normalisation.fit(train, model.training.normalise)
    make = lambda: model.build(data.dims, data.task)  # noqa: E731
    found = fit(make, train, valid, norm, model.training, SEED, device, after_epoch=judge)
    return min(losses[by] for losses in found.history)


def _defaults(model: Model) -> dict[str, Any]:
    """The preset as a point of the space."""
    values = {**asdict(model.training), **model.settings}
    return {name: values[name] for name in space(model)}


def _settings(params: Mapping[str, Any]) -> list[str]:
    """Parameters as `--set` takes them."""
    return [f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()]
