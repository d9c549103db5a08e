"""What goes wrong while settings are sought: Ctrl-C, a killed command, a full disk, a store that changes or is damaged;
and what is told meanwhile."""

import inspect
import json
import multiprocessing
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from msa import catalog
from msa.errors import ConfigError, StoreError
from msa.fuse.experiments import bench, request, search_space, tune, workers
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.workers import Workers
from msa.fuse.runs.files import claimed
from msa.fuse.train.model import Model
from msa.types import SENTIMENT
from tests.faults import stuck_searches
from tests.fuse.conftest import AUDIO, TEXT, WIDTH

HERE = Workers(jobs=1)
SEARCHED = [name for name in catalog.names("head") if hasattr(Model.of(name).module, "SEARCH")]


@pytest.fixture
def data(made):
    return tune.without_test(Data(("posts",)).load(made))


def searching(folder, trials, model="probe"):
    return tune.Search(model, "default", Data(("posts",)), "", 0, str(folder), trials)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.02)


# --- Ctrl-C and killed commands ---------------------------------------------------------------------------------------


def test_ctrl_c_ends_what_is_under_way_and_begins_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "Search", stuck_searches.Search)
    monkeypatch.setattr(tune, "LOOK_S", 0.02)
    monkeypatch.setattr(workers, "_settle_in", stuck_searches.settle_in)
    searches = [stuck_searches.Search(name, str(tmp_path / name)) for name in ("under way", "queued", "queued too")]
    for one in searches:
        Path(one.folder).mkdir()
    before, lines = set(multiprocessing.active_children()), []

    def interrupted(line):
        lines.append(line)
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tune._all_at_once(searches, HERE, interrupted, lambda one, future: pytest.fail("it never ends"))
    assert time.monotonic() - began < 20  # what is under way sleeps for a minute
    assert set(multiprocessing.active_children()) == before
    # from its first instruction on, before it could have imported anything
    assert (tmp_path / "under way" / "signals.txt").read_text() == "Ctrl-C is blocked: True"
    assert lines == ["under way: trial 1 of 2"]  # the second line is not whole yet
    assert [(tmp_path / name / "trials.txt").exists() for name in ("queued", "queued too")] == [False, False]


def test_a_worker_leaves_ctrl_c_to_the_command_and_ends_when_that_is_killed(tmp_path):
    command = subprocess.Popen([sys.executable, "-m", "tests.faults.stuck_searches", str(tmp_path)])
    try:
        wait_for((tmp_path / "at work").exists, 60)
        with pytest.raises(ConfigError, match="another process is at work"), claimed(tmp_path):
            pass
    finally:
        command.kill()
        command.wait()

    def is_free():
        try:
            with claimed(tmp_path):
                return True
        except ConfigError:
            return False

    wait_for(is_free)


def test_a_search_that_another_process_runs_makes_no_table_without_it(made, tmp_path, in_this_process, drawn):
    at_it = tmp_path / "searches" / "probe"
    asked = request.Request("", data="posts", seeds="1,")
    with claimed(at_it), pytest.raises(ConfigError, match=f"another process is at work in {at_it}"):
        request.tune(asked, ["mutanet", "probe"], 1, made.path, tmp_path, HERE, print)
    with claimed(tmp_path / "searches"), pytest.raises(ConfigError, match="another process is at work"):
        request.tune(asked, ["mutanet", "probe"], 1, made.path, tmp_path, HERE, print)
    assert drawn == []


# --- a folder that cannot be written or read --------------------------------------------------------------------------


