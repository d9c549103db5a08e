"""MMSA's pickles: every trap of the layout, and a store that comes back the same."""

import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from msa.cache.exchange import _import as importing
from msa.cache.exchange import mmsa
from msa.cache.exchange._foreign import Bundle
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.errors import ConfigError, SourceError, StoreError
from msa.types import SENTIMENT, Modality, Split, Task
from tests.cache.conftest import make_index

T, A, V = 10, 30, 20  # rows of the padded arrays
D = {"text": 6, "audio": 5, "vision": 4}
SIZES = {"train": 7, "valid": 3, "test": 4}
LENGTHS = {  # of a split's sample i
    "text": lambda i: 3 + i % 7,
    "audio": lambda i: 1 + 4 * i,
    "vision": lambda i: 20 - 2 * i,
}


def states(split, key, i):
    """The true states of sample i: no zero among them."""
    seed = [ord(c) for c in split + key] + [i]
    return np.random.default_rng(seed).uniform(1, 2, (LENGTHS[key](i), D[key])).astype(np.float32)


def padded(split, key, rows, front=False):
    array = np.zeros((SIZES[split], rows, D[key]), np.float32)
    for i in range(SIZES[split]):
        true = states(split, key, i)[:rows]
        array[i, slice(rows - len(true), None) if front else slice(len(true))] = true
    return array


def unaligned(front=False):
    """As unaligned_50.pkl: BERT's states of padding are not zero, lengths of sound and face are given."""
    corpus = {}
    for split, n in SIZES.items():
        text = padded(split, "text", T)
        bert = np.zeros((n, 3, T), np.float32)
        for i in range(n):
            bert[i, 0, :] = 101
            bert[i, 1, : LENGTHS["text"](i)] = 1
            text[i, LENGTHS["text"](i) :] = 9
        corpus[split] = {
            "raw_text": np.array([f"TEXT {split} {i}" for i in range(n)]),
            "id": np.array([f"{split}{i % 2}$_${20 - i}" for i in range(n)], object),
            "text": text,
            "text_bert": bert,
            "audio": padded(split, "audio", A, front),
            "vision": padded(split, "vision", V, front),
            "audio_lengths": [LENGTHS["audio"](i) for i in range(n)],
            "vision_lengths": np.array([LENGTHS["vision"](i) for i in range(n)], np.float64),
            "annotations": ["Neutral"] * n,
            "classification_labels": np.ones(n),
            "regression_labels": np.linspace(-3, 3, n),
        }
    return corpus


@pytest.fixture
def read(tmp_path):
    """Pickles a corpus and reads it."""

    def read(corpus, protocol=4, name=None, **config):
        (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(corpus, protocol))
        return mmsa.read(tmp_path / "mosi.pkl", mmsa.Config(**config), name)

    return read


def features(foreign):
    return {feature.name: feature for feature in foreign.features}


def check_states(foreign, corpus, keys=("text", "audio", "vision")):
    """Every sample has its own true rows and no others."""
    found = features(foreign)
    for split, part in corpus.items():
        for i, id in enumerate(part["id"]):
            for key in keys:
                assert np.array_equal(found[key].read(str(id)), states(split, key, i)), (split, key, i)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_unaligned_file(read, protocol):
    corpus = unaligned()
    foreign = read(corpus, protocol)
    check_states(foreign, corpus)
    samples = {sample.id: sample for sample in foreign.corpus.samples}
    assert len(samples) == sum(SIZES.values())
    first = samples["train0$_$20"]
    assert (first.split, first.label, first.group) == (Split.TRAIN, -3.0, "train0")
    assert first.raw[Modality.TEXT].text == "TEXT train 0"
    clips = sorted((s.position, s.id) for s in samples.values() if s.group == "train0")
    assert clips == [(0, "train0$_$14"), (1, "train0$_$16"), (2, "train0$_$18"), (3, "train0$_$20")]
    assert foreign.corpus.task == Task(low=-3, high=3)
    assert (foreign.format, foreign.corpus.name) == ("mmsa", "mosi")
    found = features(foreign)
    assert [(f.modality, f.dim) for f in foreign.features] == [("text", 6), ("audio", 5), ("face", 4)]
    assert found["text"].facts["lengths"] == "the mask in text_bert"
    assert found["audio"].facts["lengths"] == "audio_lengths"
    assert "skipped" in found["text"].facts["text_bert"]


