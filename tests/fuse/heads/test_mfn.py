"""MFN: the recurrence as the paper writes it, step by step, and the clock that modalities are brought to."""

import math

import pytest
import torch
from torch import nn

from msa.fuse.heads.mfn import MFN, Config
from msa.fuse.modules.memory import Cells, common_clock
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(text_hidden=6, audio_hidden=3, vision_hidden=4, memory=5, nn1=8, nn2=7, gamma=6, out=8, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def torch_cell(cells: Cells) -> nn.LSTMCell:
    """The same cell as PyTorch's, whose gates lie in another order and which has two biases."""
    hidden = cells.w_h.in_features
    cell = nn.LSTMCell(cells.w_x.in_features, hidden)
    swap = lambda w: torch.cat([w.chunk(4)[k] for k in (0, 1, 3, 2)])  # noqa: E731
    state = {"weight_ih": swap(cells.w_x.weight), "weight_hh": swap(cells.w_h.weight), "bias_ih": swap(cells.w_x.bias)}
    cell.load_state_dict(state | {"bias_hh": torch.zeros(4 * hidden)})
    return cell


def test_an_lstm_step_by_step_gives_the_same_states_and_cells():
    cells, x = Cells(5, 4), torch.randn(3, 6, 5)
    cell, state = torch_cell(cells), None
    h, c = cells(x)
    for t in range(6):
        state = cell(x[:, t], state)
        torch.testing.assert_close(h[:, t], state[0])
        torch.testing.assert_close(c[:, t], state[1])


def test_the_memory_is_the_papers_recurrence_on_each_sample_alone():
    head, batch = MFN(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, steps=6)
    n = batch.mask[TEXT].sum(1)
    for m in DIMS:
        batch.mask[m][:] = batch.mask[TEXT]  # aligned
    fuse, expected = head.fuse, []
    for i, length in enumerate(n.tolist()):
        state = {m: (torch.zeros(1, fuse.cells[m].w_h.in_features),) * 2 for m in DIMS}
        u = torch.zeros(1, 5)
        for t in range(length):
            before = torch.cat([c for _, c in state.values()], 1)
            state = {m: torch_cell(fuse.cells[m])(batch.x[m][i : i + 1, t], state[m]) for m in DIMS}
            window = torch.cat([before, *[c for _, c in state.values()]], 1)  # c^[t-1, t]
            seen = torch.softmax(fuse.nn1(window), 1) * window
            both = torch.relu(fuse.gate(seen) + fuse.gate_memory(u))
            retain, update = torch.sigmoid(fuse.gamma1(both[:, :6])), torch.sigmoid(fuse.gamma2(both[:, 6:]))
            u = retain * u + update * torch.tanh(fuse.nn2(seen))
        expected.append(torch.cat([h for h, _ in state.values()] + [u], 1))
    torch.testing.assert_close(head(batch), head.classify(torch.cat(expected)))


def test_aligned_features_pass_the_clock_as_they_are():
    batch = random_batch(DIMS, SENTIMENT, steps=9)
    mask = dict.fromkeys(DIMS, batch.mask[TEXT])
    x, clock = common_clock(batch.x, mask, 50)
    longest = int(mask[TEXT].sum(1).max())
    assert torch.equal(clock, mask[TEXT][:, :longest])
    for m in DIMS:
        assert torch.equal(x[m][clock], batch.x[m][mask[m]])


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 20])
def test_a_step_of_the_clock_is_the_mean_of_its_part(length):
    text, audio = torch.randn(1, 4, 2), torch.randn(1, 20, 3)
    mask = {TEXT: torch.ones(1, 4).bool(), AUDIO: torch.arange(20)[None] < length}
    x, _ = common_clock({TEXT: text, AUDIO: audio}, mask, 50)
    for t in range(4):
        first, last = math.floor(t * length / 4), math.ceil((t + 1) * length / 4)
        torch.testing.assert_close(x[AUDIO][0, t], audio[0, first:last].mean(0))


def test_without_text_the_longest_modality_is_the_clock_up_to_a_limit():
    x = {TEXT: torch.randn(3, 4, 2), AUDIO: torch.randn(3, 20, 3), FACE: torch.randn(3, 6, 3)}
    length = {TEXT: [[4], [0], [0]], AUDIO: [[20], [9], [0]], FACE: [[6], [6], [3]]}
    mask = {m: torch.arange(x[m].shape[1]) < torch.tensor(n) for m, n in length.items()}
    assert common_clock(x, mask, 50)[1].sum(1).tolist() == [4, 9, 3]
    assert common_clock(x, mask, 5)[1].sum(1).tolist() == [4, 5, 3]
    absent = {m: torch.zeros_like(k) for m, k in mask.items()}
    assert common_clock(x, absent, 50)[1].tolist() == [[False]] * 3


def test_a_modality_a_sample_lacks_has_no_states():
    head, batch = MFN(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, full=True)
    batch.mask[AUDIO][0] = False
    last = head.fuse(batch.x, batch.mask[TEXT], {m: k.any(1) for m, k in batch.mask.items()})
    assert (last[0, 6:9] == 0).all() and (last[1:, 6:9] != 0).all()
