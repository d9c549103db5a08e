"""MMGCN: deep graph convolution over dialogues (Hu et al., 2021).

Paper    https://arxiv.org/abs/2107.06779
Code     https://github.com/hujingwen6666/MMGCN, commit 85732d984f70 (2021-08-09)
Fidelity B
Differs  Speakers are unknown, so there is no speaker embedding.
         The LSTM reads text utterance by utterance, as in the paper. For a sample without a dialogue it reads the
         steps instead, and the mean of its states is the node. The graph then has the sample's modalities as nodes.
         Layers are those of GCNII as printed. The authors' code takes the variant, which keeps the parts from the
         neighbours and from the first layer apart. Their training script asks for 4 layers, but their code ignores
         that option and has 64 hard-coded.
         A self-edge weighs 1, since its angle is 0. Cosines are clamped to +-0.99999 before the arccosine. There are no
         class weights, which the authors' script has for IEMOCAP.
Missing  M modalities make M nodes. A modality that a sample lacks has no node, and its features are 0.
Traps    The prediction for an utterance depends on its dialogue, so batches hold whole dialogues (see batching.py for
         long ones). A group without positions, such as a speaker's recordings, is no dialogue.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from msa.fuse.head import Batch, FusionHead, masked_mean
from msa.fuse.modules.dialogues import Dialogues, dialogues
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """Defaults of the authors' code and options of their training script, unless a comment says otherwise."""

    dim: int = 200  # of a node before the graph; the LSTM has half as many units in each direction
    rnn_layers: int = 2
    hidden: int = 100  # of a node in the graph
    layers: int = 4
    alpha: float = 0.1  # share of the first layer in every other
    eta: float = 0.5  # beta of layer l is log(eta / l + 1)
    gamma: float = 1.0  # on edges between modalities; the authors' code has no such weight
    dropout: float = 0.4


PRESETS = {"default": Config(), "small": Config(dim=64, rnn_layers=1, hidden=32, layers=2)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 3e-4,  # the authors', IEMOCAP
        "weight_decay": 3e-5,  # the authors', as an L2 penalty
        "batch": 16,  # the authors', who count dialogues; here utterances are counted
    }
}


class MMGCN(FusionHead):
    whole_groups = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.read = nn.ModuleDict(
            {m: Context(dims[m], c) if m == Modality.TEXT else Mean(dims[m], c.dim) for m in self.modalities}
        )
        self.enter = nn.Linear(c.dim, c.hidden)
        self.w = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(c.hidden, c.hidden)) for _ in range(c.layers))
        self.drop = nn.Dropout(c.dropout)
        self.classify = nn.Linear(len(self.modalities) * (c.dim + c.hidden), task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        where = dialogues(batch)
        there = torch.stack([batch.mask[m].any(1) for m in self.modalities], 1)  # (B, M)
        v = torch.stack([self.read[m](batch.x[m], batch.mask[m], where) for m in self.modalities], 1)  # (B, M, dim)
        v = v * there[:, :, None]
        nodes, known = where.lay(v), where.lay(there)  # (C, U, M, dim), (C, U, M)
        h = where.pick(self.convolve(nodes, edges(nodes, known, self.config.gamma)))  # (B, M, hidden)
        e = torch.cat([v, h * there[:, :, None]], 2).flatten(1)  # (B, M dim + M hidden)
        return self.classify(self.drop(e).relu())  # (B, outputs)

    def convolve(self, nodes: Tensor, p: Tensor) -> Tensor:
        """Nodes (C, U, M, dim) with edges p (C, U M, U M) -> (C, U, M, hidden).

        H <- relu(((1 - alpha) P H + alpha H_0) ((1 - beta_l) I + beta_l W_l)) for l = 1, 2, ...
        """
        c = self.config
        first = h = self.enter(self.drop(nodes.flatten(1, 2))).relu()  # H_0, (C, U M, hidden)
        for layer, w in enumerate(self.w, 1):
            beta = math.log(c.eta / layer + 1)
            mixed = (1 - c.alpha) * (p.to(h.dtype) @ self.drop(h)) + c.alpha * first  # (C, U M, hidden)
            h = ((1 - beta) * mixed + beta * (mixed @ w)).relu()  # (C, U M, hidden)
        return self.drop(h).unflatten(1, nodes.shape[1:3])


def edges(nodes: Tensor, known: Tensor, gamma: float) -> Tensor:
    """Weights between nodes (C, U, M, D) that are `known` (C, U, M) -> (C, U M, U M), symmetrically normalised.

    Two nodes are joined by 1 - angle / pi if they are of one modality, or of one utterance (times gamma); in fp32.
    """
    u, m = nodes.shape[1:3]
    with torch.autocast(nodes.device.type, enabled=False):
        unit = F.normalize(nodes.float().flatten(1, 2), dim=2)  # (C, N, D), N = U M
        cosine = (unit @ unit.transpose(1, 2)).clamp(-0.99999, 0.99999)  # (C, N, N)
        weight = 1 - cosine.acos() / math.pi
        node = torch.arange(u * m, device=nodes.device)  # (N,)
        kin = node[:, None] % m == node % m  # (N, N), of one modality
        beside = node[:, None] // m == node // m  # (N, N), of one utterance
        weight = torch.where(kin, weight, gamma * weight).masked_fill(~(kin | beside), 0.0)  # (C, N, N)
        weight = weight.masked_fill(kin & beside, 1.0)  # self-edges
        there = known.flatten(1)  # (C, N)
        weight = weight * (there[:, :, None] & there[:, None])
        scale = weight.sum(2).clamp(min=1).rsqrt()  # (C, N), the sum of a present node is 1 at least
        return scale[:, :, None] * weight * scale[:, None]


class Mean(nn.Module):
    """Linear map of the mean over the steps."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim)

    def forward(self, x: Tensor, mask: Tensor, where: Dialogues) -> Tensor:
        """x (B, L, D) under mask (B, L) -> (B, dim)."""
        return self.linear(masked_mean(x, mask))


class Context(nn.Module):
    """Bidirectional LSTM over the utterances of a dialogue, or over the steps of a sample without one."""

    def __init__(self, width: int, c: Config) -> None:
        super().__init__()
        self.linear, self.dim = nn.Linear(width, c.dim), c.dim
        inner = c.dropout if c.rnn_layers > 1 else 0.0
        self.lstm = nn.LSTM(c.dim, c.dim // 2, c.rnn_layers, batch_first=True, bidirectional=True, dropout=inner)

    def forward(self, x: Tensor, mask: Tensor, where: Dialogues) -> Tensor:
        """x (B, L, D) under mask (B, L) -> (B, dim)."""
        context = x.new_zeros(len(x), self.dim)  # (B, dim)
        alone = where.turns == 1  # (B,)
        if alone.any():
            states = self._run(x[alone], mask[alone].sum(1))  # (alone, L, dim)
            context[alone] = masked_mean(states, mask[alone][:, : states.shape[1]]).to(context.dtype)
        if not alone.all():
            some = where.only(~alone)
            means = some.lay(masked_mean(x[~alone], mask[~alone]))  # (C, U, D)
            turns = some.lay(torch.ones_like(some.turn)).sum(1)  # (C,)
            context[~alone] = some.pick(self._run(means, turns)).to(context.dtype)
        return context

    def _run(self, x: Tensor, length: Tensor) -> Tensor:
        """Sequences x (S, L, D) of so many steps, (S,) -> (S, the longest, dim)."""
        length = length.clamp(min=1).cpu()
        packed = pack_padded_sequence(self.linear(x), length, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]
