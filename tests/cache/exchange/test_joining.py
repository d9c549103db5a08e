"""A second file of one dataset: joined where it means the same samples, refused where it would hide views."""

import numpy as np
import pytest

from msa.cache.exchange._foreign import Feature, Foreign, unknown_source
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.cache.write.dataset_index import Corpus
from msa.errors import SourceError
from msa.types import Modality, Raw, Sample, Split, Task

IDS = [f"s{i}" for i in range(9)]


def file(tmp_path, names, ids=IDS, label=lambda i: i / 4 - 1, split=lambda i: list(Split)[i % 3], text=True, mark="a"):
    """A file of made features, whose states are a number of their own."""
    samples = [
        Sample(
            id,
            label(int(id[1:])),
            {Modality.TEXT: Raw(text=f"text {id}")} if text else {},
            split=split(int(id[1:])),
        )
        for id in ids
    ]
    task = Task(low=-1.0, high=1.0) if any(s.label is not None for s in samples) else Task()
    corpus = Corpus("g", task, unknown_source(tmp_path, "made", "-"), samples)

    def feature(name):
        return Feature(
            name,
            {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": Modality.FACE}[name],
            2,
            lambda id: np.full((1 + int(id[1:]), 2), ord(mark) + int(id[1:]), np.float32),
            lambda id: (f"{name}{mark}{id}".encode() * 16)[:16] if id in ids else None,
        )

    return Foreign("made", tmp_path / f"{mark}.pkl", mark, corpus, [feature(name) for name in names])


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store")


def views(store):
    return sorted(f"{view.modality} {len(np.flatnonzero(store.reader(view).length > 0))}" for view in store.views("g"))


def test_a_second_file_of_the_same_samples_joins(tmp_path, store):
    first, _ = bring_in(store, file(tmp_path, ["text", "audio", "vision"]))
    second, reports = bring_in(store, file(tmp_path, ["audio"], IDS[::-1], mark="b"))
    assert views(store) == ["audio 9", "audio 9", "face 9", "text 9"]
    assert second.fingerprint == first.fingerprint and second.ids == first.ids
    for view in store.views("g"):
        mark = "b" if view.id == reports[0].view_id else "a"
        for row, id in enumerate(IDS):
            assert store.reader(view).read(row)[0, 0] == ord(mark) + int(id[1:])


@pytest.mark.parametrize("first", [["audio"], ["text"], ["vision"]])
def test_a_modality_that_was_not_there_joins_with_its_inputs(tmp_path, store, first):
    bring_in(store, file(tmp_path, first, text=False))
    index, _ = bring_in(store, file(tmp_path, ["text", "audio", "vision"], mark="b"))
    assert len(views(store)) == 4
    assert all(index.has(m).all() for m in (Modality.TEXT, Modality.AUDIO, Modality.FACE))
    assert index.text == [f"text {id}" for id in IDS]


def test_fewer_samples_and_no_labels_and_no_splits_join_too(tmp_path, store):
    first, _ = bring_in(store, file(tmp_path, ["text"]))
    index, _ = bring_in(store, file(tmp_path, ["audio"], IDS[:4], label=lambda i: None, split=lambda i: None, mark="b"))
    np.testing.assert_array_equal(index.labels, first.labels)
    np.testing.assert_array_equal(index.split, first.split)
    assert views(store) == ["audio 4", "text 9"]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"label": lambda i: i / 4 - 1 + (i == 3) / 8}, r"1 of 9 samples have other labels \(such as s3\)"),
        ({"split": lambda i: Split.TRAIN if i < 6 else Split.TEST}, "of 9 samples have other splits"),
        ({"ids": [*IDS, "s9", "s10"], "label": lambda i: 0.5}, r"2 of 11 samples are new \(such as s9, s10\)"),
        ({"ids": ["x1", "x2"]}, "2 of 2 samples are new"),
    ],
)
def test_a_file_that_differs_is_refused_where_it_would_hide_views_and_nothing_changes(tmp_path, store, other, why):
    first, _ = bring_in(store, file(tmp_path, ["text", "audio", "vision"]))
    with pytest.raises(SourceError, match=why) as caught:
        bring_in(store, file(tmp_path, ["audio"], text=False, mark="b", **other))
    assert "face (made.vision@" in caught.value.what and "--name" in caught.value.fix
    assert store.index("g").fingerprint == first.fingerprint
    assert views(store) == ["audio 9", "face 9", "text 9"]


def test_corrected_labels_of_all_that_is_there_are_a_new_version(tmp_path, store):
    bring_in(store, file(tmp_path, ["text", "audio"]))
    index, reports = bring_in(store, file(tmp_path, ["text", "audio"], label=lambda i: 0.25))
    assert (index.labels == 0.25).all() and views(store) == ["audio 9", "text 9"]
    assert [report.written for report in reports] == [0, 0]
    fewer, _ = bring_in(store, file(tmp_path, ["text", "audio"], IDS[:6], label=lambda i: 0.25))
    assert len(fewer) == 6 and views(store) == ["audio 6", "text 6"]


def test_importing_again_does_nothing(tmp_path, store):
    for _ in range(3):
        _, reports = bring_in(store, file(tmp_path, ["audio"], mark="b"))
    assert [report.already for report in reports] == [9]
