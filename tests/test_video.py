"""From mp4 files in the layout of CMU-MOSI to a trained HCL and its predictions, as a person types it."""

import csv
import json
import shutil

import numpy as np
import pytest

from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.types import Modality, Split
from tests import films
from tests.commands.test_commands import msa  # noqa: F401
from tests.extract.faces import needs_pyfeat, write_weights

pytestmark = pytest.mark.real
HCL = ("--model", "hcl", "--preset", "small", "--seeds", "1", "--set", "epochs=2", "--set", "warmup_epochs=1")


@pytest.fixture(scope="module")
def corpus(shared, tmp_path_factory):
    """24 clips of four videos."""
    return films.corpus(tmp_path_factory.mktemp("mosi") / "MOSI", shared / "data" / "faces")


@pytest.fixture
def measured(corpus, shared, tmp_path):
    """The same with OpenFace's tables beside it: pieces of a real one. One clip has lost its video."""
    root = shutil.copytree(corpus, tmp_path / "MOSI")
    with open(shared / "data" / "faces" / "OpenFace_Test.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    for n, path in enumerate(sorted((root / "Raw").rglob("*.mp4"))):
        table = root / "openface" / path.parent.name / f"{path.stem}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with open(table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows[n : n + 12]])
    (root / "Raw" / "vid1" / "2.mp4").unlink()
    return root


def test_from_mp4_and_openface_to_a_trained_hcl(msa, measured):  # noqa: F811
    words = ("--text", "ngrams", "--audio", "librosa", "--face", "openface.csv", "--set", "openface=openface")
    code, out, err = msa("extract", "--dataset", "mosi", "--root", measured, "--store", "s", *words)
    assert code == 0, err
    assert "24 samples, split official" in out
    store = FeatureStore.open("s")
    assert verify(store) == []
    views = {view.modality: view for view in store.views("mosi")}
    assert {m: (v.samples, v.failed) for m, v in views.items()} == {
        Modality.TEXT: (24, 0),
        Modality.AUDIO: (23, 1),
        Modality.FACE: (24, 0),
    }
    index = store.index("mosi")
    assert store.reader(views[Modality.AUDIO]).failures[index.ids.index("vid1$_$2")]["reason"] == "missing file"
    assert "AU12_r" in views[Modality.FACE].attributes["columns"]
    assert [len(index.rows(split)) for split in Split] == [12, 6, 6]
    assert msa("fuse", "train", *HCL, "--out", "run")[0] == 0
    metrics = json.loads(msa("fuse", "show", "run", "--json")[1])[0]
    assert {"mae", "corr", "acc2_non0", "acc7"} <= metrics["values"].keys()
    found = json.loads(msa("predict", "--run", "run", "--text", "a lovely day", "--json")[1])
    assert np.isfinite(float(found[0]["label"]))


@pytest.mark.slow
@needs_pyfeat
def test_from_mp4_through_pyfeat_to_a_trained_hcl_and_a_prediction(msa, corpus, shared, tmp_path):  # noqa: F811
    """The weights are random, of the real shapes: what is tested is the way, not what they see."""
    frames = np.stack(films.pictures(shared / "data" / "faces" / "single_face.mp4")[:2])
    faces = f"pyfeat:{write_weights(tmp_path, frames)}"
    words = ("--text", "ngrams", "--audio", "librosa", "--face", faces, "--fps", "0.5")
    code, out, err = msa("extract", "--dataset", "mosi", "--root", corpus, "--store", "s", *words)
    assert code == 0, err
    assert "frames" in out
    assert "non-commercial" in err
    face = FeatureStore.open("s").view("mosi", Modality.FACE)
    assert face.samples + face.failed == 24
    assert face.samples > 12
    assert {"time_s", "AU12", "pose_yaw", "gaze_pitch", "x_0", "happy", "valence"} <= set(face.attributes["columns"])
    assert msa("fuse", "train", *HCL, "--out", "run")[0] == 0
    clip = corpus / "Raw" / "vid0" / "1.mp4"
    code, out, err = msa("predict", "--run", "run", "--text", "a lovely day", "--video", clip, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["used"] == ["text", "audio", "face"]
