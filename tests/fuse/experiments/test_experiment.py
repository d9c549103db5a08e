"""Experiments from end to end on small stores: the folder, its figures, repeating, resuming, evaluating, choosing."""

import csv
import json
import statistics
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, f1_score

from msa import predict as predicting
from msa.cache.maintain import compact, gc, history
from msa.cache.maintain.remove import remove
from msa.cache.store import FeatureStore
from msa.errors import BackboneError, ConfigError, StoreError, UnknownNameError
from msa.extract.recipe import Recipe
from msa.fuse import metrics
from msa.fuse.data.table import Column, Normalisation
from msa.fuse.experiments import experiment, request, tables
from msa.fuse.experiments.evaluate import evaluate
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.request import Request
from msa.fuse.experiments.selection import Data, choose
from msa.fuse.heads import probe
from msa.fuse.runs import plots
from msa.fuse.runs.run import Run
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.evaluation import predict
from msa.fuse.train.model import Model
from msa.fuse.train.result import TrainResult
from msa.types import SENTIMENT, Modality, Sample, Split, Task
from tests.fuse.batches import EMOTIONS, add_emotions
from tests.fuse.conftest import AUDIO, FACE, IMAGE, TEXT, VALUES, add_corpus, add_view, memory_table

CMSTA = ["dim=8", "heads=2", "layers=1", "cm_layers=1", "gate_hidden=8", "rank=2", "hidden=8", "lr=0.01"]
SHORT = ["epochs=3", "patience=3", "normalise=audio"]
FILES = {
    "run.json",
    "metrics.json",
    "predictions.csv",
    "history.csv",
    "normalisation.safetensors",
    "learning_curve.png",
    "confusion_matrix.png",
    "seeds/42/head.safetensors",
    "seeds/43/head.safetensors",
}


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Fewer bootstrap samples, and baselines of a few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 50)
        patch.setitem(probe.TRAIN, "default", probe.TRAIN["default"] | {"epochs": 4})
        yield


@pytest.fixture
def no_plots(monkeypatch):
    """Where the pictures are not what is tested: they take most of the time."""
    for name in ("learning_curve", "confusion_matrix", "each_label", "predicted_values"):
        monkeypatch.setattr(plots, name, lambda *_: None)


def wanted(data=("posts", "voices"), model="cmsta", seeds=(42, 43), settings=(), **how):
    own = CMSTA if model == "cmsta" else []
    return Experiment(Model.of(model, settings=[*own, *SHORT, *settings]), Data(tuple(data), **how), seeds)


def probed(store, folder, data=("posts",), **how):
    """The cheapest run there is."""
    return experiment.run(wanted(data, "probe", **{"seeds": (42,)} | how), store, folder)


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory, quick):
    """cmsta on posts and voices, paired at random, two seeds. Not to be written to."""
    return experiment.run(wanted(), made, tmp_path_factory.mktemp("runs") / "run")


def predictions(run):
    with open(run.folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def strictly(path):
    """JSON as every reader takes it, without NaN and Infinity."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def timeless(found):
    """metrics.json without how long it took."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name not in ("seconds", "data_share")}
    return [timeless(value) for value in found] if isinstance(found, list) else found


# --- the folder ---------------------------------------------------------------------------------------------------


def test_a_run_is_a_folder_of_plain_files(finished):
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert files == FILES
    record, found = strictly(finished.folder / "run.json"), strictly(finished.folder / "metrics.json")
    assert record["experiment"]["seeds"] == [42, 43]
    assert record["data"]["samples"] == {"train": 36, "valid": 12, "test": 12}
    assert record["data"]["classes"] == {"negative": 20, "neutral": 20, "positive": 20}
    assert record["data"]["hidden_states"] == {"text": 58, "image": 58, "audio": 60}
    assert record["data"]["protocol"] == "random, seed 42"
    assert record["data"]["dims"] == {"text": 8, "image": 6, "audio": 5}
    assert record["data"]["views"]["audio"]["attributes"]["backbone"] == "made.audio"
    assert set(record["versions"]) >= {"msa", "python", "torch"}
    assert (found["test_samples"], found["groups"]) == (12, 12)
    assert {(seed["device"], seed["threads"]) for seed in found["seeds"]} == {("cpu", 1)}
    assert set(found["beside"]) == {"probe", "majority class"}


def test_corpora_and_views_are_recorded_by_fingerprint(finished, made):
    data = finished.record["experiment"]["data"]
    assert data["corpora"] == [f"{name}@{made.datasets[name]}" for name in ("posts", "voices")]
    assert data["views"] == {"text": "t" * 16, "image": "i" * 16, "audio": "a" * 16}


def test_predictions_hold_one_row_per_seed_and_test_sample(finished, made):
    rows, index = predictions(finished), made.index("posts")
    classes = ["p_negative", "p_neutral", "p_positive"]
    assert list(rows[0]) == ["seed", "corpus", "id", "group", "label", "predicted", *classes]
    assert len(rows) == 2 * 12
    ids = [index.ids[row] for row in index.rows(Split.TEST)]
    assert [(row["seed"], row["id"]) for row in rows] == [(seed, name) for seed in ("42", "43") for name in ids]
    for row in rows:
        p = [float(row[f"p_{name}"]) for name in SENTIMENT.classes]
        assert sum(p) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == SENTIMENT.classes[int(np.argmax(p))]
        assert row["label"] == SENTIMENT.classes[int(index.y[index.ids.index(row["id"])])]
        assert row["corpus"] == "posts"


def test_the_history_holds_every_epoch_and_its_best_is_the_one_kept(finished):
    with open(finished.folder / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"seed", "epoch", "train_loss", "valid_loss", "lr"}
    for seed in finished.metrics["seeds"]:
        losses = [float(row["valid_loss"]) for row in rows if row["seed"] == str(seed["seed"])]
        assert len(losses) == seed["epochs"]
        assert seed["valid_loss"] == min(losses) == losses[seed["best_epoch"] - 1]
        assert seed["seconds"] > 0


@pytest.mark.parametrize("name", ["learning_curve", "confusion_matrix"])
def test_the_pictures_show_something(finished, name):
    with Image.open(finished.folder / f"{name}.png") as image:
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("L").getcolors()) > 20


