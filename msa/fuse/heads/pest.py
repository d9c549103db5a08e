"""PEST: propagation in a common emotion space (Gan et al., 2024).

Paper    https://doi.org/10.1016/j.knosys.2024.111982 (Knowledge-Based Systems 299)
Fidelity C: a reconstruction. There is no public code, and what we have of the paper is its abstract: features of all
         modalities are translated into a common space, then a model of dynamical propagation lets them interact.
Differs  Everything else is ours. The common space is K learnt tokens, which attend to each modality with its own
         weights. Two losses shape it: the tokens of a sample's modalities should agree, and their mean should predict
         each modality. Propagation is S steps of one map on a graph of all tokens of all modalities, whose edges are
         attention between the current states. Every default is ours.
Missing  A lone modality has no translation loss; its tokens affect each other. The tokens of a modality that a sample
         lacks are masked for the others, and are 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.fuse.modules.attention import Attention, Drops
from msa.fuse.modules.losses import average
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """All ours."""

    dim: int = 64  # d, of the common space
    heads: int = 4
    tokens: int = 4  # K, of each modality in the common space
    steps: int = 3  # S, of propagation
    dropout: float = 0.2  # on the projected sequences, and before the last layer
    attention_dropout: float = 0.1
    attention_drops: Drops = "keys"  # whole ones, or single "weights"
    translation: float = 0.1  # weight of the loss between translations
    back: float = 0.1  # weight of the loss of predicting each modality

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if self.tokens < 2 or self.steps < 1:
            raise ConfigError(
                f"tokens is {self.tokens} and steps {self.steps}", fix="2 tokens and 1 step are the fewest"
            )


PRESETS = {"default": Config(), "small": Config(dim=32, heads=2)}
TRAIN: dict[str, dict[str, object]] = {"default": {"lr": 1e-3, "weight_decay": 1e-3, "batch": 32}}  # ours


class PEST(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.embed = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dims[m], c.dim), nn.LayerNorm(c.dim)) for m in self.modalities}
        )
        self.drop = nn.Dropout(c.dropout)
        self.tokens = nn.Parameter(0.1 * torch.randn(c.tokens, c.dim))  # the same for every modality, (K, d)
        self.translate = nn.ModuleDict({m: Translator(c) for m in self.modalities})
        self.tell = nn.ModuleDict({m: nn.Linear(c.dim, c.dim) for m in self.modalities})
        self.propagate = Propagation(c)
        self.classify = nn.Sequential(
            nn.Linear(len(self.modalities) * c.dim, c.dim),
            nn.ReLU(),
            nn.Dropout(c.dropout),
            nn.Linear(c.dim, task.outputs),
        )

    def forward(self, batch: Batch) -> Tensor:
        return self.answer(self.translated(batch, self.embedded(batch)), self.present(batch))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, present = self.embedded(batch), self.present(batch)
        public = self.translated(batch, x)  # each (B, K, d)
        output = self.answer(public, present)  # (B, outputs)
        terms = {"task": task_loss(self.task, output, batch.y)}
        states = torch.stack([public[m] for m in self.modalities], 1).float()  # (B, M, K, d)
        there = torch.stack([present[m] for m in self.modalities], 1).float()  # (B, M)
        common = torch.einsum("bmkd,bm->bkd", states, there) / there.sum(1).clamp(min=1)[:, None, None]  # (B, K, d)
        errors = []
        for m in self.modalities:
            error = self.tell[m](common.mean(1)) - masked_mean(x[m], batch.mask[m]).detach()  # (B, d)
            errors.append(average(error.float().square().mean(1), present[m]))
        terms["back"] = self.config.back * torch.stack(errors).mean()
        if len(self.modalities) > 1:
            apart = (states - common[:, None]).square().mean((2, 3))  # (B, M)
            terms["translation"] = self.config.translation * average(apart.flatten(), there.flatten())
        return output, terms

    def present(self, batch: Batch) -> Parts:
        """Return which samples have each modality, each (B,)."""
        return {m: batch.mask[m].any(1) for m in self.modalities}

    def embedded(self, batch: Batch) -> Parts:
        """Return each modality at width d, each (B, L_m, d)."""
        return {m: self.drop(self.embed[m](batch.x[m])) for m in self.modalities}

    def translated(self, batch: Batch, x: Parts) -> Parts:
        """Return the tokens after reading each modality, each (B, K, d); 0 where it is absent."""
        return {m: self.translate[m](self.tokens, x[m], batch.mask[m]) for m in self.modalities}

    def answer(self, public: Parts, present: Parts) -> Tensor:
        """Propagate over all tokens, concatenate the mean of each modality's, classify -> (B, outputs)."""
        k = self.config.tokens
        h = torch.cat([public[m] for m in self.modalities], 1)  # (B, M K, d)
        there = torch.stack([present[m] for m in self.modalities], 1).repeat_interleave(k, 1)  # (B, M K)
        h = self.propagate(h, there).unflatten(1, (-1, k)).mean(2)  # (B, M, d)
        return self.classify(h.flatten(1))


class Translator(nn.Module):
    """One cross-attention layer per modality, in which the tokens are the query; norms last."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c.dim, c.heads, c.attention_dropout, c.attention_drops)
        self.ffn = nn.Sequential(nn.Linear(c.dim, 2 * c.dim), nn.ReLU(), nn.Linear(2 * c.dim, c.dim))
        self.norm_1, self.norm_2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)

    def forward(self, tokens: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Tokens (K, d) over x (B, L, d) under mask (B, L) -> (B, K, d), 0 where there is no step."""
        query = tokens.expand(len(x), -1, -1)  # (B, K, d)
        x = x.masked_fill(~mask[:, :, None], 0.0)
        h = self.norm_1(query + self.attention(query, x, x, mask))  # (B, K, d)
        return self.norm_2(h + self.ffn(h)) * mask.any(1)[:, None, None]


class Propagation(nn.Module):
    """h_i <- (1 - g) h_i + g tanh(W h_i + sum_j a_ij W_v h_j), S times; a is attention between the current states."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.steps = c.steps
        self.edges = Attention(c.dim, c.heads)
        self.own = nn.Linear(c.dim, c.dim, bias=False)
        self.rate = nn.Parameter(torch.zeros(()))  # g = sigmoid of it

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """States h (B, N, d) of nodes that are present, there (B, N) -> (B, N, d), 0 elsewhere."""
        rate = self.rate.sigmoid()
        for _ in range(self.steps):
            messages = self.edges(h, h, h, there)  # (B, N, d)
            h = (1 - rate) * h + rate * torch.tanh(self.own(h) + messages)
        return h * there[:, :, None]
