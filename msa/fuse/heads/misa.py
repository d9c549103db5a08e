"""MISA: invariant and specific subspaces (Hazarika et al., 2020).

Paper    https://arxiv.org/abs/2005.03545
Code     https://github.com/declare-lab/MISA, commit ec42faddde0d (2021-08-28)
Fidelity A
Differs  Text is the mean of frozen states; the authors train BERT. Their recurrent layers have as many units as
         the input has features, which at 2,048 would be 170 million weights. Here `rnn` is the upper limit.
         The losses are those of the authors' code: the similarity averages pairs, the difference the d x d products
         of unit vectors, and the weights are its defaults. Two parts of that code are left out: the adversarial
         alternative to the similarity, and the second discriminator, whose loss is never added.
Missing  M modalities make 2 M vectors. A lone one has no similarity loss. One that a sample lacks is masked in the
         Transformer and set to 0 behind it, and the sample is left out of the auxiliary losses of that modality.
Traps    Similarity and difference are batch statistics: 0 for one sample, and noisy for a few.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from msa.config import checked
from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.fuse.modules.attention import Attention, Drops
from msa.fuse.modules.steps import backwards, last_valid
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """The defaults of the authors' code."""

    dim: int = 128  # d_h
    heads: int = 2  # of the Transformer layer
    ffn: int = 2048  # its inner width, PyTorch's default
    encode: Literal["lstm", "mean"] = "lstm"  # how audio, image and face become vectors; text is a mean
    rnn: int = 64  # units of a recurrent layer, at most; theirs: the number of features, 74 and 35 on MOSEI
    moments: int = 5  # K of the similarity loss
    similarity: float = 1.0  # weight, alpha
    difference: float = 0.3  # weight, beta
    reconstruction: float = 1.0  # weight, gamma
    transformer_dropout: float = 0.1  # PyTorch's default
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as PyTorch
    dropout: float = 0.5  # before the last layer

    def __post_init__(self) -> None:
        checked(self)
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )


PRESETS = {"default": Config(), "small": Config(dim=32, ffn=64, rnn=16)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-4,  # the authors'
        "batch": 64,  # the authors', MOSI
        "patience": 6,  # the authors'
    }
}
SEARCH = {"similarity": (0.3, 1.0, 3.0), "difference": (0.1, 0.3, 1.0)}  # ours: about half a decade each way


