"""Decoding ahead of the model: threads decode the samples of the next batches.

The threads are daemons: one that hangs in a broken file is left behind, and neither the run nor its end waits for it.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from msa.extract.backbone import Backbone
from msa.extract.media import decode as media
from msa.extract.recipe import Recipe
from msa.extract.work.forward import attempt
from msa.extract.work.meter import Meter
from msa.types import Modality, Raw

U = TypeVar("U")
DEPTH = 3  # batches decoded before they are needed
THREADS = 8  # at most, where the number is not given
TICK_S = 0.5  # how often a sample that takes long is looked at


class _Task:
    """One sample to be decoded."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.done = work, threading.Event()
        self.began: float | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        self.began = time.monotonic()
        try:
            self.result = self.work()
        except BaseException as error:  # raised where the result is taken; an interrupt, too
            self.error = error
        self.done.set()


class DecodeThreads:
    """Daemon threads that work through a queue."""

    def __init__(self, number: int | None = None) -> None:
        """`number`: None or 0 for one per core, up to THREADS."""
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.number = number or min(THREADS, os.cpu_count() or 1)
        for _ in range(self.number):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._run, name="decode", daemon=True).start()

    def _run(self) -> None:
        while (task := self.tasks.get()) is not None:
            task.run()

    def submit(self, work: Callable[[], Any]) -> _Task:
        """Run `work` in one of the threads."""
        task = _Task(work)
        self.tasks.put(task)
        return task

    def result(self, task: _Task, timeout_s: float) -> Any:
        """Wait for a task; TimeoutError (returned, not raised) once it has run for `timeout_s`."""
        while not task.done.wait(TICK_S):
            if task.began is not None and time.monotonic() - task.began > timeout_s:
                self._start()  # in place of the thread that hangs
                return TimeoutError(f"gave up after {timeout_s:g} s")
        if task.error is not None:
            raise task.error
        return task.result

    def close(self) -> None:
        """Drop the tasks that have not begun, and let the threads end."""
        with suppress(queue.Empty):  # `empty()` first would race with the threads
            while True:
                self.tasks.get_nowait()
        for _ in range(self.number):
            self.tasks.put(None)


def prefetched(
    decode: Callable[[int], U],
    batches: Iterable[tuple[int, ...]],
    meter: Meter,
    timeout_s: float,
    threads: int | None = None,
) -> Generator[tuple[tuple[int, ...], list[U | TimeoutError]], None, None]:
    """Yield each batch with its decoded samples, in order, and decode the next DEPTH batches meanwhile.

    Args:
        decode: row -> the decoded sample.
        batches: rows.
        meter: counts how long the caller had to wait.
        timeout_s: for one sample, which then is a TimeoutError.
        threads: that decode; None: one per core; 0: one, and no batch ahead.
    """
    depth = DEPTH if threads != 0 else 0
    pool = DecodeThreads(1 if threads == 0 else threads)  # one at least: a sample in this thread could not time out
    waiting: deque[tuple[tuple[int, ...], list[_Task]]] = deque()

    def first() -> tuple[tuple[int, ...], list[U | TimeoutError]]:
        rows, tasks = waiting.popleft()
        began = time.monotonic()
        samples = [pool.result(task, timeout_s) for task in tasks]
        meter.decode_wait += time.monotonic() - began
        meter.decoded_ahead = sum(all(task.done.is_set() for task in tasks) for _, tasks in waiting)
        return rows, samples

    try:
        for rows in batches:
            waiting.append((rows, [pool.submit(lambda row=row: decode(row)) for row in rows]))  # type: ignore[misc]
            if len(waiting) > depth:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.close()


def decoder(
    raws: Mapping[int, Mapping[Modality, Raw]],
    models: Mapping[Modality, tuple[Recipe, Backbone]],
    bounds: media.Bounds = media.BOUNDS,
) -> Callable[[int], dict[Modality, Any]]:
    """Return the function row -> clip of each modality, or the exception that kept it from being one.

    Clips are prepared for the model in the decoding thread.
    """
    sampling = models[Modality.FACE][0].sampling if Modality.FACE in models else media.FRAMES

    def prepared(backbone: Backbone, clip: Any) -> Any:
        return clip if isinstance(clip, Exception) else attempt(lambda: backbone.prepare(clip))

    def decode(row: int) -> dict[Modality, Any]:
        clips = media.clips(raws[row], sampling, bounds)
        return {m: prepared(models[m][1], clip) for m, clip in clips.items()}

    return decode
