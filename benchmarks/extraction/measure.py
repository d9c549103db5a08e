"""A row of the table of targets, and clocks that give each way its turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A target, what was measured of it, and of its counterpart in the same run. No target: told for comparison."""

    what: str
    ours: str
    counterpart: str
    ratio: str = ""
    target: str = ""
    holds: bool | None = None

    HEAD = ("what", "ours", "counterpart", "ratio", "target", "holds")

    @classmethod
    def of_rates(cls, what: str, ours: float, other: float, least: float | None, unit: str, name: str) -> "Row":
        """Ours over the counterpart's, which is called `name`; `least` None: without a target."""
        ratio, digits = ours / other, ",.0f" if min(ours, other) >= 20 else ",.2f"
        told = f"{ours:{digits}} {unit}", f"{other:{digits}} {unit}, {name}", f"{ratio:.2f}"
        return cls(what, *told, f">= {least:g}", ratio >= least) if least is not None else cls(what, *told)

    @classmethod
    def of_limit(cls, what: str, ours: float, other: float, most: float, name: str, form: str = ".1e") -> "Row":
        """Ours against an upper limit; the counterpart says what it is worth."""
        return cls(what, f"{ours:{form}}", f"{other:{form}}, {name}", "", f"<= {most:g}", ours <= most)

    def __str__(self) -> str:
        verdict = {True: "yes", False: "NO", None: ""}[self.holds]
        return " | ".join((self.what, self.ours, self.counterpart, self.ratio, self.target, verdict))


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each way over rounds in which every way has its turn: a busy machine slows all alike.

    `time.process_time` as the clock counts the CPU of this process, which other programs take little part in.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            way()
            taken[name].append(clock() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
