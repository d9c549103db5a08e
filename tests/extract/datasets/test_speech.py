"""TESS, RAVDESS and EMO-DB on small trees in the official layout, and on the files at hand."""

from collections import Counter

import pytest

from msa.errors import SourceError
from msa.extract.datasets import emodb, ravdess, tess
from msa.types import Dropped, Modality, Split
from tests.extract.datasets.folders import kept, reasons, touch


def test_tess_counts_the_nested_mirror_once_and_says_what_it_left_out(tmp_path):
    top = "TESS Toronto emotional speech set data"
    names = [f"OAF_Fear/OAF_{word}_fear.wav" for word in ("back", "bar")]
    names += [f"YAF_pleasant_surprised/YAF_{word}_ps.wav" for word in ("back", "bar")]
    touch(tmp_path, *(f"{top}/{name}" for name in names), *(f"{top}/{top}/{name}" for name in names))
    found = list(tess.samples(tmp_path))
    assert list(kept(found)) == ["OAF_back_fear", "OAF_bar_fear", "YAF_back_ps", "YAF_bar_ps"]
    assert reasons(found) == {"duplicate file": 4}
    assert not any(f"{top}/{top}" in str(sample.raw[Modality.AUDIO].path) for sample in kept(found).values())


def test_tess_has_seven_emotions_in_three_classes_with_the_shares_of_the_spec(tmp_path):
    words = ("back", "bar", "base", "bath", "bean")
    touch(tmp_path, *(f"{s}_{e}/{s}_{w}_{e}.wav" for s in ("OAF", "YAF") for w in words for e in tess.LABELS))
    share = Counter(sample.label for sample in tess.samples(tmp_path))
    assert {label: round(100 * n / 70, 1) for label, n in share.items()} == {
        "positive": 28.6,
        "neutral": 14.3,
        "negative": 57.1,
    }


def test_tess_gives_the_misnamed_file_its_speaker_and_reads_names_in_any_case(tmp_path):
    found = kept(tess.samples(touch(tmp_path, "OAF_neutral/OA_bite_neutral.wav", "yaf_sad/YAF_Bite_SAD.WAV")))
    assert {id: sample.group for id, sample in found.items()} == {"OAF_bite_neutral": "OAF", "YAF_bite_sad": "YAF"}


def test_tess_by_speaker_tests_on_the_younger_voice_and_divides_the_words_of_the_older(tmp_path):
    words = [a + b for a in "bcdfghjk" for b in ("ack", "ar", "ite", "ook")]
    touch(tmp_path, *(f"{speaker}_{word}_sad.wav" for speaker in ("OAF", "YAF") for word in words))
    found = kept(tess.samples(tmp_path, tess.Config(split="by_speaker"))).values()
    parts = {speaker: {sample.split for sample in found if sample.group == speaker} for speaker in ("OAF", "YAF")}
    assert parts == {"OAF": {Split.TRAIN, Split.VALID}, "YAF": {Split.TEST}}


def test_tess_options_decide_surprise_and_what_stays_together(tmp_path):
    touch(tmp_path, "OAF_back_ps.wav")
    together = {
        split: next(tess.samples(tmp_path, tess.Config(split=split))).keep_together for split in ("random", "by_word")
    }
    assert together == {"random": "", "by_word": "back"}
    assert [next(tess.samples(tmp_path, tess.Config(surprise=s))).label for s in ("positive", "neutral")] == [
        "positive",
        "neutral",
    ]


def test_a_renamed_copy_counts_once_and_two_recordings_of_one_name_are_an_error(tmp_path):
    touch(tmp_path, "a/OAF_back_sad.wav", "b/OAF_bar_sad.wav", "c/OAF_bath_sad.wav")
    (tmp_path / "b/OAF_bar_sad.wav").write_bytes(b"OAF_back_sad.wav")
    found = list(tess.samples(tmp_path))
    assert list(kept(found)) == ["OAF_back_sad", "OAF_bath_sad"]
    assert Dropped("b/OAF_bar_sad.wav", "duplicate file", "same bytes as a/OAF_back_sad.wav") in found
    (tmp_path / "c/OAF_back_sad.wav").write_bytes(b"another take")
    with pytest.raises(SourceError, match="OAF_back_sad is two different recordings"):
        list(tess.samples(tmp_path))


