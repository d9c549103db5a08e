"""Unimodal labels, generated from the multimodal ones (Self-MM, Yu et al., AAAI 2021).

TETFN and JTUM train unimodal tasks on them. A modality whose vector lies nearer to what is positive than
the joint vector does, relative to how far it is from what is negative, is given a more positive label than the sample
has.

Paper    https://arxiv.org/abs/2102.04830
Code     https://github.com/thuiar/Self-MM, commit 1786283c81ee (2022-03-12)
Differs  The paper has values alone. Of classes (and labels) c we compare shares of distances, q_c = d_n / (d_n + d_p),
         to the centres of samples that hold c and of those that do not: the target is y + q_s - q_m within 0 and 1,
         of classes made to sum to 1. Centres are of rows already seen, where the authors' code starts with zeros.
         Values are read from the middle of their range. For two epochs, while a modality's label is the sample's,
         the error counts in full: by the formula its weight would be 0, and no distance be of anything trained.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.types import Task

Named = Mapping[Any, Tensor]  # by name, which a Modality is as well
JOINT = "joint"  # the vector of all modalities together; the others have the names of theirs


class UnimodalLabels(nn.Module):
    """The last vectors of every training row, and the unimodal labels that follow. Both are part of a checkpoint.

    A resumed run continues with its labels. The buffers grow to the highest row used.
    """

    target: Tensor
    vector: Tensor
    seen: Tensor
    label: Tensor
    has: Tensor

    def __init__(self, task: Task, names: list[str], widths: Mapping[str, int]) -> None:
        """`names` are of single modalities, `widths` of their vectors and of the joint one."""
        super().__init__()
        self.task, self.names = task, names
        self.widths = [widths[name] for name in [JOINT, *names]]
        self.register_buffer("target", torch.zeros(0, len(names), task.outputs))  # (rows, M, outputs)
        self.register_buffer("vector", torch.zeros(0, sum(self.widths)))  # (rows, joint and M vectors)
        self.register_buffer("seen", torch.zeros(0))  # (rows,), how many times: the epochs of a row
        self.register_buffer("label", torch.zeros(0, task.outputs))  # (rows, outputs), the true one
        self.register_buffer("has", torch.zeros(0, 1 + len(names)))  # (rows, 1 + M), whether a vector is of something

    def losses(self, outputs: Named, present: Named, row: Tensor, y: Tensor) -> Tensor:
        """Mean over the batch and sum over the modalities of tanh(|y_s - y_m|) times the error of y_s -> ().

        Outputs (B, outputs) and `present` (B,) of every name. A label that has not moved is the true one, of weight 1.
        """
        truth, moved = self.as_target(y), self.visits(row) > 1  # (B, outputs), (B,)
        total = truth.new_zeros(())
        for i, name in enumerate(self.names):
            target = truth.clone()  # (B, outputs)
            target[moved] = self.target[row[moved], i]
            weight = torch.where(moved, (target - truth).abs().sum(1).tanh(), 1.0) * present[name]  # (B,)
            total = total + (weight * self._error(outputs[name].float(), target)).mean()
        return total

    @torch.no_grad()
    def update(self, vectors: Named, present: Named, row: Tensor, y: Tensor) -> None:
        """Move the labels of rows seen in an earlier epoch, then store the batch's vectors: JOINT and every name."""
        self._grow(int(row.max()) + 1)
        truth = self.as_target(y)  # (B, outputs)
        z = torch.cat([vectors[name].float() for name in [JOINT, *self.names]], 1)  # (B, sum of widths)
        n = self.seen[row] + 1  # (B,), the epoch
        fresh = n == 1
        self.target[row[fresh]] = truth[fresh][:, None].expand(-1, len(self.names), -1)
        with torch.autocast(z.device.type, enabled=False):
            generated = self.generate(z, truth)  # (B, M, outputs), NaN where there is no centre
        share = torch.where(fresh, 0.0, 2 / (n + 1))[:, None, None]  # (B, 1, 1)
        old = self.target[row]  # (B, M, outputs)
        self.target[row] = torch.where(generated.isfinite(), (1 - share) * old + share * generated, old)
        has = torch.stack([torch.ones_like(n), *(present[name].to(n.dtype) for name in self.names)], 1)  # (B, 1 + M)
        self.vector[row], self.seen[row], self.label[row], self.has[row] = z, n, truth, has

    def generate(self, z: Tensor, truth: Tensor) -> Tensor:
        """Return labels of single modalities -> (B, M, outputs), NaN where a centre is missing.

        Vectors z (B, ...), joint and single ones side by side; true labels truth (B, outputs).
        """
        own = [self.label] * len(self.names) if self.task.classes else self.target.unbind(1)  # each (rows, outputs)
        parts = zip(
            z.split(self.widths, 1),
            self.vector.split(self.widths, 1),
            self.has.unbind(1),
            [self.label, *own],
            strict=True,
        )
        distances = [self._distances(*part) for part in parts]  # of JOINT and every name
        if self.task.classes:
            q_m, *q_s = (d_n / (d_p + d_n) for d_p, d_n in distances)  # each (B, outputs)
            moved = [
                (truth + (q - q_m).nan_to_num(0.0)).clamp(0, 1) for q in q_s
            ]  # NaN without a centre: the label stays
            if self.task.single:
                moved = [f / f.sum(1, keepdim=True) for f in moved]
            return torch.stack(moved, 1)
        a_m, *a_s = ((d_n - d_p) / (d_p + 1e-8) for d_p, d_n in distances)  # each (B, 1)
        most = self.range()
        return torch.stack([((a / (a_m + 1e-8) * truth + truth + a - a_m) / 2).clamp(-most, most) for a in a_s], 1)

    def range(self) -> float:
        """Return the largest distance of a label from the middle of the range."""
        return (self.task.high - self.task.low) / 2 or float("inf")

    def as_target(self, y: Tensor) -> Tensor:
        """Return a batch's labels as targets -> (B, outputs): one-hot, 0 or 1, or distance from the middle."""
        if self.task.multilabel:
            return (y > 0).float()
        if self.task.classes:
            return F.one_hot(y, self.task.outputs).float()
        return y.float()[:, None] - (self.task.high + self.task.low) / 2

    def visits(self, row: Tensor) -> Tensor:
        """Return how many times rows (B,) have been seen, (B,)."""
        times = self.seen.new_zeros(len(row))
        inside = row < len(self.seen)
        times[inside] = self.seen[row[inside]]
        return times

    def _distances(self, z: Tensor, known: Tensor, has: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of z (B, d) to the centres of known (rows, d) that hold a label (rows, outputs) and do not, twice
        (B, outputs).

        Where `has` (rows,) is 0 nothing is known, or the sample lacks the modality.
        """
        pair = []
        for holds in (label > 0, label <= 0 if self.task.classes else label < 0):
            weight = holds * has[:, None]  # (rows, outputs)
            centre = weight.T @ known / weight.sum(0)[:, None]  # (outputs, d), NaN where no row holds it
            pair.append((z[:, None] - centre).norm(dim=2))
        return pair[0], pair[1]

    def _error(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the error of each sample, (B,)."""
        if self.task.multilabel:
            return F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)
        if self.task.classes:
            return -(target * output.log_softmax(1)).sum(1)
        return (output - (self.task.high + self.task.low) / 2 - target).abs().squeeze(1)

    def _grow(self, rows: int) -> None:
        if rows > len(self.seen):
            for name, old in list(self.named_buffers()):
                new = old.new_zeros(max(rows, 2 * len(old)), *old.shape[1:])
                new[: len(old)] = old
                setattr(self, name, new)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Resize the buffers to the rows of a checkpoint before its values are copied."""
        for name, old in list(self.named_buffers()):
            if (kept := state_dict.get(prefix + name)) is not None:
                setattr(self, name, old.new_zeros(len(kept), *old.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
