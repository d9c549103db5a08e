"""Many heads at once: the comparison, its audits and statistics, the search, and the papers' tables."""

import csv
import io
import json
import pickle
import random
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from msa import catalog
from msa.commands import console
from msa.commands.fuse.results import show_
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.fuse import metrics
from msa.fuse.data import memory
from msa.fuse.experiments import (
    bench,
    bench_record,
    bench_tables,
    compare,
    cost,
    leakage,
    papers,
    reproduce,
    request,
    search_space,
    sweep,
    tables,
    tune,
    workers,
)
from msa.fuse.experiments.evaluate import evaluate
from msa.fuse.experiments.experiment import Experiment, pin, run
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.workers import Workers
from msa.fuse.heads import probe
from msa.fuse.runs import plots
from msa.fuse.runs.files import claimed
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model
from msa.types import SENTIMENT, Split, Task
from tests.faults import killed_tasks
from tests.faults.strange_runs import VALUES as VALUES_OF_STRANGERS
from tests.faults.strange_runs import changed, paths
from tests.fuse.conftest import AUDIO, TEXT, VALUES, Now, add_corpus

HERE = Workers(jobs=1)
POOL = sweep.pool
SHORT = ["epochs=2", "normalise=audio"]
SMALL = [*SHORT, "dim=8", "heads=2", "layers=1", "cm_layers=1", "gate_hidden=8", "rank=2", "hidden=8", "lr=0.01"]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Fewer bootstrap samples, probes of a few epochs, and no pictures of single runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 50)
        for name in ("learning_curve", "confusion_matrix"):
            patch.setattr(plots, name, lambda *_: None)
        patch.setitem(probe.TRAIN, "default", probe.TRAIN["default"] | {"epochs": 4})
        yield


def single(y):
    """Every sample a group of its own."""
    return np.arange(len(y))


def cmsta(*settings):
    return bench.Candidate(Model.of("cmsta", settings=[*SMALL, *settings]))


@pytest.fixture
def done(made, tmp_path, in_this_process):
    """Two heads with two seeds on posts."""
    candidates = {"cmsta": cmsta(), "text alone": replace(cmsta(), modalities=(TEXT,))}
    return bench.bench(candidates, Data(("posts",)), (1, 2), made, tmp_path / "out", HERE), tmp_path / "out", candidates


def test_every_row_stands_beside_probes_the_majority_and_what_it_costs(done):
    found, folder, _ = done
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"cmsta", "text alone", "probe", "probe, text only", "probe, image only"}
    for row in rows.values():
        assert row["cost"]["parameters"] > 0 < row["cost"]["flops"]
        assert row["cost"]["step_bytes"] > 4 * 4 * row["cost"]["parameters"]  # weights, gradients, two moments
        assert len(row["seeds"]) == 2
    for which in (False, True):  # heads, then baselines
        best = [row["values"]["f1_weighted"] for row in found["rows"] if row["yardstick"] == which]
        assert best == sorted(best, reverse=True)
    assert [row["yardstick"] for row in found["rows"]] == [False] * 2 + [True] * 3
    assert found["beside"]["majority class"]["values"]["auroc_macro"] == 0.5
    assert any("posts: 36 train" in line for line in found["audits"])
    assert json.loads((folder / "bench.json").read_text())["rows"] == json.loads(json.dumps(found["rows"]))
    assert (folder / "bench.csv").read_text().count("\n") == 7  # the majority class too
    assert (folder / "bench.png").stat().st_size > 5000
    table = tables.markdown(bench_tables.bench_sheet(found))
    assert all(f"| {name} |" in table for name in [*rows, "majority class"])


def test_figures_are_those_of_the_runs_it_keeps(done):
    found, folder, _ = done
    for row in found["rows"]:
        kept = Run.open(folder / "runs" / row["run"])
        assert row["values"] == kept.metrics["values"]
        assert not list(kept.folder.glob("seeds/*/*.pt"))  # nothing is left of what was under way


def test_a_bench_that_is_asked_again_trains_nothing(done, made, monkeypatch):
    found, folder, candidates = done
    monkeypatch.setattr(sweep.Task, "do", lambda task: pytest.fail(f"trained {task.name} again"))
    again = bench.bench(candidates, Data(("posts",)), (1, 2), made, folder, HERE)
    assert [row["values"] for row in again["rows"]] == [row["values"] for row in found["rows"]]


