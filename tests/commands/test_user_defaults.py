"""What is remembered is a convenience: where it cannot be kept or read, that is said, and the work is done."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msa import cli
from msa.commands import user_defaults
from msa.errors import ConfigError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("MSA_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_store_and_corpora_are_found_again(home):
    assert user_defaults.keep(Path("a")) == ""
    assert user_defaults.keep(Path("b"), {"x": Path("raw")}) == ""
    assert user_defaults.store(None)[0] == Path("b").resolve()
    assert user_defaults.root("x", None) == Path("raw").resolve()
    assert [path.name for path in home.iterdir()] == ["settings.json"]


def file_in_the_way(home):
    home.write_text("")


def folder_in_the_way(home):
    (home / "settings.json").mkdir(parents=True)


def damaged(home):
    home.mkdir()
    (home / "settings.json").write_text('{"store')


def absurd(home):
    home.mkdir()
    (home / "settings.json").write_text("[" * 100_000)


def refused(home):
    home.mkdir()
    (home / f"settings.{os.getpid()}").mkdir()


@pytest.mark.parametrize("trouble", [file_in_the_way, folder_in_the_way, damaged, absurd, refused])
def test_where_it_cannot_be_kept_the_work_is_done_and_that_is_said(home, trouble, tmp_path):
    trouble(home)
    (tmp_path / "posts.csv").write_text("id,text,label\n" + "".join(f"s{i},text {i},{i % 2}\n" for i in range(20)))
    command = ["extract", "--dataset", "table", "--root", "posts.csv", "--store", "s", "--text", "ngrams.words"]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.exception
    assert "settings.json" in done.output + (done.stderr if done.stderr_bytes is not None else "")
    assert (tmp_path / "s" / "manifests" / "00000001.json").exists()


@pytest.mark.parametrize("trouble", [folder_in_the_way, damaged, absurd])
def test_where_it_is_needed_and_cannot_be_read_that_is_the_error(home, trouble):
    trouble(home)
    with pytest.raises(ConfigError, match=r"settings\.json"):
        user_defaults.store(None)


@pytest.mark.parametrize(
    "known", [[], {"roots": []}, {"roots": {"x": 3}}, {"store": 3}, {"roots": None, "store": None}]
)
def test_settings_of_an_unexpected_form_break_nothing(home, known):
    home.mkdir()
    (home / "settings.json").write_text(json.dumps(known))
    user_defaults.store(None)
    user_defaults.root("x", None)
    assert user_defaults.keep(Path("b"), {"y": Path("raw")}) == ""
    assert user_defaults.root("y", None) == Path("raw").resolve()
