"""SIMR: style removal, two-way attention (Wang et al., 2023).

Paper    https://doi.org/10.1016/j.ins.2023.01.116 (Information Sciences 628)
Fidelity C: a reconstruction. There is no public code, and what we have of the paper is its abstract: nonverbal inputs
         are divided into style and content with the aid of correlations across modalities, and an enhanced
         crossmodal Transformer finds incompatible interactions beside compatible ones.
Differs  Everything else is ours. Style is the mean and the deviation of every feature over the steps of a sample,
         content is what instance normalisation leaves (as in AdaIN, Huang and Belongie, 2017). Both together must
         reconstruct the sequence. Contents of two modalities should have the same direction, style and content should
         be orthogonal. The classifier does not see style. Incompatible interactions have negated scores,
         softmax(-Q K^T / sqrt(d_k)), and their own values. Every default is ours.
Missing  M modalities have M - 1 streams each; a lone one attends to itself. Text keeps its style. One that a sample
         lacks adds 0 to its readers, is 0 itself, and counts in no loss.
Traps    Whatever is constant over a sample is style and is lost, also where it carries the sentiment. A sequence of one
         step is left as it is, because nothing would remain: a pooled image keeps its style.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.fuse.modules.attention import Attend
from msa.fuse.modules.losses import average, cosine
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """All ours."""

    dim: int = 64  # d
    heads: int = 4
    layers: int = 2  # of each stream
    dropout: float = 0.2  # on the sequences, on the output of each sublayer, and before the last layer
    reconstruction: float = 0.1  # weight
    correlation: float = 0.1  # weight of the loss between contents
    independence: float = 0.1  # weight of the loss between style and content

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if self.layers < 1:
            raise ConfigError("layers must be 1 or more", fix="the default is 2")


PRESETS = {"default": Config(), "small": Config(dim=32, heads=2, layers=1)}
TRAIN: dict[str, dict[str, object]] = {"default": {"lr": 1e-3, "weight_decay": 1e-3, "batch": 32}}  # ours


class SIMR(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.nonverbal = [m for m in self.modalities if m != Modality.TEXT]
        self.sources = {m: [s for s in self.modalities if s != m] or [m] for m in self.modalities}
        self.project = nn.ModuleDict({m: nn.Linear(dims[m], c.dim) for m in self.modalities})
        self.content = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Linear(c.dim, c.dim)) for m in self.modalities}
        )
        self.style = nn.ModuleDict({m: nn.Linear(2 * c.dim, c.dim) for m in self.nonverbal})
        self.rebuild = nn.ModuleDict({m: Decoder(c.dim) for m in self.nonverbal})
        self.drop = nn.Dropout(c.dropout)
        self.cross = nn.ModuleDict({f"{s}_to_{m}": Stack(c) for m in self.modalities for s in self.sources[m]})
        width = c.dim * sum(len(sources) for sources in self.sources.values())
        self.classify = nn.Sequential(
            nn.Linear(width, c.dim), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.dim, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        content, _ = self.divided(self.projected(batch), batch)
        return self.answer(content, batch)  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c, mask = self.config, batch.mask
        x = self.projected(batch)
        content, style = self.divided(x, batch)
        present = {m: mask[m].any(1) for m in self.modalities}  # each (B,)
        mean = {m: masked_mean(content[m], mask[m]) for m in self.modalities}  # each (B, d)
        output = self.answer(content, batch)  # (B, outputs)
        terms = {"task": task_loss(self.task, output, batch.y)}
        if pairs := list(combinations(self.modalities, 2)):
            gaps = [average(1 - cosine(mean[a], mean[b]), present[a] & present[b]) for a, b in pairs]
            terms["correlation"] = c.correlation * torch.stack(gaps).mean()
        if self.nonverbal:
            errors, overlaps = [], []
            for m in self.nonverbal:
                error = (self.rebuild[m](content[m], style[m]) - x[m].detach()).float().square().mean(2)  # (B, L_m)
                errors.append(average(error.flatten(), mask[m].flatten()))
                overlaps.append(average(cosine(style[m], mean[m]).square(), present[m]))
            terms["reconstruction"] = c.reconstruction * torch.stack(errors).mean()
            terms["independence"] = c.independence * torch.stack(overlaps).mean()
        return output, terms

    def projected(self, batch: Batch) -> Parts:
        """Return each modality at width d, 0 behind the mask, each (B, L_m, d)."""
        return {m: self.project[m](batch.x[m]).masked_fill(~batch.mask[m][:, :, None], 0.0) for m in self.modalities}

    def divided(self, x: Parts, batch: Batch) -> tuple[Parts, Parts]:
        """Return content of each modality, each (B, L_m, d), and style of all but text, each (B, d)."""
        content: Parts = {}
        style: Parts = {}
        for m in self.modalities:
            z = x[m]
            if m in self.nonverbal:
                z, mean, deviation = normalise(z, batch.mask[m])  # (B, L_m, d), (B, d), (B, d)
                style[m] = self.style[m](torch.cat([mean, deviation], 1))
            content[m] = self.content[m](z)
        return content, style

    def answer(self, content: Parts, batch: Batch) -> Tensor:
        """Each modality attends to each other one; the means of the streams are classified -> (B, outputs)."""
        z = {m: self.drop(content[m]) for m in self.modalities}  # each (B, L_m, d)
        read = []
        for m in self.modalities:
            for s in self.sources[m]:
                stream = self.cross[f"{s}_to_{m}"](z[m], z[s], batch.mask[s])  # (B, L_m, d)
                read.append(masked_mean(stream, batch.mask[m]))  # (B, d), 0 where a sample lacks m
        return self.classify(torch.cat(read, 1))


def normalise(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Instance normalisation of x (B, L, d) over the valid steps of mask (B, L).

    Return the normalised sequence (B, L, d), the mean (B, d) and the deviation (B, d). A sequence of one step stays as
    it is, with deviation 0.
    """
    with torch.autocast(x.device.type, enabled=False):
        mean = masked_mean(x, mask)  # (B, d)
        variance = masked_mean((x.float() - mean[:, None]).square(), mask)  # (B, d)
        several = (mask.sum(1) > 1)[:, None]  # (B, 1)
        deviation = torch.where(several, variance + 1e-5, 1.0).sqrt()  # the gradient of sqrt(0) is no number
        normal = (x.float() - torch.where(several, mean, 0.0)[:, None]) / deviation[:, None]  # (B, L, d)
        return normal, mean, torch.where(several, deviation, 0.0)


