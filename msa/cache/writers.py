"""Who writes, and does it still live: what a journal or the name of a claim says of a process.

A number alone is given away again some day, a clock can be set, and two containers of one name have numbers of their
own. So a process is named by its host (and, in a container, its space of process numbers), its number, when it was
started, when by the same clock the machine was, and which start of the machine that is.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

SILENT_AFTER_S = 900.0  # a writer that cannot be seen from here and has not been heard of for so long is taken for dead
_FIRST_SPACE = 0xEFFFFFFC  # Linux: the process numbers of the machine itself
_TOLERANCE_S = 2.0  # the start of the machine is known to the second


def whoami() -> dict[str, Any]:
    """This process, so that others can tell whether it still lives."""
    booted = psutil.boot_time()
    started = psutil.Process().create_time()
    return {"host": host(), "pid": os.getpid(), "started": started, "booted": booted, "boot": _boot()}


def host() -> str:
    """The name of this machine; of a container with process numbers of its own also which."""
    name = socket.gethostname().replace("~", "-")  # it becomes a part of the name of a folder
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return name
    return name if space == _FIRST_SPACE else f"{name}#{space}"


def lives(owner: Mapping[str, Any], silent_s: float) -> bool:
    """Does this process still run? One that cannot be seen from here lives until it has been silent for long.

    Raises KeyError, TypeError or ValueError where `owner` says nothing sensible.
    """
    pid, started, name = int(owner["pid"]), float(owner["started"]), str(owner["host"])
    if name not in (host(), socket.gethostname()):  # versions before knew no spaces of numbers
        return silent_s < SILENT_AFTER_S
    if owner.get("boot") and _boot() and owner["boot"] != _boot():
        return False  # the machine was started again since
    try:
        booted = psutil.boot_time()
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # dead, and nobody asked after it
        then = started - float(owner.get("booted", booted))  # a clock that was set moves both
        return abs(process.create_time() - booted - then) < _TOLERANCE_S
    except psutil.AccessDenied:
        return silent_s < SILENT_AFTER_S
    except psutil.NoSuchProcess:
        return _hidden(pid) and silent_s < SILENT_AFTER_S


def _hidden(pid: int) -> bool:
    """Is there a process of this number that we may not look at? Clusters hide those of others (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _boot() -> str:
    """Which start of this machine we are in; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
