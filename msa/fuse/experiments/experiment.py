"""One experiment: which data, which head, which seeds; trained, then tested once, with baselines beside it.

The test split is touched in `_test` alone, after every seed of every head has been trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msa.cache.maintain import history
from msa.cache.storage.site import is_url, shown
from msa.cache.store import FeatureStore
from msa.device import own_device
from msa.errors import ConfigError
from msa.fuse import files, metrics
from msa.fuse.data import memory, pairing
from msa.fuse.data.table import Normalisation, Table
from msa.fuse.experiments.selection import Data
from msa.fuse.runs.files import claimed, subfolder
from msa.fuse.runs.record import MAX_SEED
from msa.fuse.runs.run import CHECKPOINT, FIT, Run, drawn_only
from msa.fuse.runs.summary import SeedResult
from msa.fuse.train.evaluation import predict
from msa.fuse.train.loop import Log, fit
from msa.fuse.train.model import Model
from msa.fuse.train.result import TrainResult
from msa.types import Split

SEEDS = (42, 43, 44, 45, 46)  # the CM-STA paper's 42, and four more


@dataclass(frozen=True)
class Experiment:
    """All that is needed to do it again."""

    model: Model
    data: Data
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self) -> None:
        if wrong := [seed for seed in self.seeds if not 0 <= seed < MAX_SEED]:
            raise ConfigError(f"there is no seed {wrong[0]}", fix=f"seeds are whole numbers from 0 to {MAX_SEED - 1}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` gives the same experiment back."""
        return {"model": self.model.to_json(), "data": asdict(self.data), "seeds": list(self.seeds)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Experiment":
        """Return the experiment that `to_json` wrote."""
        data: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain["data"].items()}
        return cls(Model.from_json(plain["model"]), Data(**data), tuple(plain["seeds"]))


def pin(experiment: Experiment, store: FeatureStore) -> Experiment:
    """Return the same experiment with every dataset and view named by fingerprint, so that newer ones are not taken."""
    data = experiment.data
    corpora = tuple(f"{name.partition('@')[0]}@{store.dataset(name)}" for name in data.corpora)
    views = {str(m): column.view.id for m, column in data.joined(store).columns.items()}
    return replace(experiment, data=replace(data, corpora=corpora, views=views))


def store_of(run: Run, store: str | Path | None = None) -> FeatureStore:
    """Return the store a run was trained from, at the generation of then; or another store.

    Raises ConfigError where that is an address and `store` does not name it: runs are passed on, and no server is
    called that only a run names.
    """
    then = run.facts.store
    if store is None and is_url(then):
        raise ConfigError(
            f"{run.folder} names {shown(then)} as its store, and no server is called because a run names it",
            fix=f"if you trust that server: --store {shown(then)}; else name a store you have",
        )
    now = FeatureStore.open(store or then)
    if now.address != then:
        return now
    data = Experiment.from_json(run.record["experiment"]).data.load(now)  # says so where something was removed since
    pinned = FeatureStore.open(then, run.facts.generation)
    if now.blocks is None and history.missing_files(pinned.path, pinned.manifest):  # compacted since, and swept
        states = {m: int(column.present.sum()) for m, column in data.columns.items()}
        return now if states == run.facts.hidden_states else pinned
    return pinned


def run(
    experiment: Experiment,
    store: FeatureStore,
    folder: Path,
    log: Log = lambda line: None,
    baselines: bool = True,
) -> Run:
    """Train, test once, write the run's folder. A folder that was interrupted is taken up where it stopped.

    Without `baselines` no probe is trained beside it: for a caller that shows the run next to probes of its own.
    """
    _, experiment, data = begin(experiment, store, folder)
    with claimed(folder):
        result = Run.open(folder)  # read again, now that the folder is claimed
        if result.metrics:
            log(f"{folder} is finished already")
            return result
        log(_told(data))
        main = _train(experiment.model, data, experiment.seeds, own_device(), subfolder(folder, "seeds"), log)
        others = _baselines(main) if baselines else {}
        beside = {name: _train(model, table, experiment.seeds, own_device()) for name, (model, table) in others.items()}
        _test(result, main, beside, own_device())
        return Run.open(folder)


def train_seed(experiment: Experiment, store: FeatureStore, folder: Path, seed: int) -> None:
    """Train one seed of an experiment and keep what came of it in its folder: `run` finds it there, and tests it."""
    result, experiment, data = begin(experiment, store, folder)
    if not result.metrics:
        _train(experiment.model, data, [seed], own_device(), subfolder(folder, "seeds"))


def begin(experiment: Experiment, store: FeatureStore, folder: Path) -> tuple[Run, Experiment, Table]:
    """Open or make the folder of an experiment; it, the experiment with its views pinned, and its data.

    Raises ConfigError where the model does not fit the data, before anything is written.
    """
    experiment = pin(experiment, store)
    data = experiment.data.load(store)
    _check(experiment.model, data)
    return Run.begin(folder, experiment.to_json(), _facts(store, data)), experiment, data


