"""What a fusion head is, and the batch it is given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.types import Modality, Task

_NOT_SAID = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Batch:
    """B samples, padded to the longest of each modality. A modality a sample lacks has an all-False mask row.

    Samples of one dialogue or video share a `group` number and are ordered by `position`; a sample that belongs to
    none is a group of its own. Where nobody says, all are.
    """

    x: Mapping[Modality, Tensor]  # each (B, T_m, D_m) float32
    mask: Mapping[Modality, Tensor]  # each (B, T_m) bool, True = valid
    y: Tensor  # (B,) int64 class numbers or float32 values; (B, classes) float32 where several labels may hold
    row: Tensor  # (B,) int64, the sample's row in the training table: an address for per-sample memory
    group: Tensor = _NOT_SAID  # (B,) int64
    position: Tensor = _NOT_SAID  # (B,) int64, the order inside the group

    def __post_init__(self) -> None:
        if self.group is _NOT_SAID:
            object.__setattr__(self, "group", torch.arange(len(self.row), device=self.row.device))
        if self.position is _NOT_SAID:
            object.__setattr__(self, "position", torch.zeros_like(self.group))

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        move = lambda tensors: {m: t.to(device, non_blocking=True) for m, t in tensors.items()}  # noqa: E731
        numbers = (t.to(device) for t in (self.y, self.row, self.group, self.position))
        return Batch(move(self.x), move(self.mask), *numbers)


class FusionHead(nn.Module, ABC):
    """Maps hidden states to predictions: (B, classes) logits, or (B, 1) values for regression.

    A subclass is built as `Head(config, dims, task)`, where `dims` maps every modality present to its width.
    """

    whole_groups: ClassVar[bool] = False  # True: no batch splits a dialogue or video; see batching.py for long ones
    means_only: ClassVar[bool] = False  # True: sees no more of x and mask than masked_mean, so the loop may give that

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, classes), or values (B, 1)."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; a head with auxiliary losses returns more than one."""
        return {"task": task_loss(self.task, self(batch), batch.y)}

    def restore(self, state: Mapping[str, Tensor], source: object) -> None:
        """Take trained weights on. Raises ConfigError where they are of another version of this head."""
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            told = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ConfigError(
                f"the weights of {source} do not fit {type(self).__name__} as it is now: {told[:200]}",
                fix="train it anew in another folder, or install the msa that run.json names",
            ) from None

    def param_groups(self, lr: float) -> list[dict[str, object]]:
        """Parameter groups for the optimiser; a paper with several learning rates overrides this."""
        return [{"params": list(self.parameters()), "lr": lr}]


def task_loss(task: Task, output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for classes, one by one for labels, mean squared error for values; in fp32: AMP may overflow it."""
    if task.multilabel:
        return F.binary_cross_entropy_with_logits(output.float(), (y > 0).float())
    if task.classes:
        return F.cross_entropy(output.float(), y)
    return F.mse_loss(output.float().squeeze(1), y)


def answers(task: Task, output: Tensor) -> Tensor:
    """What an output (B, outputs) says: probabilities that sum to 1, one by one for labels, or the values."""
    if task.multilabel:
        return output.sigmoid()
    return output.softmax(1) if task.classes else output


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps of x (B, T, D) under mask (B, T); zero where there is none -> (B, D), fp32."""
    with torch.autocast(x.device.type, enabled=False):  # fp16 cannot count beyond 2,048 steps
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weight = mask.to(wide.dtype)
        return torch.einsum("btd,bt->bd", wide, weight) / weight.sum(1, keepdim=True).clamp(min=1)


def head_class(module: ModuleType) -> type[FusionHead]:
    """The one FusionHead subclass that a head's file defines."""
    mine = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    heads = [c for c in mine if issubclass(c, FusionHead)]
    if len(heads) != 1:
        raise TypeError(f"{module.__name__} defines {len(heads)} FusionHead subclasses; a head's file has exactly one")
    return heads[0]
