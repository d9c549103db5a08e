"""Learning rates step by step, and when patience ends."""

import math

import pytest
import torch

from msa.fuse.train.config import TrainConfig
from msa.fuse.train.schedule import Patience, Schedule


def schedule(**settings):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.01)]
    return Schedule(torch.optim.SGD(groups), TrainConfig(lr=0.1, **settings))


def rates(made, epochs, steps):
    """The first group's rate before each step."""
    values = []
    for epoch in range(epochs):
        for step in range(steps):
            made.before_step(epoch, step, steps)
            values.append(made.rate)
    return values


def test_warm_up_is_linear_to_the_full_rate_of_every_group():
    made = schedule(schedule="none", warmup_epochs=2.0)
    assert rates(made, 3, 2) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert [group["lr"] for group in made.optimiser.param_groups] == pytest.approx([0.1, 0.01])


def test_a_cosine_goes_from_the_full_rate_to_0_over_the_epochs_after_warm_up():
    made = schedule(schedule="cosine", warmup_epochs=1.0, epochs=5)
    after = rates(made, 5, 2)[2:]
    assert after == pytest.approx([0.05 * (1 + math.cos(math.pi * n / 8)) for n in range(8)])


def test_a_plateau_counts_from_the_last_epoch_of_warm_up_and_keeps_its_rate_between_steps():
    made = schedule(schedule="plateau", warmup_epochs=2.0)
    seen = []
    for epochs in range(1, 7):
        made.before_step(epochs - 1, 0, 1)
        made.after_epoch(epochs, 1.0)
        seen.append(made.rate)
    assert seen == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.05, 0.05])  # epochs 2 to 5 show it the same figure


def test_patience_ends_after_so_many_epochs_without_a_better_figure():
    patience = Patience(2)
    assert [patience.improves(value) for value in (1.0, 1.0, 0.5, math.nan, 0.5)] == [True, False, True, False, False]
    assert patience.exhausted and patience.best == 0.5 and patience.stale == 2
    assert not Patience(2, best=0.5, stale=1).exhausted
