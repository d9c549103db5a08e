"""Many experiments on one store, at once: on the cores or GPUs of this machine, or on a dask cluster.

The unit of work is one seed of one candidate. What is finished is kept in the candidate's folder, so a sweep that was
interrupted continues where it stopped; a candidate that fails is named with its reason, and the others continue.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msa.cache.store import FeatureStore
from msa.errors import ConfigError, MsaError
from msa.fuse import files
from msa.fuse.experiments import experiment as experiments
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.workers import Workers, pool
from msa.fuse.runs.files import claimed, subfolder
from msa.fuse.runs.run import Run, drawn_only
from msa.fuse.train.loop import Log
from msa.names import folder_name

QUIET_S = 8.0  # after so long without news it is said what is being trained


@dataclass(frozen=True)
class Task:
    """One seed of one candidate, as plain values: it travels to another process."""

    name: str
    seed: int
    experiment: Mapping[str, Any]
    store: str
    generation: int
    folder: str

    def do(self) -> None:
        """Train it. What is not the data's or the settings' fault is a bug, and leaves its traceback in the folder."""
        try:
            store = FeatureStore.open(self.store, self.generation)
            experiments.train_seed(Experiment.from_json(self.experiment), store, Path(self.folder), self.seed)
            Run.open(Path(self.folder)).note_machine(self.seed)
        except MsaError:
            raise
        except Exception:
            files.write(Path(self.folder) / f"error-{self.seed}.txt", traceback.format_exc().encode())
            raise


def run_all(
    candidates: Mapping[str, Experiment], store: FeatureStore, folder: Path, workers: Workers, log: Log
) -> tuple[dict[str, Run], dict[str, str]]:
    """Train every candidate, then test every candidate; its finished runs, and name -> reason of those that failed.

    No candidate is tested before all are trained. Runs lie in `folder`, one folder each, called like the candidate.
    """
    with claimed(folder):
        return _run_all(candidates, store, folder.absolute(), workers, log)  # a worker may stand in another folder


def _run_all(
    candidates: Mapping[str, Experiment], store: FeatureStore, folder: Path, workers: Workers, log: Log
) -> tuple[dict[str, Run], dict[str, str]]:
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    begun: dict[str, tuple[Run, Sequence[int]]] = {}
    tasks = []
    for name, candidate in candidates.items():
        home = folder / slug(name)
        try:
            run, pinned, _ = experiments.begin(candidate, store, subfolder(folder, slug(name)))
        except MsaError as error:
            failed[name] = reason(error)
            log(f"{name}: cannot be trained: {failed[name]}")
            continue
        if run.metrics:
            runs[name] = run
            continue
        begun[name] = run, pinned.seeds
        plain, generation = pinned.to_json(), store.manifest.generation
        left = [seed for seed in pinned.seeds if not run.trained(seed)]
        tasks += [Task(name, seed, plain, store.address, generation, str(home)) for seed in left]
    _train(tasks, workers, log, failed)
    for name, (run, seeds) in begun.items():
        if name in failed:
            continue
        if lost := [seed for seed in seeds if not run.trained(seed)]:
            failed[name] = f"seed {', '.join(map(str, lost))} is not in {run.folder}: the workers see another one there"
            continue
        log(f"testing {name}")
        try:
            runs[name] = experiments.run(candidates[name], store, run.folder, baselines=False)
        except Exception as error:  # what one of them lacks shall not cost the others their figures
            files.write(run.folder / "error-test.txt", traceback.format_exc().encode())
            failed[name] = f"trained, not tested: {reason(error)}"
            log(f"{name}: {failed[name]}")
    return {name: runs[name] for name in candidates if name in runs}, failed


def baselines(run: Run) -> dict[str, Any]:
    """Return the baselines of a run: its own, and those of the sweep it belongs to.

    These are the linear probe on the same samples and, where datasets were paired, the probe of what was drawn alone.
    """
    own, neighbours = dict(run.metrics.get("beside", {})), {}
    drawn = run.facts.drawn
    names = [*(["probe"] if run.model.name != "probe" else []), *([drawn_only(drawn)] if drawn else [])]
    for name in names:
        home = run.folder.absolute().parent / slug(name)
        if name not in own and (home / "run.json").exists():
            try:
                other = Run.open(home)
            except ConfigError:  # what is wrong with a neighbour is said where that one is shown
                continue
            if _comparable(other, run):
                neighbours[name] = other.metrics
    return neighbours | own


def _comparable(probe: Run, run: Run) -> bool:
    """Return whether this is a finished probe of the same datasets, pairing and seeds, tested on as many samples."""
    ours, theirs = (each.record["experiment"] for each in (run, probe))
    views = [each["data"]["views"] for each in (ours, theirs)]
    same_views = all(views[0][m] == views[1][m] for m in set(views[0]) & set(views[1]))
    facts = [each["data"] | {"views": {}, "modalities": [], "seeds": each["seeds"]} for each in (ours, theirs)]
    tested = [each.metrics.get("test_samples", 0) for each in (run, probe)]
    return probe.model.name == "probe" and facts[0] == facts[1] and same_views and tested[0] == tested[1] > 0


def slug(name: str) -> str:
    """Return a name as a folder: `probe, text only` -> `probe-text-only`."""
    return folder_name("-".join("".join(c if c.isalnum() or c in "_.+" else " " for c in name).split()))


def _train(tasks: Sequence[Task], workers: Workers, log: Log, failed: dict[str, str]) -> None:
    """Train all tasks; a process that dies takes no other task with it.

    What was under way is then tried again, each task alone, because it is unknown which of them killed it.
    """
    total, done = len(tasks), 0
    left = list(tasks)
    began = time.monotonic()

    def settle(task: Task, future: "Future[None]") -> None:
        nonlocal done
        left.remove(task)
        done += 1
        if (error := future.exception()) is None:
            return log(f"[{done}/{total}] {task.name}, seed {task.seed}")
        failed.setdefault(task.name, reason(error))
        return log(f"[{done}/{total}] {task.name}, seed {task.seed}: failed: {reason(error)}")

    def tell() -> None:
        elapsed = time.monotonic() - began
        now = ", ".join(f"{task.name} seed {task.seed}" for task in left[: workers.here])
        ends = f", about {_clock(elapsed / done * (total - done))} left" if done else ""
        log(f"[{done}/{total}] {_clock(elapsed)} passed{ends}; training {now}")

    while left:
        _all_at_once(list(left), workers, settle, tell)
        for task in left[: workers.here]:  # those under way: they are begun in this order
            with pool(Workers(jobs=1)) as process:
                future = process.submit(Task.do, task)
                future.exception()
                settle(task, future)


def _clock(seconds: float) -> str:
    """Return minutes and seconds: 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _all_at_once(
    tasks: Sequence[Task],
    workers: Workers,
    settle: Callable[[Task, "Future[None]"], None],
    tell: Callable[[], None],
) -> None:
    """Settle all of them, but those whose process or whose neighbour's died.

    Args:
        tasks: What is to be trained.
        workers: Where.
        settle: Called with each task and its future when that is done.
        tell: Called whenever nothing has ended for QUIET_S seconds.
    """
    with pool(replace(workers, jobs=min(workers.here, len(tasks)))) as processes:  # no more processes than tasks
        futures = {processes.submit(Task.do, task): task for task in tasks}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, QUIET_S, FIRST_COMPLETED)
            for future in [known for known in futures if known in done]:
                if not isinstance(future.exception(), BrokenProcessPool):
                    settle(futures[future], future)
            if not done:
                tell()


def reason(error: BaseException) -> str:
    """Return why something failed and the fix, if known, for a line in a table."""
    if isinstance(error, BrokenProcessPool):
        return "its process was killed, most likely for want of memory"
    return f"{error.what} ({error.fix})" if isinstance(error, MsaError) else f"{type(error).__name__}: {error}"
