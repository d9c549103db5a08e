"""DLF: shared and specific features, text-led (Wang et al., 2025).

Paper    https://arxiv.org/abs/2412.12225
Code     https://github.com/pwang322/DLF, commit 251bf2cb6ac3 (2025-04-16)
Fidelity B
Differs  Text is frozen states; the authors train BERT. Their linear layers over whole sequences fix the length of every
         modality. Here one linear layer reads the mean over the steps; it serves the triplet loss alone. Convolutions
         are padded, theirs are not, so a sequence keeps its length. There is no causal mask, padding counts in no
         loss, and attention dropout leaves out whole keys (see mult.py) at one rate; theirs are .3 for text, .2
         for audio, 0 for vision.
         Orthogonality is between the vectors of a step, as in their code for MOSI; for MOSEI it cuts these in five.
         Values are trained on the absolute error, as theirs. For the triplet loss two classes are 1 apart, several
         labels as far as the number of labels that differ.
Missing  Without text the first of audio, face and image leads. A lone modality has no attractor. The specific part of
         one that a sample lacks is 0 before `refine`, so a learnt constant takes its place, and it counts in no loss.
         Without its text a sample has the shared part alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean
from msa.fuse.modules.attention import Drops
from msa.fuse.modules.crossmodal import Layer, Place, Rates, Readout, Stack
from msa.fuse.modules.losses import average, cosine
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality
_ORDER = (Modality.TEXT, Modality.AUDIO, Modality.FACE, Modality.IMAGE)  # the first one present leads


@dataclass(frozen=True)
class Config:
    """The authors' settings for MOSI."""

    dim: int = 50  # d
    heads: int = 10
    layers: int = 2  # of every encoder
    memory_layers: int = 3  # of self-attention over the text stream that has read another modality
    kernel: int = 5  # width of the convolution, steps; 3 on MOSEI
    text_dropout: float = 0.5  # on the text; .1 on MOSEI
    attention_dropout: float = 0.2  # see Differs
    attention_drops: Drops = "keys"  # whole ones, or single "weights", as the authors' code
    embed_dropout: float = 0.2  # on the input of each encoder
    out_dropout: float = 0.5  # in the classifiers
    language: float = 3.0  # weight of the loss on text-specific features; 1 for the others
    reconstruction: float = 0.1  # weight of both reconstruction losses
    orthogonality: float = 0.01  # weight, .1 of .1
    triplet: float = 0.01  # weight, .1 of .1
    margin: float = 0.15  # for labels that are 1 apart

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel {self.kernel} has no step in its middle", fix="an odd one, such as 3")


PRESETS = {"default": Config(), "small": Config(dim=20, heads=2, layers=1, memory_layers=1)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-4,  # the authors'
        "batch": 16,  # the authors'; they add up the gradients of ten
        "patience": 10,  # the authors'
    }
}
SEARCH = {"orthogonality": (0.003, 0.01, 0.03), "triplet": (0.003, 0.01, 0.03)}  # ours: half a decade each way


