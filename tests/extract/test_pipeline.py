import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import types
from collections import namedtuple
from dataclasses import replace
from typing import ClassVar

import av
import numpy as np
import pytest

from msa import catalog
from msa.cache.format.manifest import ViewEntry
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.segment import SegmentWriter
from msa.errors import BackboneError, ConfigError, StoreError
from msa.extract import job, pipeline
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.media import decode
from msa.extract.pipeline import Limits
from msa.extract.recipe import Recipe
from msa.extract.scan import of_store, scan
from msa.extract.work import prefetch
from msa.progress import Progress
from msa.types import Modality
from tests.extract import corpus

TEXT = Modality.TEXT


def extract(store, found, recipe, *rest):
    """One view."""
    return pipeline.extract(store, found, [recipe], *rest)[0]


@pytest.fixture
def table(tmp_path):
    return corpus.write(tmp_path / "corpus")


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def ngrams():
    return Recipe.resolve(TEXT, "ngrams")


def states(store, name="posts", modality=TEXT):
    """Sample id -> bytes of its hidden states."""
    index = store.index(name)
    reader = store.reader(store.view(name, modality))
    return {index.ids[row]: reader.read(row).tobytes() for row in np.flatnonzero(reader.length >= 0)}


def test_every_sample_is_extracted_once_and_the_store_is_sound(store, table, ngrams):
    report = extract(store, scan("table", table), ngrams, "cpu")
    assert (report.wanted, report.written, report.failed) == (24, 24, [])
    again = extract(store, scan("table", table), ngrams, "cpu")
    assert (again.already, again.written) == (24, 0)
    assert len(states(store)) == 24
    assert verify(store) == []


def test_what_stands_in_the_store_is_what_the_backbone_says_of_each_sample_alone(store, table, ngrams):
    found = scan("table", table)
    extract(store, found, ngrams, "cpu")
    backbone = ngrams.load("cpu")
    for row, name in enumerate(found.index.ids):
        alone = backbone.encode([decode.clip(TEXT, found.raws[row][TEXT])])[0]
        assert states(store)[name] == alone.tobytes()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from msa.cache.write.segment import SegmentWriter
    from msa.cache.store import FeatureStore
    from msa.extract.pipeline import Limits, extract
    from msa.extract.recipe import Recipe
    from msa.extract.scan import scan
    from msa.types import Modality

    store, table, at = FeatureStore.create(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    calls, real = [], SegmentWriter.write

    def write(*args):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)

    SegmentWriter.write = write
    extract(store, scan("table", table), [Recipe.resolve(Modality.TEXT, "ngrams")], "cpu", Limits(flush_s=0.0))
