"""MFM: factors that generate each modality (Tsai et al., ICLR 2019).

Paper    https://arxiv.org/abs/1806.06176
After    MFN, https://arxiv.org/abs/1802.00927: the encoder of the label's factor, in the paper as here
Code     https://github.com/pliang279/factorized, commit 602b160ca162 (2020-08-04)
Fidelity B
Differs  Each modality is generated from both factors. The paper's decoders need as many steps as their input, so
         modalities are first resampled to common steps (see MFN).
         The target of a decoder is each step normalised over its width, or else a backbone's scale would decide how
         much its reconstruction counts (`target`). Values are trained on the squared error, theirs on the absolute.
         The prior is N(0, 1), and its distance the authors' MMD with their kernel exp(-|x - y|^2 / d^2). The defaults
         are one of the dozens of settings that they publish for MOSI. There is one dropout where they have many.
Missing  A modality absent from `dims` has no factor. One that a sample lacks is neither encoded nor generated, and
         counts neither in the reconstruction nor in its prior.
Traps    The MMD of one sample is meaningless, and that of a small batch noisy. Validation draws from the prior too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.config import checked
from msa.fuse.head import Batch, FusionHead, task_loss
from msa.fuse.modules.memory import MemoryFusion, Widths, common_clock
from msa.fuse.modules.steps import last_valid
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """One of the settings the authors publish for MOSI; three numbers are of text, audio and vision."""

    hidden: tuple[int, ...] = (88, 64, 48)  # units of MFN's LSTMs
    memory: int = 64  # of MFN
    inner: int = 128  # hidden units of MFN's networks
    z_y: int = 32  # width of the projection of MFN's last state
    z: tuple[int, ...] = (32, 8, 80)  # z_m, units of the encoders
    f_y: int = 16  # the factor of the label
    f: tuple[int, ...] = (88, 8, 8)  # f_m, the factors of the modalities
    dropout: float = 0.5  # in MFN
    factor_dropout: float = 0.2  # between z_m and f_m; 0.2, 0.2 and 0.7
    reconstruction: tuple[float, ...] = (1.0, 0.01, 0.5)  # weights of the generated modalities
    mmd: float = 1.0  # weight of the prior
    target: Literal["normed", "raw"] = "normed"  # of the decoders
    steps: int = 50  # most steps

    def __post_init__(self) -> None:
        checked(self)


PRESETS = {
    "default": Config(),
    "small": Config(hidden=(32, 32, 32), memory=32, inner=32, z=(16, 8, 16), f_y=32, f=(16, 8, 8), mmd=0.1),
}
TRAIN: dict[str, dict[str, object]] = {
    "default": {"lr": 1e-3, "batch": 32}
}  # lr: ours, they search .001 to .02; batch: theirs
_ROLE = {Modality.TEXT: 0, Modality.AUDIO: 1, Modality.IMAGE: 2, Modality.FACE: 2}


class MFM(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        by_role = lambda sizes: {m: sizes[_ROLE[m]] for m in self.modalities}  # noqa: E731
        z, f = by_role(c.z), by_role(c.f)
        self.weight: dict[Modality, float] = by_role(c.reconstruction)
        widths = Widths(c.memory, c.inner, c.inner, c.inner, c.dropout)
        self.fuse = MemoryFusion({m: dims[m] for m in self.modalities}, by_role(c.hidden), widths)
        self.to_z_y = nn.Linear(self.fuse.width, c.z_y)
        self.to_f_y = _factor(c.z_y, c.f_y, 0.0)
        self.classify = nn.Sequential(nn.Linear(c.f_y, c.f_y), nn.ReLU(), nn.Linear(c.f_y, task.outputs))
        self.encode = nn.ModuleDict({m: Encoder(dims[m], z[m]) for m in self.modalities})
        self.to_f = nn.ModuleDict({m: _factor(z[m], f[m], c.factor_dropout) for m in self.modalities})
        self.decode = nn.ModuleDict({m: Decoder(c.f_y + f[m], dims[m]) for m in self.modalities})

    def forward(self, batch: Batch) -> Tensor:
        return self.classify(self.to_f_y(self._label(*self._aligned(batch))))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, clock, present = self._aligned(batch)
        z_y = self._label(x, clock, present)  # (B, z_y)
        z = {m: self.encode[m](x[m], clock) for m in self.modalities}  # z_m, each (B, z_m)
        f_y = self.to_f_y(z_y)  # (B, f_y)
        made = {m: self.decode[m](torch.cat([f_y, self.to_f[m](z[m])], 1), clock.shape[1]) for m in z}  # (B, T, D_m)
        errors = [self.weight[m] * self._error(made[m], x[m], clock, present[m]) for m in made]  # each ()
        priors = [*[mmd(z[m], present[m]) for m in z], mmd(z_y, torch.ones_like(batch.row))]  # each ()
        output = self.classify(f_y)  # (B, outputs)
        return output, {
            "task": task_loss(self.task, output, batch.y),
            "reconstruction": torch.stack(errors).sum(),
            "mmd": self.config.mmd * torch.stack(priors).sum(),
        }

    def _aligned(self, batch: Batch) -> tuple[dict[Modality, Tensor], Tensor, dict[Modality, Tensor]]:
        """x_m (B, T, D_m), clock (B, T), present_m (B,)."""
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        x, clock = common_clock({m: batch.x[m] for m in self.modalities}, mask, self.config.steps)
        return x, clock, {m: k.any(1) for m, k in mask.items()}

    def _label(self, x: dict[Modality, Tensor], clock: Tensor, present: dict[Modality, Tensor]) -> Tensor:
        return self.to_z_y(self.fuse(x, clock, present))  # (B, z_y)

    def _error(self, made: Tensor, x: Tensor, clock: Tensor, present: Tensor) -> Tensor:
        """Mean squared error over the valid steps of the samples that have the modality: (B, T, D) twice -> ()."""
        target = F.layer_norm(x, x.shape[2:]) if self.config.target == "normed" else x  # (B, T, D)
        valid = (clock & present[:, None]).float()  # (B, T)
        error = (made.float() - target.float()).square().mean(2)  # (B, T)
        return (error * valid).sum() / valid.sum().clamp(min=1)


def _factor(width: int, factor: int, dropout: float) -> nn.Sequential:
    """z to f: (B, width) -> (B, factor)."""
    return nn.Sequential(nn.Linear(width, factor), nn.ReLU(), nn.Dropout(dropout), nn.Linear(factor, factor), nn.ReLU())


class Encoder(nn.Module):
    """z_m: linear layer on the last state of an LSTM."""

    def __init__(self, width: int, z: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, z, batch_first=True)
        self.linear = nn.Linear(z, z)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        """x (B, T, D) under clock (B, T) -> z_m (B, z)."""
        return self.linear(last_valid(self.lstm(x)[0], clock))


class Decoder(nn.Module):
    """LSTM whose first input is the factors, and whose later inputs are its own last state."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.w_x, self.w_h = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width, bias=False)
        for p in self.parameters():
            nn.init.uniform_(p, -(width**-0.5), width**-0.5)  # as torch's LSTM
        self.linear = nn.Linear(width, outputs)

    def forward(self, f: Tensor, steps: int) -> Tensor:
        """Return the generated steps: factors f (B, width) -> (B, steps, D)."""
        both = self.w_x.weight + self.w_h.weight  # (4 width, width): from step 2 on the input is the state
        gates, c, made = self.w_x(f), torch.zeros_like(f), []  # (B, 4 width), (B, width)
        for _ in range(steps):
            i, forget, o, new = gates.chunk(4, 1)  # each (B, width)
            c = forget.sigmoid() * c + i.sigmoid() * new.tanh()
            made.append(o.sigmoid() * c.tanh())
            gates = F.linear(made[-1], both, self.w_x.bias)
        return self.linear(torch.stack(made, 1))


def mmd(z: Tensor, present: Tensor) -> Tensor:
    """Maximum mean discrepancy between z (B, d), where present (B,), and as many draws of N(0, 1) -> ()."""
    with torch.autocast(z.device.type, enabled=False):
        z, w = z.float(), present.float()  # (B, d), (B,)
        prior, w = torch.randn_like(z), w / w.sum().clamp(min=1)
        return w @ (_kernel(prior, prior) + _kernel(z, z) - 2 * _kernel(prior, z)) @ w


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x_i - y_j|^2 / d^2): (B, d) twice -> (B, B)."""
    return torch.exp(-(x[:, None] - y).square().sum(2) / x.shape[1] ** 2)
