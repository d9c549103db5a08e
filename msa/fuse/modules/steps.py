"""Operations on padded sequences. Valid steps come first, so a causal network needs no mask."""

import torch
from torch import Tensor


def backwards(x: Tensor, mask: Tensor) -> Tensor:
    """Return the valid steps of x (B, T, D) under mask (B, T) reversed, with anything behind them -> (B, T, D)."""
    step = torch.arange(mask.shape[1], device=mask.device)  # (T,)
    where = (mask.sum(1, keepdim=True) - 1 - step).clamp(min=0)  # (B, T)
    return x.gather(1, where[:, :, None].expand_as(x))


def last_valid(x: Tensor, mask: Tensor) -> Tensor:
    """Return the row of x (B, T, D) at the last valid step of mask (B, T); zero where there is none -> (B, D)."""
    step = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # (T,)
    last = (mask * step).amax(1)  # (B,), 0 = none
    rows = x.gather(1, (last - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)  # (B, D)
    return rows.masked_fill((last == 0)[:, None], 0.0)
