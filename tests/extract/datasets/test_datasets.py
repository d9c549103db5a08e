"""Every dataset file: the contract they share, and the traps of each corpus on small trees in the official layout."""

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from msa import catalog
from msa.annotations import labels
from msa.config import with_settings
from msa.errors import ConfigError, SourceError, UnknownNameError
from msa.extract.datasets import clips, emodb, mvsa, mvsa_single, ravdess, table, tess
from msa.extract.scan import scan
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Source, Split, Task

NAMES = catalog.names("dataset")
CORPORA = {"mvsa", "mvsa-single", "tess", "ravdess", "emodb"}
HEAVY = ("torch", "numpy", "PIL", "soundfile", "librosa", "av", "zarr", "h5py", "transformers", "pandas")


def touch(root: Path, *names: str) -> Path:
    """Files whose content is their own name, so that no two are copies of each other."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return root


def pairs(root: Path, rows: list[str], annotators: int, end: str = "\n") -> Path:
    """An MVSA tree with these `ID<TAB>text,image...` rows, each with its two files."""
    for row in rows:
        touch(root, *(f"data/{row.split(chr(9))[0]}.{suffix}" for suffix in ("txt", "jpg")))
    header = "\t".join(["ID", *["text,image"] * annotators])
    (root / "labelResultAll.txt").write_bytes("".join(line + end for line in [header, *rows]).encode())
    return root


def kept(found) -> dict[str, Sample]:
    return {item.id: item for item in found if isinstance(item, Sample)}


def reasons(found) -> Counter:
    return Counter(item.reason for item in found if isinstance(item, Dropped))


def tree(name: str, root: Path) -> Path:
    """A small tree of a corpus, with names whose natural order is not their order as strings."""
    root.mkdir(parents=True, exist_ok=True)
    if name == "mvsa":
        return pairs(root, [f"{i}\t" + "\t".join(["positive,neutral"] * 3) for i in (10, 9, 100)], 3)
    if name == "mvsa-single":
        return pairs(root, [f"{i}\tneutral,neutral" for i in (10, 9, 100)], 1)
    if name == "tess":
        return touch(root, *(f"a/{s}AF_{w}_{e}.wav" for s in "OY" for w in ("back", "bite") for e in tess.LABELS))
    if name == "ravdess":
        return touch(root, *(f"Actor_0{a}/03-01-0{e}-01-01-01-0{a}.wav" for a in (1, 2) for e in range(1, 9)))
    if name == "emodb":
        return touch(root, *(f"wav/{s}a01{e}a.wav" for s in ("03", "10") for e in emodb.LABELS))
    if name == "clips":
        return touch(root, "clip10.wav", "clip9.mp4", "clip100.mp4")
    path = root / "mine.csv"
    path.write_text("id,label,text\nclip10,positive,x\nclip9,negative,y\n", "utf-8")
    return path


# every dataset, by name


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_says_what_it_is_and_where_it_comes_from(name):
    module = catalog.load("dataset", name)
    assert catalog.describe("dataset")[name].endswith(".")
    assert isinstance(module.TASK, Task) or (module.TASK is None and callable(module.task))
    assert isinstance(module.SOURCE, Source)
    assert all(getattr(module.SOURCE, part) for part in ("title", "home", "licence", "layout"))


@pytest.mark.parametrize("name", NAMES)
def test_options_are_a_frozen_dataclass_with_defaults(name):
    config = catalog.load("dataset", name).Config()
    assert is_dataclass(config)
    for field in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_an_error_with_home_licence_and_layout(name, tmp_path):
    module = catalog.load("dataset", name)
    with pytest.raises(SourceError) as error:
        list(module.samples(tmp_path / "nowhere"))
    for part in (module.SOURCE.home, module.SOURCE.licence, module.SOURCE.layout, "nowhere"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_something_else_in_it_is_an_error(name, tmp_path):
    with pytest.raises(SourceError):
        list(catalog.load("dataset", name).samples(touch(tmp_path, "readme.md", *(["song.wav"] * (name != "clips")))))


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_file_has_no_module_level_import_of_a_decoder_or_tensor_package(name):
    source = Path(catalog.load("dataset", name).__file__).read_text("utf-8")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & set(HEAVY)


def test_importing_every_dataset_leaves_heavy_packages_out():
    code = (
        "import sys\nfrom msa import catalog\n"
        "for name in catalog.names('dataset'): catalog.load('dataset', name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_an_option_value_that_does_not_exist_is_refused_with_those_that_do(name):
    config = catalog.load("dataset", name).Config
    option = fields(config)[0].name
    with pytest.raises(ConfigError, match=f"{option} is 'nonsense'"):
        config(**{option: "nonsense"})


@pytest.mark.parametrize("name", sorted(CORPORA | {"table", "clips"}))
def test_samples_come_in_natural_order_whatever_the_file_system_says(name, tmp_path, monkeypatch):
    module, root = catalog.load("dataset", name), tree(name, tmp_path / name)
    once = list(module.samples(root))
    walk, listdir = os.walk, os.listdir

    def backwards(*args, **kwargs):
        for folder, below, files in walk(*args, **kwargs):
            below.reverse()
            yield folder, below, files[::-1]

    monkeypatch.setattr("os.walk", backwards)
    monkeypatch.setattr("os.listdir", lambda path: listdir(path)[::-1])
    assert list(module.samples(root)) == once
    numbers = [int("".join(filter(str.isdecimal, item.id)) or 0) for item in once]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_ids_are_unique_labels_are_of_the_task_and_material_is_below_the_root(name, tmp_path):
    module, root = catalog.load("dataset", name), tree(name, tmp_path)
    found = list(module.samples(root))
    assert len({item.id for item in found}) == len(found) > 0
    for sample in found:
        assert sample.label in SENTIMENT.classes
        assert all(raw.path.is_relative_to(root) and raw.path.is_file() for raw in sample.raw.values())


# MVSA


def three(*cells: str) -> str:
    return "\t".join(cells)


def test_mvsa_takes_the_majority_of_three_annotators_and_drops_a_three_way_split(tmp_path):
    rows = [
        "2\t" + three("positive,neutral", "positive,neutral", "negative,positive"),
        "3\t" + three("positive,neutral", "negative,neutral", "neutral,neutral"),
        "4\t" + three("neutral,positive", "neutral,negative", "neutral,neutral"),
    ]
    found = list(mvsa.samples(pairs(tmp_path, rows, 3)))
    assert kept(found)["2"].modality_labels == {Modality.TEXT: "positive", Modality.IMAGE: "neutral"}
    assert list(kept(found)) == ["2"]
    assert reasons(found) == {"annotators split three ways": 2}


@pytest.mark.parametrize(
    ("text", "image", "merged"),
    [
        ("positive", "positive", "positive"),
        ("neutral", "neutral", "neutral"),
        ("negative", "negative", "negative"),
        ("positive", "neutral", "positive"),
        ("neutral", "negative", "negative"),
        ("positive", "negative", None),
        ("negative", "positive", None),
    ],
)
def test_mvsa_merges_two_labels_as_the_rule_says_and_strict_keeps_only_equal_ones(text, image, merged, tmp_path):
    root = pairs(tmp_path, [f"7\t{text},{image}"], 1)
    labels = [sample.label for sample in kept(mvsa_single.samples(root)).values()]
    strict = [sample.label for sample in kept(mvsa_single.samples(root, mvsa_single.Config(rule="strict"))).values()]
    assert labels == ([merged] if merged else [])
    assert strict == ([text] if text == image else [])


def test_mvsa_names_why_a_pair_is_dropped_by_either_rule(tmp_path):
    root = pairs(tmp_path, ["1\tpositive,negative", "2\tpositive,neutral"], 1)
    assert reasons(mvsa_single.samples(root)) == {"text and image conflict": 1}
    strict = list(mvsa_single.samples(root, mvsa_single.Config(rule="strict")))
    assert reasons(strict) == {"text and image conflict": 1, "text and image differ": 1}
    assert not kept(strict)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("nested", ["", "MVSA"])
def test_mvsa_reads_the_nested_archive_and_both_line_ends(end, nested, tmp_path):
    row = "2499\t" + three(*["neutral,positive"] * 3)
    pairs(tmp_path / nested, [row], 3, end)
    sample = kept(mvsa.samples(tmp_path))["2499"]
    assert sample.label == "positive"
    assert sample.raw[Modality.TEXT] == Raw(path=tmp_path / nested / "data" / "2499.txt")


def test_mvsa_reads_a_label_file_with_a_byte_order_mark_and_a_last_line_without_end(tmp_path):
    path = pairs(tmp_path, ["5\tneutral,neutral", "12\tpositive,positive"], 1) / "labelResultAll.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    assert list(kept(mvsa_single.samples(tmp_path))) == ["5", "12"]


@pytest.mark.parametrize("cell", ["postive,neutral", "positive", "", "positive,neutral,neutral", "positive,neutral\tx"])
def test_mvsa_drops_a_row_with_an_unknown_label_and_keeps_the_others(cell, tmp_path):
    found = list(mvsa_single.samples(pairs(tmp_path, [f"1\t{cell}", "2\tneutral,neutral"], 1)))
    assert reasons(found) == {"unknown label": 1}
    assert list(kept(found)) == ["2"]


@pytest.mark.parametrize("suffix", ["txt", "jpg"])
def test_mvsa_drops_an_id_without_its_text_or_image(suffix, tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral", "2\tneutral,neutral"], 1)
    (root / f"data/1.{suffix}").unlink()
    assert Dropped("1", "image or text file missing", f"1.{suffix}") in list(mvsa_single.samples(root))


def test_mvsa_leaves_empty_photos_to_extraction(tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral"], 1)
    (root / "data/1.jpg").write_bytes(b"")
    assert list(kept(mvsa_single.samples(root))) == ["1"]


@pytest.mark.parametrize("header", ["", "ID\n", "ID\ttext\timage\n", "20\tneutral,positive\n"])
def test_mvsa_refuses_a_label_file_without_its_header(header, tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral"], 1)
    (root / "labelResultAll.txt").write_text(header + "1\tneutral,neutral\n", "utf-8")
    with pytest.raises(SourceError, match="labelResultAll"):
        list(mvsa_single.samples(root))


def test_mvsa_names_both_lines_of_an_id_that_stands_twice(tmp_path):
    root = pairs(tmp_path, ["8\tneutral,neutral", "9\tneutral,neutral", "8\tpositive,positive"], 1)
    with pytest.raises(SourceError, match="id 8 stands in line 2 and in line 4"):
        list(mvsa_single.samples(root))


def test_mvsa_tells_single_from_multiple_and_says_which_name_to_use(tmp_path):
    single = pairs(tmp_path / "single", ["1\tneutral,neutral"], 1)
    multiple = pairs(tmp_path / "multiple", ["1\t" + three(*["neutral,neutral"] * 3)], 3)
    with pytest.raises(SourceError, match="--dataset mvsa-single"):
        list(mvsa.samples(single))
    with pytest.raises(SourceError, match=r"--dataset mvsa$"):
        list(mvsa_single.samples(multiple))


def test_mvsa_finds_its_variant_where_both_are_unpacked_in_one_folder(tmp_path):
    pairs(tmp_path / "MVSA_Single", ["1\tneutral,neutral"], 1)
    pairs(tmp_path / "MVSA", ["2\t" + three(*["neutral,neutral"] * 3)], 3)
    assert list(kept(mvsa.samples(tmp_path))) == ["2"]
    assert list(kept(mvsa_single.samples(tmp_path))) == ["1"]


def test_mvsa_does_not_choose_between_two_copies(tmp_path):
    for copy in ("MVSA", "MVSA (1)"):
        pairs(tmp_path / copy, ["2\t" + three(*["neutral,neutral"] * 3)], 3)
    with pytest.raises(SourceError, match="twice"):
        list(mvsa.samples(tmp_path))


def test_mvsa_without_its_data_folder_is_an_error_that_shows_the_layout(tmp_path):
    (tmp_path / "labelResultAll.txt").write_text("ID\ttext,image\n1\tneutral,neutral\n", "utf-8")
    with pytest.raises(SourceError, match=r"data/ID\.jpg"):
        list(mvsa_single.samples(tmp_path))


# TESS, RAVDESS, EMO-DB


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


# the user's own table


def written(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_table_gives_every_column_to_its_field(tmp_path):
    touch(tmp_path, "img/1.jpg", "snd/1.wav")
    text = (
        "id,split,label,text,image,audio,start,end,group,position,mood\n"
        'u1,dev,Positive,"Well, yes",img/1.jpg,snd/1.wav,1.5,4,ann,3,x\n'
    )
    assert list(table.samples(written(tmp_path, text))) == [
        Sample(
            id="u1",
            label="positive",
            raw={
                Modality.TEXT: Raw(text="Well, yes"),
                Modality.IMAGE: Raw(path=tmp_path / "img/1.jpg"),
                Modality.AUDIO: Raw(path=tmp_path / "snd/1.wav", start=1.5, end=4.0),
            },
            split=Split.VALID,
            group="ann",
            position=3,
            keep_together="ann",
        )
    ]


def test_csv_tsv_and_jsonl_with_mark_and_crlf_say_the_same(tmp_path):
    rows = [("a", "1.5", 'he said "no", twice'), ("b", "-2", "two\tcells?"), ("c", "", "ünï")]
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in [("id", "label", "text"), *rows]]
    tables = [
        written(tmp_path, "\ufeff" + "\r\n".join(",".join(row) for row in quoted), "a.csv"),
        written(tmp_path, "\n".join("\t".join(row) for row in quoted) + "\n\n", "b.tsv"),
        written(
            tmp_path,
            "\r\n".join(
                json.dumps({"id": id, "label": float(label) if label else None, "text": text}, ensure_ascii=False)
                for id, label, text in rows
            ),
            "c.jsonl",
        ),
    ]
    first, *others = (list(table.samples(path)) for path in tables)
    assert all(other == first for other in others)
    assert [(sample.id, sample.label, sample.raw[Modality.TEXT].text) for sample in first] == [
        ("a", 1.5, rows[0][2]),
        ("b", -2.0, rows[1][2]),
        ("c", None, "ünï"),
    ]


@pytest.mark.parametrize(
    ("labels", "expected", "read"),
    [
        (["Positive", "neutral"], SENTIMENT, ["positive", "neutral"]),
        (["-1.5", "3"], Task(low=-1.5, high=3.0), [-1.5, 3.0]),
        (["joy", "anger", "joy"], Task(classes=("anger", "joy")), ["joy", "anger", "joy"]),
        (["1", "positive"], Task(classes=("1", "positive")), ["1", "positive"]),
        (["", "2"], Task(low=2.0, high=2.0), [None, 2.0]),
        (["", ""], Task(), [None, None]),
    ],
)
def test_the_labels_of_a_table_decide_its_task(labels, expected, read, tmp_path):
    path = written(tmp_path, "label,text\n" + "".join(f"{label},x\n" for label in labels))
    assert table.task(path) == expected
    assert [sample.label for sample in table.samples(path)] == read


def test_absent_columns_leave_defaults_and_ids_from_row_numbers(tmp_path):
    path = written(tmp_path, "text\n" + "".join(f"t{i}\n" for i in range(1, 12)))
    found = list(table.samples(path))
    assert [sample.id for sample in found] == [f"row{i}" for i in range(1, 12)]
    assert [sample.raw[Modality.TEXT].text for sample in found] == [f"t{i}" for i in range(1, 12)]
    assert found[0] == Sample(id="row1", label=None, raw={Modality.TEXT: Raw(text="t1")})
    assert table.name(path) == "mine"


def test_a_video_gives_sound_and_face_where_no_file_of_their_own_is_named(tmp_path):
    touch(tmp_path, "v.mp4", "a.wav", "f.csv", "g.csv")
    text = "id,video,audio,face,start,end\n1,v.mp4,,,2,3\n2,v.mp4,a.wav,,,\n3,v.mp4,,f.csv,1,\n4,,,g.csv,,\n"
    found = kept(table.samples(written(tmp_path, text)))
    video, sound, face = tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "f.csv"
    both = Raw(path=video, start=2.0, end=3.0)
    assert {id: sample.raw for id, sample in found.items()} == {
        "1": {Modality.AUDIO: both, Modality.FACE: both},
        "2": {Modality.AUDIO: Raw(path=sound), Modality.FACE: Raw(path=video)},
        "3": {Modality.AUDIO: Raw(path=video, start=1.0), Modality.FACE: Raw(path=face)},
        "4": {Modality.FACE: Raw(path=tmp_path / "g.csv")},
    }


def test_a_span_cuts_a_video_of_the_face_and_neither_its_picture_nor_its_table(tmp_path):
    touch(tmp_path, "f.mp4", "f.png", "f.csv")
    text = "id,face,start,end\n1,f.mp4,2,3\n2,f.png,2,3\n3,f.csv,2,3\n4,f.csv,2,3\n"
    found = kept(table.samples(written(tmp_path, text)))
    assert found["1"].raw[Modality.FACE] == Raw(path=tmp_path / "f.mp4", start=2.0, end=3.0)
    assert [found[id].raw[Modality.FACE] for id in "234"] == [
        Raw(path=tmp_path / f"f.{s}") for s in ("png", "csv", "csv")
    ]


def test_a_stated_range_is_the_task_whatever_the_labels_reach(tmp_path):
    path, config = written(tmp_path, "label,text\n0.5,x\n-3,y\n,z\n"), table.Config(range=(-3.0, 3.0))
    assert table.task(path, config) == Task(low=-3.0, high=3.0)
    assert [sample.label for sample in table.samples(path, config)] == [0.5, -3.0, None]
    assert with_settings(table.Config(), ["range=-3,3"]) == config


@pytest.mark.parametrize("label", ["3.01", "-4", "positive"])
def test_a_label_outside_the_stated_range_is_an_error_that_names_the_line(label, tmp_path):
    path = written(tmp_path, f"label,text\n1,x\n{label},y\n")
    with pytest.raises(SourceError, match=f"line 3: the label is '?{label}"):
        list(table.samples(path, table.Config(range=(-3.0, 3.0))))


@pytest.mark.parametrize("limits", [(3.0,), (3.0, -3.0), (0.0, 0.0), (-3.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_that_is_none_is_refused(limits):
    with pytest.raises(ConfigError, match="range is"):
        table.Config(range=limits)


def test_rows_of_one_group_stay_together_unless_the_option_says_otherwise(tmp_path):
    path = written(tmp_path, "text,group\nx,ann\n")
    assert next(table.samples(path)).keep_together == "ann"
    assert next(table.samples(path, table.Config(split="random"))).keep_together == ""


def test_a_row_without_any_material_is_dropped_and_named(tmp_path):
    found = list(table.samples(written(tmp_path, "id,text\n1,x\n2,  \n")))
    assert Dropped("2", "no text, image, audio, video or face", "line 3") in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\na,x\nb,y\na,z\n", "line 4: id 'a' is already in line 2"),
        ('id,text\na,"x\ny"\nb,y\na,z\n', "line 5: id 'a' is already in line 2"),
        ("id,split,text\na,train,x\nb,holdout,y\n", "line 3: split is 'holdout'"),
        ("text,label\nx,nan\n", "line 2: the label is 'nan'"),
        ("text,start\nx,soon\n", "line 2: start is 'soon'"),
        ("text,start\nx,-1\n", "line 2: start is '-1'"),
        ("text,start,end\nx,2,2\n", "line 2: the span ends at 2.0 s"),
        ("text,position\nx,1.5\n", "line 2: position is 1.5"),
        ("id,text\na,x, y\n", "line 2: 3 cells under a header of 2"),
        ("id,text\na,x\nb\n", "line 3: 1 cells under a header of 2"),
        ('id,text\na,"x\nb,y\n', "line 2: unexpected end of data"),
        ("id,text,Text\na,x,y\n", "names text twice"),
        ("name,words\na,x\n", "none of its columns is known: name, words"),
        ("", "none of its columns is known"),
        ("id,image\na,img/1.jpg\nb,img/2.jpg\n", "none of the 2 files it names exists"),
        ("id,text,face\na,x,f/1.csv\n", "none of the 1 files it names exists"),
        ("id,text\na,x\n#NAME?,y\n", "line 3: the id is '#NAME?': a spreadsheet program took it"),
        ("id,text,group\na,x,1.2E+17\n", "line 2: the group is '1.2E+17': a spreadsheet program took it"),
        ("id,text,label\na,x,#N/A\n", "line 2: the label is '#N/A', an error of a spreadsheet program"),
        ("text,face,start\nx,mine.csv,1\ny,mine.csv,2\n", "line 3: TABLE is the face of line 2 too"),
    ],
)
def test_a_table_that_cannot_be_meant_is_an_error_that_names_the_line(text, message, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(SourceError) as error:
        list(table.samples(path))
    assert message.replace("TABLE", str(path)) in error.value.what


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[1]", "line 2: a list"),
        ('{"text": ["x"]}', "line 2: text holds"),
        ('{"text": "x", "label": true}', "line 2: label holds True"),
        ('{"text": "x", "label": NaN}', "line 2: the label is 'nan'"),
    ],
)
def test_a_json_line_that_is_no_row_is_an_error_that_names_it(line, message, tmp_path):
    with pytest.raises(SourceError) as error:
        list(table.samples(written(tmp_path, '{"text": "\u2028"}\n' + line, "x.jsonl")))
    assert message in error.value.what


def test_half_a_character_in_an_id_a_label_or_a_group_is_replaced_and_kept_in_the_store(tmp_path):
    rows = [
        {"id": f"x\ud83d{i}", "text": "hi", "label": f"l\ud83d{i % 2}", "group": f"\ude00{i}", "split": s}
        for i, s in enumerate(["train", "valid", "test"] * 3)
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)), "x.jsonl")
    index = scan("table", path).index
    assert list(index.ids) == [f"x\ufffd{i}" for i in range(9)]
    assert index.task.classes == ("l\ufffd0", "l\ufffd1")


def test_two_ids_that_half_a_character_told_apart_are_an_error(tmp_path):
    rows = [{"id": f"x{half}", "text": "hi"} for half in ("\ud83d", "\ud83e")]
    with pytest.raises(SourceError, match="already in line 1"):
        list(table.samples(written(tmp_path, "\n".join(map(json.dumps, rows)), "x.jsonl")))


def test_a_file_whose_name_is_no_utf_8_is_left_out_by_a_name_that_can_be_written(tmp_path):
    root = tree("ravdess", tmp_path)
    sound = next(root.rglob("*.wav"))
    (sound.parent / os.fsdecode(b"caf\xe9\x1b[2J.wav")).write_bytes(b"x")
    dropped = [id for id, _, _ in scan("ravdess", root).index.about["dropped_ids"] if "caf" in id]
    assert [Path(id).name for id in dropped] == ["caf\\udce9\\x1b[2J.wav"]


def test_a_table_in_another_encoding_or_format_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("id,text\n1,fine\n2,für\n".encode("cp1252"))
    with pytest.raises(SourceError, match="line 3: not UTF-8"):
        list(table.samples(path))
    with pytest.raises(SourceError, match="not a table that msa reads"):
        list(table.samples(written(tmp_path, "x", "x.xlsx")))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("id;text;label;start\n1;a, b;3,5;0,5\n2;c;-1,25;1\n", "utf-8"),
        ("id;text;label;start\r\n1;a, b;3,5;0,5\r\n2;c;-1,25;1\r\n", "utf-8-sig"),
        ("sep=;\r\nid;text;label;start\r\n1;a, b;3,5;0,5\r\n2;c;-1,25;1\r\n", "utf-8-sig"),
        ("id\ttext\tlabel\tstart\r\n1\ta, b\t3.5\t0.5\r\n2\tc\t-1.25\t1\r\n", "utf-16"),
        ('id,text,label,start\n1,"a, b",3.5,0.5\n2,c,-1.25,1\n', "utf-8"),
    ],
)
def test_a_table_is_read_as_a_spreadsheet_program_writes_it(text, encoding, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(encoding))
    _, rows = labels.rows(path)
    assert [(row.id, row.text("text"), row.amount("start")) for row in rows] == [("1", "a, b", 0.5), ("2", "c", 1.0)]
    task = labels.task_of(rows)
    assert (task.low, task.high) == (-1.25, 3.5)
    assert [row.value(task) for row in rows] == [3.5, -1.25]


def test_a_comma_in_a_text_or_an_id_of_a_spreadsheet_stays_one(tmp_path):
    path = written(tmp_path, "id;text;label\n1,5;3,5;good\n2,5;4,5;bad\n")
    assert [(s.id, s.raw[Modality.TEXT].text) for s in table.samples(path)] == [("1,5", "3,5"), ("2,5", "4,5")]


def test_a_table_without_labels_names_the_columns_that_are_not_read(tmp_path):
    told = table.decided(written(tmp_path, "text,Sentiment,When\nfine,good,1\nsad,bad,2\n")).sentence
    assert "not read: sentiment, when; if one has the labels: --set columns=label:NAME" in told
    assert "not read" not in table.decided(written(tmp_path, "text,label,When\nfine,good,1\nsad,bad,2\n")).sentence
    root = touch(tmp_path / "talks", "a.mp4", "b.mp4")
    (root / "l.csv").write_text("file;Urteil\na.mp4;gut\nb.mp4;schlecht\n", "utf-8")
    assert "not read: urteil" in clips.decided(root).sentence


def test_a_path_that_windows_wrote_is_found_and_one_that_is_nowhere_is_shown_as_it_was_written(tmp_path):
    path = written(touch(tmp_path, "pics/a.jpg", "b\\c.jpg"), "image\npics\\a.jpg\nb\\c.jpg\npics\\no.jpg\n")
    found = [sample.raw[Modality.IMAGE].path for sample in table.samples(path)]
    assert found == [tmp_path / "pics/a.jpg", tmp_path / "b\\c.jpg", tmp_path / "pics\\no.jpg"]


def test_columns_of_any_name_are_named_in_a_setting(tmp_path):
    path = written(tmp_path, "Nr,Tweet,Sentiment,label\na,fine day,positive,7\nb,bad day,negative,8\n")
    config = with_settings(table.Config(), ["columns=id:Nr, text:Tweet,label:Sentiment"])
    found = kept(table.samples(path, config))
    assert {id: (s.raw[Modality.TEXT].text, s.label) for id, s in found.items()} == {
        "a": ("fine day", "positive"),
        "b": ("bad day", "negative"),
    }
    assert table.task(path, config) == SENTIMENT
    with pytest.raises(SourceError, match="no column for label:mood; it has nr, tweet, sentiment, label"):
        list(table.samples(path, table.Config(columns=("label:Mood",))))
    with pytest.raises(UnknownNameError, match="label"):
        table.Config(columns=("lable:Sentiment",))
    with pytest.raises(ConfigError, match="COLUMN:NAME"):
        table.Config(columns=("Sentiment",))
    with pytest.raises(SourceError, match="columns=label:NAME"):
        list(table.samples(written(tmp_path, "Nr,Tweet\n1,x\n", "y.csv")))


# a folder of clips


SRT = """1
00:00:00,500 --> 00:00:02,000
<i>Hello</i>
there

