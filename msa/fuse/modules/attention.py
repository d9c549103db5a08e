"""Multi-head attention over padded memories (Vaswani et al., 2017), through PyTorch's fused kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VECTOR = 16  # fp32 numbers: a CPU's fused kernel takes 1.7 times as long for 5 as for 16


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d_k)) v with maps W_q, W_k, W_v, W_o. An empty memory gives 0, not NaN.

    `dropout` removes steps of the memory, per sample and head, before the softmax. The usual dropout removes single
    weights after it, which the CPU's fused kernel does not support: L x S weights per head would have to be stored.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Query (B, L, D) over key and value (B, S, D) where mask (B, S) is True -> (B, L, D)."""
        q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)  # (B, L, D), (B, S, D), (B, S, D)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, L or S, d_k)
        empty = ~mask.any(1)[:, None, None]  # (B, 1, 1)
        seen = self._dropped(mask[:, None, None] | empty[:, None])  # (B, 1 or heads, 1, S)
        width = q.shape[3]
        if more := -width % (8 if q.is_cuda else VECTOR):  # zeros change no product, and kernels want whole vectors
            q, k, v = (F.pad(x, (0, more)) for x in (q, k, v))  # (B, heads, L or S, d_k or a little more)
        head = F.scaled_dot_product_attention(q, k, v, seen, scale=width**-0.5)[..., :width]  # (B, heads, L, d_k)
        return self.w_o(head.transpose(1, 2).flatten(2)).masked_fill(empty, 0.0)  # (B, L, D)

    def _dropped(self, seen: Tensor) -> Tensor:
        """Return seen (B, 1, 1, S) without some steps for each head, or with all where none would remain.

        -> (B, 1 or heads, 1, S)
        """
        if not self.training or not self.dropout:
            return seen
        chance = torch.rand(len(seen), self.heads, 1, seen.shape[3], device=seen.device)  # (B, heads, 1, S)
        fewer = seen & (chance >= self.dropout)
        return torch.where(fewer.any(3, keepdim=True), fewer, seen)
