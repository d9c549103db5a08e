"""JTUM: what its streams and its single tasks see, when those count, and that their labels survive a checkpoint."""

import pytest
import torch

from msa.fuse.heads.jtum import JTUM, Config
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(
    dim=8,
    heads=2,
    joint=6,
    unimodal=4,
    attention_dropout=0.0,
    ffn_dropout=0.0,
    residual_dropout=0.0,
    embed_dropout=0.0,
    out_dropout=0.0,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_every_modality_is_a_target_and_reads_all_others():
    head, batch = JTUM(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, full=True)
    z = {m: head.place(head.read[m](batch.x[m])[0]) for m in DIMS}
    last = []
    for m, (a, b) in {TEXT: (AUDIO, FACE), AUDIO: (TEXT, FACE), FACE: (TEXT, AUDIO)}.items():
        streams = [head.cross[f"{s}_to_{m}"](z[m], z[s], batch.mask[s]) for s in (a, b)]
        x = head.place(torch.cat(streams, 2))
        for layer in head.own[m].layers:  # every row in every layer, where the head computes the last one's last row
            x = layer(x, x, batch.mask[m])
        last.append(head.own[m].norm(x[:, -1]))
    expected = head.classify(head.fuse(torch.cat(last, 1)))
    torch.testing.assert_close(head(batch), expected)


def test_a_single_task_sees_its_own_modality_and_trains_its_lstm_alone():
    head, batch = JTUM(SMALL, DIMS, SENTIMENT).train(), random_batch(DIMS, SENTIMENT)
    head.step(batch)[1]["unimodal"].backward()
    assert all(p.grad.abs().max() > 0 for m in DIMS for p in head.read[m].parameters())
    assert all(p.grad is None for p in head.cross.parameters())
    states = head.states(batch)
    for i, n in enumerate(batch.mask[AUDIO].sum(1)):  # the last state of each sample as if it were alone
        torch.testing.assert_close(states[AUDIO][i, n - 1], head.read[AUDIO](batch.x[AUDIO][i, :n][None])[1][0][0, 0])


def test_single_tasks_are_of_training_only_and_need_two_modalities():
    batch = random_batch(DIMS, SENTIMENT)
    assert JTUM(SMALL, DIMS, SENTIMENT).train().step(batch)[1].keys() == {"task", "unimodal"}
    assert JTUM(SMALL, DIMS, SENTIMENT).eval().step(batch)[1].keys() == {"task"}
    assert JTUM(SMALL, {TEXT: 7}, SENTIMENT).train().step(batch)[1].keys() == {"task"}


@pytest.mark.parametrize("task", [SENTIMENT, Task(low=-3.0, high=3.0)], ids=["classes", "values"])
def test_a_resumed_head_goes_on_with_the_labels_it_made(task):
    head, batch = JTUM(SMALL, DIMS, task).train(), random_batch(DIMS, task)
    for _ in range(3):
        head.step(batch)
    truth = head.labels.as_target(batch.y)[:, None].expand(-1, 3, -1)
    assert not torch.equal(head.labels.target[:8], truth)
    other = JTUM(SMALL, DIMS, task).train()
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.step(batch)[1], head.step(batch)[1], atol=0, rtol=0)
