"""Pickles of MulT's family: padding at the front, ids of three parts, labels of three dimensions."""

import pickle

import numpy as np
import pytest

from msa.cache.exchange import _import as importing
from msa.cache.exchange import mult
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, SourceError
from msa.types import Modality, Split, Task

T, N = 8, 5
WIDTHS = {"text": 6, "audio": 5, "vision": 4}


def length(i):
    return 2 + i


def corpus(ids=lambda split, i: f"{split}{i % 2}[{12 - i}]"):
    """As mosi_data.pkl: aligned, the true rows at the end, and the first word of each sample without a sound."""
    found = {}
    for k, split in enumerate(("train", "valid", "test")):
        part = {}
        for key, width in WIDTHS.items():
            part[key] = np.zeros((N, T, width), np.float32)
            for i in range(N):
                part[key][i, T - length(i) + (key == "audio") :] = 1 + i + k
        part["labels"] = np.linspace(-3, 3, N).reshape(N, 1, 1)
        part["id"] = [ids(split, i) for i in range(N)]
        found[split] = part
    return found


@pytest.fixture
def read(tmp_path):
    """Pickles a corpus and reads it."""

    def read(content, name=None, **config):
        (tmp_path / "mosi_data.pkl").write_bytes(pickle.dumps(content))
        return mult.read(tmp_path / "mosi_data.pkl", mult.Config(**config), name)

    return read


def features(foreign):
    return {feature.name: feature for feature in foreign.features}


def test_the_true_rows_stand_at_the_end(read):
    given = corpus()
    foreign = read(given)
    found = features(foreign)
    assert [(f.name, f.modality, f.dim) for f in foreign.features] == [
        ("text", "text", 6), ("audio", "audio", 5), ("vision", "face", 4),
    ]  # fmt: skip
    for part in given.values():
        for i, id in enumerate(part["id"]):
            for key in WIDTHS:  # the sound too has a row for the first word: they are aligned
                assert np.array_equal(found[key].read(id), part[key][i, T - length(i) :])
    assert found["text"].facts["lengths"] == "rows of nothing but zeros at the front are padding"
    assert found["audio"].facts["lengths"].startswith("the rows of the text")
    assert (foreign.format, foreign.corpus.name, foreign.corpus.task) == ("mult", "mosi_data", Task(low=-3, high=3))


def test_values_before_the_text_are_not_lost(read):
    given = corpus()
    given["train"]["vision"][1, 1, 2] = -np.inf
    vision = features(read(given))["vision"]
    assert np.array_equal(vision.read("train1[11]"), given["train"]["vision"][1, 1:])


def test_arrays_that_are_not_aligned_have_lengths_of_their_own(read):
    given = corpus()
    for part in given.values():
        part["audio"] = np.concatenate([np.zeros((N, 3, 5), np.float32), part["audio"]], axis=1)
    assert len(features(read(given))["audio"].read("train0[12]")) == length(0) - 1


def test_zeros_inside_and_behind_are_true(read):
    given = corpus()
    given["train"]["text"][0, -1] = 0
    text = features(read(given))["text"]
    assert np.array_equal(text.read("train0[12]"), given["train"]["text"][0, T - length(0) :])
    back = features(read(given, padding="back"))["text"]
    assert np.array_equal(back.read("train0[12]"), given["train"]["text"][0, : T - 1])
    assert len(features(read(given, padding="none"))["text"].read("train0[12]")) == T


def test_ids_with_the_place_in_a_video(read):
    samples = {sample.id: sample for sample in read(corpus()).corpus.samples}
    assert samples["train0[12]"].group == "train0"
    assert [samples[f"train0[{clip}]"].position for clip in (8, 10, 12)] == [0, 1, 2]
    assert samples["train0[12]"].split == Split.TRAIN
    assert samples["train0[12]"].label == -3.0


def test_names_and_times_of_one_video_have_an_order(read):
    given = corpus(lambda split, i: f"{split}{i}")
    given["train"]["id"] = [["v", "9.5", "11"], "v[3]", ["v", "12.25", "13"], "v[10]", ["v", "12.5", "14"]]
    of_video = sorted((s for s in read(given).corpus.samples if s.group == "v"), key=lambda sample: sample.position)
    assert [s.id for s in of_video] == ["v[3]", "v[9.5-11]", "v[10]", "v[12.25-13]", "v[12.5-14]"]


