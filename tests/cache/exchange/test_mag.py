"""MAG-BERT's pickles: words, visual and acoustic rows aligned to them, one label, and a name."""

import pickle

import numpy as np
import pytest

from msa.cache.exchange import mag
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.errors import SourceError
from msa.types import Modality, Split, Task

chance = np.random.default_rng(0)


def sample(split, i, label=None):
    n = 2 + i % 4
    words = [f"word{k}" for k in range(n)]
    value = np.array([[(i % 12 - 6) / 2 + 0.1]], np.float32) if label is None else label
    return (words, chance.normal(size=(n, 47)), chance.normal(size=(n, 74))), value, f"{split}vid{i // 3}[{i % 3}]"


def corpus(label=None):
    return {split: [sample(split, i, label) for i in range(n)] for split, n in (("train", 20), ("dev", 6), ("test", 9))}


@pytest.fixture
def read(tmp_path):
    def load(content, **settings):
        (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(content, 4))
        return mag.read(tmp_path / "mosi.pkl", mag.Config(**settings))

    return load


def test_every_sample_is_as_the_file_has_it(read, tmp_path):
    given = corpus()
    found = read(given)
    assert found.corpus.task == Task(low=-3.0, high=3.0)
    features = {feature.modality: feature for feature in found.features}
    assert {m: f.dim for m, f in features.items()} == {Modality.AUDIO: 74, Modality.FACE: 47}
    samples = {s.id: s for s in found.corpus.samples}
    for split, part in (("train", Split.TRAIN), ("dev", Split.VALID), ("test", Split.TEST)):
        for (words, visual, acoustic), label, segment in given[split]:
            s = samples[segment]
            assert (s.split, s.raw[Modality.TEXT].text, s.group) == (part, " ".join(words), segment.split("[")[0])
            assert s.label == pytest.approx(label.item())
            np.testing.assert_array_equal(features[Modality.FACE].read(segment), visual)
            np.testing.assert_array_equal(features[Modality.AUDIO].read(segment), acoustic)
    index, reports = bring_in(FeatureStore.create(tmp_path / "store"), found)
    assert len(index) == 35 and {report.written for report in reports} == {35}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1], "not a dict"),
        ({"a": []}, "no lists of train"),
        ({"dev": [sample("a", 0)], "valid": [sample("b", 0)]}, "one of them twice"),
        ({"train": [1]}, "sample 0 of train is none"),
        ({"train": [(("one text", 1, 2), 0, "a")]}, "a str in place of words"),
        ({"train": [sample("a", 0), ((["w"], np.ones((1, 2)), np.ones((1, 2))), [1, 2], "b")]}, "sample 1 of train"),
    ],
)
def test_another_layout_is_an_error(read, content, why):
    with pytest.raises(SourceError, match=why) as caught:
        read(content)
    assert caught.value.fix


def test_words_that_are_shared_without_end_are_refused(read):
    words = ["w" * 1000] * 1000
    rows = np.ones((1, 2), np.float32)
    with pytest.raises(SourceError, match="shared among samples"):
        read({"train": [((words, rows, rows), 0.5, f"s{i}") for i in range(30)]})
