"""JTUM: crossmodal Transformer, unimodal labels (Li et al., 2024).

Paper    https://doi.org/10.1016/j.imavis.2024.105172 (Image and Vision Computing 149)
Fidelity B-: no public code. What the abstract names is a crossmodal Transformer (MulT, Tsai et al., 2019) and a
         module that makes labels of single modalities (Self-MM, Yu et al., 2021); both are built as those papers say.
Differs  The combination is ours: an LSTM reads each modality, the Transformers exchange its states, and the unimodal
         task reads its last state. Values are trained on the absolute error, with labels that move as in Self-MM.
         Unimodal labels of classes are ours, since Self-MM has none: see modules/unimodal.py. As in mult.py there is
         no causal mask, and attention dropout leaves out whole keys. The paper's settings are unknown to us:
         defaults are those of MulT and Self-MM where these have them.
Missing  M modalities have M - 1 streams each. A lone one has its self-attention, and no unimodal task. One that a
         sample lacks adds 0 to its readers, is 0 itself, and has no task for that sample.
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
from msa.fuse.modules.steps import last_valid
from msa.fuse.modules.unimodal import JOINT, UnimodalLabels
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality


@dataclass(frozen=True)
class Config:
    """Ours, unless a comment says otherwise."""

    dim: int = 32  # d, units of every LSTM; 30 in MulT
    heads: int = 4
    layers: int = 2  # of crossmodal attention; 4 in MulT
    self_layers: int = 2  # of self-attention; 3 in MulT
    attention_dropout: float = 0.1  # MulT's
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as MulT's
    ffn_dropout: float = 0.1  # MulT's, behind the ReLU
    residual_dropout: float = 0.1  # MulT's, on the output of each sublayer
    embed_dropout: float = 0.25  # MulT's, on the input of each stack
    joint: int = 128  # Self-MM's, width of the fused vector
    unimodal: int = 32  # Self-MM's for text on MOSI, width of the vector of one modality
    out_dropout: float = 0.1  # before the unimodal and the fused vector
    weight: float = 1.0  # Self-MM's, of the unimodal tasks

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if min(self.layers, self.self_layers) < 1:
            raise ConfigError("layers and self_layers must be 1 or more", fix="the default is 2 and 2")


PRESETS = {
    "default": Config(),
    "small": Config(dim=20, heads=2, layers=1, self_layers=1, joint=32, unimodal=16),
}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-3,  # MulT's and Self-MM's, of all but BERT
        "batch": 32,  # Self-MM's
        "patience": 8,  # Self-MM's
    }
}


class JTUM(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.others = {m: [s for s in self.modalities if s != m] for m in self.modalities}
        rates = Rates(c.attention_dropout, c.ffn_dropout, c.residual_dropout, c.attention_drops)
        self.read = nn.ModuleDict({m: nn.LSTM(dims[m], c.dim, batch_first=True) for m in self.modalities})
        self.place = Place(c.embed_dropout)
        self.cross = nn.ModuleDict(
            {f"{s}_to_{m}": Stack(c.dim, c.heads, c.layers, rates) for m in self.modalities for s in self.others[m]}
        )
        width = c.dim * max(len(self.modalities) - 1, 1)
        self.own = nn.ModuleDict({m: Readout(width, c.heads, c.self_layers, rates) for m in self.modalities})
        self.fuse = _vector(width * len(self.modalities), c.joint, c.out_dropout)
        self.classify = _answer(c.joint, task.outputs)
        self.alone = self.modalities if len(self.modalities) > 1 else []  # those with a unimodal task
        self.single = nn.ModuleDict({m: _vector(c.dim, c.unimodal, c.out_dropout) for m in self.alone})
        self.classify_single = nn.ModuleDict({m: _answer(c.unimodal, task.outputs) for m in self.alone})
        names = [str(m) for m in self.alone]
        self.labels = UnimodalLabels(task, names, {JOINT: c.joint} | dict.fromkeys(names, c.unimodal))

    def forward(self, batch: Batch) -> Tensor:
        return self.classify(self.joint(batch, self.states(batch)))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.states(batch)  # each (B, L_m, d)
        joint = self.joint(batch, z)  # (B, joint)
        output = self.classify(joint)  # (B, outputs)
        terms = {"task": self.error(output, batch.y)}
        if self.training and self.alone:
            vectors = {m: self.single[m](last_valid(z[m], batch.mask[m])) for m in self.alone}  # each (B, unimodal)
            answers = {m: self.classify_single[m](v) for m, v in vectors.items()}  # each (B, outputs)
            present = {m: batch.mask[m].any(1) for m in self.alone}  # each (B,)
            terms["unimodal"] = self.config.weight * self.labels.losses(answers, present, batch.row, batch.y)
            self.labels.update({JOINT: joint} | vectors, present, batch.row, batch.y)
        return output, terms

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the absolute error of values, as Self-MM, and the usual loss of classes and labels -> ()."""
        return task_loss(self.task, output, y) if self.task.classes else F.l1_loss(output.float().squeeze(1), y)

    def states(self, batch: Batch) -> Parts:
        """Return the states of the LSTMs, each (B, L_m, d); these are causal, so padding reaches no valid step."""
        return {m: self.read[m](batch.x[m])[0].masked_fill(~batch.mask[m][:, :, None], 0.0) for m in self.modalities}

    def joint(self, batch: Batch, z: Parts) -> Tensor:
        """Each modality reads all others, then itself; last steps of states z_m (B, L_m, d) fused -> (B, joint)."""
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        z = {m: self.place(x) for m, x in z.items()}  # each (B, L_m, d)
        last = []
        for m in self.modalities:
            streams = [self.cross[f"{s}_to_{m}"](z[m], z[s], mask[s]) for s in self.others[m]]  # each (B, L_m, d)
            joined = self.place(torch.cat(streams, 2)) if streams else z[m]  # (B, L_m, width)
            last.append(self.own[m](joined, mask[m]))  # (B, width), 0 where a sample lacks m
        return self.fuse(torch.cat(last, 1))


def _vector(width: int, units: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, units), nn.ReLU())


def _answer(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
