"""EMO-GCN: learnt graphs and attention fusion (Xing et al., 2024).

Paper    https://doi.org/10.1038/s41598-024-79981-0 (Scientific Reports 14)
Fidelity C (reconstruction): the idea, in formulas of our own
Differs  The paper detects depression from EEG and interview audio, and has no public code. Its nodes are channels.
         Features of frozen backbones have no meaningful channels, so here a node is a segment of time.
         The edges are the mean of two graphs: one learnt for all samples, softmax(relu(E_1 E_2^T)), and one per
         sample, the softmax of the cosines of its nodes. Layers have residual connections.
         Three layers are the best of the paper's Table 3; every other number is ours.
Missing  M modalities make M graphs. A lone one needs no fusion. One that a sample lacks has no weight in the attention.
Traps    A sequence of fewer steps than `nodes` has one node per step, a longer one has `nodes` equal segments, and both
         use the same learnt graph. One pooled vector is a graph of one node.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.fuse.head import Batch, FusionHead
from msa.fuse.modules.memory import common_clock
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """Ours, unless a comment says otherwise."""

    nodes: int = 16  # N, of a graph, at most
    dim: int = 128  # d, of a node
    embedding: int = 16  # e, width of E_1 and E_2
    layers: int = 3  # Table 3
    temperature: float = 0.5  # of the softmax over cosines
    dropout: float = 0.3


PRESETS = {"default": Config(), "small": Config(dim=64, layers=2)}
TRAIN: dict[str, dict[str, object]] = {"default": {"lr": 1e-3, "weight_decay": 1e-3, "batch": 32}}  # ours


class EMOGCN(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in Modality if m in dims]
        self.graph = nn.ModuleDict({m: ModalityGraph(dims[m], c) for m in self.modalities})
        self.fuse = AttentionFusion(c.dim) if len(self.modalities) > 1 else None
        self.classify = nn.Sequential(
            nn.Dropout(c.dropout), nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Linear(c.dim, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        z = torch.stack([self.graph[m](batch.x[m], batch.mask[m]) for m in self.modalities], 1)  # (B, M, d)
        there = torch.stack([batch.mask[m].any(1) for m in self.modalities], 1)  # (B, M)
        return self.classify(z[:, 0] if self.fuse is None else self.fuse(z, there))  # (B, outputs)


class ModalityGraph(nn.Module):
    """Graph convolution over segments of a sequence, with learnt and similarity edges, and the mean of the nodes."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        self.config = c
        self.enter = nn.Linear(width, c.dim)
        self.e_1, self.e_2 = (nn.Parameter(torch.randn(c.nodes, c.embedding) * 0.3) for _ in range(2))  # each (N, e)
        self.w = nn.ModuleList(nn.Linear(c.dim, c.dim) for _ in range(c.layers))
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D) under mask (B, L) -> z (B, d), 0 where there is no step."""
        one, most = Modality.TEXT, self.config.nodes  # any key: a lone modality sets its own clock
        means, known = common_clock({one: x}, {one: mask}, most)  # (B, n, D), (B, n): n <= N
        h = self.enter(means[one]).relu()  # (B, n, d)
        a = self.edges(h, known)  # (B, n, n)
        for w in self.w:
            h = h + w(a @ self.drop(h)).relu()  # (B, n, d)
        return (h * known[:, :, None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)

    def edges(self, h: Tensor, known: Tensor) -> Tensor:
        """(softmax(relu(E_1 E_2^T)) + softmax(cos(h_i, h_j) / t)) / 2 over known nodes (B, n) -> (B, n, n); in fp32."""
        with torch.autocast(h.device.type, enabled=False):
            n = h.shape[1]
            learnt = (self.e_1[:n] @ self.e_2[:n].T).relu()  # (n, n)
            unit = F.normalize(h.float(), dim=2)  # (B, n, d)
            alike = unit @ unit.transpose(1, 2) / self.config.temperature  # (B, n, n)
            seen = known[:, None] | ~known.any(1)[:, None, None]  # (B, 1, n), all True where there is no node
            parts = [s.masked_fill(~seen, -torch.inf).softmax(2) for s in (learnt[None], alike)]  # each (B, n, n)
        return ((parts[0] + parts[1]) / 2).to(h.dtype)


class AttentionFusion(nn.Module):
    """sum over m of a_m z_m, where a = softmax over the modalities present of q^T tanh(W z_m)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w, self.q = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, z: Tensor, there: Tensor) -> Tensor:
        """z (B, M, d), present where there (B, M) is True -> (B, d)."""
        score = self.q(self.w(z).tanh()).squeeze(2).float()  # (B, M)
        seen = there | ~there.any(1, keepdim=True)  # (B, M)
        return torch.einsum("bm,bmd->bd", score.masked_fill(~seen, -torch.inf).softmax(1).to(z.dtype), z)
