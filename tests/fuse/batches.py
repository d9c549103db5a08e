"""What the tests of single heads share: made batches, and how many parameters there are."""

import torch
from torch import nn

from msa.fuse.head import Batch


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def random_batch(dims, task, steps=5, size=8, full=False) -> Batch:
    """Every modality padded to `steps` (the literal reading of CM-STA's eq. 2 asks for it), noise behind the mask."""
    x = {m: torch.randn(size, steps, d) for m, d in dims.items()}
    length = {m: torch.full((size, 1), steps) if full else torch.randint(1, steps + 1, (size, 1)) for m in dims}
    mask = {m: torch.arange(steps) < length[m] for m in dims}
    y = torch.randint(len(task.classes), (size,)) if task.classes else torch.randn(size)
    return Batch(x, mask, y, torch.arange(size))
