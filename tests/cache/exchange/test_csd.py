"""csd: files as the CMU-MultimodalSDK writes them, with what real ones hold besides."""

import json

import h5py
import numpy as np
import pytest

from msa.cache.exchange import csd
from msa.cache.exchange._import import bring_in, lacking
from msa.cache.store import FeatureStore
from msa.errors import SourceError, UnknownNameError
from msa.types import Dropped, Modality, Split, Task
from tests.cache.exchange.corpora import AUDIO, FACE, NAN, TEXT

VIDEOS = ("aaa", "bbb", "ccc", "ddd")
# Two segments of each video, as they stand in the file: the later one of bbb first.
SEGMENTS = {"aaa": [(0, 2), (2, 5)], "bbb": [(4, 6), (0, 4)], "ccc": [(0, 3), (3, 6)], "ddd": [(0, 1), (50, 60)]}
WORDS = [b"sp", b"so", b"very", "naïve".encode(), b"sp", b"done"]  # a second each


def sequence(path, root, videos, metadata=None, **options):
    """A .csd file: {"video": (features, intervals)}."""
    with h5py.File(path, "w") as file:
        for video, (features, intervals) in videos.items():
            group = file.create_group(f"{root}/data/{video}")
            group.create_dataset("features", data=np.asarray(features), **options)
            group.create_dataset("intervals", data=np.asarray(intervals, np.float64), **options)
        for key, value in (metadata or {"root name": root, "contact": "somebody"}).items():
            written = file.create_dataset(f"{root}/metadata/{key}", (1,), dtype=h5py.string_dtype())
            written[0] = json.dumps(value)
    return path


def steps(n, hop):
    """(n, 2) intervals one after the other."""
    return np.array([[i * hop, (i + 1) * hop] for i in range(n)])


def frames(video, n=60, width=4):
    """(n, width) float32, the first column the number of the row, the second that of the video."""
    rows = np.ones((n, width), np.float32)
    rows[:, 0], rows[:, 1] = np.arange(n), VIDEOS.index(video)
    return rows


