"""Settings of a training. A head's presets override these (TRAIN in its file); `--set` overrides both."""

from dataclasses import dataclass
from typing import Literal

from msa.config import checked, modality
from msa.errors import ConfigError
from msa.fuse.head import STATISTICS
from msa.types import Task


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained."""

    lr: float = 3e-4
    weight_decay: float = 3e-3
    batch: int = 16
    bucket: bool = True  # samples of similar length in a batch, so that less than a tenth of it is padding
    epochs: int = 50
    patience: int = 5  # epochs without a better validation, by `select`
    select: Literal["loss", "mae"] = "loss"  # validation figure that chooses the weights; mae is for values only
    warmup_epochs: float = 1.0  # linear, from 0
    schedule: str = "plateau"  # plateau (factor 0.5, patience 2) | cosine | none
    clip: float = 1.0  # gradient norm; 0 = off
    amp: bool = True  # fp16 autocast on a GPU; a CPU gains nothing from it
    normalise: tuple[str, ...] = ("audio", "face")  # per dimension, on the training split's valid frames

    stats: tuple[str, ...] = ()  # mean, std of a sample's own steps, beside every step of it

    def __post_init__(self) -> None:
        checked(self)
        if self.schedule not in ("plateau", "cosine", "none"):
            raise ConfigError(f"schedule={self.schedule!r}", fix="one of plateau, cosine, none")
        if not min(self.lr, self.batch, self.epochs, self.patience) > 0:
            raise ConfigError("lr, batch, epochs and patience must be above 0", fix="see `msa fuse train --help`")
        if not min(self.weight_decay, self.warmup_epochs, self.clip) >= 0:
            raise ConfigError("weight_decay, warmup_epochs and clip must not be below 0", fix="0 switches them off")
        for name in self.normalise:
            modality(name)
        if unknown := sorted(set(self.stats) - set(STATISTICS)):
            raise ConfigError(f"stats={unknown[0]}", fix=f"any of {', '.join(STATISTICS)}")

    def criterion(self, task: Task) -> str:
        """Return the column of the history whose lowest value marks the best epoch."""
        return "valid_mae" if self.select == "mae" and not task.classes else "valid_loss"