"""


@pytest.mark.parametrize("at", [1, 10, 24])
def test_a_killed_run_goes_on_where_it_stopped_and_ends_in_the_same_bytes(tmp_path, store, table, ngrams, at):
    extract(store, scan("table", table), ngrams, "cpu")
    killed = tmp_path / "killed"
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), killed, table, str(at)])
    assert run.returncode == -signal.SIGKILL
    resumed = FeatureStore.open(killed)
    report = extract(resumed, scan("table", table), ngrams, "cpu")
    assert report.recovered == at - 1  # every committed sample: with a flush after each, only the open one is lost
    assert report.written == 24 - (at - 1)
    assert states(resumed) == states(store)
    assert verify(resumed) == []


def test_an_interrupted_run_keeps_what_it_has_done(store, table, ngrams, monkeypatch):
    real, seen = decode.clip, []

    def clip(modality, raw, *rest):
        seen.append(raw)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return real(modality, raw, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "clip", clip)
        patch.setattr(prefetch, "DEPTH", 0)
        with pytest.raises(KeyboardInterrupt):
            extract(store, scan("table", table), ngrams, "cpu")
    done = len(states(store))
    assert 0 < done < 24
    report = extract(store, scan("table", table), ngrams, "cpu")
    assert (report.already, report.written) == (done, 24 - done)
    assert verify(store) == []


def test_a_sample_that_cannot_be_read_is_recorded_and_the_run_goes_on(store, tmp_path):
    table = corpus.write(tmp_path / "corpus", pictures=True)
    (table.parent / "3.png").write_bytes(b"")
    (table.parent / "4.png").write_bytes((table.parent / "5.png").read_bytes()[:60])
    (table.parent / "6.png").unlink()
    recipe = Recipe.resolve(Modality.IMAGE, "descriptors")
    report = extract(store, scan("table", table), recipe, "cpu")
    assert [(name, stage) for name, stage, _ in sorted(report.failed)] == [(f"s0{i}", "decode") for i in (3, 4, 6)]
    reasons = {name: reason for name, _, reason in report.failed}
    assert reasons["s03"] == "empty file"
    assert reasons["s06"] == "missing file"
    assert "PNG" in reasons["s04"]
    view = store.view("posts", Modality.IMAGE)
    assert (view.samples, view.failed) == (21, 3)
    assert extract(store, scan("table", table), recipe, "cpu").written == 0  # recorded failures are not tried again


class Recorded(Progress):
    """Notes what it is told."""

    def __init__(self):
        self.begun, self.done, self.ended = [], [], 0

    def begin(self, name, total, done=0):
        self.begun.append((name, total, done))

    def advance(self, done, failed=0):
        self.done.append((done, failed))

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("engine", [pipeline.PIPELINE, pipeline.SERIAL])
def test_progress_counts_every_sample_once_as_written_or_failed(store, tmp_path, engine):
    table = corpus.write(tmp_path / "corpus", pictures=True)
    for i in (3, 4):
        (table.parent / f"{i}.png").write_bytes(b"")
    recipe, progress = Recipe.resolve(Modality.IMAGE, "descriptors"), Recorded()
    pipeline.extract(store, scan("table", table), [recipe], "cpu", Limits(samples=5), engine=engine)
    pipeline.extract(store, scan("table", table), [recipe], "cpu", Limits(budget=10), progress, engine)
    assert (progress.begun, progress.ended) == ([("descriptors.grid", 24, 3)], 1)
    assert progress.done == [(5, 0), (10, 0), (4, 0)]  # the first batch computes three samples again, and writes none


def test_failures_are_tried_again_on_request(store, tmp_path):
    table = corpus.write(tmp_path / "corpus", pictures=True)
    good = (table.parent / "3.png").read_bytes()
    (table.parent / "3.png").write_bytes(b"")
    recipe = Recipe.resolve(Modality.IMAGE, "descriptors")
    extract(store, scan("table", table), recipe, "cpu")
    (table.parent / "3.png").write_bytes(good)
    report = extract(store, scan("table", table), recipe, "cpu", Limits(retry_errors=True))
    assert (report.written, report.failed) == (1, [])
    assert store.view("posts", Modality.IMAGE).failed == 0


class Moody(Backbone):
    """An encoder that refuses one text, and with it every batch it is in."""

    dim, versions = 4, {}

    def __init__(self):
        self.calls = 0

    def encode(self, clips):
        self.calls += 1
        if any("number 7" in clip for clip in clips):
            raise RuntimeError("out of memory")
        return [np.full((len(clip), 4), len(clip), np.float16) for clip in clips]


def test_a_poisonous_sample_is_isolated_by_halving_its_batch(store, table, ngrams, monkeypatch):
    moody = Moody()
    monkeypatch.setattr(Recipe, "load", lambda self, device: moody)
    report = extract(store, scan("table", table), ngrams, "cpu")
    assert report.failed == [("s07", "encode", "RuntimeError: out of memory")]
    assert report.written == 23
    assert moody.calls == 3 + 6 + 1  # three batches, the halves of one (4+4, 2+2, 1+1), the last once more: memory


def test_nan_is_a_failure_and_never_stored(store, table, ngrams, monkeypatch):
    class Dizzy(Moody):
        def encode(self, clips):
            return [np.full((2, 4), np.nan if "number 3" in clip else 1, np.float16) for clip in clips]

    monkeypatch.setattr(Recipe, "load", lambda self, device: Dizzy())
    report = extract(store, scan("table", table), ngrams, "cpu")
    assert [(name, stage) for name, stage, _ in report.failed] == [("s03", "encode")]
    assert verify(store) == []


def test_too_many_errors_end_the_run_and_keep_what_it_has(store, tmp_path):
    table = corpus.write(tmp_path / "corpus", pictures=True)
    for i in range(8, 16):
        (table.parent / f"{i}.png").write_bytes(b"")
    recipe = Recipe.resolve(Modality.IMAGE, "descriptors")
    with pytest.raises(BackboneError, match="--max-errors allows 2"):
        extract(store, scan("table", table), recipe, "cpu", Limits(max_errors=2))
    assert store.view("posts", Modality.IMAGE).samples == 8


def test_a_run_in_which_everything_fails_is_an_error(store, tmp_path):
    table = corpus.write(tmp_path / "corpus", pictures=True)
    for path in table.parent.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BackboneError, match="none of 24"):
        extract(store, scan("table", table), Recipe.resolve(Modality.IMAGE, "descriptors"), "cpu")


def test_other_splits_of_the_same_corpus_cost_nothing(store, table, ngrams):
    extract(store, scan("table", table), ngrams, "cpu")
    before = states(store)
    report = extract(store, scan("table", table, seed=7), ngrams, "cpu")
    assert (report.borrowed, report.written) == (24, 0)
    assert states(store) == before
    assert len(store.manifest.datasets) == 2
    assert verify(store) == []


def test_a_limit_extracts_the_first_and_a_later_run_the_rest(store, table, ngrams):
    assert extract(store, scan("table", table), ngrams, "cpu", Limits(samples=5)).written == 5
    assert sorted(states(store)) == [f"s0{i}" for i in range(5)]
    assert extract(store, scan("table", table), ngrams, "cpu").written == 19


@pytest.mark.parametrize("at", [5, 40, 60, 80, 100, 120, 140, 160])
def test_a_full_disk_keeps_what_was_committed(store, table, ngrams, monkeypatch, at):
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) >= at:  # and it stays full
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="disk is full"):
            extract(store, scan("table", table), ngrams, "cpu", Limits(flush_s=0.0))
    assert not list(store.path.rglob(".tmp-*"))
    store = FeatureStore.open(store.path)
    assert verify(store) == []
    extract(store, scan("table", table), ngrams, "cpu")
    assert len(states(store)) == 24


def test_a_disk_that_will_not_do_is_named_early(store, table, ngrams, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    with pytest.raises(StoreError, match="still to come need about"):
        extract(store, scan("table", table), ngrams, "cpu")
    assert len(states(store)) == 8


def test_identity_is_what_decides_the_numbers_and_nothing_else(ngrams):
    faster = replace(ngrams, spec=replace(ngrams.spec, batch=1))
    other = replace(ngrams, weights=Weights(None, None, "0" * 64))
    assert faster.view_id == ngrams.view_id
    assert other.view_id != ngrams.view_id
    assert Recipe.resolve(TEXT, "ngrams", ["dims=128"]).view_id != ngrams.view_id


def test_a_store_pins_the_revision_it_was_extracted_with(store):
    known = {"name": "hf:org/model", "revision": "abc123", "sha256": "0"}
    store.add_view("v", {"modality": "text", "backbone": "hf:model", "dim": 2, "weights": known})
    store.publish("v", [])
    store.manifest = store.manifest.with_view("v", ViewEntry({}))
    from msa.extract.recipe import _pinned

    assert _pinned(store, "hf:org/model") == "abc123"
    assert _pinned(store, "hf:org/other") is None


def test_batches_are_planned_over_the_whole_corpus_so_that_a_resumed_run_meets_the_same_ones(store, table, ngrams):
    met = []

    class Watching(Moody):
        def encode(self, clips):
            met.append(list(clips))
            return [np.ones((1, 4), np.float16) for _ in clips]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "load", lambda self, device: Watching())
        extract(store, scan("table", table), ngrams, "cpu", Limits(samples=24))
        whole = list(met)
        met.clear()
        other = FeatureStore.create(store.path.parent / "other")
        patch.setattr(SegmentWriter, "write", _first(5, SegmentWriter.write))
        with pytest.raises(KeyboardInterrupt):
            extract(other, scan("table", table), ngrams, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "load", lambda self, device: Watching())
        met.clear()
        extract(other, scan("table", table), ngrams, "cpu")
    assert met == whole


def _first(n, real):
    calls = []

    def write(*args):
        calls.append(1)
        if len(calls) > n:
            raise KeyboardInterrupt
        real(*args)

    return write


@pytest.mark.real
def test_real_posts_are_counted_by_the_merge_rule(shared):
    index = scan("mvsa-single", shared / "data" / "mvsa_single").index
    counts = {name: int((index.y == n).sum()) for n, name in enumerate(index.task.classes)}
    assert counts == {"positive": 330, "neutral": 58, "negative": 166}
    assert index.about["dropped"] == {"text and image conflict": 46}
    assert index.about["encodings"]["cp1252"] == 127
    assert index.about["leaks"] == []


# videos: one pass for sound and faces


class Brightness(Backbone):
    """Stands in for a face backbone: one row per frame, its mean; dark frames have no face."""

    dim = 2
    versions: ClassVar = {"made": "up"}

    def __init__(self):
        self.lost, self.closed = 0, 0

    def encode(self, clips):
        found = []
        for frames in clips:
            mean = frames.pixels.mean((1, 2, 3))
            seen = mean > 30
            self.lost += int((~seen).sum())
            if not seen.any():
                raise ValueError(f"no face in {len(seen)} frames")
            found.append(np.column_stack([frames.times, mean])[seen].astype(np.float32))
        return found

    def counts(self):
        lost, self.lost = self.lost, 0
        return {"frames without a face": lost} if lost else {}

    def close(self):
        self.closed += 1


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A table of three videos with sound, one of them dark, and one that is missing; and recipes for both streams."""
    from tests.extract.media.test_decode import video

    for n, name in enumerate(["a", "b", "dark"]):
        video(tmp_path / f"{name}.mp4", seconds=1.0 + 0.4 * n, rate=5, sound=True, first=0 if name == "dark" else 40)
    lines = [f"{name},1,say {name},{name}.mp4,train" for name in ("a", "b", "dark", "lost")]
    (tmp_path / "films.csv").write_text("id,label,text,video,split\n" + "\n".join(lines) + "\n")
    stub = Brightness()
    spec = BackboneSpec(Modality.FACE, options={"fps": 5.0, "side": 64}, dtype="float32", batch=1)
    real = catalog.load
    module = types.SimpleNamespace(load=lambda *args: stub, SPECS={"x": spec})
    monkeypatch.setattr(catalog, "load", lambda kind, name: module if name == "stub" else real(kind, name))
    face = Recipe("stub.x", "stub", spec, Weights(None, None, "0" * 64))
    return scan("table", tmp_path / "films.csv"), Recipe.resolve(Modality.AUDIO, "librosa"), face, stub