def test_a_learning_curve_with_an_epoch_that_was_not_finite_can_be_drawn(tmp_path):
    epochs = [{"train_loss": 1.0, "valid_loss": loss} for loss in (1.0, float("nan"), 0.5)]
    plots.learning_curve(tmp_path / "a.png", {42: TrainResult({}, epochs, best_epoch=2)}, "title")
    plots.confusion_matrix(tmp_path / "b.png", ("a", "b"), np.array([0, 0]), [np.eye(2)], "class b is absent")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))


def test_a_reloaded_run_predicts_the_numbers_in_predictions_csv(finished, made):
    run = Run.open(finished.folder)
    test = Experiment.from_json(run.record["experiment"]).data.load(made).subset(Split.TEST)
    rows = predictions(run)
    for seed in (42, 43):
        output = predict(run.head(seed), test, run.normalisation(), 5, "cpu")  # whatever the batch size
        wanted = [[float(row[f"p_{c}"]) for c in SENTIMENT.classes] for row in rows if row["seed"] == str(seed)]
        np.testing.assert_allclose(output, wanted, atol=2e-6)


def test_the_weights_are_safetensors_that_numpy_can_read(finished):
    state = finished.head(42).state_dict()
    for name, values in load_file(finished.folder / "seeds/42/head.safetensors").items():
        np.testing.assert_array_equal(values, state.pop(name).numpy())
    assert not state
    stats = load_file(finished.folder / "normalisation.safetensors")
    assert {name: values.shape for name, values in stats.items()} == {"audio.mean": (5,), "audio.std": (5,)}


def test_the_statistics_kept_are_those_of_the_training_samples(finished, made):
    data = Experiment.from_json(finished.record["experiment"]).data.load(made)
    again = Normalisation.fit(data.subset(Split.TRAIN), ("audio",))
    np.testing.assert_array_equal(finished.normalisation().stats[AUDIO], again.stats[AUDIO])


def test_a_run_without_normalised_modalities_can_be_opened(made, tmp_path, no_plots):
    assert probed(made, tmp_path / "run").normalisation().stats == {}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a run"):
        Run.open(tmp_path)


# --- the figures --------------------------------------------------------------------------------------------------


def test_every_seeds_figures_are_those_of_its_predictions(finished):
    rows = predictions(finished)
    for seed in finished.metrics["seeds"]:
        mine = [row for row in rows if row["seed"] == str(seed["seed"])]
        y, said = [row["label"] for row in mine], [row["predicted"] for row in mine]
        assert seed["values"]["accuracy"] == pytest.approx(accuracy_score(y, said))
        f1 = f1_score(y, said, labels=SENTIMENT.classes, average="weighted", zero_division=0)
        assert seed["values"]["f1_weighted"] == pytest.approx(f1)


def test_mean_and_deviation_are_those_of_the_seeds(finished):
    found = finished.metrics
    for name in metrics.headline(SENTIMENT):
        values = [seed["values"][name] for seed in found["seeds"]]
        assert found["values"][name] == pytest.approx(statistics.mean(values))
        assert found["sd"][name] == pytest.approx(statistics.stdev(values))
    low, high = found["interval"]["accuracy"]
    assert 0 <= low <= found["values"]["accuracy"] <= high <= 1


def test_the_majority_row_is_the_share_of_the_training_splits_majority(store, tmp_path, no_plots):
    y = np.array([0, 2, 2, 1, 2] * 12, np.float32)  # train is mostly positive, test all of it
    add_corpus(store, "uneven", 60, labels=y[:, None])
    found = probed(store, tmp_path / "run", ("uneven",)).metrics["beside"]["majority class"]
    assert found["values"]["accuracy"] == 1


def test_an_undefined_score_is_null_and_named(store, tmp_path, no_plots):
    """A test split of one class has no AUROC; NaN would be no JSON."""
    add_corpus(store, "uneven", 60, labels=np.array([0, 2, 2, 1, 2] * 12, np.float32)[:, None])
    run = probed(store, tmp_path / "run", ("uneven",))
    assert strictly(run.folder / "metrics.json")["values"]["auroc_weighted"] is None
    sheet = tables.sheet(run)
    assert sheet.rows[0][sheet.columns.index("AUROC\nweighted")] == "-"
    assert any("AUROC leaves out" in remark for remark in sheet.remarks)


def test_the_seed_that_predicts_is_the_one_with_the_lowest_validation_loss(finished):
    loss = {seed["seed"]: seed["valid_loss"] for seed in finished.metrics["seeds"]}
    assert finished.best_seed == min(loss, key=loss.get)


def test_of_values_the_seed_that_predicts_is_the_best_by_what_its_epochs_were_chosen_by(store, tmp_path, no_plots):
    add_corpus(store, "clips", 60, (AUDIO,), task=VALUES)
    for select, best in (("mae", 43), ("loss", 42)):
        run = probed(store, tmp_path / select, ("clips",), settings=[f"select={select}"])
        rows = [{"seed": 42, "valid_loss": 0.5, "valid_mae": 0.4}, {"seed": 43, "valid_loss": 0.6, "valid_mae": 0.3}]
        assert set(rows[0]) < set(run.metrics["seeds"][0])
        assert altered(run, tmp_path, seeds=rows).best_seed == best