def test_clips_are_ordered_as_numbers(read):
    corpus = unaligned()
    corpus["valid"]["id"] = ["v$_$10", "v$_$9", b"v$_$1"]
    positions = {sample.id: sample.position for sample in read(corpus).corpus.samples if sample.group == "v"}
    assert positions == {"v$_$1": 0, "v$_$9": 1, "v$_$10": 2}


def test_a_length_counts_from_the_end_that_is_not_padded(read):
    corpus = unaligned(front=True)
    check_states(read(corpus), corpus)
    check_states(read(corpus, padding="front"), corpus)
    back = features(read(corpus, padding="back"))["vision"]
    assert not np.array_equal(back.read("train0$_$18"), states("train", "vision", 2))


def test_without_padding_every_row_is_kept(read):
    corpus = unaligned()
    found = features(read(corpus, padding="none"))
    assert found["audio"].read("train0$_$20").shape == (A, 5)
    assert found["text"].facts["lengths"] == "every row, as set"


def test_lengths_beyond_the_array_are_cut_and_counted(read):
    corpus = unaligned()
    corpus["train"]["audio_lengths"][3] = A + 70
    corpus["test"]["audio_lengths"] = [float("nan"), 0, 3, 4]
    audio = features(read(corpus))["audio"]
    assert audio.facts["lengths longer than the array, cut"] == 1
    assert len(audio.read("train1$_$17")) == A
    for id, reason in (("test0$_$20", "a length of nan"), ("test1$_$19", "nothing but padding")):
        with pytest.raises(importing.Unreadable, match=reason):
            audio.read(id)


@pytest.mark.parametrize("bert", [True, False])
def test_an_aligned_file_has_the_rows_of_its_text(read, bert):
    """Zeros at the end of the sound are true where the text has words, and values beyond the text are not lost."""
    corpus = unaligned()
    for split, part in corpus.items():
        del part["audio_lengths"], part["vision_lengths"]
        if not bert:
            del part["text_bert"]
            part["text"] = padded(split, "text", T)
        part["audio"] = np.ones((SIZES[split], T, 5), np.float32)
        part["vision"] = np.ones((SIZES[split], T, 4), np.float32)
        for i in range(SIZES[split]):
            part["audio"][i, 2:] = 0  # two rows of sound, then silence
            part["vision"][i, LENGTHS["text"](i) :] = 0
    corpus["train"]["vision"][0, 7] = np.nan  # a value all the same
    found = features(read(corpus))
    for split in corpus:
        for i, id in enumerate(corpus[split]["id"]):
            assert len(found["audio"].read(id)) == LENGTHS["text"](i)
            assert len(found["vision"].read(id)) == (8 if (split, i) == ("train", 0) else LENGTHS["text"](i))
    assert found["audio"].facts["lengths"].startswith("the rows of the text")


def test_bert_without_a_mask_says_nothing_of_lengths(read):
    corpus = unaligned()
    for split, part in corpus.items():
        del part["audio_lengths"], part["vision_lengths"], part["text_bert"]
        part["audio"] = padded(split, "audio", T)
    found = features(read(corpus))
    assert len(found["text"].read("train0$_$20")) == T
    assert len(found["audio"].read("train0$_$20")) == 1
    assert found["audio"].facts["lengths"] == "rows of nothing but zeros at the back are padding"


def test_samples_of_zeros_alone_are_failures_and_never_zeros(read, tmp_path):
    corpus = unaligned()
    corpus["train"]["vision"][2] = 0
    corpus["train"]["text_bert"][1] = 0
    corpus["test"]["audio"][0, 0, 1] = -np.inf
    corpus["test"]["audio"][1] = np.nan
    store = FeatureStore.create(tmp_path / "store")
    index, reports = importing.bring_in(store, read(corpus))
    assert [(r.modality, r.failed) for r in reports] == [
        ("text", [("train1$_$19", "nothing but padding")]),
        ("audio", [("test1$_$19", "no finite value")]),
        ("face", [("train0$_$18", "nothing but padding")]),
    ]
    assert reports[1].not_finite == {"infinite or beyond float32 set to 0": 1, "samples with values set to 0": 1}
    reader = store.reader(store.view("mosi", Modality.FACE))
    row = index.ids.index("train0$_$18")
    assert reader.length[row] == -1
    assert reader.failures[row]["reason"] == "nothing but padding"
    assert index.about["leaks"] == []
    again, reports = importing.bring_in(store, read(corpus))
    assert again.fingerprint == index.fingerprint
    assert [r.written for r in reports] == [0, 0, 0]


