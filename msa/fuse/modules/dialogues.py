"""Where the samples of a batch stand in their dialogues, for heads that read an utterance among its neighbours.

Two heads use it, not three: MMGCN and DialogueGCN must mean the same by a dialogue.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msa.fuse.head import Batch


@dataclass(frozen=True)
class Dialogues:
    """Of B samples: the dialogue of each, its turn in it, and how many turns there are."""

    number: Tensor  # (B,) int64, 0..C-1
    turn: Tensor  # (B,) int64, from 0
    turns: Tensor  # (B,) int64, of the sample's dialogue

    def lay(self, x: Tensor) -> Tensor:
        """x (B, ...) -> (C, U, ...), U the turns of the longest dialogue; 0 where there is no turn."""
        laid = x.new_zeros(int(self.number.max()) + 1, int(self.turns.max()), *x.shape[1:])
        laid[self.number, self.turn] = x
        return laid

    def pick(self, laid: Tensor) -> Tensor:
        """(C, U, ...) -> (B, ...), back to the order of the batch."""
        return laid[self.number, self.turn]

    def only(self, rows: Tensor) -> "Dialogues":
        """Those of the chosen samples, (B,) bool, which must be whole dialogues."""
        number = self.number[rows].unique(return_inverse=True)[1]
        return Dialogues(number, self.turn[rows], self.turns[rows])


def dialogues(batch: Batch) -> Dialogues:
    """A group whose samples have positions is a dialogue.

    One whose samples all stand at the same position has no order: it is a speaker's recordings or the like, and every
    sample is a dialogue of its own, as is one without a group.
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
