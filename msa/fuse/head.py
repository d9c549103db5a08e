"""Base class of fusion heads, the batch they read, and the losses and means they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.types import Modality, Task

STATISTICS = ("mean", "std")  # of a sample's steps, see `with_statistics`
_NOT_SAID = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Batch:
    """B samples, padded to the longest of each modality. A modality a sample lacks has an all-False mask row.

    Samples of one dialogue or video share a `group` number and are ordered by `position`. A sample without one is a
    group by itself. By default every sample is.
    """

    x: Mapping[Modality, Tensor]  # each (B, T_m, D_m) float32
    mask: Mapping[Modality, Tensor]  # each (B, T_m) bool, True = valid
    y: Tensor  # (B,) int64 class numbers or float32 values; (B, classes) float32 where several labels may hold
    row: Tensor  # (B,) int64, row of the training table, the address of per-sample memory
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
        """Return the batch on another device."""
        move = lambda tensors: {m: t.to(device, non_blocking=True) for m, t in tensors.items()}  # noqa: E731
        numbers = (t.to(device) for t in (self.y, self.row, self.group, self.position))
        return Batch(move(self.x), move(self.mask), *numbers)


class FusionHead(nn.Module, ABC):
    """Maps hidden states to predictions: (B, classes) logits, or (B, 1) values for regression.

    A subclass is built as `Head(config, dims, task)`, where `dims` maps every modality present to its width.
    """

    whole_groups: ClassVar[bool] = False  # True: no batch splits a dialogue or video; see batching.py for long ones
    means_only: ClassVar[bool] = False  # True: reads only masked_mean of x, so the loop may pass means

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, classes), or values (B, 1)."""

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return output (B, outputs) and loss terms of one forward pass; training minimises the sum of the terms.

        A head with auxiliary losses overrides this and returns more terms; "task" is what validation looks at.
        """
        output = self(batch)  # (B, outputs)
        return output, {"task": task_loss(self.task, output, batch.y)}

    def restore(self, state: Mapping[str, Tensor], source: object) -> None:
        """Load trained weights. Raises ConfigError where they belong to another version of this head."""
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ConfigError(
                f"the weights of {source} do not fit {type(self).__name__} as it is now: {reason[:200]}",
                fix="train it anew in another folder, or install the msa that run.json names",
            ) from None

    def param_groups(self, lr: float) -> list[dict[str, object]]:
        """Return parameter groups for the optimiser; a head with several learning rates overrides this."""
        return [{"params": list(self.parameters()), "lr": lr}]


class LinearHead(FusionHead, ABC):
    """A head that is linear in standardised features: train/convex.py finds its optimum, and no loop trains it."""

    center: Tensor  # (F,) mean of each feature over the training samples
    scale: Tensor  # (F,) standard deviation

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(task)
        self.linear = nn.Linear(width, task.outputs)
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @abstractmethod
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features (B, F), and where a sample has them (B, F) bool."""

    def standardise(self, x: Tensor, present: Tensor) -> None:
        """Take mean and standard deviation from the features of the training samples: x (n, F), present (n, F)."""
        count = present.sum(0).clamp(min=1)  # (F,)
        wide = x.double() * present  # (n, F)
        center = wide.sum(0) / count
        scale = (((wide - center) * present).square().sum(0) / count).sqrt()
        self.center.copy_(center)
        self.scale.copy_(torch.where(scale < 1e-6, 1.0, scale))  # a constant feature stays a constant 0

    def standardised(self, batch: Batch) -> Tensor:
        """Return the standardised features (B, F), 0 where a sample has none."""
        x, present = self.features(batch)
        return (x - self.center) / self.scale * present

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, classes), or values (B, 1)."""
        return self.linear(self.standardised(batch))


def task_loss(task: Task, output: Tensor, y: Tensor, values: Literal["mse", "l1"] = "mse") -> Tensor:
    """Return the error of output (B, outputs) against labels y -> (); in fp32, since AMP may overflow it.

    Args:
        task: classes have cross-entropy, several labels binary cross-entropy, values `values`.
        output: logits (B, classes), or values (B, 1).
        y: (B,) class numbers or values, or (B, classes) where several labels may hold.
        values: mean squared or mean absolute error.
    """
    if task.multilabel:
        return F.binary_cross_entropy_with_logits(output.float(), (y > 0).float())
    if task.classes:
        return F.cross_entropy(output.float(), y)
    error = {"mse": F.mse_loss, "l1": F.l1_loss}[values]
    return error(output.float().squeeze(1), y)


def answers(task: Task, output: Tensor) -> Tensor:
    """Return predictions of an output (B, outputs): class probabilities, one probability per label, or values."""
    if task.multilabel:
        return output.sigmoid()
    return output.softmax(1) if task.classes else output


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the valid steps of x (B, T, D) under mask (B, T), 0 without any -> (B, D), fp32."""
    with torch.autocast(x.device.type, enabled=False):  # fp16 cannot count beyond 2,048 steps
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weight = mask.to(wide.dtype)
        return torch.einsum("btd,bt->bd", wide, weight) / weight.sum(1, keepdim=True).clamp(min=1)


def with_statistics(x: Tensor, mask: Tensor, statistics: Sequence[str]) -> Tensor:
    """Widen every valid step by statistics of its sample: x (B, T, D) under mask (B, T) -> (B, T, D (1 + S)), fp32.

    Steps behind the mask stay 0, so that the mean of what is returned is [mean, statistics].

    Args:
        x: hidden states, 0 behind the mask.
        mask: True = valid.
        statistics: S names of STATISTICS, each over the valid steps of a sample, each (B, D).
    """
    if not statistics:
        return x
    mean = masked_mean(x, mask)  # (B, D)
    squares = (x - mean[:, None]).square()  # (B, T, D)
    values = {"mean": mean, "std": masked_mean(squares, mask).sqrt()}
    added = torch.cat([values[name] for name in statistics], 1)  # (B, S D)
    return torch.cat([x, added[:, None] * mask[:, :, None]], 2)


def head_class(module: ModuleType) -> type[FusionHead]:
    """Return the one FusionHead subclass that a head's file defines.

    Raises ConfigError where the class defines `loss`, the name `step` had before: it would never be called.
    """
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    heads = [c for c in classes if issubclass(c, FusionHead)]
    if len(heads) != 1:
        raise TypeError(f"{module.__name__} defines {len(heads)} FusionHead subclasses; a head's file has exactly one")
    if "loss" in vars(heads[0]):
        raise ConfigError(
            f"{module.__file__ or module.__name__}: {heads[0].__name__} defines loss(batch), which is never called",
            fix="define step(batch), which returns the output and the loss terms",
        )
    return heads[0]
