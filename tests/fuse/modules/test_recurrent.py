"""The steps of an LSTM with a backward pass of their own have PyTorch's states and gradients."""

import torch
from torch import nn

from msa.fuse.modules.recurrent import recur


def test_states_and_gradients_are_those_of_pytorch():
    torch.manual_seed(0)
    layer, x = nn.LSTM(7, 5, batch_first=True, bias=False).double(), torch.randn(4, 6, 7).double()
    weight = torch.randn(4, 6, 5).double()
    w, r = (p.unflatten(0, (4, 5))[[0, 1, 3, 2]].flatten(0, 1) for p in layer.parameters())  # PyTorch: i, f, new, o
    theirs, ours = layer(x)[0], recur(x @ w.T, r)[0]
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad((h * weight).sum(), list(layer.parameters())) for h in (theirs, ours)]
    torch.testing.assert_close(grads[1], grads[0])


def test_states_and_cells_have_the_gradient_of_their_formula():
    gates, w = torch.randn(3, 4, 20, requires_grad=True).double(), torch.randn(20, 5, requires_grad=True).double()
    assert torch.autograd.gradcheck(recur, (gates, w))
