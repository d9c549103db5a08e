"""Borrowed segments: equal inputs are served from the hidden states that are there, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from msa.cache.format import layout
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import reuse, segment
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index

V = "v" * 16


def tables(store, entry):
    return store.path / layout.segment_path(V, entry.id)


def entries(store, dataset):
    return FeatureStore.open(store.path).manifest.views[V].of(dataset)


def held(store, dataset):
    """Row -> hidden states, as a reader of the store gets them."""
    now = FeatureStore.open(store.path)
    reader = now.reader(now.view(dataset, Modality.AUDIO))
    return {row: reader.read(row) for row in np.flatnonzero(reader.length >= 0).tolist()}


def test_rows_of_equal_input_are_served_from_the_old_data(store, index):
    owner = fill(store, index, range(10)).entries[0]
    order = np.r_[5:20, 0:5]  # row i of the other dataset is row order[i] of the first
    digests = index.digests[Modality.AUDIO][order]
    other = replace(index, name="other", digests={**index.digests, Modality.AUDIO: digests})
    dataset = store.add_index(other)
    assert reuse.borrow(store, V, dataset, digests, [0, 1, 9, 17]) == 3  # of rows 5, 6, 14, 2; 14 is not there
    [entry] = entries(store, dataset)
    assert (entry.data_of, entry.data) == (owner.id, owner.data)
    assert not any(name.startswith("data/") for name in entry.files)
    states = held(store, dataset)
    assert list(states) == [0, 1, 17]
    for row, source in zip([0, 1, 17], [5, 6, 2], strict=True):
        np.testing.assert_array_equal(states[row], hidden(source))
    assert verify(FeatureStore.open(store.path), deep=True) == []


def test_two_samples_of_one_input_are_served_from_one(store, index):
    fill(store, index, range(4))
    digests = np.repeat(index.digests[Modality.AUDIO][2:3], 20, axis=0)
    dataset = store.add_index(replace(index, name="other", digests={Modality.AUDIO: digests}))
    assert reuse.borrow(store, V, dataset, digests, [3, 7]) == 2
    states = held(store, dataset)
    np.testing.assert_array_equal(states[3], states[7])
    np.testing.assert_array_equal(states[3], hidden(2))


def test_what_borrows_from_a_borrower_points_to_the_data(store, index):
    owner = fill(store, index, range(4)).entries[0]
    digests = index.digests[Modality.AUDIO]
    datasets = [store.add_index(replace(index, name=name)) for name in ("b", "c")]
    assert reuse.borrow(store, V, datasets[0], digests, range(2)) == 2
    borrower = entries(store, datasets[0])[0]
    rows = segment.table(tables(store, borrower))
    about = SegmentAttributes(datasets[1], {})
    lent = reuse.lend(store.path / layout.segments_path(V), borrower, rows, about)
    assert (lent.data_of, lent.data) == (owner.id, owner.data)
    store.publish(V, [lent])
    assert list(held(store, datasets[1])) == [0, 1]


def test_a_lent_segment_has_a_journal_until_it_is_published(store, index):
    owner = fill(store, index, range(4)).entries[0]
    dataset = store.add_index(replace(index, name="other"))
    parent = store.path / layout.segments_path(V)
    about = SegmentAttributes(dataset, {"device": "cpu"})
    lent = reuse.lend(parent, owner, segment.table(parent / owner.id), about)
    journal = tables(store, lent) / segment.JOURNAL
    assert journal.exists()
    assert SegmentAttributes.read(tables(store, lent) / "zarr.json").run == {"device": "cpu"}
    store.publish(V, [lent])
    assert not journal.exists()


def test_nothing_is_borrowed_of_other_input(store, index):
    fill(store, index)
    other = make_index(name="other", seed=1)
    generation = store.manifest.generation
    dataset = store.add_index(other)
    assert reuse.borrow(store, V, dataset, other.digests[Modality.AUDIO], range(20)) == 0
    assert FeatureStore.open(store.path).manifest.generation == generation + 1  # of the dataset alone


def test_a_new_version_is_served_from_the_views_of_the_old_one(store, index):
    before = fill(store, index, range(10)).dataset
    corrected = replace(index, labels=2 - index.labels)
    dataset = store.add_index(corrected)
    assert dataset != before
    assert reuse.carry_over(store, corrected, before) == {V: 10}
    assert held(store, dataset).keys() == set(range(10))
    assert reuse.carry_over(store, corrected, before) == {}  # it has the view now
    assert reuse.carry_over(store, corrected, None) == {}
    assert reuse.carry_over(store, corrected, dataset) == {}


def test_of_equal_rows_the_recorded_digests_count(store, index):
    """An import records digests of features; those of the index may be of the raw material."""
    before = fill(store, index, range(10)).dataset
    unlike = {**index.digests, Modality.AUDIO: index.digests[Modality.AUDIO] ^ 1}
    joined = replace(index, digests=unlike)
    dataset = store.add_index(joined)
    assert reuse.carry_over(store, joined, before) == {}
    assert reuse.carry_over(store, joined, before, same_rows=True) == {V: 10}
    np.testing.assert_array_equal(held(store, dataset)[9], hidden(9))


def test_a_dataset_that_is_not_there_is_an_error(store, index):
    with pytest.raises(StoreError, match="was removed from the store"):
        reuse.carry_over(store, index, None)


@pytest.fixture
def failing(store, index):
    """Samples 0 to 5 with hidden states, 7 and 8 with failures."""
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(V, dataset, FORM, {})
    for row in range(6):
        writer.write(row, index.digests[Modality.AUDIO][row].tobytes(), hidden(row), {"frames": row + 1})
    for row in (7, 8):
        writer.fail(row, index.digests[Modality.AUDIO][row].tobytes(), "decode", "no sound")
    return store.publish(V, [writer.seal()])[0]


def kept(*rows, n=20):
    return np.isin(np.arange(n), rows)


def test_a_narrowed_segment_has_the_kept_samples_and_failures(store, failing):
    folder = store.path / layout.segment_path(V, "20260101-000000-00000000")
    entry = reuse.narrow(tables(store, failing), failing, kept(1, 4, 8), store.path, folder)
    assert (entry.id, entry.samples, entry.failed) == (folder.name, 2, 1)
    assert (entry.data_of, entry.dataset) == (failing.id, failing.dataset)
    assert [(row.sample, row.counts) for row in segment.table(folder)] == [(1, {"frames": 2}), (4, {"frames": 5})]
    assert [record["sample"] for record in segment.failures(folder, entry)] == [8]
    assert reuse.narrow(tables(store, failing), failing, kept(1, 4, 8), store.path, folder) == entry  # made twice


def test_of_no_kept_sample_there_is_no_segment(store, failing):
    folder = store.path / layout.segment_path(V, "20260101-000000-00000000")
    assert reuse.narrow(tables(store, failing), failing, kept(6, 12), store.path, folder) is None
    assert not folder.exists()


def test_retracted_failures_are_not_kept(store, failing):
    folder = store.path / layout.segment_path(V, "20260101-000000-00000000")
    retracted = replace(failing, failed=0)
    assert segment.failures(tables(store, failing), retracted) == []
    assert reuse.narrow(tables(store, failing), retracted, kept(7, 8), store.path, folder) is None
