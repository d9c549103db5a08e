"""Packed text: the states of each text are those it has alone, whichever texts lie beside it and however many."""

import random

import numpy as np
import pytest
import torch

from msa.extract.encoders import packed, text
from msa.extract.encoders.packed import Pack, Spans, attend, positions

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
OTHERS = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "electra": {**SMALL, "embedding_size": 16},
    "albert": {**SMALL, "embedding_size": 16},
    "roberta": {**SMALL, "max_position_embeddings": 132, "pad_token_id": 1},
    "modernbert": {**SMALL, "local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}
PACKED = ("bert", "roberta", "distilbert", "electra", "albert")
VOCABULARY = 60


class Letters:
    """A tokenizer of one token per word: 2, its words, 3."""

    pad_token_id = 1

    def __call__(self, texts, truncation, max_length):
        assert truncation
        words = [[ord(word[0]) % 40 + 10 for word in line.split()] for line in texts]
        return {"input_ids": [[2, *own[: max_length - 2], 3] for own in words]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(kind: str) -> torch.nn.Module:
    """A small encoder with random weights, as large ones as a trained model has: else each attends to all alike."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **OTHERS.get(kind, SMALL))
    model = AutoModel.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.mul_(5)
    return model


def encoder(model: torch.nn.Module, layer: int = -1) -> text.TextEncoder:
    found = text.TextEncoder(model, Letters(), 128, layer, "cpu", "float32", 32, versions={})
    text._choose_batching(found)
    return found


@pytest.fixture(scope="module")
def encoders():
    made = {}
    return lambda kind: made[kind] if kind in made else made.setdefault(kind, encoder(network(kind)))


def tokenised(n: int = 40) -> list[list[int]]:
    rng = random.Random(0)
    lengths = [1, 128, 128, 2, *(min(128, int(rng.lognormvariate(3, 0.7)) + 1) for _ in range(n))]
    return [[rng.randrange(10, VOCABULARY) for _ in range(length)] for length in lengths]


def by_the_library(kind: str, ids: list[list[int]], layer: int = -1) -> list[np.ndarray]:
    """Each text alone through a model that nothing was done to."""
    model = network(kind)
    with torch.inference_mode():
        states = (model(input_ids=torch.tensor([own]), output_hidden_states=True) for own in ids)
        return [(s.last_hidden_state if layer == -1 else s.hidden_states[layer])[0].numpy() for s in states]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for states, own in zip(found, expected, strict=True):
        assert states.shape == own.shape
        assert np.linalg.norm(states - own) <= 1e-5 * np.linalg.norm(own)


@pytest.mark.parametrize("kind", PACKED)
def test_a_text_has_the_states_of_the_library_in_every_batch(encoders, kind):
    ids = tokenised()
    expected = by_the_library(kind, ids)
    backbone = encoders(kind)
    assert backbone.batching == "packed"
    rng = random.Random(1)
    for largest in (1, 5, 20, len(ids)):  # the last is a pack longer than any position the model knows
        order = rng.sample(range(len(ids)), len(ids))
        while order:
            size = rng.randint((largest + 1) // 2, largest)
            batch, order = order[:size], order[size:]
            assert_equal(backbone.states([ids[i] for i in batch]), [expected[i] for i in batch])


def test_the_text_beside_it_is_not_seen(encoders):
    one, other, third = tokenised()[5:8]
    backbone = encoders("bert")
    np.testing.assert_array_equal(backbone.states([one, other])[0], backbone.states([one, other[::-1]])[0])
    assert np.abs(backbone.states([one[::-1], third])[0] - backbone.states([one, third])[0]).max() > 1e-2


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_is_the_layer_of_the_library(layer):
    ids = tokenised(6)
    assert_equal(encoder(network("roberta"), layer).states(ids), by_the_library("roberta", ids, layer))


def test_a_padding_token_spelled_out_keeps_the_place_roberta_gives_it(encoders):
    ids = [[2, 11, 1, 12, 3], [2, 1, 3]]
    assert positions(ids[0], 1) == [2, 3, 1, 4, 5]
    assert positions(ids[0], None) == [0, 1, 2, 3, 4]
    assert_equal(encoders("roberta").states(ids), by_the_library("roberta", ids))


@pytest.mark.parametrize("kind", ["modernbert", "mpnet", "gpt2", "fnet"])  # local, relative, causal, no attention
def test_what_cannot_be_packed_keeps_its_own_attention(encoders, kind):
    backbone = encoders(kind)
    assert backbone.batching == "padded"
    assert backbone.model.config._attn_implementation != packed.NAME
    ids = tokenised(6)
    assert_equal(backbone.states(ids), by_the_library(kind, ids))


def test_texts_of_a_model_that_sees_padding_go_one_by_one(encoders):
    assert encoders("fnet").budget == 1  # a Fourier transform over the whole row
    assert encoders("mpnet").budget == encoders("bert").budget > 1


def test_sizes_are_the_rows_that_come_out(encoders):
    texts = ["a b c", "", "z " * 500, "a"]
    for kind in ("bert", "mpnet"):
        backbone = encoders(kind)
        assert backbone.sizes(texts) == [5, 2, 128, 3] == [len(states) for states in backbone.encode(texts)]
        assert backbone.sizes([]) == backbone.encode([]) == []
        assert_equal(backbone.encode(["z " * 500]), [backbone.encode(texts)[2]])


def test_sizes_of_many_texts_are_counted_in_turns(encoders, monkeypatch):
    monkeypatch.setattr(text, "AT_ONCE", 2)
    assert encoders("bert").sizes(["a", "a b", "a b c", "", "a"]) == [3, 4, 5, 2, 3]


def test_a_text_without_tokens_is_told_not_stored(encoders, monkeypatch):
    backbone = encoders("bert")
    monkeypatch.setattr(backbone, "tokenizer", lambda texts, **_: {"input_ids": [[2, 3], []]})
    with pytest.raises(ValueError, match="text 1 of this batch has no tokens"):
        backbone.encode(["a", ""])


def test_a_pack_lies_by_length_and_comes_apart_in_order():
    pack = Pack.of([[7, 8, 9], [5], [1, 2, 3]], None, "cpu")
    assert pack.ids.tolist() == [[5, 7, 8, 9, 1, 2, 3]]
    assert pack.positions.tolist() == [[0, 0, 1, 2, 0, 1, 2]]
    assert list(pack.spans.runs()) == [(0, 1, 1), (1, 3, 2)]
    assert pack.spans.bounds.tolist() == [0, 1, 4, 7]
    assert [own.tolist() for own in pack.split(pack.ids[0])] == [[7, 8, 9], [5], [1, 2, 3]]


class Both(torch.nn.Module):
    is_causal = False


def heads(total: int) -> list[torch.Tensor]:
    """Query, key and value, (1, 2, total, 8)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, total, 8, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_attention_is_the_masked_softmax(scaling):
    spans = Spans((1, 3, 3, 6), "cpu")
    query, key, value = heads(13)
    place = torch.repeat_interleave(torch.arange(4), torch.tensor(spans.lengths))
    scores = query @ key.transpose(2, 3) * (8**-0.5 if scaling is None else scaling)
    scores = scores.masked_fill(place[:, None] != place, -torch.inf)
    found, weights = attend(Both(), query, key, value, None, scaling=scaling, spans=spans)
    torch.testing.assert_close(found, (scores.softmax(-1) @ value).transpose(1, 2))
    assert weights is None


@pytest.mark.parametrize(
    "asked", [{"sliding_window": 4}, {"softcap": 2.0}, {"is_causal": True}, {"dropout": 0.1}, {"spans": None}]
)
def test_attention_of_another_kind_is_refused(asked):
    with pytest.raises(NotImplementedError, match="packed attention has no"):
        attend(Both(), *heads(5), None, **{"spans": Spans((2, 3), "cpu"), **asked})
    with pytest.raises(NotImplementedError, match="is_causal"):
        attend(torch.nn.Module(), *heads(5), None, spans=Spans((2, 3), "cpu"))  # the library's default is causal


@pytest.mark.parametrize("lengths", [(1, 3, 3, 6), (1,), (5, 5), (1, 2, 3, 4, 5, 7, 8, 16, 17, 64, 128)])
def test_attention_in_blocks_is_that_by_length(lengths):
    spans = Spans(lengths, "cpu")
    own = [x[0].transpose(0, 1) for x in heads(sum(lengths))]
    torch.testing.assert_close(packed._in_blocks(*own, spans, 0.3), packed._by_length(*own, spans, 0.3))


def test_blocks_are_few_and_hold_at_most_twice_the_tokens():
    lengths = sorted(len(own) for own in tokenised(500))
    spans = Spans(tuple(lengths), "cpu")
    assert len(spans.blocks) <= 8 < len(set(lengths))
    assert sum(block.rows.numel() for block in spans.blocks) <= 2 * sum(lengths)
    assert torch.cat([block.rows.flatten()[block.own] for block in spans.blocks]).tolist() == list(range(sum(lengths)))


def test_varlen_attention_is_asked_for_the_same(monkeypatch):
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch has it from 2.10 on")

    def plainly(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        """What the documentation says of it, on a CPU."""
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        own = list(zip(*(x.split(cu_seq_q.diff().tolist()) for x in (query, key, value)), strict=True))
        assert max(len(q) for q, _, _ in own) == max_q == max_k
        weights = [(torch.einsum("qhd,khd->hqk", q, k) / 8**0.5).softmax(-1) for q, k, _ in own]
        return torch.cat([torch.einsum("hqk,khd->qhd", w, v) for w, (_, _, v) in zip(weights, own, strict=True)])

    monkeypatch.setattr(varlen, "varlen_attn", plainly)
    spans = Spans((1, 3, 3, 6), "cpu")
    own = [x[0].transpose(0, 1) for x in heads(13)]
    for scaling in (8**-0.5, 0.3):
        torch.testing.assert_close(packed._varlen(*own, spans, scaling), packed._by_length(*own, spans, scaling))


def test_varlen_attention_of_this_torch_takes_the_call():
    """Shapes and types alone: a tensor that claims to lie on a GPU."""
    pytest.importorskip("torch.nn.attention.varlen", reason="torch has it from 2.10 on")
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(), torch.inference_mode():
        query, key, value = (torch.empty(13, 2, 64, dtype=torch.float16, device="cuda") for _ in range(3))
        spans = Spans((1, 3, 3, 6), "cuda")
        spans.__dict__["bounds"] = torch.empty(5, dtype=torch.int32, device="cuda")  # nothing is copied to a card here
        found = packed._varlen(query, key, value, spans, 0.3)
    assert (found.shape, found.dtype, found.device.type) == ((13, 2, 64), torch.float16, "cuda")


def test_varlen_attention_is_left_where_it_does_not_run():
    cpu = torch.device("cpu")
    assert not packed._knows_varlen(cpu, torch.float32, 8)
    assert not packed._knows_varlen(cpu, torch.float16, 8)  # no FlashAttention on a CPU: refused, not raised