def test_sound_and_faces_of_a_video_come_from_one_pass(store, films, monkeypatch):
    found, audio, face, stub = films
    opened = []
    monkeypatch.setattr(av, "open", lambda file, real=av.open, **k: opened.append(file.name) or real(file, **k))
    sound, faces = pipeline.extract(store, found, [audio, face], "cpu")
    assert sorted(opened) == sorted(
        {raw[Modality.FACE].path.name for raw in found.raws if raw[Modality.FACE].path.exists()}
    )
    assert (sound.written, [f[0] for f in sound.failed]) == (3, ["lost"])
    assert faces.written == 2
    assert sorted(faces.failed) == [
        ("dark", "encode", "ValueError: no face in 9 frames"),
        ("lost", "decode", "missing file"),
    ]
    assert faces.counts == {"frames without a face": 9}
    assert stub.closed == 1
    assert verify(store) == []


def test_one_pass_writes_what_two_would(store, films, tmp_path):
    found, audio, face, _ = films
    pipeline.extract(store, found, [audio, face], "cpu")
    apart = FeatureStore.create(tmp_path / "apart")
    pipeline.extract(apart, found, [audio], "cpu")
    pipeline.extract(apart, found, [face], "cpu")
    for modality in (Modality.AUDIO, Modality.FACE):
        assert states(store, "films", modality) == states(apart, "films", modality)


