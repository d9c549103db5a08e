"""A finished training as a folder that can be read without this package.

run.json            settings, seeds, corpora and views by fingerprint, versions; `--like` takes it back
metrics.json        every seed's scores, mean and standard deviation, bootstrap intervals, baselines
predictions.csv     one row per seed and test sample; samples of one video, speaker, ... have the same group
history.csv         losses per seed and epoch
normalisation.safetensors
seeds/42/head.safetensors
learning_curve.png, and one of confusion_matrix.png (a class each), each_label.png (several labels),
predicted_values.png (values)
plots/              what `msa fuse plot` drew, each a PNG and a CSV
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from msa.annotations.cells import Writer
from msa.cache.format import files
from msa.errors import ConfigError, MsaError
from msa.fuse import files as runfiles
from msa.fuse import metrics
from msa.fuse.data import memory
from msa.fuse.data.table import Normalisation, Subset
from msa.fuse.files import refuse
from msa.fuse.head import FusionHead
from msa.fuse.runs import plots
from msa.fuse.runs.files import make_folder, numbers_in, subfolder, table_rows, tensors, write_json, written
from msa.fuse.runs.node import Node
from msa.fuse.runs.predictions import Tested, as_number, in_words
from msa.fuse.runs.record import Facts, check_metrics, decoded
from msa.fuse.runs.summary import SeedResult, machine, summary, versions
from msa.fuse.train.model import Model
from msa.names import shell_command
from msa.types import Modality, Task

CHECKPOINT = "checkpoint.pt"  # below seeds/42, after every epoch
FIT = "fit.pt"  # there when that seed is trained
MACHINE = "machine.json"  # where and with how many threads, if it was another process; all are deleted at the end


def drawn_only(drawn: Sequence[str]) -> str:
    """Return the name of the baseline that a leaky pairing needs: a probe of what was drawn by the label alone."""
    return f"probe, {' and '.join(drawn)} only"


@dataclass(frozen=True)
class Run:
    """The folder of a training, begun or finished."""

    folder: Path
    record: Mapping[str, Any]  # run.json
    metrics: Mapping[str, Any]  # metrics.json; empty until it is finished

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run, and check all that it says. Raises ConfigError where the folder is none, or is damaged."""
        try:
            root = Node.read(folder / "run.json")
        except FileNotFoundError:
            raise ConfigError(f"{folder} is not a run", fix="name a folder `msa fuse train` wrote") from None
        run = cls(folder, root.value, {})
        run._check(root)
        try:
            scores = Node.read(folder / "metrics.json")
        except FileNotFoundError:
            return run
        seeds = [int(seed) for seed in root.value["experiment"]["seeds"]]
        check_metrics(scores, run.task, seeds, run.model.training.criterion(run.task))
        return replace(run, metrics=scores.value)

    def _check(self, root: Node) -> None:
        decoded(root)
        try:
            self.model  # noqa: B018 - its settings are checked as they are decoded
        except MsaError as error:
            raise ConfigError(f"{root.file}: {error.what}", fix=error.fix) from None

    @classmethod
    def begin(cls, folder: Path, experiment: Mapping[str, Any], facts: Mapping[str, Any]) -> "Run":
        """Write run.json; a folder with the same experiment is taken up again. Raises ConfigError for another one."""
        if os.path.lexists(folder / "run.json"):
            begun = cls.open(folder)
            if begun.record["experiment"] != json.loads(json.dumps(experiment)):
                raise ConfigError(f"{folder} holds another experiment", fix="name another folder with --out")
            then, now = begun.facts.hidden_states, facts["hidden_states"]
            if then != now:
                described = [", ".join(f"{n} {m}" for m, n in counts.items()) for counts in (then, now)]
                raise ConfigError(
                    f"{folder} was begun on the hidden states of {described[0]}, and the store now has {described[1]}",
                    fix="go on with those it was begun on: "
                    + shell_command("msa", "fuse", "train", "--resume", folder),
                )
            return begun
        make_folder(folder)
        about = {"experiment": experiment, "data": facts, "versions": versions(), "machine": machine()}
        write_json(folder / "run.json", about | {"begun": datetime.now(UTC).isoformat(timespec="seconds")}, new=True)
        return cls.begin(folder, experiment, facts)  # where another process was faster it is its experiment that counts

    @cached_property
    def facts(self) -> Facts:
        """Return the facts about its data."""
        return decoded(Node(self.folder / "run.json", "", self.record))

    @property
    def task(self) -> Task:
        """Return what is predicted."""
        return self.facts.task

    @cached_property
    def model(self) -> Model:
        """Return the head and its settings."""
        return Model.from_json(self.record["experiment"]["model"])

    @property
    def dims(self) -> Mapping[Modality, int]:
        """Return the width of each modality it was trained on."""
        return self.facts.dims

    @property
    def best_seed(self) -> int:
        """Return the seed that is best on validation, by the criterion of its epochs; it makes the predictions."""
        if not self.metrics:
            raise ConfigError(
                f"{self.folder} is not finished", fix=shell_command("msa", "fuse", "train", "--resume", self.folder)
            )
        by = self.model.training.criterion(self.task)
        return int(min(self.metrics["seeds"], key=lambda row: row[by])["seed"])

    def head(self, seed: int | None = None) -> FusionHead:
        """Return the trained head of a seed, in evaluation mode on the CPU.

        Raises ConfigError where its file is missing or damaged, and where it is not of the head that run.json names:
        found out by names and shapes, before memory is taken for what run.json says.
        """
        chosen = self.best_seed if seed is None else seed
        path = self.folder / "seeds" / str(chosen) / "head.safetensors"
        room = min(numbers_in(path), memory.free("cpu") / 4)
        try:
            shapes = self.model.shapes(self.dims, self.task, room)
        except MsaError as error:
            raise ConfigError(f"{self.folder}/run.json does not fit {path}: {error.what}", fix=error.fix) from None
        head = self.model.build(self.dims, self.task)
        head.restore(tensors(path, shapes), path)
        return head.eval()

    def normalisation(self) -> Normalisation:
        """Return the training split's statistics. Raises ConfigError where they do not match the run's modalities."""
        path = self.folder / "normalisation.safetensors"
        wanted = [m for m in self.dims if m in self.model.training.normalise]
        names = {f"{m}.{what}": (self.dims[m],) for m in wanted for what in ("mean", "std")}
        statistics = {name: tensor.float().numpy() for name, tensor in tensors(path, names).items()}
        for m in wanted:
            mean, std = statistics[f"{m}.mean"], statistics[f"{m}.std"]
            if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
                refuse(path, f"{m} is no mean and standard deviation: one is infinite, or not above 0")
        by_modality = {m: (statistics[f"{m}.mean"], statistics[f"{m}.std"]) for m in wanted}
        return Normalisation(by_modality, self.model.training.stats)

    def finish(
        self,
        task: Task,
        test: Subset,
        results: Sequence[SeedResult],
        others: Mapping[str, Sequence[SeedResult]],
        constant: np.ndarray,
        norm: Normalisation,
        head: FusionHead,
    ) -> None:
        """Write everything but run.json; metrics.json comes last and makes the run a finished one."""
        for row in results:
            state = {name: tensor.contiguous() for name, tensor in row.fit.state.items()}
            runfiles.write(self._of_seed(row.seed) / "head.safetensors", save(state))
        stats = {name: torch.from_numpy(values) for name, values in norm.named()}
        runfiles.write(self.folder / "normalisation.safetensors", save(stats))
        self._write_predictions(task, test, results)
        self._write_history(results)
        self._draw(task, test, results)
        measured = [replace(row, machine=self._machine_of(row.seed)) for row in results]
        write_json(self.folder / "metrics.json", summary(task, test, measured, others, constant, head))
        for row in results:
            home = self._of_seed(row.seed)
            left = [path for path in home.glob(f"{files.TEMPORARY}*") if path.is_symlink() or path.is_file()]
            for path in [*left, *(home / name for name in (CHECKPOINT, FIT, MACHINE))]:
                path.unlink(missing_ok=True)

    def _of_seed(self, seed: int) -> Path:
        """Return the folder of a seed, made if missing; never a link, which might lead out of the run."""
        return subfolder(self.folder, "seeds", str(seed))

    def trained(self, seed: int) -> bool:
        """Return whether this seed has been trained, also where the run is not finished."""
        home = self.folder / "seeds" / str(seed)
        return (home / FIT).exists() or (home / "head.safetensors").exists()

    def note_machine(self, seed: int) -> None:
        """Keep on what machine this process trains a seed: the one that finishes the run may be another."""
        write_json(self._of_seed(seed) / MACHINE, machine())

    def _machine_of(self, seed: int) -> dict[str, Any]:
        try:
            noted = Node.read(self.folder / "seeds" / str(seed) / MACHINE)
        except FileNotFoundError:
            return machine()
        return {"device": noted["device"].text(), "threads": noted["threads"].whole()}

    def tested(self) -> "Tested":
        """What every seed said of the test split, from predictions.csv; in those of older runs, each sample is a group
        of its own."""
        path = self.folder / "predictions.csv"
        columns = [f"p_{name}" for name in self.task.classes] or ["predicted"]
        seeds = {str(seed) for seed in self.record["experiment"]["seeds"]}
        by_seed: dict[str, dict[tuple[str, str], tuple[str, int, list[float]]]] = {}  # by seed, then by sample
        for line, row in table_rows(path):
            try:
                values = [float(row[column]) for column in columns]
                group = int(row["group"]) if "group" in row else len(by_seed.get(row["seed"], ()))
                as_number(self.task, row["label"])
                if row["seed"] not in seeds or not np.isfinite(values).all() or not 0 <= group < 2**63:
                    raise ValueError("another seed, or a number that cannot be")
            except (KeyError, ValueError) as error:
                refuse(path, f"line {line} is no prediction of this run: {error}")
            by_seed.setdefault(row["seed"], {})[row["corpus"], row["id"]] = row["label"], group, values
        first, *others = by_seed.values() or [{}]
        if not first or any(list(other) != list(first) for other in others):
            refuse(path, "does not hold the same samples of every seed")
        y = np.array([as_number(self.task, label) for label, *_ in first.values()])
        groups = np.array([number for _, number, _ in first.values()], np.int64)
        outputs = [np.array([values for *_, values in of.values()]) for of in by_seed.values()]
        return Tested(list(first), y, groups, outputs)

    @property
    def pictures(self) -> list[str]:
        """Return the file names of its plots."""
        return sorted(path.name for path in self.folder.glob("*.png"))

    def _draw(self, task: Task, test: Subset, rows: Sequence[SeedResult]) -> None:
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
        """Return a title: head, datasets and pairing."""
        data = self.record["experiment"]["data"]
        corpora = " + ".join(name.partition("@")[0] for name in data["corpora"])
        protocol = self.facts.protocol
        return f"{self._named} on {corpora}" + (f" (pairing: {protocol})" if protocol else "")

    def _write_predictions(self, task: Task, test: Subset, rows: Sequence[SeedResult]) -> None:
        names = [f"p_{name}" for name in task.classes] if task.classes else ["predicted"]
        with written(self.folder / "predictions.csv") as file:
            table = Writer(file)
            named = ["seed", "corpus", "id", "group", "label", *(["predicted"] if task.classes else [])]
            table.row([*named, *names])
            group = metrics.in_order(test.groups()[0])
            for row in rows:
                for corpus, name, number, y, p in zip(test.corpus, test.ids, group, test.y, row.output, strict=True):
                    words = in_words(task, y, p)
                    table.row([row.seed, corpus, name, number, *words, *(f"{value:.9g}" for value in p)])

    def _write_history(self, rows: Sequence[SeedResult]) -> None:
        columns = list(dict.fromkeys(name for row in rows for epoch in row.fit.history for name in epoch))
        with written(self.folder / "history.csv") as file:
            table = Writer(file)
            table.row(["seed", *columns])
            for row in rows:
                table.rows([row.seed, *map(epoch.get, columns)] for epoch in row.fit.history)