def test_a_race_that_was_interrupted_goes_on_with_the_seeds_that_are_left(made, tmp_path, in_this_process, monkeypatch):
    do, trained = sweep.Task.do, []

    def dies_at_the_third(task):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((task.name, task.seed))
        do(task)

    wanted = {"cmsta": cmsta()}
    monkeypatch.setattr(sweep.Task, "do", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        bench.bench(wanted, Data(("posts",)), (1, 2), made, tmp_path / "a", HERE)
    assert not list((tmp_path / "a").glob("runs/*/metrics.json"))  # nothing is tested before all are trained
    before = list(trained)
    monkeypatch.setattr(sweep.Task, "do", lambda task: (trained.append((task.name, task.seed)), do(task))[1])
    found = bench.bench(wanted, Data(("posts",)), (1, 2), made, tmp_path / "a", HERE)
    assert len(trained) == len(set(trained)) == 8
    assert trained[:3] == before
    whole = bench.bench(wanted, Data(("posts",)), (1, 2), made, tmp_path / "b", HERE)
    assert [row["values"] for row in found["rows"]] == [row["values"] for row in whole["rows"]]


def test_a_head_that_fails_is_named_and_the_others_go_on(made, tmp_path, in_this_process):
    wanted = {"good": cmsta(), "bad": cmsta("class_weights=1,2")}  # of three classes
    found = bench.bench(wanted, Data(("posts",)), (1,), made, tmp_path, HERE)
    assert set(found["failed"]) == {"bad"}
    assert "good" in {row["name"] for row in found["rows"]}
    assert any(line.startswith("bad could not be trained") for line in bench_tables.bench_sheet(found).remarks)


def test_a_bench_in_two_processes_gives_the_same_figures(done, made, tmp_path):
    found, _, _ = done
    other = bench.bench({"cmsta": cmsta()}, Data(("posts",)), (1, 2), made, tmp_path / "two", Workers(jobs=2))
    ours, theirs = ({r["name"]: r for r in of["rows"]}["cmsta"] for of in (found, other))
    assert theirs["values"] == pytest.approx(ours["values"], abs=1e-6)
    assert theirs["cost"]["epochs_on"] == [{"device": "cpu", "threads": 1}]  # as OMP_NUM_THREADS says, see conftest


@pytest.mark.filterwarnings("ignore")  # of dask's own
def test_a_bench_on_a_dask_cluster_gives_the_same_table(made, tmp_path, in_this_process, monkeypatch):
    """Two workers with two threads each, all in this process: torch has one generator of random numbers for them."""
    from distributed import LocalCluster

    candidates = {name: bench.Candidate(Model.of(name, settings=["epochs=2"])) for name in ("lmf", "tfn", "mutanet")}
    here = bench.bench(candidates, Data(("posts",)), (1,), made, tmp_path / "here", HERE)
    monkeypatch.setattr(sweep, "pool", POOL)
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        cluster_workers = Workers(scheduler=cluster.scheduler_address)
        there = bench.bench(candidates, Data(("posts",)), (1,), made, tmp_path / "there", cluster_workers)
    assert there["failed"] == {}
    for one, other in zip(here["rows"], there["rows"], strict=True):
        for what in ("name", "values", "sd", "interval", "behind", "p_holm", "collapsed", "seeds"):
            assert one.get(what) == other.get(what), one["name"]
    assert "trainings on a dask cluster (cpu, 1 thread each)" in str(bench_tables.bench_sheet(there).remarks)


def test_processes_share_the_cores_unless_the_number_of_threads_is_given(monkeypatch):
    seen, begun = [], []

    class Processes(Now):
        def __init__(self, jobs, context, initializer, initargs):
            begun.append(jobs)
            initializer(*initargs)

    monkeypatch.setattr(workers, "_cores", lambda: 16)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", Processes)
    monkeypatch.setattr(workers.torch, "set_num_threads", seen.append)
    monkeypatch.setattr(sweep.Task, "do", lambda task: None)
    monkeypatch.setattr(workers.loader, "AT_ONCE", 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    many = [sweep.Task("x", seed, {}, "", 0, "") for seed in range(20)]
    for tasks, jobs in ((many, 2), (many, 16), (many, 20), (many, None), (many[:3], None)):
        sweep._train(tasks, Workers(jobs=jobs), lambda line: None, {})
    assert begun == [2, 16, 20, 16, 3]  # no more than there are tasks: the others' cores would stand idle
    assert seen == [8, 1, 1, 1, 5]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    sweep._train(many, Workers(jobs=2), lambda line: None, {})
    assert len(seen) == 5  # torch has read it


def test_a_process_that_dies_takes_no_other_with_it(monkeypatch):
    lines, failed = [], {}
    monkeypatch.setattr(sweep, "QUIET_S", 1e9)  # on a busy machine processes take seconds to begin
    monkeypatch.setattr(sweep.Task, "do", killed_tasks.do)
    monkeypatch.setattr(workers, "_settle_in", killed_tasks.settle_in)
    monkeypatch.setattr(sweep, "QUIET_S", 600)  # a busy machine may take long to start a process
    sweep._train([killed_tasks.Task(name, 1) for name in ("victim", "refused", "survivor")], HERE, lines.append, failed)
    assert failed == {
        "victim": "its process was killed, most likely for want of memory",
        "refused": "too large (take a smaller one)",  # an error arrives as it was
    }
    assert [line.partition(", seed")[0] for line in lines] == ["[1/3] victim", "[2/3] refused", "[3/3] survivor"]


def test_an_error_survives_the_way_from_one_process_to_another():
    for error in (StoreError("gone", fix="look"), UnknownNameError("head", "lfm", ["lmf"])):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.what, again.fix, str(again)) == (type(error), error.what, error.fix, str(error))


def test_workers_are_told_whole_paths_and_what_they_put_elsewhere_is_missed(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(sweep, "_train", lambda tasks, *_: seen.extend(tasks))
    wanted = {"a": Experiment(Model.of("probe"), Data(("posts",)), (1, 2))}
    runs, failed = sweep.run_all(wanted, made, Path("runs"), HERE, print)
    assert [task.folder for task in seen] == [str(tmp_path / "runs" / "a")] * 2
    assert not runs
    assert failed["a"].startswith(f"seed 1, 2 is not in {tmp_path / 'runs' / 'a'}")


def test_what_cannot_be_tested_costs_the_others_nothing(made, tmp_path, in_this_process, monkeypatch):
    really = sweep.experiments.run

    def fails_for_cmsta(candidate, *args, **named):
        if candidate.model.name == "cmsta":
            raise RuntimeError("out of memory")
        return really(candidate, *args, **named)

    monkeypatch.setattr(sweep.experiments, "run", fails_for_cmsta)
    found = bench.bench({"cmsta": cmsta()}, Data(("posts",)), (1,), made, tmp_path, HERE)
    assert found["failed"] == {"cmsta": "trained, not tested: RuntimeError: out of memory"}
    assert "out of memory" in (tmp_path / "runs" / "cmsta" / "error-test.txt").read_text()
    assert len(found["rows"]) == 3


def test_what_a_head_costs_may_be_too_much_to_measure_and_costs_nothing_else(
    made, tmp_path, in_this_process, monkeypatch
):
    measure = cost.measure

    def too_large(model, *args):
        if model.name == "cmsta":
            raise RuntimeError("CUDA out of memory")
        return measure(model, *args)

    monkeypatch.setattr(cost, "measure", too_large)
    found = bench.bench({"cmsta": cmsta()}, Data(("posts",)), (1,), made, tmp_path, HERE)
    assert found["unmeasured"] == {"cmsta": "RuntimeError: CUDA out of memory"}
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["cmsta"]["values"] == Run.open(tmp_path / "runs" / "cmsta").metrics["values"]
    assert set(rows["cmsta"]["cost"]) == {"parameters", "seconds_per_epoch", "epochs_on"}  # the trainings know these
    assert rows["probe"]["cost"]["flops"] > 0
    sheet = bench_tables.bench_sheet(json.loads((tmp_path / "bench.json").read_text()))
    assert sheet.rows[0][-4:-2] == ("-", "-")  # operations and memory
    assert "cmsta: what it costs could not be measured: RuntimeError: CUDA out of memory" in sheet.remarks
    with open(tmp_path / "bench.csv") as file:
        known = {row["name"]: bool(row["flops"]) for row in csv.DictReader(file)}
    assert known == {n: n != "cmsta" for n in rows} | {"majority class": False}


def test_a_folder_that_another_process_works_in_is_left_alone(made, tmp_path):
    with claimed(tmp_path / "runs"), pytest.raises(ConfigError, match="another process is at work"):
        sweep.run_all({}, made, tmp_path / "runs", HERE, print)
    assert sweep.run_all({}, made, tmp_path / "runs", HERE, print) == ({}, {})


def test_other_seeds_are_refused_with_the_way_out(done, made):
    _, folder, candidates = done
    with pytest.raises(ConfigError, match=r"holds another experiment \(name another folder with --out\)"):
        bench.bench(candidates, Data(("posts",)), (3,), made, folder, HERE)


def test_a_row_on_fewer_test_samples_is_said_not_to_be_comparable(done):
    found, _, _ = done
    rows = {row["name"]: row for row in found["rows"]}
    assert (rows["probe, image only"]["test_samples"], rows["probe"]["test_samples"]) == (11, 12)
    assert "p_holm" not in rows["probe, image only"]
    sheet = bench_tables.bench_sheet(found)
    assert any(r.startswith("probe, image only: on the 11 test samples that have") for r in sheet.remarks)
    assert [row[0] for row in sheet.rows if "best head" in row] == [
        next(r["name"] for r in rows.values() if "best" in r)
    ]


def test_what_a_table_cannot_tell_is_said_under_it(done):
    found, _, _ = done
    rows = [row | {"groups": 4} for row in found["rows"]]
    few = bench_tables.bench_sheet(found | {"rows": rows}).remarks
    compared = sum("p_holm" in row for row in rows)
    assert f"with 4 groups and {compared} comparisons no p can be below {compared / 8:.2f}: this table tells " in str(
        few
    )
    assert "no p can be below" not in str(bench_tables.bench_sheet(found).remarks)


def test_heads_that_a_probe_beats_are_named(done):
    found, _, _ = done
    for best, said in ((2.0, "no head beats probe (2.000)"), (-1.0, "")):
        rows = [dict(row, values=dict(row["values"])) for row in found["rows"]]
        for row in rows:
            if row["yardstick"]:
                row["values"]["f1_weighted"] = best if row["name"] == "probe" else -2.0
        remarks = bench_tables.bench_sheet(found | {"rows": rows}).remarks
        assert (said in remarks) if said else not any("beats" in r or "not better than" in r for r in remarks)


def test_patience_that_differs_is_told(done):
    found, _, _ = done
    found["rows"][1]["stopping"] = {"epochs": 100, "patience": 32}
    told = next(r for r in bench_tables.bench_sheet(found).remarks if r.startswith("epochs at most"))
    assert told.endswith(f"; {found['rows'][1]['name']} 100 and 32")


def test_all_heads_of_a_bench_choose_their_epoch_alike():
    for candidate in bench.heads(["all"]).values():
        assert candidate.model.training.criterion(Task(low=-3.0, high=3.0)) == "valid_mae"
        assert candidate.model.training.criterion(SENTIMENT) == "valid_loss"


def test_what_was_searched_is_told_with_the_winners(made, tmp_path, in_this_process):
    searched = {"cmsta": {"trials": 8, "pruned": 2, "failed": 1, "value": 0.5, "settings": {"lr": 0.01}}}
    found = bench.bench({"cmsta": cmsta()}, Data(("posts",)), (1,), made, tmp_path, HERE, searched=searched)
    told = "cmsta: tuned on validation (0.5000; 8 trials, 2 given up early, 1 failed): lr=0.01"
    assert told in bench_tables.bench_sheet(found).remarks
    assert json.loads((tmp_path / "bench.json").read_text())["searched"] == searched


def test_collapsed_seeds_are_told_in_one_line(done):
    found, _, _ = done
    seeds = [seed["seed"] for seed in found["rows"][0]["seeds"]]
    for i, row in enumerate(rows := [dict(row) for row in found["rows"]]):
        row |= {"name": f"h{i}", "collapsed": [seeds, seeds[:1]][i] if i < 2 else []}
    told = f"COLLAPSED to one answer, with these seeds: h0 all; h1 {seeds[0]}"
    assert told in bench_tables.bench_sheet(found | {"rows": rows}).remarks


def test_several_corpora_are_shown_apart_too(made, tmp_path, in_this_process):
    found = bench.bench({"cmsta": cmsta()}, Data(("posts", "voices"), "union"), (1,), made, tmp_path, HERE)
    shown = [row[0] for row in bench_tables.bench_sheet(found).rows]
    assert shown[:3] == ["cmsta", "  on posts", "  on voices"]
    assert shown[-3:] == ["majority class", "  on posts", "  on voices"]
    part = next(row for row in found["rows"] if row["name"] == "probe, audio only")
    assert part["test_samples"] == 9  # the voices alone


def test_a_table_fits_the_terminal_in_pieces_that_repeat_the_names(done, monkeypatch):
    found, _, _ = done
    sheet = bench_tables.bench_sheet(found)
    shown = {}
    for width in (60, 100, 200):
        screen = Console(width=width, file=io.StringIO(), force_terminal=True)
        monkeypatch.setattr(console, "out", screen)
        console.sheet(replace(sheet, remarks=()))
        _, _, table = re.sub(r"\x1b\[[0-9;]*m", "", screen.file.getvalue()).partition("\n")
        assert max(map(len, table.splitlines())) <= width
        shown[width] = table.count("probe, text only"), table.count("majority class")
    assert shown == {60: (3, 2), 100: (2, 1), 200: (1, 1)}  # what a row has nothing of is not repeated


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0"),
        (130, "130"),
        (999.4, "999"),
        (999.6, "1 k"),
        (154_040, "154 k"),
        (2.018e9, "2.02 G"),
    ],
)
def test_operations_are_told_in_three_digits(n, said):
    assert bench_tables.scaled(n) == said
    assert bench_tables.scaled(n, "B") == said + ("B" if " " in said else " B")


