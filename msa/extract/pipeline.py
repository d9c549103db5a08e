"""Stage 1, top to bottom: recover -> borrow -> plan -> decode | forward | write -> publish.

Whatever happens to a run - a broken file, a full disk, Ctrl-C, a power cut - what it committed is kept, and the next
run goes on from there. A sample that cannot be had becomes a record with its stage and reason.
"""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from msa.cache.format.files import naming_a_full_disk
from msa.cache.maintain import remove
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write.segment import FLUSH_AFTER_S, Form, SegmentWriter
from msa.errors import BackboneError, StoreError
from msa.extract.backbone import Backbone
from msa.extract.device import fitting, pick_device
from msa.extract.media import decode
from msa.extract.recipe import Recipe, run_facts
from msa.extract.scan import Scan
from msa.extract.work import crash_journal, isolation
from msa.extract.work.crash_journal import Note
from msa.extract.work.plan import Plan, plan
from msa.extract.work.stages import Meter
from msa.extract.work.units import Engine, Piece, Station, Tally, work_through
from msa.progress import Progress
from msa.types import Modality

CPU_BATCH = 8  # where a backbone states no budget: a CPU gains nothing from more


@dataclass
class Report:
    """What became of the samples of one view in this run."""

    name: str
    modality: Modality
    view_id: str
    wanted: int = 0
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
    clip: decode.Bounds = decode.BOUNDS  # of what one sample may decode to


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
    progress: Progress = Progress(),
    engine: Engine | Elsewhere = Engine(),
) -> list[Report]:
    """Bring views of one corpus up to date, one of each modality, in one pass: a video is decoded once for all.

    Raises MsaError where going on makes no sense; nothing is lost then.
    """
    with naming_a_full_disk(store.path):
        before = store.datasets.get(scan.index.name)
        dataset = store.add_index(scan.index)
        carried = remove.carry_over(store, scan.index, before)
        runs = [Run(store, scan, recipe, dataset, limits) for recipe in recipes]
        for run in runs:
            run.report.borrowed += carried.get(run.recipe.view_id, 0)
        if limits.share == (1, 1):  # else only the plan tells how much there is to do
            begin(runs, progress)
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
        confine(runs, planned, progress)
        stations = {run.modality: stack.enter_context(run.station(planned)) for run in runs}
        of = {run.modality: run for run in runs}

        def watch(modality: Modality, rows: Sequence[int], written: int, failed: int) -> None:
            progress.advance(written, failed)
            progress.status(f"bound by {meter.bound}, {meter.ahead} decoded ahead, {meter.behind} to be written")
            of[modality].stop_if_hopeless(stations[modality], rows)

        usual, feared = piece_of(runs, planned.batches).divided(suspects(runs))
        try:
            work_through(usual, stations, engine, meter, watch)
            isolation.work_through(feared, stations, device, engine.timeout_s, watch)
        finally:
            for run in runs:
                run.report.add(stations[run.modality].tally, run.scan.index.ids)
                run.report.seconds, run.report.padding = time.monotonic() - started, planned.padding
                run.report.share, run.report.bound = meter.share, meter.bound
    for run in runs:
        run.forget_suspects()


def begin(runs: Sequence["Run"], progress: Progress) -> None:
    """Tell who watches how much there is to do."""
    wanted, already = (sum(getattr(run.report, name) for run in runs) for name in ("wanted", "already"))
    progress.begin(" + ".join(run.recipe.label for run in runs), wanted, already)


def confine(runs: Sequence["Run"], planned: Plan, progress: Progress) -> None:
    """Let a run that is to do a part of the plan want, count and find room for this part alone."""
    if runs[0].limits.share != (1, 1):
        rows = {row for batch in planned.batches for row in batch}
        for run in runs:
            run.confine(rows)
        begin(runs, progress)


def suspects(runs: Sequence["Run"]) -> set[int]:
    """Rows that were at work when a run of one of these views died."""
    return {row for run in runs for row in run.suspects}


def budget_of(recipe: Recipe, backbone: Backbone, device: str) -> int:
    """What a forward may hold on a device, where nobody says otherwise: tokens, frames or samples."""
    usual = CPU_BATCH if device == "cpu" else recipe.spec.batch
    stated = backbone.budget
    return fitting(min(recipe.spec.batch, usual) if stated is None else stated, device)


def planned_for(runs: Sequence["Run"]) -> Plan:
    """Batches of rows for one view, or for several of the same files: over all rows, so that a resumed run meets the
    same ones.
    """
    rows = sorted({row for run in runs for row in run.rows})
    first = runs[0]
    several = len(runs) > 1  # each view then gathers what it needs for a forward
    found = plan([1] * len(rows), 1) if several else plan(first.sizes(), first.budget, first.backbone.batching)
    return found.over(rows).share(*first.limits.share)


