"""One `msa extract`: what is chosen, refused before a file is read, passed together, and estimated."""

from pathlib import Path

import numpy as np
import pytest

from msa.cache.store import FeatureStore
from msa.errors import BackboneError, ConfigError, SourceError, UnknownNameError
from msa.extract import job
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.job import SKIP, Job
from msa.extract.pipeline import Limits
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan, scan
from msa.extract.work.cluster import Cluster
from msa.types import Modality, Raw
from tests.extract import corpus

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE


@pytest.fixture
def posts(tmp_path):
    """24 texts with pictures."""
    return corpus.write(tmp_path / "posts", pictures=True)


@pytest.fixture
def found(posts):
    return scan("table", posts)


def films(found: Scan, raw: dict) -> Scan:
    """The same dataset, with other material of its first sample."""
    return Scan(found.index, [raw, *found.raws[1:]])


def test_engines_and_parts_are_known_by_name():
    assert job.engine("serial", timeout_s=3).timeout_s == 3
    assert job.engine("dask", 4, timeout_s=3) == Cluster(None, 4, 3)
    with pytest.raises(UnknownNameError, match="pipelin"):
        job.engine("pipelin")
    with pytest.raises(ConfigError, match="--scheduler is of engine dask"):
        job.engine("serial", scheduler="tcp://x:1")
    assert job.share("2/8") == (2, 8)
    for text in ("0/3", "4/3", "x", "1/"):
        with pytest.raises(ConfigError, match="is not I/N"):
            job.share(text)


@pytest.mark.parametrize("face", [None, "pyfeat", "pyfeat:FOLDER"])
def test_fps_is_a_setting_of_faces(face):
    assert job.fps_setting(2.5, face) == ["face.fps=2.5"]
    assert job.fps_setting(None, face) == []


def test_fps_is_refused_where_no_video_is_searched_for_faces():
    with pytest.raises(ConfigError, match=r"--fps 2 says .* and --face is openface"):
        job.fps_setting(2.0, "openface")
    assert job.fps_setting(None, "openface") == []


def test_each_modality_that_is_there_gets_the_presets_backbone_or_the_one_that_was_named(found):
    assert job.chosen(Job("table", None, "classic"), found) == {TEXT: "ngrams.words", IMAGE: "descriptors.grid"}
    assert job.chosen(Job("table", None), found) == {TEXT: "roberta.base", IMAGE: "resnest.50d"}
    named = Job("table", None, "classic", {IMAGE: "timm:resnet18"})
    assert job.chosen(named, found) == {TEXT: "ngrams.words", IMAGE: "timm:resnet18"}
    assert job.chosen(Job("table", None, "classic", {IMAGE: SKIP}), found) == {TEXT: "ngrams.words"}


def test_what_the_dataset_lacks_is_refused_and_what_it_has_is_named(found):
    with pytest.raises(ConfigError, match="posts has no audio") as error:
        job.chosen(Job("table", None, "classic", {AUDIO: "librosa"}), found)
    assert error.value.fix == "leave out --audio; it has text, image"
    with pytest.raises(ConfigError, match="posts has no audio, face, and a setting is about it"):
        job.chosen(Job("table", None, "classic", settings=["audio.f0=yin", "face.fps=2", "text.dims=8"]), found)
    with pytest.raises(ConfigError, match="every modality is left out"):
        job.chosen(Job("table", None, "classic", dict.fromkeys((TEXT, IMAGE), SKIP)), found)
    assert job.chosen(Job("table", None, "classic", {AUDIO: SKIP}), found)  # what is not there may be left out


@pytest.mark.parametrize(
    ("changed", "error", "what"),
    [
        ({"dataset": "tabel"}, UnknownNameError, "did you mean 'table'"),
        ({"preset": "clasic"}, UnknownNameError, "did you mean 'classic'"),
        ({"backbones": {TEXT: "ngram"}}, UnknownNameError, "did you mean 'ngrams"),
        ({"backbones": {TEXT: "librosa"}}, BackboneError, "encodes audio, not text"),
        ({"settings": ["text.dim=8"]}, UnknownNameError, "did you mean 'dims'"),
        ({"settings": ["txet.dims=8"]}, UnknownNameError, "did you mean 'text'"),
    ],
)
def test_a_misspelt_name_is_refused_before_the_dataset_is_read(changed, error, what):
    job.check(Job("table", Path("nowhere"), "classic", settings=["text.dims=8", "columns=label:mood"]))
    with pytest.raises(error, match=what):
        job.check(Job(**{"dataset": "table", "root": Path("nowhere"), "preset": "classic"} | changed))


