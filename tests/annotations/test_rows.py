"""Cells as programs leave them, and the order in which people number things."""

import csv
import json

import pytest

from msa.annotations.rows import natural, read, spoiled, whole_characters
from msa.errors import SourceError


def in_order(*ids):
    backwards = ids[::-1]
    return sorted(backwards, key=natural) == list(ids)


def test_numbers_in_names_are_numbers():
    assert in_order("clip1", "clip2", "clip10", "clip10a", "clip10b", "dia2_utt3", "dia10_utt1")
    assert in_order("", "7", "12", "a")


def test_names_that_differ_in_zeros_alone_keep_one_order():
    assert in_order("v$_$01", "v$_$1", "v$_$02", "v$_$2")


def test_a_number_longer_than_python_reads_is_no_error():
    assert in_order("1", "9" * 5000)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_cell_may_be_as_long_as_a_transcript_and_the_limit_of_others_stays(tmp_path, delimiter):
    before = csv.field_size_limit(1000)
    try:
        (tmp_path / "t.csv").write_text(f"id{delimiter}text\na{delimiter}{'word ' * 60_000}\nb{delimiter}x\n")
        [(_, first), (_, second)] = read(tmp_path / "t.csv")[1]
        assert (len(first["text"]), second["text"]) == (300_000, "x")
        assert csv.field_size_limit() == 1000
        (tmp_path / "t.csv").write_text('id,text\na,"' + "word " * 60_000)
        with pytest.raises(SourceError, match="line 2"):
            read(tmp_path / "t.csv")
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_half_a_character_is_replaced_wherever_json_lets_it_through(tmp_path):
    row = {"id": "x\ud83d", "label \ude00": "jo\ud83d", "text": "\ud83d\ude00 hi \udc00", "n": 3}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    columns, [(_, cells)] = read(tmp_path / "t.jsonl")
    assert cells == {"id": "x\ufffd", "label \ufffd": "jo\ufffd", "text": "\U0001f600 hi \ufffd", "n": 3}
    assert columns == list(cells)
    assert whole_characters("\ud83d\ude00") == "\U0001f600"


@pytest.mark.parametrize(
    "cell",
    [
        *("#NAME?", " #REF! ", "#VALUE!", "#DIV/0!", "#N/A", "#NUM!", "#NULL!", "#SPILL!", "#¡REF!", "#NOMBRE?"),
        *("#ÚLTIMO!", "#WERT!", "#NV", "1.23E+17", "1,23457E+11", "1E+05"),
    ],
)
def test_what_a_spreadsheet_leaves_of_an_id_is_told(cell):
    assert spoiled(cell)


@pytest.mark.parametrize(
    "cell",
    ["", "03bSnISJMiM", "#", "#1", "#name", "#fail!", "-6rXp3zJ3kc", "1E5", "2e+3", "12345678901234567", "#A", "E+10"],
)
def test_an_id_that_looks_odd_is_left_alone(cell):
    assert not spoiled(cell)
