"""The user's own table."""

import json
import os
from pathlib import Path

import pytest

from msa.annotations import labels
from msa.config import with_settings
from msa.errors import ConfigError, SourceError, UnknownNameError
from msa.extract.datasets import clips, table
from msa.extract.scan import scan
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Split, Task
from tests.extract.datasets.folders import kept, touch, tree, written


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


@pytest.mark.real
def test_the_mosi_table_at_hand_reads_as_a_table_with_official_splits(shared):
    path = shared / "data/mosi_npy/samples.csv"
    found = list(table.samples(path))
    assert len(kept(found)) == len(found) == 895
    assert {sample.split for sample in found} == {Split.TRAIN, Split.VALID}  # of the 40 videos none is of the test part
    assert len({sample.group for sample in found}) == 40
    assert table.task(path) == SENTIMENT
