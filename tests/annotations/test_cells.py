"""Cells of CSV files: no spreadsheet computes them, and every text comes back as it was."""

import csv
import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from msa.annotations import rows as records
from msa.annotations import splits
from msa.annotations.cells import Writer, guarded, plain
from msa.annotations.labels import rows
from msa.cache.exchange import _table
from msa.errors import SourceError
from msa.fuse.experiments.tables import Sheet, markdown
from msa.fuse.runs.files import table_rows
from msa.predict import Prediction, write_csv
from tests.cache.conftest import make_index

FORMULAS = [
    "=1+1",
    "+x",
    "-x",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "=cmd|' /C calc'!A0",
    "-2+3+cmd",
    "＝1",
    "'=x",
    "''=x",
    "+49 30",
]
TEXTS = ["", "a", "'", "''", "'a", "it's", "a=b", "1-2", "'1", " =x", "é", '"=x"']
NUMBERS = ["-1.5", "+3", "-1e-05", "3", "-.5", "-2."]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text_and_comes_back(text):
    assert guarded(text) == f"'{text}"
    assert plain(guarded(text)) == text


@pytest.mark.parametrize("text", [*TEXTS, *NUMBERS])
def test_other_texts_and_numbers_stay(text):
    assert guarded(text) == text
    assert plain(text) == text


@pytest.mark.parametrize("value", [-1.5, 3, None, True, float("-inf"), np.float32(-2)])
def test_what_is_no_text_stays(value):
    assert guarded(value) is value


def test_any_text_comes_back():
    rng = random.Random(7)
    for _ in range(20_000):
        text = "".join(rng.choices("'=+-@\t\r\n1.ea", k=rng.randrange(6)))
        assert plain(guarded(text)) == text


def cells_of(text):
    return [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]


def test_a_file_holds_no_formula_and_the_readers_take_the_mark_off(tmp_path):
    path = tmp_path / "made.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = Writer(file)
        table.row(["id", "=label"])
        table.rows([text, 1.5] for text in FORMULAS)
    written = cells_of(path.read_bytes().decode())
    assert not [cell for cell in written if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")]
    columns, found = records.read(path)
    assert columns == ["id", "=label"]
    assert [cells["id"] for _, cells in found] == FORMULAS
    assert [row["id"] for _, row in table_rows(path)] == FORMULAS


def test_a_table_of_an_export_reads_the_same(tmp_path):
    ids = [f"{sign}id{i}" for i, sign in enumerate(["=", "+", "-", "@", "'=", "'", "''-", "", "-1", "+2"] * 2)]
    index = replace(make_index(), ids=ids, group=["=g", "@h"] * 10, text=[f"-{i} = text" for i in range(20)])
    _table.write(tmp_path / "samples.csv", index)  # raises where it would not read the same
    assert not [c for c in cells_of((tmp_path / "samples.csv").read_bytes().decode()) if c[:1] in ("=", "@")]
    assert [row.id for row in rows(tmp_path / "samples.csv")[1]] == ids


def test_predictions_hold_no_formula(tmp_path):
    said = Prediction("=HYPERLINK(1)", "@good", {"-bad": 0.25, "@good": 0.75}, (), ("+note",))
    write_csv([said], tmp_path / "p.csv")
    found = next(iter(table_rows(tmp_path / "p.csv")))[1]
    assert found["id"] == "=HYPERLINK(1)"
    assert found["prediction"] == "@good"
    assert found["notes"] == "+note"
    assert not [c for c in cells_of((tmp_path / "p.csv").read_bytes().decode()) if c[:1] in ("=", "@", "+", "-")]


@pytest.mark.parametrize("levels", [65, 900, 5_000, 200_000])
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_json_that_is_nested_absurdly_is_a_source_error(tmp_path, levels, bracket):
    table, parts = tmp_path / "t.jsonl", tmp_path / "s.json"
    closing = {"[": "]", '{"a":': "}"}[bracket]
    value = bracket * levels + "1" + closing * levels
    table.write_text('{"id": "a", "label": ' + value + "}\n")
    parts.write_text('{"train": [' + value + "]}")
    with pytest.raises(SourceError, match="line 1: nested more than"):
        records.read(table)
    with pytest.raises(SourceError, match="nested more than"):
        splits.named(parts)


def test_brackets_in_texts_are_no_levels(tmp_path):
    ids = ["[" * 99 + '\\"{', "]]]", "}"]
    (tmp_path / "s.json").write_text(json.dumps({"train": ids}))
    assert set(splits.named(tmp_path / "s.json")) == set(ids)


def test_a_name_stays_in_its_cell_of_a_table_in_markdown():
    name = "a|b\nc[x](http://h)![y](z)<img>`\x1b"
    sheet = Sheet(name, ("", "F1\nweighted"), ((name, "0.5\n[0.4, 0.6]"),), (name,))
    lines = markdown(sheet).splitlines()
    assert lines[4] == r"| a\|b c\[x](http://h)\![y](z)\<img>`\\x1b | 0.5 [0.4, 0.6] |"
    assert len(lines) == 7