def test_one_seed_has_no_deviation(made, tmp_path, no_plots):
    run = probed(made, tmp_path / "run")
    assert set(run.metrics["sd"].values()) == {None}
    assert "±" not in tables.sheet(run).rows[0][1]


def test_a_probe_trained_alone_stands_beside_the_majority_only(made, tmp_path, no_plots):
    assert set(probed(made, tmp_path / "run").metrics["beside"]) == {"majority class"}


def test_union_is_scored_pooled_and_corpus_by_corpus_and_so_are_its_yardsticks(made, tmp_path, no_plots):
    run = experiment.run(wanted(seeds=(42,), pairing="union"), made, tmp_path / "run")
    rows, found = predictions(run), run.metrics
    assert Counter(row["corpus"] for row in rows) == {"posts": 12, "voices": 9}
    for corpus in ("posts", "voices"):
        right = [row["label"] == row["predicted"] for row in rows if row["corpus"] == corpus]
        assert found["by_corpus"][corpus]["values"]["accuracy"] == pytest.approx(np.mean(right))
    pooled = [row["label"] == row["predicted"] for row in rows]
    assert found["values"]["accuracy"] == pytest.approx(np.mean(pooled))
    for name in ("probe", "majority class"):
        parts = found["beside"][name]["by_corpus"]
        share = (12 * parts["posts"]["values"]["accuracy"] + 9 * parts["voices"]["values"]["accuracy"]) / 21
        assert found["beside"][name]["values"]["accuracy"] == pytest.approx(share)
    titles = [row[0] for row in tables.sheet(run).rows]
    assert titles == [t for name in ("cmsta", "probe", "majority class") for t in (name, "  on posts", "  on voices")]