def test_where_one_of_two_views_is_there_only_the_other_is_made(store, films):
    found, audio, face, _ = films
    pipeline.extract(store, found, [audio], "cpu")
    sound, faces = pipeline.extract(store, found, [audio, face], "cpu")
    assert (sound.already, sound.failed_before, sound.written) == (3, 1, 0)
    assert faces.written == 2


def test_what_a_limit_means_does_not_depend_on_the_modality(store, films):
    found, audio, face, _ = films
    sound, faces = pipeline.extract(store, found, [audio, face], "cpu", Limits(samples=1))
    assert (sound.wanted, faces.wanted) == (1, 1)


# corpora that are in the store and nowhere else


def test_texts_of_a_corpus_in_the_store_can_be_extracted_anew(store, table, ngrams):
    extract(store, scan("table", table), ngrams, "cpu")
    stored = of_store(store.index("posts"))
    assert stored.modalities == [TEXT]
    assert "--dataset table --root FILE" in stored.remark
    none = dict.fromkeys((Modality.IMAGE, Modality.AUDIO, Modality.FACE), job.SKIP)  # as `msa cache repair` writes it
    assert job.chosen(job.Job("posts", None, "classic", {TEXT: "ngrams.words", **none}), stored) == {
        TEXT: "ngrams.words"
    }
    with pytest.raises(ConfigError, match="posts has no audio"):
        job.chosen(job.Job("posts", None, "classic", {Modality.AUDIO: "librosa.acoustic"}), stored)
    letters = Recipe.resolve(TEXT, "ngrams", ["dims=64"])
    report = extract(store, stored, letters, "cpu")
    assert report.written == 24
    assert len(store.views("posts")) == 2
    assert len(store.datasets) == 1


