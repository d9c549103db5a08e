"""Stage 1, top to bottom: recover -> borrow -> plan -> decode | forward | write -> publish.

Whatever happens to a run - a broken file, a full disk, Ctrl-C, a power cut - what it committed is kept, and the next
run goes on from there. A sample that cannot be had becomes a record with its stage and reason.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from msa.cache import housekeeping
from msa.cache.files import naming_a_full_disk
from msa.cache.progress import Progress, Unwatched
from msa.cache.segment import FLUSH_AFTER_S, Form, SegmentWriter
from msa.cache.store import FeatureStore
from msa.cache.view import View
from msa.errors import BackboneError, StoreError
from msa.extract import media
from msa.extract.backbone import Backbone
from msa.extract.device import fitting, pick_device
from msa.extract.plan import Plan, plan
from msa.extract.recipe import Recipe, run_facts
from msa.extract.scan import Scan
from msa.extract.stages import Meter
from msa.extract.work import Engine, Piece, Station, Tally, work_through
from msa.types import Modality

CPU_BATCH = 8  # where a backbone states no budget: a CPU gains nothing from more


@dataclass
class Report:
    """What became of the samples of one view in this run."""

    name: str
    modality: Modality
    view_id: str
    wanted: int
    already: int = 0  # there before, in whatever way
    failed_before: int = 0  # and were not tried again
    recovered: int = 0  # of them, left by a killed run
    borrowed: int = 0  # of them, extracted for another index of the same inputs
    written: int = 0
    failed: list[tuple[str, str, str]] = field(default_factory=list)  # id, stage, reason
    counts: Mapping[str, int] = field(default_factory=dict)  # what the backbone counted: frames without a face
    seconds: float = 0.0
    padding: float = 0.0  # share of what was computed
    share: float = 1.0  # of the bare forward's speed
    bound: str = "forward"  # what decided the speed: forward, decode or write

    def add(self, tally: Tally, ids: Sequence[str]) -> None:
        """What a piece of work came to."""
        self.written += tally.written
        self.failed += [(ids[row], stage, reason) for row, stage, reason in tally.failed]
        self.counts = {k: self.counts.get(k, 0) + tally.counts.get(k, 0) for k in {**self.counts, **tally.counts}}


@dataclass(frozen=True)
class Limits:
    """How much of a corpus to extract, and when to stop."""

    samples: int | None = None  # the first so many of the index
    max_errors: int | None = None
    retry_errors: bool = False
    flush_s: float = FLUSH_AFTER_S  # commit at least so often
    budget: int | None = None  # of a batch, in tokens, frames or samples; None: what the backbone says
    share: tuple[int, int] = (1, 1)  # the i-th of n parts of the work


class Elsewhere(Protocol):
    """An engine that does the work in other processes."""

    def spread(self, runs: Sequence["Run"], device: str, progress: Progress) -> None:
        """Bring the views of `runs` up to date."""


def extract(
    store: FeatureStore,
    scan: Scan,
    recipes: Sequence[Recipe],
    device: str,
    limits: Limits = Limits(),
    progress: Progress = Unwatched(),
    engine: Engine | Elsewhere = Engine(),
) -> list[Report]:
    """Bring views of one corpus up to date, one of each modality, in one pass: a video is decoded once for all.

    Raises MsaError where going on makes no sense; nothing is lost then.
    """
    with naming_a_full_disk(store.path):
        before = store.datasets.get(scan.index.name)
        dataset = store.add_index(scan.index)
        carried = housekeeping.carry_over(store, scan.index, before)
        runs = [Run(store, scan, recipe, dataset, limits) for recipe in recipes]
        for run in runs:
            run.report.borrowed += carried.get(run.recipe.view_id, 0)
        wanted, already = (sum(getattr(run.report, name) for run in runs) for name in ("wanted", "already"))
        progress.begin(" + ".join(run.recipe.label for run in runs), wanted, already)
        try:
            if busy := [run for run in runs if run.todo]:
                if isinstance(engine, Engine):
                    _here(busy, pick_device(device), progress, engine)
                else:
                    engine.spread(busy, device, progress)
        finally:
            progress.end()
    for run in runs:
        run.refuse_if_nothing_came()
    return [run.report for run in runs]


def _here(runs: Sequence["Run"], device: str, progress: Progress, engine: Engine) -> None:
    """Decode, forward, write in this process."""
    meter, started = Meter(), time.monotonic()
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.loaded(device))
        planned = planned_for(runs)
        stations = {run.modality: stack.enter_context(run.station(planned)) for run in runs}
        of = {run.modality: run for run in runs}

        def watch(modality: Modality, rows: Sequence[int], written: int, failed: int) -> None:
            progress.advance(written, failed)
            progress.status(f"bound by {meter.bound}, {meter.ahead} decoded ahead, {meter.behind} to be written")
            of[modality].stop_if_hopeless(stations[modality], rows)

        try:
            work_through(piece_of(runs, planned.batches), stations, engine, meter, watch)
        finally:
            for run in runs:
                run.report.add(stations[run.modality].tally, run.scan.index.ids)
                run.report.seconds, run.report.padding = time.monotonic() - started, planned.padding
                run.report.share, run.report.bound = meter.share, meter.bound


def planned_for(runs: Sequence["Run"]) -> Plan:
    """Batches of rows for one view, or for several of the same files: over all rows, so that a resumed run meets the
    same ones.
    """
    rows = sorted({row for run in runs for row in run.rows})
    first = runs[0]
    if len(runs) == 1:
        found = plan(first.sizes(), first.budget, getattr(first.backbone, "batching", "fixed"))
    else:
        found = plan([1] * len(rows), 1)  # each view gathers what it needs for a forward
    batches = tuple(tuple(rows[i] for i in batch) for batch in found.batches)
    return Plan(found.batching, found.budget, batches, found.padding).share(*first.limits.share)


def piece_of(runs: Sequence["Run"], batches: Sequence[tuple[int, ...]]) -> Piece:
    """What of these batches is still to be done, with all that is needed to do it."""
    needed = [batch for batch in batches if any(not run.todo.isdisjoint(batch) for run in runs)]
    rows = [row for batch in needed for row in batch]
    todo = {run.modality: frozenset(run.todo.intersection(rows)) for run in runs}
    raws, digests = runs[0].scan.raws, runs[0].scan.index.digests
    of_todo = {m: {row: digests[m][row].tobytes() for row in wanted} for m, wanted in todo.items()}
    return Piece(needed, todo, {row: raws[row] for row in rows}, of_todo)


class Run:
    """One view of one corpus being extracted."""

    backbone: Backbone  # while it is loaded

    def __init__(self, store: FeatureStore, scan: Scan, recipe: Recipe, dataset: str, limits: Limits) -> None:
        self.store, self.scan, self.recipe, self.dataset, self.limits = store, scan, recipe, dataset, limits
        self.modality = recipe.spec.modality
        self.rows = [row for row in scan.rows(self.modality) if limits.samples is None or row < limits.samples]
        self.report = Report(recipe.label, self.modality, recipe.view_id, wanted=len(self.rows))
        self.todo = self.missing()
        self.report.already = len(self.rows) - len(self.todo) - self.report.failed_before
        self._done = 0

    def missing(self) -> set[int]:
        """Rows that neither are in the view nor have a failure record in it, after taking over what there is."""
        view_id = self.recipe.view_id
        if (self.store.path / "views" / view_id / "seg").exists():
            self.report.recovered = self.store.recover(view_id)
        view = self._view()
        if self.limits.retry_errors and view is not None:
            housekeeping.retract_failures(self.store, view)
        todo = self._without_states()
        if todo:
            digests = self.scan.index.digests[self.recipe.spec.modality]
            self.report.borrowed = housekeeping.borrow(self.store, view_id, self.dataset, digests, sorted(todo))
        return self._without_states() if self.report.borrowed else todo

    @contextmanager
    def loaded(self, device: str) -> Iterator[None]:
        """With the model in memory, and the view's provenance in the store."""
        with self.recipe.loaded(device) as self.backbone:
            self.store.add_view(self.recipe.view_id, self.recipe.attributes(self.backbone))
            usual = CPU_BATCH if device == "cpu" else self.recipe.spec.batch
            stated: int = getattr(self.backbone, "budget", min(self.recipe.spec.batch, usual))
            self.budget = self.limits.budget or fitting(stated, device)
            self.form = Form.of(self.backbone.dim, self.recipe.spec.dtype)
            self.facts = run_facts(self.backbone, device)
            yield

    def sizes(self) -> list[int]:
        """How much each row takes of a budget, as the backbone counts it; 1 where it does not."""
        if not hasattr(self.backbone, "sizes"):
            return [1] * len(self.rows)
        texts, raws, of_text = self.scan.index.text, self.scan.raws, self.modality is Modality.TEXT
        told = [texts[row] if of_text else media.seconds(raws[row][self.modality]) for row in self.rows]
        return list(self.backbone.sizes(told))

    def _writer(self, facts: Mapping[str, Any]) -> SegmentWriter:
        told = {**self.facts, **facts}
        return self.store.writer(self.recipe.view_id, self.dataset, self.form, told, self.limits.flush_s)

    def record(self, tally: Tally) -> dict[str, Any] | None:
        """The manifest entry of a segment that holds nothing but the failures of a tally."""
        writer, digests = self._writer({}), self.scan.index.digests[self.modality]
        for row, stage, reason in tally.failed:
            writer.fail(row, digests[row].tobytes(), stage, reason)
        return writer.seal()

    @contextmanager
    def station(self, planned: Plan) -> Iterator[Station]:
        """The model with a segment to write to, which is published at the end, however that comes."""
        writer = self._writer({"plan": planned.facts})
        digests = self.scan.index.digests[self.modality]
        with self.store.writing(self.recipe.view_id, writer):
            of_mine = {row: digests[row].tobytes() for row in self.todo}
            yield Station(self.recipe, self.backbone, writer, frozenset(self.todo), of_mine, self.budget)

    def refuse_if_nothing_came(self) -> None:
        """Raise BackboneError where every sample failed: then it is not the samples."""
        failed = self.report.failed
        if self.todo and len(failed) == len(self.rows):
            raise BackboneError(
                f"{self.recipe.label}: none of {len(failed)} samples could be extracted; the first: "
                f"{', '.join(failed[0])}",
                fix="mend the cause and run again with --retry-errors; the failures are recorded in the store",
            )

    def stop_if_too_many_failed(self, failed: Sequence[tuple[Any, str, str]]) -> None:
        """Raise where more failed than --max-errors allows."""
        allowed = self.limits.max_errors
        if allowed is not None and len(failed) > allowed:
            row, stage, reason = failed[-1]
            raise BackboneError(
                f"{self.recipe.label}: {len(failed)} samples failed, --max-errors allows {allowed}; "
                f"the last: {row if isinstance(row, str) else self.scan.index.ids[row]}, {stage}, {reason}",
                fix="what was extracted is kept; mend the cause and run again with --retry-errors, or allow more",
            )

    def stop_if_hopeless(self, station: Station, rows: Sequence[int]) -> None:
        """Raise where too much failed or the disk will not do; `rows` are those that have just been settled."""
        writer = station.writer
        self._done += len(self.todo.intersection(rows))
        self.stop_if_too_many_failed(station.tally.failed)
        needed = writer.nbytes / max(self._done, 1) * (len(self.todo) - self._done)
        free = shutil.disk_usage(self.store.path).free
        if needed > free:  # a night should not end at a disk that was too small at dusk
            raise StoreError(
                f"{self.store.path}: the samples still to come need about {needed / 1e6:,.1f} MB, "
                f"{free / 1e6:,.1f} MB are free",
                fix="free some space or extract to another --store; what was extracted so far is kept",
            )

    def _view(self) -> View | None:
        return next((view for view in self.store.views(self.dataset) if view.id == self.recipe.view_id), None)

    def _without_states(self) -> set[int]:
        view = self._view()
        if view is None:
            return set(self.rows)
        reader = self.store.reader(view)
        without = {row for row in self.rows if reader.length[row] < 0}
        self.report.failed_before = len(without.intersection(reader.failures))
        return without - set(reader.failures)