def _told(data: Table) -> str:
    """Return a line on the views that are used, and how many samples have them."""
    views = ((m, column.view, int(column.present.sum())) for m, column in data.columns.items())
    columns = ", ".join(f"{m} {view.name}@{view.id[:8]} ({count})" for m, view, count in views)
    return f"{data.name}: {len(data)} samples; {columns}"


def _check(model: Model, data: Table) -> None:
    """Refuse before anything is written or trained what could not be finished."""
    for split in Split:
        if not len(data.subset(split)):
            raise ConfigError(
                f"{data.name} has no {split} sample",
                fix="name the samples of each part with --split FILE where the corpus is extracted or imported",
            )
    model.shapes(data.dims, data.task, memory.free(own_device()) / 4)  # fp32


@dataclass(frozen=True)
class _Trained:
    """A model, the data it was trained on, and what came of every seed; not tested yet."""

    model: Model
    data: Table
    norm: Normalisation
    fits: Mapping[int, TrainResult]

    def tested(self, device: str) -> list[SeedResult]:
        """Return every seed's outputs on the test split."""
        head = self.model.build(self.data.dims, self.data.task).to(device)
        test, results = self.data.subset(Split.TEST), []
        for seed, result in self.fits.items():
            head.restore(result.state, f"seed {seed}")
            output = predict(head, test, self.norm, self.model.training.batch, device)
            results.append(SeedResult(seed, result, output))
        return results


def _train(
    model: Model,
    data: Table,
    seeds: Sequence[int],
    device: str,
    folder: Path | None = None,
    log: Log = lambda line: None,
) -> _Trained:
    sealed, dims, task = data.sealed(), data.dims, data.task  # nothing below can reach a test label
    train, valid = sealed.subset(Split.TRAIN), sealed.subset(Split.VALID)
    norm = Normalisation.fit(train, model.training.normalise, model.training.stats)
    make = lambda: model.build(dims, task)  # noqa: E731
    fits = {}
    for seed in seeds:
        kept = subfolder(folder, str(seed)) / FIT if folder else None
        if kept is not None and files.exists(kept):
            fits[seed] = _kept(kept)
            log(f"seed {seed}: trained already")
            continue
        checkpoint = kept.with_name(CHECKPOINT) if kept else None
        fits[seed] = fit(make, train, valid, norm, model.training, seed, device, checkpoint, log)
        if kept is not None:
            _keep(fits[seed], kept)
    return _Trained(model, data, norm, fits)


def _keep(fit: TrainResult, path: Path) -> None:
    files.save(path, vars(fit))
    path.with_name(CHECKPOINT).unlink(missing_ok=True)


def _kept(path: Path) -> TrainResult:
    try:
        return TrainResult.decode(files.load(path))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        files.damaged(path, error)


def _baselines(main: _Trained) -> dict[str, tuple[Model, Table]]:
    """Return the baselines of a result: a linear probe, and where pairing leaks, a probe of what was drawn, alone."""
    probe, data = Model.of("probe"), main.data
    rows = {} if main.model.name == "probe" else {"probe": (probe, data)}
    if pairing.is_leaky(data.protocol) and data.drawn:
        rows[drawn_only(data.drawn)] = (probe, data.only(data.drawn))
    return rows


def _test(result: Run, main: _Trained, beside: Mapping[str, _Trained], device: str) -> None:
    data, test = main.data, main.data.subset(Split.TEST)
    others = {name: other.tested(device) for name, other in beside.items()}
    constant = metrics.majority(data.task, data.subset(Split.TRAIN).y, len(test))
    head = main.model.build(data.dims, data.task)
    result.finish(data.task, test, main.tested(device), others, constant, main.norm, head)


def _facts(store: FeatureStore, data: Table) -> dict[str, Any]:
    """Return the member `data` of run.json: enough to find the data again and to repeat its extraction."""
    split = {s: len(data.subset(s)) for s in Split}
    several = data.task.multilabel
    counts = [int(((data.y[:, n] > 0) if several else (data.y == n)).sum()) for n in range(len(data.task.classes))]
    return {
        "task": asdict(data.task),
        "protocol": data.protocol,
        "drawn": list(data.drawn),
        "store": store.address,
        "generation": store.manifest.generation,
        "samples": split,
        "hidden_states": {m: int(c.present.sum()) for m, c in data.columns.items()},
        "classes": dict(zip(data.task.classes, counts, strict=True)),
        "dims": data.dims,
        "views": {m: {"id": c.view.id, "attributes": dict(c.view.attributes)} for m, c in data.columns.items()},
    }
