"""TETFN: text-enhanced crossmodal Transformers (Wang et al., 2023).

Paper    https://doi.org/10.1016/j.patcog.2022.109259 (Pattern Recognition 136)
Code     https://github.com/thuiar/MMSA, public reimplementation, commit a94e65d07fa1 (2025-01-15)
Fidelity B
Differs  Text is frozen states; the authors train BERT. Vision is any backbone; they have a ViT over faces.
         As in mult.py there is no causal mask, and attention dropout leaves out whole keys. Every sequence has
         positions; in the public code only the inputs of the text-enhanced layers have them.
         Defaults are the settings for MOSI in the public code, which are for aligned sequences. There each stream has
         its own dropout, audio a higher learning rate, and vision no weight decay; here one value of each serves
         all. All unimodal vectors are 32 wide.
         Values are trained on the absolute error, as theirs, and unimodal labels move as in Self-MM. Unimodal labels
         of classes are ours, since neither paper has any: see modules/unimodal.py.
Missing  Without text the first modality takes its place. M modalities have M - 1 streams each. A lone one has its
         self-attention, and no unimodal task. One that a sample lacks adds 0 to its readers, is 0 itself, and has no
         task for that sample.
Traps    Unimodal tasks are part of training only; validation measures the joint task. The unimodal labels are part of
         the checkpoint, so a resumed run continues with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, task_loss
from msa.fuse.modules.attention import Drops
from msa.fuse.modules.crossmodal import Place, Rates, Readout, Stack
from msa.fuse.modules.unimodal import JOINT, UnimodalLabels
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """Settings for MOSI of the public code, unless a comment says otherwise."""

    dim: int = 50  # d, of every modality
    heads: int = 5
    layers: int = 2  # of every stack; a text-enhanced one has one more, below
    rnn: int = 64  # units of the LSTM that audio, image and face go through; 16 for audio in the public code
    kernel: int = 1  # width of the convolution, steps
    attention_dropout: float = 0.1
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as the public code
    ffn_dropout: float = 0.0  # behind the ReLU
    residual_dropout: float = 0.1  # on the output of each sublayer
    embed_dropout: float = 0.0  # on the input of each stack
    joint: int = 64  # width of the fused vector
    unimodal: int = 32  # width of the vector of one modality
    out_dropout: float = 0.0  # before the unimodal and the fused vector
    weight: float = 1.0  # of the unimodal tasks

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel {self.kernel} has no step in its middle", fix="an odd one, such as 3")


PRESETS = {"default": Config(), "small": Config(dim=32, heads=2, layers=1, rnn=16, unimodal=16)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 3e-4,  # the public settings, of all but audio
        "weight_decay": 1e-2,  # the public settings
        "batch": 64,  # the public settings; there gradients of four batches are added up
        "patience": 8,  # the public settings
        "select": "mae",  # ours, and their error
    }
}


class TETFN(FusionHead):
    """Text-enhanced crossmodal Transformers, self-attention and a classifier; in training also one per modality."""

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.guide = self.modalities[0]  # text, where there is text
        self.others = {m: [s for s in self.modalities if s != m] for m in self.modalities}
        rates = Rates(c.attention_dropout, c.ffn_dropout, c.residual_dropout, c.attention_drops)
        self.project = nn.ModuleDict({m: Projection(dims[m], m != Modality.TEXT, c) for m in self.modalities})
        self.place = Place(c.embed_dropout)
        pairs = [(m, s) for m in self.modalities for s in self.others[m]]
        self.cross = nn.ModuleDict({f"{s}_to_{m}": Stack(c.dim, c.heads, c.layers, rates) for m, s in pairs})
        self.enhance = nn.ModuleDict(
            {f"{s}_to_{m}": Stack(c.dim, c.heads, 1, rates) for m, s in pairs if self.guide not in (m, s)}
        )
        width = c.dim * max(len(self.modalities) - 1, 1)
        self.own = nn.ModuleDict({m: Readout(width, c.heads, c.layers, rates) for m in self.modalities})
        self.fuse = _vector(width * len(self.modalities), c.joint, c.out_dropout)
        self.classify = _answer(c.joint, task.outputs)
        self.tasks = self.modalities if len(self.modalities) > 1 else []
        self.single = nn.ModuleDict({m: _vector(c.dim, c.unimodal, c.out_dropout) for m in self.tasks})
        self.classify_single = nn.ModuleDict({m: _answer(c.unimodal, task.outputs) for m in self.tasks})
        names = [str(m) for m in self.tasks]
        self.labels = UnimodalLabels(task, names, {JOINT: c.joint} | dict.fromkeys(names, c.unimodal))

    def forward(self, batch: Batch) -> Tensor:
        return self.classify(self.joint(batch, self.embedded(batch)))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.training and self.tasks):
            output = self(batch)  # (B, outputs)
            return output, {"task": self.error(output, batch.y)}
        z = self.embedded(batch)  # each (B, L_m, d)
        joint = self.joint(batch, z)  # (B, joint)
        vectors = {m: self.single[m](highest(z[m], batch.mask[m])) for m in self.tasks}  # each (B, unimodal)
        answers = {m: self.classify_single[m](v) for m, v in vectors.items()}  # each (B, outputs)
        present = {m: batch.mask[m].any(1) for m in self.tasks}  # each (B,)
        unimodal = self.labels.losses(answers, present, batch.row, batch.y)
        self.labels.update({JOINT: joint, **vectors}, present, batch.row, batch.y)
        output = self.classify(joint)  # (B, outputs)
        return output, {"task": self.error(output, batch.y), "unimodal": self.config.weight * unimodal}

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the absolute error of values, and the usual loss of classes and labels -> ()."""
        return task_loss(self.task, output, y) if self.task.classes else F.l1_loss(output.float().squeeze(1), y)

    def embedded(self, batch: Batch) -> Parts:
        """Every modality d wide, each (B, L_m, d)."""
        return {m: self.project[m](batch.x[m], batch.mask[m]) for m in self.modalities}

    def joint(self, batch: Batch, z: Parts) -> Tensor:
        """The fused vector (B, joint) of embedded modalities, each (B, L_m, d)."""
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        z = {m: self.place(x) for m, x in z.items()}  # each (B, L_m, d)
        last = []
        for m in self.modalities:
            streams = [self._stream(m, s, z, mask) for s in self.others[m]]  # each (B, L_m, d)
            joined = self.place(torch.cat(streams, 2)) if streams else z[m]  # (B, L_m, width)
            last.append(self.own[m](joined, mask[m]))  # (B, width), 0 where a sample lacks m
        return self.fuse(torch.cat(last, 1))

    def _stream(self, m: Modality, s: Modality, z: Parts, mask: Parts) -> Tensor:
        """Return m after reading s, (B, L_m, d). Where neither is text, s has read the text before."""
        name, memory = f"{s}_to_{m}", z[s]
        if name in self.enhance:
            memory = self.place(self.enhance[name](z[s], z[self.guide], mask[self.guide]))  # (B, L_s, d)
        return self.cross[name](z[m], memory, mask[s])


class Projection(nn.Module):
    """Convolution to width d, behind an LSTM for all but text."""

    def __init__(self, width: int, recurrent: bool, c: Config) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, c.rnn, batch_first=True) if recurrent else None
        self.conv = nn.Conv1d(c.rnn if recurrent else width, c.dim, c.kernel, padding=c.kernel // 2, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D) under mask (B, L) -> (B, L, d). The LSTM is causal, so padding reaches no valid step."""
        x = self.lstm(x)[0] if self.lstm is not None else x  # (B, L, rnn) or (B, L, D)
        return self.conv(x.masked_fill(~mask[:, :, None], 0.0).transpose(1, 2)).transpose(1, 2)


def highest(x: Tensor, mask: Tensor) -> Tensor:
    """The largest of the valid steps of x (B, L, d), 0 where there is none -> (B, d)."""
    lowest = torch.finfo(x.dtype).min
    value = x.masked_fill(~mask[:, :, None], lowest).amax(1)  # (B, d)
    return value.masked_fill(~mask.any(1)[:, None], 0.0)


def _vector(width: int, units: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, units), nn.ReLU())


def _answer(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
