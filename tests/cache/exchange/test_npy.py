"""npy: what people have in their folders is read as they mean it, and what is written reads the same."""

import json
from dataclasses import replace

import numpy as np
import pytest

from msa.cache.exchange import _import as importing
from msa.cache.exchange import npy
from msa.cache.exchange._foreign import Unreadable
from msa.cache.exchange._import import bring_in, lacking
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.errors import ConfigError, SourceError, StoreError, UnknownNameError
from msa.types import SENTIMENT, Dropped, Modality, Split, Task
from tests.cache.exchange.corpora import AUDIO, EMOTIONS, FACE, IDS, TASKS, TEXT, assert_equal, fill, there_and_back


def folder(path, rows, features, table="samples.csv"):
    """A folder as people make it: the text of a table, and {"audio": {"id": array or bytes}}."""
    path.mkdir(exist_ok=True)
    (path / table).write_text(rows, "utf-8")
    for name, files in features.items():
        for id, states in files.items():
            file = path / name / f"{id}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(states, bytes):
                file.write_bytes(states)
            else:
                np.save(file, states, allow_pickle=True)
    return path


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def imported(foreign, tmp_path, **options):
    store = FeatureStore.create(tmp_path / "store")
    index, reports = bring_in(store, foreign, **options)
    return store, index, reports


