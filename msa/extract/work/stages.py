"""The three stages of an extraction: threads decode ahead, this thread runs the model, one thread writes behind.

Bounded on both sides, so that memory stays where it is, and measured: what the model had to wait for is what bounds the
run. Decoding threads are daemons: one that is stuck in a broken file is left behind, and neither the run nor its end
waits for it.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

U = TypeVar("U")
AHEAD = 3  # batches decoded before they are needed
BEHIND = 4  # batches encoded before they are written
TICK_S = 0.5  # how often a sample that takes long is looked at


@dataclass
class Meter:
    """Seconds the model worked, and those it waited: for decoded clips, and for the writer."""

    forward: float = 0.0
    decode_wait: float = 0.0
    write_wait: float = 0.0
    ahead: int = 0  # batches decoded and waiting
    behind: int = 0  # batches encoded and waiting

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """While the model works."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.forward += time.monotonic() - began

    @property
    def whole(self) -> float:
        """Seconds in all."""
        return self.forward + self.decode_wait + self.write_wait

    @property
    def share(self) -> float:
        """How much of the bare forward's speed was reached."""
        return self.forward / self.whole if self.whole else 1.0

    @property
    def bound(self) -> str:
        """What decides the speed of the run: the largest of the three."""
        seconds = {"forward": self.forward, "decode": self.decode_wait, "write": self.write_wait}
        return max(seconds, key=lambda name: seconds[name])


class _Job:
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
        except BaseException as error:  # told to whoever waits, also an interrupt
            self.error = error
        self.done.set()


class Decoders:
    """Daemon threads that work through a queue."""

    def __init__(self, threads: int | None = None) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.threads = threads or min(8, os.cpu_count() or 1)
        for _ in range(self.threads):
            self._hire()

    def _hire(self) -> None:
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job.run()

    def submit(self, work: Callable[[], Any]) -> _Job:
        """Have it done by one of the threads."""
        job = _Job(work)
        self.jobs.put(job)
        return job

    def result(self, job: _Job, timeout: float) -> Any:
        """What it came to; TimeoutError (returned, not raised) once it has been worked on for `timeout` s."""
        while not job.done.wait(TICK_S):
            if job.began is not None and time.monotonic() - job.began > timeout:
                self._hire()  # in place of the one that is stuck
                return TimeoutError(f"gave up after {timeout:g} s")
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """Let the threads end; what was not begun is not done any more."""
        with suppress(queue.Empty):  # asking first whether there is one would race with the threads
            while True:
                self.jobs.get_nowait()
        for _ in range(self.threads):
            self.jobs.put(None)


def ahead(
    decode: Callable[[int], U],
    batches: Iterable[tuple[int, ...]],
    meter: Meter,
    timeout: float,
    threads: int | None = None,
) -> Generator[tuple[tuple[int, ...], list[U | TimeoutError]], None, None]:
    """Decode a few batches before they are needed; order is kept. With no threads, one sample at a time when it is."""
    lead = AHEAD if threads != 0 else 0
    pool = Decoders(1 if threads == 0 else threads)  # a thread at least, or nobody could give up a sample
    waiting: deque[tuple[tuple[int, ...], list[_Job]]] = deque()

    def next_one() -> tuple[tuple[int, ...], list[U | TimeoutError]]:
        batch, jobs = waiting.popleft()
        began = time.monotonic()
        clips = [pool.result(job, timeout) for job in jobs]
        meter.decode_wait += time.monotonic() - began
        meter.ahead = sum(all(job.done.is_set() for job in jobs) for _, jobs in waiting)
        return batch, clips

    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(lambda row=row: decode(row)) for row in batch]))  # type: ignore[misc]
            if len(waiting) > lead:
                yield next_one()
        while waiting:
            yield next_one()
    finally:
        pool.close()


class Behind:
    """A thread that does what it is given, in order, while the caller goes on; its first error is raised there.

    Leaving the block waits for what was given, however the block ends: what has been encoded is written.
    """

    def __init__(self, meter: Meter, depth: int = BEHIND) -> None:
        self.meter, self.depth = meter, depth
        self.todo: queue.Queue[Callable[[], None] | None] = queue.Queue(max(depth, 1))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> "Behind":
        if self.depth:
            self.thread.start()
        return self

    def do(self, work: Callable[[], None]) -> None:
        """Have it done soon; waits while too much is waiting already."""
        self._raise()
        began = time.monotonic()
        if self.depth:
            self.todo.put(work)
        else:
            work()
        self.meter.write_wait += time.monotonic() - began
        self.meter.behind = self.todo.qsize()

    def _work(self) -> None:
        while (work := self.todo.get()) is not None:
            if self.error is None:
                try:
                    work()
                except BaseException as error:  # raised where the caller meets it
                    self.error = error

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.depth:
            began = time.monotonic()
            again = self._finish()
            self.meter.write_wait += time.monotonic() - began
            if again is not None and kind is None:
                raise again
        if kind is None:
            self._raise()

    def _finish(self) -> BaseException | None:
        """Wait for the thread, whatever comes between: two threads must never write to one segment.

        Whoever interrupts this again is in a hurry: then only what is being written is waited for, and the rest is
        dropped.
        """
        again: BaseException | None = None
        while self.thread.is_alive():
            try:
                if again is None:
                    self.todo.put(None)
                self.thread.join()
            except BaseException as interrupt:
                again = self.error = interrupt
                with suppress(queue.Empty):
                    while True:
                        self.todo.get_nowait()
                self.todo.put(None)
        return again
