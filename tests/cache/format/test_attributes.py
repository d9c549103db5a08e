"""Attributes of indices, views and segments: what decodes, what is refused and for what, and what is written."""

import json

import pytest

from msa.cache.format import attributes
from msa.cache.format.attributes import IndexAttributes, SegmentAttributes, check_root, check_view
from msa.errors import StoreError
from msa.types import Task

INDEX = {
    "name": "voices",
    "task": {"classes": ["no", "yes"], "low": 0, "high": 1.5},
    "label_names": ["label", "label_text"],
    "splits": ["train", "valid", "test"],
    "about": {
        "origin": "mmsa",
        "dropped": {"silent": 2},
        "dropped_ids": [["a", "silent", ""]],
        "source": {"home": "x"},
    },
}
FAILURE = {"sample": 3, "digest": "0" * 32, "stage": "decode", "reason": "empty", "counts": {"frames": 2}}
SEGMENT = {
    "dataset": "d",
    "run": {"device": "cpu", "versions": {}, "compacted": [{"samples": 4, "device": "gpu"}]},
    "failures": [FAILURE],
    "data_of": "20260101-000000-00000000",
    "colour": "blue",
    "counted": ["frames"],
}
VIEW = {
    "modality": "audio",
    "backbone": "wav2vec2.base",
    "dim": 4,
    "dtype": "bfloat16",
    "columns": ["a", "b"],
    "weights": {"name": "hf:x", "revision": None, "licence": None},
    "identity": {"options": {}, "imported": ""},
}


def test_what_is_decoded_is_written_as_it_was():
    known = IndexAttributes.from_json("i", INDEX)
    assert (known.task, known.label_names) == (Task(("no", "yes"), 0, 1.5), ("label", "label_text"))
    assert json.dumps(known.to_json()) == json.dumps(INDEX)
    segment = SegmentAttributes.from_json("s", SEGMENT)
    assert (segment.data_of, segment.counted, segment.rest) == (SEGMENT["data_of"], ["frames"], {"colour": "blue"})
    assert json.dumps(segment.to_json()) == json.dumps(SEGMENT)
    assert SegmentAttributes("d", {}).to_json() == {"dataset": "d", "run": {}, "failures": []}
    check_view("v", VIEW)
    check_view("v", {"modality": "text", "backbone": "b", "dim": 1})


def test_a_task_of_several_labels_has_a_column_for_each_class():
    several = INDEX | {"task": INDEX["task"] | {"multilabel": True}, "label_names": ["no", "yes", "extra"]}
    known = IndexAttributes.from_json("i", several)
    assert known.task.multilabel
    assert known.to_json()["task"]["multilabel"] is True
    with pytest.raises(StoreError, match="no column for each"):
        IndexAttributes.from_json("i", several | {"label_names": ["yes", "no"]})


def task(**change):
    return {"task": INDEX["task"] | change}


def about(**change):
    return {"about": change}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "x\x1b"}, "its name is"),
        ({"name": "x" * 4097}, "its name is"),
        ({"task": None}, "its task is None"),
        (task(classes=["a", "a"]), "classes has a name twice"),
        (task(classes=[f"c{n}" for n in range(1025)]), "has 1025 classes, at most 1024"),
        (task(classes="ab"), "classes is 'ab', expected a list"),
        (task(low=2), "has labels from 2 to 1.5"),
        (task(high=1e31), "high is 1e.31, expected a number"),
        (task(low=True), "low is True"),
        (task(multilabel=1), "says multilabel 1"),
        ({"label_names": ["label_text", "label"]}, "columns of labels called 'label_text, label'"),
        ({"label_names": ["label", "label_smell"]}, "columns of labels called"),
        ({"splits": ["train", "test"]}, "says splits list of 2"),
        ({"about": None}, "about is None"),
        (about(origin=1), "origin of about is 1"),
        (about(settings=[]), "settings of about is list of 0"),
        (about(dropped={"x": -1}), "dropped of about, 'x' is -1"),
        (about(encodings={"x": 1.0}), "encodings of about, 'x' is 1.0"),
        (about(leaks=[1]), "one of leaks is 1"),
        (about(dropped_ids=[["a", "b"]]), r"expected \[id, reason, detail\]"),
        (about(dropped_ids=[["a", "b", 3]]), r"expected \[id, reason, detail\]"),
        (about(source=3), "source of about is 3"),
        (about(source={"licence": 3}), "licence of source is 3"),
        (about(source={"redistribution": "yes"}), "says redistribution 'yes'"),
    ],
)
def test_an_index_is_refused_for_what_is_wrong(change, said):
    with pytest.raises(StoreError, match=said):
        IndexAttributes.from_json("i", INDEX | change)


