"""Crossmodal Transformers: one sequence attends to another of any length (MulT, Tsai et al., ACL 2019).

Used by MulT, TETFN, JTUM and DLF. Norms come first, and one norm serves query and memory.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.fuse.modules.attention import Attention, Drops
from msa.fuse.modules.steps import last_valid


@dataclass(frozen=True)
class Rates:
    """Dropout rates: of attention, behind the ReLU, and on the output of each sublayer."""

    attention: float = 0.0
    ffn: float = 0.0
    residual: float = 0.0
    drops: Drops = "keys"  # what attention dropout leaves out


class Place(nn.Module):
    """sqrt(d) x plus the sinusoids of its positions, of which the first is 1; then dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return self.drop(x * x.shape[2] ** 0.5 + sinusoids(x.shape[1], x.shape[2], x.device))


def sinusoids(steps: int, dim: int, device: torch.device) -> Tensor:
    """Return sines of falling frequency in the first half of the width, cosines in the second -> (steps, dim)."""
    half = dim // 2
    rate = torch.exp(torch.arange(half, device=device) * (-math.log(10_000) / max(half - 1, 1)))  # (d / 2,)
    angle = torch.arange(1, steps + 1, device=device)[:, None] * rate  # (L, d / 2)
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, dim % 2))


class Stack(nn.Module):
    """Cross-attention layers over one fixed memory, with a final norm.

    With the same sequence as query and memory this is no self-attention, because the memory is never updated: use
    Readout.
    """

    def __init__(self, dim: int, heads: int, layers: int, rates: Rates) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, rates) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Sequence x (B, L, d) reads memory (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        for layer in self.layers:
            x = layer(x, memory, mask)  # (B, L, d)
        return self.norm(x)


class Readout(nn.Module):
    """Self-attention layers that return the last valid step; the last layer computes only that row."""

    def __init__(self, dim: int, heads: int, layers: int, rates: Rates) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, rates) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) under mask (B, L) -> (B, d), 0 where it has no step."""
        for layer in self.layers[:-1]:
            x = layer(x, x, mask)  # (B, L, d)
        row = self.layers[-1](last_valid(x, mask)[:, None], x, mask)  # (B, 1, d)
        return self.norm(row[:, 0]) * mask.any(1, keepdim=True)


class Layer(nn.Module):
    """x + attention(LN x, LN y, LN y), then x + W_2 relu(W_1 LN x), whose inner width is 4d."""

    def __init__(self, dim: int, heads: int, rates: Rates) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, rates.attention, rates.drops)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Dropout(rates.ffn), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(rates.residual)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) reads y (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        memory = self.norm_1(y)  # (B, S, d)
        query = memory if x is y else self.norm_1(x)  # (B, L, d)
        x = x + self.drop(self.attention(query, memory, memory, mask))  # (B, L, d)
        return x + self.drop(self.ffn(self.norm_2(x)))
