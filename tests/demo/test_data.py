"""The demo's data: in the official layouts, the same every time, all of it or nothing, and hard in the right way."""

import json
import re
import wave
from collections import Counter
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msa.demo import data, pictures, posts, sentences, voices
from msa.demo.canvas import Canvas
from msa.demo.scenes import SCENES
from msa.errors import ConfigError, SourceError

SMALL = {"posts": 30, "clips": 20}
LABELS = {"positive", "neutral", "negative"}


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with a hash of its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    data.make(folder, **SMALL)
    return folder


def test_the_same_arguments_give_the_same_bytes(made, tmp_path):
    data.make(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(made)


def test_another_seed_gives_other_posts_and_other_voices(made, tmp_path):
    data.make(tmp_path, **SMALL, seed=1)
    mine, other = contents(tmp_path), contents(made)
    assert mine.keys() != other.keys(), "the ids are drawn too"
    assert not set(mine.values()) & set(other.values())


def test_posts_are_laid_out_as_mvsa_single(made):
    root = made / "mvsa_single"
    raw = (root / "labelResultAll.txt").read_bytes()
    assert b"\r" not in raw
    header, *rows = raw.decode("utf-8").splitlines()
    assert header == "ID\ttext,image"
    ids = [row.split("\t")[0] for row in rows]
    assert all(set(row.split("\t")[1].split(",")) <= LABELS and row.count(",") == 1 for row in rows)
    assert sorted(path.name for path in (root / "data").iterdir()) == sorted(
        f"{id}.{kind}" for id in ids for kind in ("jpg", "txt")
    )
    assert len(set(ids)) == SMALL["posts"]
    assert any(int(b) - int(a) > 1 for a, b in pairwise(ids)), "the ids have no gaps"


def test_texts_are_utf8_and_pictures_are_colour_jpegs(made):
    for path in (made / "mvsa_single" / "data").glob("*.txt"):
        assert len(path.read_text("utf-8").split()) >= 3
    for path in (made / "mvsa_single" / "data").glob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size in pictures.SIZES) == ("JPEG", "RGB", True)


def test_clips_are_laid_out_as_tess(made):
    files = sorted((made / "tess").rglob("*.wav"))
    assert len(files) == SMALL["clips"]
    for path in files:
        speaker, word, emotion = re.fullmatch(r"(OAF|YAF)_([a-z]+)_([a-z]+)\.wav", path.name).groups()
        assert path.parent.name == f"{speaker}_{emotion}"
        assert word in voices.WORDS
        with wave.open(str(path)) as clip:
            assert clip.getparams()[:3] == (1, 2, 24414)  # mono, 16 bit
            assert 1.25 <= clip.getnframes() / 24414 <= 2.98
            samples = np.frombuffer(clip.readframes(clip.getnframes()), "<i2")
        assert 1000 < np.abs(samples.astype(int)).max() < 32000, "silent or clipped"


def test_every_word_comes_in_every_mood_by_both_speakers():
    assert set(voices.MOODS) == {"angry", "disgust", "fear", "happy", "neutral", "ps", "sad"}
    assert set(voices.SPEAKERS) == {"OAF", "YAF"}
    assert len(voices.WORDS) * 14 == data.CLIPS


