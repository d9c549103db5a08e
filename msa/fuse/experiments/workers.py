"""Processes to train in: on the cores or GPUs of this machine, or on a dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import torch

from msa.device import choose_card
from msa.errors import ConfigError
from msa.fuse.data import loader

THREADS = "OMP_NUM_THREADS"  # where the environment sets it, each process takes so many
_training = threading.Lock()  # a process has one generator of random numbers, and a dask worker may have many threads


@dataclass(frozen=True)
class Workers:
    """Where the seeds are trained: `jobs` processes here, one for each GPU where there are some, or a dask cluster."""

    jobs: int | None = None  # None: as many as there are GPUs, or else cores
    scheduler: str | None = None  # of dask: tcp://HOST:PORT or its file

    @property
    def here(self) -> int:
        """Return how many processes to start on this machine."""
        return self.jobs or torch.cuda.device_count() or _cores()


@contextmanager
def pool(workers: Workers) -> Iterator[Executor]:
    """Open processes to train in. Where the work is interrupted, as by Ctrl-C, those on this machine end at once.

    Raises ConfigError where the scheduler does not answer.
    """
    if workers.scheduler is not None:
        from distributed import Client

        where = {"scheduler_file": workers.scheduler} if Path(workers.scheduler).exists() else {}
        try:
            client = Client(**where or {"address": workers.scheduler}, timeout=30)
        except OSError as error:
            raise ConfigError(
                f"no dask scheduler answers at {workers.scheduler}: {error}", fix="start one, or leave --scheduler out"
            ) from None
        with client, client.get_executor(pure=False) as processes:
            try:
                yield _InTurn(processes)
            except BaseException:
                processes.shutdown(wait=False)  # cancels what is queued
                raise
        return
    spawn = _Spawn()  # CUDA and thread pools do not survive a fork
    turns = spawn.SimpleQueue()
    for n in range(workers.here):
        turns.put(n)
    starts = (turns, threads_each(workers.here), workers.here)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers.here, spawn, initializer=_settle_in, initargs=starts) as processes:
        try:
            yield processes
        except BaseException:  # else the executor waits for what is under way; a future cancelled here would crash it
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


class _Deaf(SpawnProcess):
    """A process that Ctrl-C, which reaches all processes of a terminal, does not disturb while it still starts."""

    def start(self) -> None:
        """Start it with SIGINT blocked, which it inherits; `_serve` then has it ignored."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(SpawnContext):
    Process = _Deaf


class _InTurn(Executor):
    """Workers of dask, each of which does one thing at a time however many threads it has, on a card of its own."""

    def __init__(self, processes: Executor) -> None:
        self._processes = processes

    def submit(self, do: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """Submit a call to one of them."""
        return self._processes.submit(_in_turn, do, *args, **named)


def _in_turn(do: Callable[..., Any], *args: Any, **named: Any) -> Any:
    with _training:
        from distributed import get_client, get_worker

        loader.AT_ONCE, ordinal = _among(get_worker().address, get_client().nthreads())
        choose_card(ordinal)
        return do(*args, **named)


def _among(address: str, workers: Iterable[str]) -> tuple[int, int]:
    """Return how many of dask's workers are on the machine of one of them, and its number among these."""
    from distributed.comm import get_address_host

    host = get_address_host(address)
    addresses = sorted({address} | {other for other in workers if get_address_host(other) == host})
    return len(addresses), addresses.index(address)


def threads_each(at_once: int) -> int | None:
    """Return each process's share of the cores; None where the environment sets the number of threads."""
    return None if os.environ.get(THREADS) else max(1, _cores() // at_once)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settle_in(turns: Any, threads: int | None, at_once: int) -> None:
    """Set up a new process: its share of cores and memory, and a GPU of its own where there are several."""
    _serve()
    turn = turns.get()
    if threads:
        torch.set_num_threads(threads)
    loader.AT_ONCE = at_once
    choose_card(turn)


def _serve() -> None:
    """Ignore Ctrl-C in a new process, which the command handles, and end when the command is gone, even if killed."""
    command = multiprocessing.parent_process()
    if command is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        command.join()
        os._exit(1)  # whatever the training is at: it goes on from its last epoch

    threading.Thread(target=follow, daemon=True).start()
