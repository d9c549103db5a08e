"""The same work on a dask cluster: a task is a segment, the model stays with its worker, only receipts come back.

No arithmetic of its own: a task is a `Piece`, worked through as in one process. Tasks begin small and grow to ten
seconds; two are in flight per worker, so that none waits for the driver. What is finished is published every few
seconds.

A sample that kills its worker: the task is tried again, then sample by sample with a note of which one is at work; that
note convicts the sample, which becomes a record, and the rest of the task is done without it. The nanny brings the
worker back.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msa.cache import segment
from msa.cache.progress import Progress
from msa.cache.segment import Form, SegmentWriter
from msa.cache.store import FeatureStore
from msa.errors import BackboneError, ConfigError
from msa.extract.backbone import Backbone
from msa.extract.device import pick_device
from msa.extract.pipeline import Run, piece_of, planned_for
from msa.extract.plan import Plan
from msa.extract.recipe import Recipe, run_facts
from msa.extract.stages import Meter
from msa.extract.work import SERIAL, Engine, Piece, Station, Tally, work_through
from msa.types import Modality

GIVE_UP = 5  # attempts at a task whose worker dies before it has begun
TASK_S = 10.0  # what a task should take
IN_FLIGHT = 2  # tasks per worker
PUBLISH_S = 5.0
ABANDONED_S = 120.0  # without any worker
NOTE = "at-work~"  # beginning of the name of a file in the view


@dataclass(frozen=True)
class Cluster:
    """A scheduler that runs already, or as many workers on this machine."""

    scheduler: str | None = None  # tcp://HOST:PORT, or a scheduler file
    workers: int = 2

    def spread(self, runs: Sequence[Run], device: str, progress: Progress) -> None:
        """Bring the views of `runs` up to date. Raises ConfigError where no scheduler answers."""
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.loaded("cpu"))  # for its width, its versions and the sizes it counts
            planned = planned_for(runs)
        with _client(self) as client:
            _Driver(runs, device, progress, client, planned).run(piece_of(runs, planned.batches))


@dataclass(frozen=True)
class Order:
    """A task: all a worker has to know."""

    store: str
    dataset: str
    recipes: Mapping[Modality, Recipe]
    piece: Piece
    note: str  # file that says it has begun, and in a careful task which row is at work
    budgets: Mapping[Modality, int]  # of a forward
    device: str
    flush_s: float
    facts: Mapping[str, Any]  # of the plan
    attempt: int = 0  # from the second on, sample by sample

    @property
    def careful(self) -> bool:
        """Does it note which sample is at work?"""
        return self.attempt >= 2


@dataclass
class Receipt:
    """What a task came to: manifest entries by modality, tallies, and how long it took."""

    entries: dict[Modality, dict[str, Any]] = field(default_factory=dict)
    tallies: dict[Modality, Tally] = field(default_factory=dict)
    seconds: float = 0.0
    share: float = 1.0  # of the bare forward's speed


# what a worker does

_models: dict[tuple[str, str], Backbone] = {}  # (view id, device) -> the model: loaded once per worker
_one_at_a_time = threading.Lock()  # a worker with many threads still has one model


def do(order: Order) -> Receipt:
    """Work through a piece into segments that are sealed, and published by the driver."""
    with _one_at_a_time:
        note, began = Path(order.note), time.monotonic()
        note.touch()
        device, meter = pick_device(order.device), Meter()
        models = {m: _model(recipe, device) for m, recipe in order.recipes.items()}
        piece, stations = order.piece, {}
        for m, recipe in order.recipes.items():
            folder = Path(order.store) / "views" / recipe.view_id / "seg" / segment.new_name()
            form, facts = Form.of(models[m].dim, recipe.spec.dtype), {**run_facts(models[m], device), **order.facts}
            writer = SegmentWriter(folder, order.dataset, form, facts, order.flush_s)
            stations[m] = Station(recipe, models[m], writer, piece.todo[m], piece.digests[m], order.budgets[m])
        if order.careful:
            for row in sorted({row for batch in piece.batches for row in batch}):
                note.write_text(str(row))
                work_through(replace(piece, batches=[(row,)]), stations, SERIAL, meter, _unwatched)
        else:
            work_through(piece, stations, Engine(), meter, _unwatched)
        receipt = Receipt(share=meter.share)
        for m, station in stations.items():
            entry = station.writer.seal()
            receipt.tallies[m] = station.tally
            if entry:
                receipt.entries[m] = entry
        note.unlink(missing_ok=True)
        receipt.seconds = time.monotonic() - began
        return receipt


def _model(recipe: Recipe, device: str) -> Backbone:
    key = recipe.view_id, device
    if key not in _models:
        _models[key] = recipe.load(device)
    return _models[key]


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
        local = LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            dashboard_address=":0",  # any port that is free, and no remark about it
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )
        yield stack.enter_context(Client(stack.enter_context(local)))


class _Driver:
    """Hands out pieces, takes receipts, publishes."""

    def __init__(self, runs: Sequence[Run], device: str, progress: Progress, client: Any, planned: Plan) -> None:
        self.runs = {run.modality: run for run in runs}
        self.device, self.progress, self.client, self.planned = device, progress, client, planned
        self.store: FeatureStore = runs[0].store
        self.sealed: dict[Modality, list[dict[str, Any]]] = {m: [] for m in self.runs}
        self.published = time.monotonic()
        self.batch_s = 0.0  # measured: seconds per batch

    def run(self, piece: Piece) -> None:
        """Until every batch is in the store or recorded as failed; what is finished is published whatever happens."""
        from distributed import KilledWorker, as_completed

        left = list(piece.batches)
        began, flying = time.monotonic(), as_completed()
        orders: dict[str, Order] = {}

        def send(order: Order) -> None:
            future = self.client.submit(do, order, pure=False, retries=0)
            orders[future.key] = order
            flying.add(future)

        try:
            while left or orders:
                while left and len(orders) < IN_FLIGHT * max(1, len(self.client.scheduler_info()["workers"])):
                    n = self._how_many(len(left))
                    send(self._order(piece, left[:n]))
                    del left[:n]
                self._wait(flying)
                future = next(flying)
                order = orders.pop(future.key)
                try:
                    receipt = future.result()  # it lies with its worker, which may have died since
                except KilledWorker as error:
                    for again in self._after(order, error):
                        send(again)
                else:
                    self._take(order, receipt)
        finally:
            self._publish()
            for run in self.runs.values():
                run.report.seconds, run.report.padding = time.monotonic() - began, self.planned.padding
                self.store.recover(run.recipe.view_id)  # what dead workers had committed

    def _wait(self, flying: Any) -> None:
        """Until something has come back. Raises BackboneError where no worker is left that could send it."""
        asked = seen = time.monotonic()
        while not flying.has_ready():
            time.sleep(0.01)
            now = time.monotonic()
            if now - asked > PUBLISH_S:
                asked, there = now, self.client.scheduler_info()["workers"]
                seen = now if there else seen
            if now - seen > ABANDONED_S:
                raise BackboneError(
                    f"no worker has been there for {ABANDONED_S:g} s; what was finished is in the store",
                    fix="look at the workers' logs, start them again, and give the same command",
                )

    def _how_many(self, left: int) -> int:
        """Batches of the next task: one to begin with, then as many as take ten seconds, and never the last in one."""
        wanted = int(TASK_S / self.batch_s) if self.batch_s else 1
        return max(1, min(wanted, left // (2 * IN_FLIGHT)))

    def _order(self, piece: Piece, batches: Sequence[tuple[int, ...]], attempt: int = 0) -> Order:
        rows = {row for batch in batches for row in batch}
        mine = Piece(
            batches,
            {m: frozenset(rows & todo) for m, todo in piece.todo.items()},
            {row: piece.raws[row] for row in rows},
            {m: {row: d for row, d in digests.items() if row in rows} for m, digests in piece.digests.items()},
        )
        first = next(iter(self.runs.values()))
        return Order(
            str(self.store.path.resolve()),
            first.dataset,
            {m: run.recipe for m, run in self.runs.items()},
            mine,
            str(self.store.path.resolve() / "views" / first.recipe.view_id / f"{NOTE}{segment.new_name()}"),
            {m: run.budget for m, run in self.runs.items()},
            self.device,
            first.limits.flush_s,
            self.planned.facts,
            attempt,
        )

    def _take(self, order: Order, receipt: Receipt) -> None:
        self.batch_s = receipt.seconds / len(order.piece.batches)
        for m, tally in receipt.tallies.items():
            run = self.runs[m]
            run.report.add(tally, run.scan.index.ids)
            run.report.share = receipt.share
            self.progress.advance(tally.written, len(tally.failed))
            run.stop_if_too_many_failed(run.report.failed)
        for m, entry in receipt.entries.items():
            self.sealed[m].append(entry)
        if time.monotonic() - self.published > PUBLISH_S:
            self._publish()

    def _publish(self) -> None:
        for m, entries in self.sealed.items():
            self.store.publish(self.runs[m].recipe.view_id, entries)
            entries.clear()
        self.published = time.monotonic()

    def _after(self, order: Order, error: BaseException) -> list[Order]:
        """What to do about a task that failed: again, then carefully, then without the sample that was at work."""
        told = Path(order.note).read_text() if Path(order.note).exists() else None
        Path(order.note).unlink(missing_ok=True)
        if told is None:  # it was waiting behind the one at fault
            return [self._order(order.piece, order.piece.batches, order.attempt)]
        if order.attempt == GIVE_UP:
            raise BackboneError(
                f"{', '.join(run.recipe.label for run in self.runs.values())}: workers die over and over before the "
                f"first sample of a task ({error})",
                fix="look at the workers' logs: a model that does not fit in their memory is the usual reason",
            )
        if not told:  # not a careful one, or its worker died before the first sample
            return [self._order(order.piece, order.piece.batches, order.attempt + 1)]
        self._convict(int(told), order)
        rest = [(row,) for batch in order.piece.batches for row in batch if row != int(told)]
        return [self._order(order.piece, rest, order.attempt)] if rest else []

    def _convict(self, row: int, order: Order) -> None:
        """Record a sample that kills its process."""
        for m, run in self.runs.items():
            if row in order.piece.todo[m]:
                tally = Tally(failed=[(row, "encode", "killed the process that worked on it")])
                entry = run.record(tally)
                run.report.add(tally, run.scan.index.ids)
                self.progress.advance(0, 1)
                self.sealed[m] += [entry] if entry else []