# --- statistics and audits --------------------------------------------------------------------------------------------


def test_paired_bootstrap_finds_a_difference_and_no_more_than_chance_where_there_is_none(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    small = []
    for _ in range(60):
        y = rng.integers(0, 3, 150)
        one, other = (np.eye(3)[np.where(rng.random(150) < 0.6, y, rng.integers(0, 3, 150))] for _ in "ab")
        small.append(metrics.paired(SENTIMENT, y, single(y), [one], [other])[1] < 0.05)
        better = np.eye(3)[np.where(rng.random(150) < 0.9, y, rng.integers(0, 3, 150))]
    assert np.mean(small) < 0.15  # of heads that are equally good; 0.05 is meant
    gain, p = metrics.paired(SENTIMENT, y, single(y), [better], [other])
    assert gain > 0.15
    assert p < 0.01
    assert metrics.paired(SENTIMENT, y, single(y), [other], [better]) == (pytest.approx(-gain), p)
    assert metrics.paired(SENTIMENT, y, single(y), [other], [other])[1] == 1.0


def test_gain_is_positive_for_a_smaller_error():
    y = np.linspace(-3, 3, 80)
    gain, p = metrics.paired(VALUES, y, single(y), [y[:, None] + 0.1], [y[:, None] - 0.5])
    assert gain == pytest.approx(0.4)
    assert p < 0.05


def test_holm_by_a_second_route():
    rng = np.random.default_rng(1)
    p = rng.random(9) ** 3
    order = np.argsort(p)
    expected = np.empty(9)
    expected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(9, 0, -1)), 1)
    assert metrics.holm(list(p)) == pytest.approx(expected)
    assert metrics.holm([]) == []