# round trips


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of every kind of label, as what a format writes."""
    return {kind: fill(FeatureStore.create(tmp_path_factory.mktemp(kind) / "store"), kind) for kind in TASKS}


@pytest.mark.parametrize("kind", TASKS)
def test_a_corpus_comes_back_bit_for_bit(kind, made, tmp_path):
    bundle = made[kind]
    back, reports, remarks = there_and_back(bundle, npy, tmp_path / "out", tmp_path / "b")
    assert_equal(bundle, back)
    assert [report.failed for report in reports if report.modality is AUDIO] == [[("../up", "no file")]]
    assert "1 of 12 samples have no audio states: nothing stands for them" in remarks
    facts = back.readers[AUDIO].view.attributes
    assert facts["columns"] == ["f0", "f1"]
    assert facts["facts"]["exported from"]["backbone"] == "made.audio"
    assert (tmp_path / "out" / "audio" / "b%2Fc.npy").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "out"], "nothing temporary is left"


def test_a_sample_that_lacks_a_modality_lacks_it_again_where_that_is_said(made, tmp_path):
    npy.write(made["classes"], tmp_path / "out")
    face = lambda **settings: npy.read(tmp_path / "out", npy.Config(**settings)).features[1].digest(IDS[11])  # noqa: E731
    assert face() is not None
    assert face(missing="absent") is None


def test_nothing_is_written_over(made, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="out exists"):
        npy.write(made["values"], tmp_path / "out")


@pytest.mark.parametrize("id", [" padded", "", "x" * 300])
def test_what_a_table_or_a_file_name_cannot_hold_is_refused_and_nothing_is_left(id, made, tmp_path):
    bundle = replace(made["classes"], index=replace(made["classes"].index, ids=[id, *IDS[1:]]))
    with pytest.raises(StoreError) as error:
        npy.write(bundle, tmp_path / "out")
    assert "hdf5" in error.value.fix
    assert list(tmp_path.iterdir()) == []


# folders that people have


def test_every_kind_of_file_is_read_or_recorded_and_no_pickle_is_opened(tmp_path):
    rows = "id,split,label,group\n" + "".join(
        f"{id},{part},{label},g\n"
        for id, part, label in [
            ("ok", "train", "positive"), ("flat", "train", "negative"), ("double", "valid", "neutral"),
            ("fortran", "test", "neutral"), ("wide", "train", ""), ("cube", "train", ""), ("empty", "train", ""),
            ("torn", "train", ""), ("objects", "train", ""), ("words", "train", ""), ("norows", "train", ""),
            ("lost", "train", ""), ("../escape", "train", ""), ("huge", "train", ""), ("text", "train", ""),
        ]
    )  # fmt: skip
    matrix = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "whole.npy", ones(50, 4))
    whole = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "escape.npy", ones(1, 4))
    files = {
        "ok": ones(2, 4), "flat": np.arange(4), "double": matrix, "fortran": np.asfortranarray(matrix),
        "wide": ones(2, 5), "cube": ones(2, 2, 4), "empty": b"", "torn": whole[:-40],
        "objects": np.array([[{"a": 1}, 2, 3, 4]], dtype=object), "words": np.array([["a", "b", "c", "d"]]),
        "norows": ones(0, 4), "huge": whole.replace(b"(50, 4), }      ", b"(90000000, 4), }"), "text": b"0.5 0.7\n",
        "extra": ones(2, 4),
    }  # fmt: skip
    path = folder(tmp_path / "mine", rows, {"audio": files})
    foreign = npy.read(path)
    assert foreign.corpus.dropped == [Dropped("audio/extra.npy", "no row in samples.csv")]
    store, index, (report,) = imported(foreign, tmp_path)
    reader = store.reader(store.views("mine")[0])
    read = {index.ids[row]: reader.read(row) for row in np.flatnonzero(reader.length >= 0)}
    assert read.keys() == {"ok", "flat", "double", "fortran"}
    np.testing.assert_array_equal(read["flat"], [[0, 1, 2, 3]])
    np.testing.assert_array_equal(read["fortran"], matrix.astype(np.float32))
    reasons = dict(report.failed)
    assert reasons["wide"] == "shape [2, 5], expected [T, 4]"
    assert reasons["cube"] == "shape [2, 2, 4], expected [T, 4]"
    assert reasons["empty"] == "empty file"
    assert reasons["norows"] == "no rows"
    assert reasons["lost"] == reasons["../escape"] == "no file"
    for id in ("torn", "objects", "huge", "text"):
        assert reasons[id].startswith("damaged file"), id
    assert reasons["words"] == "holds <U1, not numbers"
    assert index.has(AUDIO).all()


def test_sixteen_bits_are_kept_only_where_every_file_has_no_more(tmp_path):
    half = np.float16(0.1) * ones(2, 3, dtype=np.float16)
    rows = "id,split\na,train\nb,valid\nc,test\n"
    path = folder(tmp_path / "m", rows, {"audio": dict.fromkeys("abc", half), "face": {"a": half, "b": ones(1, 3)}})
    audio, face = npy.read(path).features
    assert (audio.dtype, face.dtype) == ("float16", "float32")
    store, _, _ = imported(npy.read(path), tmp_path)
    view = store.view("m", AUDIO)
    assert view.attributes["dtype"] == view.attributes["identity"]["dtype"] == "float16"
    assert store.reader(view).read(0).tobytes() == half.tobytes()


def test_what_a_view_cannot_hold_is_counted_or_recorded(tmp_path, monkeypatch):
    """Infinite values of float16 become 0 and are counted; a sample that no shard could hold fails alone."""
    odd = np.array([[1, np.inf], [np.nan, 2]], np.float16)
    files = {"a": odd, "b": ones(2, 2, dtype=np.float16), "c": ones(5, 2, dtype=np.float16)}
    path = folder(tmp_path / "m", "id,split\na,train\nb,valid\nc,test\n", {"audio": files})
    monkeypatch.setattr(importing.Form, "of", lambda width, dtype: Form(width, dtype, 2, 4))
    store, _, (report,) = imported(npy.read(path), tmp_path)
    assert report.failed == [("c", "5 rows, more than the 4 a shard holds")]
    assert report.not_finite["infinite or beyond float16 set to 0"] == report.not_finite["NaN set to 0"] == 1
    assert store.reader(store.view("m", AUDIO)).read(0).tolist() == [[1, 0], [0, 2]]


def test_folders_are_known_by_name_or_said_and_never_guessed(tmp_path):
    files = {"a": ones(1, 2)}
    names = ("vision", "text", "covarep")
    path = folder(tmp_path / "m", "id,split\na,train\n", dict.fromkeys(names, files))
    with pytest.raises(SourceError, match="nothing says of which modality covarep is") as error:
        npy.read(path)
    assert "modality=covarep:KIND" in error.value.fix
    kinds = lambda **settings: {f.name: f.modality for f in npy.read(path, npy.Config(**settings)).features}  # noqa: E731
    assert kinds(modality="covarep:audio") == {"vision": FACE, "text": TEXT, "covarep": AUDIO}
    assert kinds(modality="covarep:none,vision:image") == {"vision": Modality.IMAGE, "text": TEXT}
    with pytest.raises(UnknownNameError, match="covarepp"):
        kinds(modality="covarepp:audio")
    with pytest.raises(UnknownNameError, match="sound"):
        kinds(modality="covarep:sound")
    with pytest.raises(ConfigError, match="says no modality"):
        kinds(modality="covarep")


def test_an_id_may_be_a_path_in_the_folder(tmp_path):
    rows = "id,split\nv1/0001,train\nv1/0002,valid\n"
    path = folder(tmp_path / "m", rows, {"audio": {"v1/0001": ones(1, 2), "v1/0002": 2 * ones(1, 2)}})
    (feature,) = npy.read(path).features
    assert feature.read("v1/0002").tolist() == [[2, 2]]


def test_labels_are_read_by_the_rules_of_tables(tmp_path):
    audio = {"audio": {"a": ones(1, 2)}}
    read = lambda text, **settings: npy.read(folder(tmp_path / "m", text, audio), npy.Config(**settings)).corpus  # noqa: E731
    corpus = read("id,label,label_text,text\na,Positive,neutral, hi \nb,,negative,\n")
    assert corpus.task == SENTIMENT
    assert [s.label for s in corpus.samples] == ["positive", None]
    assert corpus.samples[1].modality_labels == {TEXT: "negative"}
    assert read("id,label\na,-1.5\nb,2\n").task == Task(low=-1.5, high=2)
    assert read("id,label\na,-1.5\nb,2\n", range=(-3.0, 3.0)).task == Task(low=-3, high=3)
    with pytest.raises(SourceError, match=r"line 3: the label is 4, and labels go from -3 to 3"):
        read("id,label\na,-1.5\nb,4\n", range=(-3.0, 3.0))
    several = read("id,happy,sad\na,0,2\nb,,\nc,1,\n", labels="Happy,sad")
    assert several.task == Task(classes=("Happy", "sad"), multilabel=True)
    assert [s.label for s in several.samples[:2]] == [(0.0, 2.0), None]
    assert np.isnan(several.samples[2].label[1])
    with pytest.raises(SourceError, match="no column angry"):
        read("id,happy\na,0\n", labels="happy,angry")
    with pytest.raises(SourceError, match="line 2: the label is 'nan'"):
        read("id,label\na,nan\n")
    with pytest.raises(SourceError, match="line 3: id 'a' is already in line 2"):
        read("id,label\na,1\na,2\n")


def test_what_is_told_beside_the_table_is_checked(tmp_path):
    path = folder(tmp_path / "m", "id,label\na,good\n", {"audio": {"a": ones(1, 2)}})
    tell = lambda told: (path / "corpus.json").write_text(json.dumps(told))  # noqa: E731
    tell({"some": "other file"})
    assert npy.read(path).corpus.task.classes == ("good",)
    tell({"format": "msa", "version": 1, "name": "n", "task": {"classes": ["bad", "good"], "low": 0, "high": 0}})
    assert (npy.read(path).corpus.task.classes, npy.read(path).corpus.name) == (("bad", "good"), "n")
    tell({"format": "msa", "version": 2})
    with pytest.raises(SourceError, match="version 2, this msa reads 1"):
        npy.read(path)
    tell({"format": "msa", "version": 1, "task": {"classes": ["bad"]}})
    with pytest.raises(SourceError, match="is no task"):
        npy.read(path)
    (path / "corpus.json").write_text("{")
    with pytest.raises(SourceError, match=r"corpus\.json"):
        npy.read(path)


def test_a_folder_that_is_none_says_how_it_should_lie(tmp_path):
    path = tmp_path / "m"
    path.mkdir()
    with pytest.raises(SourceError, match=r"no table of labels samples\.csv"):
        npy.read(path)
    folder(path, "id\na\n", {})
    with pytest.raises(SourceError, match=r"no folder of \.npy files"):
        npy.read(path)
    folder(path, "id\na\n", {"audio": {"b": ones(1, 2)}})
    with pytest.raises(SourceError, match=r"none of 1 files is called after an id: b\.npy, and the ids are 'a'"):
        npy.read(path)
    folder(path, "id\na\n", {"audio": {"a": b"x"}})
    with pytest.raises(SourceError, match=r"none of 1 files .* can be read"):
        npy.read(path)
    with pytest.raises(SourceError, match=r"\+ and @"):
        npy.read(path, name="a+b")


def test_a_file_that_changed_is_another_input_and_one_that_is_copied_is_the_same(tmp_path):
    path = folder(tmp_path / "m", "id\na\nb\n", {"audio": {"a": ones(1, 2), "b": ones(1, 2)}})
    before = npy.read(path)
    (feature,) = before.features
    assert feature.digest("a") == feature.digest("b")
    folder(path, "id\na\nb\n", {"audio": {"b": 3 * ones(1, 2)}})
    after = npy.read(path)
    assert after.digest != before.digest
    assert after.features[0].digest("a") == feature.digest("a") != after.features[0].digest("b")
    (path / "audio" / "b.npy").unlink()
    with pytest.raises(Unreadable, match="no file"):
        npy.read(path).features[0].read("b")


@pytest.mark.real
def test_mosi_as_people_have_it(shared, tmp_path):
    """895 utterances, of which the folder has no test part: that is said, for training needs one."""
    foreign = npy.read(shared / "data" / "mosi_npy")
    store, index, reports = imported(foreign, tmp_path)
    assert {(r.modality, r.written, len(r.failed)) for r in reports} == {(AUDIO, 895, 0), (FACE, 895, 0)}
    assert [len(index.rows(split)) for split in Split] == [757, 138, 0]
    assert (store.view("mosi_npy", AUDIO).dim, store.view("mosi_npy", FACE).dim) == (73, 100)
    assert index.task == SENTIMENT
    assert "no test sample" in lacking(index)
    first = np.load(shared / "data" / "mosi_npy" / "audio" / f"{index.ids[17]}.npy")
    np.testing.assert_array_equal(store.reader(store.view("mosi_npy", AUDIO)).read(17), first)


def test_the_multilabel_task_survives_letters_of_either_case(made, tmp_path):
    npy.write(made["several"], tmp_path / "out")
    assert (tmp_path / "out" / "samples.csv").read_text("utf-8").splitlines()[0].startswith("id,split,happy,sad,über")
    assert npy.read(tmp_path / "out").corpus.task == EMOTIONS


def test_links_are_followed_inside_the_folder_that_was_named_and_no_further(tmp_path):
    """As git-annex and DVC lay files: FOLDER/audio/a.npy -> FOLDER/.git/annex/objects/..."""
    root, objects = tmp_path / "talks", tmp_path / "talks" / ".git" / "objects"
    objects.mkdir(parents=True)
    (root / "audio").mkdir()
    (root / "samples.csv").write_text("id,label\na,1.5\nb,2.5\nc,0.5\nd,0.25\n")
    np.save(objects / "a.npy", np.full((2, 3), 7.0))
    np.save(tmp_path / "b.npy", np.ones((2, 3)))
    np.save(root / "audio" / "d.npy", np.ones((1, 3)))
    for id, target in (("a", objects / "a.npy"), ("b", tmp_path / "b.npy"), ("c", objects / "gone")):
        (root / "audio" / f"{id}.npy").symlink_to(target)
    (tmp_path / "other").symlink_to(root)  # the folder itself may be named by a link
    for named in (root, tmp_path / "other"):
        [feature] = npy.read(named).features
        np.testing.assert_array_equal(feature.read("a"), np.full((2, 3), 7.0))
        with pytest.raises(Unreadable, match="a link that leads out of the folder that was named"):
            feature.read("b")
        with pytest.raises(Unreadable, match="a link to nothing"):
            feature.read("c")
    before = feature.digest("a")
    np.save(objects / "a.npy", np.full((2, 3), 8.0))
    assert npy.read(root).features[0].digest("a") != before
