"""What run.json and metrics.json hold, checked when a run is opened.

Run folders are passed on as stores are: what they say is not believed. JSON becomes typed values here and nowhere
else, and what no run says is a ConfigError that names the file and the place in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from msa.fuse import metrics
from msa.fuse.runs.node import Node
from msa.fuse.train.config import TrainConfig
from msa.types import Modality, Task

MAX_SEED = 2**63  # PyTorch takes no larger one


@dataclass(frozen=True)
class Facts:
    """What the data was: the member `data` of run.json."""

    task: Task
    protocol: str  # how corpora were paired, empty of a single one
    drawn: tuple[str, ...]
    store: str
    generation: int
    hidden_states: Mapping[Modality, int]
    dims: Mapping[Modality, int]
    views: Mapping[Modality, Mapping[str, Any]]  # each with `id` and `attributes`


def decoded(root: Node) -> Facts:
    """Return the data of a run and check all of run.json. Raises ConfigError for what no run of msa holds."""
    _check_experiment(root["experiment"])
    data = root["data"]
    dims = {m: member.whole(1, 2**31) for m, member in data["dims"].by_modality().items()}
    if not dims:
        data["dims"].refuse("names no modality")
    views = data["views"].by_modality()
    if views.keys() != dims.keys():
        data["views"].refuse(f"has {', '.join(views) or 'none'}, and data.dims {', '.join(dims)}")
    for m, view in views.items():
        _check_view(view, m, dims[m])
    return Facts(
        task=task_of(data["task"]),
        protocol=data["protocol"].text(),
        drawn=tuple(member.modality() for member in data["drawn"].elements()),
        store=data["store"].text(),
        generation=data["generation"].whole(),
        hidden_states={m: member.whole() for m, member in data["hidden_states"].by_modality().items()},
        dims=dims,
        views={m: view.value for m, view in views.items()},
    )


def check_metrics(root: Node, task: Task, seeds: Sequence[int], criterion: str) -> None:
    """Refuse a metrics.json that lacks what is shown of a run, or says it of other seeds.

    Args:
        root: the file.
        task: what the run predicts; its metrics have to be there.
        seeds: those of the experiment.
        criterion: the column of the history by which the best seed is chosen.
    """
    names = metrics.headline(task)
    check_scores(root, names)
    root["test_samples"].whole()
    root["parameters"].whole()
    rows = root["seeds"].elements()
    if not rows:
        root["seeds"].refuse("is empty")
    for row in rows:
        if row["seed"].whole(0, MAX_SEED) not in seeds:
            row["seed"].refuse(f"is {row['seed'].value}, and the experiment has {', '.join(map(str, seeds))}")
        if math.isnan(row[criterion].number()):
            row[criterion].refuse("is not a number")
        row["epochs"].whole(1)
        row["seconds"].number()
        row["collapsed"].flag()
        row["restarted_at"].number_or_none()
        for name in {"device"} & row.members().keys():
            row[name].text()
        for name in {"threads"} & row.members().keys():
            row[name].whole()
        _check_values(row["values"], names)
        row["notes"].texts()
    for scores in root["beside"].members().values():
        check_scores(scores, names)
        scores["seeds"].elements()


def check_scores(of: Node, names: Sequence[str], noted: bool = True) -> None:
    """Check values, deviations, intervals and, where `noted`, notes: of all test samples and of each dataset alone."""
    _check_values(of["values"], names)
    members = of.members()
    for value in members["sd"].members().values() if "sd" in members else ():
        value.number_or_none()
    for bounds in members["interval"].members().values() if "interval" in members else ():
        if len(bounds.elements()) != 2:
            bounds.refuse("is not a lower and an upper end")
        for end in bounds.elements():
            end.number()
    if "groups" in members:
        members["groups"].whole()
    (of["notes"] if noted else of.member("notes", [])).texts()
    for part in members["by_corpus"].members().values() if "by_corpus" in members else ():
        check_scores(part, names, noted)


def _check_values(values: Node, names: Sequence[str]) -> None:
    for name in names:
        values[name]
    for value in values.members().values():
        value.number_or_none()


def check_recipe(about: Node) -> None:
    """Refuse the attributes of a view from which the recipe of its hidden states cannot be told, for `msa predict`."""
    identity = about["identity"]
    if "imported" in identity.members():
        identity["imported"].text()
        about["source"].text()
        return
    about["family"].text()
    for value in identity["options"].members().values():
        check_setting(value)
    known = about["weights"]
    known["name"].text()
    known["sha256"].text()
    for name in ("path", "revision"):
        if known[name].value is not None:
            known[name].text()


def _check_experiment(root: Node) -> None:
    root.only(("model", "data", "seeds"))
    model, data = root["model"], root["data"]
    model.only(("name", "preset", "settings", "training"))
    for name in ("name", "preset"):
        model[name].text()
    for settings in (model["settings"], model["training"]):
        for value in settings.members().values():
            check_setting(value)
    model["training"].only([field.name for field in fields(TrainConfig)])
    data.only(("corpora", "pairing", "rho", "pair_seed", "views", "modalities"))
    if not data["corpora"].texts():
        data["corpora"].refuse("names no corpus")
    data["pairing"].text()
    data["rho"].number()
    data["pair_seed"].whole(0, MAX_SEED)
    for view in data["views"].by_modality().values():
        view.text()
    for wanted in data["modalities"].elements():
        wanted.modality()
    seeds = [seed.whole(0, MAX_SEED) for seed in root["seeds"].elements()]
    if not seeds or len(set(seeds)) < len(seeds):
        root["seeds"].refuse("is empty, or names a seed twice")


def check_setting(value: Node) -> None:
    """Refuse a setting that is none: it is a text, a number, true, false, nothing, or a list of these."""
    for element in value.elements() if isinstance(value.value, list) else [value]:
        if isinstance(element.value, str):
            element.text()
        elif element.value is not None and not isinstance(element.value, bool):
            element.number()


def _check_view(view: Node, modality: Modality, dim: int) -> None:
    view["id"].text()
    about = view["attributes"]
    about["backbone"].text()
    if about["modality"].modality() != modality:
        about["modality"].refuse(f"is {about['modality'].value}, and stands under {modality}")
    if about["dim"].whole(1, 2**31) != dim:
        about["dim"].refuse(f"is {about['dim'].value}, and data.dims.{modality} is {dim}")
    for name in {"identity", "weights"} & about.members().keys():
        about[name].members()


def task_of(task: Node) -> Task:
    """Return the task in a record. Raises ConfigError where it is none."""
    classes = task["classes"].texts()
    if len(set(classes)) < len(classes):
        task["classes"].refuse("names a class twice")
    several = task.members()["multilabel"].flag() if "multilabel" in task.members() else False
    low, high = task["low"].number(), task["high"].number()
    if not (math.isfinite(low) and math.isfinite(high)) or (several and not classes):
        task.refuse("is no task: it needs classes, or a finite lowest and highest value")
    return Task(classes, low, high, several)
