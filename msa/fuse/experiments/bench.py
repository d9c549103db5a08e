"""Many heads on one store under one protocol: same hidden states, splits, pairing, seeds, choice of the best epoch.

bench.json      everything below as plain values
bench.csv, bench.png
bench.md        written by the command: `bench_tables.bench_sheet`
runs/<head>/    a run folder for each, as `msa fuse train` writes it

Every table carries what it takes to believe it: linear probes of all modalities and of each alone, the majority
class, what the parts of the data share, collapsed runs, and paired tests against the best.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa import catalog
from msa.cache.store import FeatureStore
from msa.device import own_device
from msa.errors import ConfigError
from msa.fuse import metrics
from msa.fuse.data.table import Table
from msa.fuse.experiments import cost, leakage, papers
from msa.fuse.experiments.bench_record import check_cost, write
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.sweep import reason, run_all
from msa.fuse.experiments.workers import Workers
from msa.fuse.runs.files import with_null, write_json
from msa.fuse.runs.node import Node
from msa.fuse.runs.run import Run
from msa.fuse.runs.summary import machine
from msa.fuse.train.loop import Log
from msa.fuse.train.model import Model
from msa.types import Split, Task

COST = "cost.json"  # in the folder of each run, so that a bench that is run again measures nothing twice


@dataclass(frozen=True)
class Candidate:
    """One row: a model, and the modalities it sees; all of them where none is named."""

    model: Model
    modalities: tuple[str, ...] = ()


def heads(names: Sequence[str], preset: str = "default") -> dict[str, Candidate]:
    """Return candidates by name; `all` is every head but the probe, which is in every table as a baseline."""
    known = [name for name in catalog.names("head") if name != "probe"]
    wanted = known if list(names) == ["all"] else list(dict.fromkeys(names))
    if not wanted:
        raise ConfigError("no head is named", fix="--models all, or some: --models cmsta,lmf")
    return {name: Candidate(alike(Model.of(name, preset))) for name in wanted}


def alike(model: Model) -> Model:
    """Return a model whose best epoch is chosen as in every row: by MAE for values, as the table is, else by loss."""
    return replace(model, training=replace(model.training, select="mae"))


def bench(
    candidates: Mapping[str, Candidate],
    named: Data,
    seeds: Sequence[int],
    store: FeatureStore,
    folder: Path,
    workers: Workers,
    log: Log = lambda line: None,
    lost: Mapping[str, str] | None = None,
    searched: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train, test and compare; return the table as plain values, which is also written into `folder`.

    A folder with the runs of an interrupted bench is continued. A candidate that cannot be trained is named with the
    reason and does not stop the others.

    Args:
        candidates: the rows, by name.
        named: datasets, views and pairing.
        seeds: of every candidate.
        store: where the hidden states are.
        folder: of the bench; the runs lie in it.
        workers: processes, GPUs or a cluster.
        log: called with every line of progress.
        lost: candidates that failed before, and why.
        searched: what `tune` found for each: trials, pruned, failed, value and the settings that differ.

    Raises:
        ConfigError: where no candidate can be trained.
    """
    data = named.load(store)
    probes = {name: Candidate(alike(model), tuple(m)) for name, (model, m) in leakage.probes(data).items()}
    everyone = {**candidates, **{name: candidate for name, candidate in probes.items() if name not in candidates}}
    experiments = {
        name: Experiment(
            candidate.model, replace(named, modalities=candidate.modalities or named.modalities), tuple(seeds)
        )
        for name, candidate in everyone.items()
    }
    runs, failed = run_all(experiments, store, folder / "runs", workers, log)
    if not runs:
        why = "; ".join(dict.fromkeys(failed.values()))
        raise ConfigError(f"none of the heads could be trained: {why}", fix="see the reasons")
    costs, unmeasured = _costs(runs, data, log)
    paired = f" (pairing: {data.protocol})" if data.protocol else ""
    corpora = [name.partition("@")[0] for name in named.corpora]
    backbones = {str(m): column.view.name for m, column in data.columns.items()}
    rows = _rows(data.task, runs, costs, set(probes) - set(candidates))
    for row in rows:
        row["printed"] = _printed(runs[row["name"]], corpora, backbones)
    tested = len(data.subset(Split.TEST))
    table = {
        "title": f"{data.name}{paired}, {tested} test samples, seeds {', '.join(map(str, seeds))}",
        "task": asdict(data.task),
        "corpora": corpora,
        "backbones": backbones,
        "metrics": list(metrics.headline(data.task)),
        "decisive": metrics.decisive(data.task)[0],
        "sign": metrics.decisive(data.task)[1],
        "machine": machine() | {"at_once": None if workers.scheduler else workers.here},
        "seeds": list(seeds),
        "rows": rows,
        "beside": {metrics.majority_name(data.task): _majority(data)},
        "failed": {**(lost or {}), **failed},
        "unmeasured": unmeasured,
        "audits": leakage.remarks(store, named, data),
        "searched": dict(searched or {}),
    }
    table = with_null(table)  # as it will be read again
    write(table, folder)
    return table


def _costs(runs: Mapping[str, Run], data: Table, log: Log) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return each head's cost, and name -> reason where it cannot be measured, which costs it no score."""
    device = own_device()
    costs: dict[str, dict[str, Any]] = {}
    unmeasured = {}
    for name, run in runs.items():
        costs[name] = {"parameters": run.metrics["parameters"]}
        if known := _known_cost(run):
            costs[name] |= known
            continue
        log(f"measuring what {name} costs")
        try:
            costs[name] |= asdict(cost.measure(run.model, data.only(list(run.dims)), device))
            write_json(run.folder / COST, costs[name] | {"machine": machine()})
        except Exception as error:  # such as too little memory: all of the training is behind us
            unmeasured[name] = reason(error)
            log(f"{name}: what it costs could not be measured: {unmeasured[name]}")
    return costs, unmeasured


