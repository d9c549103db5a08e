"""A trained run, scored again on hidden states it was or was not trained on."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.device import own_device
from msa.errors import ConfigError
from msa.fuse import metrics
from msa.fuse.data import pairing
from msa.fuse.data.table import Table
from msa.fuse.experiments.experiment import Experiment, store_of
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.sweep import baselines
from msa.fuse.runs.run import Run, drawn_only
from msa.fuse.train.evaluation import predict
from msa.names import shell_command
from msa.types import Modality, Split


def evaluate(folder: Path, store: str | Path | None = None, data: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the data's name and every seed's scores on its test split. Raises ConfigError where data do not fit."""
    run = Run.open(folder)
    own = Experiment.from_json(run.record["experiment"])
    if not run.metrics:
        raise ConfigError(f"{folder} is not finished", fix=shell_command("msa", "fuse", "train", "--resume", folder))
    if data is None:
        table = own.data.load(store_of(run, store))
    else:
        opened = FeatureStore.open(store or store_of(run).address)
        table = _other(run, own.data, data.split("+"), opened).load(opened)
    notes = set(check_fit(run, table))
    table = table.only([m for m in table.columns if m in run.dims])
    table, seen = (table, 0) if data is None else _without_seen(run, own.data, table, opened)
    test = table.subset(Split.TEST)
    if not len(test):
        why = f" that the run has not been trained or chosen on ({seen} were)" if seen else ""
        raise ConfigError(f"{table.name} has no test sample{why}", fix="check the splits with `msa cache info`")
    device = own_device()
    rows: list[dict[str, Any]] = []
    notes |= set(_leak(run, table, data is None))
    if seen:
        notes.add(f"left out: {seen} test samples whose text, image or audio the run was trained or chosen on")
    for seed in own.seeds:
        output = predict(run.head(seed).to(device), test, run.normalisation(), run.model.training.batch, device)
        score = metrics.score(run.task, test.y, output)
        rows.append({"seed": seed, "values": {name: v for name, v in score.values.items() if v == v}})
        notes |= set(score.notes)
    return table.name, {"seeds": rows, "notes": sorted(notes), "test_samples": len(test), "protocol": table.protocol}


def _other(run: Run, own: Data, corpora: Sequence[str], store: FeatureStore) -> Data:
    """Return the run's views where these datasets have them, else views of the same name, or the newest."""
    available = [view for name in corpora for view in store.views(name)]
    views = {}
    for m, view_id in own.views.items():
        modality = Modality(m)
        if modality not in run.facts.views:  # of a corpus that lent its labels only
            continue
        name = run.facts.views[modality]["attributes"]["backbone"]
        if any(view.id == view_id for view in available):
            views[m] = view_id
        elif any(view.name == name and view.modality == m for view in available):
            views[m] = name
    return replace(own, corpora=tuple(corpora), views=views)


def _without_seen(run: Run, own: Data, table: Table, store: FeatureStore) -> tuple[Table, int]:
    """Return the table without test samples whose input the run was trained or selected on, and their number."""
    seen: set[bytes] = set()
    home = store_of(run, store.address if store.address == run.facts.store else None)
    for name in own.corpora:
        seen |= {d for rows in _inputs(home, name, (Split.TRAIN, Split.VALID)).values() for d in rows}
    inputs = {name.partition("@")[0]: _inputs(store, name, (Split.TEST,)) for name in set(table.corpus)}
    known = [bool(seen & inputs[corpus].get(id, set())) for corpus, id in zip(table.corpus, table.ids, strict=True)]
    return table.take(np.flatnonzero(~np.array(known, bool))), sum(known)


def _inputs(store: FeatureStore, name: str, parts: Sequence[Split]) -> dict[str, set[bytes]]:
    """Return sample id -> digests of its raw inputs, for some splits of a dataset."""
    index = store.index(name)
    rows = np.concatenate([index.rows(part) for part in parts])
    return {index.ids[row]: {d[row].tobytes() for d in index.digests.values() if d[row].any()} for row in rows}


def _leak(run: Run, table: Table, own: bool) -> list[str]:
    """Return the warning of a leaky pairing. Raises ConfigError where the baseline that shows the leak is missing."""
    if not pairing.is_leaky(table.protocol) or not table.drawn:
        return []
    name, shown = drawn_only(table.drawn), baselines(run)
    if not own or name not in shown:
        again = shell_command("msa", "fuse", "train", "--like", run.folder) if own else "train on these data"
        raise ConfigError(
            f"pairing {table.protocol!r} leaks the label, and there is no row {name!r} for {table.name}",
            fix=f"{again}: that row is then made by itself",
        )
    f1 = shown[name]["values"]["f1_weighted"]
    return [f"LEAKY pairing ({table.protocol}): {name} reaches a weighted F1 of {f1:.3f} on these samples"]


def check_fit(run: Run, table: Table) -> list[str]:
    """Refuse hidden states of another width or recipe, and other labels; return notes of what cannot be compared."""
    views, notes = run.facts.views, []
    for modality, column in table.columns.items():
        if modality not in run.dims:
            continue
        if column.view.dim != run.dims[modality]:
            raise ConfigError(
                f"{table.name}'s {modality} is {column.view.dim} wide ({column.view.name}), the run was trained on "
                f"{run.dims[modality]} ({views[modality]['attributes']['backbone']})",
                fix="extract the corpus with the backbone the run was trained on, or train again",
            )
        if column.view.id != views[modality]["id"]:
            notes += _check_recipe(table.name, modality, column.view, views[modality])
    if missing := sorted(set(run.dims) - set(table.columns)):
        raise ConfigError(f"{table.name} has no {', '.join(missing)}", fix="extract it, or choose another corpus")
    if run.task != table.task:
        raise ConfigError(
            f"{table.name} is labelled {pairing.labels(table.task)}, the run predicts {pairing.labels(run.task)}",
            fix=pairing.one_scale(run.task, table.task, "choose a corpus with its labels"),
        )
    return notes


def _check_recipe(name: str, modality: Modality, view: View, trained: Mapping[str, Any]) -> list[str]:
    """Refuse another view than the run was trained on, unless both were imported and say the same of themselves."""
    given, wanted = _imported(view.attributes), _imported(trained["attributes"])
    if given is None or wanted is None:
        raise ConfigError(
            f"{name}'s {modality} is view {view.id}, the run was trained on {trained['id']}: "
            "another recipe of the same width",
            fix="extract the corpus with the recipe the run was trained on (msa cache info shows both)",
        )
    if other := [what for what in wanted if given[what] != wanted[what]]:
        short = reprlib.repr  # a feature may have a thousand columns
        differences = "; ".join(f"{what} {short(given[what])}, trained on {short(wanted[what])}" for what in other)
        raise ConfigError(
            f"{name}'s {modality} was imported and is another than the run was trained on: {differences}",
            fix="import the feature the run was trained on, or train again",
        )
    return [
        f"{modality} is imported ({view.attributes['source']}): format, feature and columns are those the run was "
        "trained on, the recipe behind them could not be compared"
    ]


def _imported(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what can be compared of imported hidden states; None where they were extracted by msa."""
    identity = attributes.get("identity", {})
    if "imported" not in identity:
        return None
    facts = {name: attributes[name] for name in ("dtype", "dim", "columns")}
    return {"format": identity["imported"], "feature": identity["feature"], **facts}
