"""LMF: low-rank tensor fusion (Liu et al., ACL 2018).

Paper    https://arxiv.org/abs/1806.00064
Code     https://github.com/Justin1904/Low-rank-Multimodal-Fusion, commit ea4755124d19 (2020-04-04)
Fidelity A
Differs  The paper adds the R products. The authors' code weights them (`rank_weights`), as does this head. The product
         comes before the sum over the rank, since the other order would multiply factors of different ranks.
         The authors tune every width, rate and rank per label. The defaults are their values for sentiment on POM.
         They train the factors at a separate learning rate; this head has one rate for all parameters.
         Values are trained on the squared error, the authors' code on the absolute one (`--set loss=l1`).
         The visual and acoustic subnetworks have no batch norm. The authors' code has one, the paper has none, and the
         training loop standardises audio and face itself.
Missing  A modality absent from `dims` has no factor. One that a sample lacks is embedded as 0, so [0; 1] w_m is the
         learnt constant of its factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from msa.config import checked
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """The authors' choice for sentiment on POM, as published with their code."""

    rank: int = 4  # R
    rank_weights: bool = True  # learn a weight for each of the R products; false adds them
    text_hidden: int = 64  # units of the LSTM; z_l is half as wide
    hidden: int = 16  # width of the visual and acoustic embeddings
    dropout: float = 0.5  # on the means that the visual and acoustic subnetworks read
    text_dropout: float = 0.2  # on the last state of the LSTM
    loss: Literal["mse", "l1"] = "mse"  # of values, squared or absolute error; l1 in the authors' code

    def __post_init__(self) -> None:
        checked(self)


PRESETS = {"default": Config()}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-3,  # the authors'
        "weight_decay": 2e-3,  # the authors'
        "batch": 32,  # ours; they search 4 to 128
    }
}
SEARCH = {"rank": (1, 4, 8, 16)}  # the authors' grid


class LMF(FusionHead):
    rank: Tensor

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.embed = nn.ModuleDict(
            {m: LanguageNet(dims[m], c) if m == Modality.TEXT else MeanNet(dims[m], c) for m in self.modalities}
        )
        width = {m: c.text_hidden // 2 if m == Modality.TEXT else c.hidden for m in self.modalities}  # d_m
        self.w = nn.ParameterDict(  # w_m, each (R, d_m + 1, outputs)
            {m: nn.init.xavier_normal_(torch.empty(c.rank, d + 1, task.outputs)) for m, d in width.items()}
        )
        if c.rank_weights:
            self.rank = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, c.rank)).squeeze(0))  # (R,)
        else:
            self.register_buffer("rank", torch.ones(c.rank), persistent=False)
        self.b = nn.Parameter(torch.zeros(task.outputs))

    def forward(self, batch: Batch) -> Tensor:
        z = {m: self.embed[m](batch.x[m], batch.mask[m]) for m in self.modalities}  # z_m, each (B, d_m)
        with torch.autocast(self.b.device.type, enabled=False):  # a product of sums: fp32 under AMP
            fused = low_rank([z[m].float() for m in self.modalities], [self.w[m] for m in self.modalities], self.rank)
            return fused + self.b  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self(batch)  # (B, outputs)
        return output, {"task": task_loss(self.task, output, batch.y, self.config.loss)}


def low_rank(z: list[Tensor], w: list[Tensor], rank: Tensor) -> Tensor:
    """sum_r rank_r prod_m [z_m; 1] w_m^r: z_m (B, d_m), w_m (R, d_m + 1, outputs), rank (R,) -> (B, outputs).

    Equals the product of TFN's tensor with weights of rank R, without computing that tensor.
    """
    h = torch.ones((), device=rank.device)
    for z_m, w_m in zip(z, w, strict=True):
        one = torch.cat([z_m, z_m.new_ones(len(z_m), 1)], 1)  # (B, d_m + 1)
        h = h * torch.einsum("bd,rdo->bro", one, w_m)  # (B, R, outputs), elementwise over the modalities
    return torch.einsum("bro,r->bo", h, rank)


class LanguageNet(nn.Module):
    """Linear layer on the last state of an LSTM."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, c.text_hidden, batch_first=True)
        self.drop = nn.Dropout(c.text_dropout)
        self.linear = nn.Linear(c.text_hidden, c.text_hidden // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under mask (B, T) -> z_l (B, D_l), half of text_hidden wide, 0 where there is no text."""
        length = mask.sum(1).clamp(min=1).cpu()  # (B,)
        _, (h, _) = self.lstm(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))
        return self.linear(self.drop(h[0])) * mask.any(1, keepdim=True)


class MeanNet(nn.Module):
    """Three-layer network on the mean over the steps."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        steps = [[nn.Linear(d, c.hidden), nn.ReLU()] for d in (width, c.hidden, c.hidden)]
        self.mlp = nn.Sequential(nn.Dropout(c.dropout), *[step for pair in steps for step in pair])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under mask (B, T) -> z_m (B, hidden), 0 where it is absent."""
        return self.mlp(masked_mean(x, mask)) * mask.any(1, keepdim=True)
