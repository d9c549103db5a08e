"""Work for processes that outlast what they should: nothing here imports torch before it must."""

import fcntl
import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple


class Search(NamedTuple):
    """What a sweep of searches knows of one; it tells of a trial and never ends."""

    model: str
    folder: str

    def run(self):
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        (Path(self.folder) / "signals.txt").write_text(f"Ctrl-C is blocked: {blocked}")
        (Path(self.folder) / "trials.txt").write_text("trial 1 of 2\ntrial 2 o")
        time.sleep(60)


def settle_in(turns, threads, at_once):
    """What a process does first, without torch."""
    turns.get()


def hold(folder, turns):
    """As a worker: claim a folder, and keep it."""
    from msa.fuse.experiments import workers

    place = os.open(folder, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    workers._settle_in(turns, None, 1)
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C reaches the whole group: a worker leaves it to the command
    (Path(folder) / "at work").touch()
    time.sleep(60)


if __name__ == "__main__":
    spawn = get_context("spawn")
    queue = spawn.SimpleQueue()
    queue.put(0)
    spawn.Process(target=hold, args=(sys.argv[1], queue)).start()
    time.sleep(60)
