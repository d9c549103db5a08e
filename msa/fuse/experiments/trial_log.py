"""The files of a search: optuna's log, cut back to its last whole line, and a line for people after each trial."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msa.fuse.files import exists

if TYPE_CHECKING:
    import optuna

if TYPE_CHECKING:
    import optuna


@dataclass
class NewLines:
    """What is new in a file of lines that another process writes, wherever it runs."""

    path: Path
    at: int  # bytes that are known

    @classmethod
    def behind(cls, path: Path) -> "NewLines":
        return cls(path, path.stat().st_size if exists(path) else 0)

    def new(self) -> list[str]:
        if not exists(self.path):
            return []
        with open(self.path, "rb") as file:
            file.seek(self.at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.at += len(whole + newline)
        return whole.decode("utf-8", "replace").splitlines()


def trial_line(finished: Sequence["optuna.trial.FrozenTrial"], trials: int) -> str:
    """Return a line on the last of the trials that have ended."""
    last = finished[-1]
    counted = f"trial {len(finished)} of {trials}"
    if last.state.name == "FAIL":
        return f"{counted} failed: {last.user_attrs[REASON]}".replace("\n", " ")
    complete = [trial_value(trial) for trial in finished if trial.state.name == "COMPLETE"]
    best = f" (best {min(complete):.4f})" if complete else ""
    return f"{counted}, {'given up at' if last.state.name == 'PRUNED' else 'validation'} {trial_value(last):.4f}{best}"


def trial_value(trial: "optuna.trial.FrozenTrial") -> float:
    return float(trial.value or 0)


def cut_to_whole_lines(log: Path) -> None:
    """Cut a log back to its last whole line. A full disk or a killed process leaves half of one, and what optuna
    appends to that could never be read; the trial it was of is done again."""
    log.with_name(f"{log.name}.lock").unlink(missing_ok=True)  # left by such a process: the folder is claimed
    if not log.exists():
        return
    whole = 0
    with open(log, "rb") as file:
        for line in file:
            if not _is_whole(line):
                break
            whole += len(line)
    if whole < log.stat().st_size:
        os.truncate(log, whole)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


REASON = "reason"  # of a trial that cannot be trained
