"""What auxiliary losses are made of; in fp32, since AMP would lose small differences."""

import torch
import torch.nn.functional as F
from torch import Tensor


def average(x: Tensor, there: Tensor) -> Tensor:
    """Mean of x where it is `there`, 0 where it is nowhere; both of one shape -> ()."""
    weight = there.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of vectors x and y (..., d) -> (...); 0 where one of them is 0."""
    with torch.autocast(x.device.type, enabled=False):
        return F.cosine_similarity(x.float(), y.float(), dim=-1, eps=1e-6)
