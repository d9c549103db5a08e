"""Settings sought on the validation part alone, with the same budget for every head; the winner refitted over seeds.

Training is handed a table without the test part, so no trial can see it. Every trial trains one seed with the head's
usual early stopping; one that is worse at an epoch than the median of those before it is given up (optuna's median
pruner). Such trials count, and so do those that cannot be trained. The search of each head is kept in its folder
(`search.log`, and in `search.json` on what); one that was interrupted goes on, and finds what it would have found.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from msa.cache import layout
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, MsaError
from msa.fuse.data import Normalisation, Part, Table
from msa.fuse.experiment import Data, Experiment, pin
from msa.fuse.head import FusionHead
from msa.fuse.model import Model
from msa.fuse.race import Workers, pool, reason, slug
from msa.fuse.run import claimed
from msa.fuse.train import Watch, fit
from msa.types import Split

if TYPE_CHECKING:
    import optuna

SEED = 42  # of the trials and of the search
STARTUP = 5  # trials before any is pruned
FIRST_EPOCHS = 3  # of a trial that are never pruned
REASON = "reason"  # of a trial that cannot be trained


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
        with claimed(Path(self.folder)):
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
) -> tuple[dict[str, Model], dict[str, str]]:
    """The best settings of each head by `trials` trials each, and name -> reason of those that have none.

    Raises ConfigError where no trial of any came through.
    """
    if trials < 1:
        raise ConfigError(f"{trials} trials find nothing", fix="--trials 20")
    found: dict[str, Model] = {}
    failed: dict[str, str] = {}
    folder = folder.absolute()  # a worker may stand in another one
    pinned = pin(Experiment(Model.of(models[0], preset), named), store).data
    searches = [
        Search(name, preset, pinned, store.address, store.manifest["generation"], str(folder / slug(name)), trials)
        for name in models
    ]
    with pool(replace(workers, jobs=min(workers.here, len(searches)))) as processes:
        futures = {processes.submit(Search.run, one): one.model for one in searches}
        for future in as_completed(futures):
            name = futures[future]
            try:
                best = future.result()
            except Exception as error:  # what one of them lacks shall not cost the others their search
                failed[name] = f"not tuned: {reason(error)}"
                watch(f"{name}: {failed[name]}")
                continue
            found[name] = Model.of(name, preset, best["settings"])
            told = ", ".join(best["settings"])
            trials_told = f"{best['trials']} trials, {best['pruned']} of them pruned, {best['failed']} failed"
            watch(f"{name}: validation {best['value']:.4f} after {trials_told}: {told}")
    if not found:
        raise ConfigError("none of the heads could be tuned", fix="see the reasons above")
    return {name: found[name] for name in models if name in found}, failed


def without_test(data: Table) -> Table:
    """The training and validation samples of a table: all that a search may know."""
    return data.take(np.flatnonzero(data.split != layout.SPLITS.index(Split.TEST)))


def search(wanted: Search, data: Table) -> dict[str, Any]:
    """Trials up to the budget on this data; the best of them. Raises ConfigError where none can be trained, and where
    the folder holds a search on other data or from other settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials that fail are counted and told below
    folder = Path(wanted.folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = Model.of(wanted.model, wanted.preset)
    _same(folder, wanted, start)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "search.log")))
    state = optuna.trial.TrialState
    study = optuna.create_study(
        storage=storage,
        study_name=f"{wanted.model}:{wanted.preset}",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(STARTUP, FIRST_EPOCHS),
    )
    if not _ended(study) and not study.get_trials(deepcopy=False, states=(state.WAITING,)):
        study.enqueue_trial(_defaults(start))  # a search must not end below where it began
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, valid = data.part(Split.TRAIN), data.part(Split.VALID)

    def one(trial: "optuna.Trial") -> float:
        try:
            return _trial(trial, start, train, valid, device)
        except MsaError as error:
            trial.set_user_attr(REASON, reason(error))
            raise

    while len(finished := _ended(study)) < wanted.trials:
        if len(finished) >= STARTUP and all(trial.state == state.FAIL for trial in finished):
            break
        # a seed for each: one that was interrupted would otherwise draw again what it had drawn before
        study.sampler = optuna.samplers.TPESampler(seed=SEED + len(finished), multivariate=True)
        study.optimize(one, n_trials=1, catch=(MsaError,))
    finished = finished[: wanted.trials]  # there may be more, of a search that was longer
    if all(trial.state == state.FAIL for trial in finished):
        raise ConfigError(
            f"all {len(finished)} trials of {wanted.model} failed, the last one: {finished[-1].user_attrs[REASON]}",
            fix=f"mend that, and remove {folder}; or train it by itself",
        )
    complete = [trial for trial in finished if trial.state == state.COMPLETE]
    best = min(complete, key=lambda trial: float(trial.value or 0))
    return {
        "settings": _settings(best.params),
        "value": best.value,
        "trials": len(finished),
        "pruned": sum(trial.state == state.PRUNED for trial in finished),
        "failed": sum(trial.state == state.FAIL for trial in finished),
    }


def _ended(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The trials that count. One that was interrupted or killed does not: it is done again."""
    return [
        t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED") or REASON in t.user_attrs
    ]


def _same(folder: Path, wanted: Search, start: Model) -> None:
    """Keep on what and from where is searched; refuse a folder where it was something else."""
    mine = json.loads(json.dumps(asdict(wanted.data) | start.to_json()))
    record = folder / "search.json"
    theirs = json.loads(record.read_text("utf-8")) if record.exists() else mine
    if other := [f"{key} {theirs.get(key)}, now {mine[key]}" for key in mine if theirs.get(key) != mine[key]]:
        raise ConfigError(
            f"{folder} holds a search on other data or from other settings: {'; '.join(other)}",
            fix="name another folder with --out",
        )
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(mine, indent=1), "utf-8")
    temporary.replace(record)


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
    steps = count(1)  # not the epoch: a collapsed training begins again, and has taken the time of both

    def judge(epoch: int, head: FusionHead, losses: Mapping[str, float]) -> None:
        trial.report(losses[by], next(steps))
        if trial.should_prune():
            raise optuna.TrialPruned

    norm = Normalisation.fit(train, model.training.normalise)
    make = lambda: model.build(data.dims, data.task)  # noqa: E731
    found = fit(make, train, valid, norm, model.training, SEED, device, after_epoch=judge)
    return found.history[found.best_epoch][by]


def _defaults(model: Model) -> dict[str, Any]:
    """The preset as a point of the space."""
    values = {**asdict(model.training), **model.settings}
    return {name: values[name] for name in space(model)}


def _settings(params: Mapping[str, Any]) -> list[str]:
    """Parameters as `--set` takes them."""
    return [f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()]
