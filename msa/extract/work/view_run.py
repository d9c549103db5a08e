"""One view of one dataset while it is extracted: what is missing, its model, its segment, and its report."""

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msa.cache.maintain import remove
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.cache.write.segment import FLUSH_AFTER_S, Form
from msa.errors import BackboneError, StoreError
from msa.extract.backbone import Backbone
from msa.extract.device import fitting
from msa.extract.media import decode
from msa.extract.recipe import Recipe, run_facts
from msa.extract.scan import Scan
from msa.extract.work import crash_journal, isolation
from msa.extract.work.crash_journal import CrashJournal
from msa.extract.work.plan import Demand, Plan
from msa.extract.work.units import Counters, ViewJob
from msa.types import Modality

CPU_BATCH = 8  # where a backbone states no budget: a CPU gains nothing from more


@dataclass(frozen=True)
class Limits:
    """How much of a dataset to extract, and when to stop."""

    samples: int | None = None  # the first so many of the index
    max_errors: int | None = None
    retry_errors: bool = False
    flush_s: float = FLUSH_AFTER_S  # commit at least this often
    budget: int | None = None  # of a batch, in tokens, frames or samples; None: what the backbone states
    share: tuple[int, int] = (1, 1)  # (i, n): the i-th of n parts of the work
    clip: decode.Bounds = decode.BOUNDS  # of what one sample may decode to


@dataclass
class Report:
    """What became of the samples of one view in this run."""

    name: str
    modality: Modality
    view_id: str
    wanted: int = 0
    already: int = 0  # in the view before
    failed_before: int = 0  # and not tried again
    recovered: int = 0  # of `already`: left by a killed run
    borrowed: int = 0  # of `already`: extracted for another index of the same inputs
    written: int = 0
    failed: list[tuple[str, str, str]] = field(default_factory=list)  # id, stage, reason
    counts: Mapping[str, int] = field(default_factory=dict)  # what the backbone counted: frames without a face
    seconds: float = 0.0
    padding: float = 0.0  # share of the computation
    share: float = 1.0  # of the model's peak throughput
    bound: str = "forward"  # what limited the speed: forward, decode or write

    def add(self, counters: Counters, ids: Sequence[str]) -> None:
        """Add what became of the samples of a work unit."""
        self.written += counters.written
        self.failed += [(ids[row], stage, reason) for row, stage, reason in counters.failed]
        self.counts = dict(counters.counts + Counter(self.counts))