class Decoder(nn.Module):
    """Content, scaled and shifted by what the style says."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Content (B, L, d) and style (B, d) -> (B, L, d)."""
        return self.out(content) * (1 + self.scale(style)[:, None]) + self.shift(style)[:, None]


class TwoWayAttention(nn.Module):
    """W_o [softmax(Q K^T / sqrt(d_k)) V | softmax(-Q K^T / sqrt(d_k)) V']: what fits and what does not."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attend = Attend(heads)
        self.w_q, self.w_k, self.w_v, self.w_n = (nn.Linear(dim, dim) for _ in range(4))  # w_n gives V'
        self.w_o = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) reads y (B, S, d) where mask (B, S) is True -> (B, L, d), 0 where it never is."""
        q, k = self.w_q(x), self.w_k(y)  # (B, L, d), (B, S, d)
        fits = self.attend(q, k, self.w_v(y), mask)  # (B, L, d)
        not_fits = self.attend(-q, k, self.w_n(y), mask)  # (B, L, d)
        return self.w_o(torch.cat([fits, not_fits], 2)).masked_fill(~mask.any(1)[:, None, None], 0.0)


class Layer(nn.Module):
    """x + attention(LN x, LN y), then x + W_2 relu(W_1 LN x)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm_x, self.norm_y, self.norm = (nn.LayerNorm(c.dim) for _ in range(3))
        self.attention = TwoWayAttention(c.dim, c.heads)
        self.ffn = nn.Sequential(nn.Linear(c.dim, 2 * c.dim), nn.ReLU(), nn.Linear(2 * c.dim, c.dim))
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) reads y (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        x = x + self.drop(self.attention(self.norm_x(x), self.norm_y(y), mask))  # (B, L, d)
        return x + self.drop(self.ffn(self.norm(x)))


class Stack(nn.Module):
    """Cross-attention layers over one fixed memory, with a final norm."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) reads memory (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        for layer in self.layers:
            x = layer(x, memory, mask)
        return self.norm(x)
