"""MulT: crossmodal Transformers (Tsai et al., ACL 2019).

Paper    https://arxiv.org/abs/1906.00295
Code     https://github.com/yaohungt/Multimodal-Transformer, commit a670936824ee (2021-12-30)
Fidelity A
Differs  Attention covers the whole memory, as in the paper's formula. The authors' code masks the steps ahead of the
         query by step number, which is not time where modalities have different rates.
         Attention dropout leaves out whole keys, per head, before the softmax, where theirs leaves out single weights
         after it (`attention_drops`). No L x S matrix is kept, so 375 by 500 steps fit (see modules/attention.py).
         One attention dropout rate serves all; the authors' code has it where text is read and in self-attention.
         Values are trained on the squared error, the authors' code on the absolute one (`--set loss=l1`).
         An odd kernel wider than 1 is padded, so a sequence keeps its length. Positions count all steps.
         Where the paper says nothing this head follows its code: scaling by sqrt(d), norms first, one norm for query
         and memory, 4d units in the feed-forward.
Missing  M modalities make M (M - 1) streams. A modality's self-attention is as wide as its M - 1 streams together. A
         lone modality has its self-attention only. One that a sample lacks adds 0 to its readers, and is 0 itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from msa.config import checked
from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, task_loss
from msa.fuse.modules.attention import Drops
from msa.fuse.modules.crossmodal import Place, Rates, Readout, Stack
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """Where nothing else is said, the defaults of the authors' code."""

    dim: int = 30  # d, of every modality
    heads: int = 5
    layers: int = 4  # D, of crossmodal attention; 5 in the code, 4 in MMSA's settings for MOSI and MOSEI
    self_layers: int = 3  # of self-attention; in the code the larger of 3 and D
    kernel: int = 1  # width of the temporal convolution, steps
    attention_dropout: float = 0.1
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as the authors' code
    ffn_dropout: float = 0.1  # behind the ReLU
    residual_dropout: float = 0.1  # on the output of each sublayer
    embed_dropout: float = 0.25  # on the text, and on the input of each stack
    out_dropout: float = 0.0  # before the last layer but one
    loss: Literal["mse", "l1"] = "mse"  # of values, squared or absolute error; l1 in the authors' code

    def __post_init__(self) -> None:
        checked(self)
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel {self.kernel} has no step in its middle", fix="an odd one, such as 3")
        if min(self.layers, self.self_layers) < 1:
            raise ConfigError("layers and self_layers must be 1 or more", fix="the default is 4 and 3")


PRESETS = {"default": Config(), "small": Config(dim=20, heads=2, layers=1, self_layers=1)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-3,  # the authors'
        "batch": 24,  # the authors'
        "epochs": 40,  # the authors'
        "clip": 0.8,  # the authors'
    }
}
SEARCH = {"layers": (2, 3, 4, 5)}  # ours; the code has 5, MMSA 4


class MulT(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.others = {m: [s for s in self.modalities if s != m] for m in self.modalities}
        width = c.dim * max(len(self.modalities) - 1, 1)  # of a modality's streams together
        self.text_drop = nn.Dropout(c.embed_dropout)
        self.project = nn.ModuleDict(
            {m: nn.Conv1d(dims[m], c.dim, c.kernel, padding=c.kernel // 2, bias=False) for m in self.modalities}
        )
        self.place = Place(c.embed_dropout)
        rates = Rates(c.attention_dropout, c.ffn_dropout, c.residual_dropout, c.attention_drops)
        self.cross = nn.ModuleDict(
            {f"{s}_to_{m}": Stack(c.dim, c.heads, c.layers, rates) for m in self.modalities for s in self.others[m]}
        )
        self.own = nn.ModuleDict({m: Readout(width, c.heads, c.self_layers, rates) for m in self.modalities})
        joined = width * len(self.modalities)
        self.residual = nn.Sequential(
            nn.Linear(joined, joined), nn.ReLU(), nn.Dropout(c.out_dropout), nn.Linear(joined, joined)
        )
        self.classify = nn.Linear(joined, task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        z = {m: self.place(self._project(m, batch.x[m], mask[m])) for m in self.modalities}  # Z_m, each (B, L_m, d)
        last = []
        for m in self.modalities:
            streams = [self.cross[f"{s}_to_{m}"](z[m], z[s], mask[s]) for s in self.others[m]]  # each (B, L_m, d)
            joined = self.place(torch.cat(streams, 2)) if streams else z[m]  # (B, L_m, width)
            last.append(self.own[m](joined, mask[m]))  # (B, width), 0 where a sample lacks m
        h = torch.cat(last, 1)  # (B, M width)
        return self.classify(self.residual(h) + h)  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self(batch)  # (B, outputs)
        return output, {"task": task_loss(self.task, output, batch.y, self.config.loss)}

    def _project(self, m: Modality, x: Tensor, mask: Tensor) -> Tensor:
        """Temporal convolution of x (B, L, D_m), 0 behind the mask -> (B, L, d)."""
        x = x.masked_fill(~mask[:, :, None], 0.0)
        x = self.text_drop(x) if m == Modality.TEXT else x
        return self.project[m](x.transpose(1, 2)).transpose(1, 2)
