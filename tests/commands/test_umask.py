"""Every file and folder that a command makes follows the umask: colleagues can read, or write, what is shared."""

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msa import cli

COMMANDS = """
extract --dataset table --root posts.csv --store store --text ngrams.words
cache export npy npy --dataset posts --store store
cache export hdf5 posts.h5 --dataset posts --store store
cache import npy npy --store imported
cache import hdf5 posts.h5 --store imported --name again
cache tag paper --store store
cache pull store --store pulled --split train
cache pull store --store whole
cache clone store cloned
cache push pushed --store store --i-may-share
cache merge imported --store whole
cache compact --store whole
cache rollback 1 --store whole --yes
fuse train --model probe --seeds 2 --store store
fuse bench --models probe --seeds 1 --store store --out table
"""


@pytest.mark.parametrize("umask", [0o027, 0o002])
def test_whatever_is_made_is_as_open_as_the_umask_says(tmp_path, monkeypatch, umask):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MSA_CACHE", str(tmp_path / "kept"))
    rows = "".join(f"s{i},text {i} is {'good' if i % 2 else 'bad'},{i % 2}\n" for i in range(40))
    (tmp_path / "posts.csv").write_text("id,text,label\n" + rows)
    before = os.umask(umask)
    try:
        for line in COMMANDS.strip().splitlines():
            done = CliRunner().invoke(cli.app, line.split())
            assert done.exit_code == 0, (line, done.output, done.exception)
    finally:
        os.umask(before)
    made = {path: stat.S_IMODE(path.lstat().st_mode) for path in Path().rglob("*") if path.name != "posts.csv"}
    odd = {str(p): oct(m) for p, m in made.items() if m != (0o777 if p.is_dir() else 0o666) & ~umask}
    assert odd == {}
    names = {path.name for path in made}
    assert {"head.safetensors", "normalisation.safetensors", "run.json", "settings.json", "posts.h5"} <= names
    assert len(made) > 100