def test_inputs_that_stand_in_several_parts_are_counted(store):
    index = store.index("posts")
    digests = {m: d.copy() for m, d in index.digests.items()}
    tested, trained = index.rows(Split.TEST), index.rows(Split.TRAIN)
    digests[TEXT][tested[:3]] = digests[TEXT][trained[0]]
    store.add_index(replace(index, name="leaky", digests=digests))
    data = Data(("posts",)).load(store)
    as_leaky = replace(data, corpus=["leaky"] * len(data), name="leaky")
    lines = leakage.shared_inputs(store, Data(("leaky",)), as_leaky)
    assert lines == ["leaky: the text of 3 of 12 test samples is also in training or validation"]
    assert leakage.shared_inputs(store, Data(("posts",)), data) == []


def test_speakers_who_stand_in_several_parts_are_counted(store):
    data = Data(("posts",)).load(store)
    assert leakage.shared_groups(data) == []
    speaker = np.arange(len(data)) % 6
    assert leakage.shared_groups(replace(data, group=speaker)) == [
        "12 of 12 test samples are of a group (speaker, video) that is also in training or validation"
    ]
    apart = np.where(data.split == 2, 6 + speaker, speaker)
    assert leakage.shared_groups(replace(data, group=apart)) == []


def test_recordings_that_are_lent_are_looked_through_too(store):
    index = store.index("voices")
    digests = {m: d.copy() for m, d in index.digests.items()}
    digests[AUDIO][index.rows(Split.TEST)[:2]] = digests[AUDIO][index.rows(Split.VALID)[0]]
    store.add_index(replace(index, name="lent", digests=digests))
    data = Data(("posts", "voices")).load(store)
    assert leakage.shared_inputs(store, Data(("posts", "voices")), data) == []
    lines = leakage.shared_inputs(store, Data(("posts", "lent")), data)
    assert lines == ["lent: the audio of 2 of 9 test samples is also in training or validation"]


def test_a_p_value_can_be_small_enough_for_many_comparisons():
    y = np.resize(np.arange(3), 90)
    right, wrong = np.eye(3)[y], np.eye(3)[(y + 1) % 3]
    assert metrics.paired(SENTIMENT, y, single(y), [right], [wrong])[1] == pytest.approx(2 / (metrics.PAIRED * 50 + 1))
    assert 30 * 2 / (metrics.PAIRED * 1000 + 1) < 0.05


def test_one_modality_can_be_looked_at_alone_where_its_corpus_is_paired_with_another(made):
    for pairing in ("random", "label_matched", "zip", "union"):
        wanted = Experiment(Model.of("probe"), Data(("posts", "voices"), pairing, modalities=("audio",)), (1,))
        pinned = pin(wanted, made).data
        found, again = wanted.data.load(made), pinned.load(made)
        assert list(found.columns) == [AUDIO]
        assert set(pinned.views) == {"text", "image", "audio"}  # which posts there are hangs on these
        assert (found.ids, found.y.tolist()) == (again.ids, again.y.tolist())
        assert set(found.corpus) == {"voices" if pairing == "union" else "posts"}
    with pytest.raises(StoreError, match="no hidden states of face for posts"):
        Data(("posts", "voices"), modalities=("face",)).load(made)


