"""ALMT: the paper's formulas written out, one sample at a time, and the shortcuts that are said to change nothing."""

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.heads.almt import ALMT, Config, Fusion
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import count, random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=8, tokens=3, heads=2, dim_head=5, guide_dim_head=4, ffn=12, lengths=(9, 9, 9))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def stirred(head):
    """Away from starts of 0 and 1, which would hide mistakes."""
    with torch.no_grad():
        for p in head.parameters():
            p += 0.2 * torch.randn_like(p)
    return head.eval()


def attention(q, k, v, heads):
    """q (L, D), k and v (S, D): heads are neighbouring columns."""
    parts = zip(*(x.chunk(heads, 1) for x in (q, k, v)), strict=True)
    return torch.cat([(a @ b.T / a.shape[1] ** 0.5).softmax(1) @ c for a, b, c in parts], 1)


def transformer(layer, x, y, heads=2):
    q, k, v = (w(layer.norm[n](z)) for n, w, z in (("q", layer.w_q, x), ("k", layer.w_k, y), ("v", layer.w_v, y)))
    x = x + attention(q, k, v, heads) @ layer.w_o[0].weight.T + layer.w_o[0].bias
    norm, w_1, _, _, w_2, _ = layer.ffn
    return x + w_2(torch.nn.functional.gelu(w_1(norm(x))))


def written_out(head, u):
    """U_m (L_m, D_m), all of it valid -> (outputs,)."""
    h = {}
    for m, e in head.embed.items():
        s = torch.cat([e.tokens, e.project(u[m])]) + e.pos[: 3 + len(u[m])]
        for layer in e.layers:
            s = transformer(layer, s, s)
        h[m] = s[:3]
    level, hyper = h["text"] + head.pos, head.hyper
    for i, guide in enumerate(head.layers):
        level = transformer(head.deepen[i - 1], level, level) if i else level
        q, total = guide.w_q(guide.norm["guide"](level)), 0
        for m in ("audio", "face"):
            x = guide.norm[m](h[m])
            total = total + attention(q, guide.w_k[m](x), guide.w_v[m](x), 2)
        hyper = guide.norm["hyper"](hyper) + guide.w_o[0](total)
    source = torch.cat([head.fuse.token, hyper]) + head.fuse.pos_hyper
    rows = torch.cat([head.fuse.token + head.fuse.pos_query, level])  # the guide's rows follow the token, unseen by it
    for layer in head.fuse.layers:
        rows = transformer(layer, rows, source)
    return head.classify(rows[0])


def test_every_sample_is_what_the_formulas_make_of_it_alone():
    head, batch = stirred(ALMT(SMALL, DIMS, SENTIMENT)), random_batch(DIMS, SENTIMENT)
    together = head(batch)
    for i in range(len(batch)):
        u = {str(m): batch.x[m][i][batch.mask[m][i]] for m in DIMS}
        torch.testing.assert_close(together[i], written_out(head, u))


def test_more_embedding_layers_are_computed_on_all_rows_but_in_the_last():
    head = stirred(ALMT(Config(**vars(SMALL) | {"embed_layers": 3}), DIMS, SENTIMENT))
    batch = random_batch(DIMS, SENTIMENT, full=True)
    u = {str(m): batch.x[m][0] for m in DIMS}
    torch.testing.assert_close(head(batch)[0], written_out(head, u))


def test_the_size_is_that_of_the_authors_settings_less_the_rows_nothing_reads():
    dims = {TEXT: 768, AUDIO: 5, FACE: 20}
    assert count(ALMT(Config(lengths=(50, 375, 500)), dims, Task(low=-3, high=3))) == 2_603_649 - 8 * 128
    dims, lengths = {TEXT: 768, AUDIO: 74, FACE: 35}, (50, 500, 500)
    assert count(ALMT(Config(lengths=lengths, fusion_layers=4), dims, Task(low=-3, high=3))) == 3_223_041 - 8 * 128


def test_a_long_sequence_shares_its_positions_in_order():
    embed = ALMT(SMALL, DIMS, SENTIMENT).embed["text"]
    mask = torch.arange(20) < torch.tensor([[18], [9], [4]])
    step = embed._step(mask)
    assert step[0, :18].tolist() == [i // 2 for i in range(18)]
    assert step[1, :9].tolist() == step[2, :9].tolist() == list(range(9))


def test_a_lone_modality_is_read_by_the_token():
    head = stirred(ALMT(SMALL, {AUDIO: 5}, SENTIMENT))
    batch = random_batch({AUDIO: 5}, SENTIMENT, full=True)
    h = head.embed["audio"](batch.x[AUDIO], batch.mask[AUDIO]) + head.pos
    for layer in head.deepen:
        h = layer(h, h)
    assert isinstance(head.fuse, Fusion)
    torch.testing.assert_close(head(batch), head.classify(head.fuse(h)))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="three numbers"):
        Config(lengths=(50, 500))
    with pytest.raises(ConfigError, match="layers"):
        Config(guide_layers=0)