@pytest.fixture
def folder(tmp_path):
    """Labels, words, phones, and two features of 10 and 5 rows a second; roots that are not the files' names."""
    path = tmp_path / "mosi"
    path.mkdir()
    marks = {video: ([[1.5], [-2.0]], SEGMENTS[video]) for video in VIDEOS}
    sequence(path / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", marks)
    words = np.array(WORDS)[:, None]
    sequence(path / "CMU_MOSI_TimestampedWords.csd", "words", {v: (words, steps(6, 1.0)) for v in VIDEOS})
    sequence(path / "CMU_MOSI_TimestampedPhones.csd", "phones", {v: (words, steps(6, 1.0)) for v in VIDEOS})
    named = {"root name": "COVAREP", "dimension names": ["row", "video", "x", "y"], "dataset version": "1.0"}
    sequence(path / "a.csd", "COVAREP", {v: (frames(v), steps(60, 0.1)) for v in VIDEOS}, named, compression="gzip")
    faces = {v: (frames(v, 30, 3), steps(30, 0.2)) for v in ("aaa", "bbb", "ccc")}
    sequence(path / "CMU_MOSI_Visual_Facet_42.csd", "FACET 4.2", faces)
    return path


def feature(foreign, modality):
    return next(found for found in foreign.features if found.modality is modality)


def rows(foreign, id, modality=AUDIO):
    """The numbers of the rows of the file that a sample has."""
    return feature(foreign, modality).read(id)[:, 0].tolist()


# samples


def test_segments_become_samples_with_their_rows_words_and_labels(folder, tmp_path):
    store = FeatureStore.create(tmp_path / "store")
    index, reports = bring_in(store, csd.read(folder))
    assert index.name == "mosi"
    assert index.task == Task(low=-3, high=3)
    assert list(index.ids) == [f"{video}$_${k}" for video in VIDEOS for k in ((1, 0) if video == "bbb" else (0, 1))]
    assert list(index.group) == [video for video in VIDEOS for _ in range(2)]
    assert index.position.tolist() == [0, 1] * 4, "in the order of time, whatever that of the file"
    by_id = dict(zip(index.ids, range(8), strict=True))
    assert {id: float(index.y[row]) for id, row in by_id.items() if id[:3] == "bbb"} == {"bbb$_$0": 1.5, "bbb$_$1": -2}
    assert [index.text[by_id[id]] for id in ("aaa$_$0", "aaa$_$1", "bbb$_$0")] == ["so", "very naïve", "done"]
    audio = store.reader(store.view("mosi", AUDIO))
    np.testing.assert_array_equal(audio.read(by_id["aaa$_$1"]), frames("aaa")[20:50])
    np.testing.assert_array_equal(audio.read(by_id["bbb$_$0"]), frames("bbb")[40:60])
    view = store.view("mosi", AUDIO)
    assert view.name == "csd.COVAREP"
    assert view.attributes["columns"] == ["row", "video", "x", "y"]
    assert view.attributes["facts"] == {
        "file": "a.csd", "rows without a finite interval": 0, "dataset version": "1.0",
    }  # fmt: skip
    assert {report.name: report.failed for report in reports} == {
        "csd.COVAREP": [("ddd$_$1", "no rows in 50.0-60.0 s")],
        "csd.FACET 4.2": [("ddd$_$0", "FACET 4.2 has no video ddd"), ("ddd$_$1", "FACET 4.2 has no video ddd")],
    }
    assert {split: {index.group[i] for i in index.rows(split)} for split in Split}.keys() == set(Split)
    assert lacking(index) == ""
    assert not index.about["leaks"] or all("group" not in leak for leak in index.about["leaks"])


def test_a_split_file_may_name_videos(folder, tmp_path):
    names = tmp_path / "folds.json"
    names.write_text(json.dumps({"train": ["aaa", "bbb", "elsewhere"], "valid": ["ccc"]}))
    index, _ = bring_in(FeatureStore.create(tmp_path / "store"), csd.read(folder), split_file=names)
    parts = {index.group[i]: split for split in Split for i in index.rows(split)}
    assert parts == {"aaa": Split.TRAIN, "bbb": Split.TRAIN, "ccc": Split.VALID}
    assert index.about["dropped"] == {"not in the split file": 2}
    assert "no test sample" in lacking(index)


def test_emotions_are_the_six_columns_after_sentiment(folder):
    (folder / "CMU_MOSI_Opinion_Labels.csd").unlink()
    marks = {v: ([[0.5, 1, 0, 0, 2, 0, 1 / 3], [NAN] * 7], SEGMENTS[v]) for v in VIDEOS}
    sequence(folder / "CMU_MOSEI_Labels.csd", "All Labels", marks)
    corpus = csd.read(folder, csd.Config(task="emotions")).corpus
    assert corpus.task == Task(classes=("happy", "sad", "anger", "surprise", "disgust", "fear"), multilabel=True)
    assert [sample.label for sample in corpus.samples[:2]] == [(1, 0, 0, 2, 0, pytest.approx(1 / 3)), None]
    assert [sample.label for sample in csd.read(folder).corpus.samples[:2]] == [0.5, None]


def test_emotions_where_there_are_none_are_an_error(folder):
    with pytest.raises(SourceError, match=r"aaa\$_\$0 has 1 labels, task=emotions needs 7"):
        csd.read(folder, csd.Config(task="emotions"))


def test_a_label_that_cannot_be_right_is_named(folder):
    marks = {"aaa": ([[1.0], [4.5]], SEGMENTS["aaa"])}
    sequence(folder / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", marks)
    with pytest.raises(SourceError, match=r"the label of aaa\$_\$1: 4\.5 is not in the range from -3 to 3"):
        csd.read(folder)


def test_what_has_no_interval_and_who_has_no_label_is_dropped(folder):
    marks = {"aaa": ([[1.0], [1.0], [1.0], [1.0]], [(0, 2), (3, 3), (NAN, 5), (4, 2)])}
    sequence(folder / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", marks)
    corpus = csd.read(folder).corpus
    assert [sample.id for sample in corpus.samples] == ["aaa$_$0"]
    assert corpus.dropped == [
        Dropped("aaa$_$1", "no interval", "3.0 to 3.0 s"),
        Dropped("aaa$_$2", "no interval", "nan to 5.0 s"),
        Dropped("aaa$_$3", "no interval", "4.0 to 2.0 s"),
        *(Dropped(video, "no labelled segment") for video in ("bbb", "ccc", "ddd")),
    ]


# cutting


def test_rows_are_taken_by_overlap_in_the_order_of_time_and_those_without_an_interval_counted(folder):
    """Segment 0-2 s, then 2-5 s. A row that is shared by both is in both; rounding is no overlap."""
    spans = [
        (4.0, 4.5),  # 0: late, stands first
        (1.5, 2.5),  # 1: across the border
        (0.0, 1.0),  # 2
        (NAN, 1.0),  # 3: counted
        (0.5, 0.7),  # 4: inside of row 2
        (2.0 - 1e-6, 2.2),  # 5: a float's rounding before the border
        (1.0, 1.0),  # 6: a moment
        (5.0, 6.0),  # 7: behind
        (1.0, np.inf),  # 8: counted
    ]
    sequence(folder / "a.csd", "COVAREP", {"aaa": (frames("aaa", 9), spans)})
    foreign = csd.read(folder)
    assert rows(foreign, "aaa$_$0") == [2, 4, 6, 1]
    assert rows(foreign, "aaa$_$1") == [1, 5, 0]
    assert feature(foreign, AUDIO).facts["rows without a finite interval"] == 2


def test_float16_stays_and_one_column_may_be_flat(folder):
    flat = {v: (np.arange(60, dtype=np.float16), steps(60, 0.1)) for v in VIDEOS}
    sequence(folder / "a.csd", "COVAREP", flat)
    audio = feature(csd.read(folder), AUDIO)
    assert (audio.dim, audio.dtype) == (1, "float16")
    assert audio.read("aaa$_$0").shape == (20, 1)


def test_a_damaged_video_fails_alone(folder, tmp_path):
    with h5py.File(folder / "a.csd", "a") as file:
        data = file["COVAREP/data"]
        del data["aaa/intervals"], data["bbb/features"], data["ccc/features"]
        data["aaa/intervals"] = steps(7, 0.1)
        data["ccc/features"] = frames("ccc", width=9)
        file["COVAREP/data/eee/features"] = frames("aaa")
        file["COVAREP/data/eee/intervals"] = steps(60, 0.1)
    marks = {v: ([[1.5], [-2.0]], SEGMENTS[v]) for v in VIDEOS} | {"eee": ([[1.0]], [(0, 1)])}
    sequence(folder / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", marks)
    _, reports = bring_in(FeatureStore.create(tmp_path / "store"), csd.read(folder))
    report = next(report for report in reports if report.modality is AUDIO)
    assert report.written == 2
    failed = dict(report.failed)
    assert failed["aaa$_$0"] == "/COVAREP/data/aaa has features [60, 4] and intervals [7, 2]"
    assert failed["bbb$_$0"] == "/COVAREP/data/bbb lacks features or intervals"
    assert failed["ccc$_$0"] == "shape [30, 9], expected [T, 4]"


def test_aligned_sequences_are_read_by_their_entries(folder):
    """After `align` every segment has entries of its own, and a row at a border stands in two of them."""
    marks = {f"aaa[{k}]": ([[float(k)]], [SEGMENTS["aaa"][k]]) for k in (0, 1)}
    sequence(folder / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", marks)
    parts = {
        "aaa[0]": (frames("aaa")[:21], steps(60, 0.1)[:21]),
        "aaa[1]": (frames("aaa")[20:50], steps(60, 0.1)[20:50]),
    }
    sequence(folder / "a.csd", "COVAREP", parts)
    foreign = csd.read(folder)
    assert [(s.id, s.group, s.position, s.label) for s in foreign.corpus.samples] == [
        ("aaa$_$0", "aaa", 0, 0.0),
        ("aaa$_$1", "aaa", 1, 1.0),
    ]
    assert rows(foreign, "aaa$_$1") == list(range(20, 50))
    assert rows(foreign, "aaa$_$0", FACE) == list(range(10)), "that of the whole video is cut"


# which sequence is what


def test_sequences_are_known_by_name_or_said_and_never_guessed(folder):
    numbers = {v: (frames(v), steps(60, 0.1)) for v in VIDEOS}
    sequence(folder / "new.csd", "My Features", numbers)
    with pytest.raises(SourceError, match="nothing says of which modality My Features is") as error:
        csd.read(folder)
    assert "modality=My Features:KIND" in error.value.fix
    kinds = lambda said: {f.name: f.modality for f in csd.read(folder, csd.Config(modality=said)).features}  # noqa: E731
    assert kinds("my features:text") == {"My Features": TEXT, "COVAREP": AUDIO, "FACET 4.2": FACE}
    assert kinds("new:image,COVAREP:none") == {"My Features": Modality.IMAGE, "FACET 4.2": FACE}
    with pytest.raises(UnknownNameError, match="sound"):
        kinds("new:sound")
    with pytest.raises(UnknownNameError, match="other"):
        kinds("other:text")


@pytest.mark.parametrize(
    ("root", "file", "kind"),
    [
        ("OpenSmile-emobase2010", "CMU_MOSI_OpenSmile_EB10", AUDIO),
        ("glove_vectors", "CMU_MOSI_TimestampedWordVectors", TEXT),
        ("glove_vectors_with_sp", "CMU_MOSEI_TimestampedGloveVectors_with_SP", TEXT),
        ("OpenFace_2", "CMU_MOSEI_VisualOpenFace2", FACE),
        ("phonemes", "CMU_MOSI_TimestampedPhones", "none"),
        ("words", "CMU_MOSEI_TimestampedWords", "words"),
        ("All Labels", "CMU_MOSEI_Labels", "labels"),
        ("video level sentiment", "POM_Labels_Video_Level_Sentiment", "labels"),
        ("computed", "hubert-base", AUDIO),
        ("numbers", "numbers", None),
    ],
)
def test_the_usual_names_say_what_they_are(root, file, kind, tmp_path):
    path = sequence(tmp_path / f"{file}.csd", root, {"aaa": (frames("aaa"), steps(60, 0.1))})
    (track,) = csd.Track.all_of(path)
    assert csd._kind(track) == kind


def test_one_file_may_hold_several_sequences(folder):
    whole = folder.parent / "all.h5"
    with h5py.File(whole, "w") as file:
        for part in folder.glob("*.csd"):
            with h5py.File(part) as source:
                for root in source:
                    source.copy(root, file)
    foreign = csd.read(whole)
    assert foreign.corpus.name == "all"
    assert rows(foreign, "aaa$_$1") == list(range(20, 50))


def test_labels_are_named_where_there_are_none_or_several(folder):
    marks = {v: ([[1.0], [2.0]], SEGMENTS[v]) for v in VIDEOS}
    sequence(folder / "CMU_MOSI_Old_Labels.csd", "Older Labels", marks)
    with pytest.raises(SourceError, match="2 sequences of labels: 'Older Labels', 'Opinion Segment Labels'"):
        csd.read(folder)
    for said in ("older labels", "CMU_MOSI_Old_Labels", "CMU_MOSI_Old_Labels.csd"):
        assert csd.read(folder, csd.Config(labels=said)).corpus.samples[1].label == 2.0
    with pytest.raises(UnknownNameError, match="newer"):
        csd.read(folder, csd.Config(labels="newer"))
    with pytest.raises(SourceError, match="0 sequences of labels; it holds 'COVAREP'"):
        csd.read(folder / "a.csd")


# what is no such folder


def test_what_is_no_sequence_is_said(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"holds no \.csd file"):
        csd.read(tmp_path / "empty")
    data = (folder / "a.csd").read_bytes()
    (folder / "a.csd").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"a\.csd: damaged or cut short"):
        csd.read(folder)
    with h5py.File(folder / "a.csd", "w") as file:
        file.create_group("COVAREP")
    with pytest.raises(SourceError, match="no /ROOT/data"):
        csd.read(folder)


def test_links_are_not_followed(folder, tmp_path):
    secret = sequence(tmp_path / "secret.csd", "s", {"aaa": (frames("aaa"), steps(60, 0.1))})
    with h5py.File(folder / "a.csd", "a") as file:
        del file["COVAREP/data/aaa"]
        file["COVAREP/data/aaa"] = h5py.ExternalLink(str(secret), "s/data/aaa")
    audio = feature(csd.read(folder), AUDIO)
    with pytest.raises(Exception, match="aaa is a ExternalLink, and links are not followed"):
        audio.read("aaa$_$0")
    assert audio.read("bbb$_$0").shape == (20, 4)


def test_features_of_other_videos_are_an_error_that_names_them(folder):
    sequence(folder / "a.csd", "COVAREP", {"zzz": (frames("aaa"), steps(60, 0.1))})
    with pytest.raises(SourceError, match="COVAREP has nothing readable of the 8 labelled segments"):
        csd.read(folder)
