"""The one attention: the same as PyTorch's, nothing to attend to, what dropout leaves out, and which kernel runs."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from msa import catalog
from msa.fuse.modules.attention import Attend, Attention, fewer_keys
from msa.fuse.train.model import Model
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

DIMS = {Modality.TEXT: 7, Modality.AUDIO: 5, Modality.FACE: 6}
FLASH, SOFTMAX = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_safe_softmax"
WITH_RATE = ("cmsta", "dlf", "hcl", "jtum", "misa", "mult", "pest", "tetfn", "tmbl")  # those with attention dropout


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def prefix(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_attention_equals_that_of_pytorch():
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    maps = (ours.w_q, ours.w_k, ours.w_v)
    theirs.in_proj_weight.data = torch.cat([w.weight.data for w in maps])
    theirs.in_proj_bias.data = torch.cat([w.bias.data for w in maps])
    theirs.out_proj.load_state_dict(ours.w_o.state_dict())
    x, y, mask = torch.randn(3, 5, 12), torch.randn(3, 4, 12), prefix(2, 4, 1)
    torch.testing.assert_close(ours(x, y, 2 * y, mask), theirs(x, y, 2 * y, key_padding_mask=~mask)[0])


def test_attention_to_nothing_is_nothing():
    attention, x = Attention(12, 3), torch.randn(2, 5, 12, requires_grad=True)
    key = torch.full((2, 3, 12), 1e4)
    out = attention(x, key, key, prefix(0, 3))
    assert (out[0] == 0).all() and (out[1] != 0).any()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert (attention(x, key[:, :0], key[:, :0], torch.ones(2, 0, dtype=torch.bool)) == 0).all()  # no steps at all


@pytest.mark.parametrize("mask", [None, prefix(6, 4)])
def test_dropout_leaves_out_the_same_keys_for_every_query_or_single_weights(mask):
    q, k = torch.randn(2, 1, 12).expand(-1, 40, -1), torch.randn(2, 6, 12)  # 40 times the same query
    still = Attend(3, 0.5).eval()(q, k, k, mask)
    for drops, same in (("keys", True), ("weights", False)):
        attend = Attend(3, 0.5, drops)
        torch.testing.assert_close(attend.eval()(q, k, k, mask), still)
        out = attend.train()(q, k, k, mask)  # (2, 40, 12)
        assert torch.allclose(out, out[:, :1].expand_as(out), atol=1e-6) == same
        assert not torch.allclose(out, still, atol=1e-2)


def test_dropped_keys_are_as_many_as_the_rate_says_and_others_in_every_head():
    kept = fewer_keys(prefix(*[20] * 100)[:, None, None], torch.zeros(100, 2, 20, 4), 0.3)  # (100, 2, 1, 20)
    assert 1 - kept.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_dropout_never_leaves_out_all_keys_and_shows_no_hidden_one():
    seen = prefix(*range(1, 21))[:, None, None]  # (20, 1, 1, 20)
    kept = fewer_keys(seen, torch.zeros(20, 2, 20, 4), 0.999)
    assert kept.any(3).all() and not (kept & ~seen).any()
    assert fewer_keys(None, torch.zeros(20, 2, 20, 4), 0.999).any(3).all()


class Operators(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*WITH_RATE, "almt", "fdmer", "simr"])
def test_a_training_step_stays_on_the_fused_kernel(name):
    head = Model.of(name).build(DIMS, SENTIMENT).train()
    with Operators() as ran:
        head.step(random_batch(DIMS, SENTIMENT))
    assert FLASH in ran.names and SOFTMAX not in ran.names


@pytest.mark.parametrize("name", WITH_RATE)
def test_dropout_of_weights_is_a_setting_of_every_head_with_dropout_of_attention(name):
    head = Model.of(name, settings=["attention_drops=weights"]).build(DIMS, SENTIMENT).train()
    with Operators() as ran:
        head.step(random_batch(DIMS, SENTIMENT))
    assert SOFTMAX in ran.names  # the fused kernel of a CPU has no dropout


@pytest.mark.parametrize("name", WITH_RATE)
def test_a_run_from_before_the_setting_has_what_it_had(name):
    record = Model.of(name).to_json()
    del record["settings"]["attention_drops"]
    assert Model.from_json(record).config.attention_drops == ("weights" if name in ("cmsta", "hcl") else "keys")


def test_presets_leave_out_keys_but_those_of_a_paper():
    for name in WITH_RATE:
        presets = catalog.load("head", name).PRESETS
        assert {p: c.attention_drops for p, c in presets.items()} == {
            p: "weights" if p == "paper" else "keys" for p in presets
        }
