"""Batches out of memory or off the disk: the numbers are those of reading sample by sample, to the bit."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from msa.fuse.data import loader, memory, pairing
from msa.fuse.data.loader import Flat, Stored, ahead
from msa.fuse.data.table import Column, Normalisation, Subset, table
from msa.fuse.head import masked_mean
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.evaluation import predict
from msa.fuse.train.loop import fit
from msa.fuse.train.model import Model
from msa.types import SENTIMENT, Split
from tests.fuse.conftest import AUDIO, FACE, IMAGE, TEXT, VALUES, Memory, memory_table, memory_view

RAW = Normalisation({})


def one_by_one(whole, rows, norm):
    """Second route: how batches were made before, a sample at a time."""
    x, mask = {}, {}
    for m, column in whole.columns.items():
        states = [column.states(int(row)) for row in rows]
        longest = max((len(s) for s in states if s is not None), default=1)
        x[m] = np.zeros((len(rows), longest, column.view.dim), np.float32)
        mask[m] = np.zeros((len(rows), longest), bool)
        for i, found in enumerate(states):
            if found is not None:
                mean, std = norm.of(m) or (np.float32(0), np.float32(1))
                x[m][i, : len(found)] = found if norm.of(m) is None else (found - mean) / std
                mask[m][i, : len(found)] = True
    return x, mask


def assert_right(whole, source, norm, size=7):
    """Every batch of a shuffled epoch is what reading one by one gives."""
    order = np.random.default_rng(1).permutation(len(source.subset))
    plan = [order[at : at + size] for at in range(0, len(order), size)]
    batches = list(source.batches(plan))
    assert len(batches) == len(plan)
    for at, batch in zip(plan, batches, strict=True):
        rows = source.subset.rows[at]
        x, mask = one_by_one(whole, rows, norm)
        for m in whole.columns:
            np.testing.assert_array_equal(batch.x[m].numpy(), x[m])
            np.testing.assert_array_equal(batch.mask[m].numpy(), mask[m])
            assert batch.x[m].dtype == torch.float32
        assert batch.row.tolist() == rows.tolist()
        np.testing.assert_array_equal(batch.y.numpy(), whole.y[rows])
        np.testing.assert_array_equal(batch.group.numpy(), whole.group[rows])
        np.testing.assert_array_equal(batch.position.numpy(), whole.position[rows])


def posts_and_voices(made, protocol):
    posts, voices = table(made, "posts", {TEXT: None, IMAGE: None}), table(made, "voices", {AUDIO: None})
    return pairing.pair(posts, voices, protocol)


def two_readers():
    """Samples from two readers of one view, some without any, in float32."""
    g = np.random.default_rng(0)
    states = [[g.normal(size=(g.integers(1, 9), 5)).astype(np.float32) for _ in range(40)] for _ in range(2)]
    readers = tuple(Memory(memory_view(AUDIO), own) for own in states)
    rows = g.integers(-1, 40, 60)
    return memory_table(columns={AUDIO: Column(readers, g.integers(0, 2, 60), rows)})


WAYS = {"kept": 1 << 40, "read ahead": 0}


@pytest.mark.parametrize("free", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("normalise", [(), ("text", "audio")], ids=["as stored", "normalised"])
@pytest.mark.parametrize("what", ["random", "union", "two readers"])
def test_a_batch_is_what_reading_one_by_one_gives_to_the_bit(made, monkeypatch, what, normalise, free):
    monkeypatch.setattr(memory, "free", lambda device: free)
    whole = two_readers() if what == "two readers" else posts_and_voices(made, what)
    part = whole.subset(Split.TRAIN)
    norm = Normalisation.fit(part, normalise)
    source = part.source(norm)
    assert {type(found) for found in source.states.values()} == {Flat if free else Stored}
    assert_right(whole, source, norm)


def test_what_fits_is_kept_smallest_first_and_the_rest_is_read_ahead(made, monkeypatch):
    whole = posts_and_voices(made, "random")
    part = whole.subset(Split.TRAIN)
    size = {m: column.take(part.rows).nbytes for m, column in whole.columns.items()}
    small, _, large = sorted(size, key=lambda m: size[m])
    monkeypatch.setattr(memory, "free", lambda device: 2 * size[small] + 1)
    source = part.source(RAW)
    assert {m: type(found) for m, found in source.states.items() if m in (small, large)} == {small: Flat, large: Stored}
    assert f"{small} {size[small]} B kept in memory" in source.location
    assert "read ahead of each step" in source.location
    assert_right(whole, source, RAW)


def test_processes_at_work_at_once_share_the_memory(made, monkeypatch):
    whole = posts_and_voices(made, "random")
    size = sum(column.take(whole.subset(Split.TRAIN).rows).nbytes for column in whole.columns.values())
    monkeypatch.setattr(memory, "free", lambda device: 2 * size)
    for at_once, kept in ((1, {Flat}), (4, {Flat, Stored})):
        monkeypatch.setattr(loader, "AT_ONCE", at_once)
        assert {type(found) for found in whole.subset(Split.TRAIN).source(RAW).states.values()} == kept


def test_a_recording_given_to_several_posts_is_kept_once(made):
    whole = posts_and_voices(made, "random")
    part = whole.subset(Split.TRAIN)
    column = whole.columns[AUDIO].take(part.rows)
    used = sorted(set(column.rows.tolist()))
    assert len(used) < len(part)
    flat = Flat.load(column, "cpu")
    assert len(flat.values) == sum(len(column.readers[0].read(row)) for row in used)
    assert flat.values.dtype == torch.float16  # as stored: half of what a batch takes
    assert column.nbytes == flat.values.numel() * 2


def test_a_modality_that_no_sample_has_is_one_masked_step():
    column = memory_table().columns[TEXT].take(np.full(60, -1))
    for states in (Flat.load(column, "cpu"), Stored(column)):
        x, mask = states.pad(torch.arange(4))
        assert x.shape == (4, 1, 8)
        assert not mask.any()


def test_pieces_are_of_some_megabytes_and_together_everything(monkeypatch):
    from msa.fuse.data import table as data

    whole = two_readers()
    column = whole.columns[AUDIO]
    at_once = np.concatenate([states for _, states in column.pieces()])
    monkeypatch.setattr(data, "PIECE_BYTES", 200)
    pieces = list(column.pieces())
    assert len(pieces) > 20
    np.testing.assert_array_equal(np.concatenate([states for _, states in pieces]), at_once)
    assert sorted(i for at, _ in pieces for i in at) == np.flatnonzero(column.present).tolist()
    flat = Flat.load(column, "cpu")  # in small pieces too
    for i in np.flatnonzero(column.present)[:9]:
        x, mask = flat.pad(torch.tensor([i]))
        np.testing.assert_array_equal(x[0, mask[0]].numpy(), column.states(int(i)))


def test_what_is_loaded_stays_for_the_next_seed(made, monkeypatch):
    part = table(made, "posts", {TEXT: None}).subset(Split.TRAIN)
    norm = Normalisation.fit(part, ())
    values = part.source(norm).states[TEXT].values
    monkeypatch.setattr(Column, "pieces", None)
    again = part.source(Normalisation({TEXT: (np.ones(8, np.float32), np.ones(8, np.float32))}))
    assert again.states[TEXT].values is values
    assert again.norm is not norm


def test_means_are_taken_once_for_a_normalisation(made):
    part = table(made, "posts", {TEXT: None}).subset(Split.TRAIN)
    norm, other = (Normalisation.fit(part, wanted) for wanted in ((), ("text",)))
    means = part.source(norm, means=True)
    assert part.source(norm, means=True) is means
    assert not torch.equal(part.source(other, means=True).states[TEXT].values, means.states[TEXT].values)


# --- reading ahead ------------------------------------------------------------------------------------------------


def test_batches_are_made_ahead_in_their_order_and_never_too_many():
    made, asked = [], 0

    def make(at):
        made.append(at)
        assert len(made) <= asked + loader.AHEAD + 1
        return at

    found = ahead(make, range(20))
    for wanted in range(20):
        asked += 1
        assert next(found) == wanted
    with pytest.raises(StopIteration):
        next(found)


def test_batches_are_made_while_a_step_runs():
    here, threads = threading.get_ident(), []
    found = ahead(lambda at: threads.append(threading.get_ident()), range(3))
    next(found)
    time.sleep(0.05)  # the step
    assert len(threads) == 3
    assert here not in threads


def test_an_error_while_reading_ahead_is_raised_where_its_batch_is_asked_for():
    def make(at):
        if at == 2:
            raise OSError("a damaged shard")
        return at

    found = ahead(make, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(OSError, match="a damaged shard"):
        next(found)


def test_a_training_that_is_left_leaves_no_thread_behind():
    found = ahead(lambda at: at, range(100))
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


# --- means alone --------------------------------------------------------------------------------------------------


def test_means_are_those_of_the_steps_after_normalisation(made):
    whole = posts_and_voices(made, "union")
    part = whole.subset(Split.TRAIN)
    norm = Normalisation.fit(part, ("audio",))
    at = np.arange(len(part))[::-1].copy()
    (batch,), (full,) = (list(part.source(norm, means=means).batches([at])) for means in (True, False))
    assert {m: x.shape[1] for m, x in batch.x.items()} == dict.fromkeys(whole.columns, 1)
    for m in whole.columns:
        mean = masked_mean(full.x[m], full.mask[m])
        torch.testing.assert_close(batch.x[m][:, 0], mean, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(masked_mean(batch.x[m], batch.mask[m]), mean, atol=1e-6, rtol=1e-6)
        assert batch.mask[m][:, 0].tolist() == full.mask[m].any(1).tolist()


def test_a_probe_learns_the_same_from_means_as_from_steps(made, monkeypatch):
    whole, model = posts_and_voices(made, "random"), Model.of("probe")
    parts = whole.subset(Split.TRAIN), whole.subset(Split.VALID)
    norm = Normalisation.fit(parts[0], ("audio",), ("std",))
    make = lambda: model.build(whole.dims, SENTIMENT)  # noqa: E731
    config = TrainConfig(batch=16)
    one = fit(make, *parts, norm, config, 1, "cpu")
    head = make()
    head.load_state_dict(one.state)
    said = predict(head, parts[1], norm, 16, "cpu")
    monkeypatch.setattr(type(head), "means_only", False)
    two = fit(make, *parts, norm, config, 1, "cpu")
    for name in one.state:
        torch.testing.assert_close(one.state[name], two.state[name], atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(predict(head, parts[1], norm, 16, "cpu"), said, atol=1e-6)


def test_nothing_is_kept_of_a_table_that_was_cut(made):
    """A part of another table has batches of its own, even where rows are the same."""
    whole = posts_and_voices(made, "random")
    part = whole.subset(Split.TRAIN)
    part.source(RAW)
    other = Subset(replace(whole, columns={TEXT: whole.columns[TEXT]}), part.rows)
    assert set(other.source(RAW).states) == {TEXT}


def test_values_are_batched_as_values():
    whole = memory_table(task=VALUES, y=np.linspace(-3, 3, 60, dtype=np.float32), modalities=(FACE,))
    batch = next(iter(whole.subset(Split.TRAIN).batches(5, RAW)))
    assert batch.y.dtype == torch.float32
