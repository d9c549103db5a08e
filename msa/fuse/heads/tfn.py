"""TFN: outer product of modality vectors (Zadeh et al., EMNLP 2017).

Paper    https://arxiv.org/abs/1707.07250
Code     https://github.com/Justin1904/TensorFusionNetworks, commit ef0e78b55831 (2020-04-04)
Fidelity A
Differs  Default widths are those of a public reimplementation's training script. The paper's (preset `paper`) give 18
         million weights for three modalities and 593 million for four, because the product grows with every
         modality. A product above 2^20 elements is refused.
         The language subnetwork reads the LSTM's last state; the others read the mean over the valid steps.
         Values are scaled into the range of the task by a sigmoid, as in the paper. The error is squared.
Missing  A modality absent from `dims` is no factor of the product. One that a sample lacks is embedded as 0. With the
         appended 1 it is neutral, and the product of the other modalities remains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean
from msa.types import Modality, Task

_LARGEST = 1 << 20  # elements of the product; times `post` it is the number of weights behind it


@dataclass(frozen=True)
class Config:
    """Where nothing else is said, the values with which the public reimplementation trains on MOSI."""

    text_hidden: int = 128  # units of the LSTM
    text_out: int = 64  # width of z_l; 128 in the paper
    hidden: int = 16  # width of z_v and z_a, and of the layers before; 32 in the paper
    post: int = 32  # units of the two layers behind the product; 128 in the paper
    dropout: float = 0.3  # on the input of the subnetworks, and on the product


PRESETS = {
    "default": Config(),
    "small": Config(text_hidden=32, text_out=32),
    "paper": Config(text_out=128, hidden=32, post=128),  # Sec. 4.1 and 4.3
}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-3,  # Adam's own, the reimplementation names none
        "weight_decay": 1e-2,  # ours: the product has far more weights than a dataset has samples
        "batch": 32,  # ours
    }
}
TRAIN["paper"] = TRAIN["default"]


class TFN(FusionHead):
    """Sec. 4: embed each modality, multiply, infer."""

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in Modality if m in dims]
        widths = [c.text_out if m == Modality.TEXT else c.hidden for m in self.modalities]
        size = math.prod(w + 1 for w in widths)
        if size > _LARGEST:
            raise ConfigError(
                f"the product of {', '.join(self.modalities)} has {' x '.join(str(w + 1) for w in widths)} = {size:,} "
                f"elements, more than {_LARGEST:,}",
                fix="narrow its factors, such as --set hidden=8 --set text_out=32",
            )
        self.embed = nn.ModuleDict(
            {m: LanguageNet(dims[m], c) if m == Modality.TEXT else MeanNet(dims[m], c) for m in self.modalities}
        )
        self.infer = nn.Sequential(  # Sec. 4.3
            nn.Dropout(c.dropout),
            nn.Linear(size, c.post),
            nn.ReLU(),
            nn.Linear(c.post, c.post),
            nn.ReLU(),
            nn.Linear(c.post, task.outputs),
        )

    def forward(self, batch: Batch) -> Tensor:
        z = [self.embed[m](batch.x[m], batch.mask[m]) for m in self.modalities]  # z_m, each (B, d_m), 0 where absent
        output = self.infer(outer(z))  # (B, outputs)
        if self.task.classes or not self.task.low < self.task.high:
            return output
        return self.task.low + (self.task.high - self.task.low) * output.sigmoid()  # (B, 1)


def outer(z: list[Tensor]) -> Tensor:
    """[z_1; 1] x [z_2; 1] x ..., Sec. 4.2: vectors (B, d_m) -> (B, product of d_m + 1).

    Holds every z_m, every product of two, and the product of all: the unimodal, bimodal and trimodal terms.
    """
    fused = z[0].new_ones(len(z[0]), 1)  # (B, 1)
    for z_m in z:
        one = torch.cat([z_m, z_m.new_ones(len(z_m), 1)], 1)  # (B, d_m + 1)
        fused = (fused[:, :, None] * one[:, None]).flatten(1)  # (B, product of the d_m + 1 so far)
    return fused


class LanguageNet(nn.Module):
    """Language subnetwork: linear layer on the last state of an LSTM."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, c.text_hidden, batch_first=True)
        self.drop = nn.Dropout(c.dropout)
        self.linear = nn.Linear(c.text_hidden, c.text_out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under mask (B, T) -> z_l (B, text_out)."""
        length = mask.sum(1).clamp(min=1).cpu()  # (B,)
        _, (h, _) = self.lstm(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))
        return self.linear(self.drop(h[0])) * mask.any(1, keepdim=True)


class MeanNet(nn.Module):
    """Visual or acoustic subnetwork: three layers on the mean over the steps."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        steps = [[nn.Linear(d, c.hidden), nn.ReLU()] for d in (width, c.hidden, c.hidden)]
        self.mlp = nn.Sequential(nn.Dropout(c.dropout), *[step for pair in steps for step in pair])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under mask (B, T) -> z_m (B, hidden)."""
        return self.mlp(masked_mean(x, mask)) * mask.any(1, keepdim=True)
