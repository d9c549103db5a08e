"""Stage 1, top to bottom: recover -> borrow -> plan -> decode | forward | write -> publish.

Whatever happens to a run - a broken file, a full disk, Ctrl-C, a power cut - what it committed is kept, and the next
run goes on from there. A sample that cannot be had becomes a record with its stage and reason.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from msa.cache import housekeeping
from msa.cache.files import naming_a_full_disk
from msa.cache.progress import Progress, Unwatched
from msa.cache.segment import FLUSH_AFTER_S, Form, SegmentWriter
from msa.cache.store import FeatureStore
from msa.cache.view import View
from msa.errors import BackboneError, StoreError
from msa.extract import media, plan
from msa.extract.forward import Failure, ahead, attempt, hidden_states
from msa.extract.recipe import Recipe, run_facts
from msa.extract.scan import Scan
from msa.types import Modality

CPU_BATCH = 8  # a CPU gains nothing from larger ones: less padding, and memory that stays in its caches


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
    counts: dict[str, int] = field(default_factory=dict)  # what the backbone counted: frames without a face
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
    recipes: Sequence[Recipe],
    device: str,
    limits: Limits = Limits(),
    progress: Progress = Unwatched(),
) -> list[Report]:
    """Bring views of one corpus up to date, one of each modality, in one pass: a video is decoded once for all.

    Raises MsaError where going on makes no sense; nothing is lost then.
    """
    with naming_a_full_disk(store.path):
        dataset = store.add_index(scan.index)
        runs = [_Run(store, scan, recipe, dataset, limits) for recipe in recipes]
        wanted, already = (sum(getattr(run.report, name) for run in runs) for name in ("wanted", "already"))
        progress.begin(" + ".join(run.recipe.label for run in runs), wanted, already)
        try:
            _pass([run for run in runs if run.todo], device, progress)
        finally:
            progress.end()
    for run in runs:
        run.refuse_if_nothing_came()
    return [run.report for run in runs]


def _pass(runs: Sequence["_Run"], device: str, progress: Progress) -> None:
    """Decode, forward, write. Batches are planned over all rows, so that a resumed run meets the same ones."""
    if not runs:
        return
    started = time.monotonic()
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.opened(device))
        batches = runs[0].planned(device) if len(runs) == 1 else _together(runs, device)
        needed = (batch for batch in batches if any(not run.todo.isdisjoint(batch) for run in runs))
        for batch, clips in ahead(_decoder(runs), needed):
            for run in runs:
                progress.advance(*run.settle(batch, [clip.get(run.modality) for clip in clips]))
                run.report.seconds = time.monotonic() - started


def _together(runs: Sequence["_Run"], device: str) -> Iterator[list[int]]:
    """Batches for several views of the same files: rows in their order, as many at once as each of them takes."""
    rows = sorted({row for run in runs for row in run.rows})
    return ([rows[i] for i in batch] for batch in plan.batches([1] * len(rows), min(run.size(device) for run in runs)))


def _decoder(runs: Sequence["_Run"]) -> Callable[[int], dict[Modality, Any]]:
    """Row -> what is wanted of it, by modality: a clip, or the exception that kept it from being one; in threads."""
    sampling = next((run.recipe.sampling for run in runs if run.modality is Modality.FACE), media.FRAMES)
    raws = runs[0].scan.raws

    def decode(row: int) -> dict[Modality, Any]:
        wanted = {run.modality: run for run in runs if row in run.todo or len(runs) == 1}
        found = media.clips({m: raws[row][m] for m in wanted if m in raws[row]}, sampling)
        return {m: clip if isinstance(clip, Exception) else wanted[m].prepared(clip) for m, clip in found.items()}

    return decode


class _Run:
    """One view of one corpus being extracted."""

    def __init__(self, store: FeatureStore, scan: Scan, recipe: Recipe, dataset: str, limits: Limits) -> None:
        self.store, self.scan, self.recipe, self.dataset, self.limits = store, scan, recipe, dataset, limits
        self.modality = recipe.spec.modality
        self.rows = [row for row in scan.rows(self.modality) if limits.samples is None or row < limits.samples]
        self.report = Report(recipe.label, self.modality, recipe.view_id, wanted=len(self.rows))
        self.todo = self.missing()
        self.report.already = len(self.rows) - len(self.todo)

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

    def size(self, device: str) -> int:
        """How large a batch may be, in units of `sizes`."""
        return self.recipe.spec.batch if device.startswith("cuda") else min(self.recipe.spec.batch, CPU_BATCH)

    def planned(self, device: str) -> Iterator[list[int]]:
        """Batches of rows."""
        return ([self.rows[i] for i in batch] for batch in plan.batches(self._sizes(), self.size(device)))

    def _sizes(self) -> list[int]:
        texts = self.scan.index.text if self.modality is Modality.TEXT else None
        return [len(texts[row]) if texts else 1 for row in self.rows]

    @contextmanager
    def opened(self, device: str) -> Iterator[None]:
        """With the model loaded and a segment to write to, which is published at the end, however that comes."""
        with self.recipe.loaded(device) as self._backbone:
            view_id = self.recipe.view_id
            self.store.add_view(view_id, self.recipe.attributes(self._backbone))
            form = Form.of(self._backbone.dim, self.recipe.spec.dtype)
            facts = run_facts(self._backbone, device)
            self._writer = self.store.writer(view_id, self.dataset, form, facts, self.limits.flush_s)
            self._weight = {row: size + 1 for row, size in zip(self.rows, self._sizes(), strict=True)}
            self._whole = self._left = sum(self._weight[row] for row in self.todo)
            with self.store.writing(view_id, self._writer):
                yield

    def prepared(self, clip: Any) -> Any:
        """What a decoding thread can do ahead, or the exception that kept it from doing so."""
        prepare = getattr(self._backbone, "prepare", lambda clip: clip)
        return attempt(lambda: prepare(clip))

    def settle(self, batch: Sequence[int], clips: Sequence[Any]) -> tuple[int, int]:
        """Write what comes out of a batch, or the record of why it did not; how many were written, how many failed."""
        mine = [(row, clip) for row, clip in zip(batch, clips, strict=True) if clip is not None]
        states = hidden_states(self._backbone, [row for row, _ in mine], [clip for _, clip in mine])
        digests = self.scan.index.digests[self.modality]
        written = failed = 0
        for row in sorted(self.todo.intersection(states)):
            found = states[row]
            if isinstance(found, Failure):
                self._writer.fail(row, digests[row].tobytes(), found.stage, found.reason)
                self.report.failed.append((self.scan.index.ids[row], found.stage, found.reason))
                failed += 1
            else:
                self._writer.write(row, digests[row].tobytes(), found)
                written += 1
        self._count()
        self.report.written += written
        self._left -= sum(self._weight[row] for row in self.todo.intersection(states))
        self._stop_if_hopeless(self._writer, self._whole - self._left, self._left)
        return written, failed

    def _count(self) -> None:
        """What the backbone counted on its way, such as frames without a face."""
        counts: Mapping[str, int] = getattr(self._backbone, "counts", dict)()
        for what, by in counts.items():
            self._writer.count(what, by)
            self.report.counts[what] = self.report.counts.get(what, 0) + by

    def refuse_if_nothing_came(self) -> None:
        """Raise BackboneError where every sample failed: then it is not the samples."""
        failed = self.report.failed
        if self.todo and len(failed) == len(self.rows):
            raise BackboneError(
                f"{self.recipe.label}: none of {len(failed)} samples could be extracted; the first: "
                f"{', '.join(failed[0])}",
                fix="mend the cause and run again with --retry-errors; the failures are recorded in the store",
            )

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
