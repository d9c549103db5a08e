"""MISA: its losses written out, its Transformer against PyTorch's, its LSTMs one sample at a time."""

import pytest
import torch
from torch import nn

from msa.errors import ConfigError
from msa.fuse.heads.misa import MISA, BothWays, Config, Recurrent, TransformerLayer, cmd, difference, overlap
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=8, ffn=12, rnn=4, dropout=0.0, transformer_dropout=0.0)
EVERYONE = torch.ones(6).bool()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_similarity_is_the_distance_of_means_and_of_central_moments():
    x, y = torch.rand(6, 3), torch.rand(6, 3)
    total = sum((float(x[:, d].mean()) - float(y[:, d].mean())) ** 2 for d in range(3)) ** 0.5
    for k in (2, 3, 4, 5):
        moment = lambda z, d, k=k: sum((float(v) - float(z[:, d].mean())) ** k for v in z[:, d]) / 6  # noqa: E731
        total += sum((moment(x, d) - moment(y, d)) ** 2 for d in range(3)) ** 0.5
    assert cmd(x, y, EVERYONE, 5).item() == pytest.approx(total, rel=1e-5)


def test_the_same_distribution_has_no_similarity_loss_and_a_finite_gradient():
    x = torch.rand(6, 3, requires_grad=True)
    loss = cmd(x, x.detach()[torch.randperm(6)], EVERYONE, 5)
    assert loss < 1e-6
    loss.backward()
    assert x.grad.isfinite().all()


def test_the_overlap_is_the_mean_square_of_all_products():
    x, y = torch.rand(6, 3), torch.rand(6, 4)
    unit = lambda z: [(r - z.mean(0)) / (r - z.mean(0)).norm() for r in z]  # noqa: E731
    a, b = unit(x), unit(y)
    total = sum(sum(float(a[n][i] * b[n][j]) for n in range(6)) ** 2 for i in range(3) for j in range(4)) / 12
    assert overlap(x, y, EVERYONE).item() == pytest.approx(total, rel=1e-4)


def test_the_difference_is_between_own_and_common_and_between_every_two_own():
    own, common = ({m: torch.rand(6, 3) for m in DIMS} for _ in range(2))
    pairs = [(own[m], common[m]) for m in DIMS] + [(own[TEXT], own[AUDIO]), (own[TEXT], own[FACE])]
    pairs.append((own[AUDIO], own[FACE]))
    expected = sum(overlap(x, y, EVERYONE) for x, y in pairs)
    torch.testing.assert_close(difference(own, common, dict.fromkeys(DIMS, EVERYONE)), expected)


def test_a_sample_that_lacks_a_modality_counts_in_no_loss_of_a_pair_with_it():
    x, y, some = torch.rand(6, 3), torch.rand(6, 3), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    all_four = torch.ones(4).bool()
    torch.testing.assert_close(cmd(x, y, some, 5), cmd(x[some], y[some], all_four, 5))
    torch.testing.assert_close(overlap(x, y, some), overlap(x[some], y[some], all_four))
    head, batch = MISA(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    u, present = head.vectors(batch), head.present(batch)
    present[AUDIO] = torch.arange(8) < 5
    own, common = head.own(u), head.common(u)
    rebuilt = {m: head.rebuild[m](own[m] + common[m]) for m in DIMS}
    expected = sum((rebuilt[m] - u[m])[present[m]].square().mean() for m in DIMS) / 3
    torch.testing.assert_close(head.reconstruction(u, own, common, present), expected)


def test_the_transformer_equals_that_of_pytorch():
    ours = TransformerLayer(SMALL).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    maps = (ours.attention.w_q, ours.attention.w_k, ours.attention.w_v)
    theirs.self_attn.in_proj_weight.data = torch.cat([w.weight.data for w in maps])
    theirs.self_attn.in_proj_bias.data = torch.cat([w.bias.data for w in maps])
    pairs = [(theirs.self_attn.out_proj, ours.attention.w_o), (theirs.norm1, ours.norm_1), (theirs.norm2, ours.norm_2)]
    for a, b in [*pairs, (theirs.linear1, ours.ffn[0]), (theirs.linear2, ours.ffn[3])]:
        a.load_state_dict(b.state_dict())
    x, there = torch.randn(3, 6, 8), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]).bool()
    expected = theirs(x, src_key_padding_mask=~there)
    torch.testing.assert_close(ours(x, there)[there], expected[there])


def torchs(both: BothWays) -> nn.LSTM:
    """torch's bidirectional LSTM with the same weights."""
    one = nn.LSTM(both.ahead.input_size, both.ahead.hidden_size, batch_first=True, bidirectional=True)
    back = {f"{name}_reverse": value for name, value in both.back.state_dict().items()}
    one.load_state_dict({**both.ahead.state_dict(), **back})
    return one


def test_two_lstms_read_each_sample_as_if_it_were_alone():
    read, x, length = Recurrent(5, 4), torch.randn(4, 6, 5), [6, 1, 3, 4]
    together = read(x, torch.arange(6) < torch.tensor(length)[:, None])
    first, second = (torchs(both) for both in (read.first, read.second))
    for i, n in enumerate(length):
        states, (h_1, _) = first(x[i, :n][None])
        _, (h_2, _) = second(read.norm(states))
        alone = torch.cat([h_1[0], h_2[0], h_1[1], h_2[1]], 1)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_terms_of_the_loss_have_names_and_a_lone_modality_no_similarity():
    batch = random_batch(DIMS, SENTIMENT)
    terms = {"task", "similarity", "difference", "reconstruction"}
    assert MISA(SMALL, DIMS, SENTIMENT).step(batch)[1].keys() == terms
    assert MISA(SMALL, {TEXT: 7}, SENTIMENT).step(batch)[1].keys() == terms - {"similarity"}


def test_means_do_without_recurrent_layers():
    head = MISA(Config(encode="mean"), DIMS, SENTIMENT).eval()
    assert len(head.read) == 0
    assert head(random_batch(DIMS, SENTIMENT)).shape == (8, 3)
    with pytest.raises(ConfigError):
        Config(heads=3)