def test_a_leaky_pairing_gets_its_audio_only_row_by_itself(made, tmp_path, no_plots):
    """It is what a probe gives that was trained on the drawn sound as if it were all there is."""
    run = probed(made, tmp_path / "run", ("posts", "voices"), pairing="noisy_match", rho=0.4)
    assert set(run.metrics["beside"]) == {"majority class", "probe, audio only"}
    data = Data(("posts", "voices"), "noisy_match", 0.4).load(made).only([AUDIO])
    alone = experiment._train(Model.of("probe"), data, [42], "cpu").tested("cpu")[0]
    wanted = metrics.score(SENTIMENT, data.subset(Split.TEST).y, alone.output).values
    assert run.metrics["beside"]["probe, audio only"]["values"] == pytest.approx(wanted)
    assert run.metrics["values"] != pytest.approx(wanted)
    assert any("LEAKY" in remark for remark in tables.sheet(run).remarks)

    found = json.loads((run.folder / "metrics.json").read_text())
    del found["beside"]["probe, audio only"]
    (run.folder / "metrics.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match="the row 'probe, audio only' is missing"):
        tables.sheet(Run.open(run.folder))


def test_the_row_is_of_whatever_was_drawn_and_of_the_same_samples(store, tmp_path, no_plots):
    """Speech that posts are drawn to leaks through the posts; a partner may lack one of its modalities."""
    run = probed(store, tmp_path / "a", ("voices", "posts"), pairing="label_matched")
    assert "probe, text and image only" in run.metrics["beside"]
    add_corpus(store, "clips", 45, (AUDIO, FACE), missing={AUDIO: range(0, 45, 2)})
    run = probed(store, tmp_path / "b", ("posts", "clips"), pairing="noisy_match", rho=0.8)
    assert "probe, audio and face only" in run.metrics["beside"]
    assert run.metrics["test_samples"] == 12


def test_values_are_run_from_end_to_end(store, tmp_path):
    add_corpus(store, "clips", 60, (AUDIO, FACE), task=VALUES)
    run = experiment.run(wanted(("clips",), settings=["normalise="]), store, tmp_path / "run")
    assert run.pictures == ["learning_curve.png", "predicted_values.png"]
    rows = predictions(run)
    assert list(rows[0]) == ["seed", "corpus", "id", "group", "label", "predicted"]
    error = [abs(float(row["label"]) - float(row["predicted"])) for row in rows]
    assert run.metrics["values"]["mae"] == pytest.approx(np.mean(error), abs=1e-5)
    assert set(run.metrics["beside"]) == {"probe", "training median"}
    y = [float(row["label"]) for row in rows]
    median = np.median(store.index("clips").y[store.index("clips").rows(Split.TRAIN)])
    wanted_mae = np.abs(np.array(y) - median).mean()
    assert run.metrics["beside"]["training median"]["values"]["mae"] == pytest.approx(wanted_mae)
    sheet = tables.sheet(run)
    assert sheet.columns == ("", "MAE", "Corr", "Acc-2\nnon0", "F1\nnon0", "Acc-2\nhas0", "F1\nhas0", "Acc-7")
    assert all("[" in cell for cell in sheet.rows[2][1:])  # every figure has its interval
    with open(run.folder / "history.csv", encoding="utf-8", newline="") as file:
        assert "valid_mae" in next(csv.reader(file))
    _, found = evaluate(run.folder)
    assert found["seeds"][0]["values"] == pytest.approx(run.metrics["seeds"][0]["values"])


def test_several_labels_at_once_are_run_from_end_to_end(store, tmp_path):
    index = add_emotions(store)
    run = experiment.run(wanted(("clips",), settings=["epochs=12", "normalise="]), store, tmp_path / "run")
    assert run.task == EMOTIONS
    assert run.pictures == ["each_label.png", "learning_curve.png"]
    assert run.record["data"]["classes"] == dict(zip(EMOTIONS.classes, (20, 20, 20, 40, 40, 0), strict=True))
    rows, names = predictions(run), EMOTIONS.classes
    assert list(rows[0]) == ["seed", "corpus", "id", "group", "label", "predicted", *(f"p_{name}" for name in names)]
    for row in rows:
        holds = index.y[index.ids.index(row["id"])] > 0
        said = [float(row[f"p_{name}"]) > 0.5 for name in names]
        assert row["label"] == ", ".join(np.array(names)[holds])
        assert row["predicted"] == (", ".join(np.array(names)[said]) or "none")
    values = run.metrics["seeds"][1]["values"]
    mine = [row for row in rows if row["seed"] == "43"]
    for name in names:
        y, said = ([name in row[column] for row in mine] for column in ("label", "predicted"))
        assert values[f"f1_{name}"] == pytest.approx(f1_score(y, said, average="weighted"))
    assert values["mean_f1"] == pytest.approx(np.mean([values[f"f1_{name}"] for name in names]))
    assert strictly(run.folder / "metrics.json")["values"]["weighted_accuracy_fear"] is None  # fear never holds
    assert set(run.metrics["beside"]) == {"probe", "majority of each label"}
    sheet = tables.sheet(run)
    assert sheet.columns == ("", "Acc\nmean", "Weighted Acc\nmean", "F1\nmean")
    assert "cmsta: weighted accuracy leaves out fear: all samples or none have it" in sheet.remarks
    _, found = evaluate(run.folder)
    assert found["seeds"][1]["values"] == pytest.approx({n: v for n, v in values.items() if v is not None})

    test = Experiment.from_json(run.record["experiment"]).data.load(store).subset(Split.TEST)
    states = {m: [column.states(int(test.rows[0]))] for m, column in test.table.columns.items()}
    said = predicting._decide(run, run.normalisation(), run.head(), [Sample(test.ids[0], None, {})], states)[0]
    row = next(row for row in rows if row["seed"] == str(run.best_seed))
    assert (said.id, said.label) == (row["id"], row["predicted"])
    assert said.output == pytest.approx({name: float(row[f"p_{name}"]) for name in names}, abs=1e-5)


def test_a_prediction_is_named_by_what_the_labels_are():
    p = [0.7, 0.2, 0.1, 0.51, 0.5, 0.0]
    assert predicting._named(EMOTIONS, p, "x").label == "happy, surprise"
    assert predicting._named(EMOTIONS, [0.4] * 6, "x").label == "none"
    assert predicting._named(SENTIMENT, [0.2, 0.5, 0.3], "x").label == "neutral"
    assert predicting._named(VALUES, [-1.25], "x").output == {"value": -1.25}


def test_the_test_part_is_read_after_the_last_seed_of_the_last_yardstick_is_trained(
    made, tmp_path, no_plots, monkeypatch
):
    events, data = [], Data(("posts", "voices"), "label_matched").load(made)
    read, fit, test = Column.pieces, experiment.fit, data.subset(Split.TEST).rows
    of_test = {(column.view.id, row) for column in data.columns.values() for row in column.rows[test]}

    def reading(self):
        if of_test & {(self.view.id, row) for row in self.rows[self.present]}:
            events.append("test read")
        return read(self)

    def fitting(*args):
        found = fit(*args)
        events.append("fitted")
        return found

    monkeypatch.setattr(Column, "pieces", reading)
    monkeypatch.setattr(experiment, "fit", fitting)
    experiment.run(wanted(pairing="label_matched"), made, tmp_path / "run")
    assert events[:6] == ["fitted"] * 6  # two seeds of cmsta, of the probe and of the probe of the sound
    assert set(events[6:]) == {"test read"}


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_sheet_shows_seeds_mean_yardsticks_and_the_pairing(finished):
    sheet = tables.sheet(finished)
    assert [row[0] for row in sheet.rows] == ["seed 42", "seed 43", "cmsta", "probe", "majority class"]
    assert [row[0] for row in tables.sheet(finished, each_seed=False).rows] == ["cmsta", "probe", "majority class"]
    assert sheet.title == "cmsta on posts + voices (pairing: random, seed 42), 12 test samples"
    assert "pairing: random, seed 42" in sheet.remarks
    mean, sd = (finished.metrics[part]["accuracy"] for part in ("values", "sd"))
    assert sheet.rows[2][1].startswith(f"{mean:.3f} ± {sd:.3f}\n[".replace(" 0.", " ."))
    markdown = tables.markdown(sheet).splitlines()
    assert markdown[2].count("|") == markdown[3].count("|") == markdown[4].count("|") == len(sheet.columns) + 1
    assert markdown[-1].startswith("- ")


def altered(finished, folder, **changed):
    """The finished run with other figures."""
    run = Run(folder, finished.record, json.loads(json.dumps(finished.metrics)))
    for name, value in changed.items():
        run.metrics[name] = value
    return run


def test_collapsed_and_restarted_seeds_are_named(finished, tmp_path):
    seeds = [dict(seed) for seed in finished.metrics["seeds"]]
    seeds[0] |= {"collapsed": True, "restarted_at": 0.0025}
    seeds[1] |= {"restarted_at": 0.0025}
    remarks = tables.sheet(altered(finished, tmp_path, seeds=seeds)).remarks
    assert "seed 42 COLLAPSED: one answer to every validation sample, after a restart too" in remarks
    assert "seed 43 collapsed at first and was restarted at lr 0.0025" in remarks


@pytest.mark.parametrize(("ours", "said"), [(0.41, False), (0.4, True), (0.3, True)])
def test_a_head_that_does_not_beat_the_probe_is_told_so(finished, tmp_path, ours, said):
    beside = {
        "probe": finished.metrics["beside"]["probe"] | {"values": finished.metrics["values"] | {"f1_weighted": 0.4}}
    }
    run = altered(finished, tmp_path, values=finished.metrics["values"] | {"f1_weighted": ours}, beside=beside)
    remarks = tables.sheet(run).remarks
    assert any("does not beat the linear probe" in remark for remark in remarks) is said


@pytest.mark.parametrize(("task", "name", "worse"), [(VALUES, "mae", 0.9), (EMOTIONS, "mean_f1", 0.7)], ids=str)
def test_the_linear_probe_is_beaten_by_a_lower_error_or_a_higher_f1(finished, tmp_path, task, name, worse):
    record = finished.record | {"data": finished.record["data"] | {"task": asdict(task)}}
    for ours, said in ((0.8, False), (worse, True)):
        beside = {"probe": {"values": {name: 0.8 + 0.05 * (-1 if task.classes else 1)}}}
        run = Run(tmp_path, record, {"values": {name: ours}, "beside": beside})
        told = tables._verdict(run, run.metrics["beside"])
        assert bool(told) is said
    title = "F1 mean" if task.classes else "MAE"
    assert f"does not beat the linear probe here ({title} {worse:.3f} against " in told[0]
    assert tables._verdict(Run(tmp_path, record, {"values": {name: None}}), beside) == []  # undefined


def test_an_absent_class_of_one_corpus_is_named_with_the_corpus(finished, tmp_path):
    part = finished.metrics["beside"]["probe"] | {"notes": ["AUROC leaves out neutral: no sample, or nothing else"]}
    remarks = tables.sheet(altered(finished, tmp_path, by_corpus={"emodb": part})).remarks
    assert "cmsta on emodb: AUROC leaves out neutral: no sample, or nothing else" in remarks


# --- repeating and resuming ---------------------------------------------------------------------------------------


def train(folder, like=None, resume=None, store=None, log=lambda line: None, **asked):
    return request.train(Request("cmsta", **asked), store, folder, resume, like, log)


def test_a_repeated_run_gives_the_same_numbers(finished, tmp_path, no_plots):
    again = train(tmp_path / "again", like=finished.folder)
    assert (again.folder / "predictions.csv").read_bytes() == (finished.folder / "predictions.csv").read_bytes()
    assert (again.folder / "history.csv").read_bytes() == (finished.folder / "history.csv").read_bytes()
    assert timeless(again.metrics) == timeless(finished.metrics)
    assert again.record["experiment"] == finished.record["experiment"]
    for seed in (42, 43):
        one, two = (load_file(run.folder / f"seeds/{seed}/head.safetensors") for run in (finished, again))
        assert all((one[name] == two[name]).all() for name in one)


def grow(store):
    """What may happen to a store after a run: a newer corpus of the name, a newer view, a view completed."""
    index = store.index("posts")
    add_view(store, index, TEXT, [0, 8], signal=9.0)  # what had failed was tried again
    add_view(store, index, TEXT, view_id="w" * 16, backbone="made.later")
    add_corpus(store, "posts", 30, labels=np.zeros((30, 1), np.float32))


def test_what_a_store_gained_since_has_no_part_in_a_repeated_run(store, tmp_path, no_plots):
    first = probed(store, tmp_path / "first")
    grow(store)
    again = train(tmp_path / "again", like=first.folder)
    assert again.record["data"]["samples"] == first.record["data"]["samples"]
    assert (again.folder / "predictions.csv").read_bytes() == (first.folder / "predictions.csv").read_bytes()
    _, scores = evaluate(first.folder)
    assert scores["seeds"][0]["values"]["accuracy"] == first.metrics["values"]["accuracy"]
    new = probed(FeatureStore.open(store.path), tmp_path / "new")  # it would have had one
    assert new.record["data"]["samples"] != first.record["data"]["samples"]


def test_a_repeated_run_whose_corpus_was_removed_says_so(store, tmp_path, no_plots):
    first = probed(store, tmp_path / "first")
    remove(store, dataset="posts")
    with pytest.raises(UnknownNameError, match="no dataset in this store called 'posts@"):
        train(tmp_path / "again", like=first.folder)


def test_a_run_can_be_repeated_on_a_copy_of_its_store(store, tmp_path, no_plots):
    first = probed(store, tmp_path / "first")
    moved = store.path.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="there is no store"):
        train(tmp_path / "again", like=first.folder)
    again = train(tmp_path / "again", like=first.folder, store=moved)
    assert (again.folder / "predictions.csv").read_bytes() == (first.folder / "predictions.csv").read_bytes()


