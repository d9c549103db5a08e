"""Which samples make a batch: everyone once, little padding, and dialogues whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msa.fuse.data.sampler import STRETCH, ordered, padding, shuffled, whole_groups

LENGTHS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 500)), min_size=1, max_size=150)
WIDTHS = np.array([768, 74])


def real_lengths(n, seed=0):
    """(n, 3): tweets, 49 regions of a picture, and speech that has nothing to do with the tweet."""
    g = np.random.default_rng(seed)
    text = g.lognormal(np.log(24), 0.45, n).clip(3, 128)
    return np.stack([text, np.full(n, 49), g.normal(105, 25, n).clip(40, 150)], 1).astype(int)


REAL_WIDTHS = np.array([768, 2048, 768])


def told(plan):
    return [at.tolist() for at in plan]


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_sample_once_in_as_few_batches_as_can_be(lengths, size, epoch, bucket):
    lengths = np.array(lengths)
    plan = shuffled(lengths, WIDTHS, size, (7, epoch), bucket)
    assert sorted(i for at in plan for i in at) == list(range(len(lengths)))
    assert len(plan) == -(-len(lengths) // size)
    assert max(map(len, plan)) <= size
    assert told(plan) == told(shuffled(lengths, WIDTHS, size, (7, epoch), bucket))
    looked = ordered(lengths, WIDTHS, size)
    assert sorted(i for at in looked for i in at) == list(range(len(lengths)))
    assert told(looked) == told(ordered(lengths, WIDTHS, size))


def test_where_lengths_differ_little_it_is_the_usual_shuffle_to_the_bit():
    lengths = np.tile([[50, 95]], (100, 1))
    lengths[::3] = [48, 99]
    order = np.random.default_rng((5, 2)).permutation(100)
    wanted = [order[at : at + 16].tolist() for at in range(0, 100, 16)]
    assert told(shuffled(lengths, WIDTHS, 16, (5, 2))) == wanted
    assert told(shuffled(real_lengths(100), REAL_WIDTHS, 16, (5, 2), bucket=False)) == wanted


@pytest.mark.parametrize(("n", "size"), [(2000, 16), (14005, 16), (14005, 64)])
def test_less_than_a_tenth_is_padding_though_modalities_differ_in_length_independently(n, size):
    lengths = real_lengths(n)
    share = [padding(shuffled(lengths, REAL_WIDTHS, size, (0, 0), bucket), lengths, REAL_WIDTHS) for bucket in (1, 0)]
    assert share[0] < 0.1 < share[1]
    assert padding(ordered(lengths, REAL_WIDTHS, size), lengths, REAL_WIDTHS) < 0.1


def test_padding_is_counted_as_it_is():
    """Second route: build the masks."""
    lengths = real_lengths(50)
    plan = shuffled(lengths, REAL_WIDTHS, 8, (0, 0))
    full = sum(int(lengths[at][:, m].max()) * len(at) * w for at in plan for m, w in enumerate(REAL_WIDTHS))
    used = sum(int(length) * w for sample in lengths for length, w in zip(sample, REAL_WIDTHS, strict=True))
    assert padding(plan, lengths, REAL_WIDTHS) == pytest.approx(1 - used / full)
    assert padding([np.arange(2)], np.array([[0], [0]]), np.array([5])) == 1.0  # one masked step each


def test_batches_have_other_members_and_another_order_in_every_epoch():
    lengths = real_lengths(2000)
    epochs = [shuffled(lengths, REAL_WIDTHS, 16, (0, epoch)) for epoch in range(2)]
    mates = [{i: set(at.tolist()) for at in plan for i in at} for plan in epochs]
    kept = np.mean([len(mates[0][i] & mates[1][i]) - 1 for i in range(2000)]) / 15
    assert kept < 0.25  # of a sample's mates are its mates again; without jitter and shuffling, all
    length = [lengths[at].sum() / len(at) for at in epochs[0]]
    assert abs(np.corrcoef(length, np.arange(len(length)))[0, 1]) < 0.3  # short ones do not come first


# --- whole groups -------------------------------------------------------------------------------------------------


def dialogues(sizes, seed=0):
    """Group numbers and positions of shuffled samples."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    position = np.concatenate([np.arange(n) for n in sizes])
    order = np.random.default_rng(seed).permutation(len(group))
    return group[order], position[order]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(1, 20), st.sampled_from([None, (3, 1)]))
@settings(max_examples=60, deadline=None)
def test_a_dialogue_is_in_one_batch_in_its_order_unless_it_is_longer_by_far(sizes, size, chance):
    group, position = dialogues(sizes)
    plan = whole_groups(group, position, size, chance)
    assert sorted(i for at in plan for i in at) == list(range(len(group)))
    homes = {g: [n for n, at in enumerate(plan) if (group[at] == g).any()] for g in set(group.tolist())}
    for g, batches in homes.items():
        if sizes[g] <= STRETCH * size:
            assert len(batches) == 1
        else:
            assert len(batches) == -(-sizes[g] // (STRETCH * size))
    for at in plan:
        assert len(at) <= size or len(set(group[at])) == 1
        assert len(at) <= STRETCH * size
        for g in set(group[at].tolist()):
            assert (np.diff(position[at][group[at] == g]) == 1).all()


def test_groups_come_in_another_order_in_every_epoch_and_are_filled_up():
    group, position = dialogues([3] * 100)
    one, two = (whole_groups(group, position, 16, (0, epoch)) for epoch in range(2))
    assert told(one) != told(two)
    assert {len(at) for at in one} == {15}
    assert told(one) == told(whole_groups(group, position, 16, (0, 0)))


def test_samples_of_no_group_are_batched_as_usual():
    plan = whole_groups(np.arange(50), np.zeros(50, int), 16, (0, 0))
    assert [len(at) for at in plan] == [16, 16, 16, 2]


def test_a_group_without_an_order_is_not_kept_together():
    speaker = np.repeat([0, 1], 40)
    plan = whole_groups(speaker, np.zeros(80, int), 16, (0, 0))
    assert [len(at) for at in plan] == [16] * 5
    assert sum(len(set(speaker[at])) == 2 for at in plan) >= 4


def test_batches_have_other_members_in_every_epoch_also_where_each_is_a_bucket_of_its_own():
    lengths = np.rint(100 * 1.03 ** np.arange(64))[:, None]  # 8 in a row differ by more than a bucket may be padded
    with_first = [
        frozenset(batch.tolist())
        for epoch in range(8)
        for batch in shuffled(lengths, np.ones(1), 8, (1, epoch))
        if 0 in batch
    ]
    assert len(with_first) == 8 and len(set(with_first)) > 1
