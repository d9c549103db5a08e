"""Stage 1, top to bottom: recover -> borrow -> plan -> decode | forward | write -> publish.

Whatever happens to a run - a broken file, a full disk, Ctrl-C, a power cut - what it committed is kept, and the next
run goes on from there. A sample that cannot be had becomes a record with its stage and reason.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from msa.cache import housekeeping
from msa.cache.files import naming_a_full_disk
from msa.cache.segment import FLUSH_AFTER_S, Form, SegmentWriter
from msa.cache.store import FeatureStore
from msa.cache.view import View
from msa.errors import BackboneError, StoreError
from msa.extract import media, plan
from msa.extract.backbone import Backbone
from msa.extract.forward import Failure, Found, ahead, attempt, hidden_states
from msa.extract.recipe import Recipe, run_facts
from msa.extract.scan import Scan
from msa.types import Modality

CPU_BATCH = 8  # a CPU gains nothing from larger ones: less padding, and memory that stays in its caches


class Progress(Protocol):
    """What a run tells whoever watches."""

    def begin(self, name: str, total: int, done: int) -> None:
        """A view of `total` samples begins, `done` of which are there already."""

    def advance(self, written: int, failed: int) -> None:
        """So many more samples were written, and so many recorded as failed."""

    def end(self) -> None:
        """The view is finished or given up."""


class Unwatched:
    """Nobody watches."""

    def begin(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, written: int, failed: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass
class Report:
    """What became of the samples of one view in this run."""

    name: str
    modality: Modality
    view_id: str
    wanted: int
    already: int = 0  # there before, in whatever way
    recovered: int = 0  # of them, left by a killed run
    borrowed: int = 0  # of them, extracted for another index of the same inputs
    written: int = 0
    failed: list[tuple[str, str, str]] = field(default_factory=list)  # id, stage, reason
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """How much of a corpus to extract, and when to stop."""

    samples: int | None = None  # the first so many of the index
    max_errors: int | None = None
    retry_errors: bool = False
    flush_s: float = FLUSH_AFTER_S  # commit at least so often


def extract(
    store: FeatureStore,
    scan: Scan,
    recipe: Recipe,
    device: str,
    limits: Limits = Limits(),
    progress: Progress = Unwatched(),
) -> Report:
    """Bring one view of one corpus up to date. Raises MsaError where going on makes no sense; nothing is lost then."""
    rows = np.flatnonzero(scan.index.has(recipe.spec.modality)[: limits.samples]).tolist()
    report = Report(recipe.label, recipe.spec.modality, recipe.view_id, wanted=len(rows))
    with naming_a_full_disk(store.path):
        run = _Run(store, scan, recipe, store.add_index(scan.index), rows, limits, progress, report)
        todo = run.missing()
        report.already = len(rows) - len(todo)
        progress.begin(recipe.label, len(rows), report.already)
        started = time.monotonic()
        try:
            if todo:
                run.encode(todo, device)
        finally:
            report.seconds = time.monotonic() - started
            progress.end()
    if todo and len(report.failed) == len(rows):
        raise BackboneError(
            f"{recipe.label}: none of {len(rows)} samples could be extracted; the first: {', '.join(report.failed[0])}",
            fix="mend the cause and run again with --retry-errors; the failures are recorded in the store",
        )
    return report


@dataclass
class _Run:
    """One view of one corpus being extracted."""

    store: FeatureStore
    scan: Scan
    recipe: Recipe
    dataset: str
    rows: list[int]
    limits: Limits
    progress: Progress
    report: Report

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

    def encode(self, todo: set[int], device: str) -> None:
        """Decode, forward, write. Batches are planned over all rows, so that a resumed run meets the same ones."""
        backbone = self.recipe.load(device)
        view_id, spec = self.recipe.view_id, self.recipe.spec
        self.store.add_view(view_id, self.recipe.attributes(backbone))
        texts = self.scan.index.text if spec.modality is Modality.TEXT else None
        sizes = [len(texts[row]) if texts else 1 for row in self.rows]
        size = spec.batch if device.startswith("cuda") else min(spec.batch, CPU_BATCH)
        planned = ([self.rows[i] for i in batch] for batch in plan.batches(sizes, size))
        needed = (batch for batch in planned if not todo.isdisjoint(batch))
        weight = {row: size + 1 for row, size in zip(self.rows, sizes, strict=True)}
        whole = left = sum(weight[row] for row in todo)
        form = Form.of(backbone.dim, spec.dtype)
        writer = self.store.writer(view_id, self.dataset, form, run_facts(backbone, device), self.limits.flush_s)
        with self.store.writing(view_id, writer):
            for batch, clips in ahead(self._decoder(backbone), needed):
                self._settle(writer, todo, hidden_states(backbone, batch, clips))
                left -= sum(weight[row] for row in todo.intersection(batch))
                self._stop_if_hopeless(writer, whole - left, left)

    def _decoder(self, backbone: Backbone) -> Callable[[int], Any]:
        """Row -> clip, or the exception that kept it from being one; runs in threads."""
        modality, raws = self.recipe.spec.modality, self.scan.raws
        prepare = getattr(backbone, "prepare", lambda clip: clip)
        return lambda row: attempt(lambda: prepare(media.clip(modality, raws[row][modality])))

    def _settle(self, writer: SegmentWriter, todo: set[int], states: Mapping[int, Found]) -> None:
        """Write what came out of a batch, or the record of why it did not."""
        digests = self.scan.index.digests[self.recipe.spec.modality]
        written = failed = 0
        for row in sorted(todo.intersection(states)):
            found = states[row]
            if isinstance(found, Failure):
                writer.fail(row, digests[row].tobytes(), found.stage, found.reason)
                self.report.failed.append((self.scan.index.ids[row], found.stage, found.reason))
                failed += 1
            else:
                writer.write(row, digests[row].tobytes(), found)
                written += 1
        self.report.written += written
        self.progress.advance(written, failed)

    def _stop_if_hopeless(self, writer: SegmentWriter, done: int, left: int) -> None:
        """`done` and `left` are how much of the corpus that is, in the planner's sizes."""
        failed, allowed = self.report.failed, self.limits.max_errors
        if allowed is not None and len(failed) > allowed:
            raise BackboneError(
                f"{self.recipe.label}: {len(failed)} samples failed, --max-errors allows {allowed}; "
                f"the last: {', '.join(failed[-1])}",
                fix="what was extracted is kept; mend the cause and run again with --retry-errors, or allow more",
            )
        needed = writer.nbytes / max(done, 1) * left
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
        return {row for row in self.rows if reader.length[row] < 0} - set(reader.failures)