def kill_in(*words):
    def log(line):
        if all(word in line for word in words):
            raise Killed

    return log


def test_an_interrupted_run_is_resumed_and_ends_as_the_uninterrupted_one(finished, made, tmp_path, no_plots):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        experiment.run(wanted(), made, folder, kill_in("seed 43", "epoch 3"))
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"run.json", "seeds/42/fit.pt", "seeds/43/checkpoint.pt"}  # trained, and under way
    for way in (lambda: tables.sheet(Run.open(folder)), lambda: evaluate(folder), lambda: Run.open(folder).best_seed):
        with pytest.raises(ConfigError, match="is not finished") as error:
            way()
        assert error.value.fix == f"msa fuse train --resume {folder}"
    lines = []
    resumed = train(None, resume=folder, log=lines.append)
    assert "seed 42: trained already" in lines
    assert "seed 43: goes on after epoch 2" in lines
    assert timeless(resumed.metrics) == timeless(finished.metrics)
    assert (folder / "predictions.csv").read_bytes() == (finished.folder / "predictions.csv").read_bytes()
    assert not list(folder.rglob("*.pt"))
    assert all(seed["seconds"] > 0 for seed in resumed.metrics["seeds"])


def test_a_run_is_gone_on_with_on_the_data_it_was_begun_on(store, tmp_path, no_plots):
    folder, asked = tmp_path / "run", wanted(("posts",), "lmf", seeds=(42,))
    whole = experiment.run(asked, store, tmp_path / "whole")
    with pytest.raises(Killed):
        experiment.run(asked, store, folder, kill_in("epoch 2"))
    add_view(store, store.index("posts"), TEXT, [0, 8])
    with pytest.raises(
        ConfigError, match="hidden states of 58 text, 58 image, and the store now has 60 text, 58 image"
    ) as error:
        experiment.run(asked, store, folder)
    assert "--resume" in error.value.fix
    resumed = train(None, resume=folder)
    assert timeless(resumed.metrics) == timeless(whole.metrics)


