"""The same work on a dask cluster: a task is a segment, and only its manifest entry and counters come back.

Tasks begin small and grow to ten seconds; two are in flight per worker, so that none waits for the driver. What is
finished is published every few seconds.

A task that kills its worker is tried again, and then in a process below the worker (isolation.py), which finds the
sample at fault. The nanny starts a worker in place of a dead one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msa.cache.format.manifest import SegmentEntry
from msa.cache.store import FeatureStore
from msa.cache.write import segment
from msa.errors import BackboneError, ConfigError
from msa.extract.device import threads
from msa.extract.pipeline import confine, plan_of, suspects, unit_of
from msa.extract.work import cluster_worker, crash_journal
from msa.extract.work.cluster_worker import ISOLATED, Problem, Task, TaskResult
from msa.extract.work.plan import Plan
from msa.extract.work.units import WorkUnit
from msa.extract.work.view_run import ViewRun
from msa.progress import Progress
from msa.types import Modality

GIVE_UP = 5  # attempts at a task, and deaths of a worker in a row before it began its task
TASK_S = 10.0  # what a task should take
IN_FLIGHT = 2  # tasks per worker
PUBLISH_S = 5.0
ABANDONED_S = 120.0  # without any worker


@dataclass(frozen=True)
class Cluster:
    """A running scheduler, or a number of workers to start on this machine."""

    scheduler: str | None = None  # tcp://HOST:PORT, or a scheduler file
    workers: int = 2
    timeout_s: float = 600.0  # for decoding one sample

    def spread(self, views: Sequence[ViewRun], device: str, progress: Progress) -> None:
        """Bring `views` up to date. Raises ConfigError where no scheduler answers."""
        with _client(self) as client:
            asked = client.submit(
                cluster_worker.budgets, {view.modality: view.recipe for view in views}, device, pure=False
            )
            with ExitStack() as stack:
                for view in views:  # meanwhile, for its width, its versions and the sizes it counts
                    stack.enter_context(view.loaded("cpu"))
                budgets = _answer(client, asked)
                for view in views:
                    view.budget = view.limits.budget or budgets[view.modality]
                planned = plan_of(views)
            confine(views, planned, progress)
            _Driver(views, self, device, progress, client, planned).run(unit_of(views, planned))


@contextmanager
def _client(cluster: Cluster) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 0,  # what kills a worker is found here, not by killing more of them
        "distributed.deploy.lost-worker-timeout": "1h",  # else a second death within 15 s closes the nanny for good
        "distributed.logging.distributed": "critical",
    }
    with dask.config.set(settings), ExitStack() as stack:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if cluster.scheduler is not None:
            try:
                address = {"scheduler_file": cluster.scheduler} if Path(cluster.scheduler).is_file() else {}
                yield stack.enter_context(Client(None if address else cluster.scheduler, timeout="5s", **address))
                return
            except OSError as error:
                raise ConfigError(
                    f"no dask scheduler answers at {cluster.scheduler} ({error})",
                    fix="start one with `dask scheduler`, or leave --scheduler out: --workers N starts some here",
                ) from None
        # dask gives its workers one thread for OpenMP and BLAS; here they compute as this process would
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        stack.enter_context(
            dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": threads() for name in names})
        )
        local = LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=IN_FLIGHT,
            dashboard_address=":0",  # any free port, without a warning
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )
        yield stack.enter_context(Client(stack.enter_context(local)))


def _answer(client: Any, asked: Any) -> Any:
    """Return what a worker answers. Raises BackboneError where no worker is left to answer, and the worker's error."""
    from distributed import KilledWorker

    _wait(client, asked.done)
    try:
        answer = asked.result()
    except KilledWorker as error:
        raise _workers_die(error) from None
    if isinstance(answer, Problem):
        answer.reraise()
    return answer


def _wait(client: Any, ready: Callable[[], bool]) -> None:
    """Wait until `ready`. Raises BackboneError where there is no worker for ABANDONED_S."""
    asked = seen = time.monotonic()
    while not ready():
        time.sleep(0.01)
        now = time.monotonic()
        if now - asked > PUBLISH_S:
            asked = now
            seen = now if _present(client) else seen
        if now - seen > ABANDONED_S:
            raise BackboneError(
                f"no worker has been there for {ABANDONED_S:g} s; what was finished is in the store",
                fix="look at the workers' logs, start them again, and give the same command",
            )


def _present(client: Any) -> int:
    """Count the workers. Raises BackboneError where there is no scheduler to ask."""
    try:
        return len(client.nthreads())  # `scheduler_info` lists five at most in some versions
    except OSError as error:
        raise _scheduler_gone(error) from None


def _workers_die(error: BaseException | None) -> BackboneError:
    return BackboneError(
        f"workers die over and over before the first sample of a task ({error})",
        fix="look at their logs: a model that does not fit in their memory is the usual reason",
    )


