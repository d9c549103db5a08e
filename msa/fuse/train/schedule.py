"""Learning rates and patience: what a training changes between steps, and when it stops."""

import math
from dataclasses import dataclass

import torch

from msa.fuse.train.config import TrainConfig


class Schedule:
    """Learning rate of every step: linear warm-up from 0, then the plateau, cosine or constant schedule."""

    def __init__(self, optimiser: torch.optim.Optimizer, config: TrainConfig) -> None:
        self.optimiser, self.config = optimiser, config
        self.rates = [group["lr"] for group in optimiser.param_groups]  # after warm-up
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=2)

    @property
    def rate(self) -> float:
        """Return the learning rate of the first parameter group."""
        return float(self.optimiser.param_groups[0]["lr"])

    def before_step(self, epoch: int, step: int, steps: int) -> None:
        """Set the rates for one step of an epoch of `steps`, both counted from 0."""
        config, passed = self.config, epoch + step / steps  # in epochs
        if passed < config.warmup_epochs:
            factor = (passed * steps + 1) / max(1.0, config.warmup_epochs * steps)
        elif config.schedule == "cosine":
            span = max(config.epochs - config.warmup_epochs, 1e-9)
            factor = 0.5 * (1 + math.cos(math.pi * min(1.0, (passed - config.warmup_epochs) / span)))
        elif config.schedule == "none" or (step == 0 and epoch == math.ceil(config.warmup_epochs)):
            factor = 1.0
        else:
            return  # the plateau schedule changes rates between epochs
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, factor)

    def after_epoch(self, epochs: int, value: float) -> None:
        """Tell the plateau schedule the validation figure of the epoch that ended, of `epochs` in all."""
        if self.config.schedule == "plateau" and epochs >= self.config.warmup_epochs:
            self.plateau.step(value)


@dataclass
class Patience:
    """Early stopping: the best validation figure so far, and how many epochs have not improved on it."""

    limit: int
    best: float = math.inf
    stale: int = 0

    @property
    def exhausted(self) -> bool:
        """Return whether `limit` epochs have passed without a better figure."""
        return self.stale >= self.limit

    def improves(self, value: float) -> bool:
        """Count one more epoch, and return whether its figure is the best so far."""
        better = value < self.best
        self.best, self.stale = (value, 0) if better else (self.best, self.stale + 1)
        return better