def test_a_signalling_nan_is_a_value_and_no_warning(read):
    corpus = unaligned(front=True)
    corpus["train"]["audio"].view(np.uint32)[2, :] = 0
    corpus["train"]["audio"].view(np.uint32)[2, -1, 0] = 0x7F800001
    audio = features(read(corpus))["audio"]
    assert np.isnan(audio.read("train0$_$18")).sum() == 1


def sims():
    corpus = unaligned()
    for part in corpus.values():
        n = len(part["id"])
        part["regression_labels"] = np.linspace(-1, 1, n).astype(np.float32)
        for letter, value in (("T", 0.2), ("A", -0.4), ("V", 1.0)):
            part[f"regression_labels_{letter}"] = np.full((n, 1), value)
        part["regression_labels_A"][0] = np.nan
    return corpus


def test_ch_sims_labels_modalities_apart(read):
    foreign = read(sims())
    first, second = foreign.corpus.samples[:2]
    assert first.modality_labels == {Modality.TEXT: 0.2, Modality.FACE: 1.0}
    assert second.modality_labels == {Modality.TEXT: 0.2, Modality.AUDIO: -0.4, Modality.FACE: 1.0}
    assert foreign.corpus.task == Task(low=-1, high=1)
    assert foreign.features[0].facts["task"] == "sims: modalities are labelled apart"


def test_the_task_is_judged_from_the_labels_or_set(read):
    corpus = unaligned()
    assert read(corpus).features[0].facts["task"] == "mosi: 8 of 14 labels lie beyond 1"
    for part in corpus.values():
        part["regression_labels"] = part["regression_labels"] / 3
    assert read(corpus).corpus.task == Task(low=-1, high=1)
    assert read(corpus, task="mosi").corpus.task == Task(low=-3, high=3)
    corpus["test"]["regression_labels"][1] = 1.5
    with pytest.raises(SourceError, match=r"test1\$_\$19 has the label 1.5, outside \[-1, 1\]"):
        read(corpus, task="sims")
    corpus["test"]["regression_labels"][1] = np.inf
    with pytest.raises(SourceError, match="the label inf"):
        read(corpus)


def test_nan_is_no_label(read):
    corpus = unaligned()
    corpus["train"]["regression_labels"][0] = np.nan
    assert read(corpus).corpus.samples[0].label is None
    for part in corpus.values():
        del part["regression_labels"], part["classification_labels"]
    foreign = read(corpus)
    assert {sample.label for sample in foreign.corpus.samples} == {None}
    assert foreign.corpus.task == Task()


def test_mmsa_fet_and_its_containers(read):
    """float64, lists, a top-level config, one split, keys that are missing, rows as lists of lists."""
    corpus = {"train": unaligned()["train"], "config": {"audio": {"tool": "librosa"}}, "note": None}
    part = corpus["train"]
    for key in ("text_bert", "annotations", "classification_labels"):
        del part[key]
    true = {key: [states("train", key, i) for i in range(7)] for key in D}
    part["audio"] = list(part["audio"].astype(np.float64))
    part["vision"] = [rows.tolist() for rows in true["vision"]]
    part["text"] = np.empty(7, object)
    part["text"][:] = [*true["text"][:6], None]
    del part["vision_lengths"]
    part["raw_text"] = ["a", b"b", np.str_("c"), "ü".encode(), b"\xfc", None, float("nan")]
    part["regression_labels"] = [np.float64(0.5), [1], np.array([[2.5]]), 3, "-1", None, np.float32(0)]
    foreign = read(corpus)
    check_states(foreign, {"train": part}, keys=("audio", "vision"))
    text = features(foreign)["text"]
    assert all(np.array_equal(text.read(id), rows) for id, rows in zip(part["id"], true["text"][:6], strict=False))
    assert [text.digest(id) is None for id in part["id"]] == [False] * 6 + [True]
    assert [sample.label for sample in foreign.corpus.samples] == [0.5, 1, 2.5, 3, -1, None, 0]
    texts = [sample.raw[Modality.TEXT].text if sample.raw else "" for sample in foreign.corpus.samples]
    assert texts == ["a", "b", "c", "ü", "ü", "", ""]


def test_one_dict_of_all_samples_gets_its_splits_later(read):
    whole = unaligned()["train"]
    foreign = read(whole)
    assert {sample.split for sample in foreign.corpus.samples} == {None}
    assert {sample.keep_together for sample in foreign.corpus.samples} == {"train0", "train1"}


