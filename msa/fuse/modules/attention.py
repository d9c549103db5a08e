"""Multi-head attention over padded sequences (Vaswani et al., 2017): the one attention of all heads.

Attention dropout leaves out whole keys, per sample and head, before the softmax. The usual dropout leaves out single
weights after it: a mask of L x S numbers per head has to be drawn and kept, and PyTorch leaves its fused CPU kernel.
It is the choice "weights" (docs/decisions/0010-attention-dropout.md).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Drops = Literal["keys", "weights"]  # what attention dropout leaves out
_VECTOR = 16  # fp32 numbers: a CPU's fused kernel takes 1.7 times as long for 5 as for 16


class Attend(nn.Module):
    """softmax(q k^T / sqrt(d_k)) v by heads, of queries, keys and values behind their maps; without parameters."""

    def __init__(self, heads: int, dropout: float = 0.0, drops: Drops = "keys") -> None:
        super().__init__()
        self.heads, self.dropout, self.drops = heads, dropout, drops

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries q (B, L, D) over k and v (B, S, D) where mask (B, S) is True, D = heads d_k -> (B, L, D).

        A row of the mask without any True is read as if all were: some kernels would make it NaN.
        """
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, L or S, d_k)
        seen = None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]  # (B, 1, 1, S)
        dropout = self.dropout if self.training else 0.0
        if dropout and self.drops == "keys":
            seen, dropout = fewer_keys(seen, k, dropout), 0.0  # (B, heads, 1, S)
        width = q.shape[3]
        if more := -width % (8 if q.is_cuda else _VECTOR):  # zeros change no product, and kernels want whole vectors
            q, k, v = (F.pad(x, (0, more)) for x in (q, k, v))  # (B, heads, L or S, d_k or a little more)
        head = F.scaled_dot_product_attention(q, k, v, seen, dropout, scale=width**-0.5)[..., :width]
        return head.transpose(1, 2).flatten(2)


def fewer_keys(seen: Tensor | None, k: Tensor, dropout: float) -> Tensor:
    """Return which of the keys k (B, heads, S, d_k) each head sees after dropout -> (B, heads, 1, S).

    `seen` (B, 1, 1, S) are those it saw before, None: all. A head that would be left without a key sees all of them.
    """
    kept = torch.rand(*k.shape[:2], 1, k.shape[2], device=k.device) >= dropout  # (B, heads, 1, S)
    kept = kept if seen is None else kept & seen  # (B, heads, 1, S)
    none = ~kept.any(3, keepdim=True)  # (B, heads, 1, 1)
    return kept | (none if seen is None else none & seen)


class Attention(nn.Module):
    """Multi-head attention with maps W_q, W_k, W_v and W_o. An empty memory gives 0, not NaN."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, drops: Drops = "keys") -> None:
        super().__init__()
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(dim, dim) for _ in range(4))
        self.attend = Attend(heads, dropout, drops)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Query (B, L, D) over key and value (B, S, D) where mask (B, S) is True -> (B, L, D)."""
        x = self.attend(self.w_q(query), self.w_k(key), self.w_v(value), mask)  # (B, L, D)
        return self.w_o(x).masked_fill(~mask.any(1)[:, None, None], 0.0)
