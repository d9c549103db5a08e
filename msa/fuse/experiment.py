"""One experiment: which data, which head, which seeds; trained, then tested once, with yardsticks beside it.

The test part is touched in `_test` alone, after every seed of every head has been trained.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError
from msa.fuse import metrics, pairing
from msa.fuse.data import Normalisation, Table, table
from msa.fuse.model import Model
from msa.fuse.run import AUDIO_ONLY, Run, SeedResult
from msa.fuse.train import Fit, Watch, fit, predict
from msa.types import Modality, Split

SEEDS = (42, 43, 44, 45, 46)  # the CM-STA paper's 42, and four more


@dataclass(frozen=True)
class Data:
    """Which hidden states of which corpora, and how corpora are paired."""

    corpora: tuple[str, ...]  # names, or name@fingerprint
    pairing: str = "random"
    rho: float = 0.5  # of noisy_match
    pair_seed: int = 42
    views: Mapping[str, str] = field(default_factory=dict)  # modality -> backbone or view id; else the newest
    modalities: tuple[str, ...] = ()  # none: all there are

    def load(self, store: FeatureStore) -> Table:
        """Join labels, hidden states and corpora into one table."""
        joined: Table | None = None
        for name in self.corpora:
            one = table(store, name, self._wanted(store, name))
            joined = one if joined is None else pairing.pair(joined, one, self.pairing, self.pair_seed, self.rho)
        assert joined is not None
        return joined.only([Modality(m) for m in self.modalities]) if self.modalities else joined

    def _wanted(self, store: FeatureStore, name: str) -> dict[Modality, str | None]:
        there = {view.modality for view in store.views(name)}
        wanted = [m for m in Modality if m in there and (not self.modalities or m in self.modalities)]
        if not wanted:
            asked = f" of {', '.join(self.modalities)}" if self.modalities else ""
            raise StoreError(
                f"{store.path} holds no hidden states{asked} for {name}", fix=f"msa extract --dataset {name}"
            )
        return {m: self.views.get(m) for m in wanted}


def choose(store: FeatureStore) -> tuple[Data, str]:
    """Whatever is in the store, when nobody said: the widest corpus, and one that brings what it lacks; and why."""
    with_states = [name for name in store.datasets if store.views(name)]
    if not with_states:
        raise StoreError(f"{store.path} holds no hidden states yet", fix="msa extract --dataset NAME --root PATH")
    has = {name: {view.modality for view in store.views(name)} for name in with_states}
    size = {name: max(view.samples for view in store.views(name)) for name in with_states}
    first = max(with_states, key=lambda name: (len(has[name]), size[name]))
    others = [name for name in with_states if name != first and not has[name] & has[first]]
    same = [name for name in others if store.index(name).task == store.index(first).task]
    if same:
        second = max(same, key=lambda name: size[name])
        why = f"{second} brings the {', '.join(sorted(has[second]))} that {first} lacks; they are paired at random"
        return Data((first, second)), why
    alone = f"{first} has {', '.join(sorted(has[first]))}"
    return Data((first,)), alone if len(with_states) == 1 else f"{alone}, the most of what is in the store"


@dataclass(frozen=True)
class Experiment:
    """All that is needed to do it again."""

    model: Model
    data: Data
    seeds: tuple[int, ...] = SEEDS

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives the same experiment back."""
        return {"model": self.model.to_json(), "data": asdict(self.data), "seeds": list(self.seeds)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Experiment":
        """What `to_json` wrote."""
        data: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found["data"].items()}
        return cls(Model.from_json(found["model"]), Data(**data), tuple(found["seeds"]))


def pin(experiment: Experiment, store: FeatureStore) -> Experiment:
    """The same experiment with every corpus and view named by fingerprint, so that newer ones cannot slip in."""
    data = experiment.data
    corpora = tuple(f"{name.partition('@')[0]}@{store.dataset(name)}" for name in data.corpora)
    views = {str(m): column.view.id for m, column in data.load(store).columns.items()}
    return replace(experiment, data=replace(data, corpora=corpora, views=views))


