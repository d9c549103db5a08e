"""Building blocks of auxiliary losses; in fp32, since AMP would lose small differences."""

import torch
import torch.nn.functional as F
from torch import Tensor


def average(x: Tensor, there: Tensor) -> Tensor:
    """Return the mean of x where `there` is True, 0 where it never is; both of one shape -> ()."""
    weight = there.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosine of vectors x (..., d) and y (..., d) -> (...); 0 where one of them is 0."""
    with torch.autocast(x.device.type, enabled=False):
        return F.cosine_similarity(x.float(), y.float(), dim=-1, eps=1e-6)