def _scheduler_gone(error: BaseException) -> BackboneError:
    return BackboneError(
        f"the scheduler is gone ({error}); what was finished is in the store",
        fix="look at its log, start it again, and give the same command",
    )


class _Driver:
    """Sends tasks, takes their results, publishes."""

    def __init__(
        self, views: Sequence[ViewRun], cluster: Cluster, device: str, progress: Progress, client: Any, planned: Plan
    ) -> None:
        self.views = {view.modality: view for view in views}
        self.cluster, self.device, self.progress, self.client, self.planned = cluster, device, progress, client, planned
        self.store: FeatureStore = views[0].store
        self.sealed: dict[Modality, list[SegmentEntry]] = {m: [] for m in self.views}
        self.published = time.monotonic()
        self.batch_s = 0.0  # measured: seconds per batch
        self.workers = 1  # when last counted
        self.early_deaths = 0  # of workers in a row, before they had begun a task

    def run(self, unit: WorkUnit) -> None:
        """Run until every batch is in the store or failed; what is finished is published however this ends."""
        from distributed import KilledWorker, as_completed
        from distributed.client import FutureCancelledError

        safe, suspected = unit.split(suspects(list(self.views.values())))
        left, suspects_left = list(safe.batches), list(suspected.batches)
        began, futures = time.monotonic(), as_completed()
        tasks: dict[str, Task] = {}

        def send(task: Task) -> None:
            future = self.client.submit(cluster_worker.run, task, pure=False, retries=0)
            tasks[future.key] = task
            futures.add(future)

        try:
            while left or tasks or suspects_left:
                self.workers = max(1, _present(self.client))
                while left and len(tasks) < IN_FLIGHT * self.workers:
                    n = self._batches_of_next(len(left))
                    send(self._task(unit.only(left[:n])))
                    del left[:n]
                if not left and suspects_left:
                    send(self._task(unit.only(suspects_left), ISOLATED))
                    suspects_left = []
                _wait(self.client, futures.has_ready)
                future = next(futures)
                done = tasks.pop(future.key)
                try:
                    result = future.result()  # it is with its worker, which may have died since
                except KilledWorker as error:
                    send(self._again(done, error))
                except FutureCancelledError as error:
                    raise _scheduler_gone(error) from None
                else:
                    send(self._again(done)) if result.begun_before else self._take(done, result)
        finally:
            self._publish()
            for view in self.views.values():
                view.report.seconds = time.monotonic() - began
                view.report.padding = self.planned.padding if view.backbone.batching == "padded" else 0.0
                self.store.recover(view.recipe.view_id)  # what dead workers had committed
                view.forget_suspects()

    def _batches_of_next(self, left: int) -> int:
        """Return how many batches the next task has: one at first, then as many as take ten seconds, never all."""
        wanted = int(TASK_S / self.batch_s) if self.batch_s else 1
        return max(1, min(wanted, left // (IN_FLIGHT * self.workers)))

    def _task(self, unit: WorkUnit, attempt: int = 0) -> Task:
        first = next(iter(self.views.values()))
        return Task(
            store=str(self.store.path.resolve()),
            dataset=first.dataset,
            name=segment.new_name(),
            recipes={m: view.recipe for m, view in self.views.items()},
            unit=unit,
            device=self.device,
            timeout_s=self.cluster.timeout_s,
            flush_s=first.limits.flush_s,
            facts={"plan": self.planned.facts},
            threads=threads(),
            attempt=attempt,
        )

    def _take(self, done: Task, result: TaskResult) -> None:
        self.early_deaths = 0
        self.batch_s = result.seconds / len(done.unit.batches)
        for m, entry in result.entries.items():
            self.sealed[m].append(entry)
        for m, counters in result.counters.items():
            view = self.views[m]
            view.report.add(counters, view.scan.index.ids)
            view.report.share = result.share
            self.progress.advance(counters.written, len(counters.failed))
        if result.problem:
            result.problem.reraise()
        for view in self.views.values():
            view.stop_if_too_many_failed(view.report.failed)
        if time.monotonic() - self.published > PUBLISH_S:
            self._publish()

    def _publish(self) -> None:
        for m, entries in self.sealed.items():
            self.store.publish(self.views[m].recipe.view_id, entries)
            entries.clear()
        self.published = time.monotonic()

    def _again(self, dead: Task, error: BaseException | None = None) -> Task:
        """Return the next attempt at a task whose worker died. Raises BackboneError where there were enough."""
        begun = dead.begun
        for m in dead.recipes:
            crash_journal.remove(dead.journal(m))  # this run tries them again itself, so that the next need not
        self.early_deaths = 0 if begun else self.early_deaths + 1
        if dead.attempt == GIVE_UP or self.early_deaths > GIVE_UP * IN_FLIGHT * self.workers:
            raise _workers_die(error)
        # a task that was not begun was waiting behind the one at fault
        return self._task(dead.unit, dead.attempt + begun)
