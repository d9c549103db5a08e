"""Linear probe on the means and standard deviations of each modality's steps: the baseline.

After    Alain and Bengio, 2016, https://arxiv.org/abs/1610.01644
Differs  It is solved, not trained: train/convex.py finds the optimum of the penalised loss for ten penalties, and the
         validation split chooses one. Every seed gives the same weights; rate, epochs and patience have no effect.
         Every feature is standardised over the training samples. The spread of a modality's steps says more of voices
         than their mean (setting `stats`): on five folds of RAVDESS and of EMO-DB by speaker the test loss of means
         alone was .902 and .716, with standard deviations .960 and .599.
Missing  The features of an absent modality are 0, their mean over the training samples.
Traps    Runs of earlier versions hold a probe on means scaled to length 1, trained step by step. They open and
         predict as they did.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msa.fuse.head import Batch, LinearHead, masked_mean
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    dropout: float = 0.0  # of runs of earlier versions; without effect since the probe is solved


PRESETS = {"default": Config()}
TRAIN: dict[str, dict[str, object]] = {"default": {"batch": 64, "stats": ("std",)}}


class LinearProbe(LinearHead):
    means_only = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task, sum(dims.values()))
        self.modalities = [m for m in Modality if m in dims]
        self.unit_length = False  # True in a run of an earlier version

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        means = [masked_mean(batch.x[m], batch.mask[m]) for m in self.modalities]  # each (B, D_m), 0 where absent
        if self.unit_length:
            means = [F.layer_norm(x, x.shape[1:]) * x.shape[1] ** -0.5 for x in means]
        present = [batch.mask[m].any(1, keepdim=True).expand_as(x) for m, x in zip(self.modalities, means, strict=True)]
        return torch.cat(means, 1), torch.cat(present, 1)  # (B, sum of D_m), twice

    def restore(self, state: Mapping[str, Any], source: object) -> None:
        if "center" not in state:
            self.unit_length = True
            state = {**state, "center": self.center, "scale": self.scale}
        super().restore(state, source)