def test_pooled_features_are_one_row(read):
    corpus = unaligned()
    for part in corpus.values():
        part["audio"] = part["audio"][:, 0]
        del part["audio_lengths"]
    audio = features(read(corpus))["audio"]
    assert np.array_equal(audio.read("train0$_$20"), corpus["train"]["audio"][:1])


def test_missing_ids_are_places_and_said(read):
    corpus = unaligned()
    del corpus["valid"]["id"]
    foreign = read(corpus)
    assert [s.id for s in foreign.corpus.samples if s.split == "valid"] == ["valid_0", "valid_1", "valid_2"]
    assert foreign.features[0].facts["ids"] == "none in valid: samples are called by their place"


def test_an_id_twice_in_a_split_counts_once_and_in_two_splits_not_at_all(read):
    corpus = unaligned()
    corpus["train"]["id"][5] = "train0$_$20"
    foreign = read(corpus)
    assert [(d.id, d.reason) for d in foreign.corpus.dropped] == [("train0$_$20", "duplicate id")]
    assert len(foreign.corpus.samples) == 13
    assert np.array_equal(features(foreign)["audio"].read("train0$_$20"), states("train", "audio", 0))
    corpus["test"]["id"][1] = "train0$_$20"
    with pytest.raises(SourceError, match=r"'train0\$_\$20' is in train and in test"):
        read(corpus)


def test_digests_change_with_the_file_and_differ_by_place(read):
    corpus = unaligned()
    foreign = read(corpus)
    digests = {f.digest(sample.id) for f in foreign.features for sample in foreign.corpus.samples}
    assert len(digests) == 3 * 14
    assert {len(digest) for digest in digests} == {16}
    assert read(corpus).features[0].digest("train0$_$20") == foreign.features[0].digest("train0$_$20")
    corpus["test"]["audio"][0, 0, 0] += 1
    assert read(corpus).features[0].digest("train0$_$20") != foreign.features[0].digest("train0$_$20")


def test_a_name_and_a_modality_can_be_chosen(read):
    foreign = read(unaligned(), name="cmu-mosi", vision="image")
    assert foreign.corpus.name == "cmu-mosi"
    assert foreign.features[2].modality == Modality.IMAGE
    for odd in ("a+b", "a@b", ""):
        with pytest.raises(SourceError):
            read(unaligned(), name=odd)
    with pytest.raises(ConfigError, match="padding"):
        mmsa.Config(padding="left")


def broken(**changes):
    corpus = unaligned()
    corpus["train"].update(changes)
    return corpus


@pytest.mark.parametrize(
    ("corpus", "why"),
    [
        ([1, 2], "holds a list"),
        ({"a": 1, "b": 2}, "no train, valid or test; its keys are a, b"),
        ({"train": {}}, "has no samples"),
        ({"valid": unaligned()["valid"], "dev": unaligned()["valid"]}, "two of them are one split"),
        ({"train": {"id": ["a"], "regression_labels": [1.0]}}, "has no text, audio, vision"),
        (broken(audio=np.zeros((6, A, 5))), "has 6 rows, the split 7"),
        (broken(audio_lengths=[1, 2]), "has 2 rows, the split 7"),
        (broken(audio=np.zeros((7, A, 9))), "9 in train, 5 in valid"),
        (broken(audio=np.zeros((7, 2, 2, 5))), r"should hold numbers of the shape \(n, T, D\)"),
        (broken(audio=np.array([["x"] * 4] * 7)), "should hold numbers"),
        (broken(id=[1.5] * 7), "should hold texts"),
        (broken(id=["a"] * 6 + [""]), "row 6 is empty"),
        (broken(raw_text=None, id={"a": 1}), "no rows|should hold"),
        (broken(regression_labels=np.zeros((7, 2))), "one number per sample"),
        (broken(regression_labels=["good"] * 7), "one number per sample"),
    ],
)
def test_a_file_of_another_layout_says_what_is_wrong(read, corpus, why):
    with pytest.raises(SourceError, match=why) as raised:
        read(corpus)
    assert raised.value.fix


def test_lists_that_unfold_without_end_are_refused(read):
    row = [0.5] * 9000
    corpus = broken(audio=[[row] * 9000] * 7)
    with pytest.raises(SourceError, match="audio of train should hold samples of their own"):
        read(corpus)


