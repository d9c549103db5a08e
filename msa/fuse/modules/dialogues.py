"""Positions of a batch's samples in their dialogues, for heads that use the context of an utterance.

Shared by two heads, not three, because MMGCN and DialogueGCN must agree on what a dialogue is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msa.fuse.head import Batch


@dataclass(frozen=True)
class Dialogues:
    """Dialogue, turn, and number of turns, of each of B samples."""

    number: Tensor  # (B,) int64, 0..C-1
    turn: Tensor  # (B,) int64, from 0
    turns: Tensor  # (B,) int64, of the sample's dialogue

    def lay(self, x: Tensor) -> Tensor:
        """Return x (B, ...) padded by dialogue -> (C, U, ...), U the turns of the longest; 0 where there is no turn."""
        laid = x.new_zeros(int(self.number.max()) + 1, int(self.turns.max()), *x.shape[1:])
        laid[self.number, self.turn] = x
        return laid

    def pick(self, laid: Tensor) -> Tensor:
        """Return the reverse of `lay`, in the order of the batch: (C, U, ...) -> (B, ...)."""
        return laid[self.number, self.turn]

    def only(self, rows: Tensor) -> "Dialogues":
        """Return the entry of the chosen samples, rows (B,) bool, which must be whole dialogues."""
        number = self.number[rows].unique(return_inverse=True)[1]
        return Dialogues(number, self.turn[rows], self.turns[rows])


def dialogues(batch: Batch) -> Dialogues:
    """Return the dialogues of a batch: groups whose samples have different positions.

    A group in which all positions are equal has no order (a speaker's recordings, for example). Each of its samples is
    a dialogue by itself, as is a sample without a group.
    """
    of = batch.group.unique(return_inverse=True)[1]  # (B,)
    groups, i = int(of.max()) + 1, torch.arange(len(of), device=of.device)
    ends = [
        batch.position.new_zeros(groups).scatter_reduce(0, of, batch.position, how, include_self=False)
        for how in ("amin", "amax")
    ]  # each (groups,)
    ordered = (ends[0] < ends[1])[of]  # (B,)
    number = torch.where(ordered, of, groups + i).unique(return_inverse=True)[1]  # (B,)
    order = batch.position.argsort(stable=True)  # (B,)
    order = order[number[order].argsort(stable=True)]  # by dialogue, then by position
    turns = number.bincount()  # (C,)
    turn = torch.empty_like(number)
    turn[order] = i - (turns.cumsum(0) - turns)[number[order]]
    return Dialogues(number, turn, turns[number])