def test_a_finished_run_is_not_trained_again(finished, made, monkeypatch):
    monkeypatch.setattr(experiment, "fit", None)
    before = (finished.folder / "metrics.json").stat().st_mtime_ns
    lines = []
    assert experiment.run(wanted(), made, finished.folder, lines.append).metrics == finished.metrics
    assert lines == [f"{finished.folder} is finished already"]
    assert (finished.folder / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("other", [{"seeds": (42,)}, {"settings": ["lr=0.02"]}, {"data": ("posts",)}], ids=str)
def test_a_folder_with_another_experiment_is_refused(finished, made, other):
    with pytest.raises(ConfigError, match="holds another experiment"):
        experiment.run(wanted(**other), made, finished.folder)


def test_what_cannot_be_finished_is_refused_before_anything_is_written(store, tmp_path):
    add_corpus(store, "untested", 20, split=np.array([0, 1] * 10, np.uint8))
    add_corpus(store, "sound", 20, (AUDIO,))
    for bad, said in (
        (wanted(("untested",)), "untested has no test sample"),
        (wanted(("posts", "untested", "sound"), pairing="zip"), "both have image, text"),
        (wanted(("sound",), settings=["tokens=gated"]), "a lone modality is one token"),
        (wanted(settings=["class_weights=1,2"]), "2 class weights for the 3 classes"),
    ):
        with pytest.raises(ConfigError, match=said):
            experiment.run(bad, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"like": 1, "pairing": "union"}, "--like does as the run did, and pairing would change that"),
        ({"resume": 1, "settings": ["lr=0.1"]}, "--resume does as the run did, and settings would change that"),
        ({"like": 1, "data": "posts", "seeds": "3"}, "data, seeds would change"),
        ({"resume": 1, "pairing": "union"}, "--resume does as the run did, and pairing"),
        ({"resume": 1, "out": 1}, "goes on in that folder"),
        ({"resume": 1, "like": 1}, "goes on in that folder"),
    ],
)
def test_options_that_would_be_ignored_are_refused(finished, how, said):
    folders = {name: finished.folder if how.pop(name, None) else None for name in ("out", "resume", "like")}
    with pytest.raises(ConfigError, match=said):
        request.train(Request("cmsta", **how), None, **folders, log=print)


# --- evaluating ---------------------------------------------------------------------------------------------------


def test_evaluated_on_its_own_data_a_run_scores_what_it_scored(finished):
    name, found = evaluate(finished.folder)
    assert name == "posts+voices"
    assert found["protocol"] == "random, seed 42"
    assert found["test_samples"] == 12
    for one, two in zip(found["seeds"], finished.metrics["seeds"], strict=True):
        assert one["seed"] == two["seed"]
        assert one["values"] == pytest.approx(two["values"])


@pytest.fixture
def posts_run(store, tmp_path, no_plots):
    return probed(store, tmp_path / "posts-run")


def test_another_corpus_of_the_same_recipe_can_be_scored_though_newer_views_exist(store, posts_run):
    index = add_corpus(store, "more", 40, missing={TEXT: [4], IMAGE: [4]}, signal=3.0)
    add_view(store, index, TEXT, view_id="w" * 16, width=3, backbone="made.later")
    add_view(store, index, AUDIO, [4, 9])  # which the run knows nothing of
    name, found = evaluate(posts_run.folder, data="more")
    assert (name, found["test_samples"]) == ("more", 7)  # more-4 has sound alone
    test = Data(("more",), views={"text": "t" * 16}, modalities=("text", "image")).load(store).subset(Split.TEST)
    output = predict(posts_run.head(42), test, posts_run.normalisation(), 8, "cpu")
    assert found["seeds"][0]["values"]["accuracy"] == (output.argmax(1) == test.y).mean()


def test_hidden_states_of_another_width_are_refused_with_both(store, posts_run):
    index = add_corpus(store, "wide", 10, (IMAGE,))
    add_view(store, index, TEXT, view_id="w" * 16, width=3, backbone="made.later")
    with pytest.raises(
        ConfigError, match=r"wide's text is 3 wide \(made.later\), the run was trained on 8 \(made.text\)"
    ):
        evaluate(posts_run.folder, data="wide")


def test_another_recipe_of_the_same_width_is_refused_with_both(store, posts_run):
    index = add_corpus(store, "other", 10, (IMAGE,))
    add_view(store, index, TEXT, view_id="w" * 16)
    with pytest.raises(ConfigError, match=r"other's text is view w{16}, the run was trained on t{16}"):
        evaluate(posts_run.folder, data="other")


def add_imported(store, name, view_id, width=8, **changed):
    """A corpus of 60 samples whose texts were imported from a file of its own; `changed` are other facts of it."""
    index = add_corpus(store, name, 60, ())
    fact = {"feature": "glove", "columns": [], "dtype": "float16"} | changed
    about = {
        "modality": TEXT, "backbone": f"mult.{fact['feature']}", "family": "mult", "dim": width, "dtype": fact["dtype"],
        "columns": fact["columns"], "source": f"imported from {name}.pkl", "weights": {"name": ""},
        "identity": {"imported": "mult", "feature": fact["feature"], "source": view_id, "dtype": fact["dtype"]},
    }  # fmt: skip
    store.add_view(view_id, about)
    add_view(store, index, TEXT, view_id=view_id, width=width)
    return index