def add_clips(store, name="clips", videos=6):
    """60 clips of so many videos to test, of ten clips each to learn from, which all say what their video says."""
    n = 120
    group = [f"v{i // 10}" if i < 60 else f"t{i % videos}" for i in range(n)]
    split = np.repeat(np.array([0, 1, 2], np.uint8), [40, 20, 60])
    labels = np.random.default_rng(0).integers(0, 3, n).astype(np.float32)[:, None]
    return add_corpus(store, name, n, split=split, group=group, labels=labels, signal=0.2)


def test_clips_of_one_video_are_drawn_together_everywhere(store, tmp_path, in_this_process):
    index = add_clips(store)
    found = bench.bench({"cmsta": cmsta()}, Data(("clips",)), (1, 2), store, tmp_path, HERE)
    run = Run.open(tmp_path / "runs" / "cmsta")
    tested = run.tested()
    named = [index.group[index.ids.index(id)] for _, id in tested.ids]
    assert len(set(zip(named, tested.group.tolist(), strict=True))) == len(set(named)) == run.metrics["groups"] == 6
    whole = metrics.bootstrap(SENTIMENT, tested.y, np.array(named), tested.outputs)
    assert run.metrics["interval"] == {name: pytest.approx(bounds) for name, bounds in whole.items()}
    single_samples = metrics.bootstrap(SENTIMENT, tested.y, single(tested.y), tested.outputs)
    assert run.metrics["interval"]["accuracy"] != pytest.approx(single_samples["accuracy"])
    best, other = sorted(found["rows"], key=lambda row: "behind" in row)[:2]
    pair = [Run.open(tmp_path / "runs" / row["run"]).tested().outputs for row in (best, other)]
    gain, p = metrics.paired(SENTIMENT, tested.y, np.array(named), *pair)
    assert (other["behind"], other["p"]) == (pytest.approx(gain), pytest.approx(p))
    for sheet in (bench_tables.bench_sheet(found), tables.sheet(run)):
        assert sheet.remarks[0].endswith("over groups of test samples: videos, speakers, ...; 60 samples in 6]")
        assert sheet.remarks[1].startswith("ROUGH interval: 6 groups of test samples are few")
    with open(tmp_path / "bench.csv") as file:
        row = next(csv.DictReader(file))
    assert (row["test_samples"], row["groups"]) == ("60", "6")
    assert float(row["low_accuracy"]) < float(row["accuracy"]) < float(row["high_accuracy"])


def test_a_video_is_another_one_in_another_corpus(store, tmp_path, in_this_process):
    add_clips(store, "some", 12)
    add_clips(store, "others", 1)
    named = Data(("some", "others"), "union")
    found = bench.bench({"cmsta": cmsta("epochs=1")}, named, (1,), store, tmp_path, HERE)
    run = Run.open(tmp_path / "runs" / "cmsta")
    assert run.metrics["groups"] == 13
    assert {name: part["groups"] for name, part in run.metrics["by_corpus"].items()} == {"some": 12, "others": 1}
    assert run.metrics["by_corpus"]["others"]["interval"] == {}
    for remarks in (tables.sheet(run).remarks, bench_tables.bench_sheet(found).remarks):
        assert any(remark.startswith("others: all test samples are of one group") for remark in remarks)
        assert not any("ROUGH" in remark for remark in remarks if not remark.startswith("probe"))


