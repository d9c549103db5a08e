"""MUTANet: relations of modality subsets (Tang et al., 2023).

Paper    https://doi.org/10.1016/j.ins.2023.119125 (Information Sciences 641)
Fidelity C: a reconstruction. There is no public code, and we know the paper only from what others report of it:
         utterance-level features, several relations between modalities, and a loss besides the task's that makes
         the representations of different sentiments differ.
Differs  Everything else is ours: a relation is a small network over the vectors of a set of modalities and their
         product; attention weights the relations; the second loss is a supervised contrast (Khosla et al., 2020).
         The similarity of two values is exp(-|y_i - y_j| / closeness), that of two sets of labels the share they have
         in common. Every default is ours.
Missing  M modalities have 2^M - 1 relations, a lone one has one. A relation with a modality that a sample lacks is
         masked in the attention.
Traps    The contrast is a batch statistic: 0 for one sample, and noisy in small batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """All ours."""

    dim: int = 64  # d, of a modality's vector and of a relation
    dropout: float = 0.2  # on the vectors, and before the last layer
    weight: float = 0.1  # of the contrast
    temperature: float = 0.2  # of the contrast
    closeness: float = 1.0  # distance of two values whose similarity is 1 / e

    def __post_init__(self) -> None:
        if min(self.temperature, self.closeness) <= 0:
            raise ConfigError(
                f"temperature is {self.temperature} and closeness {self.closeness}", fix="both must be above 0"
            )


PRESETS = {"default": Config(), "small": Config(dim=32)}
TRAIN: dict[str, dict[str, object]] = {"default": {"lr": 1e-3, "weight_decay": 1e-3, "batch": 64}}  # ours


class MUTANet(FusionHead):
    means_only = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.embed = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dims[m], c.dim), nn.ReLU(), nn.LayerNorm(c.dim)) for m in self.modalities}
        )
        sets = range(1, len(self.modalities) + 1)
        self.groups = [group for n in sets for group in combinations(self.modalities, n)]  # R of them
        self.relate = nn.ModuleDict({"_".join(group): _relation(len(group), c.dim) for group in self.groups})
        several = len(self.groups) > 1
        self.score = nn.Linear(c.dim, 1, bias=False) if several else None  # softmax sees no shift: no bias
        self.drop = nn.Dropout(c.dropout)
        self.classify = nn.Sequential(
            nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.dim, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        return self.classify(self.represent(batch))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.represent(batch)  # (B, d)
        close = alike(self.task, batch.y, self.config.closeness)  # (B, B)
        output = self.classify(h)  # (B, outputs)
        return output, {
            "task": task_loss(self.task, output, batch.y),
            "contrast": self.config.weight * contrast(h, close, self.config.temperature),
        }

    def represent(self, batch: Batch) -> Tensor:
        """Return the relations of every set of modalities, weighted by attention -> (B, d)."""
        u = {m: self.drop(self.embed[m](masked_mean(batch.x[m], batch.mask[m]))) for m in self.modalities}  # (B, d)
        there = {m: batch.mask[m].any(1) for m in self.modalities}  # each (B,)
        relations, whole = [], []
        for group in self.groups:
            parts = torch.stack([u[m] for m in group])  # (n_m, B, d)
            joined = torch.cat([*parts, parts.prod(0)], 1) if len(group) > 1 else parts[0]  # (B, n_m d + d) or (B, d)
            relations.append(self.relate["_".join(group)](joined))
            whole.append(torch.stack([there[m] for m in group]).all(0))
        r, seen = torch.stack(relations, 1), torch.stack(whole, 1)  # (B, R, d), (B, R)
        if self.score is None:
            return r[:, 0] * seen  # (B, d)
        score = self.score(torch.tanh(r)).squeeze(2).float().masked_fill(~seen, -1e9)  # (B, R)
        weight = score.softmax(1) * seen  # (B, R), all 0 where a sample has nothing
        return torch.einsum("br,brd->bd", weight, r.float())


def _relation(n: int, dim: int) -> nn.Sequential:
    """A network over n vectors and, of two or more, their product."""
    return nn.Sequential(nn.Linear((n + (n > 1)) * dim, dim), nn.ReLU(), nn.Linear(dim, dim))


def alike(task: Task, y: Tensor, closeness: float) -> Tensor:
    """Return the similarity of the labels of every two samples, 0 to 1, and 0 on the diagonal -> (B, B)."""
    if task.multilabel:
        has = (y > 0).float()  # (B, classes)
        both, either = has @ has.T, has.sum(1, keepdim=True) + has.sum(1) - has @ has.T  # each (B, B)
        close = torch.where(either > 0, both / either.clamp(min=1), 1.0)  # two samples without any label are similar
    elif task.classes:
        close = (y[:, None] == y).float()
    else:
        close = torch.exp(-(y[:, None] - y).abs().float() / closeness)
    return close.fill_diagonal_(0.0)


def contrast(h: Tensor, close: Tensor, temperature: float) -> Tensor:
    """Return -sum_j p_ij log softmax_j(cos(h_i, h_j) / temperature) over j != i; p_i is row i of close, to sum 1.

    h (B, d), close (B, B) -> (), the mean over the samples that resemble any other; 0 where there is none.
    """
    with torch.autocast(h.device.type, enabled=False):
        unit = F.normalize(h.float(), dim=1)  # (B, d)
        score = unit @ unit.T / temperature  # (B, B)
        itself = torch.eye(len(h), dtype=torch.bool, device=h.device)
        log_q = score.masked_fill(itself, -1e9).log_softmax(1).masked_fill(itself, 0.0)  # (B, B)
        total = close.sum(1)  # (B,)
        each = -(close * log_q).sum(1) / total.clamp(min=1e-12)  # (B,), 0 where total is
        return each.sum() / (total > 0).sum().clamp(min=1)
