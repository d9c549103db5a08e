"""Stage 1, top to bottom: plan -> decode -> encode -> write -> publish.

`ViewRun` has recovered before that what a killed run left, and borrowed what the store already holds of the same input.

Four places hold a batch on its way, and each is bounded: `prefetched` (decoded), `in_flight` (on the device), the queue
of `WriterThread` (encoded), and the buffer of the segment.

Whatever ends a run - a broken file, a full disk, Ctrl-C, a power cut - what it committed is kept, and the next run
continues from there. A sample that cannot be extracted becomes a failure record with its stage and reason.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from msa.cache.format.files import naming_a_full_disk
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.device import pick_device
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan
from msa.extract.work import isolation
from msa.extract.work.forward import InFlight, begin
from msa.extract.work.meter import Meter
from msa.extract.work.plan import Plan, plan
from msa.extract.work.prefetch import decoder, prefetched
from msa.extract.work.units import ViewJob, Watch, WorkUnit
from msa.extract.work.view_run import Limits as Limits
from msa.extract.work.view_run import Report as Report
from msa.extract.work.view_run import ViewRun
from msa.extract.work.writer import WriterThread
from msa.progress import Progress
from msa.types import Modality


@dataclass(frozen=True)
class Engine:
    """How this process works through a unit; it decides the speed and nothing else."""

    threads: int | None = None  # that decode ahead. None: one per core, at most 8; 0: none
    to_write: int = 4  # batches that may wait for the writer; 0: each is written before the next is encoded
    timeout_s: float = 600.0  # for decoding one sample
    in_flight: int = 1  # batches still on the GPU while the next one is begun


PIPELINE = Engine()
SERIAL = Engine(threads=0, to_write=0, in_flight=0)


class RemoteEngine(Protocol):
    """An engine that does the work in other processes."""

    def spread(self, views: Sequence[ViewRun], device: str, progress: Progress) -> None:
        """Bring `views` up to date."""


def extract(
    store: FeatureStore,
    scan: Scan,
    recipes: Sequence[Recipe],
    device: str,
    limits: Limits = Limits(),
    progress: Progress = Progress(),
    engine: Engine | RemoteEngine = PIPELINE,
) -> list[Report]:
    """Bring views of one dataset up to date in one pass: a video is decoded once for its sound and its faces.

    Args:
        store: where the views are, or will be.
        scan: the dataset.
        recipes: one for each modality.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        limits: how much to extract, and when to stop.
        progress: is told of every batch.
        engine: where the work is done.

    Raises:
        MsaError: the run cannot continue; what it has extracted is kept.
    """
    with naming_a_full_disk(store.path):
        before = store.datasets.get(scan.index.name)
        dataset = store.add_index(scan.index)
        carried = reuse.carry_over(store, scan.index, before)
        views = [ViewRun(store, scan, recipe, dataset, limits) for recipe in recipes]
        for view in views:
            view.report.borrowed += carried.get(view.recipe.view_id, 0)
        if limits.share == (1, 1):  # else the plan decides how much there is to do
            begin_progress(views, progress)
        try:
            if unfinished := [view for view in views if view.todo]:
                if isinstance(engine, Engine):
                    _extract_here(unfinished, pick_device(device), progress, engine)
                else:
                    engine.spread(unfinished, device, progress)
        finally:
            progress.end()
    for view in views:
        view.refuse_if_all_failed()
    return [view.report for view in views]


def _extract_here(views: Sequence[ViewRun], device: str, progress: Progress, engine: Engine) -> None:
    """Load the models, plan the batches, and work through them in this process."""
    meter, began = Meter(), time.monotonic()
    with ExitStack() as stack:
        for view in views:
            stack.enter_context(view.loaded(device))
        planned = plan_of(views)
        confine(views, planned, progress)
        unit = unit_of(views, planned)
        jobs = {view.modality: stack.enter_context(view.job(planned, unit.todo[view.modality])) for view in views}
        runs = {view.modality: view for view in views}

        def watch(modality: Modality, rows: Sequence[int], written: int, failed: int) -> None:
            progress.advance(written, failed)
            progress.status(str(meter))
            runs[modality].stop_if_hopeless(jobs[modality], rows)

        safe, suspected = unit.split(suspects(views))
        try:
            work_through(safe, jobs, engine, meter, watch)
            isolation.work_through(suspected, jobs, device, engine.timeout_s, watch)
        finally:
            for view in views:
                report = view.report
                report.add(jobs[view.modality].counters, view.scan.index.ids)
                report.seconds, report.share, report.bound = time.monotonic() - began, meter.share, meter.bound
                report.padding = planned.padding if view.backbone.batching == "padded" else 0.0
    for view in views:
        view.forget_suspects()


def work_through(unit: WorkUnit, jobs: Mapping[Modality, ViewJob], engine: Engine, meter: Meter, watch: Watch) -> None:
    """Decode, encode and write the batches of a unit: the loop of stage 1.

    Args:
        unit: the batches.
        jobs: the views.
        engine: how far each stage may be ahead of the next.
        meter: counts what each stage waits for.
        watch: called after every batch is written, in the thread of the writer; what it raises ends the work.
    """
    in_flight: deque[tuple[Modality, InFlight]] = deque()

    def journaled() -> Iterator[tuple[int, ...]]:
        for batch in unit.batches:
            for job in jobs.values():
                job.journal.begin(job.todo.keys() & batch)
            yield batch

    def write(modality: Modality, batch: InFlight) -> None:
        encoded = batch.results()
        watch(modality, list(encoded), *jobs[modality].write(encoded))

    def hand_over(remaining: int) -> None:
        """Give the writer what is ready, and wait for the device while more than `remaining` batches are in flight."""
        while in_flight and (in_flight[0][1].ready or len(in_flight) > remaining):
            modality, batch = in_flight.popleft()
            with meter.forwarding():
                batch.wait()
            writer.submit(partial(write, modality, batch))

    decode = decoder(unit.raws, {m: (job.recipe, job.backbone) for m, job in jobs.items()}, unit.bounds)
    decoded = prefetched(decode, journaled(), meter, engine.timeout_s, engine.threads)
    with WriterThread(meter, engine.to_write) as writer, closing(decoded):
        for batch, samples in decoded:
            for modality, job in jobs.items():
                clips = _clips(unit, modality, batch, samples)
                if clips:
                    with meter.forwarding():
                        in_flight.append((modality, begin(job.backbone, list(clips), list(clips.values()))))
                    hand_over(engine.in_flight)
        hand_over(0)


def _clips(unit: WorkUnit, modality: Modality, batch: Sequence[int], samples: Sequence[Any]) -> dict[int, Any]:
    """Return the clip of each row of a batch that has this modality, or the exception it failed with."""
    return {
        row: sample if isinstance(sample, Exception) else sample[modality]
        for row, sample in zip(batch, samples, strict=True)
        if modality in unit.raws[row]
    }


def begin_progress(views: Sequence[ViewRun], progress: Progress) -> None:
    """Tell the progress how many samples there are, and how many are done."""
    wanted, already = (sum(getattr(view.report, name) for view in views) for name in ("wanted", "already"))
    progress.begin(" + ".join(view.recipe.label for view in views), wanted, already)


def confine(views: Sequence[ViewRun], planned: Plan, progress: Progress) -> None:
    """Limit the views of a run that does one part of the plan to this part."""
    if views[0].limits.share != (1, 1):
        rows = {row for batch in planned.batches for row in batch}
        for view in views:
            view.confine(rows)
        begin_progress(views, progress)


def suspects(views: Sequence[ViewRun]) -> set[int]:
    """Return the rows that a run of one of these views was working on when it died."""
    return {row for view in views for row in view.suspects}


def plan_of(views: Sequence[ViewRun]) -> Plan:
    """Plan the batches of one pass over all rows, done or not, so that a resumed run meets the same ones."""
    rows = sorted({row for view in views for row in view.rows})
    return plan(*(view.demand(rows) for view in views)).over(rows).share(*views[0].limits.share)


def unit_of(views: Sequence[ViewRun], planned: Plan) -> WorkUnit:
    """Return the batches that a view still lacks a row of, as one work unit with all that is needed to do it."""
    scan = views[0].scan
    batches = []
    raws: dict[int, dict[Modality, Any]] = {}
    for batch in planned.batches:
        lacking = [view.modality for view in views if not view.todo.isdisjoint(batch)]
        if lacking:
            batches.append(batch)
            raws |= {row: {m: scan.raws[row][m] for m in lacking if m in scan.raws[row]} for row in batch}
    todo = {v.modality: {row: v.digests[row].tobytes() for row in sorted(v.todo.intersection(raws))} for v in views}
    return WorkUnit(batches, raws, todo, views[0].limits.clip)
