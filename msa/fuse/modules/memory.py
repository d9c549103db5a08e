"""The memory of MFN, which is also the encoder of MFM, and resampling to common steps.

Shared by two heads, not three, because MFM's paper names MFN as its encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.fuse.modules.recurrent import recur
from msa.fuse.modules.steps import last_valid
from msa.types import Modality

Parts = Mapping[Modality, Tensor]  # one tensor per modality


def common_clock(x: Parts, mask: Parts, limit: int) -> tuple[dict[Modality, Tensor], Tensor]:
    """Resample x_m (B, L_m, D_m) under mask_m (B, L_m) to one row per word -> (B, T, D_m), (B, T).

    Return the rows of each modality and their mask. Without text the longest modality sets the number of rows; T is at
    most `limit`. A row is the mean of its part: n steps are divided into T equal parts, fewer than T are repeated.
    Aligned input stays as it is.
    """
    length = {m: k.sum(1) for m, k in mask.items()}  # each (B,)
    longest = torch.stack(list(length.values())).amax(0)  # (B,)
    words = length.get(Modality.TEXT, longest)
    n = torch.where(words > 0, words, longest).clamp(max=limit)  # (B,)
    t = torch.arange(max(int(n.max()), 1), device=n.device)  # (T,)
    clock = t < n[:, None]  # (B, T)
    return {m: _resample(x[m], length[m], n, t) for m in x}, clock


def _resample(x: Tensor, length: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """Return means of n (B,) equal parts of the first length (B,) steps of x (B, L, D) -> (B, T, D)."""
    ticks = n.clamp(min=1)[:, None]  # (B, 1)
    start = (t * length[:, None]).div(ticks, rounding_mode="floor")  # (B, T)
    end = ((t + 1) * length[:, None] + ticks - 1).div(ticks, rounding_mode="floor")  # (B, T), rounded up
    step = torch.arange(x.shape[1], device=x.device)  # (L,)
    part = (step >= start[:, :, None]) & (step < end.minimum(length[:, None])[:, :, None])  # (B, T, L)
    with torch.autocast(x.device.type, enabled=False):  # a sum of hundreds of steps may overflow fp16
        return torch.bmm(part.to(x.dtype), x) / part.sum(2, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class Widths:
    """Sizes of a memory: units of the hidden layers nn1, nn2 and gamma, and of the memory itself."""

    memory: int
    nn1: int
    nn2: int
    gamma: int
    dropout: float


class MemoryFusion(nn.Module):
    """Sec. 3 of MFN: one LSTM per modality, attention over the change of their cells, and a gated memory."""

    def __init__(self, dims: Mapping[Modality, int], hidden: Mapping[Modality, int], w: Widths) -> None:
        super().__init__()
        self.modalities = list(dims)
        self.cells = nn.ModuleDict({m: Cells(dims[m], hidden[m]) for m in dims})
        total = sum(hidden[m] for m in dims)
        self.width = total + w.memory
        self.nn1 = _layers(2 * total, w.nn1, 2 * total, w.dropout)  # D_a
        self.nn2 = _layers(2 * total, w.nn2, w.memory, w.dropout)  # D_u
        self.gate = nn.Linear(2 * total, 2 * w.gamma)  # the first layers of D_gamma1 and D_gamma2, of the cells
        self.gate_memory = nn.Linear(w.memory, 2 * w.gamma, bias=False)  # and the same, of the memory
        self.gamma1, self.gamma2 = (nn.Linear(w.gamma, w.memory) for _ in range(2))
        self.drop = nn.Dropout(w.dropout)

    def forward(self, x: Parts, clock: Tensor, present: Parts) -> Tensor:
        """Aligned x_m (B, T, D_m) under clock (B, T); present_m (B,) -> last states and memory (B, width)."""
        states = [self.cells[m](x[m]) for m in self.modalities]  # h and c of every modality, each (B, T, H_m)
        there = [present[m][:, None, None] for m in self.modalities]  # each (B, 1, 1)
        h = torch.cat([h_m * p for (h_m, _), p in zip(states, there, strict=True)], 2)  # (B, T, H)
        c = torch.cat([c_m * p for (_, c_m), p in zip(states, there, strict=True)], 2)  # (B, T, H)
        window = torch.cat([F.pad(c, (0, 0, 1, 0))[:, :-1], c], 2)  # c^[t-1, t], (B, T, 2H)
        seen = window * self.nn1(window).softmax(2)  # c-hat, (B, T, 2H)
        return last_valid(torch.cat([h, self.memory(seen)], 2), clock)

    def memory(self, seen: Tensor) -> Tensor:
        """u^t = gamma_1 u^(t-1) + gamma_2 u-hat^t, gates and proposal from c-hat: (B, T, 2H) -> u (B, T, memory).

        Everything that depends on c-hat alone is computed for all steps at once; the loop has only what depends on u.
        """
        proposal = self.nn2(seen).tanh().unbind(1)  # u-hat, each (B, memory)
        u = torch.zeros_like(proposal[0])  # (B, memory)
        states = []
        for g, u_hat in zip(self.gate(seen).unbind(1), proposal, strict=True):  # g is (B, 2 gamma)
            g_1, g_2 = self.drop(F.relu(g + self.gate_memory(u))).chunk(2, 1)  # each (B, gamma)
            u = self.gamma1(g_1).sigmoid() * u + self.gamma2(g_2).sigmoid() * u_hat  # (B, memory)
            states.append(u)
        return torch.stack(states, 1)


class Cells(nn.Module):
    """An LSTM that gives its cells as well, which torch's keeps to itself."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_x, self.w_h = nn.Linear(width, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)
        for p in self.parameters():
            nn.init.uniform_(p, -(hidden**-0.5), hidden**-0.5)  # as torch's LSTM

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> h and c, each (B, T, H)."""
        return recur(self.w_x(x), self.w_h.weight)


def _layers(width: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
