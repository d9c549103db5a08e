"""Work for processes that are killed: nothing here imports torch, so that they start at once."""

import os
import signal
from typing import NamedTuple

from msa.errors import ConfigError


class Task(NamedTuple):
    """What a sweep knows of a task."""

    name: str
    seed: int


def do(task):
    """Be killed, be refused, or survive."""
    if task.name == "victim":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.name == "refused":
        raise ConfigError("too large", fix="take a smaller one")


def settle_in(turns, threads, at_once):
    """What a process does first, without a share of the machine."""
    turns.get()