def _known_cost(run: Run) -> dict[str, Any]:
    """Return the cost that was measured on this machine; empty where there is none, or it cannot be read."""
    try:
        root = Node.read(run.folder / COST)
        check_cost(root)
    except (FileNotFoundError, ConfigError):
        return {}
    known = dict(root.value)
    names = {field.name for field in fields(cost.Cost)}
    if known.pop("machine", None) != machine() or set(known) != names:
        return {}
    return known


def _rows(task: Task, runs: Mapping[str, Run], costs: Mapping[str, Any], baselines: set[str]) -> list[dict[str, Any]]:
    """Return a row per run, the best head first and baselines last, each compared with the best head."""
    name, sign = metrics.decisive(task)
    order = sorted(runs, key=lambda row_name: (row_name in baselines, -sign * _value(runs[row_name], name)))
    best = order[0]
    compared = _against(task, runs[best], {row_name: runs[row_name] for row_name in order if row_name != best})
    compared[best] = {"best": True}
    return [
        _row(row_name, runs[row_name], costs[row_name], row_name in baselines) | compared.get(row_name, {})
        for row_name in order
    ]


def _printed(run: Run, corpora: Sequence[str], backbones: Mapping[str, str]) -> dict[str, float]:
    """Return a paper's printed figures of a head, where datasets, test samples and encoders are the paper's."""
    model = run.model
    changed = alike(model) != alike(Model.of(model.name, model.preset))
    pairs = papers.printed(model.name, model.preset, changed)
    facts = corpora, run.metrics["test_samples"], backbones
    return next((dict(values) for setting, values in pairs if not setting.differs(*facts)), {})


def _value(run: Run, name: str) -> float:
    value = run.metrics["values"][name]
    return -np.inf if value is None else float(value)


def _row(name: str, run: Run, spent: Mapping[str, Any], is_baseline: bool) -> dict[str, Any]:
    seeds = run.metrics["seeds"]
    epochs = sum(row["epochs"] for row in seeds)
    straight = [row for row in seeds if not row["restarted_at"]] or seeds  # the others have the time of two trainings
    taken = sum(row["seconds"] for row in straight) / max(sum(row["epochs"] for row in straight), 1)
    preset = "" if run.model.preset == "default" else f" ({run.model.preset})"
    return {
        "name": name,
        "title": name + preset + (" [reconstruction]" if fidelity(run.model) == "C" else ""),
        "yardstick": is_baseline,
        "fidelity": fidelity(run.model),
        "preset": run.model.preset,
        "stopping": {key: getattr(run.model.training, key) for key in ("epochs", "patience")},
        **{key: run.metrics[key] for key in ("values", "sd", "interval", "notes", "test_samples")},
        "groups": run.metrics.get("groups"),  # none: of an older run, whose interval is over single samples
        "by_corpus": run.metrics.get("by_corpus", {}),
        "cost": dict(spent) | {"seconds_per_epoch": taken, "epochs_on": _trained_on(seeds)},
        "epochs": epochs / len(seeds),
        "seeds": [{"seed": row["seed"], "values": row["values"]} for row in seeds],
        "collapsed": [row["seed"] for row in seeds if row["collapsed"] or _says_one_thing(row)],
        "restarted": [row["seed"] for row in seeds if row["restarted_at"]],
        "run": str(run.folder.name),
    }


def _trained_on(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the devices, and numbers of threads, that seeds were trained on; older runs lack them."""
    known = {(row["device"], row["threads"]) for row in seeds if "threads" in row}
    return [{"device": device, "threads": threads} for device, threads in sorted(known)]


def _says_one_thing(row: Mapping[str, Any]) -> bool:
    """Return whether this seed gave one prediction for every test sample."""
    return row["values"].get("predicted_classes") == 1 or any("constant" in note for note in row["notes"])


def fidelity(model: Model) -> str:
    """Return A, B or C, as the head's docstring states it; empty where it states none."""
    stated = re.search(r"^Fidelity\s+([ABC])", model.module.__doc__ or "", re.MULTILINE)
    return stated[1] if stated else ""


def _against(task: Task, best: Run, others: Mapping[str, Run]) -> dict[str, dict[str, Any]]:
    """Return the gain of the best over each other run in the decisive metric, and adjusted p-values."""
    ours = best.tested()
    compared: dict[str, dict[str, Any]] = {}
    for name, run in others.items():
        theirs = run.tested()
        if theirs.ids == ours.ids:  # a probe of one modality may see fewer samples
            gain, p = metrics.paired(task, ours.y, ours.group, ours.outputs, theirs.outputs)
            compared[name] = {"behind": gain, "p": p}
    adjusted = metrics.holm([row["p"] for row in compared.values()])
    return {name: row | {"p_holm": p} for (name, row), p in zip(compared.items(), adjusted, strict=True)}


def _majority(data: Table) -> dict[str, Any]:
    test = data.subset(Split.TEST)
    constant = metrics.majority(data.task, data.subset(Split.TRAIN).y, len(test))
    of = lambda at: {"values": dict(metrics.score(data.task, test.y[at], constant[at]).values)}  # noqa: E731
    corpora = sorted(set(test.corpus.tolist()))
    parts = {name: of(test.corpus == name) for name in corpora} if len(corpora) > 1 else {}
    return of(np.ones(len(test), bool)) | {"by_corpus": parts}
