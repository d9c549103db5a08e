"""The forward of one batch, with every failure tied to the sample it belongs to."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from msa.errors import BackboneError, MsaError
from msa.extract.backbone import Backbone
from msa.extract.media.decode import MediaError

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why a sample has no hidden states: the stage it failed in, and a short reason."""

    stage: str
    reason: str

    @classmethod
    def of(cls, stage: str, error: Exception) -> "Failure":
        """Media errors speak for themselves; anything else is named by its type."""
        text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            text = "too little memory" + (f": {error}" if str(error) else "")
        return cls(stage, text.strip().partition("\n")[0][:300])


Found = np.ndarray | Failure
# How torch, the driver and cuBLAS say that there is no room; halves may find it
NO_ROOM = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
# Errors after which the CUDA Runtime refuses every call of the process, by its own documentation
LOST = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC",
)


@dataclass
class Flight:
    """A batch under way. `land` in the thread that runs the model; then `found`, which is work for any."""

    backbone: Backbone | None = None
    rows: Sequence[int] = ()  # that have a clip
    clips: Sequence[Any] = ()
    launched: Any = None  # what the backbone's `launch` returned
    done: dict[int, Found] = field(default_factory=dict)

    @property
    def landed(self) -> bool:
        """Would `land` return at once?"""
        return self.launched is None or self.launched.landed

    def land(self) -> None:
        """Until the device is done with it; what failed there is taken again in halves."""
        if self.launched is None or self.backbone is None:
            return
        failed = attempt(self.launched.wait)
        if isinstance(failed, Exception):
            self.launched = None
            self._settle(_in_halves(self.backbone, self.clips, failed))
        self.clips = ()

    def found(self) -> dict[int, Found]:
        """Row -> hidden states or failure, for every row of the batch."""
        if self.launched is not None:
            self._settle(self.launched.each())
            self.launched = None
        return self.done

    def _settle(self, states: Sequence[np.ndarray | Exception]) -> None:
        for row, own in zip(self.rows, states, strict=True):
            self.done[row] = Failure.of("encode", own) if isinstance(own, Exception) else own


def launch(backbone: Backbone, batch: Sequence[int], clips: Sequence[Any]) -> Flight:
    """Begin the forward of a batch. A backbone without `launch` is done with it when this returns."""
    readable = [(row, clip) for row, clip in zip(batch, clips, strict=True) if not isinstance(clip, Exception)]
    flight = Flight(backbone, [row for row, _ in readable], [clip for _, clip in readable])
    for row, clip in zip(batch, clips, strict=True):
        if isinstance(clip, Exception):
            flight.done[row] = Failure.of("decode", clip)
    begin = backbone.launch
    if begin is None or not readable:
        flight._settle(_encoded(backbone, flight.clips))
        return flight
    begun = attempt(lambda: begin(flight.clips))
    if isinstance(begun, Exception):
        flight._settle(_in_halves(backbone, flight.clips, begun))
    else:
        flight.launched = begun
    return flight


def hidden_states(backbone: Backbone, batch: Sequence[int], clips: Sequence[Any]) -> dict[int, Found]:
    """Row -> hidden states or failure, for every row of a batch."""
    flight = launch(backbone, batch, clips)
    flight.land()
    return flight.found()


def _encoded(backbone: Backbone, clips: Sequence[Any]) -> list[np.ndarray | Exception]:
    """Hidden states of each clip, or why it has none."""
    if not clips:
        return []
    states = attempt(lambda: backbone.encode(clips))
    if isinstance(states, Exception):
        return _in_halves(backbone, clips, states)
    return [rows if np.isfinite(rows).all() else FloatingPointError("NaN or infinity") for rows in states]


def _in_halves(backbone: Backbone, clips: Sequence[Any], error: Exception) -> list[np.ndarray | Exception]:
    """What becomes of a batch that failed: it is halved until the clips at fault stand alone.

    Raises BackboneError where the device itself is lost: then it is no clip's fault, and all that follow would fail.
    """
    short = _short_of_memory(error)
    if any(words in str(error) for words in LOST):
        raise BackboneError(
            f"the GPU gave up in a batch of {len(clips)}: {str(error).strip().splitlines()[0]}",
            fix="what was extracted is kept; give the same command again, and where it stops at the same place, "
            "add --device cpu to learn which sample it is",
        ) from error
    if short:
        _give_back(error)
    if len(clips) > 1:
        half = len(clips) // 2
        return _encoded(backbone, clips[:half]) + _encoded(backbone, clips[half:])
    if not short:
        return [error]
    alone = attempt(lambda: backbone.encode(clips))  # once more: there may be room, now that there is nothing else
    return [alone] if isinstance(alone, Exception) else list(alone)


def _short_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_ROOM)


def _give_back(error: Exception) -> None:
    """Free what the failed forward held: its frames, which the traceback keeps, and torch's stock of free blocks."""
    error.__traceback__ = None
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def attempt(work: Callable[[], T]) -> T | Exception:
    """The result, or the exception that concerns this sample alone; what is wrong with the run itself is raised."""
    try:
        return work()
    except MsaError:
        raise
    except Exception as error:
        return error