def test_what_was_imported_can_be_scored_on_another_file_of_its_kind_and_it_is_said(store, tmp_path, no_plots):
    add_imported(store, "mosi", "1" * 16)
    index = add_imported(store, "mosei", "2" * 16)
    add_view(store, index, TEXT, view_id="9" * 16, width=3)  # newer, and another
    run = probed(store, tmp_path / "run", ("mosi",))
    with pytest.raises(BackboneError, match=r"imported \(mult\.glove, imported from mosi\.pkl\)") as error:
        Recipe.of_view(run.record["data"]["views"]["text"]["attributes"])
    assert "msa cache import mult FILE --name NAME, then msa fuse eval RUN --data NAME" in error.value.fix
    name, found = evaluate(run.folder, data="mosei")
    assert (name, found["test_samples"]) == ("mosei", 12)
    assert [note for note in found["notes"] if "the recipe behind them could not be compared" in note]
    _, own = evaluate(run.folder)
    assert not [note for note in own["notes"] if "compared" in note]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"feature": "bert"}, "feature 'bert', trained on 'glove'"),
        ({"columns": ["pitch"]}, r"columns \['pitch'\], trained on \[\]"),
        ({"dtype": "float32"}, "dtype 'float32', trained on 'float16'"),
    ],
)
def test_imported_features_that_say_they_differ_are_refused(store, tmp_path, no_plots, changed, said):
    add_imported(store, "mosi", "1" * 16)
    run = probed(store, tmp_path / "run", ("mosi",))
    add_imported(store, "other", "2" * 16, **changed)
    with pytest.raises(ConfigError, match=f"other's text was imported and is another.*{said}"):
        evaluate(run.folder, data="other")


def test_labels_of_another_task_are_refused_with_both(store, posts_run):
    add_corpus(store, "values", 20, task=VALUES)
    add_corpus(store, "halves", 20, task=Task(low=-1.0, high=1.0))
    run = probed(store, folder := posts_run.folder.parent / "values", ("values",))
    with pytest.raises(ConfigError, match="labelled -1 to 1, the run predicts -3 to 3") as error:
        evaluate(folder, data="halves")
    assert error.value.fix.endswith("--set range=-3,3")
    assert run.task == VALUES
    with pytest.raises(ConfigError, match="labelled -3 to 3, the run predicts negative, neutral, positive"):
        evaluate(posts_run.folder, data="values")


def test_a_corpus_that_lacks_a_modality_of_the_run_is_refused(store, posts_run):
    add_corpus(store, "texts", 20, (TEXT,))
    with pytest.raises(ConfigError, match="texts has no image"):
        evaluate(posts_run.folder, data="texts")
    with pytest.raises(UnknownNameError, match="did you mean 'texts'"):
        evaluate(posts_run.folder, data="text")


def test_a_leaky_evaluation_says_what_sound_alone_reaches_or_is_refused(store, tmp_path, no_plots):
    run = probed(store, tmp_path / "run", ("posts", "voices"), pairing="label_matched")
    _, found = evaluate(run.folder)
    f1 = run.metrics["beside"]["probe, audio only"]["values"]["f1_weighted"]
    assert (
        f"LEAKY pairing (label_matched, seed 42): probe, audio only reaches a weighted F1 of {f1:.3f} on these samples"
        in (found["notes"])
    )
    add_corpus(store, "more", 60)
    with pytest.raises(ConfigError, match=r"there is no row 'probe, audio only' for more\+voices"):
        evaluate(run.folder, data="more+voices")


# --- choosing -----------------------------------------------------------------------------------------------------


def test_two_corpora_that_complete_each_other_are_both_chosen_and_it_is_said(made):
    corpora, why = choose(made)
    assert corpora == ("posts", "voices")
    assert why == "voices brings the audio that posts lacks"


def test_a_corpus_alone_in_the_store_is_chosen(tmp_path):
    store = FeatureStore.create(tmp_path / "store")
    with pytest.raises(StoreError, match="holds no hidden states yet") as error:
        choose(store)
    assert "msa extract" in error.value.fix
    add_corpus(store, "posts", 10)
    assert choose(store) == (("posts",), "posts has image, text")
    add_corpus(store, "larger", 20)  # the same modalities: nothing to complete
    assert choose(store) == (("larger",), "larger has image, text, the most of what is in the store")


def test_a_corpus_of_another_task_is_not_chosen_as_a_partner(store):
    remove(store, dataset="voices")
    add_corpus(store, "clips", 20, (AUDIO,), task=VALUES)
    assert choose(store)[0] == ("posts",)


def test_the_modalities_asked_for_decide_what_is_chosen(made):
    assert choose(made, ("audio",))[0] == ("voices",)
    assert choose(made, ("text", "audio"))[0] == ("posts", "voices")
    with pytest.raises(StoreError, match="holds no hidden states of face"):
        choose(made, ("face",))