def test_half_a_corpus_is_never_taken_for_one(tmp_path, monkeypatch):
    drawn = iter(range(5))

    def interrupted(label, rng):
        if next(drawn, None) is None:
            raise KeyboardInterrupt
        return Image.new("RGB", (8, 8))

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.make(tmp_path, **SMALL)
    assert contents(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_after_an_interruption_the_next_make_gives_what_an_undisturbed_one_gives(made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(voices, "speak", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            data.make(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mvsa_single"], "the first corpus was complete"
    data.make(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(made)


def test_a_second_make_touches_nothing(made):
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in made.rglob("*")}

    before = state()
    data.make(made, **SMALL)
    assert state() == before


def test_other_arguments_replace_the_corpus_they_concern(tmp_path):
    data.make(tmp_path, posts=6, clips=3)
    clips = contents(tmp_path / "tess")
    data.make(tmp_path, posts=4, clips=3)
    assert len(list((tmp_path / "mvsa_single" / "data").glob("*.jpg"))) == 4
    assert contents(tmp_path / "tess") == clips
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mvsa_single", "tess"]


def test_other_peoples_data_is_refused(tmp_path):
    (tmp_path / "tess").mkdir()
    (tmp_path / "tess" / "OAF_back_angry.wav").write_bytes(b"recorded in Toronto")
    with pytest.raises(SourceError, match="not made by the demo"):
        data.make(tmp_path, **SMALL)
    assert (tmp_path / "tess" / "OAF_back_angry.wav").read_bytes() == b"recorded in Toronto"
    assert [path.name for path in tmp_path.iterdir()] == ["tess"], "something was made before the refusal"


def test_each_corpus_says_that_it_is_artificial(made):
    for corpus in ("mvsa_single", "tess"):
        assert json.loads((made / corpus / data.RECIPE).read_text("utf-8"))["artificial"] is True


@pytest.mark.parametrize(("count", "clips"), [(0, 10), (10, 0), (10, data.CLIPS + 1)])
def test_sizes_that_cannot_be_made_are_refused(tmp_path, count, clips):
    with pytest.raises(ConfigError, match=f"{count} posts and {clips} clips"):
        data.make(tmp_path, count, clips)
    assert list(tmp_path.iterdir()) == []


# ---- what makes it a task


def planned(count: int = 400, seed: int = 0) -> list[posts.Post]:
    return posts.plan(count, np.random.default_rng(seed))


def test_shares_are_exact_for_every_size():
    assert sum(posts.PAIRS.values()) == pytest.approx(1)
    for count in (1, 2, 3, 10, 47, 400):
        found = Counter(post.labels for post in planned(count))
        assert sum(found.values()) == count
        assert all(abs(found[pair] - share * count) < 1 for pair, share in posts.PAIRS.items())


def test_one_post_in_twenty_contradicts_itself():
    conflicts = [post for post in planned() if posts.merged(*post.labels) is None]
    assert len(conflicts) == pytest.approx(0.05 * 400, abs=2)
    assert all(set(post.labels) == {"positive", "negative"} for post in conflicts)


def test_classes_are_balanced_enough_to_learn():
    kept = Counter(posts.merged(*post.labels) for post in planned())
    assert kept["positive"] == kept["negative"]
    assert kept["neutral"] > 0.2 * 400


@pytest.mark.parametrize("alone", [0, 1])
def test_no_single_modality_knows_the_label_of_a_post(alone):
    kept = [post for post in planned() if posts.merged(*post.labels)]
    right = sum(post.labels[alone] == posts.merged(*post.labels) for post in kept)
    assert 0.7 < right / len(kept) < 0.8


def test_wrong_labels_are_wrong_for_the_whole_post():
    wrong = [post for post in planned() if post.shown != post.labels]
    assert len(wrong) == round(posts.MISLABELLED * 400)
    assert all(posts.merged(*post.shown) not in (None, posts.merged(*post.labels)) for post in wrong)


# ---- the parts


def test_every_slot_of_a_sentence_has_a_bank_and_every_bank_is_used():
    named = {slot for bank in sentences.BANKS.values() for line in bank for slot in re.findall(r"\{(\w+)\}", line)}
    by_label = {f"{label}{kind}" for label in LABELS for kind in ("", "_hard", "_verdict", "_emoji", "_tag")}
    asked = named | {"opener", "aside", "emoji", "tag"} | (by_label - {"neutral_hard", "neutral_verdict"})
    assert asked == set(sentences.BANKS)


@pytest.mark.parametrize("label", sorted(LABELS))
def test_sentences_hardly_recur_and_leave_no_slot_open(label):
    written = [sentences.sentence(label, np.random.default_rng(n)) for n in range(300)]
    assert len(set(written)) > 290
    assert not any(set("{}\n") & set(text) for text in written)


def test_sentences_mean_what_their_label_says_in_the_words_of_a_lexicon():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    score = SentimentIntensityAnalyzer().polarity_scores
    means = {}
    for label in sorted(LABELS):
        written = [sentences.sentence(label, np.random.default_rng(n)) for n in range(150)]
        means[label] = np.array([score(text)["compound"] for text in written])
    assert means["positive"].mean() > 0.3 > abs(means["neutral"].mean())
    assert means["negative"].mean() < -0.2
    assert (means["positive"] < 0).any(), "irony and negation are missing"


@pytest.mark.parametrize("scene", [scene for scenes in SCENES.values() for scene in scenes], ids=lambda s: s.__name__)
def test_a_scene_draws_itself_in_every_format_and_never_twice_alike(scene):
    for size in set(pictures.SIZES):
        drawn = []
        for seed in (0, 1):
            canvas = Canvas(size, np.random.default_rng(seed))
            scene(canvas)
            drawn.append(np.asarray(canvas.finished()))
        assert drawn[0].shape == (size[1], size[0], 3)
        assert drawn[0].std() > 5, "a blank"
        assert (drawn[0] != drawn[1]).any()


def test_every_word_can_be_pronounced():
    needed = {sound for word in (voices.CARRIER, *voices.WORDS.values()) for sound in word.split()}
    assert needed <= set(voices.SOUNDS)


def pitch(samples: np.ndarray) -> float:
    """The median pitch of a clip in Hz: the best lag of the autocorrelation of its loud parts."""
    frames = np.lib.stride_tricks.sliding_window_view(samples / 32768, 1024)[::512]
    loud = frames[frames.std(axis=1) > 0.5 * frames.std(axis=1).max()]
    spectra = np.abs(np.fft.rfft(loud * np.hanning(1024), 2048)) ** 2
    lags = np.fft.irfft(spectra)[:, 40:245]  # 100 to 610 Hz at 24,414 Hz
    return float(np.median(24414 / (40 + lags.argmax(axis=1))))


def spoken(speaker: str, emotion: str) -> list[np.ndarray]:
    return [
        voices.speak(speaker, word, emotion, np.random.default_rng(n)) for n, word in enumerate(list(voices.WORDS)[:8])
    ]


def test_a_neutral_voice_has_its_speakers_pitch():
    for name, speaker in voices.SPEAKERS.items():
        assert np.median([pitch(clip) for clip in spoken(name, "neutral")]) == pytest.approx(speaker.pitch, rel=0.12)


def test_moods_are_heard():
    clips = {mood: spoken("OAF", mood) for mood in ("neutral", "happy", "sad", "angry")}
    high, level = (
        {mood: np.mean([of(clip) for clip in said]) for mood, said in clips.items()} for of in (pitch, np.std)
    )
    assert high["happy"] > 1.1 * high["neutral"]
    assert level["angry"] > level["neutral"] > level["sad"]
    assert np.mean([len(clip) for clip in clips["sad"]]) > np.mean([len(clip) for clip in clips["angry"]])