class MISA(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        recurrent = [m for m in self.modalities if m != Modality.TEXT and c.encode == "lstm"]
        self.read = nn.ModuleDict({m: Recurrent(dims[m], min(dims[m], c.rnn)) for m in recurrent})
        width = {m: 4 * min(dims[m], c.rnn) if m in recurrent else dims[m] for m in self.modalities}
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(width[m], c.dim), nn.ReLU(), nn.LayerNorm(c.dim)) for m in self.modalities}
        )
        self.private = nn.ModuleDict({m: _sigmoid_layer(c.dim) for m in self.modalities})
        self.shared = _sigmoid_layer(c.dim)
        self.rebuild = nn.ModuleDict({m: nn.Linear(c.dim, c.dim) for m in self.modalities})
        self.transformer = TransformerLayer(c)
        n = len(self.modalities)
        self.classify = nn.Sequential(
            nn.Linear(2 * n * c.dim, n * c.dim), nn.Dropout(c.dropout), nn.ReLU(), nn.Linear(n * c.dim, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        u = self.vectors(batch)
        return self.fuse(self.own(u), self.common(u), self.present(batch))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        u, present, c = self.vectors(batch), self.present(batch), self.config
        own, common = self.own(u), self.common(u)  # h_m^p and h_m^c
        output = self.fuse(own, common, present)  # (B, outputs)
        terms = {
            "task": task_loss(self.task, output, batch.y),
            "difference": c.difference * difference(own, common, present),
            "reconstruction": c.reconstruction * self.reconstruction(u, own, common, present),
        }
        pairs = list(combinations(self.modalities, 2))
        if pairs:
            distances = [cmd(common[a], common[b], present[a] & present[b], c.moments) for a, b in pairs]
            terms["similarity"] = c.similarity * torch.stack(distances).mean()
        return output, terms

    def present(self, batch: Batch) -> Parts:
        """Return which samples have each modality, each (B,)."""
        return {m: batch.mask[m].any(1) for m in self.modalities}

    def vectors(self, batch: Batch) -> Parts:
        """u_m, each (B, d)."""
        return {m: self.project[m](self._pooled(m, batch.x[m], batch.mask[m])) for m in self.modalities}

    def _pooled(self, m: Modality, x: Tensor, mask: Tensor) -> Tensor:
        return self.read[m](x, mask) if m in self.read else masked_mean(x, mask)  # (B, width)

    def own(self, u: Parts) -> Parts:
        """Return h_m^p, the modality-specific representations, each (B, d)."""
        return {m: self.private[m](x) for m, x in u.items()}

    def common(self, u: Parts) -> Parts:
        """Return h_m^c, the modality-invariant representations from one shared encoder, each (B, d)."""
        return {m: self.shared(x) for m, x in u.items()}

    def fuse(self, own: Parts, common: Parts, present: Parts) -> Tensor:
        """Pass 2 M vectors (B, d) through a Transformer layer, concatenate and classify -> (B, outputs)."""
        x = torch.stack([*own.values(), *common.values()], 1)  # (B, 2M, d)
        there = torch.stack([*present.values(), *present.values()], 1)  # (B, 2M)
        x = self.transformer(x, there) * there[:, :, None]  # (B, 2M, d)
        return self.classify(x.flatten(1))

    def reconstruction(self, u: Parts, own: Parts, common: Parts, present: Parts) -> Tensor:
        """Mean squared error of u_m from h_m^p + h_m^c, averaged over the modalities -> ()."""
        errors = []
        for m, x in u.items():
            error = (self.rebuild[m](own[m] + common[m]) - x).float().square().mean(1)  # (B,)
            errors.append((error * present[m]).sum() / present[m].sum().clamp(min=1))
        return torch.stack(errors).mean()


def _sigmoid_layer(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid())


class Recurrent(nn.Module):
    """Two bidirectional LSTMs with a norm between; the last states of both are concatenated, 4 x units wide."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.first = BothWays(width, units)
        self.norm = nn.LayerNorm(2 * units)
        self.second = BothWays(2 * units, units)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under mask (B, T) -> (B, 4 units), 0 of a sample without steps."""
        states, *ends_1 = self.first(x, mask)
        _, *ends_2 = self.second(self.norm(states), mask)
        return torch.cat([end for pair in zip(ends_1, ends_2, strict=True) for end in pair], 1)


class BothWays(nn.Module):
    """Bidirectional LSTM for padded sequences; torch's needs packed ones, which take twice as long when narrow."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.ahead, self.back = (nn.LSTM(width, units, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) under mask (B, T) -> states (B, T, 2 units), and where each way ends, twice (B, units)."""
        ahead, back = self.ahead(x)[0], self.back(backwards(x, mask))[0]  # each (B, T, units)
        return torch.cat([ahead, backwards(back, mask)], 2), last_valid(ahead, mask), last_valid(back, mask)


class TransformerLayer(nn.Module):
    """PyTorch's encoder layer, norms last: x = LN(x + attention), then LN(x + FFN)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c.dim, c.heads, c.transformer_dropout, c.attention_drops)
        self.ffn = nn.Sequential(
            nn.Linear(c.dim, c.ffn), nn.ReLU(), nn.Dropout(c.transformer_dropout), nn.Linear(c.ffn, c.dim)
        )
        self.norm_1, self.norm_2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.drop = nn.Dropout(c.transformer_dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Vectors x (B, N, d), of which `there` (B, N) can be seen -> (B, N, d)."""
        x = self.norm_1(x + self.drop(self.attention(x, x, x, there)))  # (B, N, d)
        return self.norm_2(x + self.drop(self.ffn(x)))


# --- Losses; in fp32: AMP would lose small differences ----------------------------------------------------------------


def cmd(x: Tensor, y: Tensor, both: Tensor, moments: int) -> Tensor:
    """Central moment discrepancy of x and y (B, d) over the samples that have `both` (B,) -> ().

    |E x - E y| + sum_k |C_k x - C_k y| for k = 2..K, where C_k is the k-th central moment of each dimension; the
    interval of a sigmoid is 1 wide, so the paper's division by its powers is by 1.
    """
    with torch.autocast(x.device.type, enabled=False):
        w = both.float() / both.sum().clamp(min=1)  # (B,)
        x, y = x.float(), y.float()
        mean_x, mean_y = w @ x, w @ y  # (d,)
        x, y = x - mean_x, y - mean_y  # (B, d)
        total = torch.linalg.vector_norm(mean_x - mean_y)
        for k in range(2, moments + 1):
            total = total + torch.linalg.vector_norm(w @ x.pow(k) - w @ y.pow(k))
        return total


def difference(own: Parts, common: Parts, present: Parts) -> Tensor:
    """Return the overlap of h_m^p and h_m^c, and of each pair of h_m^p, summed -> ()."""
    overlaps = [overlap(own[m], common[m], present[m]) for m in own]
    overlaps += [overlap(own[a], own[b], present[a] & present[b]) for a, b in combinations(own, 2)]
    return torch.stack(overlaps).sum()


def overlap(x: Tensor, y: Tensor, both: Tensor) -> Tensor:
    """Return the mean square of the d x d entries of X^T Y, rows centred over the batch, then of length 1.

    x and y (B, d), of the samples where both (B,) -> ().
    """
    with torch.autocast(x.device.type, enabled=False):
        w = both.float()[:, None]  # (B, 1)
        x, y = (_unit(z.float(), w) for z in (x, y))  # (B, d)
        return (x.T @ y).square().mean()


def _unit(x: Tensor, w: Tensor) -> Tensor:
    x = (x - (w * x).sum(0) / w.sum().clamp(min=1)) * w  # (B, d)
    return x / (torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True) + 1e-6)  # the length is a constant here
