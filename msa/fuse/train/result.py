"""What a training returns, and how it is read back from a file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class TrainResult:
    """The weights that were best on validation, and every epoch's losses."""

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    collapsed: bool = False  # with the best weights every validation sample gets the same prediction
    restarted_at: float | None = None  # the lower learning rate, after a collapse
    skipped_steps: int = 0  # whose gradient was not finite
    seconds: float = 0.0  # of all epochs, before and after an interruption or a restart
    data_seconds: float = 0.0  # of these, how long training steps waited for their batches
    padding: float = 0.0  # share of the numbers in the last epoch's batches that was padding

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> "TrainResult":
        """Return the result whose `vars` these are. Raises KeyError, TypeError or ValueError for anything else."""
        result = cls(**values)
        if not isinstance(result.state, dict) or not all(isinstance(w, Tensor) for w in result.state.values()):
            raise TypeError("the weights are not tensors")
        for epoch in result.history:
            if not {"train_loss", "valid_loss"} <= epoch.keys() or not all(isinstance(name, str) for name in epoch):
                raise ValueError("an epoch without its losses")
            if not all(type(value) in (int, float) for value in epoch.values()):
                raise TypeError("an epoch whose losses are not numbers")
        epochs = len(result.history)
        if (
            type(result.best_epoch) is not int
            or not -1 <= result.best_epoch < epochs
            or type(result.history) is not list
        ):
            raise ValueError(f"best_epoch {result.best_epoch} of {epochs} epochs")
        if type(result.collapsed) is not bool or type(result.skipped_steps) is not int:
            raise TypeError("collapsed or skipped_steps of another type")
        numbers = (result.seconds, result.data_seconds, result.padding, result.restarted_at or 0.0)
        if not all(type(value) in (int, float) and math.isfinite(value) for value in numbers):
            raise TypeError("a time, a rate or a share that is not a finite number")
        return result
