"""Two datasets of one name become one: by id, and only where both say the same of a sample."""

from dataclasses import replace

import numpy as np
import pytest

from msa.cache.maintain.verify import verify
from msa.cache.share import merge
from msa.cache.store import FeatureStore
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, fill, hidden, make_index

FIELDS = ("ids", "group", "text")
ARRAYS = ("split", "labels", "position")


def taken(index, rows):
    """The index with these rows alone."""
    few = {name: [getattr(index, name)[row] for row in rows] for name in FIELDS}
    few |= {name: getattr(index, name)[rows] for name in ARRAYS}
    return replace(index, **few, digests={m: digest[rows] for m, digest in index.digests.items()})


def assert_rows(index, rows, whole, of):
    """Rows of an index are these rows of another."""
    for name in FIELDS:
        assert [getattr(index, name)[row] for row in rows] == [getattr(whole, name)[row] for row in of], name
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(index, name)[rows], getattr(whole, name)[of], name)


def test_a_union_is_my_samples_and_then_those_that_i_lack(index):
    whole = index
    mine, theirs = taken(whole, [4, 2, 7]), taken(whole, [7, 9, 4, 0])
    both = merge.union("a", mine, "b", theirs)
    assert both.ids == ["id4", "id2", "id7", "id9", "id0"]
    assert_rows(both, range(5), whole, [4, 2, 7, 9, 0])
    for modality in whole.digests:
        np.testing.assert_array_equal(both.digests[modality], whole.digests[modality][[4, 2, 7, 9, 0]])


def test_input_that_one_of_them_lacks_is_taken_from_the_other(index):
    mine, theirs = taken(index, [0, 1, 2]), taken(index, [1, 2, 3])
    mine.digests[Modality.AUDIO][1] = 0
    without_text = replace(theirs, digests={Modality.AUDIO: theirs.digests[Modality.AUDIO]})
    both = merge.union("a", mine, "b", without_text)
    np.testing.assert_array_equal(both.digests[Modality.AUDIO], index.digests[Modality.AUDIO][:4])
    np.testing.assert_array_equal(both.digests[Modality.TEXT][:3], index.digests[Modality.TEXT][:3])
    assert not both.digests[Modality.TEXT][3].any()


def changed(index, what):
    """The index with sample 2 saying something else."""
    if what in ("label", "split", "position"):
        name = "labels" if what == "label" else what
        values = getattr(index, name).copy()
        values[2] = {"label": np.nan, "split": 1 - min(values[2], 1) if what == "split" else 0}.get(what, 77)
        return replace(index, **{name: values})
    if what == "group":
        return replace(index, group=[*index.group[:2], "another", *index.group[3:]])
    digests = {m: digest.copy() for m, digest in index.digests.items()}
    digests[Modality(what)][2] ^= 1
    return replace(index, digests=digests)


@pytest.mark.parametrize("what", ["label", "split", "position", "group", "text", "audio"])
def test_a_sample_of_which_they_differ_is_named(index, what):
    with pytest.raises(StoreError, match="differ in") as caught:
        merge.check("here", index, "there", changed(index, what))
    assert caught.value.what == f"here and there differ in the {what} of id2"


def test_equal_samples_pass_unlabelled_ones_too(index):
    unlabelled = replace(index, labels=np.full_like(index.labels, np.nan))
    merge.check("a", unlabelled, "b", unlabelled)
    merge.check("a", index, "b", taken(index, [5, 3]))


def test_labels_of_another_kind_are_no_union(index):
    with pytest.raises(StoreError, match=r"has the labels .* in here and .* in there"):
        merge.check("here", index, "there", replace(index, label_names=("other",)))


def test_of_many_differing_samples_a_few_are_named(index):
    error = merge.differ("a", "b", {"text": [f"s{i}" for i in range(7)], "label": ["s1"]})
    assert error.what == "a and b differ in the text of s0, s1, s2, s3, s4 and 2 more; the label of s1"


def test_what_was_dropped_and_is_a_sample_of_the_other_is_not_dropped(index):
    rows = [["id1", "unreadable", ""], ["gone", "no label", ""]]
    mine = replace(taken(index, [0, 2]), about={"dropped_ids": rows, "split": "official", "encodings": {"utf-8": 2}})
    theirs = replace(taken(index, [1]), about={"split": "drawn", "encodings": {"utf-8": 1, "gbk": 1}})
    about = merge.union("a", mine, "b", theirs).about
    assert about["dropped_ids"] == [["gone", "no label", ""]]
    assert about["dropped"] == {"no label": 1}
    assert about["split"] == "drawn and official"
    assert about["encodings"] == {"utf-8": 3, "gbk": 1}


@pytest.fixture
def two(index, tmp_path):
    """Stores of rows 0 to 11 and of rows 8 to 18 of one dataset, with hidden states."""
    stores = []
    for name, rows in (("a", range(12)), ("b", range(8, 19))):
        store, few = FeatureStore.create(tmp_path / name), taken(index, [*rows])
        dataset = store.add_index(few)
        store.add_view("v" * 16, {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "float16"})
        writer = store.writer("v" * 16, dataset, FORM, {})
        for at, row in enumerate(rows):
            writer.write(at, few.digests[Modality.AUDIO][at].tobytes(), hidden(row))
        store.publish("v" * 16, [writer.seal()])
        stores.append(store)
    return stores


def test_only_datasets_of_two_versions_are_united(two, tmp_path):
    a, b = two
    [both] = merge.unite(a, b)
    assert both.ids == [f"id{row}" for row in range(19)]
    assert merge.unite(a, a) == []
    fill(b, make_index(name="elsewhere", seed=3))
    assert [index.name for index in merge.unite(a, FeatureStore.open(b.path))] == ["tiny"]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_version_that_has_all_samples_of_the_other_is_the_union(two, index, tmp_path, swapped):
    whole = FeatureStore.create(tmp_path / "whole")
    whole.add_index(index)
    stores = (whole, two[0]) if swapped else (two[0], whole)
    [both] = merge.unite(*stores)
    assert both.fingerprint == index.fingerprint


def test_a_union_is_served_from_every_version_that_is_there(two):
    a, b = two
    [both] = merge.unite(a, b)
    merge.publish(a, [both])
    reader = a.reader(a.view("tiny", Modality.AUDIO))
    assert np.flatnonzero(reader.length >= 0).tolist() == list(range(12))
    np.testing.assert_array_equal(reader.read(11), hidden(11))
    assert verify(FeatureStore.open(a.path)) == []


def test_hidden_states_that_differ_by_more_than_rounding_are_refused(two, index, tmp_path):
    other = FeatureStore.create(tmp_path / "other")
    dataset = other.add_index(index)
    other.add_view("v" * 16, {"modality": "audio", "backbone": "made.up", "dim": 8, "dtype": "float16"})
    writer = other.writer("v" * 16, dataset, FORM, {})
    for row in range(6):
        writer.write(row, index.digests[Modality.AUDIO][row].tobytes(), hidden(row) + (row == 4))
    other.publish("v" * 16, [writer.seal()])
    with pytest.raises(StoreError, match=r"differ in .*id4.*more than the rounding") as caught:
        merge.agreed(two[0], other)
    assert "id3" not in caught.value.what
    merge.agreed(*two)
