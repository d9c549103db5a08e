"""DialogueGCN: graph with typed edges (Ghosal et al., EMNLP 2019).

Paper    https://arxiv.org/abs/1908.11540
Code     https://github.com/declare-lab/conv-emotion, commit 6128ca20e9c7 (2024-03-10)
Fidelity C (reconstruction): the paper's graph, of other nodes
Differs  The paper's nodes are utterances of text, and its edges are typed by the two speakers. Speakers are unknown
         here, so modalities take their place, with turns in a fixed order. In a dialogue or video a turn is an
         utterance, and a node is the mean of one modality of it. A sample without a dialogue is a conversation of its
         modalities over its own steps, resampled to at most `turns`.
         The formulas are the paper's. The authors' code weights edges and reads the graph differently.
         The window counts nodes: with three modalities ten nodes are a little over three utterances. There are no
         class weights. A prediction is made from the mean of the sample's nodes, each of which attends to all others.
         Defaults are those of the authors' code, which has an LSTM as its context where the paper has a GRU.
Missing  M modalities make 2 M^2 relations. A modality that a sample lacks has no node.
Traps    The prediction for an utterance depends on its dialogue, so batches hold whole dialogues (see batching.py for
         long ones). A group without positions, such as a speaker's recordings, is no dialogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from msa.fuse.head import Batch, FusionHead, masked_mean
from msa.fuse.modules.dialogues import Dialogues, dialogues
from msa.fuse.modules.memory import common_clock
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """Defaults of the authors' code, unless a comment says otherwise."""

    dim: int = 100  # of a node's features
    context: int = 100  # units of the GRU in each direction
    rnn_layers: int = 2
    hidden: int = 100  # of a node in the graph
    past: int = 10  # neighbours before a node ...
    future: int = 10  # ... and after it
    turns: int = 20  # of a sample that belongs to no dialogue, at most; ours
    dropout: float = 0.4  # of the command they give for IEMOCAP


PRESETS = {"default": Config(), "small": Config(dim=64, context=48, rnn_layers=1, hidden=64, turns=5)}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 3e-4,  # of the command they give for IEMOCAP
        "weight_decay": 0.0,  # of the same
        "batch": 32,  # the authors', who count dialogues; here utterances are counted
        "epochs": 60,  # the authors', who stop at none of them
        "patience": 15,  # ours: on dialogues validation stands still for some ten epochs before it falls
        "schedule": "none",  # the authors'; a rate that falls meanwhile stays there
    }
}


@dataclass(frozen=True)
class Nodes:
    """S conversations of up to N nodes, present ones first. Each node belongs to one of U predictions."""

    x: Tensor  # (S, N, dim)
    there: Tensor  # (S, N) bool
    speaker: Tensor  # (S, N) int64, 0..M-1
    answer: Tensor  # (S, N) int64, 0..U-1
    answers: int  # U