class ViewRun:
    """One view of one dataset while it is extracted."""

    backbone: Backbone  # inside `loaded`, like `budget`, `form` and `facts`

    def __init__(self, store: FeatureStore, scan: Scan, recipe: Recipe, dataset: str, limits: Limits) -> None:
        self.store, self.scan, self.recipe, self.dataset, self.limits = store, scan, recipe, dataset, limits
        self.modality = recipe.spec.modality
        self.digests = scan.index.digests[self.modality]
        self.rows = [row for row in scan.rows(self.modality) if limits.samples is None or row < limits.samples]
        self.folder = store.path / "views" / recipe.view_id
        self.report = Report(recipe.label, self.modality, recipe.view_id)
        self.suspects: set[int] = set()  # being worked on when a run died: they are encoded in isolation
        self.failed_before: set[int] = set()
        self.todo = self._missing()
        self._done = 0
        self.confine(self.rows)
        self.forget_suspects()

    def _missing(self) -> set[int]:
        """Recover and borrow what there is; return the rows with neither hidden states nor a failure record."""
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
            self.report.borrowed = reuse.borrow(self.store, view_id, self.dataset, self.digests, sorted(todo))
        if self.report.borrowed:
            todo, self.failed_before = self._without_states()
        return todo

    def confine(self, rows: Collection[int]) -> None:
        """Limit what this run does and reports to `rows`."""
        self.todo.intersection_update(rows)
        self.report.wanted = len(set(rows).intersection(self.rows))
        self.report.failed_before = len(self.failed_before.intersection(rows))
        self.report.already = self.report.wanted - len(self.todo) - self.report.failed_before

    def forget_suspects(self) -> None:
        """Remove a dead run's crash journal once all its samples are finished, by this run or another."""
        unfinished = self._without_states()[0] if self.suspects else self.todo
        crash_journal.forget(self.folder, self.dataset, unfinished | self.suspects.difference(self.rows))

    @contextmanager
    def loaded(self, device: str) -> Iterator[None]:
        """Hold the model in memory during the block; the store gets the view's provenance."""
        with self.recipe.loaded(device) as self.backbone:
            self.store.add_view(self.recipe.view_id, self.recipe.attributes(self.backbone))
            self.budget = self.limits.budget or budget_of(self.recipe, self.backbone, device)
            self.form = Form.of(self.backbone.dim, self.recipe.spec.dtype)
            self.facts = run_facts(self.backbone, device)
            yield

    def demand(self, rows: Sequence[int]) -> Demand:
        """Return what the view takes of a batch of `rows`, by the sizes its backbone states; 1 each without any."""
        sizes: Mapping[int, int] = dict.fromkeys(self.rows, 1)
        if self.backbone.sizes is not None:
            texts, raws, of_text = self.scan.index.text, self.scan.raws, self.modality is Modality.TEXT
            lengths = [texts[row] if of_text else decode.seconds(raws[row][self.modality]) for row in self.rows]
            sizes = dict(zip(self.rows, self.backbone.sizes(lengths), strict=True))
        return Demand([sizes.get(row) for row in rows], self.budget, self.backbone.batching)

    @contextmanager
    def job(self, plan: Plan, todo: Mapping[int, bytes]) -> Iterator[ViewJob]:
        """The view's part of a work unit, with a new segment that is published when the block ends, however it ends."""
        facts = {**self.facts, "plan": plan.facts}
        writer = self.store.writer(self.recipe.view_id, self.dataset, self.form, facts, self.limits.flush_s)
        kept = CrashJournal.kept(self.folder, writer.folder.name, self.dataset)
        with kept as journal, self.store.writing(self.recipe.view_id, writer):
            yield ViewJob(self.recipe, self.backbone, writer, todo, journal)

    def refuse_if_all_failed(self) -> None:
        """Raise BackboneError where every sample failed: then the cause is not the samples."""
        failed = self.report.failed
        if self.todo and len(failed) == self.report.wanted:
            raise BackboneError(
                f"{self.recipe.label}: none of {len(failed)} samples could be extracted; the first: "
                f"{', '.join(failed[0])}",
                fix="mend the cause and run again with --retry-errors; the failures are recorded in the store",
            )

    def stop_if_too_many_failed(self, failed: Sequence[tuple[Any, str, str]]) -> None:
        """Raise BackboneError where more samples failed than --max-errors allows."""
        allowed = self.limits.max_errors
        if allowed is not None and len(failed) > allowed:
            row, stage, reason = failed[-1]
            raise BackboneError(
                f"{self.recipe.label}: {len(failed)} samples failed, --max-errors allows {allowed}; "
                f"the last: {row if isinstance(row, str) else self.scan.index.ids[row]}, {stage}, {reason}",
                fix="what was extracted is kept; mend the cause and run again with --retry-errors, or allow more",
            )

    def stop_if_hopeless(self, job: ViewJob, rows: Sequence[int]) -> None:
        """Raise where too many samples failed, or the disk is too small for the rest, rather than after hours of work.

        Raises:
            BackboneError: more failed than --max-errors allows.
            StoreError: at the present size per sample, what is left does not fit on the disk.
        """
        self._done += len(self.todo.intersection(rows))
        self.stop_if_too_many_failed(job.counters.failed)
        needed = job.writer.nbytes / max(self._done, 1) * (len(self.todo) - self._done)
        free = shutil.disk_usage(self.store.path).free
        if needed > free:
            raise StoreError(
                f"{self.store.path}: the samples still to come need about {needed / 1e6:,.1f} MB, "
                f"{free / 1e6:,.1f} MB are free",
                fix="free some space or extract to another --store; what was extracted so far is kept",
            )

    def _view(self) -> View | None:
        return next((view for view in self.store.views(self.dataset) if view.id == self.recipe.view_id), None)

    def _without_states(self) -> tuple[set[int], set[int]]:
        """Return the wanted rows without hidden states: those never tried, and those with a failure record."""
        view = self._view()
        if view is None:
            return set(self.rows), set()
        reader = self.store.reader(view)
        without = {row for row in self.rows if reader.length[row] < 0}
        failed = without.intersection(reader.failures)
        return without - failed, failed


def budget_of(recipe: Recipe, backbone: Backbone, device: str) -> int:
    """Return the default budget of a batch on a device: tokens, frames or samples."""
    default = CPU_BATCH if device == "cpu" else recipe.spec.batch
    return fitting(min(recipe.spec.batch, default) if backbone.budget is None else backbone.budget, device)