@pytest.mark.parametrize(
    "entry",
    [
        lambda video, start, end: np.array([video, str(start), str(end)]),
        lambda video, start, end: [video.encode(), str(start).encode(), str(end).encode()],
        lambda video, start, end: (video, start, np.float32(end)),
    ],
)
def test_ids_of_video_start_and_end(read, entry):
    given = corpus(lambda split, i: entry(f"{split}{i % 2}", 20.5 - 5 * i, 22.0))
    samples = {sample.id: sample for sample in read(given).corpus.samples}
    assert samples["train0[0.5-22.0]"].group == "train0"
    assert [samples[f"train0[{start}-22.0]"].position for start in (0.5, 10.5, 20.5)] == [0, 1, 2]


def test_ids_as_one_array(read):
    given = corpus(lambda split, i: np.array([split, str(i), str(i + 1)]))
    for part in given.values():
        part["id"] = np.array(part["id"])
    assert read(given).corpus.samples[3].id == "train[3-4]"
    for part in given.values():
        part["id"] = np.array([f"{n}" for n in part["id"][:, 1]]).reshape(N, 1)
    with pytest.raises(SourceError, match="'0' is in train and in valid"):
        read(given)
    for part in given.values():
        del part["id"]
    assert read(given).corpus.samples[3].id == "train_3"


def test_it_reaches_the_store_with_infinities_counted(read, tmp_path):
    given = corpus()
    given["train"]["vision"][0, -1, 0] = -np.inf
    given["test"]["text"][2] = 0
    given["test"]["labels"][1] = np.nan
    store = FeatureStore.create(tmp_path / "store")
    index, reports = importing.bring_in(store, read(given, name="mosi"))
    assert reports[2].not_finite["infinite or beyond float32 set to 0"] == 1
    assert reports[0].failed == [("test0[10]", "nothing but padding")]
    reader = store.reader(store.view("mosi", Modality.FACE))
    row = index.ids.index("train0[12]")
    expected = given["train"]["vision"][0, T - 2 :]
    expected[-1, 0] = 0
    assert np.array_equal(reader.read(row), expected)
    assert np.isnan(index.labels[index.ids.index("test1[11]"), 0])
    assert index.about["leaks"] == []


def test_splits_of_other_labels_are_refused(read):
    given = corpus()
    given["valid"]["labels"] = np.zeros((N, 4, 2))
    with pytest.raises(SourceError, match="as many labels of a sample as in the other splits"):
        read(given)


def test_emotions_of_no_and_yes_are_several_labels(read):
    given, chance = corpus(), np.random.default_rng(0)
    yes = {split: chance.integers(0, 2, (N, 4)) for split in given}
    for split, part in given.items():
        part["labels"] = np.eye(2)[yes[split]]  # (n, 4, 2)
    found = read(given).corpus
    assert found.task == Task(classes=("neutral", "happy", "sad", "angry"), multilabel=True)
    assert [s.label for s in found.samples][:N] == [tuple(map(float, row)) for row in yes["train"]]
    assert read(given, classes="a,b,c,d").corpus.task.classes == ("a", "b", "c", "d")
    with pytest.raises(ConfigError, match="classes names 2 labels, and a sample has 4"):
        read(given, classes="a,b")


def test_columns_of_which_one_is_1_are_classes(read):
    given = corpus()
    for part in given.values():
        part["labels"] = np.eye(6)[[0, 3, 5, 1, 1]]
    found = read(given).corpus
    assert found.task == Task(classes=("happy", "sad", "anger", "surprise", "disgust", "fear"))
    assert [s.label for s in found.samples][:N] == ["happy", "surprise", "fear", "sad", "sad"]
    assert read(given, task="labels").corpus.task.multilabel


def test_a_label_out_of_range(read):
    given = corpus()
    given["test"]["labels"][0] = 4
    with pytest.raises(SourceError, match=r"test0\[12\] has the label 4, outside \[-3, 3\]"):
        read(given)


def test_a_file_of_the_other_family_is_sent_there(read):
    given = corpus()
    given["train"]["raw_text"] = ["x"] * N
    with pytest.raises(SourceError, match="family of MMSA: it has raw_text") as raised:
        read(given)
    assert "format mmsa" in raised.value.fix


def test_odd_ids_are_named(read):
    given = corpus(lambda split, i: {"no": "id"})
    with pytest.raises(SourceError, match="names, or video, start and end"):
        read(given)
    given = corpus(lambda split, i: np.array(["video", "soon", "late"]))
    with pytest.raises(SourceError, match="names, or video, start and end"):
        read(given)
