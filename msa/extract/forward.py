"""The forward of one batch, with every failure tied to the sample it belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from msa.errors import MsaError
from msa.extract.backbone import Backbone
from msa.extract.media import MediaError

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
        return cls(stage, text.strip().partition("\n")[0][:300])


Found = np.ndarray | Failure


def hidden_states(backbone: Backbone, batch: list[int], clips: Sequence[Any]) -> dict[int, Found]:
    """Row -> hidden states or failure, for every row of a batch."""
    found: dict[int, Found] = {}
    readable = []
    for row, clip in zip(batch, clips, strict=True):
        if isinstance(clip, Exception):
            found[row] = Failure.of("decode", clip)
        else:
            readable.append((row, clip))
    states = _forward(backbone, [clip for _, clip in readable])
    for (row, _), rows in zip(readable, states, strict=True):
        found[row] = Failure.of("encode", rows) if isinstance(rows, Exception) else rows
    return found


def _forward(backbone: Backbone, clips: Sequence[Any]) -> list[np.ndarray | Exception]:
    """Hidden states of each clip; a batch that fails is halved until the clips at fault stand alone."""
    if not clips:
        return []
    states = attempt(lambda: backbone.encode(clips))
    if isinstance(states, Exception):
        if type(states).__name__ == "OutOfMemoryError":  # torch's, without importing it: halves find room again
            _give_back()
        if len(clips) == 1:
            return [states]
        half = len(clips) // 2
        return _forward(backbone, clips[:half]) + _forward(backbone, clips[half:])
    return [rows if np.isfinite(rows).all() else FloatingPointError("NaN or infinity") for rows in states]


def _give_back() -> None:
    import torch

    torch.cuda.empty_cache()


def attempt(work: Callable[[], T]) -> T | Exception:
    """The result, or the exception that concerns this sample alone; what is wrong with the run itself is raised."""
    try:
        return work()
    except MsaError:
        raise
    except Exception as error:
        return error
