"""Every sample of a subset through a head once: validation losses and predictions, in fp32."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msa.device import numbered
from msa.errors import ConfigError
from msa.fuse.data import sampler
from msa.fuse.data.table import Normalisation, Subset
from msa.fuse.head import Batch, FusionHead, answers
from msa.types import Task


@dataclass(frozen=True)
class Validation:
    """Validation of a head: mean losses, by their column in the history, and how many different predictions."""

    losses: dict[str, float]
    distinct: int  # different predictions: classes, sets of probabilities in whole percent, or values


@torch.inference_mode()
def validate(head: FusionHead, subset: Subset, norm: Normalisation, size: int, device: str) -> Validation:
    """Return the mean loss over a subset and, for values, the mean absolute error.

    In fp32, whatever the training: the test and every later prediction are, on any machine, and the best weights are
    to be the best there.

    The loss is that of the task alone: auxiliary terms serve training and do not say which weights answer best.
    """
    head.eval()
    total, error = 0.0, 0.0
    predictions: set[Any] = set()
    for _, batch in _every_sample(head, subset, norm, size, device):
        output, terms = head.step(batch)
        task = terms["task"] if "task" in terms else sum(terms.values())
        total += float(task) * len(batch)
        predictions |= _distinct(head.task, output.float())
        if not head.task.classes:
            error += float((output.float().squeeze(1) - batch.y).abs().sum())
    losses = {"valid_loss": total / len(subset)}
    return Validation(losses if head.task.classes else losses | {"valid_mae": error / len(subset)}, len(predictions))


def _every_sample(
    head: FusionHead, subset: Subset, norm: Normalisation, size: int, device: str
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield positions in the subset and a batch until every sample was in one: little padding, or whole groups."""
    plan = (
        sampler.whole_groups(*subset.groups(), size) if head.whole_groups else sampler.ordered(*subset.lengths(), size)
    )
    return zip(plan, subset.source(norm, numbered(device), head.means_only).batches(plan), strict=True)


def _distinct(task: Task, output: Tensor) -> set[Any]:
    """Return the different predictions in an output (B, outputs).

    For several labels these are rounded probabilities: where all labels are rare a sound head may predict none, and
    only one whose probabilities are everywhere the same has collapsed.
    """
    if task.multilabel:
        return {tuple(row) for row in (100 * answers(task, output)).round().tolist()}
    return set((output.argmax(1) if task.classes else output.squeeze(1)).tolist())


@torch.inference_mode()
def predict(head: FusionHead, subset: Subset, norm: Normalisation, size: int, device: str) -> np.ndarray:
    """Return probabilities (n, classes) or values (n, 1) for a subset, in its order, float64."""
    head.eval()
    outputs = np.empty((len(subset), head.task.outputs))
    for at, batch in _every_sample(head, subset, norm, size, device):
        outputs[at] = answers(head.task, head(batch).float()).cpu().numpy()
    if not np.isfinite(outputs).all():
        raise ConfigError(
            f"{type(head).__name__} answers some samples of {subset.table.name} with NaN or infinity",
            fix="its weights or the hidden states are damaged: `msa cache verify --deep`, or train it anew",
        )
    return outputs
