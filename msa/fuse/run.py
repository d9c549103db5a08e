"""A finished training as a folder that can be read without this package.

run.json            settings, seeds, corpora and views by fingerprint, versions; `--like` takes it back
metrics.json        every seed's scores, mean and standard deviation, bootstrap intervals, yardsticks
predictions.csv     one row per seed and test sample; samples of one video, speaker, ... have the same group
history.csv         losses per seed and epoch
normalisation.safetensors
seeds/42/head.safetensors
learning_curve.png, and one of confusion_matrix.png (a class each), each_label.png (several labels),
predicted_values.png (values)
plots/              what `msa fuse plot` drew, each a PNG and a CSV
"""

import csv
import fcntl
import json
import math
import os
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from msa import __version__
from msa.errors import ConfigError
from msa.fuse import metrics, plots
from msa.fuse.data import Normalisation, Part
from msa.fuse.head import FusionHead
from msa.fuse.model import Model
from msa.fuse.train import Fit
from msa.types import Modality, Task

CHECKPOINT = "checkpoint.pt"  # below seeds/42, after every epoch
FIT = "fit.pt"  # there when that seed is trained
MACHINE = "machine.json"  # where and with how many threads, if it was another process; all are deleted at the end


@dataclass(frozen=True)
class SeedResult:
    """One seed: its training, and its outputs (n, task.outputs) on the test part."""

    seed: int
    fit: Fit
    output: np.ndarray
    machine: Mapping[str, Any] = field(default_factory=dict)  # it was trained on, see `machine`


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and work in it as the only process. Raises ConfigError where another one is at work there.

    Where the file system knows no locks, nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is at work in {folder}", fix="wait for it, or name another folder with --out"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(place)


def drawn_only(drawn: Sequence[str]) -> str:
    """The row without which a leaky pairing is not shown: a probe of nothing but what was drawn by the label."""
    return f"probe, {' and '.join(drawn)} only"


@dataclass(frozen=True)
class Tested:
    """(corpus, id) of every test sample, labels (n,) or (n, classes), groups (n,) as they are numbered in the run, and
    outputs (n, outputs) of each seed."""

    ids: list[tuple[str, str]]
    y: np.ndarray
    group: np.ndarray
    outputs: list[np.ndarray]


