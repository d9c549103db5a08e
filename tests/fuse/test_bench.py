"""Many heads at once: the comparison, its audits and statistics, the search, and the papers' tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from msa import catalog, results
from msa.errors import ConfigError
from msa.fuse import audits, bench, cost, memory, metrics, papers, race, reproduce, tune
from msa.fuse.experiment import Data
from msa.fuse.heads import probe
from msa.fuse.model import Model
from msa.fuse.race import Workers
from msa.fuse.run import Run
from msa.types import SENTIMENT, Split
from tests.fuse.conftest import TEXT, VALUES

HERE = Workers(jobs=1)
SHORT = ["epochs=2", "normalise=audio"]
SMALL = [*SHORT, "dim=8", "heads=2", "layers=1", "cm_layers=1", "gate_hidden=8", "rank=2", "hidden=8", "lr=0.01"]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Fewer bootstrap samples, and probes of a few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 50)
        patch.setitem(probe.TRAIN, "default", probe.TRAIN["default"] | {"epochs": 4})
        yield


@pytest.fixture
def in_this_process(monkeypatch):
    """Trainings one after the other, here: a spawned process takes seconds to import torch."""

    class Now:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, do, *args):
            future = race.Future()
            try:
                future.set_result(do(*args))
            except Exception as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(race, "pool", lambda workers: Now())
    monkeypatch.setattr(tune, "pool", lambda workers: Now())


def cmsta(*settings):
    return bench.Entrant(Model.of("cmsta", settings=[*SMALL, *settings]))


@pytest.fixture
def done(made, tmp_path, in_this_process):
    """Two heads with two seeds on posts."""
    entrants = {"cmsta": cmsta(), "text alone": replace(cmsta(), modalities=(TEXT,))}
    return bench.bench(entrants, Data(("posts",)), (1, 2), made, tmp_path / "out", HERE), tmp_path / "out", entrants


def test_every_row_stands_beside_probes_the_majority_and_what_it_costs(done):
    found, folder, _ = done
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"cmsta", "text alone", "probe", "probe, text only", "probe, image only"}
    for row in rows.values():
        assert row["cost"]["parameters"] > 0 < row["cost"]["flops"]
        assert row["cost"]["step_bytes"] > 4 * 4 * row["cost"]["parameters"]  # weights, gradients, two moments
        assert len(row["seeds"]) == 2
    best = [row["values"]["f1_weighted"] for row in found["rows"]]
    assert best == sorted(best, reverse=True)
    assert found["beside"]["majority class"]["values"]["auroc_macro"] == 0.5
    assert any("posts: 36 train" in line for line in found["audits"])
    assert json.loads((folder / "bench.json").read_text())["rows"] == json.loads(json.dumps(found["rows"]))
    assert (folder / "bench.csv").read_text().count("\n") == 6
    assert (folder / "bench.png").stat().st_size > 5000
    table = results.markdown(results.bench_sheet(found))
    assert all(f"| {name} |" in table for name in [*rows, "majority class"])


def test_figures_are_those_of_the_runs_it_keeps(done):
    found, folder, _ = done
    for row in found["rows"]:
        run = Run.open(folder / "runs" / row["run"])
        assert row["values"] == run.metrics["values"]
        assert not list(run.folder.glob("seeds/*/*.pt"))  # nothing is left of what was under way


def test_a_bench_that_is_asked_again_trains_nothing(done, made, monkeypatch):
    found, folder, entrants = done
    monkeypatch.setattr(race.Task, "do", lambda task: pytest.fail(f"trained {task.name} again"))
    again = bench.bench(entrants, Data(("posts",)), (1, 2), made, folder, HERE)
    assert [row["values"] for row in again["rows"]] == [row["values"] for row in found["rows"]]


def test_a_race_that_was_interrupted_goes_on_with_the_seeds_that_are_left(made, tmp_path, in_this_process, monkeypatch):
    do, trained = race.Task.do, []

    def dies_at_the_third(task):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((task.name, task.seed))
        do(task)

    wanted = {"cmsta": cmsta()}
    monkeypatch.setattr(race.Task, "do", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        bench.bench(wanted, Data(("posts",)), (1, 2), made, tmp_path / "a", HERE)
    assert not list((tmp_path / "a").glob("runs/*/metrics.json"))  # nothing is tested before all are trained
    before = list(trained)
    monkeypatch.setattr(race.Task, "do", lambda task: (trained.append((task.name, task.seed)), do(task))[1])
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
    assert any(line.startswith("bad could not be trained") for line in results.bench_sheet(found).remarks)


def test_a_bench_in_two_processes_gives_the_same_figures(done, made, tmp_path):
    found, _, _ = done
    other = bench.bench({"cmsta": cmsta()}, Data(("posts",)), (1, 2), made, tmp_path / "two", Workers(jobs=2))
    ours, theirs = ({r["name"]: r for r in of["rows"]}["cmsta"]["values"] for of in (found, other))
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_a_process_that_dies_takes_nobody_with_it(made, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ".")
    lines = []
    plain = [race.Task(name, 1, {}, "", 0, str(tmp_path)) for name in ("victim", "survivor")]
    monkeypatch.setattr(race.Task, "do", _killed_if_victim)
    failed = {}
    race._train(plain, HERE, lines.append, failed)
    assert failed == {"victim": "its process was killed, most likely for want of memory"}
    assert [line.partition(", seed")[0] for line in lines] == ["[1/2] victim", "[2/2] survivor"]


def _killed_if_victim(task):
    import os
    import signal

    if task.name == "victim":
        os.kill(os.getpid(), signal.SIGKILL)


# --- statistics and audits --------------------------------------------------------------------------------------------


def test_paired_bootstrap_finds_a_difference_and_no_more_than_chance_where_there_is_none(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    small = []
    for _ in range(60):
        y = rng.integers(0, 3, 150)
        one, other = (np.eye(3)[np.where(rng.random(150) < 0.6, y, rng.integers(0, 3, 150))] for _ in "ab")
        small.append(metrics.paired(SENTIMENT, y, [one], [other])[1] < 0.05)
        better = np.eye(3)[np.where(rng.random(150) < 0.9, y, rng.integers(0, 3, 150))]
    assert np.mean(small) < 0.15  # of heads that are equally good; 0.05 is meant
    gain, p = metrics.paired(SENTIMENT, y, [better], [other])
    assert gain > 0.15
    assert p < 0.01
    assert metrics.paired(SENTIMENT, y, [other], [better]) == (pytest.approx(-gain), p)
    assert metrics.paired(SENTIMENT, y, [other], [other])[1] == 1.0


def test_gain_is_positive_for_a_smaller_error():
    y = np.linspace(-3, 3, 80)
    gain, p = metrics.paired(VALUES, y, [y[:, None] + 0.1], [y[:, None] - 0.5])
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
    lines = audits.shared_inputs(store, Data(("leaky",)), as_leaky)
    assert lines == ["leaky: the text of 3 of 12 test samples is also in training or validation"]
    assert audits.shared_inputs(store, Data(("posts",)), data) == []


# --- search -----------------------------------------------------------------------------------------------------------


def test_a_search_is_handed_no_test_sample(made):
    data = tune.without_test(Data(("posts",)).load(made))
    assert len(data.part(Split.TEST)) == 0
    assert len(data.part(Split.TRAIN)) + len(data.part(Split.VALID)) == len(data) > 0


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
        wanted = tune.Search("probe", "default", Data(("posts",)), "", 0, str(tmp_path / name), 4)
        found.append(tune.search(wanted, tune.without_test(replace(data, y=y))))
    assert found[0] == found[1]


def test_a_search_keeps_its_budget_over_an_interruption(made, tmp_path):
    data = tune.without_test(Data(("posts",)).load(made))
    wanted = tune.Search("probe", "default", Data(("posts",)), "", 0, str(tmp_path), 2)
    assert tune.search(wanted, data)["trials"] == 2
    more = tune.search(replace(wanted, trials=5), data)
    assert more["trials"] == 5
    assert tune.search(replace(wanted, trials=5), data) == more  # nothing was left to be done
    start = Model.of("probe")
    assert f"lr={start.training.lr:.6g}" in tune._settings(tune._defaults(start))  # the first trial: where it began


def test_the_winners_are_compared_over_all_seeds(made, tmp_path, in_this_process):
    found = tune.tune(["probe"], "default", Data(("posts",)), made, tmp_path / "searches", 2, HERE)
    table = bench.bench({"probe": bench.Entrant(found["probe"])}, Data(("posts",)), (1, 2), made, tmp_path, HERE)
    run = Run.open(tmp_path / "runs" / "probe")
    assert run.model == found["probe"]
    assert [seed["seed"] for seed in table["rows"][0]["seeds"]] == [1, 2]


@pytest.mark.parametrize("name", catalog.names("head"))
def test_what_a_head_lets_be_searched_is_a_setting_of_it(name):
    model = Model.of(name)
    found = tune._defaults(model)
    assert {"lr", "weight_decay", "batch"} <= set(found)
    for key, choices in getattr(model.module, "SEARCH", {}).items():
        for choice in choices:
            assert Model.of(name, settings=tune._settings({key: choice})).settings[key] == choice


# --- the papers' tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", papers.EXPERIMENTS)
def test_every_row_of_the_papers_can_be_built(name):
    experiment = papers.named(name)
    assert len(reproduce.entrants(experiment)) == len(experiment.rows)
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
        table = results.markdown(results.bench_sheet(found))
        assert ("| printed |" in table) == shown
        assert ("0.815" in table or "0.814" in table) == shown
        assert ("the paper on mvsa + tess; 12 test samples, the paper 2,166; text by made.text" in table) != shown


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
