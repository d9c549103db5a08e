"""An object in a process of its own: its side effects, its crashes and what it prints stay there.

Calls go through the standard input of the process and results come from its standard output, both pickled; what
its libraries print goes to a log, whose last line is part of the error when it dies. It ends with the pipe: when the
parent closes it, ends, or is killed in the midst of a call.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Mapping
from importlib import import_module
from typing import IO, Any

LOG_BYTES = 4096  # of the end of the log, in which its last line is looked for


class ProcessError(RuntimeError):
    """What went wrong in the other process: an exception of the type `kind`, or its end, where `kind` is empty.

    `starting`: it failed while the object was made, so that another call would fail, too.
    """

    def __init__(self, text: str, kind: str = "", starting: bool = False) -> None:
        super().__init__(f"{kind}: {text}" if kind else text)
        self.kind = kind
        self.starting = starting


class ProcessObject:
    """A remote `MODULE:NAME(*args)`. After a crash or `close` the next call starts it again."""

    def __init__(self, factory: str, *args: Any, environment: Mapping[str, str] | None = None) -> None:
        self.factory = factory
        self.args = args
        self.environment = dict(environment or {})  # what is put over this process's own
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._ended: Any = None

    def ask(self, method: str, *args: Any) -> Any:
        """Return what `method(*args)` of the object returns. Raises ProcessError where it raises or dies."""
        if self._process is None:
            self._start()
            self._exchange("", (self.factory, self.args))
        return self._exchange(method, args)

    def close(self) -> None:
        """End the process at once; there is nothing in it to save."""
        if self._process is not None:
            self._process = None
            self._ended()

    def _start(self) -> None:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end, with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path, **self.environment},
        )
        self._ended = weakref.finalize(self, _end, self._process, self._log)

    def _exchange(self, method: str, args: Any) -> Any:
        assert self._process is not None and self._process.stdin and self._process.stdout
        try:
            pickle.dump((method, args), self._process.stdin, protocol=5)
            self._process.stdin.flush()
            succeeded, result = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise ProcessError(self._obituary(), starting=not method) from None
        except BaseException:  # interrupted: the answer still to come would be taken for that of the next call
            self.close()
            raise
        if not succeeded:
            if not method:
                self.close()  # there is no object to ask
            raise ProcessError(result[1], result[0], starting=not method)
        return result

    def _obituary(self) -> str:
        """Return how the process ended, and the last line it wrote."""
        assert self._process is not None and self._log is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its pipe and hangs
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - LOG_BYTES, 0))
        lines = self._log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        self.close()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the process {how}; its last words: {last}"


def _end(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, log):
        try:
            assert stream is not None
            stream.close()
        except OSError:  # what was still to be flushed has no reader
            pass


# the other side


def _serve() -> None:
    """Answer calls until the pipe ends. The first one names the object that answers the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers it
    questions: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between the results
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    served: Any = None
    while True:
        method, args = questions.get()
        try:
            if method:
                answer = (True, getattr(served, method)(*args))
            else:
                served, answer = _made(*args), (True, None)
        except Exception as error:
            traceback.print_exc()
            answer = (False, (type(error).__name__, str(error).strip().partition("\n")[0]))
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


def _listen(source: IO[bytes], questions: "queue.SimpleQueue[tuple[str, Any]]") -> None:
    """Read ahead, so that the end of the pipe ends the process even in the midst of a call."""
    try:
        while True:
            questions.put(pickle.load(source))
    finally:  # EOFError between two calls; in the midst of one, when the parent is killed, nearly anything
        os._exit(0)


def _made(factory: str, args: tuple[Any, ...]) -> Any:
    module, _, name = factory.partition(":")
    return getattr(import_module(module), name)(*args)


if __name__ == "__main__":
    _serve()
