"""What the stages around the forward cost: decode and write beside it, padding in it, a cluster above it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.extraction import made
from benchmarks.extraction.measure import Row, in_turns
from msa.cache.store import FeatureStore
from msa.extract import pipeline
from msa.extract.pipeline import PIPELINE, SERIAL, Engine, Limits, RemoteEngine
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan
from msa.extract.work import cluster
from msa.extract.work.cluster import Cluster
from msa.extract.work.plan import Demand, plan
from msa.types import Modality

BATCH = 16
FLUSH_S = 1.0  # s between commits: a run of seconds shall write as steadily as one of hours
WORKERS = 2


def stages(folder: Path, quick: bool) -> list[Row]:
    """Real pictures through a device that sleeps twice as long as decoding and writing them takes."""
    batches, rounds = (30, 1) if quick else (160, 3)
    dataset = made.pictures(folder / "pictures", BATCH * batches)
    awake = made.Sleep.of(Modality.IMAGE, 0.0)
    extraction(folder, dataset, awake, SERIAL)  # files into the page cache, libraries into memory
    around = extraction(folder, dataset, awake, SERIAL) / batches
    asleep = made.Sleep.of(Modality.IMAGE, 2 * around)

    def run(engine: Engine) -> Callable[[], float]:
        return lambda: extraction(folder, dataset, asleep, engine)

    def bare() -> None:
        for _ in range(batches):
            time.sleep(2 * around)

    taken = in_turns({"pipeline": run(PIPELINE), "serial": run(SERIAL), "bare": bare}, rounds)
    rates = {name: batches / seconds for name, seconds in taken.items()}
    what = f"pipeline, {batches} batches: decode and write {around * 1e3:.0f} ms, forward {2e3 * around:.0f} ms"
    return [
        Row.of_rates(what, rates["pipeline"], rates["bare"], 0.95, "batches/s", "the bare forward"),
        Row.of_rates(
            "the same one after the other (serial)", rates["serial"], rates["bare"], None, "batches/s", "same"
        ),
    ]


def padding(folder: Path, quick: bool) -> list[Row]:
    """The planner alone, for 5,000 texts as long as tweets."""
    sizes = made.spread(5000)
    packed, by_length = (plan(Demand(sizes, 1024, batching)).padding for batching in ("packed", "padded"))
    by_32 = [sizes[i : i + 32] for i in range(0, len(sizes), 32)]
    random = 1 - sum(sizes) / sum(len(batch) * max(batch) for batch in by_32)
    name = "batches of 32 in the order of the data"
    return [
        Row.of_limit("padding, packed, N = 5,000", packed, random, 0.0, name, ".1%"),
        Row.of_limit("padding, longest first, budget 1024, N = 5,000", by_length, random, 0.02, name, ".1%"),
    ]


def tasks(folder: Path, quick: bool) -> list[Row]:
    """Sleeping forwards of half a second on two workers that run and have the model already."""
    seconds, batches = (0.5, 24) if quick else (0.5, 200)
    recipe = made.Sleep.of(Modality.TEXT, seconds, rows=10)
    whole, warm = made.texts(folder / "texts", BATCH * batches), made.texts(folder / "warm", BATCH * 4 * WORKERS)
    with running() as client:
        engine = Cluster(client.scheduler.address)
        extraction(folder, warm, recipe, engine)  # torch imported, the model loaded, on each worker
        taken = extraction(folder, whole, recipe, engine)
    what = f"dask, {WORKERS} workers, {batches} forwards of {seconds} s, one or more a task"
    return [
        Row.of_rates(what, batches / taken, WORKERS / seconds, 0.97, "forwards/s", "the workers' forwards alone"),
    ]


@contextmanager
def running() -> Iterator[Any]:
    """A dask client of a cluster such as `Cluster(workers=2)` starts, which outlives an extraction."""
    with cluster._client(Cluster(workers=WORKERS)) as client:
        yield client


def extraction(folder: Path, dataset: Scan, recipe: Recipe, engine: Engine | RemoteEngine) -> float:
    """Seconds of an extraction into a new store, all samples of which must arrive."""
    with tempfile.TemporaryDirectory(dir=folder) as path:
        store, began = FeatureStore.create(Path(path) / "store"), time.perf_counter()
        [report] = pipeline.extract(
            store, dataset, [recipe], "cpu", Limits(budget=BATCH, flush_s=FLUSH_S), engine=engine
        )
        seconds = time.perf_counter() - began
        assert report.written == len(dataset.index.ids), report.failed[:1]
    return seconds