def run(experiment: Experiment, store: FeatureStore, folder: Path, watch: Watch = lambda line: None) -> Run:
    """Train, test once, write the run's folder. A folder that was interrupted is taken up where it stopped."""
    experiment = pin(experiment, store)
    data = experiment.data.load(store)
    result = Run.begin(folder, experiment.to_json(), _facts(store, data))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = Normalisation.fit(data.part(Split.TRAIN), experiment.model.training.normalise)
    fits = _train(experiment.model, experiment.seeds, data, norm, device, folder / "seeds", watch)
    beside = _beside(experiment.model, data)
    others = {name: _yardstick(model, one, experiment.seeds, device) for name, (model, one) in beside.items()}
    _test(result, experiment, data, norm, fits, others, device)
    return Run.open(folder)


def _train(
    model: Model, seeds: Sequence[int], data: Table, norm: Normalisation, device: str, folder: Path | None, watch: Watch
) -> dict[int, tuple[Fit, float]]:
    """Seed -> what came of it, and the seconds it took."""
    train, valid = data.part(Split.TRAIN), data.part(Split.VALID)
    found = {}
    for seed in seeds:
        started = time.monotonic()
        checkpoint = folder / str(seed) / "checkpoint.pt" if folder else None
        make = lambda: model.build(data.dims, data.task)  # noqa: E731
        one = fit(make, train, valid, norm, model.training, seed, device, checkpoint, watch)
        found[seed] = one, time.monotonic() - started
    return found


def _beside(model: Model, data: Table) -> dict[str, tuple[Model, Table]]:
    """The yardsticks of every result: a linear probe, and where pairing leaks, a probe of the paired sound alone."""
    probe = Model.of("probe")
    rows = {} if model.name == "probe" else {"probe": (probe, data)}
    if pairing.is_leaky(data.protocol):
        rows[AUDIO_ONLY] = (probe, data.only([Modality.AUDIO]))
    return rows


def _yardstick(model: Model, data: Table, seeds: Sequence[int], device: str) -> list[SeedResult]:
    """A yardstick's results on the test part; trained like everything else."""
    norm = Normalisation.fit(data.part(Split.TRAIN), model.training.normalise)
    fits = _train(model, seeds, data, norm, device, None, lambda line: None)
    return [_result(seed, one, seconds, model, data, norm, device) for seed, (one, seconds) in fits.items()]


def _result(
    seed: int, fit: Fit, seconds: float, model: Model, data: Table, norm: Normalisation, device: str
) -> SeedResult:
    head = model.build(data.dims, data.task).to(device)
    head.load_state_dict(fit.state)
    output = predict(head, data.part(Split.TEST), norm, model.training.batch, device)
    return SeedResult(seed, fit, seconds, output)


def _test(
    result: Run,
    experiment: Experiment,
    data: Table,
    norm: Normalisation,
    fits: Mapping[int, tuple[Fit, float]],
    others: Mapping[str, list[SeedResult]],
    device: str,
) -> None:
    test = data.part(Split.TEST)
    if not len(test):
        raise ConfigError(f"{data.name} has no test sample", fix="check the splits with `msa cache info`")
    rows = [_result(s, one, sec, experiment.model, data, norm, device) for s, (one, sec) in fits.items()]
    constant = metrics.majority(data.task, data.part(Split.TRAIN).y, len(test))
    result.finish(data.task, test, rows, others, constant, norm, experiment.model.build(data.dims, data.task))


def _facts(store: FeatureStore, data: Table) -> dict[str, Any]:
    """What the data was, for run.json: enough to find it again and to repeat its extraction."""
    split = {s: len(data.part(s)) for s in Split}
    counts = [int((data.y == number).sum()) for number in range(len(data.task.classes))]
    return {
        "task": asdict(data.task),
        "protocol": data.protocol,
        "store": str(store.path.resolve()),
        "generation": store.manifest["generation"],
        "samples": split,
        "classes": dict(zip(data.task.classes, counts, strict=True)),
        "dims": data.dims,
        "views": {m: {"id": c.view.id, "attributes": dict(c.view.attributes)} for m, c in data.columns.items()},
    }
