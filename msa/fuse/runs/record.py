"""What run.json and metrics.json hold, checked when a run is opened.

Run folders are passed on as stores are: what they say is not believed. JSON becomes typed values here and nowhere
else, and what no run says is a ConfigError that names the file and the place in it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from msa.cache.format import limits
from msa.errors import StoreError
from msa.fuse import metrics
from msa.fuse.files import refuse, short
from msa.fuse.train.config import TrainConfig
from msa.types import Modality, Task

MAX_JSON = 2**24  # bytes of run.json and of metrics.json: some thousand times what they have
MAX_TEXT = 4096  # characters
MAX_WHOLE = 2**63
MAX_SEED = 2**63  # PyTorch takes no larger one

_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of characters


@dataclass(frozen=True)
class Node:
    """A value out of a JSON file, and where it stands; what is not of the kind asked for is a ConfigError."""

    file: Path
    place: str  # such as data.task.classes
    value: Any

    @classmethod
    def read(cls, path: Path) -> "Node":
        """Read a JSON object. Raises FileNotFoundError where there is no such file, else ConfigError."""
        try:
            return cls(path, "", limits.parse(path, limits.read_bytes(path, MAX_JSON)))
        except StoreError as error:
            refuse(path, error.what.removeprefix(limits.DAMAGED).removeprefix(f"{path}: "))

    def __getitem__(self, name: str) -> "Node":
        """A member that has to be there."""
        members = self.members()
        if name not in members:
            self.refuse(f"lacks {name!r}")
        return members[name]

    def members(self) -> dict[str, "Node"]:
        """Of an object: its members by name."""
        if not isinstance(self.value, dict):
            self._expected("an object")
        found = {}
        for name, value in self.value.items():
            if _NO_TEXT.search(name) or len(name) > MAX_TEXT:
                self.refuse(f"has a member called {short(name)}")
            found[name] = Node(self.file, f"{self.place}.{name}".lstrip("."), value)
        return found

    def member(self, name: str, default: Any) -> "Node":
        """A member that older files lack: `default` stands there then."""
        return self.members().get(name, Node(self.file, f"{self.place}.{name}".lstrip("."), default))

    def elements(self) -> list["Node"]:
        """Of a list: its elements."""
        if not isinstance(self.value, list | tuple):
            self._expected("a list")
        return [Node(self.file, f"{self.place}[{i}]", value) for i, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or len(self.value) > MAX_TEXT or _NO_TEXT.search(self.value):
            self._expected("a text without control characters")
        return self.value

    def texts(self) -> tuple[str, ...]:
        return tuple(one.text() for one in self.elements())

    def number(self) -> float:
        """A number, infinity and NaN among them."""
        if type(self.value) is not float and (type(self.value) is not int or abs(self.value) >= MAX_WHOLE):
            self._expected("a number")
        return float(self.value)

    def number_or_none(self) -> float | None:
        """A number, or null: of what could not be measured."""
        return None if self.value is None else self.number()

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self._expected("true or false")
        return self.value

    def modality(self) -> Modality:
        if self.value not in [*Modality]:
            self._expected(f"one of {', '.join(Modality)}")
        return Modality(self.value)

    def whole(self, least: int = 0, below: int = MAX_WHOLE) -> int:
        """A whole number from `least` on."""
        if type(self.value) is not int or not least <= self.value < below:
            self._expected(f"a whole number from {least} to {below - 1}")
        return self.value

    def by_modality(self) -> dict[Modality, "Node"]:
        """Of an object: its members by modality."""
        return {Node(self.file, self.place, name).modality(): one for name, one in self.members().items()}

    def only(self, names: Sequence[str]) -> None:
        """Refuse an object with members of other names."""
        if unknown := [name for name in self.members() if name not in names]:
            self.refuse(f"has {unknown[0]!r}, known: {', '.join(names)}")

    def refuse(self, what: str) -> NoReturn:
        """Raise the ConfigError that says where this stands."""
        refuse(self.file, f"{self.place or 'it'} {what}")

    def _expected(self, kind: str) -> NoReturn:
        self.refuse(f"is {short(self.value)}, expected {kind}")


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
    """The data of a run, and all of run.json checked. Raises ConfigError for what no run of msa says."""
    _check_experiment(root["experiment"])
    data = root["data"]
    dims = {m: one.whole(1, 2**31) for m, one in data["dims"].by_modality().items()}
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
        drawn=tuple(one.modality() for one in data["drawn"].elements()),
        store=data["store"].text(),
        generation=data["generation"].whole(),
        hidden_states={m: one.whole() for m, one in data["hidden_states"].by_modality().items()},
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
    for one in root["beside"].members().values():
        check_scores(one, names)
        one["seeds"].elements()


def check_scores(of: Node, names: Sequence[str], noted: bool = True) -> None:
    """Values, deviations, intervals and notes: of all test samples, then of each corpus alone; `noted`: with notes."""
    _check_values(of["values"], names)
    found = of.members()
    for value in found["sd"].members().values() if "sd" in found else ():
        value.number_or_none()
    for bounds in found["interval"].members().values() if "interval" in found else ():
        if len(bounds.elements()) != 2:
            bounds.refuse("is not a lower and an upper end")
        for end in bounds.elements():
            end.number()
    if "groups" in found:
        found["groups"].whole()
    (of["notes"] if noted else of.member("notes", [])).texts()
    for part in found["by_corpus"].members().values() if "by_corpus" in found else ():
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
    seeds = [one.whole(0, MAX_SEED) for one in root["seeds"].elements()]
    if not seeds or len(set(seeds)) < len(seeds):
        root["seeds"].refuse("is empty, or names a seed twice")


def check_setting(value: Node) -> None:
    """Refuse a setting that is none: it is a text, a number, true, false, nothing, or a list of these."""
    for one in value.elements() if isinstance(value.value, list) else [value]:
        if isinstance(one.value, str):
            one.text()
        elif one.value is not None and not isinstance(one.value, bool):
            one.number()


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
    """The task that is written there. Raises ConfigError for what is none."""
    classes = task["classes"].texts()
    if len(set(classes)) < len(classes):
        task["classes"].refuse("names a class twice")
    several = task.members()["multilabel"].flag() if "multilabel" in task.members() else False
    low, high = task["low"].number(), task["high"].number()
    if not (math.isfinite(low) and math.isfinite(high)) or (several and not classes):
        task.refuse("is no task: it needs classes, or a finite lowest and highest value")
    return Task(classes, low, high, several)