@dataclass(frozen=True)
class Run:
    """The folder of a training, begun or finished."""

    folder: Path
    record: Mapping[str, Any]  # run.json
    metrics: Mapping[str, Any]  # metrics.json; empty until it is finished

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run. Raises ConfigError where the folder is none."""
        try:
            record = json.loads((folder / "run.json").read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"{folder} is not a run", fix="name a folder `msa fuse train` wrote") from None
        except ValueError as error:
            raise ConfigError(f"{folder}/run.json is damaged: {error}", fix="restore it, or train again") from None
        path = folder / "metrics.json"
        return cls(folder, record, json.loads(path.read_text("utf-8")) if path.exists() else {})

    @classmethod
    def begin(cls, folder: Path, experiment: Mapping[str, Any], facts: Mapping[str, Any]) -> "Run":
        """Write run.json; a folder with the same experiment is taken up again. Raises ConfigError for another one."""
        if (folder / "run.json").exists():
            found = cls.open(folder)
            if found.record["experiment"] != json.loads(json.dumps(experiment)):
                raise ConfigError(f"{folder} holds another experiment", fix="name another folder with --out")
            then, now = found.record["data"]["hidden_states"], facts["hidden_states"]
            if then != now:
                said = [", ".join(f"{n} {m}" for m, n in counts.items()) for counts in (then, now)]
                raise ConfigError(
                    f"{folder} was begun on the hidden states of {said[0]}, and the store now has {said[1]}",
                    fix=f"go on with those it was begun on: msa fuse train --resume {folder}",
                )
            return found
        folder.mkdir(parents=True, exist_ok=True)
        record = {"experiment": experiment, "data": facts, "versions": _versions(), "machine": machine()}
        write_json(folder / "run.json", record | {"begun": datetime.now(UTC).isoformat(timespec="seconds")}, new=True)
        return cls.begin(folder, experiment, facts)  # where another process was faster it is its experiment that counts

    @property
    def task(self) -> Task:
        """What is predicted."""
        return Task(**self.record["data"]["task"] | {"classes": tuple(self.record["data"]["task"]["classes"])})

    @property
    def model(self) -> Model:
        """The head and its settings."""
        return Model.from_json(self.record["experiment"]["model"])

    @property
    def dims(self) -> dict[Modality, int]:
        """Width of each modality it was trained on."""
        return {Modality(m): dim for m, dim in self.record["data"]["dims"].items()}

    @property
    def best_seed(self) -> int:
        """The seed that is best on validation, by what its epochs were chosen by: the one that predicts."""
        if not self.metrics:
            raise ConfigError(f"{self.folder} is not finished", fix=f"msa fuse train --resume {self.folder}")
        by = self.model.training.criterion(self.task)
        return int(min(self.metrics["seeds"], key=lambda row: row[by])["seed"])

    def head(self, seed: int | None = None) -> FusionHead:
        """The trained head of a seed, in evaluation mode on the CPU."""
        head = self.model.build(self.dims, self.task)
        chosen = self.best_seed if seed is None else seed
        weights = self.folder / "seeds" / str(chosen) / "head.safetensors"
        head.restore(load_file(weights), weights)
        return head.eval()

    def normalisation(self) -> Normalisation:
        """The training split's statistics."""
        found = load_file(self.folder / "normalisation.safetensors")
        names = sorted({name.partition(".")[0] for name in found})
        return Normalisation({Modality(m): (found[f"{m}.mean"].numpy(), found[f"{m}.std"].numpy()) for m in names})

    def finish(
        self,
        task: Task,
        test: Part,
        rows: Sequence[SeedResult],
        others: Mapping[str, Sequence[SeedResult]],
        constant: np.ndarray,
        norm: Normalisation,
        head: FusionHead,
    ) -> None:
        """Write everything but run.json; metrics.json comes last and makes the run a finished one."""
        for row in rows:
            folder = self.folder / "seeds" / str(row.seed)
            folder.mkdir(parents=True, exist_ok=True)
            _write_tensors(folder / "head.safetensors", row.fit.state)
        stats = {name: torch.from_numpy(values) for name, values in norm.named()}
        _write_tensors(self.folder / "normalisation.safetensors", stats)
        self._write_predictions(task, test, rows)
        self._write_history(rows)
        self._draw(task, test, rows)
        told = [replace(row, machine=self._machine_of(row.seed)) for row in rows]
        write_json(self.folder / "metrics.json", summary(task, test, told, others, constant, head))
        for row in rows:
            for name in (CHECKPOINT, FIT, MACHINE):
                (self.folder / "seeds" / str(row.seed) / name).unlink(missing_ok=True)

    def trained(self, seed: int) -> bool:
        """Has this seed been trained, whether or not the run is finished?"""
        home = self.folder / "seeds" / str(seed)
        return (home / FIT).exists() or (home / "head.safetensors").exists()

    def note_machine(self, seed: int) -> None:
        """Keep on what machine this process trains a seed: the one that finishes the run may be another."""
        path = self.folder / "seeds" / str(seed) / MACHINE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, machine())

    def _machine_of(self, seed: int) -> dict[str, Any]:
        path = self.folder / "seeds" / str(seed) / MACHINE
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else machine()

    def tested(self) -> "Tested":
        """What every seed said of the test part, from predictions.csv; in those of older runs, each sample is a group
        of its own."""
        columns = [f"p_{name}" for name in self.task.classes] or ["predicted"]
        said: dict[str, list[list[float]]] = {}
        labels: dict[tuple[str, str], str] = {}
        group: dict[tuple[str, str], int] = {}
        with open(self.folder / "predictions.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                said.setdefault(row["seed"], []).append([float(row[column]) for column in columns])
                name = row["corpus"], row["id"]
                labels[name] = row["label"]
                group.setdefault(name, int(row.get("group", len(group))))
        y = np.array([_number(self.task, label) for label in labels.values()])
        outputs = [np.array(rows) for rows in said.values()]
        return Tested(list(labels), y, np.array(list(group.values()), np.int64), outputs)

    @property
    def pictures(self) -> list[str]:
        """File names of what was drawn."""
        return sorted(path.name for path in self.folder.glob("*.png"))

    def _draw(self, task: Task, test: Part, rows: Sequence[SeedResult]) -> None:
        outputs = {row.seed: row.output for row in rows}
        plots.learning_curve(self.folder / "learning_curve.png", {row.seed: row.fit for row in rows}, self.title)
        if task.multilabel:
            plots.each_label(self.folder / "each_label.png", task, test.y, list(outputs.values()), self.title)
        elif task.classes:
            path = self.folder / "confusion_matrix.png"
            plots.confusion_matrix(path, task.classes, test.y, list(outputs.values()), self.title)
        else:
            plots.predicted_values(self.folder / "predicted_values.png", test.y, outputs, self.title)

    @property
    def _named(self) -> str:
        model = self.model
        return model.name if model.preset == "default" else f"{model.name} ({model.preset})"

    @property
    def title(self) -> str:
        """What was trained on what, and how corpora were paired."""
        data = self.record["experiment"]["data"]
        corpora = " + ".join(name.partition("@")[0] for name in data["corpora"])
        protocol = self.record["data"]["protocol"]
        return f"{self._named} on {corpora}" + (f" (pairing: {protocol})" if protocol else "")

    def _write_predictions(self, task: Task, test: Part, rows: Sequence[SeedResult]) -> None:
        names = [f"p_{name}" for name in task.classes] if task.classes else ["predicted"]
        with open(self.folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            named = ["seed", "corpus", "id", "group", "label", *(["predicted"] if task.classes else [])]
            writer.writerow([*named, *names])
            group = metrics.in_order(test.groups()[0])
            for row in rows:
                for corpus, name, number, y, p in zip(test.corpus, test.ids, group, test.y, row.output, strict=True):
                    said = _words(task, y, p)
                    writer.writerow([row.seed, corpus, name, number, *said, *(f"{value:.9g}" for value in p)])

    def _write_history(self, rows: Sequence[SeedResult]) -> None:
        columns = list(dict.fromkeys(name for row in rows for epoch in row.fit.history for name in epoch))
        with open(self.folder / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["seed", *columns])
            writer.writeheader()
            for row in rows:
                writer.writerows({"seed": row.seed, **epoch} for epoch in row.fit.history)


def _words(task: Task, y: Any, p: np.ndarray) -> tuple[object, ...]:
    """Label and, of classes, what is predicted, as they are written down: y a number or (C,), p (outputs,)."""
    if task.multilabel:
        return task.named(y > 0), task.named(p > 0.5)
    return (task.classes[int(y)], task.classes[int(p.argmax())]) if task.classes else (float(y),)


def _number(task: Task, label: str) -> Any:
    """The label that was written down: a class number, a value, or of several labels which hold."""
    if task.multilabel:
        return [name in label.split(", ") for name in task.classes]
    return task.classes.index(label) if task.classes else float(label)


def summary(
    task: Task,
    test: Part,
    rows: Sequence[SeedResult],
    others: Mapping[str, Sequence[SeedResult]],
    constant: np.ndarray,
    head: FusionHead,
) -> dict[str, Any]:
    """metrics.json: all scores are of the test part."""
    group, _ = test.groups()

    def scores(rows: Sequence[SeedResult]) -> dict[str, Any]:
        cut = lambda at: [replace(row, output=row.output[at]) for row in rows]  # noqa: E731
        return _whole_and_parts(test, lambda at: _scores(task, test.y[at], group[at], cut(at)))

    found = scores(rows) | {"parameters": sum(p.numel() for p in head.parameters()), "test_samples": len(test)}
    found["beside"] = {name: scores(other) for name, other in others.items()}
    found["beside"][metrics.majority_name(task)] = _whole_and_parts(
        test, lambda at: asdict(metrics.score(task, test.y[at], constant[at])) | {"seeds": []}
    )
    return found


def _whole_and_parts(test: Part, scores: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    """Scores of the whole test part and, where it is of several corpora, of each by itself."""
    corpora = sorted(set(test.corpus.tolist()))
    parts = {name: scores(test.corpus == name) for name in corpora} if len(corpora) > 1 else {}
    return scores(np.ones(len(test), bool)) | ({"by_corpus": parts} if parts else {})


def _scores(task: Task, y: np.ndarray, group: np.ndarray, rows: Sequence[SeedResult]) -> dict[str, Any]:
    """Each seed's scores, their mean and standard deviation, and the bootstrap interval over how many groups."""
    scores = [metrics.score(task, y, row.output) for row in rows]
    values = {name: np.array([s.values[name] for s in scores]) for name in scores[0].values}
    intervals = metrics.bootstrap(task, y, group, [row.output for row in rows])
    return {
        "values": {name: float(v.mean()) for name, v in values.items()},
        "sd": {name: float(v.std(ddof=1)) if len(v) > 1 else None for name, v in values.items()},
        "interval": {name: list(bounds) for name, bounds in intervals.items()},
        "groups": metrics.groups(group),
        "notes": sorted({note for s in scores for note in s.notes}),
        "seeds": [_seed(row, s) for row, s in zip(rows, scores, strict=True)],
    }


def _seed(row: SeedResult, score: metrics.Score) -> dict[str, Any]:
    best = row.fit.history[row.fit.best_epoch]
    return {
        "seed": row.seed,
        "values": dict(score.values),
        "notes": list(score.notes),
        **{name: best[name] for name in ("valid_loss", "valid_mae") if name in best},
        "best_epoch": row.fit.best_epoch + 1,
        "epochs": len(row.fit.history),
        "seconds": round(row.fit.seconds, 2),
        **{name: row.machine[name] for name in ("device", "threads") if name in row.machine},
        "data_share": round(row.fit.data_seconds / row.fit.seconds, 4) if row.fit.seconds else 0.0,
        "padding": round(row.fit.padding, 4),
        "collapsed": row.fit.collapsed,
        "restarted_at": row.fit.restarted_at,
        "skipped_steps": row.fit.skipped_steps,
    }


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "scikit-learn", "zarr")
    return {"msa": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def machine() -> dict[str, Any]:
    """What this process computes on, and with how many threads."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"platform": platform.platform(), "device": device, "threads": torch.get_num_threads()}


def write_json(path: Path, value: Mapping[str, Any], new: bool = False) -> None:
    """Write a record of a run, whole or not at all; a value that is not a number becomes null.

    A `new` record never takes the place of another process's.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(json.dumps(with_null(value), indent=1, ensure_ascii=False, allow_nan=False), "utf-8")
    if new:
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            temporary.replace(path)
        temporary.unlink(missing_ok=True)
    else:
        temporary.replace(path)


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file; its own `save_file` makes one that nobody else may read, whatever the umask says."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_bytes(to_bytes({name: values.contiguous() for name, values in tensors.items()}))
    temporary.replace(path)


def with_null(value: Any) -> Any:
    """JSON knows no NaN: a score that is undefined is null."""
    if isinstance(value, Mapping):
        return {name: with_null(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
