"""TMBL: Transformers that bind modalities (Huang et al., 2024).

Paper    https://doi.org/10.1016/j.knosys.2023.111346 (Knowledge-Based Systems 285)
Code     https://github.com/JackAILab/TMBL, commit 59ac3c5feffd (2024-05-17)
Fidelity C: a reconstruction. The paper's ideas in a form in which samples do not depend on each other. The authors
         publish many versions of their code and name none as the paper's; we follow the one that has all three ideas.
Differs  In that code a sample is one vector per modality, and Transformers attend, and modalities are bound, along the
         batch, so a prediction depends on its batch mates. Here the axis is time, resampled to one step per word (see
         mfn.py). Two modalities are bound by their sum, as in the code's fallback. All three streams of the code query
         text; here each modality is the query of one stream. A token shared by all modalities precedes each sequence,
         and is what is read. The three linear maps in a row of its feed-forward are two. The 1x1 convolution that
         queries and keys share comes before their maps, in the code after them.
         Of its losses we know that one is a similarity and one a difference: here both are cosines. The MLP-mixer
         between vectors is left out. Width is half of theirs, and there are two layers instead of five.
Missing  Modalities are bound in a cycle. With two, the other one is both key and value; a lone one is query, key and
         value, and has no similarity loss. One that a sample lacks is 0 as input and output, and counts in no loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, task_loss
from msa.fuse.modules.attention import Attention, Drops
from msa.fuse.modules.crossmodal import sinusoids
from msa.fuse.modules.losses import average, cosine
from msa.fuse.modules.memory import common_clock
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """Ours, unless a comment says otherwise."""

    dim: int = 128  # d; 256 in the code
    heads: int = 8  # the code's
    layers: int = 2  # of every stream; 5 in the code
    ffn: int = 256  # inner width; 512 in the code
    dropout: float = 0.5  # the code's, everywhere
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as the code
    similarity: float = 0.1  # weight of the loss between what modalities share
    difference: float = 0.1  # weight of the loss between what is shared and what is not
    steps: int = 50  # most steps; the aligned files of MOSI and MOSEI have 50

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim % 2:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads, or in two", fix="a multiple of both"
            )
        if self.layers < 1:
            raise ConfigError("layers must be 1 or more", fix="the default is 2")


PRESETS = {"default": Config(), "small": Config(dim=32, heads=2, layers=1, ffn=32)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-4,  # the code's
        "batch": 64,  # the code's, MOSI
        "patience": 6,  # the code's
    }
}


class TMBL(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dims[m], c.dim), nn.ReLU(), nn.LayerNorm(c.dim)) for m in self.modalities}
        )
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, c.dim))  # before every sequence, of all modalities
        self.enter = nn.Sequential(nn.Dropout(c.dropout), nn.LayerNorm(c.dim))
        names = [f"{m}_{depth}" for m in self.modalities for depth in range(c.layers)]
        self.private, self.bound = (nn.ModuleDict({name: Layer(c) for name in names}) for _ in range(2))
        self.fuse = nn.Sequential(
            nn.Conv1d(c.dim, c.dim // 2, 3, padding=1),
            nn.Dropout(c.dropout),
            nn.ReLU(),
            nn.Conv1d(c.dim // 2, task.outputs, 3, padding=1),
        )

    def forward(self, batch: Batch) -> Tensor:
        return self.answer(*self.vectors(batch))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        own, common = self.vectors(batch)  # each (B, M, d)
        there = self.present(batch)  # (B, M)
        output = self.answer(own, common)  # (B, outputs)
        terms = {"task": task_loss(self.task, output, batch.y)}
        overlap = cosine(own, common).square()  # (B, M)
        terms["difference"] = self.config.difference * average(overlap, there)
        if pairs := list(combinations(range(len(self.modalities)), 2)):
            a, b = (torch.tensor(side, device=there.device) for side in zip(*pairs, strict=True))  # each (P,)
            unlike = 1 - cosine(common[:, a], common[:, b])  # (B, P)
            terms["similarity"] = self.config.similarity * average(unlike, there[:, a] & there[:, b])
        return output, terms

    def present(self, batch: Batch) -> Tensor:
        """Return which samples have which modality, (B, M)."""
        return torch.stack([batch.mask[m].any(1) for m in self.modalities], 1)

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return private and bound vectors of each modality, each (B, M, d); 0 where a sample lacks it."""
        x, seen = self.sequences(batch)  # M of (B, T, d), (B, 1 + T)
        n = len(x)
        own = [self.begin(s) for s in x]  # each (B, 1 + T, d)
        bound = [self.begin(s + x[(i + 1) % n]) if n > 1 else own[0] for i, s in enumerate(x)]  # two modalities
        for depth in range(self.config.layers):
            last = depth == self.config.layers - 1  # where the token alone is read
            ask = lambda s, last=last: s[:, :1] if last else s  # noqa: E731
            names = [f"{m}_{depth}" for m in self.modalities]
            own = [self.private[name](ask(s), s, s, seen) for name, s in zip(names, own, strict=True)]
            bound = [  # three modalities
                self.bound[name](ask(s), bound[(i + 1) % n], bound[(i + 2) % n if n > 2 else (i + 1) % n], seen)
                for i, (name, s) in enumerate(zip(names, bound, strict=True))
            ]
        there = self.present(batch)[:, :, None]  # (B, M, 1)
        return torch.cat(own, 1) * there, torch.cat(bound, 1) * there

    def sequences(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return each modality resampled to words, M of (B, T, d), 0 where absent; and the mask, (B, 1 + T)."""
        mask = {m: batch.mask[m] for m in self.modalities}
        x = {m: batch.x[m] for m in self.modalities}  # each (B, L_m, D_m)
        x, clock = common_clock(x, mask, self.config.steps)  # (B, T, D_m), (B, T)
        here = {m: (clock & mask[m].any(1, keepdim=True))[:, :, None] for m in self.modalities}  # each (B, T, 1)
        return [self.project[m](x[m]) * here[m] for m in self.modalities], F.pad(clock, (1, 0), value=True)

    def begin(self, x: Tensor) -> Tensor:
        """Put the token before x (B, T, d) and add positions -> (B, 1 + T, d)."""
        s = torch.cat([self.token.expand(len(x), -1, -1), x], 1)  # (B, 1 + T, d)
        return self.enter(s + sinusoids(s.shape[1], s.shape[2], s.device))

    def answer(self, own: Tensor, common: Tensor) -> Tensor:
        """A convolution along the 2 M vectors, each (B, M, d), and the mean of what it finds -> (B, outputs)."""
        return self.fuse(torch.cat([own, common], 1).transpose(1, 2)).mean(2)


class Layer(nn.Module):
    """LN(x + attention(conv x, conv y, z)), then LN(x + W_2 (relu(a) * b)) where a and b are halves of conv W_1 x."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.fine = nn.Linear(c.dim, c.dim)  # a 1x1 convolution that query and key share
        self.attention = Attention(c.dim, c.heads, c.dropout, c.attention_drops)
        self.w_1, self.gate, self.w_2 = nn.Linear(c.dim, c.ffn), nn.Linear(c.ffn, 2 * c.ffn), nn.Linear(c.ffn, c.dim)
        self.norm_1, self.norm_2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, y: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """x (B, L, d) is the query, y (B, S, d) the key and z (B, S, d) the value, where `seen` (B, S) -> (B, L, d)."""
        x = self.norm_1(x + self.drop(self.attention(self.fine(x), self.fine(y), z, seen)))  # (B, L, d)
        a, b = self.gate(self.w_1(x)).chunk(2, 2)  # each (B, L, ffn)
        return self.norm_2(x + self.drop(self.w_2(a.relu() * b)))