def test_a_resumed_pass_meets_the_same_batches_whichever_view_lacks_a_sample(store, films):
    found, audio, face, _ = films
    met = []
    acoustic = audio.load("cpu")

    class Watching(Backbone):
        dim, versions = acoustic.dim, acoustic.versions

        def encode(self, clips):
            met.append(len(clips))
            return acoustic.encode(clips)

    pipeline.extract(store, found, [audio], "cpu", Limits(samples=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "load", lambda self, device: films[3] if self.family == "stub" else Watching())
        sound, faces = pipeline.extract(store, found, [audio, face], "cpu", Limits(budget=2))
    assert (sound.written, faces.written) == (2, 2)
    assert met == [2, 1]  # the first sample is there, and is computed again beside its batch mate


def test_views_of_one_pass_share_batches_that_the_tightest_budget_fills(store, films):
    found, audio, face, stub = films
    met = []
    acoustic = audio.load("cpu")
    real = acoustic.encode

    class Watching(Backbone):
        dim, versions, budget = acoustic.dim, acoustic.versions, 2

        def encode(self, clips):
            met.append(len(clips))
            return real(clips)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "load", lambda self, device: stub if self.family == "stub" else Watching())
        sound, faces = pipeline.extract(store, found, [audio, face], "cpu")
    assert (sound.written, faces.written) == (3, 2)
    assert met == [1, 1, 1]
