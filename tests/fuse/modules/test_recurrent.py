"""The LSTM with a backward pass of its own has PyTorch's states and gradients."""

import pytest
import torch
from torch import nn

from msa.fuse.modules.recurrent import recur, states

MASK = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)])
@pytest.mark.parametrize("frozen", [True, False])
def test_states_and_gradients_are_those_of_pytorch(mask, frozen):
    layer, x = nn.LSTM(7, 5, batch_first=True).double(), torch.randn(4, 6, 7).double()
    weight = torch.randn(4, 6, 5).double() * mask[:, :, None]  # of the loss: only valid steps are read
    taken = []
    for h in (lambda x: layer(x)[0], lambda x: states(layer, x, mask)):
        leaf = x.clone().requires_grad_(not frozen)
        layer.zero_grad()
        out = h(leaf)
        (out * weight).sum().backward()
        taken.append([out[mask], *(p.grad.clone() for p in layer.parameters()), *([] if frozen else [leaf.grad])])
    for theirs, ours in zip(*taken, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_a_gradient_the_states_are_the_same():
    layer, x = nn.LSTM(7, 5, batch_first=True), torch.randn(4, 6, 7)
    with torch.no_grad():
        without = states(layer, x, MASK)
    torch.testing.assert_close(states(layer, x, MASK)[MASK], without[MASK])


def test_both_outputs_of_the_recurrence_have_the_gradient_of_their_formula():
    gates, w = torch.randn(3, 4, 20, requires_grad=True).double(), torch.randn(20, 5, requires_grad=True).double()
    assert torch.autograd.gradcheck(recur, (gates, w))
