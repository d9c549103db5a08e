"""A task of a dask cluster, and what a worker does with it: a work unit into sealed segments, published by the driver.

No arithmetic of its own: the unit is worked through as in one process. The model stays with its worker, and a worker of
two threads commits one task while it encodes the next.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from msa.cache.format.manifest import SegmentEntry
from msa.cache.write.segment import Form, SegmentWriter
from msa.device import pick_device
from msa.errors import MsaError
from msa.extract.backbone import Backbone
from msa.extract.device import use_threads
from msa.extract.pipeline import Engine, work_through
from msa.extract.recipe import Recipe, run_facts
from msa.extract.work import isolation
from msa.extract.work.crash_journal import PREFIX, CrashJournal
from msa.extract.work.forward import device_lost
from msa.extract.work.meter import Meter
from msa.extract.work.units import Counters, ViewJob, WorkUnit
from msa.extract.work.view_run import budget_of
from msa.types import Modality

ISOLATED = 2  # from this attempt on a task runs in a process below the worker


@dataclass(frozen=True)
class Task:
    """All that a worker has to know."""

    store: str
    dataset: str
    name: str  # of its segments and crash journals
    recipes: Mapping[Modality, Recipe]
    unit: WorkUnit
    device: str
    timeout_s: float
    flush_s: float
    facts: Mapping[str, Any]  # of the plan
    threads: int = 1  # of a forward, as in the process of the driver: their number decides the last bits
    attempt: int = 0

    def view(self, modality: Modality) -> Path:
        """Return the folder of a view."""
        return Path(self.store) / "views" / self.recipes[modality].view_id

    def segment(self, modality: Modality) -> Path:
        """Return the folder of a segment."""
        return self.view(modality) / "seg" / self.name

    def journal(self, modality: Modality) -> Path:
        """Return the crash journal of a view."""
        return self.view(modality) / f"{PREFIX}{self.name}"

    @property
    def begun(self) -> bool:
        """Whether a worker has begun it."""
        return any(self.segment(m).exists() or self.journal(m).exists() for m in self.recipes)


@dataclass(frozen=True)
class Problem:
    """An MsaError in parts: whole it would not survive a pickle."""

    kind: type[MsaError]
    what: str
    fix: str

    @classmethod
    def of(cls, error: MsaError) -> "Problem":
        """Take an error apart."""
        return cls(type(error), error.what, error.fix)

    def reraise(self) -> NoReturn:
        """Raise the error again."""
        error = self.kind.__new__(self.kind)
        MsaError.__init__(error, self.what, fix=self.fix)  # subclasses take other arguments
        raise error


@dataclass
class TaskResult:
    """What became of a task: manifest entries and counters by modality, and how long it took."""

    entries: dict[Modality, SegmentEntry] = field(default_factory=dict)
    counters: dict[Modality, Counters] = field(default_factory=dict)
    seconds: float = 0.0
    share: float = 1.0  # of the model's peak throughput
    problem: Problem | None = None  # that ended it
    begun_before: bool = False  # by a worker that died of it, perhaps


_models: dict[tuple[str, str], Backbone] = {}  # (view id, device) -> the model: loaded once per worker
_one_at_a_time = threading.Lock()  # a worker with many threads still has one model


def run(task: Task) -> TaskResult:
    """Work through a unit into sealed segments."""
    result, began, meter = TaskResult(), time.monotonic(), Meter()
    jobs: dict[Modality, ViewJob] = {}
    with ExitStack() as stack:
        with _one_at_a_time:
            if task.begun:  # the scheduler repeats tasks by itself: one dead worker is enough
                return TaskResult(begun_before=True)
            try:
                use_threads(task.threads)
                device = pick_device(task.device)
                models = _models_of(task.recipes, device)
                began = time.monotonic()
                for m in task.recipes:
                    jobs[m] = stack.enter_context(_job(task, m, models[m], device))
                if task.attempt < ISOLATED:
                    work_through(task.unit, jobs, Engine(timeout_s=task.timeout_s), meter, _ignore)
                else:
                    isolation.work_through(task.unit, jobs, device, task.timeout_s, _ignore)
            except MsaError as error:
                if device_lost(error):
                    os._exit(1)  # the nanny starts a worker that has its device again
                result.problem = Problem.of(error)
        for m, job in jobs.items():  # while the next task has the model
            entry = job.writer.seal()
            result.counters[m] = job.counters
            if entry:
                result.entries[m] = entry
    result.seconds, result.share = time.monotonic() - began, meter.share
    return result


@contextmanager
def _job(task: Task, m: Modality, backbone: Backbone, device: str) -> Iterator[ViewJob]:
    recipe, facts = task.recipes[m], {**run_facts(backbone, device), **task.facts}
    form = Form.of(backbone.dim, recipe.spec.dtype)
    writer = SegmentWriter(task.segment(m), task.dataset, form, facts, task.flush_s)
    with CrashJournal.kept(task.view(m), task.name, task.dataset) as journal:
        yield ViewJob(recipe, backbone, writer, task.unit.todo[m], journal)


def budgets(recipes: Mapping[Modality, Recipe], device: str) -> dict[Modality, int] | Problem:
    """Return the default budget of a batch on this worker's device, which the driver need not have."""
    with _one_at_a_time:
        try:
            picked = pick_device(device)
            return {m: budget_of(recipes[m], model, picked) for m, model in _models_of(recipes, picked).items()}
        except MsaError as error:
            return Problem.of(error)


def _models_of(recipes: Mapping[Modality, Recipe], device: str) -> dict[Modality, Backbone]:
    """Return the models of these recipes. Models of earlier work are closed."""
    wanted = {(recipe.view_id, device): recipe for recipe in recipes.values()}
    for key in _models.keys() - wanted.keys():
        _models.pop(key).close()
    for key in wanted.keys() - _models.keys():
        _models[key] = wanted[key].load(device)
    return {m: _models[recipe.view_id, device] for m, recipe in recipes.items()}


def _ignore(modality: Modality, rows: Sequence[int], written: int, failed: int) -> None:
    """No-op progress callback: the result reports everything."""
