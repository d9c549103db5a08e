"""Who writes, and does it still live: what a journal or the name of a claim says of a process.

A number alone is given away again some day, a clock can be set, two containers of one name have numbers of their own,
and two machines may have one name. So a process is named by its host (and, in a container, its space of process
numbers), which start of that machine it is, its number, and how long after that start it was started itself.

A process of this machine is looked at. One that cannot be seen from here is judged by its silence, by the clock of the
disk (see heartbeat.py), and is never dead before SILENT_AFTER_S.
"""

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from msa.cache.write.heartbeat import BEAT_S

SILENT_AFTER_S = 900.0  # a writer that cannot be seen from here and has not been heard of for so long is taken for dead
QUIET_S = 3 * BEAT_S  # nothing heard of it for so long is odd
RESTARTED_AFTER_S = 180.0  # the same where this very machine was started again since: then it need not be waited for
_FIRST_SPACE = {"pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}  # Linux: process numbers and clock of the machine itself
_TOLERANCE_S = 2.0  # the start of the machine is known to the second


def whoami() -> dict[str, Any]:
    """This process, so that others can tell whether it still lives; `beat_s` says how often it gives a sign of life."""
    booted = psutil.boot_time()
    started = booted + _after_boot(psutil.Process())
    me = {"host": host(), "pid": os.getpid(), "started": started, "booted": booted, "boot": _boot()}
    return me | {"machine": _machine(), "beat_s": BEAT_S}


def host() -> str:
    """The name of this machine; of a container with process numbers or a clock of its own also which."""
    name = socket.gethostname().replace("~", "-")  # it becomes a part of the name of a folder
    spaces = [str(found) for kind, first in _FIRST_SPACE.items() if (found := _space(kind)) not in (None, first)]
    return "#".join([name, *spaces])


def lives(owner: Mapping[str, Any], silent_s: float) -> bool:
    """Does this process still run? One that cannot be seen from here lives until it has been silent for long.

    Raises KeyError, TypeError or ValueError where `owner` says nothing sensible.
    """
    return dead_in(owner, silent_s) > 0


def dead_in(owner: Mapping[str, Any], silent_s: float) -> float:
    """In how many seconds of further silence a process counts as dead: 0 for a dead one, infinity for a living one.

    Raises KeyError, TypeError or ValueError where `owner` says nothing sensible.
    """
    pid, started, name = int(owner["pid"]), float(owner["started"]), str(owner["host"])
    left = max(0.0, SILENT_AFTER_S - silent_s)
    theirs, ours = str(owner.get("boot") or ""), _boot()
    if name != host():
        return left
    if theirs and ours and theirs != ours:
        return max(0.0, RESTARTED_AFTER_S - silent_s) if _restarted(owner, silent_s) else left
    runs = _runs(pid, started, owner)
    if runs:
        return float("inf")
    certain = runs is False and (bool(theirs and ours) or "beat_s" not in owner)
    return 0.0 if certain else left


def _runs(pid: int, started: float, owner: Mapping[str, Any]) -> bool | None:
    """Does a process of this number and start run here? None where that is hidden from us."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # dead, and nobody asked after it
        then = started - float(owner.get("booted") or psutil.boot_time())  # a clock that was set moves both
        return abs(_after_boot(process) - then) < _TOLERANCE_S
    except psutil.NoSuchProcess:
        return None if _hidden(pid) else False
    except (psutil.AccessDenied, OSError, RuntimeError):  # a container without /proc
        return None


def _restarted(owner: Mapping[str, Any], silent_s: float) -> bool:
    """Was this very machine started again since that process was last heard of?

    Copies of a virtual machine have one name and one number: only silence since before our start tells them apart.
    """
    here = _machine()
    if not here or owner.get("machine") != here:
        return False
    running_s = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0
    before = float(owner["booted"]) < psutil.boot_time() - _TOLERANCE_S
    return before and 0.0 < running_s < silent_s


def _hidden(pid: int) -> bool:
    """Is there a process of this number that we may not look at? Clusters hide those of others (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _after_boot(process: psutil.Process) -> float:
    """How long after its machine a process was started, seconds: on Linux by a clock that is never set."""
    try:
        line = Path(f"/proc/{process.pid}/stat").read_bytes()
        return int(line.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return process.create_time() - psutil.boot_time()


def _space(kind: str) -> int | None:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return None


def _boot() -> str:
    """Which start of this machine we are in; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def _machine() -> str:
    """Which installation of a system this is, as a hash: the number itself is not for others. Empty: it has none."""
    try:
        number = Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(f"msa {number}".encode()).hexdigest()[:16] if number else ""