def test_a_run_of_before_there_were_groups_can_be_read(done):
    found, folder, _ = done
    run = Run.open(folder / "runs" / "cmsta")
    new = run.tested()
    with open(run.folder / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    with open(run.folder / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "group"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    del run.metrics["groups"]
    (run.folder / "metrics.json").write_text(json.dumps(run.metrics))
    old = Run.open(run.folder)
    assert old.tested().group.tolist() == list(range(12)) == new.group.tolist()
    np.testing.assert_array_equal(old.tested().outputs, new.outputs)
    assert "over single test samples, as an older msa drew them]" in tables.sheet(old).remarks[0]
    rows = [row | {"groups": None} if row["name"] == "cmsta" else row for row in found["rows"]]
    assert "single test samples" in str(bench_tables.bench_sheet(found | {"rows": rows}).remarks)


def test_what_two_corpora_share_is_seen_across_them(store):
    """Trained on one and tested on the other, a text is as well known as one of its own corpus."""
    posts, index = store.index("posts"), add_corpus(store, "more", 60, (TEXT,))
    digests = {m: d.copy() for m, d in index.digests.items()}
    digests[TEXT][index.rows(Split.TEST)[:3]] = posts.digests[TEXT][posts.rows(Split.TRAIN)[0]]
    store.add_index(replace(index, name="seen", digests=digests))
    data = Data(("posts", "more"), "union").load(store)
    as_seen = replace(data, corpus=["seen" if name == "more" else name for name in data.corpus])
    lines = leakage.shared_inputs(store, Data(("posts", "seen"), "union"), as_seen)
    assert lines == ["seen: the text of 3 of 12 test samples is also in posts's training or validation"]
    assert leakage.shared_inputs(store, Data(("posts", "more"), "union"), data) == []


def test_a_run_of_a_leaky_bench_is_shown_beside_the_probe_of_what_was_drawn(made, tmp_path, in_this_process):
    named = Data(("voices", "posts"), "label_matched")
    found = bench.bench({"cmsta": cmsta("epochs=1")}, named, (1,), made, tmp_path, HERE)
    home, name = tmp_path / "runs" / "cmsta", "probe, text and image only"
    alone = next(row for row in found["rows"] if row["name"] == name)
    assert "(pairing: label_matched, seed 42)" in found["title"]
    run = Run.open(home)
    assert [row[0] for row in tables.sheet(run).rows] == ["cmsta", "probe", name, "majority class"]
    assert sweep.baselines(run)[name]["values"] == alone["values"]
    f1 = alone["values"]["f1_weighted"]
    assert any(f"{name} reaches a weighted F1 of {f1:.3f}" in note for note in evaluate(home)[1]["notes"])
    assert name in {row[0] for row in tables.sheet(Run.open(home.parent / alone["run"])).rows}

    record = home.parent / alone["run"] / "run.json"
    record.write_text(record.read_text().replace('"pair_seed": 42', '"pair_seed": 43'))  # of other data
    for way in (lambda: tables.sheet(run), lambda: evaluate(home)):
        with pytest.raises(ConfigError, match=f"the row '{name}' is missing|there is no row '{name}'") as error:
            way()
        assert error.value.fix == f"msa fuse train --like {home}: that row is then made by itself"
    again = request.train(request.Request("cmsta"), None, tmp_path / "again", None, home, print)
    assert name in {row[0] for row in tables.sheet(again).rows}


def test_a_leaky_pairing_stands_beside_what_was_drawn_alone(made, tmp_path, in_this_process):
    named = Data(("posts", "voices"), "label_matched")
    found = bench.bench({"cmsta": cmsta("epochs=1")}, named, (1,), made, tmp_path, HERE)
    rows = {row["name"]: row for row in found["rows"]}
    assert {"probe, audio only", "probe, text only", "probe, image only"} < set(rows)
    assert found["failed"] == {}
    assert any("LEAKY" in line for line in found["audits"])
    asleep = Experiment(Model.of("probe"), replace(named, modalities=("text",)), (1,))  # nothing drawn is in it
    assert "LEAKY" not in str(tables.sheet(run(asleep, made, tmp_path / "text")).remarks)


# --- search -----------------------------------------------------------------------------------------------------------


def test_a_search_is_handed_no_test_sample(made):
    data = tune.without_test(Data(("posts",)).load(made))
    assert len(data.subset(Split.TEST)) == 0
    assert len(data.subset(Split.TRAIN)) + len(data.subset(Split.VALID)) == len(data) > 0


def test_test_labels_change_nothing_a_search_finds(made, tmp_path, monkeypatch):
    found = []
    for name, spoil in (("as it is", False), ("spoilt", True)):
        data = Data(("posts",)).load(made)
        y = data.y.copy()
        if spoil:
            y[data.split == 2] = (y[data.split == 2] + 1) % 3
        monkeypatch.setattr(
            tune, "space", lambda model: {"lr": lambda trial: trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
        )
        wanted = tune.Search("lmf", "default", Data(("posts",)), "", 0, str(tmp_path / name), 4)
        found.append(tune.search(wanted, tune.without_test(replace(data, y=y))))
    assert found[0] == found[1]


def test_a_search_keeps_its_budget_over_an_interruption(made, tmp_path):
    data = tune.without_test(Data(("posts",)).load(made))
    wanted = tune.Search("probe", "default", Data(("posts",)), "", 0, str(tmp_path), 2)
    assert tune.search(wanted, data)["trials"] == 2
    more = tune.search(replace(wanted, trials=5), data)
    assert more["trials"] == 5
    assert tune.search(replace(wanted, trials=5), data) == more  # nothing was left to be done
    assert tune.search(wanted, data)["trials"] == 2  # those of a longer search are no part of a shorter one
    start = Model.of("probe")
    assert f"lr={start.training.lr:.6g}" in search_space.as_settings(
        search_space.defaults(start)
    )  # the first trial: where it began


def test_the_winners_are_compared_over_all_seeds(made, tmp_path, in_this_process):
    found, failed = tune.tune(["probe"], "default", Data(("posts",)), made, tmp_path / "searches", 2, HERE)
    assert failed == {}
    table = bench.bench(
        {"probe": bench.Candidate(found["probe"].model)}, Data(("posts",)), (1, 2), made, tmp_path, HERE
    )
    kept = Run.open(tmp_path / "runs" / "probe")
    assert kept.model == found["probe"].model
    assert [seed["seed"] for seed in table["rows"][0]["seeds"]] == [1, 2]


def probe_search(folder, trials, **changed):
    return tune.Search("probe", "default", Data(("posts",)), "", 0, str(folder), trials, **changed)


def test_an_interrupted_search_tries_what_it_would_have_tried(made, tmp_path, drawn, monkeypatch):
    data = tune.without_test(Data(("posts",)).load(made))
    whole = tune.search(probe_search(tmp_path / "a", 12), data)
    straight = list(drawn)
    assert straight[0] == search_space.defaults(Model.of("probe"))
    drawn.clear()

    def killed(*_):
        raise KeyboardInterrupt

    trial_of = tune._trial
    for trials in (0, 3, 11):  # the last of these is killed under way
        tune.search(probe_search(tmp_path / "b", trials), data) if trials else None
        monkeypatch.setattr(tune, "_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            tune.search(probe_search(tmp_path / "b", trials + 1), data)
        monkeypatch.setattr(tune, "_trial", trial_of)
    assert tune.search(probe_search(tmp_path / "b", 12), data) == whole
    assert drawn == straight


def test_a_search_on_other_data_is_not_taken_for_this_one(made, tmp_path, drawn):
    data = tune.without_test(Data(("posts",)).load(made))
    tune.search(probe_search(tmp_path, 1), data)
    with pytest.raises(ConfigError, match=r"modalities \[\], now \['text'\]"):
        tune.search(replace(probe_search(tmp_path, 1), data=Data(("posts",), modalities=("text",))), data)
    with pytest.raises(ConfigError, match="other settings: name probe, now mutanet"):
        tune.search(replace(probe_search(tmp_path, 1), model="mutanet"), data)


def test_trials_that_fail_are_part_of_the_budget(made, tmp_path, monkeypatch):
    data = tune.without_test(Data(("posts",)).load(made))
    tried = []

    def every_third(trial, *_):
        tried.append(trial.number)
        if len(tried) % 3:
            raise ConfigError("too large", fix="take a smaller one")
        return 1.0

    monkeypatch.setattr(tune, "_trial", every_third)
    found = tune.search(probe_search(tmp_path / "a", 7), data)
    assert (len(tried), found["trials"], found["failed"]) == (7, 7, 5)
    monkeypatch.setattr(tune, "_trial", lambda trial, *_: (_ for _ in ()).throw(ConfigError("too large", fix="less")))
    with pytest.raises(ConfigError, match=r"all 5 trials of probe failed, the last one: too large \(less\)"):
        tune.search(probe_search(tmp_path / "b", 20), data)


def test_more_trials_may_find_another_winner(made, tmp_path, drawn, in_this_process):
    asked = request.Request("", data="posts", seeds="1,")
    for trials in (1, 3):
        found, folder = request.tune(asked, ["probe"], trials, made.path, tmp_path, HERE, print)
        best = max(drawn[:trials], key=lambda row: row["lr"])
        assert found["failed"] == {}
        assert Run.open(folder / "runs" / "probe").model.training.lr == pytest.approx(best["lr"], rel=1e-5)


def test_a_search_that_fails_is_named_in_the_table(made, tmp_path, in_this_process, monkeypatch):
    monkeypatch.setattr(
        tune, "search", lambda wanted, data: 1 / 0 if wanted.model == "mfn" else {"settings": []} | BEST
    )
    asked = request.Request("", data="posts", seeds="1,")
    found, _ = request.tune(asked, ["probe", "mfn"], 1, made.path, tmp_path, HERE, print)
    assert found["failed"] == {"mfn": "not tuned: ZeroDivisionError: division by zero"}


BEST = {"value": 0.5, "trials": 1, "pruned": 0, "failed": 0}


@pytest.mark.parametrize("name", catalog.names("head"))
def test_what_a_head_lets_be_searched_is_a_setting_of_it(name):
    model = Model.of(name)
    found = search_space.defaults(model)
    assert {"lr", "weight_decay", "batch"} <= set(found)
    for key, choices in getattr(model.module, "SEARCH", {}).items():
        for choice in choices:
            assert Model.of(name, settings=search_space.as_settings({key: choice})).settings[key] == choice


# --- the papers' tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", papers.EXPERIMENTS)
def test_every_row_of_the_papers_can_be_built(name):
    experiment = papers.named(name)
    assert len(reproduce.candidates(experiment)) == len(experiment.rows)
    assert all(len(row.printed) in (0, max(1, len(experiment.settings))) for row in experiment.rows)


def test_printed_figures_are_those_of_the_papers():
    """By relations the papers state or imply, not by typing them twice."""
    rows = {row.label: row.printed[0] for row in papers.named("cmsta:table2").rows}
    best = rows["cmsta"]
    assert best["accuracy"] - rows["misa"]["accuracy"] == pytest.approx(0.0095)  # "0.95 points" in its abstract
    assert best["auroc_weighted"] - rows["misa"]["auroc_weighted"] == pytest.approx(0.0791)
    p = best["precision_weighted"]
    assert best["f1_weighted"] == pytest.approx(stats.hmean([p, best["accuracy"]]), abs=1e-4)
    hcl = {row.label: row.printed for row in papers.named("hcl:table1").rows}
    assert hcl["hcl"][0]["acc2_non0"] - hcl["almt"][0]["acc2_non0"] == pytest.approx(0.0159)
    assert max(hcl, key=lambda name: hcl[name][1]["corr"]) == "jtum"  # what Table 1 prints in bold


def test_printed_figures_stand_beside_ours_only_in_the_papers_setting(made, tmp_path, in_this_process, monkeypatch):
    rows = (papers.Row("cmsta", "cmsta", tuple(SMALL), ({"accuracy": 0.8145},)),)
    same = papers.Setting(("posts",), 12, {"text": ("made",), "image": ("made",)})
    other = papers.Setting(("mvsa", "tess"), 2166, {"text": ("roberta",)})
    for setting, shown in ((same, True), (other, False)):
        monkeypatch.setitem(papers.EXPERIMENTS, "x:table1", papers.Experiment("X, Table 1", rows, (setting,)))
        folder = tmp_path / str(shown)
        found = reproduce.reproduce("x:table1", Data(("posts",)), (1,), made, folder, HERE)
        table = tables.markdown(bench_tables.bench_sheet(found))
        assert ("| printed |" in table) == shown
        assert ("0.815" in table or "0.814" in table) == shown
        assert ("the paper on mvsa + tess; 12 test samples, the paper 2,166; text by made.text" in table) != shown


def test_a_race_is_never_silent_for_long(made, tmp_path, monkeypatch):
    """While trainings run in other processes, it is said what they are and how long it will take."""
    monkeypatch.setattr(sweep, "QUIET_S", 0.05)
    monkeypatch.setattr(sweep, "pool", lambda workers: ThreadPoolExecutor(1))
    do = sweep.Task.do
    monkeypatch.setattr(sweep.Task, "do", lambda task: (time.sleep(0.5), do(task)))
    lines = []
    wanted = Experiment(Model.of("probe", settings=SHORT), Data(("posts",)), (1,))
    sweep.run_all({"probe": wanted}, made, tmp_path, HERE, lines.append)
    told = [line for line in lines if "passed" in line]
    assert told
    assert re.fullmatch(r"\[0/1\] \d+:\d\d passed; training probe seed 1", told[0])


def test_a_finished_bench_is_not_measured_again(done, made, in_this_process, monkeypatch):
    found, folder, candidates = done
    monkeypatch.setattr(cost, "measure", lambda *_: pytest.fail("measured again"))
    again = bench.bench(candidates, Data(("posts",)), (1, 2), made, folder, HERE)
    assert again == found
    assert bench_record.read(folder) == found
    measured = json.loads((folder / "runs" / "cmsta" / "cost.json").read_text())
    (folder / "runs" / "cmsta" / "cost.json").write_text(json.dumps(measured | {"flops": "many"}))
    monkeypatch.setattr(cost, "measure", cost_of_a_stranger := lambda *_: cost.Cost(1, 2, 3.0, 4.0, 5, {}, 1))
    anew = bench.bench(candidates, Data(("posts",)), (1, 2), made, folder, HERE)
    spent = {row["name"]: row["cost"]["flops"] for row in anew["rows"]}
    assert spent.pop("cmsta") == cost_of_a_stranger().flops
    assert spent == {row["name"]: row["cost"]["flops"] for row in found["rows"] if row["name"] != "cmsta"}


def test_a_damaged_bench_says_so(done):
    _, folder, _ = done
    whole = (folder / "bench.json").read_text()
    for spoil in (
        lambda table: table.clear(),
        lambda table: table.update(rows={}),
        lambda table: table.update(rows=[]),
        lambda table: table["rows"][0].update(values=3),
        lambda table: table["rows"][0].pop("seeds"),
        lambda table: table.update(rows=[7]),
        lambda table: table["beside"].update(x=[]),
    ):
        table = json.loads(whole)
        spoil(table)
        (folder / "bench.json").write_text(json.dumps(table))
        with pytest.raises(ConfigError, match=r"bench\.json: ") as error:
            bench_record.read(folder)
        assert "msa fuse bench" in error.value.fix


def test_a_bench_changed_at_random_is_shown_or_refused_and_no_more(done, tmp_path):
    found, _, _ = done
    rng, refused = random.Random(3), 0
    places = [place for place in paths(found) if place]
    for number in range(300):
        place, new = rng.choice(places), KeyError if rng.random() < 0.25 else rng.choice(VALUES_OF_STRANGERS)
        (tmp_path / "bench.json").write_text(json.dumps(changed(found, place, new)))
        try:
            tables.markdown(bench_tables.bench_sheet(bench_record.read(tmp_path)))
        except ConfigError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed 3, change {number}: {place} = {new!r}") from error
    assert 100 < refused < 250


def test_several_runs_are_compared_by_what_differs(made, tmp_path):
    """Settings that differ are columns; runs of other test samples are not comparable, and that is said."""
    for name, settings, corpora in (
        ("a", ["lr=0.1"], ("posts",)),
        ("b", ["lr=0.2", "epochs=3"], ("posts",)),
        ("c", ["lr=0.1"], ("posts",)),
    ):
        model = Model.of("probe", settings=["epochs=2", *settings])
        wanted = Experiment(model, Data(corpora, modalities=(TEXT,) if name == "c" else ()), (1, 2))
        run(wanted, made, tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    runs, benches, damaged = compare.opened([tmp_path / "runs"])
    assert ([one.folder.name for one in runs], benches, damaged) == (["a", "b", "c"], {}, [])
    names, values, same = compare.differences(runs)
    assert names == ["modalities", "image view", "lr", "epochs"]
    assert [[row[0], *row[2:]] for row in values] == [
        ["text,image", "0.1", "2"],
        ["text,image", "0.2", "3"],
        ["text", "0.1", "2"],
    ]
    assert values[2][1] == "-"
    assert same["model"] == "probe"
    sheet = tables.compared_sheet(runs)
    assert sheet.columns[:5] == ("run", *names)
    assert [row[0] for row in sheet.rows] == ["a", "b", "c"]
    assert sheet.rows[1][5].startswith(f"{runs[1].metrics['values']['accuracy']:.3f}")
    with pytest.raises(ConfigError, match="there is none in it"):
        compare.opened([tmp_path / "runs" / "notes"])


def test_a_damaged_run_among_others_is_named_and_hides_none_of_them(done, tmp_path, capsys):
    _, folder, _ = done
    runs, bad = folder / "runs", folder / "runs" / "probe" / "run.json"
    record = json.loads(bad.read_text())
    record["experiment"]["model"]["preset"] = "of another msa"
    for text in ("{}", json.dumps(record)):
        bad.write_text(text)
        show_([runs])
        told = capsys.readouterr()
        assert re.search(r"left out: \S*probe/run\.json", told.err.replace("\n", ""))
        assert all(name in told.out for name in ("cmsta", "probe-text-only", "probe-image-only"))
        with pytest.raises(ConfigError):
            show_([runs / "probe"])
    shutil.copytree(runs / "cmsta", tmp_path / "both" / "cmsta")
    (tmp_path / "both" / "bench").mkdir()
    (tmp_path / "both" / "bench" / "bench.json").symlink_to("/dev/zero")
    show_([tmp_path / "both"])
    told = capsys.readouterr()
    assert "bench.json" in told.err
    assert "cmsta" in told.out
    shutil.rmtree(tmp_path / "both" / "cmsta")
    with pytest.raises(ConfigError, match="nothing can be shown"):
        show_([tmp_path / "both"])


def test_what_a_model_costs_is_counted_as_its_paper_of_record_says():
    """HCL at CMU-MOSEI's lengths: 1.01 G multiply-accumulates by a count made independently of this one."""
    every_row = Model.of("hcl", settings=papers.named("hcl:table2").rows[-1].settings)
    head = every_row.build(reproduce.COMPLEXITY_DIMS, VALUES).eval()
    sample = memory.noise(1, reproduce.COMPLEXITY_STEPS, reproduce.COMPLEXITY_DIMS, VALUES, "cpu")
    assert sum(p.numel() for p in head.parameters()) == 5_511_825
    assert cost.flops(head, sample) / 2 == pytest.approx(1.010e9, rel=0.01)


def test_nothing_to_compare_is_refused(made, tmp_path):
    with pytest.raises(ConfigError, match="no head is named"):
        bench.heads([])
