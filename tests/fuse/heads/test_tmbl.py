"""TMBL: a layer written out, whose queries, keys and values meet, and what its losses are of."""

import math

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.head import Batch
from msa.fuse.heads.tmbl import TMBL, Config, Layer
from msa.fuse.modules.crossmodal import sinusoids
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=12, heads=3, layers=2, ffn=10, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_layer_asks_one_sequence_and_reads_another():
    layer = Layer(Config(dim=4, heads=1, ffn=6, dropout=0.0)).eval()
    x, y, z = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    seen = torch.arange(5) < torch.tensor([[5], [2]])
    a = layer.attention
    score = (a.w_q(layer.fine(x)) @ a.w_k(layer.fine(y)).mT / 2).masked_fill(~seen[:, None], -math.inf)
    h = layer.norm_1(x + a.w_o(score.softmax(2) @ a.w_v(z)))
    wide = h @ layer.w_1.weight.T @ layer.gate.weight.T + layer.gate(layer.w_1.bias)
    expected = layer.norm_2(h + layer.w_2(wide[..., :6].clamp(min=0) * wide[..., 6:]))
    torch.testing.assert_close(layer(x, y, z, seen), expected)


def test_two_modalities_are_bound_by_their_sum_and_three_as_query_key_and_value():
    head, batch = TMBL(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    (t, a, f), seen = head.sequences(batch)
    s = [head.begin(t + a), head.begin(a + f), head.begin(f + t)]
    for depth in range(2):  # all rows here, of which the token's are read in the end
        text, audio, face = (head.bound[f"{m}_{depth}"] for m in (TEXT, AUDIO, FACE))
        s = [text(s[0], s[1], s[2], seen), audio(s[1], s[2], s[0], seen), face(s[2], s[0], s[1], seen)]
    own, common = head.vectors(batch)
    torch.testing.assert_close(common, torch.stack([x[:, 0] for x in s], 1))
    x = head.begin(a)
    for depth in range(2):
        x = head.private[f"audio_{depth}"](x, x, x, seen)
    torch.testing.assert_close(own[:, 1], x[:, 0])


def test_of_two_modalities_the_other_is_key_and_value():
    head = TMBL(Config(dim=12, heads=3, layers=1, dropout=0.0), {TEXT: 7, FACE: 6}, SENTIMENT).eval()
    batch = random_batch({TEXT: 7, FACE: 6}, SENTIMENT)
    (t, f), seen = head.sequences(batch)
    first, second = head.begin(t + f), head.begin(f + t)
    expected = head.bound["text_0"](first, second, second, seen)[:, 0]
    torch.testing.assert_close(head.vectors(batch)[1][:, 0], expected)


def test_the_losses_are_cosines_of_what_a_sample_has():
    head, batch = TMBL(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    lacks = torch.arange(8) >= 5
    mask = dict(batch.mask) | {AUDIO: batch.mask[AUDIO] & ~lacks[:, None]}
    batch = Batch(batch.x, mask, batch.y, batch.row)
    own, common = head.vectors(batch)
    cos = lambda x, y: torch.cosine_similarity(x, y, dim=0)  # noqa: E731
    unlike, overlap = [], []
    for i in range(8):
        has = [0, 2] if lacks[i] else [0, 1, 2]
        unlike += [1 - cos(common[i, p], common[i, q]) for p in has for q in has if p < q]
        overlap += [cos(own[i, p], common[i, p]) ** 2 for p in has]
    terms = head.step(batch)[1]
    torch.testing.assert_close(terms["similarity"], 0.1 * torch.stack(unlike).mean())
    torch.testing.assert_close(terms["difference"], 0.1 * torch.stack(overlap).mean())
    assert "similarity" not in TMBL(SMALL, {TEXT: 7}, SENTIMENT).step(batch)[1]


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError):
        Config(dim=30)


def test_positions_are_added_to_the_token_and_the_sequence():
    head, x = TMBL(Config(dim=6, heads=2, ffn=8, dropout=0.0), DIMS, SENTIMENT).eval(), torch.randn(2, 3, 6)
    rows = [head.token[0, 0] + sinusoids(4, 6, x.device)[0]]
    rows += [x[1, i] + sinusoids(4, 6, x.device)[i + 1] for i in range(3)]
    torch.testing.assert_close(head.begin(x)[1], head.enter(torch.stack(rows)))
