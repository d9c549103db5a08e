"""Writer liveness: which process a journal or a claim names, and whether it is alive.

A number alone is given away again some day, a clock can be set, two containers of one name have numbers of their own,
and two machines may have one name. So a process is named by its host (and, in a container, its space of process
numbers), which start of that machine it is, its number, and how long after that start it was started itself.

A process of this machine is looked up. One that cannot be seen from here is judged by its silence, by the clock of the
disk (see heartbeat.py), and never counts as dead before SILENT_AFTER_S.
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

SILENT_AFTER_S = 900.0  # a writer that cannot be seen from here and has been silent for so long counts as dead
QUIET_S = 3 * BEAT_S  # silence that is reported
RESTARTED_AFTER_S = 180.0  # the same where this machine was restarted since: there is no need to wait longer
_FIRST_SPACE = {"pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}  # Linux: process numbers and clock of the machine itself
_TOLERANCE_S = 2.0  # the start of the machine is known to the second


def whoami() -> dict[str, Any]:
    """Describe this process so that others can tell whether it is alive; `beat_s`: seconds between its heartbeats."""
    booted = psutil.boot_time()
    started = booted + _after_boot(psutil.Process())
    me = {"host": host(), "pid": os.getpid(), "started": started, "booted": booted, "boot": _boot()}
    return me | {"machine": _machine(), "beat_s": BEAT_S}


def host() -> str:
    """Return the name of this machine, plus the namespaces of a container with its own process ids or clock."""
    name = socket.gethostname().replace("~", "-")  # it becomes a part of the name of a folder
    spaces = [str(space) for kind, first in _FIRST_SPACE.items() if (space := _space(kind)) not in (None, first)]
    return "#".join([name, *spaces])


def lives(owner: Mapping[str, Any], silent_s: float) -> bool:
    """Return whether a process is alive. One that cannot be seen from here is, until it has been silent for long.

    Raises KeyError, TypeError or ValueError where `owner` describes no process.
    """
    return dead_in(owner, silent_s) > 0


def dead_in(owner: Mapping[str, Any], silent_s: float) -> float:
    """Return after how many more seconds of silence a process counts as dead: 0 if dead, infinity if alive.

    Raises KeyError, TypeError or ValueError where `owner` describes no process.
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
    """Return whether a process of this number and start time runs here; None where that is hidden from us."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # dead, and not reaped by its parent
        then = started - float(owner.get("booted") or psutil.boot_time())  # a clock that was set moves both
        return abs(_after_boot(process) - then) < _TOLERANCE_S
    except psutil.NoSuchProcess:
        return None if _hidden(pid) else False
    except (psutil.AccessDenied, OSError, RuntimeError):  # a container without /proc
        return None


def _restarted(owner: Mapping[str, Any], silent_s: float) -> bool:
    """Return whether this machine was restarted since the last heartbeat of a process.

    Copies of a virtual machine have one name and one number: only silence since before our start tells them apart.
    """
    here = _machine()
    if not here or owner.get("machine") != here:
        return False
    running_s = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0
    before = float(owner["booted"]) < psutil.boot_time() - _TOLERANCE_S
    return before and 0.0 < running_s < silent_s


def _hidden(pid: int) -> bool:
    """Return whether a process of this number is hidden from us. Clusters hide those of others (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _after_boot(process: psutil.Process) -> float:
    """Return seconds from the start of the machine to that of a process: on Linux by a clock that is never set."""
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
    """Return the id of the current boot of this machine; "" where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def _machine() -> str:
    """Return a hash of the machine id, which itself is confidential; "" where there is none."""
    try:
        number = Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(f"msa {number}".encode()).hexdigest()[:16] if number else ""
