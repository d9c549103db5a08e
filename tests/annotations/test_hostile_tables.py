"""Tables and split files that have no end, are no files, or cost far more than they show: an error at once."""

import json
import os
import time

import pytest

from msa import predict
from msa.annotations import labels, splits
from msa.annotations import rows as records
from msa.errors import MsaError, SourceError
from msa.extract.datasets import clips, table


def readers(path):
    """Every way in which a user names a table."""
    folder = path.parent / f"clips of {path.name}"
    folder.mkdir()
    (folder / "1.wav").write_bytes(b"RIFF")
    (folder / f"labels{path.suffix}").symlink_to(path)
    return {
        "table": lambda: list(table.samples(path)),
        "clips": lambda: list(clips.samples(folder)),
        "split": lambda: splits.named(path),
        "predict": lambda: predict.from_table(path),
    }


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def terabyte(path):
    with path.open("wb") as file:
        file.write(b"id,label\n")
        file.truncate(1 << 40)


def gigabytes(path):
    with path.open("wb") as file:
        file.truncate(3 << 30)


def one_line(path):
    with path.open("wb") as file:
        file.truncate(1 << 30)


KINDS = {
    pipe: "a pipe",
    endless: "a pipe, a socket or a device",
    folder: "is a directory|is a folder",
    terabyte: "1,099,511,627,776 bytes",
    gigabytes: "3,221,225,472 bytes(; at most 268,435,456|, but only 0 are on the disk)",  # where the disk keeps holes
    one_line: "1,073,741,824 bytes; at most",
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_or_too_large_is_named_before_anything_is_read(tmp_path, kind, suffix):
    path = tmp_path / f"x{suffix}"
    kind(path)
    for way, read in readers(path).items():
        if way == "clips" and kind is folder:
            continue  # a folder called labels.csv is a folder of clips
        begun = time.monotonic()
        with pytest.raises(SourceError, match=KINDS[kind]) as caught:
            read()
        assert time.monotonic() - begun < 2, way
        assert caught.value.fix and str(path.suffix) in str(caught.value), way


def test_a_split_in_json_is_a_file_of_ids_and_no_more(tmp_path):
    path = tmp_path / "x.json"
    for make in (pipe, terabyte, one_line):
        make(path)
        with pytest.raises(SourceError, match=r"a pipe|bytes"):
            splits.named(path)
        path.unlink()
    path.write_text(json.dumps({"train": ["a" * 100] * 700_000}))
    with pytest.raises(SourceError, match="at most 67,108,864"):
        splits.named(path)
    path.write_text('{"train": ' + "[" * 100_000)
    with pytest.raises(SourceError, match="nested more than 64 deep"):
        splits.named(path)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("away"), pipe])
def test_a_transcript_that_is_no_file_is_an_error_of_the_corpus(tmp_path, make):
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    make(tmp_path / "1.txt")
    if (tmp_path / "1.txt").exists():
        with pytest.raises(SourceError, match=r"1\.txt is a"):
            list(clips.samples(tmp_path))
    else:  # a link to nothing is no transcript
        [sample] = clips.samples(tmp_path)
        assert sample.id == "1"


def test_a_million_columns_are_refused_soon(tmp_path):
    begun = time.monotonic()
    (tmp_path / "x.csv").write_text(",".join(f"c{i}" for i in range(1_000_000)) + "\n")
    with pytest.raises(SourceError, match="1,000,000 columns; at most 10,000"):
        records.read(tmp_path / "x.csv")
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({f"c{i}_{k}": 1 for i in range(900)}) + "\n" for k in range(12))
    )
    with pytest.raises(SourceError, match="10,800 columns; at most 10,000"):
        records.read(tmp_path / "x.jsonl")
    assert time.monotonic() - begun < 10


def test_a_column_whose_name_is_a_text_is_no_column(tmp_path):
    (tmp_path / "x.csv").write_text("id," + "word " * 100 + "\na,b\n")
    with pytest.raises(SourceError, match="a column's name has 499 letters") as caught:
        table.task(tmp_path / "x.csv")
    assert len(str(caught.value)) < 500


def test_rows_cells_and_lines_have_a_limit_each(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("id,text\n" + "a,b\n" * 10)
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"id": 1, "text": 2}\n' * 10)
    for name, most in (("MOST_ROWS", 9), ("MOST_CELLS", 19)):
        with monkeypatch.context() as patch:
            patch.setattr(records, name, most)
            for each in (path, lines):
                with pytest.raises(SourceError, match=r"goes on after line 1[01]"):
                    records.read(each)
    monkeypatch.setattr(records, "LONGEST_LINE", 12)
    path.write_text("id,text\na,b\nlong,long long\n")
    with pytest.raises(SourceError, match="line 3 has 15 characters; at most 12"):
        records.read(path)
    monkeypatch.setattr(records, "LONGEST_CELL", 4)
    path.write_text('id,text\na,"b\n\nc\n\nd"\n')
    with pytest.raises(SourceError, match="line 2: field larger than field limit"):
        records.read(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_part_rows_and_stay_in_cells(tmp_path, end):
    path = tmp_path / "x.csv"
    path.write_bytes(f'id,text{end}a,"one{end}{end}two"{end}{end}b,three'.encode())
    columns, rows = records.read(path)
    assert columns == ["id", "text"]
    assert rows == [(2, {"id": "a", "text": f"one{end}{end}two"}), (6, {"id": "b", "text": "three"})]


@pytest.mark.parametrize("text", ['"' + '\\"' * 500_000, '"' + "\\\\" * 500_000, '{"a": ' + '"\\"' * 300_000])
def test_a_string_without_end_is_read_once(text):
    begun = time.monotonic()
    assert records.shallow(text) == text
    assert time.monotonic() - begun < 5


def test_brackets_in_strings_are_no_depth_and_those_behind_are():
    assert records.shallow('["' + "[" * 100 + '\\"' + "[" * 100 + '"]')
    with pytest.raises(ValueError, match="nested"):
        records.shallow('"a\\"b"' + "[" * 65)


def test_lists_in_a_cell_are_named_and_not_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "b", "label": 1, "more": [0] * 1000, "user": {"name": "x"}}) + "\n")
    [(_, cells)] = records.read(path)[1]
    assert cells["more"] == [] and cells["user"] == {}
    [row] = labels.rows(path)[1]
    with pytest.raises(MsaError, match="more holds a list"):
        row.text("more")