def test_a_file_of_the_other_family_is_sent_there(read):
    part = {"text": np.ones((2, 5, 3)), "labels": np.ones((2, 1, 1)), "id": ["a", "b"]}
    with pytest.raises(SourceError, match="family of MulT") as raised:
        read({"train": part})
    assert "format mult" in raised.value.fix


# writing


def bundle(store, index, dtype="float32", kinds=(Modality.TEXT, Modality.AUDIO, Modality.FACE), missing=3):
    """A store with views of `kinds`: sample i has 1 to 9 rows, sample `missing` no audio, and some rows are zero."""
    dataset = store.add_index(index)
    readers = {}
    for k, kind in enumerate(kinds):
        view = f"{kind:v>16}"
        store.add_view(view, {"modality": kind, "backbone": f"made.{kind}", "dim": 3 + k, "dtype": dtype})
        writer = store.writer(view, dataset, Form(3 + k, dtype, 16, 64), {})
        for i in range(len(index)):
            rows = np.random.default_rng([i, k]).normal(size=(1 + (i * 5 + k) % 9, 3 + k)).astype(dtype)
            rows[1:] *= i % 4 != 1  # the end of a true sample may be zeros
            if kind != Modality.AUDIO or i != missing:
                writer.write(i, bytes([i + 1, k]) * 8, rows)
        store.publish(view, [writer.seal()])
        readers[kind] = store.reader(store.view(dataset, kind))
    return Bundle(index, readers)


def regression(n=20):
    index = make_index(n)
    labels = np.random.default_rng(1).uniform(-3, 3, (n, 3)).astype(np.float32)
    labels[4, 0] = labels[5, 1] = np.nan
    return replace(
        index,
        task=Task(low=-3, high=3),
        ids=[f"video{i % 4}$_${i}" for i in range(n)],
        group=[f"video{i % 4}" for i in range(n)],
        position=np.arange(n) // 4,
        labels=labels,
        label_names=("label", "label_face", "label_text"),  # in the order an import has them
        text=[f"text {i} 😀" for i in range(n)],
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_comes_back_the_same(store, tmp_path, dtype):
    index = regression()
    given = bundle(store, index, dtype)
    remarks = mmsa.write(given, tmp_path / "out" / "mine.pkl")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "mine.pkl"]
    foreign = mmsa.read(tmp_path / "out" / "mine.pkl", mmsa.Config(task="mosi"), index.name)
    other = FeatureStore.create(tmp_path / "other")
    back, reports = importing.bring_in(other, foreign)
    row = {id: i for i, id in enumerate(back.ids)}
    order = [row[id] for id in index.ids]
    assert sorted(order) == list(range(len(index)))
    for name in ("split", "position"):
        assert np.array_equal(getattr(back, name)[order], getattr(index, name))
    assert np.array_equal(back.labels[order], index.labels, equal_nan=True)
    assert back.label_names == index.label_names
    assert back.task == index.task
    assert [back.text[i] for i in order] == index.text
    assert [back.group[i] for i in order] == index.group
    for modality in given.readers:
        reader = other.reader(other.view(index.name, modality))
        assert np.array_equal(reader.length[order], given.readers[modality].length)
        for i, j in enumerate(order):
            if reader.length[j] >= 0:
                assert reader.read(j).tobytes() == given.states(modality, i).astype(np.float32).tobytes()
    audio = next(report for report in reports if report.modality == Modality.AUDIO)
    assert audio.failed == [(index.ids[3], "nothing but padding")]
    assert any("1 of 20 samples have no audio" in remark for remark in remarks)
    assert any("1 of 20 samples have no label" in remark for remark in remarks)
    assert any("text_bert" in remark for remark in remarks)
    assert not any("group" in remark for remark in remarks)


def test_the_file_has_the_keys_and_shapes_of_mmsa(store, tmp_path):
    index = regression()
    mmsa.write(bundle(store, index), tmp_path / "mine.pkl")
    content = pickle.loads((tmp_path / "mine.pkl").read_bytes())
    assert list(content) == ["train", "valid", "test"]
    train, n = content["train"], len(index.rows(Split.TRAIN))
    assert {key: train[key].shape for key in D} == {"text": (n, 9, 3), "audio": (n, 9, 4), "vision": (n, 9, 5)}
    assert {train[key].dtype for key in (*D, "regression_labels")} == {np.dtype("float32")}
    assert len(train["raw_text"]) == len(train["id"]) == len(train["vision_lengths"]) == n
    known = ~np.isnan(train["regression_labels"])
    assert np.array_equal(np.sign(train["regression_labels"])[known] + 1, train["classification_labels"][known])
    names = {-1: "", 0: "Negative", 1: "Neutral", 2: "Positive"}
    assert [names[int(c)] for c in train["classification_labels"]] == list(train["annotations"])
    assert {"regression_labels_T", "regression_labels_V"} < train.keys()
    assert "regression_labels_A" not in train