class DialogueGCN(FusionHead):
    whole_groups = True

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = self.config = config
        self.modalities = [m for m in Modality if m in dims]
        self.project = nn.ModuleDict({m: nn.Linear(dims[m], c.dim) for m in self.modalities})
        inner = c.dropout if c.rnn_layers > 1 else 0.0
        self.gru = nn.GRU(c.dim, c.context, c.rnn_layers, batch_first=True, bidirectional=True, dropout=inner)
        width = 2 * c.context
        self.graph = Graph(width, len(self.modalities), c)
        self.w_beta = nn.Linear(width + c.hidden, width + c.hidden, bias=False)
        self.classify = nn.Sequential(
            nn.Linear(width + c.hidden, c.hidden), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.hidden, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        where = dialogues(batch)
        alone = where.turns == 1  # (B,)
        h = batch.x[self.modalities[0]].new_zeros(len(batch), self.w_beta.in_features)  # (B, width + hidden)
        if alone.any():
            h[alone] = self.converse(self.of_steps(batch, alone))[:, 0].to(h.dtype)
        if not alone.all():
            some = where.only(~alone)
            h[~alone] = some.pick(self.converse(self.of_utterances(batch, ~alone, some))).to(h.dtype)
        return self.classify(h)  # (B, outputs)

    def of_steps(self, batch: Batch, rows: Tensor) -> Nodes:
        """Each of the chosen samples, rows (B,) bool, is a conversation of its modalities, with one answer."""
        mask = {m: batch.mask[m][rows] for m in self.modalities}  # each (S, L_m)
        x = {m: batch.x[m][rows] for m in self.modalities}  # each (S, L_m, D_m)
        x, clock = common_clock(x, mask, self.config.turns)  # (S, T, D_m), (S, T)
        nodes = torch.stack([self.project[m](x[m]) for m in self.modalities], 2)  # (S, T, M, dim)
        there = torch.stack([clock & mask[m].any(1)[:, None] for m in self.modalities], 2)  # (S, T, M)
        return compact(nodes, there, torch.zeros_like(clock, dtype=torch.int64), 1)

    def of_utterances(self, batch: Batch, rows: Tensor, where: Dialogues) -> Nodes:
        """Each dialogue of the chosen samples is a conversation, with an answer for every utterance."""
        means = [self.project[m](masked_mean(batch.x[m][rows], batch.mask[m][rows])) for m in self.modalities]
        there = torch.stack([batch.mask[m][rows].any(1) for m in self.modalities], 1)  # (n, M)
        nodes, known = where.lay(torch.stack(means, 1)), where.lay(there)  # (C, U, M, dim), (C, U, M)
        turn = torch.arange(nodes.shape[1], device=nodes.device)  # (U,)
        return compact(nodes, known, turn.expand(len(nodes), -1), nodes.shape[1])

    def converse(self, nodes: Nodes) -> Tensor:
        """Return the features of each prediction, (S, U, width + hidden), 0 where it has no node."""
        g = self.context(nodes)  # g_i, (S, N, width)
        h = torch.cat([g, self.graph(g, nodes)], 2)  # h_i = [g_i, h_i^(2)], (S, N, width + hidden)
        read = self.look(h, nodes.there)  # (S, N, width + hidden)
        answer = torch.arange(nodes.answers, device=h.device)[:, None]  # (U, 1)
        belongs = ((nodes.answer[:, None] == answer) & nodes.there[:, None]).to(read.dtype)  # (S, U, N)
        return belongs @ read / belongs.sum(2, keepdim=True).clamp(min=1)

    def look(self, h: Tensor, there: Tensor) -> Tensor:
        """beta_i [h_1 ... h_N] for h_i (S, N, D), beta_i the softmax of h_i^T W_beta h_j over those `there` (S, N).

        In fp32: trained scores run to hundreds, of which a half precision keeps no tenths.
        """
        seen = there[:, None] | ~there.any(1)[:, None, None]  # (S, 1, N), all True where there is no node
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            return F.scaled_dot_product_attention(self.w_beta(h), h, h, seen, scale=1.0)  # (S, N, D)

    def context(self, nodes: Nodes) -> Tensor:
        """A bidirectional GRU over the whole conversation, (S, N, 2 context)."""
        length = nodes.there.sum(1).clamp(min=1).cpu()  # (S,)
        packed = pack_padded_sequence(nodes.x, length, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=nodes.x.shape[1])[0]


def compact(nodes: Tensor, there: Tensor, answer: Tensor, answers: int) -> Nodes:
    """Nodes (S, T, M, D), those `there` (S, T, M), of the predictions of their turns (S, T), in speaking order."""
    speaker = torch.arange(nodes.shape[2], device=nodes.device).expand(there.shape)  # (S, T, M)
    there, order = there.flatten(1).sort(dim=1, descending=True, stable=True)  # (S, T M)
    x = nodes.flatten(1, 2).gather(1, order[:, :, None].expand(-1, -1, nodes.shape[3]))  # (S, T M, D)
    own = answer[:, :, None].expand(speaker.shape)  # (S, T, M)
    speaker, own = (y.flatten(1).gather(1, order) for y in (speaker, own))
    n = max(int(there.sum(1).max()), 1)  # N
    return Nodes(x[:, :n].masked_fill(~there[:, :n, None], 0.0), there[:, :n], speaker[:, :n], own[:, :n], answers)


class Graph(nn.Module):
    """Two layers of convolution over neighbours, the first with a map per relation (two speakers, before or after)."""

    def __init__(self, width: int, speakers: int, c: Config) -> None:
        super().__init__()
        self.speakers, self.past, self.future = speakers, c.past, c.future
        self.w_e = nn.Linear(width, width, bias=False)
        relations = [torch.empty(width, c.hidden) for _ in range(2 * speakers**2)]
        self.w_r = nn.Parameter(torch.stack([nn.init.xavier_uniform_(w) for w in relations]))  # (R, width, hidden)
        self.w_0 = nn.Linear(width, c.hidden)
        self.w_2, self.w_20 = nn.Linear(c.hidden, c.hidden, bias=False), nn.Linear(c.hidden, c.hidden)

    def forward(self, g: Tensor, nodes: Nodes) -> Tensor:
        """g_i (S, N, width) -> h_i^(2) (S, N, hidden)."""
        near = self.near(nodes.there)  # (S, N, N)
        alpha = self.alpha(g, near)  # (S, N, N)
        h = self.w_0(g) * alpha.diagonal(dim1=1, dim2=2)[:, :, None]  # alpha_ii W_0 g_i, (S, N, hidden)
        relation = self.relation(nodes.speaker)  # (S, N, N)
        for r, w in enumerate(self.w_r):
            edge = near & (relation == r)  # (S, N, N)
            weight = alpha * edge / edge.sum(2, keepdim=True).clamp(min=1)  # alpha_ij / c_i,r
            h = h + weight @ (g @ w)  # (S, N, hidden)
        h = h.relu()  # h_i^(1)
        return (near.to(h.dtype) @ self.w_2(h) + self.w_20(h)).relu()

    def near(self, there: Tensor) -> Tensor:
        """Return the neighbours of each node, (S, N, N): those within its window, itself included."""
        i = torch.arange(there.shape[1], device=there.device)  # (N,)
        ahead = i - i[:, None]  # (N, N), of j from i
        window = (ahead >= -self.past) & (ahead <= self.future)
        return window & there[:, None] & there[:, :, None]

    def alpha(self, g: Tensor, near: Tensor) -> Tensor:
        """Return softmax over j near i of g_i^T W_e g_j, 0 elsewhere: g (S, N, width), near (S, N, N) -> (S, N, N)."""
        with torch.autocast(g.device.type, enabled=False):  # see DialogueGCN.look
            score = self.w_e(g.float()) @ g.float().transpose(1, 2)  # (S, N, N)
        return score.masked_fill(~near, torch.finfo(score.dtype).min).softmax(2).masked_fill(~near, 0.0).to(g.dtype)

    def relation(self, speaker: Tensor) -> Tensor:
        """Return the relation number of nodes i and j, (S, N, N): their speakers, and whether j comes later."""
        i = torch.arange(speaker.shape[1], device=speaker.device)  # (N,)
        later = (i > i[:, None]).long()  # (N, N)
        return 2 * (self.speakers * speaker[:, :, None] + speaker[:, None]) + later
