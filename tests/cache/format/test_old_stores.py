"""Stores that earlier versions wrote are read to the last value: what a lab has on its disks stays readable."""

import base64
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from msa.cache.format.layout import FORMAT
from msa.cache.maintain.describe import describe
from msa.cache.maintain.verify import check_store
from msa.cache.store import FeatureStore
from msa.types import SENTIMENT, Modality

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures").glob("store-*/*.tar.xz"))


@pytest.fixture(params=FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def kept(request, tmp_path):
    with tarfile.open(request.param) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "store", json.loads((request.param.parent / "expected.json").read_text("utf-8"))


def test_there_is_a_store_of_every_format():
    assert {path.parent.name for path in FIXTURES} == {f"store-{n + 1}" for n in range(FORMAT)}


def test_every_value_is_read(kept):
    path, expected = kept
    store = FeatureStore.open(path)
    assert sorted(store.manifest.datasets) == sorted(corpus["fingerprint"] for corpus in expected["corpora"])
    for corpus in expected["corpora"]:
        index = store.index(corpus["fingerprint"])
        assert (index.name, list(index.task.classes), index.task.multilabel) == tuple(
            corpus[key] for key in ("name", "classes", "multilabel")
        )
        assert index.task.multilabel or index.task == SENTIMENT
        for name in ("ids", "split", "label_names", "group", "position", "text", "about"):
            found = getattr(index, name)
            assert (found if isinstance(found, dict) else list(found)) == corpus[name], name
        labels = [[np.nan if x is None else x for x in row] for row in corpus["labels"]]
        np.testing.assert_array_equal(np.asarray(index.labels), np.array(labels, np.float32))
        for modality, digest in corpus["digests"].items():
            assert np.asarray(index.digests[Modality(modality)]).tobytes() == base64.b64decode(digest)
        assert index.fingerprint == corpus["fingerprint"]
        assert_views(store, corpus)


def assert_views(store, corpus):
    views = {view.id: view for view in store.views(corpus["fingerprint"])}
    assert sorted(views) == sorted(corpus["views"])
    for view_id, known in corpus["views"].items():
        assert dict(views[view_id].attributes) == known["attributes"]
        reader = store.reader(views[view_id])
        there = {str(row) for row in np.flatnonzero(np.asarray(reader.length) >= 0)}
        assert there == known["states"].keys()
        for row, packed in known["states"].items():
            found = reader.read(int(row))
            assert (found.dtype.name, list(found.shape)) == (known["dtype"], known["shapes"][row])
            assert found.tobytes() == base64.b64decode(packed)
        failures = {str(row): {key: f[key] for key in ("stage", "reason")} for row, f in reader.failures.items()}
        assert failures == known["failures"]


def test_it_is_sound_and_what_was_counted_is_there(kept):
    path, expected = kept
    assert check_store(path, deep=True).problems == []
    known = {corpus["fingerprint"]: corpus["views"] for corpus in expected["corpora"]}
    for dataset in describe(FeatureStore.open(path))["datasets"]:
        for view in dataset["views"]:
            wanted = known[dataset["fingerprint"]][view["id"]]["counts"]
            assert {name: n for name, n in view["counts"].items() if n} == {name: n for name, n in wanted.items() if n}