2
00:01:02,250 --> 01:00:03,1
{\\an8}Good bye

3
00:02:00,000 --> 00:01:00,000
never shown
"""


def test_a_folder_of_clips_takes_its_texts_from_what_lies_beside_them(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4", "b.wav", "sub/c.MOV", "d.mkv", "._a.mp4", "notes.md")
    (root / "a.txt").write_text(" what a day \n", "utf-8")
    (root / "b.srt").write_bytes(SRT.replace("\n", "\r\n").encode("utf-8-sig"))
    (root / "sub/c.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000 align:left\nfine\n", "utf-8")
    found = kept(clips.samples(root))
    assert {id: s.raw[Modality.TEXT].text for id, s in found.items() if Modality.TEXT in s.raw} == {
        "a": "what a day",
        "b": "Hello there Good bye",
        "sub/c": "fine",
    }
    assert {id: sorted(s.raw) for id, s in found.items()} == {
        "a": ["audio", "face", "text"],
        "b": ["audio", "text"],
        "sub/c": ["audio", "face", "text"],
        "d": ["audio", "face"],
    }
    assert found["a"].raw[Modality.AUDIO].path == root / "a.mp4"
    assert clips.name(root) == "talks"
    assert clips.task(root) == Task()


def test_each_subtitle_of_a_clip_can_be_a_sample_of_its_own(tmp_path):
    root = touch(tmp_path / "talks", "b.mp4", "d.mkv")
    (root / "b.srt").write_text(SRT, "utf-8")
    found = kept(clips.samples(root, clips.Config(cues=True)))
    assert list(found) == ["b_1", "b_2", "d"]
    assert [(s.raw[Modality.AUDIO].start, s.raw[Modality.AUDIO].end) for s in found.values()] == [
        (0.5, 2.0),
        (62.25, 3603.1),
        (0.0, None),
    ]
    assert [(s.group, s.position, s.keep_together) for s in found.values()] == [
        ("b", 0, "b"),
        ("b", 1, "b"),
        ("", 0, ""),
    ]
    assert found["b_2"].raw[Modality.TEXT].text == "Good bye"


@pytest.mark.parametrize("column", ["file", "video", "id", "Clip"])
def test_a_table_in_a_folder_of_clips_labels_them(column, tmp_path):
    root = touch(tmp_path / "talks", "a.mp4", "sub/b.wav", "lost.mp4")
    cells = ("a", "sub/b", "gone") if column == "id" else ("a.mp4", "sub\\b.wav", "gone.wav")
    rows = zip(cells, ("positive", "negative", "neutral"), ("fine", "", "x"), strict=True)
    (root / "labels.csv").write_text("\n".join([f"{column};label;text", *(";".join(row) for row in rows)]), "utf-8")
    (root / "sub/b.txt").write_text("bad", "utf-8")
    items = list(clips.samples(root))
    found = kept(items)
    assert {id: (s.label, s.raw[Modality.TEXT].text) for id, s in found.items()} == {
        "a": ("positive", "fine"),
        "sub/b": ("negative", "bad"),
        "gone": ("neutral", "x"),
    }
    gone = "gone.mp4" if column == "id" else "gone.wav"
    assert found["gone"].raw[Modality.AUDIO].path == root / gone  # extraction will record that it is missing
    assert [(item.id, item.reason) for item in items if isinstance(item, Dropped)] == [("lost", "no row in the table")]
    assert clips.task(root) == SENTIMENT


def test_spans_of_one_clip_are_rows_with_ids_of_their_own(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4")
    (root / "labels.csv").write_text("id,file,start,end,label\nx,a.mp4,0,1,good\ny,a.mp4,1,2.5,bad\n", "utf-8")
    found = kept(clips.samples(root))
    assert {id: (s.raw[Modality.FACE].start, s.raw[Modality.FACE].end) for id, s in found.items()} == {
        "x": (0.0, 1.0),
        "y": (1.0, 2.5),
    }


def test_a_folder_of_clips_that_cannot_be_meant_is_an_error_with_a_way_out(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4")
    with pytest.raises(SourceError, match="--dataset clips --root"):
        list(table.samples(root))
    (root / "l.csv").write_text("name,label\na,good\n", "utf-8")
    with pytest.raises(SourceError, match="names no clip"):
        list(clips.samples(root))
    for column in ("id", "file", "clip", "video"):
        assert kept(clips.samples(root, clips.Config(columns=(f"{column}:name",))))["a"].label == "good"
    with pytest.raises(UnknownNameError, match="file"):
        table.Config(columns=("file:name",))  # of a folder of clips alone
    (root / "m.csv").write_text("file,label\na.mp4,bad\n", "utf-8")
    with pytest.raises(SourceError, match=r"several tables: l.csv, m.csv"):
        list(clips.samples(root))
    assert kept(clips.samples(root, clips.Config(table="m.csv")))["a"].label == "bad"


# the real files


@pytest.mark.real
def test_mvsa_single_at_hand_has_the_stated_counts_by_a_second_reading(shared):
    root = shared / "data/mvsa_single"
    found = list(mvsa_single.samples(root))
    assert Counter(sample.label for sample in kept(found).values()) == {"positive": 330, "neutral": 58, "negative": 166}
    assert reasons(found) == {"text and image conflict": 46}
    rows = [line.split("\t") for line in (root / "labelResultAll.txt").read_text().split("\n")[1:] if line]
    opposed = [id for id, cell in rows if {"positive", "negative"} == set(cell.split(","))]
    assert sorted(opposed) == sorted(item.id for item in found if isinstance(item, Dropped))
    equal = sum(cell.split(",")[0] == cell.split(",")[1] for _, cell in rows)
    assert len(kept(mvsa_single.samples(root, mvsa_single.Config(rule="strict")))) == equal


@pytest.mark.real
def test_ravdess_and_emodb_at_hand_are_complete(shared):
    actors = kept(ravdess.samples(shared / "data/ravdess"))
    assert len(actors) == 120
    # 2 actors x 2 sentences x 2 repetitions x 2 strengths of each emotion, but neutral has one strength
    assert Counter(s.label for s in actors.values()) == {"positive": 32, "neutral": 24, "negative": 64}
    speakers = kept(emodb.samples(shared / "data/emodb"))
    assert len(speakers) == len(list((shared / "data/emodb/wav").glob("*.wav"))) == 243
    assert {s.group for s in speakers.values()} == {"03", "08", "09", "10", "11"}


@pytest.mark.real
def test_the_mosi_table_at_hand_reads_as_a_table_with_official_splits(shared):
    path = shared / "data/mosi_npy/samples.csv"
    found = list(table.samples(path))
    assert len(kept(found)) == len(found) == 895
    assert {sample.split for sample in found} == {Split.TRAIN, Split.VALID}  # of the 40 videos none is of the test part
    assert len({sample.group for sample in found}) == 40
    assert table.task(path) == SENTIMENT
