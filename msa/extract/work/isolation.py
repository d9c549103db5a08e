"""Samples that are suspected of killing their process, worked on in a process that may be killed.

A batch with a suspect goes through whole, as it would have anywhere, so that the innocent get the same bits. Only when
it kills the process does each of its samples go alone, and only one that kills a process which has done nothing else is
convicted: it becomes a failure record. Hidden states come back through a pipe, to the writer they would have had.
"""

import faulthandler
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from msa.errors import BackboneError
from msa.extract.encoders.apart import Apart, ApartError
from msa.extract.media.decode import BOUNDS, Bounds
from msa.extract.recipe import Recipe
from msa.extract.work.crash_journal import lost
from msa.extract.work.forward import Failure, Found
from msa.extract.work.stages import Meter, ahead
from msa.extract.work.units import Counts, Piece, Station, Watch, decoder, encoded
from msa.types import Modality, Raw

KILLED = "killed the process that worked on it"


def work_through(
    piece: Piece, stations: Mapping[Modality, Station], device: str, timeout_s: float, watch: Watch
) -> None:
    """As `work.work_through` does it, but for a sample that kills: no process of the caller's dies of it."""
    for modality, station in stations.items():
        raws = {row: raw[modality] for row, raw in piece.raws.items() if modality in raw}
        batches = [batch for batch in piece.batches if not station.todo.isdisjoint(batch)]
        with closing(Ward(station.recipe, device, timeout_s, piece.bounds)) as ward:
            for batch in batches:
                station.note.begin(station.todo.intersection(batch))
                found = ward.states({row: raws[row] for row in batch if row in raws})
                watch(modality, list(found[0]), *station.write(*found))


@dataclass
class Death(Exception):
    """The end of the other process: at which stage, and how."""

    stage: str
    reason: str


class Ward:
    """The other process, from this side. It is brought back after each death."""

    def __init__(self, recipe: Recipe, device: str, timeout_s: float, bounds: Bounds = BOUNDS) -> None:
        self._apart = Apart(f"{__name__}:Patient", recipe, device, timeout_s, bounds, environment=_threads())
        self._recipe, self._timeout_s = recipe, timeout_s
        self._fresh = True  # has it done nothing yet?

    def states(self, raws: Mapping[int, Raw]) -> tuple[dict[int, Found], Counts]:
        """Hidden states of a batch, or why there are none, and what was counted."""
        try:
            return self._surely(raws)
        except Death as death:
            if len(raws) == 1:
                return dict.fromkeys(raws, Failure(death.stage, death.reason)), {}
        states: dict[int, Found] = {}
        counts: Counts = {}
        for row, raw in raws.items():
            found = self.states({row: raw})
            states, counts = states | found[0], counts | found[1]
        return states, counts

    def _surely(self, raws: Mapping[int, Raw]) -> tuple[dict[int, Found], Counts]:
        """The same. Raises Death where it kills a process that has done nothing before it may have died of."""
        fresh = self._fresh
        try:
            return self._once(raws)
        except Death:
            if fresh:
                raise
            return self._once(raws)

    def _once(self, raws: Mapping[int, Raw]) -> tuple[dict[int, Found], Counts]:
        self._ask("decode", len(raws), raws)
        found: tuple[dict[int, Found], Counts] = self._ask("encode", len(raws))
        self._fresh = False
        return found

    def _ask(self, stage: str, samples: int, *args: Any) -> Any:
        began = time.monotonic()
        try:
            return self._apart.ask(stage, *args)
        except ApartError as error:
            self._fresh = True
            if error.kind and lost(str(error)):
                self._apart.close()  # as good as dead
                raise Death(stage, f"{KILLED} ({error})") from None
            if error.starting or error.kind:  # the model itself, or a defect of ours: no sample is to blame
                raise BackboneError(
                    f"{self._recipe.label}, in a process of its own: {error}",
                    fix="look for what is missing there; --engine serial works in this process alone",
                ) from error
            if time.monotonic() - began > self._timeout_s * samples:
                raise Death(stage, f"gave up after {self._timeout_s:g} s") from None
            how = re.search(r"SIG\w+|exit code -?\d+", str(error))
            raise Death(stage, f"{KILLED} ({how[0]})" if how else KILLED) from None

    def close(self) -> None:
        """End it."""
        self._apart.close()


def _threads() -> dict[str, str]:
    """As many threads of torch there as here: their number may change the last bits."""
    torch = sys.modules.get("torch")
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())} if torch is not None else {}


class Patient:
    """The other side: a model that decodes and encodes one batch after the other."""

    def __init__(self, recipe: Recipe, device: str, timeout_s: float, bounds: Bounds = BOUNDS) -> None:
        self._recipe, self._timeout_s, self._bounds = recipe, timeout_s, bounds
        self._backbone = recipe.load(device)
        self._rows: Sequence[int] = ()
        self._clips: list[Any] = []

    def decode(self, raws: Mapping[int, Raw]) -> None:
        """Decode a batch and keep it. What takes too long is given up as anywhere, or else ends this process."""
        modality, models = self._recipe.spec.modality, {self._recipe.spec.modality: (self._recipe, self._backbone)}
        decode = decoder({row: {modality: raw} for row, raw in raws.items()}, models, bounds=self._bounds)
        with self._at_most(len(raws)):
            [(self._rows, found)] = ahead(decode, [tuple(raws)], Meter(), self._timeout_s)
        self._clips = [clip if isinstance(clip, Exception) else clip[modality] for clip in found]

    def encode(self) -> tuple[dict[int, Found], Counts]:
        """Hidden states of what was decoded last, or why there are none, and what was counted."""
        with self._at_most(len(self._rows)):
            return encoded(self._backbone, self._rows, self._clips)

    @contextmanager
    def _at_most(self, samples: int) -> Iterator[None]:
        """End this process when it takes longer than that, though it be stuck where no Python runs."""
        faulthandler.dump_traceback_later(1 + 1.1 * self._timeout_s * samples, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