def piece_of(runs: Sequence["Run"], batches: Sequence[tuple[int, ...]]) -> Piece:
    """What of these batches is still to be done, with all that is needed to do it."""
    needed = [batch for batch in batches if any(not run.todo.isdisjoint(batch) for run in runs)]
    rows = [row for batch in needed for row in batch]
    todo = {run.modality: frozenset(run.todo.intersection(rows)) for run in runs}
    raws, digests = runs[0].scan.raws, runs[0].scan.index.digests
    of_todo = {m: {row: digests[m][row].tobytes() for row in wanted} for m, wanted in todo.items()}
    return Piece(needed, todo, {row: raws[row] for row in rows}, of_todo, runs[0].limits.clip)


class Run:
    """One view of one corpus being extracted."""

    backbone: Backbone  # while it is loaded

    def __init__(self, store: FeatureStore, scan: Scan, recipe: Recipe, dataset: str, limits: Limits) -> None:
        self.store, self.scan, self.recipe, self.dataset, self.limits = store, scan, recipe, dataset, limits
        self.modality = recipe.spec.modality
        self.rows = [row for row in scan.rows(self.modality) if limits.samples is None or row < limits.samples]
        self.folder = store.path / "views" / recipe.view_id
        self.report = Report(recipe.label, self.modality, recipe.view_id)
        self.suspects: set[int] = set()  # at work when a run died: they are worked on apart
        self.failed_before: set[int] = set()
        self.todo = self.missing()
        self._done = 0
        self.confine(self.rows)
        self.forget_suspects()

    def missing(self) -> set[int]:
        """Rows that neither are in the view nor have a failure record in it, after taking over what there is."""
        view_id = self.recipe.view_id
        if (self.folder / "seg").exists():
            self.report.recovered = self.store.recover(view_id)
        self.suspects = crash_journal.suspects(self.folder, self.dataset)
        view = self._view()
        if self.limits.retry_errors and view is not None:
            failures = self.store.reader(view).failures
            self.suspects |= {row for row, why in failures.items() if why["reason"].startswith(isolation.KILLED)}
            remove.retract_failures(self.store, view)
        todo, self.failed_before = self._without_states()
        if todo:
            digests = self.scan.index.digests[self.recipe.spec.modality]
            self.report.borrowed = remove.borrow(self.store, view_id, self.dataset, digests, sorted(todo))
        if self.report.borrowed:
            todo, self.failed_before = self._without_states()
        return todo

    def confine(self, rows: Collection[int]) -> None:
        """Leave the other rows to others."""
        self.todo.intersection_update(rows)
        self.report.wanted = len(set(rows).intersection(self.rows))
        self.report.failed_before = len(self.failed_before.intersection(rows))
        self.report.already = self.report.wanted - len(self.todo) - self.report.failed_before

    def forget_suspects(self) -> None:
        """Remove what dead runs noted, as far as nothing of it is left to be done by this run or another one."""
        unsettled = self._without_states()[0] if self.suspects else self.todo
        crash_journal.forget(self.folder, self.dataset, unsettled | self.suspects.difference(self.rows))

    @contextmanager
    def loaded(self, device: str) -> Iterator[None]:
        """With the model in memory, and the view's provenance in the store."""
        with self.recipe.loaded(device) as self.backbone:
            self.store.add_view(self.recipe.view_id, self.recipe.attributes(self.backbone))
            self.budget = self.limits.budget or budget_of(self.recipe, self.backbone, device)
            self.form = Form.of(self.backbone.dim, self.recipe.spec.dtype)
            self.facts = run_facts(self.backbone, device)
            yield

    def sizes(self) -> list[int]:
        """How much each row takes of a budget, as the backbone counts it; 1 where it does not."""
        if self.backbone.sizes is None:
            return [1] * len(self.rows)
        texts, raws, of_text = self.scan.index.text, self.scan.raws, self.modality is Modality.TEXT
        told = [texts[row] if of_text else decode.seconds(raws[row][self.modality]) for row in self.rows]
        return list(self.backbone.sizes(told))

    def _writer(self, facts: Mapping[str, Any]) -> SegmentWriter:
        told = {**self.facts, **facts}
        return self.store.writer(self.recipe.view_id, self.dataset, self.form, told, self.limits.flush_s)

    @contextmanager
    def station(self, planned: Plan) -> Iterator[Station]:
        """The model with a segment to write to, which is published at the end, however that comes."""
        writer = self._writer({"plan": planned.facts})
        digests = self.scan.index.digests[self.modality]
        of_mine = {row: digests[row].tobytes() for row in self.todo}
        noted, writing = Note.kept(self.folder, writer.folder.name, self.dataset), self.store.writing
        with noted as note, writing(self.recipe.view_id, writer):
            yield Station(self.recipe, self.backbone, writer, frozenset(self.todo), of_mine, note, self.budget)

    def refuse_if_nothing_came(self) -> None:
        """Raise BackboneError where every sample failed: then it is not the samples."""
        failed = self.report.failed
        if self.todo and len(failed) == self.report.wanted:
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

    def _without_states(self) -> tuple[set[int], set[int]]:
        """Rows that are wanted and not in the view: those nobody tried, and those with a failure record."""
        view = self._view()
        if view is None:
            return set(self.rows), set()
        reader = self.store.reader(view)
        without = {row for row in self.rows if reader.length[row] < 0}
        failed = without.intersection(reader.failures)
        return without - failed, failed
