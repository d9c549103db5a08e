"""Tuple pickles of dialogues, in the layouts of four public programs."""

import pickle

import numpy as np
import pytest

from msa.cache.exchange import dialogues
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, SourceError
from msa.types import Modality, Split

chance = np.random.default_rng(0)
LENGTH = {f"Ses0{i}": 3 + i % 4 for i in range(20)}
MELD_LENGTH = {i: 2 + i % 3 for i in range(20)}


def by(length, make):
    return {d: [make(d, k) for k in range(n)] for d, n in length.items()}


def vectors(length, width):
    return by(length, lambda d, k: chance.normal(size=width).astype("f4"))


def iemocap(extra=()):
    text, audio, visual = (vectors(LENGTH, width) for width in (100, 16, 12))
    return (
        by(LENGTH, lambda d, k: f"{d}_F{k:03d}"),
        by(LENGTH, lambda d, k: "MF"[k % 2]),
        by(LENGTH, lambda d, k: (k + int(d[3:])) % 6),
        text,
        audio,
        visual,
        by(LENGTH, lambda d, k: f"this is sentence {k} of {d}"),
        set(list(LENGTH)[:15]),
        list(LENGTH)[15:],
        *extra,
    )


def meld():
    return (
        by(MELD_LENGTH, lambda d, k: f"{k}"),
        by(MELD_LENGTH, lambda d, k: [int(i == k % 3) for i in range(9)]),
        by(MELD_LENGTH, lambda d, k: (k + d) % 7),
        vectors(MELD_LENGTH, 60),
        vectors(MELD_LENGTH, 30),
        by(MELD_LENGTH, lambda d, k: f"a much longer sentence {k} of {d}"),
        list(range(12)),
        list(range(12, 20)),
        by(MELD_LENGTH, lambda d, k: k % 3),
    )


def cosmic():
    layers = [vectors(LENGTH, 24) for _ in range(4)]
    whole = iemocap()
    return (whole[1], whole[2], *layers, whole[6], list(LENGTH)[:10], list(LENGTH)[10:15], list(LENGTH)[15:])


@pytest.fixture
def read(tmp_path):
    def load(content, **settings):
        path = tmp_path / "dialogues.pkl"
        path.write_bytes(pickle.dumps(content, 2))
        return dialogues.read(path, dialogues.Config(**settings))

    return load


def test_iemocap_of_bc_lstm_and_mmgcn(read, tmp_path):
    given = iemocap()
    found = read(given)
    assert [f.modality for f in found.features] == [Modality.TEXT, Modality.AUDIO, Modality.FACE]
    assert found.corpus.task.classes == dialogues.IEMOCAP
    samples = {sample.id: sample for sample in found.corpus.samples}
    assert len(samples) == sum(LENGTH.values())
    for d, n in LENGTH.items():
        for k in range(n):
            sample = samples[f"{d}_F{k:03d}"]
            assert (sample.group, sample.position) == (d, k)
            assert sample.label == dialogues.IEMOCAP[given[2][d][k]]
            assert sample.raw[Modality.TEXT].text == given[6][d][k]
            assert (sample.split is Split.TEST) == (d in given[8])
            for feature, entry in zip(found.features, given[3:6], strict=True):
                np.testing.assert_array_equal(feature.read(sample.id), entry[d][k][None])
    valid = {s.group for s in found.corpus.samples if s.split is Split.VALID}
    assert len(valid) == 2 and valid <= given[7]
    assert not [s for s in read(given, valid=0.0).corpus.samples if s.split is Split.VALID]
    index, reports = bring_in(FeatureStore.create(tmp_path / "store"), found)
    assert [report.written for report in reports] == [len(index)] * 3
    assert "speakers" in found.features[0].facts


def test_meld_whose_ids_repeat_and_whose_speakers_are_one_hot(read):
    found = read(meld())
    assert [(f.modality, f.dim) for f in found.features] == [(Modality.TEXT, 60), (Modality.AUDIO, 30)]
    assert found.corpus.task.classes == dialogues.MELD
    assert {s.id for s in found.corpus.samples} == {f"{d}_{k}" for d, n in MELD_LENGTH.items() for k in range(n)}
    assert {s.group for s in found.corpus.samples if s.split is Split.TEST} == set(map(str, range(12, 20)))


def test_cosmic_of_four_layers_and_three_splits(read):
    found = read(cosmic())
    assert [(f.name, f.dim) for f in found.features] == [("text", 24)]
    assert {s.split for s in found.corpus.samples} == set(Split)
    last = read(cosmic(), features="none,none,none,text").features[0]
    np.testing.assert_array_equal(last.read("Ses00_0").shape, (1, 24))


@pytest.mark.parametrize("features", ["text", "text,text,audio", "text,sound,visual", "none,none,none"])
def test_features_that_cannot_be_are_errors(read, features):
    with pytest.raises(ConfigError):
        read(iemocap(), features=features)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"train": 1}, "holds a dict"),
        ((1, 2, 3, 4), "no dict of labels"),
        ((*iemocap()[:2], {**iemocap()[2], "Ses00": [1]}, *iemocap()[3:]), "not as many entries"),
        ((*iemocap()[:7], ["Ses00"], ["Ses00"]), "is in two splits"),
    ],
)
def test_another_layout_is_an_error_that_says_so(read, content, why):
    with pytest.raises(SourceError, match=why) as caught:
        read(content)
    assert caught.value.fix
