"""A disk that is full, not ours to write to, or failing is an error with a way out in whatever command meets it."""

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msa import cli
from msa.cache.format import generations
from msa.cache.maintain import history
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.errors import MsaError
from msa.extract.work.forward import Failure
from tests.cache.conftest import fill, make_index

WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EROFS: "Read-only file system",
    errno.EACCES: "Permission denied",
    errno.EIO: "Input/output error",
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = FeatureStore.create(tmp_path / "store")
    fill(made, make_index(), view_id="b" * 16)
    history.tag(made.path, "paper")
    return FeatureStore.open(made.path)


def refusing(monkeypatch, number):
    """Let every attempt to make or fill a file fail."""
    import builtins

    real_open, real_os_open, real_mkdir = builtins.open, os.open, os.mkdir

    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    def open_(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+") and not isinstance(path, int):
            refuse(path)
        return real_open(path, mode, *args, **kwargs)

    def os_open(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_os_open(path, flags, *args, **kwargs)

    import io

    monkeypatch.setattr(builtins, "open", open_)
    monkeypatch.setattr(io, "open", open_)
    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr(os, "mkdir", lambda path, *args, **kwargs: refuse(path))
    assert real_mkdir


COMMANDS = {
    "rm": "cache rm --dataset tiny --store store --yes",
    "rm --now": "cache rm --dataset tiny --store store --yes --now",
    "tag": "cache tag other --store store",
    "rollback": "cache rollback 1 --store store --yes",
    "export": "cache export npy out --dataset tiny --store store",
    "train": "fuse train --model probe --seeds 1 --store store --out run",
    "bench": "fuse bench --models probe --seeds 1 --store store --out table",
    "clone": "cache clone store copy",
    "pull": "cache pull store --store copy",
}


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_named_and_the_store_is_as_it_was(store, monkeypatch, command, number):
    before = generations.generations(store.path)
    with monkeypatch.context() as patch:
        refusing(patch, number)
        done = CliRunner().invoke(cli.app, COMMANDS[command].split())
    assert done.exit_code == 1
    assert isinstance(done.exception, MsaError), done.exception
    said = str(done.exception)
    assert WORDS[number] in said
    assert "fix: " in said
    assert generations.generations(store.path) == before
    assert verify(FeatureStore.open(store.path)) == []
    assert not list(Path(store.path).rglob(".tmp-*"))


def test_a_bug_keeps_its_traceback(store, monkeypatch):
    def broken(*args, **kwargs):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    monkeypatch.setattr(history, "tag", broken)
    done = CliRunner().invoke(cli.app, COMMANDS["tag"].split())
    assert isinstance(done.exception, FileNotFoundError)


@pytest.mark.parametrize("said", ["", "Unable to allocate 128. MiB"])
def test_too_little_memory_is_an_error_with_a_way_out(store, monkeypatch, said):
    def short(*_, **__):
        raise MemoryError(said)

    monkeypatch.setattr(FeatureStore, "open", short)
    with pytest.raises(MsaError, match="too little memory") as error:
        CliRunner().invoke(cli.app, ["cache", "ls", "--store", str(store.path)], catch_exceptions=False)
    assert said in error.value.what
    assert "MALLOC_ARENA_MAX=1" in error.value.fix
    assert Failure.of("decode", MemoryError(said)).reason.startswith("too little memory")