def test_empty_recordings_are_not_taken_for_copies_of_each_other(tmp_path):
    touch(tmp_path, "OAF_back_sad.wav", "OAF_bar_sad.wav")
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert list(kept(tess.samples(tmp_path))) == ["OAF_back_sad", "OAF_bar_sad"]


def test_other_sounds_are_dropped_by_path_and_hidden_files_are_no_files(tmp_path):
    found = list(tess.samples(touch(tmp_path, "OAF_back_sad.wav", "x/song.wav", "._OAF_bar_sad.wav", "notes.txt")))
    assert [item.id for item in found] == ["OAF_back_sad", "x/song.wav"]
    assert reasons(found) == {"not a TESS file name": 1}


def test_linked_folders_are_read_and_a_link_in_a_circle_ends(tmp_path):
    touch(tmp_path / "elsewhere", "OAF_back_sad.wav")
    root = touch(tmp_path / "root", "OAF_bar_sad.wav")
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "circle").symlink_to(root, target_is_directory=True)
    found = list(tess.samples(root))
    assert list(kept(found)) == ["OAF_back_sad", "OAF_bar_sad"]
    assert not reasons(found)


def test_ravdess_takes_speech_alone_and_counts_the_nested_copy_once(tmp_path):
    speech = [f"Actor_01/03-01-0{e}-01-01-01-01.wav" for e in range(1, 9)]
    touch(tmp_path, *speech, *(f"audio_speech_actors_01-24/{name}" for name in speech))
    touch(tmp_path, "Actor_01/03-02-03-01-01-01-01.wav", "Actor_01/01-01-03-01-01-01-01.mp4", "Actor_01/take.wav")
    found = list(ravdess.samples(tmp_path))
    assert Counter(sample.label for sample in kept(found).values()) == {"positive": 2, "neutral": 2, "negative": 4}
    assert {sample.group for sample in kept(found).values()} == {"Actor_01"}
    assert reasons(found) == {"duplicate file": 8, "not speech audio": 3}


def test_ravdess_and_emodb_keep_together_what_the_option_says(tmp_path):
    touch(tmp_path, "Actor_07/03-01-05-01-02-01-07.wav", "wav/08b10Wd.wav")
    assert next(ravdess.samples(tmp_path)).keep_together == ""
    assert next(ravdess.samples(tmp_path, ravdess.Config(split="by_speaker"))).keep_together == "Actor_07"
    together = {
        split: kept(emodb.samples(tmp_path, emodb.Config(split=split)))["08b10Wd"].keep_together
        for split in ("random", "by_speaker", "by_text")
    }
    assert together == {"random": "", "by_speaker": "08", "by_text": "b10"}


@pytest.mark.parametrize("root", [".", "wav"])
def test_emodb_is_read_from_its_folder_or_from_the_wavs_themselves(root, tmp_path):
    touch(tmp_path, *(f"wav/16b02{letter}b.wav" for letter in "WLEAFTN"), "wav/14a05T.wav")
    found = kept(emodb.samples(tmp_path / root))
    assert Counter(sample.label for sample in found.values()) == {"negative": 6, "positive": 1, "neutral": 1}
    assert found["16b02Lb"].label == "negative"  # boredom
    assert found["14a05T"].group == "14"


@pytest.mark.real
def test_ravdess_and_emodb_at_hand_are_complete(shared):
    actors = kept(ravdess.samples(shared / "data/ravdess"))
    assert len(actors) == 120
    # 2 actors x 2 sentences x 2 repetitions x 2 strengths of each emotion, but neutral has one strength
    assert Counter(s.label for s in actors.values()) == {"positive": 32, "neutral": 24, "negative": 64}
    speakers = kept(emodb.samples(shared / "data/emodb"))
    assert len(speakers) == len(list((shared / "data/emodb/wav").glob("*.wav"))) == 243
    assert {s.group for s in speakers.values()} == {"03", "08", "09", "10", "11"}
