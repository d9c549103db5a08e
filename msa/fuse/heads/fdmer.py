"""FDMER: adversarial feature disentanglement (Yang et al., 2022).

Paper    https://doi.org/10.1145/3503161.3547754
Fidelity C: a reconstruction. The losses are the paper's in kind; their formulas, weights and all widths are ours.
Differs  There is no public code, and the paper's widths and weights are unknown to us: every number is ours.
         Each modality is the mean of frozen states. The discriminator is trained in the same step as the encoders,
         through a reversed gradient. Consistency is the squared distance of unit-length common features. Disparity is
         the Hilbert-Schmidt independence criterion with linear kernels on unit-length features.
Missing  M modalities make 2 M vectors. A lone one has neither discriminator nor consistency loss. One that a sample
         lacks is masked in the attention and set to 0 behind it, and the sample is left out of its losses.
Traps    Disparity is a batch statistic: 0 for one sample, and noisy for a few. The discriminator's loss on common
         features should not fall, because its gradient is reversed on the way to the encoder.
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
    """All ours."""

    dim: int = 128  # d
    heads: int = 4  # of the cross-modal attention
    discriminator: int = 64  # units of its hidden layer
    adversarial: float = 0.1  # weight of the discriminator's losses
    reversal: float = 1.0  # the gradient to the common encoder is multiplied by minus this
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

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c, present = self.config, self.present(batch)
        common, private = self.features(batch)
        output = self.fuse(common, private, present)  # (B, outputs)
        terms = {
            "task": task_loss(self.task, output, batch.y),
            "disparity": c.disparity * disparity(common, private, present),
        }
        if self.discriminate is not None:
            terms["consistency"] = c.consistency * consistency(common, present)
            turned = {m: Reverse.apply(h, c.reversal) for m, h in common.items()}  # each (B, d)
            terms["adversarial"] = c.adversarial * (self.mistaken(turned, present) + self.mistaken(private, present))
        return output, terms

    def present(self, batch: Batch) -> Parts:
        """Return which samples have each modality, each (B,)."""
        return {m: batch.mask[m].any(1) for m in self.modalities}

    def features(self, batch: Batch) -> tuple[Parts, Parts]:
        """Return common and private features of each modality, each (B, d)."""
        u = {m: self.project[m](masked_mean(batch.x[m], batch.mask[m])) for m in self.modalities}  # each (B, d)
        return {m: self.common(x) for m, x in u.items()}, {m: self.private[m](x) for m, x in u.items()}

    def fuse(self, common: Parts, private: Parts, present: Parts) -> Tensor:
        """Pass 2 M vectors (B, d) through self-attention, concatenate and classify -> (B, outputs)."""
        x = torch.stack([*common.values(), *private.values()], 1)  # (B, 2M, d)
        there = torch.stack([*present.values(), *present.values()], 1)  # (B, 2M)
        x = self.norm(x + self.attention(x, x, x, there)) * there[:, :, None]  # (B, 2M, d)
        return self.classify(x.flatten(1))

    def mistaken(self, h: Parts, present: Parts) -> Tensor:
        """Return the cross-entropy of the discriminator, which predicts the modality of each h_m (B, d) -> ()."""
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
    distances = [_average((unit[a] - unit[b]).square().sum(1), present[a] & present[b]) for a, b in pairs]
    return torch.stack(distances).mean()


def disparity(common: Parts, private: Parts, present: Parts) -> Tensor:
    """Return the mean dependence of common and private features, and of private ones of two modalities -> ()."""
    dependences = [hsic(common[m], private[m], present[m]) for m in common]
    dependences += [hsic(private[a], private[b], present[a] & present[b]) for a, b in combinations(private, 2)]
    return torch.stack(dependences).mean()


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
