"""Linear probe on the mean of each modality: the baseline.

After    Alain and Bengio, 2016, https://arxiv.org/abs/1610.01644
Differs  Each mean is layer-normalised without an affine part and scaled to length 1, so that all modalities have the
         same weight. Backbones differ in scale by orders of magnitude and in width from 36 to 2,048. With one common
         length for the concatenated vector a narrow modality was not learnt (validation loss .593 against .571 on
         554 posts, .668 against .642 with 243 recordings added). Unit length also keeps the weights from growing
         faster than the bias, which learns the class prior. Standardising every feature over the training set, the
         usual choice, was worse on small real datasets: it amplifies features that hardly vary and removes the
         common offset through which the prior is learnt. An absent modality is 0, without a flag.
Starts   at zero: the problem is convex, the first prediction is uniform, and a constant feature stays unused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.fuse.head import Batch, FusionHead, masked_mean
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    dropout: float = 0.0  # on the concatenated means


PRESETS = {"default": Config()}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-2,  # inputs have length 1, so steps may be long
        "weight_decay": 1e-2,
        "batch": 64,
        "epochs": 100,
        "patience": 5,  # early stopping is what regularises: the optimum is reached slowly, from zero
        "warmup_epochs": 0.0,
        "schedule": "none",
        "clip": 1.0,
    }
}


class LinearProbe(FusionHead):
    means_only = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        self.modalities = [m for m in Modality if m in dims]
        self.drop = nn.Dropout(config.dropout)
        self.linear = nn.Linear(sum(dims[m] for m in self.modalities), task.outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: Batch) -> Tensor:
        means = [masked_mean(batch.x[m], batch.mask[m]) for m in self.modalities]  # each (B, D_m), 0 where absent
        z = torch.cat([F.layer_norm(x, x.shape[1:]) * x.shape[1] ** -0.5 for x in means], 1)  # (B, sum of D_m)
        return self.linear(self.drop(z))  # (B, outputs)