def test_a_dataset_that_the_store_has_needs_no_file_of_its_own(tmp_path, found):
    store = FeatureStore.create(tmp_path / "store")
    with pytest.raises(UnknownNameError):
        job.check(Job("posts", None, "classic"), store)
    store.add_index(found.index)
    job.check(Job("posts", None, "classic"), store)
    assert job.survey(Job("posts", None, "classic"), store).modalities == [TEXT]


def test_without_a_root_the_dataset_says_where_it_comes_from():
    with pytest.raises(SourceError, match=r"no --root was given for tess, and none before: .*licence") as error:
        job.survey(Job("tess", None))
    assert error.value.fix.startswith("msa extract --dataset tess --root PATH")


def test_reading_a_dataset_is_counted_file_by_file(posts):
    class Counted(job.Progress):
        begun, done, ended = None, 0, 0

        def begin(self, name, total, done):
            Counted.begun = (name, total, done)

        def advance(self, done, failed):
            Counted.done += done

        def end(self):
            Counted.ended += 1

    found = job.survey(Job("table", posts), progress=Counted())
    assert (len(found.index.ids), Counted.begun[0], Counted.begun[2], Counted.ended) == (24, "reading table", 0, 1)
    assert Counted.done == Counted.begun[1] == 24


def test_tables_of_openface_are_asked_for_where_only_videos_are_named(found):
    asked = Job("table", None, "classic", {TEXT: SKIP, IMAGE: SKIP, FACE: "openface"})
    with pytest.raises(ConfigError, match="openface reads tables that OpenFace wrote, and posts has videos"):
        job.recipes(asked, films(found, {FACE: Raw(path=Path("a.mp4"))}), None)
    [recipe] = job.recipes(asked, films(found, {FACE: Raw(path=Path("a.csv"))}), None)
    assert recipe.spec.modality is FACE


def test_settings_reach_the_backbone_of_their_modality_alone(found):
    asked = Job("table", None, "classic", settings=["text.dims=64", "image.grid=4", "columns=label:mood"])
    text, image = job.recipes(asked, found, None)
    assert (text.spec.options["dims"], image.spec.options["grid"]) == (64, 4)


@pytest.mark.parametrize("shared", [True, False])
def test_sound_and_face_of_one_file_share_a_pass(monkeypatch, found, shared):
    film = Raw(path=Path("a.mp4"))
    raw = {TEXT: Raw(text="x"), AUDIO: film if shared else Raw(path=Path("a.wav")), FACE: film}
    todo = [Recipe(m, m, BackboneSpec(m), Weights(None, None, "")) for m in (TEXT, AUDIO, IMAGE, FACE)]
    passes = []

    def extract(store, found, group, *rest):
        passes.append([recipe.spec.modality for recipe in group])
        return list(group)

    monkeypatch.setattr(job.pipeline, "extract", extract)
    reports = job.execute(Job("table", None), films(found, raw), todo, None)
    assert passes == ([[TEXT], [IMAGE], [AUDIO, FACE]] if shared else [[TEXT], [AUDIO], [IMAGE], [FACE]])
    assert len(reports) == 4


def test_an_estimate_is_what_extraction_writes_and_writes_nothing(tmp_path, found):
    store = FeatureStore.create(tmp_path / "store")
    asked = Job("table", None, "classic", settings=["text.dims=64"])
    before = job.estimate(asked, found, store)
    assert [(e.modality, e.samples, e.already, e.problem) for e in before] == [
        (TEXT, 24, False, ""),
        (IMAGE, 24, False, ""),
    ]
    assert not store.manifest.views
    job.execute(asked, found, job.recipes(asked, found, store), store)
    opened = FeatureStore.open(store.path)
    assert [e.already for e in job.estimate(asked, found, opened)] == [True, True]
    image = opened.reader(opened.view("posts", IMAGE))
    rows = int(np.asarray(image.length).sum())
    assert before[1].bytes == rows * before[1].dim * 2  # float16; every picture has as many places
    tried = np.linspace(0, 23, job.SAMPLED).astype(int)
    text = opened.reader(opened.view("posts", TEXT))
    assert before[0].rows == pytest.approx(np.asarray(text.length)[tried].mean())


def test_an_estimate_counts_the_samples_of_the_limit_and_names_what_cannot_be_found(found):
    asked = Job("table", None, "classic", {IMAGE: "timm:no_such_network@nowhere"}, limits=Limits(samples=5))
    text, image = job.estimate(asked, found, None)
    assert (text.samples, text.problem, image.samples, image.bytes) == (5, "", 5, 0)
    assert "nowhere" in image.problem
