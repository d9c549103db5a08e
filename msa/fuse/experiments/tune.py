"""Settings sought on the validation split alone, with the same budget for every head; the winner refitted over seeds.

Training is handed a table without the test split, so no trial can see it. Every trial trains one seed with the head's
usual early stopping; one that is worse at an epoch than the median of those before it is given up (optuna's median
pruner). Such trials count, and so do those whose settings cannot be trained; any other fault, such as a damaged store,
ends the search of that head and costs it no trial.

search.json     on what is searched, and from where
search.log      every trial, as optuna keeps them
trials.txt      the same as lines for people

One folder for each head; a search that was interrupted continues there, and finds what it would have found.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.cache.format import layout
from msa.cache.store import FeatureStore
from msa.device import own_device
from msa.errors import ConfigError
from msa.fuse.data.table import Normalisation, Subset, Table
from msa.fuse.experiments.bench import alike
from msa.fuse.experiments.experiment import Experiment, pin
from msa.fuse.experiments.search_space import as_settings, choices, defaults, space
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.sweep import reason, slug
from msa.fuse.experiments.trial_log import REASON, NewLines, cut_to_whole_lines, trial_line, trial_value
from msa.fuse.experiments.workers import Workers, pool
from msa.fuse.files import exists
from msa.fuse.head import FusionHead
from msa.fuse.runs.files import claimed, make_folder, write_json
from msa.fuse.runs.node import Node
from msa.fuse.train.loop import Log, fit
from msa.fuse.train.model import Model
from msa.types import Split

if TYPE_CHECKING:
    import optuna

SEED = 42  # of the trials and of the search
STARTUP = 5  # trials before any is pruned
FIRST_EPOCHS = 3  # of a trial that are never pruned
LOG = "search.log"
TOLD = "trials.txt"
LOOK_S = 1.0  # between two looks for new lines
NO_ROOM = ("out of memory", "can't allocate memory")  # how torch says that a head is too large


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
        """Run the remaining trials; return the best settings, their value, and how many trials there were."""
        store = FeatureStore.open(self.store, self.generation)
        with claimed(Path(self.folder)):
            return search(self, without_test(self.data.load(store)))


@dataclass(frozen=True)
class Found:
    """A head with the best settings, and what a table says of its search: trials, pruned and failed ones among them,
    the best validation value, and the settings that differ from the preset."""

    model: Model
    searched: Mapping[str, Any]


def tune(
    models: Sequence[str],
    preset: str,
    named: Data,
    store: FeatureStore,
    folder: Path,
    trials: int,
    workers: Workers,
    log: Log = lambda line: None,
) -> tuple[dict[str, Found], dict[str, str]]:
    """Return the best settings of each head after `trials` trials each, and name -> reason of those that have none.

    Raises ConfigError where no trial of any came through, and where another process searches for one of them.
    """
    if trials < 1:
        raise ConfigError(f"{trials} trials find nothing", fix="--trials 20")
    winners: dict[str, Found] = {}
    failed: dict[str, str] = {}
    folder = folder.absolute()  # a worker may stand in another one

    def settle(wanted: Search, future: "Future[dict[str, Any]]") -> None:
        try:
            best = future.result()
        except Exception as error:  # what one of them lacks shall not cost the others their search
            failed[wanted.model] = f"not tuned: {reason(error)}"
            return log(f"{wanted.model}: {failed[wanted.model]}")
        winners[wanted.model] = _found(wanted, best)
        return log(f"{wanted.model}: {_summary(best)}")

    pinned = pin(Experiment(Model.of(models[0], preset), named), store).data
    searches = [
        Search(name, preset, pinned, store.address, store.manifest.generation, str(folder / slug(name)), trials)
        for name in models
    ]
    with claimed(folder):
        for wanted in searches:
            with claimed(Path(wanted.folder)):  # a dask worker may outlive its command: no table shall lack that head
                pass
        _all_at_once(searches, workers, log, settle)
    if not winners:
        raise ConfigError("none of the heads could be tuned", fix="see the reasons above")
    return {name: winners[name] for name in models if name in winners}, failed


def _all_at_once(
    searches: Sequence[Search],
    workers: Workers,
    log: Log,
    settle: Callable[[Search, "Future[dict[str, Any]]"], None],
) -> None:
    """Settle each search as it ends; a line for every trial while they last."""
    news = [(wanted.model, NewLines.behind(Path(wanted.folder) / TOLD)) for wanted in searches]
    with pool(replace(workers, jobs=min(workers.here, len(searches)))) as processes:
        futures = {processes.submit(Search.run, wanted): wanted for wanted in searches}
        left = set(futures)
        while left:
            done, left = wait(left, LOOK_S, FIRST_COMPLETED)
            for name, lines in news:
                for line in lines.new():
                    log(f"{name}: {line}")
            for future in done:
                settle(futures[future], future)


def _found(wanted: Search, best: Mapping[str, Any]) -> Found:
    model, start = (_model(wanted.model, wanted.preset, settings) for settings in (best["settings"], ()))
    ours, before = ({**asdict(each.training), **each.settings} for each in (model, start))
    changed = {name: value for name, value in ours.items() if value != before[name]}
    return Found(model, {name: best[name] for name in ("trials", "pruned", "failed", "value")} | {"settings": changed})


def _summary(best: Mapping[str, Any]) -> str:
    counted = f"{best['trials']} trials, {best['pruned']} of them pruned, {best['failed']} failed"
    why = f" ({'; '.join(best['reasons'])})" if best.get("reasons") else ""
    return f"validation {best['value']:.4f} after {counted}{why}: {', '.join(best['settings'])}"


def _model(name: str, preset: str, settings: Sequence[str] = ()) -> Model:
    """Return a head whose epochs are chosen as in the table that the winner goes to."""
    return alike(Model.of(name, preset, settings))


def without_test(data: Table) -> Table:
    """Return the training and validation samples of a table: all that a search may know."""
    return data.take(np.flatnonzero(data.split != layout.SPLITS.index(Split.TEST)))


def search(wanted: Search, data: Table) -> dict[str, Any]:
    """Run trials up to the budget on this data; return the best.

    Raises ConfigError where none can be trained, the folder holds another search, or nothing can be written to it.
    """
    try:
        return _search(wanted, data, Path(wanted.folder))
    except OSError as error:
        raise ConfigError(
            f"the search in {wanted.folder} cannot go on: {error}",
            fix="mend that, or make room on the disk; the same command then goes on with it",
        ) from error


def _search(wanted: Search, data: Table, folder: Path) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials that fail are counted and told below
    make_folder(folder)
    for name in (LOG, TOLD):
        exists(folder / name)  # what is a link or a pipe is refused before anything is appended to it
    start = _model(wanted.model, wanted.preset)
    _same(folder, wanted, start, data)
    cut_to_whole_lines(folder / LOG)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / LOG)))
    state = optuna.trial.TrialState
    study = optuna.create_study(
        storage=storage,
        study_name=f"{wanted.model}:{wanted.preset}",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(STARTUP, FIRST_EPOCHS),
    )
    if not _ended(study) and not study.get_trials(deepcopy=False, states=(state.WAITING,)):
        study.enqueue_trial(defaults(start))  # a search must not end below where it began
    device = own_device()
    train, valid = data.subset(Split.TRAIN), data.subset(Split.VALID)
    while len(finished := _ended(study)) < wanted.trials:
        if len(finished) >= STARTUP and all(trial.state == state.FAIL for trial in finished):
            break
        # a seed for each: one that was interrupted would otherwise draw again what it had drawn before
        study.sampler = optuna.samplers.TPESampler(seed=SEED + len(finished), multivariate=True)
        trial = study.ask()
        try:
            study.tell(trial, _trial(trial, start, train, valid, device))
        except optuna.TrialPruned:
            study.tell(trial, state=state.PRUNED)
        except Exception as error:
            if not _by_its_settings(error):
                raise  # the trial is not told: it is done again
            trial.set_user_attr(REASON, reason(error))
            study.tell(trial, state=state.FAIL)
        with open(folder / TOLD, "a", encoding="utf-8") as file:
            print(trial_line(_ended(study), wanted.trials), file=file)
    finished = finished[: wanted.trials]  # there may be more, of a search that was longer
    if all(trial.state == state.FAIL for trial in finished):
        raise ConfigError(
            f"all {len(finished)} trials of {wanted.model} failed, the last one: {finished[-1].user_attrs[REASON]}",
            fix=f"mend that, and remove {folder}; or train it by itself",
        )
    complete = [trial for trial in finished if trial.state == state.COMPLETE]
    best = min(complete, key=trial_value)
    failed = [trial for trial in finished if trial.state == state.FAIL]
    return {
        "settings": as_settings(best.params),
        "value": best.value,
        "trials": len(finished),
        "pruned": sum(trial.state == state.PRUNED for trial in finished),
        "failed": len(failed),
        "reasons": list(dict.fromkeys(trial.user_attrs[REASON] for trial in failed)),
    }


def _by_its_settings(error: Exception) -> bool:
    """Return whether other settings might not have failed; a damaged store or a bug fails every trial."""
    short = isinstance(error, MemoryError | RuntimeError) and any(words in str(error) for words in NO_ROOM)
    return short or isinstance(error, MemoryError | ConfigError)


def _ended(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Return the trials that count. One that was interrupted or killed does not: it is done again."""
    return [
        t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED") or REASON in t.user_attrs
    ]