def test_with_nothing_said_a_run_says_what_it_chose_and_where_it_goes(made, tmp_path, no_plots, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines, settings = [], [*CMSTA, *SHORT]
    run = train(None, store=made.path, settings=settings, seeds="1", pairing="union", log=lines.append)
    assert lines[0] == "no --data: voices brings the audio that posts lacks"
    assert lines[1].startswith(
        f"cmsta (default) on posts + voices, pairing union from {made.path}; seeds 42 -> runs/cmsta-"
    )
    assert run.folder.parent.name == "runs"
    assert run.folder.name.startswith("cmsta-posts+voices-")
    with request._folder(None, Experiment.from_json(run.record["experiment"])) as another:
        assert another != run.folder


def test_modalities_and_views_can_be_named(store, tmp_path, no_plots):
    add_view(store, store.index("posts"), TEXT, view_id="w" * 16, width=3, backbone="made.later")
    asked = {"data": "posts+voices", "settings": [*CMSTA, *SHORT], "seeds": "1", "modalities": "text,audio"}
    run = train(tmp_path / "run", store=store.path, views=["text=made.text"], **asked)
    assert run.dims == {TEXT: 8, AUDIO: 5}
    assert run.record["data"]["samples"]["train"] == 35  # posts-0 has an image alone, posts-8 is of another split


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({"model": "cmst"}, UnknownNameError, "did you mean 'cmsta'"),
        ({"preset": "papr"}, UnknownNameError, "no preset of cmsta called 'papr'\nfix: did you mean 'paper'"),
        ({"settings": ["layer=2"]}, UnknownNameError, "no setting of cmsta called 'layer'\nfix: did you mean 'layers'"),
        ({"settings": ["epoch=2"]}, UnknownNameError, "did you mean 'epochs'"),
        ({"settings": ["lr"]}, ConfigError, "'lr' does not have the form name=value"),
        ({"settings": ["layers=two"]}, ConfigError, "layers='two' is not of type int"),
        ({"settings": ["normalise=adio"]}, UnknownNameError, "did you mean 'audio'"),
        ({"pairing": "zipp"}, UnknownNameError, "no pairing called 'zipp'\nfix: did you mean 'zip'"),
        ({"modalities": "text,imag"}, UnknownNameError, "no modality called 'imag'\nfix: did you mean 'image'"),
        ({"views": ["txt=made.text"]}, UnknownNameError, "did you mean 'text'"),
        ({"views": ["made.text"]}, ConfigError, "does not have the form MODALITY=NAME"),
        ({"views": ["text=made.txt"]}, StoreError, "has no text view made.txt of posts; it has: made.text@"),
        (
            {"views": ["face=made.face"]},
            ConfigError,
            r"a view of face is named, and posts\+voices has text, image, audio",
        ),
        ({"modalities": "face"}, StoreError, "holds no hidden states of face for posts"),
        ({"data": "post+voices"}, UnknownNameError, "did you mean 'posts'"),
        ({"data": "posts+posts"}, ConfigError, "names a corpus twice"),
        ({"rho": 2.0}, ConfigError, "rho 2 is not a probability"),
        ({"seeds": "x"}, ConfigError, "--seeds x"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused_and_the_nearest_offered(made, tmp_path, how, kind, said):
    asked = Request(**{"model": "cmsta", "data": "posts+voices"} | how)
    with pytest.raises(kind, match=said):
        request.train(asked, made.path, tmp_path / "run", None, None, lambda line: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", (42,)),
        ("3", (42, 43, 44)),
        ("7,8", (7, 8)),
        ("7,", (7,)),
        ("0,5", (0, 5)),
        (" 7, 8 ", (7, 8)),
        ("7,7", (7,)),
    ],
)
def test_seeds_are_a_number_of_them_or_their_names(text, seeds):
    assert request._seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "x", "", ",", "-1", "7,-8", "2.5", "7,x", "7 8"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds") as error:
        request._seeds(text)
    assert error.value.fix == "give how many (5), or which (7,8,9)"


# --- a model and all its settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper", "light"])
def test_an_experiment_survives_json(preset):
    model = Model.of("cmsta", preset, ["class_weights=1,2,1", "gate_hidden=8,4", "normalise=audio,face"])
    one = Experiment(model, Data(("a", "b"), "zip", views={"text": "x"}, modalities=("text",)), (1, 2))
    assert Experiment.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_setting_overrides_the_preset_and_the_preset_the_general_default():
    assert Model.of("cmsta").training.lr == 3e-4
    assert Model.of("cmsta", "paper").training.lr == 2e-3
    model = Model.of("cmsta", "paper", ["lr=0.5", "layers=3", "gate_shared=no"])
    assert (model.training.lr, model.settings["layers"], model.settings["gate_shared"]) == (0.5, 3, False)
    assert model.training.batch == 16
    assert Model.of("probe").training.normalise == TrainConfig().normalise


def test_a_model_builds_the_head_its_settings_say():
    head = Model.of("cmsta", settings=["dim=16", "heads=4"]).build({TEXT: 8, IMAGE: 6}, SENTIMENT)
    assert head.project["text"].weight.shape == (16, 8)
    with pytest.raises(ConfigError, match="cmsta needs at least one modality"):
        Model.of("cmsta").build({}, SENTIMENT)


def test_a_table_of_facts_counts_what_is_in_it(made):
    whole = replace(memory_table(), protocol="zip, seed 1", drawn=(AUDIO,))
    facts = experiment._facts(made, whole)
    assert facts["samples"] == {"train": 36, "valid": 12, "test": 12}
    assert facts["drawn"] == [Modality.AUDIO]
    assert facts["generation"] == made.manifest.generation


def test_a_run_outlives_the_compaction_of_its_store(store, tmp_path, no_plots):
    index = store.index("posts")
    add_view(store, index, TEXT, [0, 8])  # a second segment: those that were missing
    first = probed(FeatureStore.open(store.path), tmp_path / "first")
    compact.compact(FeatureStore.open(store.path))
    swept = gc.collect(FeatureStore.open(store.path), grace_s=0.0)
    assert history.missing_files(store.path, FeatureStore.open(store.path, first.record["data"]["generation"]).manifest)
    _, found = evaluate(first.folder)
    assert [row["values"] for row in found["seeds"]] == [row["values"] for row in first.metrics["seeds"]], swept
    again = train(tmp_path / "again", like=first.folder)
    assert (again.folder / "predictions.csv").read_bytes() == (first.folder / "predictions.csv").read_bytes()