class DLF(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c, d = config, config.dim
        self.config = c
        self.modalities = [m for m in _ORDER if m in dims]
        self.guide, *self.guided = self.modalities
        rates = Rates(attention=c.attention_dropout, drops=c.attention_drops)
        n = len(self.modalities)
        self.text_drop = nn.Dropout(c.text_dropout)
        self.project = nn.ModuleDict(
            {m: nn.Conv1d(dims[m], d, c.kernel, padding=c.kernel // 2, bias=False) for m in self.modalities}
        )
        self.place = Place(c.embed_dropout)
        self.specific = nn.ModuleDict({m: Encoder(c, rates) for m in self.modalities})
        self.shared = Encoder(c, rates)
        self.decode = nn.ModuleDict({m: nn.Linear(2 * d, d, bias=False) for m in self.modalities})
        self.align = nn.ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.read_shared = nn.ModuleDict({m: Readout(d, c.heads, c.layers, rates) for m in self.modalities})
        self.attract = nn.ModuleDict({m: Stack(d, c.heads, c.layers, rates) for m in self.guided})
        depth = dict.fromkeys(self.guided, max(c.layers, c.memory_layers)) | {self.guide: c.layers}
        self.read = nn.ModuleDict({m: Readout(d, c.heads, depth[m], rates) for m in self.modalities})
        self.refine = nn.ModuleDict({m: Residual(d, c.out_dropout) for m in self.modalities})
        self.classify_specific = nn.ModuleDict({m: nn.Linear(d, task.outputs) for m in self.modalities})
        self.refine_shared = Residual(n * d, c.out_dropout)
        self.classify_shared = nn.Linear(n * d, task.outputs)
        self.gate = nn.ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.gate_shared = nn.Linear(n * d, n * d)
        self.classify = nn.Sequential(Residual(2 * n * d, c.out_dropout), nn.Linear(2 * n * d, task.outputs))

    def forward(self, batch: Batch) -> Tensor:
        own, common = self.disentangled(self.projected(batch), batch.mask)
        return self.fuse(self.enhanced(own, batch.mask), self.joined(common, batch.mask))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c, mask = self.config, batch.mask
        x = self.projected(batch)
        own, common = self.disentangled(x, mask)  # s_m and c_m, each (B, L_m, d)
        h, joined = self.enhanced(own, mask), self.joined(common, mask)
        error = lambda output: errors(self.task, output, batch.y)  # noqa: E731
        present = {m: mask[m].any(1) for m in self.modalities}  # each (B,)
        weights = dict.fromkeys(self.guided, 1.0) | {self.guide: c.language}
        alone = [weights[m] * average(error(self.classify_specific[m](h[m])), present[m]) for m in self.modalities]
        rebuilt = {m: self.decode[m](torch.cat([own[m], common[m]], 2)) for m in self.modalities}  # (B, L_m, d)
        again = {m: self.specific[m](self.place(rebuilt[m]), mask[m]) for m in self.modalities}  # (B, L_m, d)
        points = {m: self.align[m](masked_mean(common[m], mask[m])) for m in self.modalities}  # each (B, d)
        output = self.fuse(h, joined)  # (B, outputs)
        return output, {
            "task": error(output).mean(),
            "shared": error(self.classify_shared(self.refine_shared(joined))).mean(),
            "specific": torch.stack(alone).sum(),
            "reconstruction": c.reconstruction * self._apart(x, rebuilt, mask),
            "specific_reconstruction": c.reconstruction * self._apart(own, again, mask),
            "orthogonality": c.orthogonality * self._overlap(own, common, mask),
            "triplet": c.triplet * self._triplets(points, present, batch.y),
        }

    def projected(self, batch: Batch) -> Parts:
        """Convolutions of x_m, 0 behind the mask, each (B, L_m, d)."""
        projections = {}
        for m in self.modalities:
            x = batch.x[m].masked_fill(~batch.mask[m][:, :, None], 0.0)
            x = self.text_drop(x) if m == Modality.TEXT else x
            projections[m] = self.project[m](x.transpose(1, 2)).transpose(1, 2)
        return projections

    def disentangled(self, x: Parts, mask: Mapping[Modality, Tensor]) -> tuple[Parts, Parts]:
        """s_m by an encoder of each modality's own, c_m by one for all, each (B, L_m, d)."""
        own = {m: self.specific[m](self.place(x[m]), mask[m]) for m in self.modalities}
        return own, {m: self.shared(self.place(x[m]), mask[m]) for m in self.modalities}

    def joined(self, common: Parts, mask: Mapping[Modality, Tensor]) -> Tensor:
        """Last steps of what the modalities share -> (B, M d)."""
        return torch.cat([self.read_shared[m](self.place(common[m]), mask[m]) for m in self.modalities], 1)

    def enhanced(self, own: Parts, mask: Mapping[Modality, Tensor]) -> Parts:
        """The language-focused attractor: the text reads itself and each other modality; last steps, each (B, d)."""
        text, seen = self.place(own[self.guide]), mask[self.guide]
        h = {self.guide: self.read[self.guide](text, seen)}
        for m in self.guided:
            stream = self.attract[m](text, self.place(own[m]), mask[m])  # (B, L_guide, d)
            h[m] = self.read[m](self.place(stream), seen) * mask[m].any(1, keepdim=True)
        return {m: self.refine[m](h[m]) for m in self.modalities}

    def fuse(self, h: Parts, joined: Tensor) -> Tensor:
        """What is specific, each (B, d), and what is shared (B, M d) -> (B, outputs)."""
        parts = [self.gate[m](h[m]) for m in self.modalities] + [self.gate_shared(joined)]
        return self.classify(torch.cat(parts, 1).sigmoid())

    def _apart(self, x: Parts, y: Parts, mask: Mapping[Modality, Tensor]) -> Tensor:
        """Mean squared error over the valid steps, summed over the modalities -> ()."""
        error = {m: (x[m] - y[m]).float().square().mean(2).flatten() for m in self.modalities}  # each (B L_m,)
        return torch.stack([average(error[m], mask[m].flatten()) for m in self.modalities]).sum()

    def _overlap(self, own: Parts, common: Parts, mask: Mapping[Modality, Tensor]) -> Tensor:
        """max(0, cos(s_m, c_m)) of a step, mean over the valid ones and summed over the modalities -> ()."""
        cos = {m: cosine(own[m], common[m]).relu().flatten() for m in self.modalities}  # each (B L_m,)
        return torch.stack([average(cos[m], mask[m].flatten()) for m in self.modalities]).sum()

    def _triplets(self, points: Parts, present: Parts, y: Tensor) -> Tensor:
        apart = distances(self.task, y).repeat(len(points), len(points))  # (M B, M B)
        there = torch.cat([present[m] for m in points])  # (M B,)
        return triplets(torch.cat([*points.values()]), apart, there, self.config.margin)


class Encoder(nn.Module):
    """Layers of self-attention, and a norm at the end."""

    def __init__(self, c: Config, rates: Rates) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(c.dim, c.heads, rates) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) under mask (B, L) -> (B, L, d)."""
        for layer in self.layers:
            x = layer(x, x, mask)
        return self.norm(x)


class Residual(nn.Module):
    """h + W_2 dropout(relu(W_1 h))."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, D) -> (B, D)."""
        return h + self.mlp(h)


def errors(task: Task, output: Tensor, y: Tensor) -> Tensor:
    """Of each sample: cross-entropy of classes, a mean over labels, the absolute error of values -> (B,)."""
    output = output.float()
    if task.multilabel:
        return F.binary_cross_entropy_with_logits(output, (y > 0).float(), reduction="none").mean(1)
    if task.classes:
        return F.cross_entropy(output, y, reduction="none")
    return (output.squeeze(1) - y).abs()


def distances(task: Task, y: Tensor) -> Tensor:
    """Between labels: how far values are apart, 1 between classes, how many labels differ -> (B, B)."""
    if task.multilabel:
        return ((y[:, None] > 0) != (y > 0)).float().sum(2)
    return (y[:, None] != y).float() if task.classes else (y[:, None] - y).abs().float()


def triplets(points: Tensor, apart: Tensor, there: Tensor, margin: float) -> Tensor:
    """max(0, margin apart_ik - cos_ij + cos_ik) over j with the label of i and k with another -> ().

    Points (N, d), of which some are `there` (N,); labels `apart` (N, N). A mean over j and k, then over the i that
    have both. Of each i the sum over j and k is taken by sorting: N^2 numbers are held instead of N^3.
    """
    with torch.autocast(points.device.type, enabled=False):
        unit = F.normalize(points.float(), dim=1)  # (N, d)
        cos = unit @ unit.T  # (N, N)
        pair = there[:, None] & there & ~torch.eye(len(points), dtype=torch.bool, device=points.device)  # (N, N)
        same, other = pair & (apart == 0), pair & (apart > 0)  # (N, N)
        high = margin * apart + cos  # (N, N), of i and k
        low = cos.masked_fill(~same, torch.inf).sort(1).values  # (N, N), of i and j; those that are no j last
        below = torch.searchsorted(low.detach(), high.detach())  # (N, N), how many j are under each k
        so_far = F.pad(low.masked_fill(low.isinf(), 0.0).cumsum(1), (1, 0))  # (N, N + 1), sum of the lowest
        total = ((below * high - so_far.gather(1, below)) * other).sum(1)  # (N,)
        count = same.sum(1) * other.sum(1)  # (N,)
        return average(total / count.clamp(min=1), count > 0)
