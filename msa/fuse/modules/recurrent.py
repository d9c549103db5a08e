"""The steps of an LSTM that gives its cells as well, with a backward pass of their own."""

from typing import Any

import torch
from torch import Tensor


def recur(gates: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return h and c of every step from 0 on, gates (B, T, 4H) without their part of h, w (4H, H) -> each (B, T, H).

    Gates are in the order i, f, o, new: c = sigmoid(f) c + sigmoid(i) tanh(new), h = sigmoid(o) tanh(c).
    """
    h, c = Recurrence.apply(gates.transpose(0, 1), w)  # each (T, B, H)
    return h.transpose(0, 1), c.transpose(0, 1)


class Recurrence(torch.autograd.Function):
    """One step after the other, in few operations: autograd would record a dozen for each, and take a fifth longer."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx: Any, gates: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gates (T, B, 4H), w (4H, H) -> h and c, each (T, B, H)."""
        size = (gates.shape[0] + 1, gates.shape[1], w.shape[1])  # T + 1, B, H
        h, c, act = gates.new_zeros(size), gates.new_zeros(size), gates.new_empty(gates.shape)
        out, squashed = w.t().contiguous(), gates.new_empty(gates.shape[0], *size[1:])  # (H, 4H), (T, B, H)
        for t, gate in enumerate(gates):
            step = torch.addmm(gate, h[t], out, out=act[t])  # (B, 4H)
            step[:, : -size[2]].sigmoid_()
            step[:, -size[2] :].tanh_()
            i, f, o, new = step.chunk(4, 1)  # each (B, H)
            torch.addcmul(f * c[t], i, new, out=c[t + 1])
            torch.mul(o, torch.tanh(c[t + 1], out=squashed[t]), out=h[t + 1])
        ctx.save_for_backward(act, squashed, h, c, w)
        return h[1:], c[1:]

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of gates and w; tensors of all steps are T x B x H or 4H, those of one are B x H or 4 x H."""
        act, squashed, h, c, w = ctx.saved_tensors
        i, f, o, new = act.chunk(4, 2)
        of_c = o * (1 - squashed.square())  # dh / dc
        own = torch.cat([new * i * (1 - i), c[:-1] * f * (1 - f), squashed * o * (1 - o), i * (1 - new.square())], 2)
        d_gates, n = torch.empty_like(act), w.shape[1]
        d_h = d_c = torch.zeros_like(squashed[0])
        for t in range(len(act) - 1, -1, -1):
            d_h = d_h + gradient[0][t]
            d_c = torch.addcmul(d_c + gradient[1][t], d_h, of_c[t])
            whole = own[t].unflatten(1, (4, n))
            step = torch.stack([d_c, d_c, d_h, d_c], 1)
            torch.mul(whole, step, out=d_gates[t].unflatten(1, (4, n)))
            d_c, d_h = d_c * f[t], d_gates[t] @ w
        return d_gates, d_gates.flatten(0, 1).t() @ h[:-1].flatten(0, 1)
