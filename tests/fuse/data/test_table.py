"""From a store to batches: what is joined, padded, masked, normalised, and what is left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from msa.cache.format import layout
from msa.cache.index import Index
from msa.errors import ConfigError, StoreError
from msa.fuse.data.pairing import pair
from msa.fuse.data.table import Column, Normalisation, pad, table
from msa.fuse.head import Batch
from msa.types import SENTIMENT, Split
from tests.fuse.batches import EMOTIONS, add_emotions, emotions_of, emotions_table
from tests.fuse.conftest import (
    AUDIO,
    FACE,
    IMAGE,
    TEXT,
    VALUES,
    WIDTH,
    Memory,
    add_corpus,
    add_view,
    classes_of,
    memory_table,
    memory_view,
    split_of,
    states_of,
)

BOTH = {TEXT: None, IMAGE: None}
RAW = Normalisation({})


def stacked(part, modality):
    """Every valid frame of a part, one below the other, in float64."""
    column = part.table.columns[modality]
    found = [column.states(int(row)) for row in part.rows]
    return np.concatenate([states for states in found if states is not None]).astype(np.float64)


# --- a table ------------------------------------------------------------------------------------------------------


def test_a_table_holds_what_was_written(made):
    found = table(made, "posts", BOTH)
    assert found.ids == [f"posts-{i}" for i in range(60)]
    assert found.dims == {TEXT: 8, IMAGE: 6}
    np.testing.assert_array_equal(found.y, classes_of(60))
    np.testing.assert_array_equal(found.split, split_of(60))
    assert set(found.corpus) == {"posts"}
    for i in (0, 1, 7, 59):
        wanted = None if i in (0, 8) else states_of(i, classes_of(60)[i], 8, 1.0, "posts")
        np.testing.assert_array_equal(found.columns[TEXT].states(i), wanted)


def test_parts_divide_the_table_without_a_remainder_or_an_overlap(made):
    found = table(made, "posts", BOTH)
    ids = [found.subset(split).ids for split in Split]
    assert [len(part) for part in ids] == [36, 12, 12]
    assert sorted(name for part in ids for name in part) == sorted(found.ids)


def test_samples_without_a_label_a_split_or_hidden_states_are_left_out(store):
    labels, split = classes_of(20)[:, None], split_of(20)
    labels[3], split[5] = np.nan, layout.NO_SPLIT
    add_corpus(store, "some", 20, missing={TEXT: [7, 9], IMAGE: [9]}, labels=labels, split=split)
    found = table(store, "some", BOTH)
    assert found.ids == [f"some-{i}" for i in range(20) if i not in (3, 5, 9)]
    assert found.columns[TEXT].states(found.ids.index("some-7")) is None
    np.testing.assert_array_equal(found.y, np.delete(classes_of(20), [3, 5, 9]))


def test_of_several_labels_a_sample_needs_them_all(store):
    labels = emotions_of(60)
    labels[5, 2] = np.nan
    add_emotions(store, labels=labels)
    found = table(store, "clips", {TEXT: None, AUDIO: None})
    assert found.task == EMOTIONS
    assert len(found) == 59
    assert "clips-5" not in found.ids
    np.testing.assert_array_equal(found.y, np.delete(labels, 5, 0))
    part = found.subset(Split.TEST)
    assert part.y.shape == (12, 6)
    batch = part.batch(part.rows[:5], RAW)
    assert batch.y.dtype == torch.float32
    np.testing.assert_array_equal(batch.y.numpy(), part.y[:5])


def test_labels_in_further_columns_are_not_trained_on(store):
    """Sentiment beside the emotions, or labels of single modalities beside the label."""
    index = store.index("posts")
    more = replace(index, labels=np.column_stack([index.labels, 9 - index.labels]), label_names=("label", "label_text"))
    np.testing.assert_array_equal(more.y, index.y)
    wide = np.column_stack([emotions_of(60), index.labels])
    several = replace(index, task=EMOTIONS, labels=wide, label_names=(*EMOTIONS.classes, "label"))
    np.testing.assert_array_equal(several.y, emotions_of(60))


def test_an_index_of_before_there_were_several_labels_is_read_and_keeps_its_key(store):
    index = store.index("posts")
    folder = store.path / "index" / index.fingerprint
    attributes = json.loads((folder / "zarr.json").read_text("utf-8"))["attributes"]
    assert attributes["task"] == {"classes": list(SENTIMENT.classes), "low": 0.0, "high": 0.0}  # as it always was
    assert index.task == SENTIMENT
    empty = {"text": [""], "group": [""], "digests": {}, "about": {}, "label_names": ("label",)}
    made = {"split": np.zeros(1, np.uint8), "labels": np.zeros((1, 1), np.float32), "position": np.zeros(1, np.int64)}
    assert Index("x", SENTIMENT, ["a"], **made, **empty).fingerprint == "a2bbbb31fb595edf"  # as version 0.1 gave it
    several = add_emotions(store)
    assert Index.read(store.path / "index" / several.fingerprint).task == EMOTIONS
    single = replace(several, task=replace(EMOTIONS, multilabel=False))
    assert single.fingerprint != several.fingerprint


def test_a_corpus_of_which_nothing_is_left_is_refused(store):
    add_corpus(store, "unlabelled", 5, (TEXT,), labels=np.full((5, 1), np.nan, np.float32))
    with pytest.raises(ConfigError, match="none of 5 samples has a label, a split and text"):
        table(store, "unlabelled", {TEXT: None})


def test_a_view_is_chosen_by_backbone_by_id_or_as_the_newest(store):
    add_view(store, store.index("posts"), TEXT, view_id="w" * 16, width=3, backbone="made.later")
    width = {name: table(store, "posts", {TEXT: name}).dims[TEXT] for name in (None, "made.text", "t" * 16, "wwww")}
    assert width == {None: 3, "made.text": 8, "t" * 16: 8, "wwww": 3}
    with pytest.raises(StoreError, match=r"it has: made.text@t{16}, made.later@w{16}"):
        table(store, "posts", {TEXT: "roberta.base"})


def test_only_keeps_some_modalities_and_the_samples_that_have_one_of_them(made):
    whole = table(made, "posts", BOTH)
    text = whole.only([TEXT])
    assert set(text.columns) == {TEXT}
    assert text.ids == [f"posts-{i}" for i in range(60) if i not in (0, 8)]
    row = text.ids.index("posts-30")
    np.testing.assert_array_equal(text.columns[TEXT].states(row), whole.columns[TEXT].states(30))
    with pytest.raises(ConfigError, match="posts has no audio") as error:
        whole.only([AUDIO])
    assert "text, image" in error.value.fix


def test_take_carries_every_field_along():
    whole = memory_table()
    index = np.array([5, 3, 44])
    some = whole.take(index)
    assert some.ids == ["posts-5", "posts-3", "posts-44"]
    np.testing.assert_array_equal(some.y, whole.y[index])
    np.testing.assert_array_equal(some.split, whole.split[index])
    for m in whole.columns:
        for at, row in enumerate(index):
            np.testing.assert_array_equal(some.columns[m].states(at), whole.columns[m].states(row))


def test_minus_one_is_a_sample_without_hidden_states():
    column = memory_table().columns[TEXT].take(np.array([4, -1, 0]))
    np.testing.assert_array_equal(column.present, [True, False, True])
    assert column.states(1) is None
    again = column.take(np.array([1, 2, -1]))  # and stays one
    np.testing.assert_array_equal(again.present, [False, True, False])
    np.testing.assert_array_equal(again.states(1), column.states(2))


def test_a_column_reads_each_sample_from_the_reader_it_came_from():
    one, two = (Memory(memory_view(TEXT), [np.full((1, 8), n * 10 + i) for i in range(3)]) for n in (1, 2))
    column = Column((one, two), np.array([0, 1, 1]), np.array([2, 0, 2]))
    assert [column.states(i)[0, 0] for i in range(3)] == [12, 20, 22]


# --- groups -------------------------------------------------------------------------------------------------------


def test_samples_know_their_group_and_their_place_in_it(store):
    names = ["film-b", "", "film-a", "film-b", ""] * 4
    position = np.arange(20)[::-1].copy()
    index = add_corpus(store, "clips", 20, group=names, position=position)
    found = table(store, "clips", BOTH)
    assert [found.group[i] == found.group[0] for i in (3, 5, 8, 2, 1)] == [True, True, True, False, False]
    alone = [i for i, name in enumerate(names) if not name]
    assert len(set(found.group[alone])) == len(alone)  # who belongs to no group is one
    batch = found.subset(Split.TRAIN).batch(np.array([7, 0, 2]), RAW)
    assert batch.group.tolist() == found.group[[7, 0, 2]].tolist()
    assert batch.position.tolist() == index.position[[7, 0, 2]].tolist()
    taken = found.take(np.array([3, 1]))
    assert taken.group.tolist() == found.group[[3, 1]].tolist()
    assert taken.position.tolist() == [16, 18]


def test_corpora_brought_together_share_no_group(store):
    for name in ("one", "two"):
        add_corpus(store, name, 10, group=["film"] * 5 + [""] * 5)
    first, second = (table(store, name, BOTH) for name in ("one", "two"))
    both = pair(first, second, "union")
    assert len(set(both.group[:10]) | set(both.group[10:])) == 12
    assert not set(both.group[:10]) & set(both.group[10:])
    assert both.position.tolist() == [*first.position, *second.position]
    assert pair(first.only([TEXT]), second.only([IMAGE]), "random").group.tolist() == first.group.tolist()


def test_without_groups_every_sample_is_one():
    batch = memory_table().subset(Split.TRAIN).batch(np.array([4, 0]), RAW)
    assert len(set(batch.group.tolist())) == 2
    assert batch.position.tolist() == [0, 0]
    moved = Batch(batch.x, batch.mask, batch.y, batch.row).to("cpu")
    assert len(set(moved.group.tolist())) == 2
    assert moved.position.tolist() == [0, 0]


# --- what training may know ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [memory_table(), emotions_table()], ids=["classes", "labels"])
def test_a_sealed_table_lacks_labels_and_hidden_states_of_the_test_part_and_nothing_else(whole):
    sealed, test = whole.sealed(), whole.subset(Split.TEST).rows
    assert np.isnan(sealed.y[test]).all()
    rest = np.setdiff1d(np.arange(60), test)
    np.testing.assert_array_equal(sealed.y[rest], whole.y[rest])
    for m, column in sealed.columns.items():
        assert not column.present[test].any()
        assert all((column.states(int(i)) == whole.columns[m].states(int(i))).all() for i in rest)
    assert sealed.sealed() is sealed
    for split in (Split.TRAIN, Split.VALID):
        assert sealed.subset(split).rows.tolist() == whole.subset(split).rows.tolist()
    with pytest.raises(ConfigError, match="the test split was asked for while training"):
        sealed.subset(Split.TEST)
    with pytest.raises(ConfigError, match="12 test samples among those to train or to choose on"):
        whole.subset(Split.TEST).sealed()


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_is_the_ragged_arrays_and_nothing_else():
    """Valid steps are the stored numbers, the mask counts them, and behind it stands zero."""
    part = memory_table().subset(Split.TRAIN)
    batch = part.batch(part.rows[:7], RAW)
    for m, column in part.table.columns.items():
        wanted = [column.states(int(row)) for row in part.rows[:7]]
        assert batch.x[m].shape == (7, max(map(len, wanted)), WIDTH[m])
        assert batch.x[m].dtype == torch.float32
        assert batch.mask[m].sum(1).tolist() == [len(states) for states in wanted]
        for x, mask, states in zip(batch.x[m], batch.mask[m], wanted, strict=True):
            np.testing.assert_array_equal(x[mask].numpy(), states.astype(np.float32))
            assert not x[~mask].any()
            assert mask[: len(states)].all()  # valid steps come first
    assert batch.y.tolist() == part.y[:7].tolist()
    assert batch.row.tolist() == part.rows[:7].tolist()


def test_labels_are_whole_numbers_for_classes_and_floats_for_values():
    for task, dtype in ((None, torch.int64), (VALUES, torch.float32)):
        part = memory_table(**({"task": task, "y": np.linspace(-3, 3, 60, dtype=np.float32)} if task else {})).subset(
            "test"
        )
        batch = part.batch(part.rows, RAW)
        assert batch.y.dtype == dtype
        np.testing.assert_array_equal(batch.y.numpy(), part.y)


def test_a_modality_that_is_absent_has_an_empty_mask_row_and_zeros(made):
    whole = table(made, "posts", BOTH)
    batch = whole.subset(Split.TRAIN).batch(np.array([0, 1, 2]), RAW)
    assert batch.mask[TEXT].any(1).tolist() == [False, True, True]
    assert batch.mask[IMAGE].any(1).tolist() == [True, False, True]
    assert not batch.x[TEXT][0].any()


def test_a_modality_that_a_whole_batch_lacks_is_one_masked_step_of_the_right_width(made):
    batch = table(made, "posts", BOTH).subset(Split.TRAIN).batch(np.array([0, 8]), RAW)
    assert batch.x[TEXT].shape == (2, 1, 8)
    assert not batch.mask[TEXT].any()


def test_batches_go_through_every_sample_once_in_the_order_given():
    part = memory_table().subset(Split.TRAIN)
    assert [len(batch) for batch in part.batches(16, RAW)] == [16, 16, 4]
    order = np.random.default_rng(0).permutation(len(part))
    rows = torch.cat([batch.row for batch in part.batches(16, RAW, order)])
    assert rows.tolist() == part.rows[order].tolist()
    assert torch.cat([batch.row for batch in part.batches(16, RAW)]).tolist() == part.rows.tolist()


# --- normalisation ------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_splits_valid_frames(made):
    """Second route: all frames of the training samples in one float64 array."""
    part = table(made, "posts", BOTH).subset(Split.TRAIN)
    norm = Normalisation.fit(part, ("text", "image", "face"))
    assert set(norm.stats) == {TEXT, IMAGE}
    for m in (TEXT, IMAGE):
        frames = stacked(part, m)
        mean, std = norm.of(m)
        np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(std, frames.std(0), rtol=1e-6)
    assert norm.of(AUDIO) is None


def test_other_splits_have_no_part_in_the_statistics():
    whole = memory_table()
    states = whole.columns[TEXT].readers[0].states
    spoilt = [s if split == 0 else s + 1000 for s, split in zip(states, whole.split, strict=True)]
    other = memory_table(columns={TEXT: Column((Memory(memory_view(TEXT), spoilt),), np.zeros(60, int), np.arange(60))})
    one, two = (Normalisation.fit(t.subset(Split.TRAIN), ("text",)) for t in (whole, other))
    np.testing.assert_array_equal(one.stats[TEXT], two.stats[TEXT])


def test_padding_is_not_counted_and_is_not_shifted():
    """A mean over the padded array would be another one, and padding would end as -mean / std."""
    part = memory_table().subset(Split.TRAIN)
    norm = Normalisation.fit(part, ("text",))
    batch = part.batch(part.rows, RAW)
    padded = batch.x[TEXT].double().flatten(0, 1).mean(0).numpy()
    assert np.abs(padded - norm.of(TEXT)[0]).max() > 0.05  # what a toolkit did that averaged over padding
    scaled = part.batch(part.rows, norm)
    assert not scaled.x[TEXT][~scaled.mask[TEXT]].any()


def test_training_frames_end_with_mean_0_and_deviation_1_and_the_rest_by_the_same_map():
    whole = memory_table()
    norm = Normalisation.fit(whole.subset(Split.TRAIN), ("text",))
    train = whole.subset(Split.TRAIN).batch(whole.subset(Split.TRAIN).rows, norm)
    frames = train.x[TEXT][train.mask[TEXT]].double()
    torch.testing.assert_close(frames.mean(0), torch.zeros(8, dtype=torch.double), atol=1e-6, rtol=0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(8, dtype=torch.double), atol=1e-6, rtol=0)
    part = whole.subset(Split.TEST)
    test = part.batch(part.rows, norm)
    wanted = (stacked(part, TEXT) - norm.of(TEXT)[0]) / norm.of(TEXT)[1]
    np.testing.assert_allclose(test.x[TEXT][test.mask[TEXT]].numpy(), wanted, atol=1e-5)
    assert torch.equal(test.x[IMAGE], part.batch(part.rows, RAW).x[IMAGE])  # it was not to be normalised


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1000.1, -8e6])
def test_a_constant_column_stays_a_constant_however_large(value):
    """Squares minus squared mean would leave rounding for a deviation, and divide by it."""
    rng = np.random.default_rng(0)
    states = [np.stack([np.full(4, value), rng.normal(size=4)], 1).astype(np.float32) for _ in range(60)]
    column = Column((Memory(memory_view(FACE, width=2), states),), np.zeros(60, np.int64), np.arange(60))
    part = memory_table(columns={FACE: column}).subset(Split.TRAIN)
    norm = Normalisation.fit(part, ("face",))
    assert norm.of(FACE)[1][0] == 1
    assert not part.batch(part.rows, norm).x[FACE][:, :, 0].any()


def test_a_small_spread_around_a_large_value_is_measured():
    rng = np.random.default_rng(0)
    states = [(5e5 + 0.25 * rng.integers(0, 2, (4, 1))).astype(np.float32) for _ in range(60)]
    column = Column((Memory(memory_view(FACE, width=1), states),), np.zeros(60, np.int64), np.arange(60))
    part = memory_table(columns={FACE: column}).subset(Split.TRAIN)
    np.testing.assert_allclose(Normalisation.fit(part, ("face",)).of(FACE)[1], stacked(part, FACE).std(0), rtol=1e-6)


def test_a_modality_the_training_split_lacks_is_left_as_it_is():
    column = memory_table().columns[TEXT].take(np.where(split_of(60) == 0, -1, np.arange(60)))
    whole = memory_table(columns={TEXT: column})
    mean, std = Normalisation.fit(whole.subset(Split.TRAIN), ("text",)).of(TEXT)
    assert not mean.any()
    assert (std == 1).all()


def test_pad_takes_any_dtype_and_gives_float32():
    x, mask = pad([np.ones((2, 3), np.float16), None, np.full((1, 3), 2, np.float64)], 3, None)
    assert x.dtype == torch.float32
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert x.sum((1, 2)).tolist() == [6, 0, 6]
