"""The same work on a dask cluster: a task is a segment, the model stays with its worker, only receipts come back.

No arithmetic of its own: a task is a `Piece`, worked through as in one process. Tasks begin small and grow to ten
seconds; two are in flight per worker, so that none waits for the driver, and a worker of two threads commits one while
it encodes the next. What is finished is published every few seconds.

A task that kills its worker is tried again, and then in a process below the worker (isolation.py), which finds the
sample at fault. The nanny brings the worker back.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from msa.cache.store import FeatureStore
from msa.cache.write import segment
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import BackboneError, ConfigError, MsaError
from msa.extract.backbone import Backbone
from msa.extract.device import pick_device, threads, use_threads
from msa.extract.pipeline import Run, budget_of, confine, piece_of, planned_for, suspects
from msa.extract.recipe import Recipe, run_facts
from msa.extract.work import isolation
from msa.extract.work.crash_journal import PREFIX, Note, lost, remove
from msa.extract.work.plan import Plan
from msa.extract.work.stages import Meter
from msa.extract.work.units import Engine, Piece, Station, Tally, work_through
from msa.progress import Progress
from msa.types import Modality

ISOLATED = 2  # from this attempt on in a process below the worker
GIVE_UP = 5  # attempts at a task, and workers in a row that die before the first sample of theirs
TASK_S = 10.0  # what a task should take
IN_FLIGHT = 2  # tasks per worker
PUBLISH_S = 5.0
ABANDONED_S = 120.0  # without any worker


@dataclass(frozen=True)
class Cluster:
    """A scheduler that runs already, or as many workers on this machine."""

    scheduler: str | None = None  # tcp://HOST:PORT, or a scheduler file
    workers: int = 2
    timeout_s: float = 600.0  # for decoding one sample

    def spread(self, runs: Sequence[Run], device: str, progress: Progress) -> None:
        """Bring the views of `runs` up to date. Raises ConfigError where no scheduler answers."""
        with _client(self) as client:
            asked = client.submit(budgets_there, {run.modality: run.recipe for run in runs}, device, pure=False)
            with ExitStack() as stack:
                for run in runs:  # meanwhile, for its width, its versions and the sizes it counts
                    stack.enter_context(run.loaded("cpu"))
                budgets = _answer(client, asked)
                for run in runs:
                    run.budget = run.limits.budget or budgets[run.modality]
                planned = planned_for(runs)
            confine(runs, planned, progress)
            _Driver(runs, self, device, progress, client, planned).run(piece_of(runs, planned.batches))


@dataclass(frozen=True)
class Order:
    """A task: all a worker has to know."""

    store: str
    dataset: str
    name: str  # of its segments and notes
    recipes: Mapping[Modality, Recipe]
    piece: Piece
    budgets: Mapping[Modality, int]  # of a forward
    device: str
    timeout_s: float
    flush_s: float
    facts: Mapping[str, Any]  # of the plan
    threads: int = 1  # of a forward, as in the process of the driver: their number decides the last bits
    attempt: int = 0

    def view(self, modality: Modality) -> Path:
        """The folder of a view."""
        return Path(self.store) / "views" / self.recipes[modality].view_id

    def segment(self, modality: Modality) -> Path:
        """The folder of a segment."""
        return self.view(modality) / "seg" / self.name

    def note(self, modality: Modality) -> Path:
        """Where the worker notes what is at work."""
        return self.view(modality) / f"{PREFIX}{self.name}"

    @property
    def begun(self) -> bool:
        """Has a worker begun it?"""
        return any(self.segment(m).exists() or self.note(m).exists() for m in self.recipes)


Problem = tuple[type[MsaError], str, str]  # an error of ours, in parts: whole it would not survive a pickle


@dataclass
class Receipt:
    """What a task came to: manifest entries by modality, tallies, and how long it took."""

    entries: dict[Modality, dict[str, Any]] = field(default_factory=dict)
    tallies: dict[Modality, Tally] = field(default_factory=dict)
    seconds: float = 0.0
    share: float = 1.0  # of the bare forward's speed
    problem: Problem | None = None  # that ended it
    begun_before: bool = False  # by a worker that died of it, perhaps


# what a worker does

_models: dict[tuple[str, str], Backbone] = {}  # (view id, device) -> the model: loaded once per worker
_one_at_a_time = threading.Lock()  # a worker with many threads still has one model


def do(order: Order) -> Receipt:
    """Work through a piece into segments that are sealed, and published by the driver."""
    receipt, began, meter = Receipt(), time.monotonic(), Meter()
    stations: dict[Modality, Station] = {}
    with ExitStack() as stack:
        with _one_at_a_time:
            if order.begun:  # this scheduler tries again by itself: one dead worker is enough
                return Receipt(begun_before=True)
            try:
                use_threads(order.threads)
                device = pick_device(order.device)
                models = _models_of(order.recipes, device)
                began = time.monotonic()
                for m in order.recipes:
                    stations[m] = stack.enter_context(_station(order, m, models[m], device))
                if order.attempt < ISOLATED:
                    work_through(order.piece, stations, Engine(timeout_s=order.timeout_s), meter, _unwatched)
                else:
                    isolation.work_through(order.piece, stations, device, order.timeout_s, _unwatched)
            except MsaError as error:
                if lost(str(error)):
                    os._exit(1)  # the nanny brings back a worker that has its device
                receipt.problem = _told(error)
        for m, station in stations.items():  # while the next task has the model
            entry = station.writer.seal()
            receipt.tallies[m] = station.tally
            if entry:
                receipt.entries[m] = entry
    receipt.seconds, receipt.share = time.monotonic() - began, meter.share
    return receipt


@contextmanager
def _station(order: Order, m: Modality, backbone: Backbone, device: str) -> Iterator[Station]:
    recipe, facts = order.recipes[m], {**run_facts(backbone, device), **order.facts}
    form = Form.of(backbone.dim, recipe.spec.dtype)
    writer = SegmentWriter(order.segment(m), order.dataset, form, facts, order.flush_s)
    with Note.kept(order.view(m), order.name, order.dataset) as note:
        yield Station(recipe, backbone, writer, order.piece.todo[m], order.piece.digests[m], note, order.budgets[m])


def budgets_there(recipes: Mapping[Modality, Recipe], device: str) -> dict[Modality, int] | Problem:
    """What a forward may hold on the device of this worker, which the driver need not have."""
    with _one_at_a_time:
        try:
            picked = pick_device(device)
            return {m: budget_of(recipes[m], model, picked) for m, model in _models_of(recipes, picked).items()}
        except MsaError as error:
            return _told(error)


def _told(error: MsaError) -> Problem:
    return type(error), error.what, error.fix


def _models_of(recipes: Mapping[Modality, Recipe], device: str) -> dict[Modality, Backbone]:
    """The models of these recipes. Others, of work that is done, give back what they hold."""
    wanted = {(recipe.view_id, device): recipe for recipe in recipes.values()}
    for key in _models.keys() - wanted.keys():
        _models.pop(key).close()
    for key in wanted.keys() - _models.keys():
        _models[key] = wanted[key].load(device)
    return {m: _models[recipe.view_id, device] for m, recipe in recipes.items()}


def _unwatched(modality: Modality, rows: Sequence[int], written: int, failed: int) -> None:
    """Nobody looks on: the receipt tells it all."""


# what the driver does


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
            dashboard_address=":0",  # any port that is free, and no remark about it
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )
        yield stack.enter_context(Client(stack.enter_context(local)))


def _answer(client: Any, asked: Any) -> Any:
    """What a worker says. Raises BackboneError where none is left to say it, and what it had to complain of."""
    from distributed import KilledWorker

    _wait(client, asked.done)
    try:
        said = asked.result()
    except KilledWorker as error:
        raise _hopeless(error) from None
    return said if isinstance(said, dict) else _raise(said)


def _wait(client: Any, ready: Callable[[], bool]) -> None:
    """Until it is so. Raises BackboneError where no worker is left to bring it about."""
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
    """Workers that are there. Raises BackboneError where there is no scheduler to ask."""
    try:
        return len(client.nthreads())  # `scheduler_info` tells of five at most in some versions
    except OSError as error:
        raise _gone(error) from None


def _raise(problem: Problem) -> NoReturn:
    kind, what, fix = problem
    error = kind.__new__(kind)
    MsaError.__init__(error, what, fix=fix)  # its children are made from other things
    raise error


def _hopeless(error: BaseException | None) -> BackboneError:
    return BackboneError(
        f"workers die over and over before the first sample of a task ({error})",
        fix="look at their logs: a model that does not fit in their memory is the usual reason",
    )


def _gone(error: BaseException) -> BackboneError:
    return BackboneError(
        f"the scheduler is gone ({error}); what was finished is in the store",
        fix="look at its log, start it again, and give the same command",
    )


class _Driver:
    """Hands out pieces, takes receipts, publishes."""

    def __init__(
        self, runs: Sequence[Run], cluster: Cluster, device: str, progress: Progress, client: Any, planned: Plan
    ) -> None:
        self.runs = {run.modality: run for run in runs}
        self.cluster, self.device, self.progress, self.client, self.planned = cluster, device, progress, client, planned
        self.store: FeatureStore = runs[0].store
        self.sealed: dict[Modality, list[dict[str, Any]]] = {m: [] for m in self.runs}
        self.published = time.monotonic()
        self.batch_s = 0.0  # measured: seconds per batch
        self.workers = 1  # when last looked
        self.vain = 0  # workers in a row that died before they had begun

    def run(self, piece: Piece) -> None:
        """Until every batch is in the store or recorded as failed; what is finished is published whatever happens."""
        from distributed import KilledWorker, as_completed
        from distributed.client import FutureCancelledError

        usual, feared = piece.divided(suspects(list(self.runs.values())))
        left = list(usual.batches)
        began, flying = time.monotonic(), as_completed()
        orders: dict[str, Order] = {}

        def send(order: Order) -> None:
            future = self.client.submit(do, order, pure=False, retries=0)
            orders[future.key] = order
            flying.add(future)

        try:
            while left or orders or feared.batches:
                self.workers = max(1, _present(self.client))
                while left and len(orders) < IN_FLIGHT * self.workers:
                    n = self._how_many(len(left))
                    send(self._order(piece, left[:n]))
                    del left[:n]
                if not left and feared.batches:
                    send(self._order(piece, feared.batches, ISOLATED))
                    feared = Piece((), {}, {}, {})
                _wait(self.client, flying.has_ready)
                future = next(flying)
                order = orders.pop(future.key)
                try:
                    receipt = future.result()  # it lies with its worker, which may have died since
                except KilledWorker as error:
                    send(self._after(order, error))
                except FutureCancelledError as error:
                    raise _gone(error) from None
                else:
                    send(self._after(order)) if receipt.begun_before else self._take(order, receipt)
        finally:
            self._publish()
            for run in self.runs.values():
                run.report.seconds, run.report.padding = time.monotonic() - began, self.planned.padding
                self.store.recover(run.recipe.view_id)  # what dead workers had committed
                run.forget_suspects()

    def _how_many(self, left: int) -> int:
        """Batches of the next task: one to begin with, then as many as take ten seconds, and never the last in one."""
        wanted = int(TASK_S / self.batch_s) if self.batch_s else 1
        return max(1, min(wanted, left // (IN_FLIGHT * self.workers)))

    def _order(self, piece: Piece, batches: Sequence[tuple[int, ...]], attempt: int = 0) -> Order:
        rows = {row for batch in batches for row in batch}
        mine = Piece(
            batches,
            {m: frozenset(rows & todo) for m, todo in piece.todo.items()},
            {row: piece.raws[row] for row in rows},
            {m: {row: digests[row] for row in rows if row in digests} for m, digests in piece.digests.items()},
            piece.bounds,
        )
        first = next(iter(self.runs.values()))
        return Order(
            store=str(self.store.path.resolve()),
            dataset=first.dataset,
            name=segment.new_name(),
            recipes={m: run.recipe for m, run in self.runs.items()},
            piece=mine,
            budgets={m: run.budget for m, run in self.runs.items()},
            device=self.device,
            timeout_s=self.cluster.timeout_s,
            flush_s=first.limits.flush_s,
            facts={"plan": self.planned.facts},
            threads=threads(),
            attempt=attempt,
        )

    def _take(self, order: Order, receipt: Receipt) -> None:
        self.vain = 0
        self.batch_s = receipt.seconds / len(order.piece.batches)
        for m, entry in receipt.entries.items():
            self.sealed[m].append(entry)
        for m, tally in receipt.tallies.items():
            run = self.runs[m]
            run.report.add(tally, run.scan.index.ids)
            run.report.share = receipt.share
            self.progress.advance(tally.written, len(tally.failed))
        if receipt.problem:
            _raise(receipt.problem)
        for run in self.runs.values():
            run.stop_if_too_many_failed(run.report.failed)
        if time.monotonic() - self.published > PUBLISH_S:
            self._publish()

    def _publish(self) -> None:
        for m, entries in self.sealed.items():
            self.store.publish(self.runs[m].recipe.view_id, entries)
            entries.clear()
        self.published = time.monotonic()

    def _after(self, order: Order, error: BaseException | None = None) -> Order:
        """What to do about a task whose worker died: again, then apart. Raises BackboneError where that is no use."""
        begun = order.begun
        for m in order.recipes:
            remove(order.note(m))  # else whoever comes next suspects what this run sees to itself
        self.vain = 0 if begun else self.vain + 1
        if order.attempt == GIVE_UP or self.vain > GIVE_UP * IN_FLIGHT * self.workers:
            raise _hopeless(error)
        # one that was not begun was waiting behind the one at fault
        return self._order(order.piece, order.piece.batches, order.attempt + begun)
