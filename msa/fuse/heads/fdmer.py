"""FDMER: common and private features, told apart by a modality discriminator (Yang et al., ACM Multimedia 2022).

Paper    https://doi.org/10.1145/3503161.3547754
Fidelity B
Differs  No code of it is public, and we have read what it does, not how wide it is: numbers are ours.
         Every modality is the mean of frozen states. The discriminator learns at the same step as what it judges,
         through a reversed gradient. Consistency is the squared distance of common features of length 1; disparity is
         the Hilbert-Schmidt independence criterion with linear kernels on features of length 1.
         The weights of the losses are ours as well, and settings.
Missing  M modalities make 2 M vectors. A lone one has neither a discriminator nor anything to be consistent with. One
         that a sample lacks is hidden from the attention, ends as 0, and that sample counts in no loss with it.
Traps    Disparity compares batches: of one sample it is 0, of a few little more than noise. The discriminator's loss
         on common features does not fall when all goes well: a sign is turned on its way back to the encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.fuse.modules.attention import Attention
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """Ours, all of them."""

    dim: int = 128  # d
    heads: int = 4  # of the cross-modal attention
    discriminator: int = 64  # units of its hidden layer
    adversarial: float = 0.1  # weight of the discriminator's losses
    reversal: float = 1.0  # what its gradient is multiplied by, negatively, before it reaches the common encoder
    consistency: float = 0.3  # weight
    disparity: float = 0.3  # weight
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )


PRESETS = {"default": Config(), "small": Config(dim=48, heads=2, discriminator=16)}
TRAIN: dict[str, dict[str, object]] = {"default": {"lr": 3e-4, "weight_decay": 1e-3, "batch": 64}}  # ours
SEARCH = {"consistency": (0.1, 0.3, 1.0), "disparity": (0.1, 0.3, 1.0)}  # ours: about half a decade each way


class FDMER(FusionHead):
    means_only = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dims[m], c.dim), nn.GELU(), nn.LayerNorm(c.dim)) for m in self.modalities}
        )
        self.common = _encoder(c)
        self.private = nn.ModuleDict({m: _encoder(c) for m in self.modalities})
        n = len(self.modalities)
        self.discriminate = (
            nn.Sequential(nn.Linear(c.dim, c.discriminator), nn.ReLU(), nn.Linear(c.discriminator, n))
            if n > 1
            else None
        )
        self.attention, self.norm = Attention(c.dim, c.heads), nn.LayerNorm(c.dim)
        self.classify = nn.Sequential(
            nn.Dropout(c.dropout), nn.Linear(2 * n * c.dim, c.dim), nn.ReLU(), nn.Linear(c.dim, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        common, private = self.features(batch)
        return self.fuse(common, private, self.present(batch))  # (B, outputs)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        c, present = self.config, self.present(batch)
        common, private = self.features(batch)
        terms = {
            "task": task_loss(self.task, self.fuse(common, private, present), batch.y),
            "disparity": c.disparity * disparity(common, private, present),
        }
        if self.discriminate is not None:
            terms["consistency"] = c.consistency * consistency(common, present)
            turned = {m: Reverse.apply(h, c.reversal) for m, h in common.items()}  # each (B, d)
            terms["adversarial"] = c.adversarial * (self.mistaken(turned, present) + self.mistaken(private, present))
        return terms

    def present(self, batch: Batch) -> Parts:
        """Which samples have a modality, each (B,)."""
        return {m: batch.mask[m].any(1) for m in self.modalities}

    def features(self, batch: Batch) -> tuple[Parts, Parts]:
        """What a modality shares with the others, and what it has for itself, each (B, d)."""
        u = {m: self.project[m](masked_mean(batch.x[m], batch.mask[m])) for m in self.modalities}  # each (B, d)
        return {m: self.common(x) for m, x in u.items()}, {m: self.private[m](x) for m, x in u.items()}

    def fuse(self, common: Parts, private: Parts, present: Parts) -> Tensor:
        """2 M vectors (B, d) look at each other and are joined -> (B, outputs)."""
        x = torch.stack([*common.values(), *private.values()], 1)  # (B, 2M, d)
        there = torch.stack([*present.values(), *present.values()], 1)  # (B, 2M)
        x = self.norm(x + self.attention(x, x, x, there)) * there[:, :, None]  # (B, 2M, d)
        return self.classify(x.flatten(1))

    def mistaken(self, h: Parts, present: Parts) -> Tensor:
        """Cross-entropy of the discriminator's guess at which modality each of h_m (B, d) is of -> ()."""
        assert self.discriminate is not None
        there = torch.stack(list(present.values()))  # (M, B)
        guess = self.discriminate(torch.stack(list(h.values()))).float()  # (M, B, M)
        modality = torch.arange(len(h), device=guess.device)[:, None].expand_as(there)  # (M, B)
        return _average(F.cross_entropy(guess.flatten(0, 1), modality.flatten(), reduction="none"), there.flatten())


def _encoder(c: Config) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c.dim, c.dim), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.dim, c.dim))


class Reverse(torch.autograd.Function):
    """The same numbers; the gradient is multiplied by -factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """Return x (B, d) as it is -> (B, d)."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient[0], None


# --- Losses; in fp32: AMP would lose small differences ----------------------------------------------------------------


def _average(x: Tensor, there: Tensor) -> Tensor:
    """Mean of x (n,) where `there` (n,) -> ()."""
    return (x * there).sum() / there.sum().clamp(min=1)


def consistency(common: Parts, present: Parts) -> Tensor:
    """Squared distance of two modalities' common features (B, d), each of length 1; mean over the pairs -> ()."""
    unit = {m: F.normalize(h.float(), dim=1) for m, h in common.items()}  # each (B, d)
    pairs = combinations(common, 2)
    found = [_average((unit[a] - unit[b]).square().sum(1), present[a] & present[b]) for a, b in pairs]
    return torch.stack(found).mean()


def disparity(common: Parts, private: Parts, present: Parts) -> Tensor:
    """How dependent common and private features of a modality are, and private ones of two; mean over those -> ()."""
    found = [hsic(common[m], private[m], present[m]) for m in common]
    found += [hsic(private[a], private[b], present[a] & present[b]) for a, b in combinations(private, 2)]
    return torch.stack(found).mean()


def hsic(x: Tensor, y: Tensor, both: Tensor) -> Tensor:
    """tr(K R L R) / (n - 1)^2 of the n samples that have `both` (B,) -> ().

    K and L are the products of rows of x and of y (B, d), each of length 1, and R = I - 1/n takes out their means. With
    linear kernels that is the squared norm of the d x d covariance, which costs no B x B matrix.
    """
    with torch.autocast(x.device.type, enabled=False):
        w = both.float()[:, None]  # (B, 1)
        n = w.sum()
        x, y = (F.normalize(z.float(), dim=1) for z in (x, y))  # (B, d)
        x, y = (w * (z - (w * z).sum(0) / n.clamp(min=1)) for z in (x, y))  # (B, d)
        return (x.T @ y).square().sum() / (n - 1).clamp(min=1).square()