def run(**change):
    return {"run": change}


def failure(**change):
    return {"failures": [FAILURE | change]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": None}, "the run is None"),
        (run(device=1), "device of the run is 1"),
        (run(plan=[]), "plan of the run is list of 0"),
        (run(compacted={}), "compacted of the run is dict of 0"),
        (run(compacted=[{}]), "samples of a run is None"),
        (run(compacted=[{"samples": 1, "device": 2}]), "device of the run is 2"),
        ({"failures": None}, "failures is None"),
        (failure(sample=10), "sample of a failure is 10"),
        (failure(sample=-1), "sample of a failure is -1"),
        (failure(reason=None), "reason of a failure is None"),
        (failure(stage=""), "has a failure at ''"),
        (failure(digest="0" * 31), "has a failure at 'decode' of '0000"),
        (failure(counts={"x": -1}), "x is -1"),
        (failure(counts={"\x1b": 1}), "what was counted is"),
        ({"counted": ["a", "a"]}, "counted has a name twice"),
        ({"dataset": 7}, "dataset is 7"),
        ({"data_of": "../x"}, "data_of is called"),
        ({"data_of": None}, "data_of is called None"),
    ],
)
def test_a_segment_is_refused_for_what_is_wrong(change, said):
    SegmentAttributes.from_json("s", SEGMENT, samples=10)
    with pytest.raises(StoreError, match=said):
        SegmentAttributes.from_json("s", SEGMENT | change, samples=10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modality": "smell"}, "its modality is called 'smell'"),
        ({"backbone": None}, "its backbone is None"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": 2**27}, "dim is 134217728"),
        ({"dim": 1}, "names 2 columns of 1"),
        ({"dtype": "float64"}, "says dtype 'float64'"),
        ({"dtype": ["float16"]}, "says dtype list of 1"),
        ({"columns": ["\x1b"]}, "one of columns is"),
        ({"source": 1}, "source is 1"),
        ({"facts": 1}, "facts is 1"),
        ({"weights": {"path": None}}, "path of its weights is None"),
        ({"weights": {"revision": 1}}, "revision of its weights is 1"),
        ({"identity": {"options": []}}, "options of its identity is list of 0"),
        ({"identity": {"imported": 1}}, "imported of its identity is 1"),
    ],
)
def test_a_view_is_refused_for_what_is_wrong(change, said):
    with pytest.raises(StoreError, match=said):
        check_view("v", VIEW | change)


def test_what_an_index_leaves_out_is_shown_as_empty():
    shown = attributes.with_defaults({"source": "a title", "leaks": ["x"]})
    empty = dict.fromkeys(("home", "licence", "citation", "layout"), "")
    assert shown["source"] == empty | {"title": "a title", "redistribution": False}
    assert (shown["leaks"], shown["dropped"], shown["origin"]) == (["x"], {}, "")
    assert attributes.with_defaults({"source": {"redistribution": True}})["source"]["redistribution"] is True


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"attributes": {"msa_format": 2}}, "store format 2, this version of msa reads up to 1"),
        ({"attributes": {}}, "not part of an msa store"),
        ({}, "not part of an msa store"),
        ({"attributes": 3}, "attributes is 3"),
    ],
)
def test_what_is_no_store_or_a_newer_one_is_refused(group, said):
    check_root("zarr.json", {"attributes": {"msa_format": 1}})
    with pytest.raises(StoreError, match=said):
        check_root("zarr.json", group)


def test_a_group_without_its_file_or_its_attributes_is_refused(tmp_path):
    with pytest.raises(StoreError, match="the file is missing"):
        SegmentAttributes.read(tmp_path / "zarr.json")
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="attributes is None"):
        attributes.of_view(tmp_path / "zarr.json")
