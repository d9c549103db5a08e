"""Samples suspected of killing their process, encoded in a process of their own.

A batch with a suspect is encoded whole, as it would have been anywhere, so that the other samples get the same bits.
Only when it kills the process is each of its samples encoded alone, and only a sample that kills a process which has
done nothing else becomes a failure record. Hidden states come back through a pipe, to the writer of the view.
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
from msa.extract.encoders.process import ProcessError, ProcessObject
from msa.extract.media.decode import BOUNDS, Bounds
from msa.extract.recipe import Recipe
from msa.extract.work.forward import Encoded, Failure, device_lost, encode
from msa.extract.work.meter import Meter
from msa.extract.work.prefetch import decoder, prefetched
from msa.extract.work.units import ViewJob, Watch, WorkUnit
from msa.types import Modality, Raw

KILLED = "killed the process that worked on it"


def work_through(unit: WorkUnit, jobs: Mapping[Modality, ViewJob], device: str, timeout_s: float, watch: Watch) -> None:
    """Do what `pipeline.work_through` does in another process, so that a deadly sample does not end this one.

    Args:
        unit: the batches with a suspect.
        jobs: the views.
        device: of the models in the other processes.
        timeout_s: for decoding one sample, and for encoding it.
        watch: called after every batch.
    """
    for modality, job in jobs.items():
        with closing(IsolatedModel(job.recipe, device, timeout_s, unit.bounds)) as model:
            for batch in unit.batches:
                if job.todo.keys().isdisjoint(batch):
                    continue
                job.journal.begin(job.todo.keys() & batch)
                encoded = model.encode({row: unit.raws[row][modality] for row in batch if modality in unit.raws[row]})
                watch(modality, list(encoded), *job.write(encoded))


@dataclass
class ProcessDied(Exception):
    """The end of the other process: at which stage, and how."""

    stage: str
    reason: str


class IsolatedModel:
    """A model in another process, which is started again after each crash."""

    def __init__(self, recipe: Recipe, device: str, timeout_s: float, bounds: Bounds = BOUNDS) -> None:
        self._process = ProcessObject(f"{__name__}:Worker", recipe, device, timeout_s, bounds, environment=_threads())
        self._recipe, self._timeout_s = recipe, timeout_s
        self._fresh = True  # the process has done nothing yet

    def encode(self, raws: Mapping[int, Raw]) -> dict[int, Encoded]:
        """Decode and encode a batch; return what became of every sample, by row."""
        try:
            return self._in_a_fresh_process(raws)
        except ProcessDied as death:
            if len(raws) == 1:
                return dict.fromkeys(raws, Encoded(Failure(death.stage, death.reason)))
        return {row: encoded for row, raw in raws.items() for encoded in self.encode({row: raw}).values()}

    def _in_a_fresh_process(self, raws: Mapping[int, Raw]) -> dict[int, Encoded]:
        """Encode a batch. Raises ProcessDied where it kills a process that has done nothing else."""
        fresh = self._fresh
        try:
            return self._once(raws)
        except ProcessDied:
            if fresh:
                raise
            return self._once(raws)

    def _once(self, raws: Mapping[int, Raw]) -> dict[int, Encoded]:
        self._ask("decode", len(raws), raws)
        encoded: dict[int, Encoded] = self._ask("encode", len(raws))
        self._fresh = False
        return encoded

    def _ask(self, stage: str, samples: int, *args: Any) -> Any:
        began = time.monotonic()
        try:
            return self._process.ask(stage, *args)
        except ProcessError as error:
            self._fresh = True
            if error.kind and device_lost(error):
                self._process.close()  # it can do nothing more
                raise ProcessDied(stage, f"{KILLED} ({error})") from None
            if error.starting or error.kind:  # the model itself, or a bug of ours: no sample is to blame
                raise BackboneError(
                    f"{self._recipe.label}, in a process of its own: {error}",
                    fix="install or repair what it lacks; --engine serial works in this process alone",
                ) from error
            if time.monotonic() - began > self._timeout_s * samples:
                raise ProcessDied(stage, f"gave up after {self._timeout_s:g} s") from None
            how = re.search(r"SIG\w+|exit code -?\d+", str(error))
            raise ProcessDied(stage, f"{KILLED} ({how[0]})" if how else KILLED) from None

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _threads() -> dict[str, str]:
    """Return the environment in which torch takes as many threads as here: their number may change the last bits."""
    torch = sys.modules.get("torch")
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())} if torch is not None else {}


class Worker:
    """The other process: a model that decodes and encodes one batch after the other."""

    def __init__(self, recipe: Recipe, device: str, timeout_s: float, bounds: Bounds = BOUNDS) -> None:
        self._modality, self._timeout_s, self._bounds = recipe.spec.modality, timeout_s, bounds
        self._backbone = recipe.load(device)
        self._models = {self._modality: (recipe, self._backbone)}
        self._rows: Sequence[int] = ()
        self._clips: list[Any] = []

    def decode(self, raws: Mapping[int, Raw]) -> None:
        """Decode a batch and keep it. A sample that takes too long fails as anywhere, or else ends this process."""
        decode = decoder({row: {self._modality: raw} for row, raw in raws.items()}, self._models, self._bounds)
        with self._at_most(len(raws)):
            [(self._rows, samples)] = prefetched(decode, [tuple(raws)], Meter(), self._timeout_s)
        self._clips = [clip if isinstance(clip, Exception) else clip[self._modality] for clip in samples]

    def encode(self) -> dict[int, Encoded]:
        """Encode the batch that was decoded last; return what became of every sample, by row."""
        with self._at_most(len(self._rows)):
            return encode(self._backbone, self._rows, self._clips)

    @contextmanager
    def _at_most(self, samples: int) -> Iterator[None]:
        """End this process when the block takes longer than the timeout, though it hangs where no Python runs."""
        faulthandler.dump_traceback_later(1 + 1.1 * self._timeout_s * samples, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