def test_sentiment_classes_are_signs_and_others_refused(store, tmp_path, index):
    given = bundle(store, index, kinds=(Modality.AUDIO, Modality.IMAGE))
    remarks = mmsa.write(given, tmp_path / "mine.pkl")
    content = pickle.loads((tmp_path / "mine.pkl").read_bytes())
    rows = index.rows(Split.TEST)
    assert index.task == SENTIMENT
    assert np.array_equal(content["test"]["regression_labels"], index.labels[rows, 0] - 1)
    assert content["test"].keys() & set(D) == {"audio", "vision"}
    assert any("-1, 0, 1" in remark for remark in remarks)
    assert any("the group of 10 of 20" in remark for remark in remarks)
    for task in (Task(("joy", "fear", "rage")), Task(("a", "b"), multilabel=True), Task(low=0, high=10)):
        with pytest.raises(ConfigError, match="MMSA's pickle holds sentiment"):
            mmsa.write(Bundle(replace(index, task=task), given.readers), tmp_path / "other.pkl")
    assert not (tmp_path / "other.pkl").exists()


def test_pictures_beside_faces_stay_behind(store, tmp_path):
    given = bundle(store, regression(), kinds=(Modality.FACE, Modality.IMAGE))
    assert any("image is left out" in remark for remark in mmsa.write(given, tmp_path / "mine.pkl"))


def test_what_does_not_fit_the_memory_is_not_begun(store, tmp_path, monkeypatch):
    given = bundle(store, regression())
    monkeypatch.setattr(mmsa.psutil, "virtual_memory", lambda: SimpleNamespace(available=20_000))
    with pytest.raises(StoreError, match=r"0\.0 GB in memory, and 0\.0 GB are free"):
        mmsa.write(given, tmp_path / "mine.pkl")
    assert not (tmp_path / "mine.pkl").exists()


def test_what_does_not_fit_the_disk_is_not_begun(store, tmp_path, monkeypatch):
    given = bundle(store, regression())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match=r"mine\.pkl needs about 0\.0 MB, and 0\.0 MB are free"):
        mmsa.write(given, tmp_path / "mine.pkl")
    assert not list(tmp_path.glob("*.pkl")) + list(tmp_path.glob(".tmp-*"))


def test_a_file_that_is_there_is_not_written_over(store, tmp_path):
    (tmp_path / "mine.pkl").write_text("precious")
    with pytest.raises(StoreError, match="exists"):
        mmsa.write(bundle(store, regression()), tmp_path / "mine.pkl")
    assert (tmp_path / "mine.pkl").read_text() == "precious"


@pytest.mark.parametrize(
    ("numbers", "settings", "classes", "first"),
    [
        ([0, 1, 2, 0, 1, 2, 2], {}, SENTIMENT.classes, "negative"),
        ([2, -1, 2, 0, -1, 2, 0], {}, SENTIMENT.classes, "positive"),
        ([-1, 1, 0, 0, 1, 1, 0], {}, SENTIMENT.classes, "negative"),
        ([0, 1, 1, 0, 1, 0, 0], {}, ("0", "1"), "0"),
        ([4, 3, 2, 1, 0, 0, 0], {}, ("0", "1", "2", "3", "4"), "4"),
        ([0, 1, 2, 0, 1, 2, 2], {"classes": "a,b,c"}, ("a", "b", "c"), "a"),
    ],
)
def test_classification_labels_are_the_labels_where_there_are_no_others(read, numbers, settings, classes, first):
    part = unaligned()["train"]
    del part["regression_labels"]
    part["classification_labels"] = np.array(numbers)
    found = read({"train": part}, **settings).corpus
    assert found.task == Task(classes=classes)
    assert found.samples[0].label == first
    assert [sample.label is None for sample in found.samples] == [n == -1 and max(numbers) > 1 for n in numbers]
    assert found.labels.startswith(f"{len(classes)} classes")


def test_the_settings_of_labels_leave_the_views_of_others_as_they_were(read):
    assert dict(read(unaligned()).corpus.settings) == {"task": "mosi", "vision": "face", "padding": "auto"}
