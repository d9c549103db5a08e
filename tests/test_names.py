"""Names of strangers, on terminals and as folders."""

import subprocess
from pathlib import Path

import pytest

from msa.names import folder_name, printable, shell_command


@pytest.mark.parametrize("name", ["mvsa-single", "mvsa+tess", "cmsta-mosi-20260101-120000", "a.b_c@1"])
def test_a_plain_name_is_its_own_folder(name):
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "x/../../VICTIM",
        "/etc",
        "..",
        ".",
        "",
        "-rf",
        ".hidden",
        "a\\b",
        "a\x1b[2J",
        "a\nb",
        "x" * 5000,
        "情感",
        "\ud800",
        "a\0b",
    ],
)
def test_any_name_becomes_one_folder_below(name):
    made = folder_name(name)
    assert len(made) <= 100
    assert made.isascii()
    assert made.isprintable()
    assert not made.startswith((".", "-"))
    assert Path("runs", made).parent == Path("runs")
    assert Path(made).name == made


def test_two_names_never_share_a_folder():
    names = ["a/b", "a\\b", "a b", "a_b", "a:b", "x" * 200, "x" * 201, "情", "感"]
    assert len({folder_name(name) for name in names}) == len(names)


def test_nothing_that_steers_a_terminal_is_printed():
    assert printable("a\x1b[2Jb\x07\r\n\x9b\u202e\ud800é情") == r"a\x1b[2Jb\x07\r\n\x9b\u202e\ud800é情"
    assert printable(3) == "3"


@pytest.mark.parametrize(
    "name",
    [
        "$(touch PWNED)",
        "`touch PWNED`",
        "a; touch PWNED",
        "it's",
        "a b",
        "",
        "~root",
        "*",
        "a\\b",
        "-rf",
        "#x",
        "!x",
        "情",
    ],
)
def test_a_shell_reads_a_command_as_it_was_meant(name, tmp_path):
    said = shell_command("printf", "%s|", name, Path("/x y")).replace("printf", "printf --", 1)
    read = subprocess.run(["sh", "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read.stdout == f"{name}|/x y|"
    assert not list(tmp_path.iterdir())


def test_a_command_is_one_plain_line():
    said = shell_command("msa", "extract", "--dataset", "a\x1b[2J\nb\u202e")
    assert said == r"msa extract --dataset 'a\x1b[2J\nb\u202e'"
