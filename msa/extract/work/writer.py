"""A thread that writes encoded batches while the model encodes the next ones."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from msa.extract.work.meter import Meter


class WriterThread:
    """Runs what is submitted, in order; its first error is raised in the calling thread.

    Leaving the block waits for everything submitted, however the block ends: what has been encoded is written.
    """

    def __init__(self, meter: Meter, depth: int) -> None:
        """`depth`: how many batches may wait; 0: `submit` runs the work at once, without a thread."""
        self.meter, self.depth = meter, depth
        self.todo: queue.Queue[Callable[[], None] | None] = queue.Queue(max(depth, 1))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> "WriterThread":
        if self.depth:
            self.thread.start()
        return self

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` soon; wait while the queue is full."""
        self._raise()
        began = time.monotonic()
        if self.depth:
            self.todo.put(work)
        else:
            work()
        self.meter.write_wait += time.monotonic() - began
        self.meter.to_write = self.todo.qsize()

    def _run(self) -> None:
        while (work := self.todo.get()) is not None:
            if self.error is None:
                try:
                    work()
                except BaseException as error:  # raised in the calling thread
                    self.error = error

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.depth:
            began = time.monotonic()
            interrupt = self._join()
            self.meter.write_wait += time.monotonic() - began
            if interrupt is not None and kind is None:
                raise interrupt
        if kind is None:
            self._raise()

    def _join(self) -> BaseException | None:
        """Wait for the thread whatever happens, since two threads must never write to one segment.

        An interrupt while waiting drops what is in the queue, waits for the work that is being done, and is returned.
        """
        interrupt: BaseException | None = None
        while self.thread.is_alive():
            try:
                if interrupt is None:
                    self.todo.put(None)
                self.thread.join()
            except BaseException as again:
                interrupt = self.error = again
                with suppress(queue.Empty):
                    while True:
                        self.todo.get_nowait()
                self.todo.put(None)
        return interrupt
