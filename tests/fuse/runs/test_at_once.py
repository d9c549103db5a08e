"""Runs that are begun at the same moment, each in a folder of its own."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from msa.errors import ConfigError
from msa.fuse.experiments import request
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model

N = 8


def at_once(work):
    """What `work(i)` gives or raises in N threads that begin together."""
    barrier = threading.Barrier(N)

    def one(i):
        barrier.wait()
        try:
            return work(i)
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(one, range(N)))


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = at_once(lambda i: request._made("probe-posts-20260101-000000"))
    assert len(set(made)) == N
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(path.name for path in made)


def test_a_place_where_no_run_can_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match="no run can be written"):
        request._made("x")


@pytest.mark.parametrize("linked", [True, False])
def test_a_folder_that_several_begin_at_once_is_of_one_experiment(tmp_path, monkeypatch, linked):
    def refuse(source, target):
        raise PermissionError

    if not linked:  # a file system without hard links
        monkeypatch.setattr(os, "link", refuse)
    facts = {
        "task": {"classes": ["negative", "positive"], "low": 0.0, "high": 0.0},
        "protocol": "",
        "drawn": [],
        "store": "store",
        "generation": 1,
        "samples": {"train": 1, "valid": 1, "test": 1},
        "hidden_states": {"text": 3},
        "classes": {"negative": 2, "positive": 1},
        "dims": {"text": 8},
        "views": {"text": {"id": "a" * 16, "attributes": {"modality": "text", "backbone": "made.text", "dim": 8}}},
    }
    wanted = [Experiment(Model.of("probe"), Data(("posts",)), (seed,)).to_json() for seed in (0, 1)]
    begun = at_once(lambda i: Run.begin(tmp_path / "run", wanted[i % 2], facts))
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["experiment"]
    assert kept in json.loads(json.dumps(wanted))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    if linked:
        assert sum(isinstance(one, ConfigError) for one in begun) == N // 2, begun
        assert all(one.record["experiment"] == kept for one in begun if isinstance(one, Run))