def _same(folder: Path, wanted: Search, start: Model, data: Table) -> None:
    """Keep on what and from where is searched; refuse a folder where it was something else."""
    asked = asdict(wanted.data) | start.to_json()
    facts = {  # under one fingerprint a store may come to hold more, or fewer
        "hidden_states": {m: int(column.present.sum()) for m, column in data.columns.items()},
        "samples": {part: len(data.subset(part)) for part in (Split.TRAIN, Split.VALID)},
        "choices": choices(start),
    }
    ours = json.loads(json.dumps(asked | facts))
    record = folder / "search.json"
    try:
        theirs = Node.read(record).value
    except FileNotFoundError:
        theirs = ours
    theirs = {name: ours[name] for name in facts} | theirs  # an older search does not say
    if other := [f"{key} {theirs.get(key)}, now {ours[key]}" for key in ours if theirs.get(key) != ours[key]]:
        raise ConfigError(
            f"{folder} holds a search on other data or from other settings: {'; '.join(other)}",
            fix="name another folder with --out",
        )
    write_json(record, ours)


def _trial(trial: "optuna.Trial", start: Model, train: Subset, valid: Subset, device: str) -> float:
    """Return the lowest validation criterion of one training."""
    import optuna

    settings = as_settings({name: suggest(trial) for name, suggest in space(start).items()})
    model = _model(start.name, start.preset, settings)
    data = train.table
    by = model.training.criterion(data.task)
    steps = count(1)  # not the epoch: a collapsed training begins again, and has taken the time of both

    def judge(epoch: int, head: FusionHead, losses: Mapping[str, float]) -> None:
        trial.report(losses[by], next(steps))
        if trial.should_prune():
            raise optuna.TrialPruned

    norm = Normalisation.fit(train, model.training.normalise, model.training.stats)
    make = lambda: model.build(data.dims, data.task)  # noqa: E731
    result = fit(make, train, valid, norm, model.training, SEED, device, after_epoch=judge)
    return result.history[result.best_epoch][by]
