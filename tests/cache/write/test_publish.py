"""Conflict rules: which of a writer's segments and samples become visible."""

from dataclasses import replace

import numpy as np
import pytest

from msa.cache.format import layout, local_files
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.maintain import remove
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import publish, reuse, segment
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index

V = "v" * 16


def sealed(store, index, rows, failed=()):
    """A sealed segment of these samples, not published."""
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(V, dataset, FORM, {})
    digests = index.digests[Modality.AUDIO]
    for row in rows:
        writer.write(row, digests[row].tobytes(), hidden(row))
    for row in failed:
        writer.fail(row, digests[row].tobytes(), "decode", "no sound")
    return writer.seal()


def add(store, *entries, manifest=None):
    parent = store.path / layout.segments_path(V)
    return publish.add_segments(parent, manifest or store.manifest, V, {}, entries)


def samples(store, entry):
    return [row.sample for row in segment.table(store.path / layout.segment_path(V, entry.id))]


def test_a_segment_is_added_behind_those_that_are_there(store, index):
    fill(store, index, range(5))
    entry, before = sealed(store, index, range(5, 9)), store.manifest
    added, new = add(store, entry)
    assert added == [entry]
    assert new.segments_of(V) == (*before.segments_of(V), entry)
    assert new.views[V].published == before.generation + 1
    assert store.manifest == before


def test_samples_that_another_writer_published_first_are_left_out(store, index):
    fill(store, index, range(5))
    entry = sealed(store, index, range(3, 9), failed=[2, 10])
    [left], _ = add(store, entry)
    assert samples(store, left) == [5, 6, 7, 8]
    assert (left.id, left.samples, left.failed) == (entry.id, 4, 1)  # the failure of sample 2 goes too
    store.publish(V, [left])
    assert verify(FeatureStore.open(store.path)) == []


def test_two_segments_of_one_writer_bring_a_sample_once(store, index):
    first, second = sealed(store, index, [0, 1]), sealed(store, index, [1, 2])
    added, _ = add(store, first, second)
    assert [samples(store, entry) for entry in added] == [[0, 1], [2]]


def test_equal_row_numbers_of_another_dataset_are_no_conflict(store, index):
    fill(store, index, range(5))
    entry = sealed(store, make_index(name="other", seed=1), range(5))
    assert add(store, entry)[0] == [entry]


def test_nothing_new_changes_nothing(store, index):
    fill(store, index, range(5))
    with pytest.raises(publish.Unchanged):
        add(store, sealed(store, index, range(5)))


def test_a_segment_of_a_dataset_that_was_removed_is_left_out(store, index):
    entry = sealed(store, index, range(3))
    with pytest.raises(publish.Unchanged):
        add(store, entry, manifest=replace(store.manifest, datasets={}))


def test_a_segment_whose_borrowed_data_is_gone_is_left_out(store, index):
    owner = fill(store, index).entries[0]
    dataset = store.add_index(replace(index, name="other"))
    parent = store.path / layout.segments_path(V)
    lent = reuse.lend(parent, owner, segment.table(parent / owner.id)[:3], SegmentAttributes(dataset, {}))
    assert add(store, lent)[0] == [lent]
    remove.remove(store, dataset="tiny")
    local_files.remove_tree(store.path, parent / owner.id)
    with pytest.raises(publish.Unchanged):
        add(store, lent)


def test_a_segment_that_was_taken_over_is_an_error(store, index):
    entry = sealed(store, index, range(3))
    local_files.remove_tree(store.path, store.path / layout.segment_path(V, entry.id))
    with pytest.raises(StoreError, match="taken over by another run") as caught:
        add(store, entry)
    assert caught.value.fix


def test_what_is_away_for_a_moment_is_waited_for(monkeypatch):
    answers = iter([False, False, True])
    assert publish.appears(lambda: next(answers))
    monkeypatch.setattr(publish, "BACK_AFTER_S", 0.05)
    assert not publish.appears(lambda: False)


def test_readers_of_an_older_generation_keep_seeing_it(store, index):
    fill(store, index, range(5))
    old = FeatureStore.open(store.path)
    store.publish(V, [sealed(store, index, range(5, 9))])
    dataset = store.datasets["tiny"]
    assert np.count_nonzero(old.reader(old.view(dataset, Modality.AUDIO)).length >= 0) == 5
    assert np.count_nonzero(store.reader(store.view(dataset, Modality.AUDIO)).length >= 0) == 9