def test_a_full_disk_costs_a_search_nothing_that_it_had(data, tmp_path, drawn):
    whole = tune.search(searching(tmp_path / "a", 5), data)
    straight = list(drawn)
    drawn.clear()
    tune.search(searching(tmp_path / "b", 2), data)
    log = tmp_path / "b" / "search.log"
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 500, was[1]))
    try:
        with pytest.raises(ConfigError, match=r"b cannot go on: .*File too large") as error:
            tune.search(searching(tmp_path / "b", 5), data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert "make room" in error.value.fix
    assert not log.read_bytes().endswith(b"\n")
    del drawn[2:]
    assert tune.search(searching(tmp_path / "b", 5), data) == whole
    assert drawn == straight


def test_a_log_that_was_written_on_behind_half_a_line_is_cut_before_it(data, tmp_path, drawn):
    whole = tune.search(searching(tmp_path / "a", 4), data)
    straight = list(drawn)
    drawn.clear()
    tune.search(searching(tmp_path / "b", 2), data)
    log = tmp_path / "b" / "search.log"
    with open(log, "ab") as file:
        file.write(b'{"op_code":4,"wor{"op_code":4,"worker_id":"x"}\n{"op_code":8}\n')
    log.with_name("search.log.lock").symlink_to(log)  # of a process that was killed while it wrote
    began = time.monotonic()
    assert tune.search(searching(tmp_path / "b", 4), data) == whole
    assert time.monotonic() - began < 15  # optuna would wait 30 s for the lock
    assert drawn == straight


# --- a store that changes or is damaged -------------------------------------------------------------------------------


def test_a_search_does_not_go_on_over_other_hidden_states(data, tmp_path, drawn):
    tune.search(searching(tmp_path, 1), data)
    text = data.columns[TEXT]
    column = replace(text, rows=np.where(np.arange(len(data)) == 5, -1, text.rows))
    fewer = replace(data, columns=data.columns | {TEXT: column})
    assert column.present.sum() == text.present.sum() - 1
    with pytest.raises(ConfigError, match=r"hidden_states \{.*'text': 46.*\}, now \{.*'text': 45.*\}") as error:
        tune.search(searching(tmp_path, 2), fewer)
    assert error.value.fix == "name another folder with --out"
    with pytest.raises(ConfigError, match=r"samples \{'train': 36, 'valid': 12\}, now \{'train': 30, 'valid': 10\}"):
        tune.search(searching(tmp_path, 2), data.take(np.arange(40)))
    record = tmp_path / "search.json"
    older = {k: v for k, v in json.loads(record.read_text()).items() if k not in ("hidden_states", "samples")}
    record.write_text(json.dumps(older))
    assert tune.search(searching(tmp_path, 2), data)["trials"] == 2  # it does not say, and is taken at its word
    assert json.loads(record.read_text())["samples"] == {"train": 36, "valid": 12}


def test_a_damaged_store_ends_a_search_and_costs_it_no_trial(data, tmp_path, drawn, monkeypatch):
    whole = tune.search(searching(tmp_path / "a", 4), data)
    straight = list(drawn)
    drawn.clear()
    trial_of = tune._trial

    def damaged(trial, *others):
        if len(drawn) == 2:
            raise StoreError("shard 3 is damaged", fix="msa cache repair")
        return trial_of(trial, *others)

    monkeypatch.setattr(tune, "_trial", damaged)
    with pytest.raises(StoreError, match="shard 3 is damaged"):
        tune.search(searching(tmp_path / "b", 4), data)
    monkeypatch.setattr(tune, "_trial", trial_of)
    assert tune.search(searching(tmp_path / "b", 4), data) == whole
    assert drawn == straight


def test_what_no_settings_mend_is_no_failed_trial(data, tmp_path, monkeypatch):
    faults = [RuntimeError("CUDA out of memory."), MemoryError("so large"), ConfigError("too large", fix="less")]

    def trial_of(trial, *_):
        if trial.number < len(faults):
            raise faults[trial.number]
        return 0.5

    monkeypatch.setattr(tune, "_trial", trial_of)
    found = tune.search(searching(tmp_path / "a", 5), data)
    assert (found["trials"], found["failed"]) == (5, 3)
    assert found["reasons"] == ["RuntimeError: CUDA out of memory.", "MemoryError: so large", "too large (less)"]
    faults[1:] = [RuntimeError("shapes cannot be multiplied")]
    with pytest.raises(RuntimeError, match="shapes"):
        tune.search(searching(tmp_path / "b", 5), data)


# --- what is told and searched ----------------------------------------------------------------------------------------


def test_every_trial_is_told_once(made, tmp_path, in_this_process, monkeypatch):
    ends = [0.4, ConfigError("too large", fix="less"), 0.3, optuna.TrialPruned(), 0.5]

    def trial_of(trial, *_):
        trial.report(0.6, 1)
        if isinstance(end := ends[trial.number], Exception):
            raise end
        return end

    monkeypatch.setattr(tune, "_trial", trial_of)
    told = {}
    for trials in (4, 5):
        told[trials] = []
        tune.tune(["probe"], "default", Data(("posts",)), made, tmp_path, trials, HERE, told[trials].append)
    assert told[4][:-1] == [
        "probe: trial 1 of 4, validation 0.4000 (best 0.4000)",
        "probe: trial 2 of 4 failed: too large (less)",
        "probe: trial 3 of 4, validation 0.3000 (best 0.3000)",
        "probe: trial 4 of 4, given up at 0.6000 (best 0.3000)",
    ]
    assert told[4][-1].startswith(
        "probe: validation 0.3000 after 4 trials, 1 of them pruned, 1 failed (too large (less)): "
    )
    assert told[5][:-1] == ["probe: trial 5 of 5, validation 0.5000 (best 0.3000)"]


def test_a_table_is_told_what_its_rows_were_searched_by(made, tmp_path, in_this_process, drawn, monkeypatch):
    handed, taken = {}, inspect.signature(bench.bench)
    monkeypatch.setattr(bench, "bench", lambda *args, **named: handed.update(taken.bind(*args, **named).arguments))
    asked = request.Request("", data="posts", seeds="1,")
    request.tune(asked, ["probe"], 3, made.path, tmp_path, HERE, print)
    best, start = max(drawn, key=lambda row: row["lr"]), search_space.defaults(Model.of("probe"))
    changed = {name: pytest.approx(value, rel=1e-5) for name, value in best.items() if value != start[name]}
    assert "lr" in changed
    counted = {"trials": 3, "pruned": 0, "failed": 0, "value": -best["lr"]}
    assert handed["searched"] == {"probe": counted | {"settings": changed}}
    assert handed["candidates"]["probe"].model.training.lr == changed["lr"]


def test_epochs_are_judged_by_a_search_as_by_its_table():
    assert tune._model("lmf", "default", ["rank=8"]) == bench.alike(Model.of("lmf", "default", ["rank=8"]))


def test_heads_whose_structure_is_in_question_say_so():
    assert {"cmsta", "hcl", "lmf", "misa", "fdmer", "dlf", "mult"} <= set(SEARCHED)


@pytest.mark.parametrize("name", SEARCHED)
def test_what_is_searched_can_be_built_and_holds_every_preset(name):
    module = Model.of(name).module
    assert len(module.SEARCH) <= 2  # twenty trials find their way in few directions
    for preset in module.PRESETS:
        start = Model.of(name, preset)
        settings = search_space.defaults(start)
        fixed = optuna.trial.FixedTrial(settings)
        assert {key: suggest(fixed) for key, suggest in tune.space(start).items()} == settings
    for key, choices in module.SEARCH.items():
        assert len(set(choices)) == len(choices) > 1
        for choice in choices:
            Model.of(name, settings=[f"{key}={choice}"]).build({TEXT: WIDTH[TEXT], AUDIO: WIDTH[AUDIO]}, SENTIMENT)
