"""The forward of one batch, with every failure tied to the sample it belongs to."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from msa.errors import BackboneError, MsaError
from msa.extract.backbone import Backbone
from msa.extract.media.decode import MediaError

T = TypeVar("T")
# How torch, the driver and cuBLAS report that memory is short; half a batch may fit
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
# Errors after which the CUDA Runtime refuses every call of the process, by its own documentation
DEVICE_LOST = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC",
)


def device_lost(error: object) -> bool:
    """Return whether an error reports a device that this process can no longer use."""
    return any(words in str(error) for words in DEVICE_LOST)


@dataclass(frozen=True)
class Failure:
    """Why a sample has no hidden states: the stage it failed in, and a short reason."""

    stage: str
    reason: str

    @classmethod
    def of(cls, stage: str, error: Exception) -> "Failure":
        """Return the failure for an exception: a media error by its message alone, any other with its type."""
        text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            text = "too little memory" + (f": {error}" if str(error) else "")
        return cls(stage, text.strip().partition("\n")[0][:300])


@dataclass(frozen=True)
class Encoded:
    """What became of one sample."""

    states: np.ndarray | Failure  # (T, D)
    counts: Mapping[str, int] = field(default_factory=dict)  # what the backbone counted: frames without a face


@dataclass
class InFlight:
    """A batch between `begin` and the writer. Call `wait` in the thread that runs the model, then `results` in any."""

    backbone: Backbone
    rows: list[int] = field(default_factory=list)  # of the samples that could be decoded
    clips: list[Any] = field(default_factory=list)  # theirs; released by `wait`
    launched: Any = None  # what the backbone's `launch` returned
    done: dict[int, Encoded] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether `wait` would return at once."""
        return self.launched is None or self.launched.landed

    def wait(self) -> None:
        """Wait for the device. A batch that failed there is encoded again in halves."""
        if self.launched is not None:
            error = attempt(self.launched.wait)
            if isinstance(error, Exception):
                self.launched = None
                self._finish(_in_halves(self.backbone, self.clips, error))
        self.clips = []

    def results(self) -> dict[int, Encoded]:
        """Return what became of every sample of the batch, by row."""
        if self.launched is not None:
            self._finish(self.launched.each())
            self.launched = None
        return self.done

    def _finish(self, encoded: Sequence[np.ndarray | Exception]) -> None:
        for row, states in zip(self.rows, encoded, strict=True):
            self.done[row] = Encoded(_or_failure(states))


def begin(backbone: Backbone, rows: Sequence[int], clips: Sequence[Any]) -> InFlight:
    """Begin the forward of a batch, whose clips may be exceptions. Without a `launch`, it is done on return."""
    batch = InFlight(backbone)
    for row, clip in zip(rows, clips, strict=True):
        if isinstance(clip, Exception):
            batch.done[row] = Encoded(Failure.of("decode", clip))
        else:
            batch.rows.append(row)
            batch.clips.append(clip)
    launch = backbone.launch
    if backbone.counts is not None:  # one by one, so that each sample is stored with its own counts
        for row, clip in zip(batch.rows, batch.clips, strict=True):
            [states] = _encoded(backbone, [clip])
            batch.done[row] = Encoded(_or_failure(states), backbone.counts())
    elif launch is None or not batch.clips:
        batch._finish(_encoded(backbone, batch.clips))
    else:
        launched = attempt(lambda: launch(batch.clips))
        if isinstance(launched, Exception):
            batch._finish(_in_halves(backbone, batch.clips, launched))
        else:
            batch.launched = launched
    return batch


def encode(backbone: Backbone, rows: Sequence[int], clips: Sequence[Any]) -> dict[int, Encoded]:
    """Encode a batch, and wait for it; return what became of every sample, by row."""
    batch = begin(backbone, rows, clips)
    batch.wait()
    return batch.results()


def hidden_states(backbone: Backbone, rows: Sequence[int], clips: Sequence[Any]) -> dict[int, np.ndarray | Failure]:
    """Return the hidden states (T, D) of every sample of a batch, or its failure, by row."""
    return {row: encoded.states for row, encoded in encode(backbone, rows, clips).items()}


def _or_failure(states: np.ndarray | Exception) -> np.ndarray | Failure:
    return Failure.of("encode", states) if isinstance(states, Exception) else states


def _encoded(backbone: Backbone, clips: Sequence[Any]) -> list[np.ndarray | Exception]:
    """Return the hidden states of each clip, or why it has none."""
    if not clips:
        return []
    states = attempt(lambda: backbone.encode(clips))
    if isinstance(states, Exception):
        return _in_halves(backbone, clips, states)
    return [rows if np.isfinite(rows).all() else FloatingPointError("NaN or infinity") for rows in states]


def _in_halves(backbone: Backbone, clips: Sequence[Any], error: Exception) -> list[np.ndarray | Exception]:
    """Encode a batch that failed in halves, again and again, until the clips that fail stand alone.

    Raises:
        BackboneError: the device itself is lost. That is no clip's fault, and every clip after it would fail.
    """
    if device_lost(error):
        raise BackboneError(
            f"the GPU gave up in a batch of {len(clips)}: {str(error).strip().splitlines()[0]}",
            fix="what was extracted is kept; give the same command again, and where it stops at the same place, "
            "add --device cpu to learn which sample it is",
        ) from error
    out_of_memory = isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
    if out_of_memory:
        _free_memory(error)
    if len(clips) > 1:
        half = len(clips) // 2
        return _encoded(backbone, clips[:half]) + _encoded(backbone, clips[half:])
    if not out_of_memory:
        return [error]
    states = attempt(lambda: backbone.encode(clips))  # once more: nothing else takes memory now
    return [states] if isinstance(states, Exception) else list(states)


def _free_memory(error: Exception) -> None:
    """Free what the failed forward held: the frames in its traceback, and torch's cache of free blocks."""
    error.__traceback__ = None
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def attempt(work: Callable[[], T]) -> T | Exception:
    """Return the result, or the exception of this sample alone. An MsaError concerns the whole run and is raised."""
    try:
        return work()
    except MsaError:
        raise
    except Exception as error:
        return error
