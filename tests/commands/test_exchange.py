"""Corpora that came from elsewhere, as a person types it: import, extract anew, train, export."""

import json

import numpy as np
import pytest

from msa.cache.store import FeatureStore
from msa.types import Modality
from tests.commands.test_commands import CLASSIC, msa  # noqa: F401
from tests.extract import corpus

WORDS = ("lovely", "awful", "table")
LABELS = ("positive", "negative", "neutral")


def folder(root, n=30, split=True, seed=0):
    """A folder of .npy as labs have it: audio and vision, one row a sample."""
    rng = np.random.default_rng(seed)
    rows = ["id,split,label,text"]
    for i in range(n):
        part = ("train", "train", "train", "valid", "test")[i % 5] if split else "train"
        rows.append(f"u{i},{part},{LABELS[i % 3]},{WORDS[i % 3]} number {i}")
        for name, width in (("audio", 5), ("vision", 4)):
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f"u{i}.npy", rng.normal(size=(1 + i % 4, width)).astype(np.float32) + i % 3)
    (root / "samples.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def talks(tmp_path):
    return folder(tmp_path / "talks")


def test_an_import_that_was_refused_does_not_become_the_store_of_later_commands(msa, talks):  # noqa: F811
    assert msa("cache", "import", "npy", talks, "--store", "mine")[0] == 0
    code, _, err = msa("cache", "import", "npy", talks, "--store", "empty", "--split", "nowhere.json")
    assert (code, "no such split file" in err) == (1, True)
    assert "mine (the store last written to)" in msa("cache", "ls")[2]


def test_from_a_folder_of_npy_to_a_trained_head_and_back(msa, talks):  # noqa: F811
    code, out, err = msa("cache", "import", "npy", talks, "--store", "s")
    assert code == 0, err
    assert "imported into s" in out
    code, out, err = msa("extract", "--dataset", "talks", "--text", "ngrams", "--store", "s")
    assert code == 0, err
    assert "only text can be extracted" in err
    assert "talks: 30 samples" in out
    code, _, err = msa("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=2", "--out", "run")
    assert code == 0
    assert "text ngrams.words@" in err and "audio npy.audio@" in err and "face npy.vision@" in err and "(30)" in err
    code, _, err = msa("predict", "--run", "run", "--audio", "x.wav")
    assert code == 1
    assert "was imported" in err
    assert "give at least one of --text" in msa("predict", "--run", "run")[2]
    code, out, err = msa("cache", "export", "hdf5", "o.h5", "--dataset", "talks")
    assert code == 0, err
    assert "exported talks to o.h5" in out
    assert msa("cache", "import", "hdf5", "o.h5", "--store", "t")[0] == 0
    before, after = (FeatureStore.open(path) for path in ("s", "t"))
    for modality in (Modality.TEXT, Modality.AUDIO, Modality.FACE):
        one, two = (store.reader(store.view("talks", modality)) for store in (before, after))
        for row in range(30):
            np.testing.assert_array_equal(one.read(row), two.read(row))


def test_what_is_missing_for_training_is_said_at_import(msa, tmp_path):  # noqa: F811
    code, _, err = msa("cache", "import", "npy", folder(tmp_path / "half", split=False), "--store", "s")
    assert code == 0
    assert "no valid and no test sample" in err
    code, _, err = msa("fuse", "train", "--model", "probe", "--store", "s", "--seeds", "1")
    assert "--split FILE" in err


def test_an_imported_corpus_is_meant_until_a_root_is_named(msa, talks, tmp_path):  # noqa: F811
    """A corpus of the same name that was once extracted from files must not take its place silently."""
    files = corpus.write(tmp_path / "posts", n=20).rename(tmp_path / "posts" / "talks.csv")
    assert msa("extract", "--dataset", "table", "--root", files, "--preset", "classic", "--store", "other")[0] == 0
    assert msa("cache", "import", "npy", talks, "--store", "s", "--name", "table")[0] == 0
    code, out, err = msa("extract", "--dataset", "table", "--text", "ngrams", "--store", "s")  # its root is remembered
    assert code == 0, err
    assert "table: 30 samples" in out


def test_failures_are_told_by_sample_and_modality_and_so_is_what_failed_before(msa, tmp_path):  # noqa: F811
    posts = corpus.write(tmp_path / "posts", n=12, pictures=True)
    (posts.parent / "3.png").write_bytes(b"no picture")
    words = ("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    code, out, _ = msa(*words)
    assert code == 0
    assert "1 sample failed in one modality or more" in out
    line = next(line for line in out.splitlines() if line.startswith("s03"))
    assert "image" in line
    assert "1 sample failed in an earlier run, skipped" in msa(*words)[1]
    assert json.loads(msa(*words, "--json")[1])["views"][1]["already"] == 11


def test_fps_is_about_faces_in_videos(msa, tmp_path):  # noqa: F811
    posts = corpus.write(tmp_path / "posts", n=12)
    code, _, err = msa(
        "extract", "--dataset", "table", "--root", posts, *CLASSIC, "--face", "openface.csv", "--fps", "3"
    )
    assert (code, "leave --fps out" in err) == (1, True)
