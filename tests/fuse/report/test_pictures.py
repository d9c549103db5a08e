"""The figures of the HCL paper: that they show what the run did, on the validation split alone, and refuse the rest."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from msa.cache.store import FeatureStore
from msa.errors import ConfigError, UnknownNameError
from msa.fuse import metrics
from msa.fuse.data.table import Subset
from msa.fuse.experiments import experiment
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.heads import hcl, probe
from msa.fuse.report import panels, pictures
from msa.fuse.runs import plots
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model
from msa.fuse.train.result import TrainResult
from msa.types import SENTIMENT, Split
from tests.fuse.batches import add_emotions, random_batch
from tests.fuse.conftest import AUDIO, FACE, IMAGE, TEXT, VALUES, add_corpus

SMALL = ["dim=16", "heads=2", "dim_head=4", "ffn=16", "lengths=6,6,6", "groups=4", "iterations=5", "fusion_layers=1"]
QUICK = ["batch=8", "lr=0.003", "warmup_epochs=1"]
EPOCHS = 3
NO_AUDIO = (3, 8, 9)  # the first two are of the validation split


def trained(store, folder, data, epochs=EPOCHS, settings=(), seeds=(42,), **how):
    model = Model.of("hcl", settings=[*SMALL, *QUICK, f"epochs={epochs}", *settings])
    return experiment.run(Experiment(model, Data(data, **how), seeds), store, folder).folder


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Runs without what is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 10)
        patch.setitem(probe.TRAIN, "default", probe.TRAIN["default"] | {"epochs": 1})
        for name in ("learning_curve", "confusion_matrix", "each_label", "predicted_values"):
            patch.setattr(plots, name, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def clips_store(tmp_path_factory):
    store = FeatureStore.create(tmp_path_factory.mktemp("clips") / "store")
    add_corpus(store, "clips", 60, (TEXT, AUDIO, FACE), VALUES, missing={AUDIO: NO_AUDIO})
    return store


@pytest.fixture(scope="module")
def clips(clips_store, tmp_path_factory):
    """Two seeds of a regression on text, audio and face. Not to be written to."""
    return trained(clips_store, tmp_path_factory.mktemp("runs") / "run", ("clips",), seeds=(42, 43))


@pytest.fixture(scope="module")
def seen(clips):
    """All pictures of seed 43, drawn: by name the rows of the CSV, and what was said meanwhile."""
    found = {}
    for what in pictures.PICTURES:
        said = []
        png, table = pictures.plot(clips, what, seed=43, log=said.append)
        assert (png, table) == (clips / "plots" / f"{what}.png", clips / "plots" / f"{what}.csv")
        found[what] = rows_of(table), said
    return found


@pytest.fixture(scope="module")
def union(made, tmp_path_factory):
    """Classes of posts (text, image) and voices (audio): no sample has both text and audio."""
    return trained(made, tmp_path_factory.mktemp("union") / "run", ("posts", "voices"), epochs=1, pairing="union")


@pytest.fixture
def run(clips, tmp_path):
    """The run of clips, of one's own and with no picture yet."""
    return shutil.copytree(clips, tmp_path / "run", ignore=shutil.ignore_patterns("plots"))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Only `seen`, which is made before, takes the time to draw."""
    for name in ("entropy", "attention", "clouds"):
        monkeypatch.setattr(panels, name, lambda *_: None)


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_of(folder, what, **how):
    """The rows of a picture's CSV."""
    _, table = pictures.plot(folder, what, **how)
    return rows_of(table)


def validation(folder, seed):
    """The head of a seed, and the validation split as one batch."""
    run = Run.open(folder)
    part = Experiment.from_json(run.record["experiment"]).data.load(experiment.store_of(run)).subset(Split.VALID)
    return run.head(seed), part, part.batch(part.rows, run.normalisation())


def change_setting(folder, **settings):
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["experiment"]["model"]["settings"] |= settings
    (folder / "run.json").write_text(json.dumps(record), "utf-8")


def close(value):
    return pytest.approx(value, rel=2e-5)  # six digits are written


# --- Figure 2 ---------------------------------------------------------------------------------------------------------


def test_entropy_is_shannons_of_the_shares():
    energy = torch.rand(5, 16, dtype=torch.float64)
    energy[1, 3:] = 0  # 0 log 0 is 0
    torch.testing.assert_close(pictures.entropy(energy).numpy(), stats.entropy(energy.numpy(), base=2, axis=1))
    torch.testing.assert_close(pictures.entropy(energy * 77), pictures.entropy(energy))
    assert pictures.entropy(torch.ones(1, 16)).item() == pytest.approx(4.0)
    assert pictures.entropy(torch.eye(16)[:1]).item() == 0.0


def test_entropy_follows_the_very_training_of_the_run(clips, seen):
    """Its seed, data and settings are the run's: after the epoch that was kept it is the kept weights' entropy."""
    found, said = seen["entropy"]
    assert [(row["modality"], row["variant"], row["epoch"]) for row in found] == [
        (m, variant, str(epoch))
        for m in (TEXT, AUDIO, FACE)
        for variant in ("with COWA", "w/o COWA")
        for epoch in range(EPOCHS + 1)
    ]
    best = next(row["best_epoch"] for row in Run.open(clips).metrics["seeds"] if row["seed"] == 43)
    head, _, batch = validation(clips, 43)
    f, _, _ = head.states(batch)
    for m in (TEXT, AUDIO, FACE):
        energy = f[m][batch.mask[m].any(1)].detach().double().square().sum(1).numpy()
        wanted = stats.entropy(energy, base=2, axis=1)
        row = next(r for r in found if (r["variant"], r["modality"], r["epoch"]) == ("with COWA", m, str(best)))
        assert float(row["channel_entropy_bits"]) == close(wanted.mean())
        assert float(row["sd_bits"]) == close(wanted.std())
    # three more lines of each: data, why it ended, time
    assert [line for line in said if "trains anew" in line] == [said[0], said[4 + EPOCHS]]


def test_before_training_the_variants_differ_by_cowa_alone(clips, seen):
    """Epoch 0 is of the weights that training starts from, and the same seed draws both variants the same."""
    found, _ = seen["entropy"]
    start = {(r["variant"], r["modality"]): float(r["channel_entropy_bits"]) for r in found if r["epoch"] == "0"}
    _, _, batch = validation(clips, 43)
    torch.manual_seed(43)
    head = Run.open(clips).model.build(Run.open(clips).dims, VALUES).eval()
    for m in (TEXT, AUDIO, FACE):
        h = head.embed[m](batch.x[m], batch.mask[m])[batch.mask[m].any(1)].detach().double()  # before COWA
        assert start["w/o COWA", m] == close(stats.entropy(h.square().sum(1).numpy(), base=2, axis=1).mean())
        assert start["with COWA", m] < start["w/o COWA", m]


def test_a_training_that_is_begun_again_leaves_no_epochs_behind(clips, monkeypatch):
    def restarted(make, *_, after_epoch, **__):
        head = make().eval()
        for epoch in (1, 2, 3, 4, 1, 2):
            with torch.no_grad():
                head.embed[FACE].h0.fill_(epoch)
            after_epoch(epoch, head, {})
        return TrainResult(state={}, restarted_at=2.5e-5)

    monkeypatch.setattr(pictures, "fit", restarted)
    subject = pictures.Subject.open(clips, None, None, lambda line: None)
    name, epochs = pictures._trained(subject, subject.run.model, "with COWA")
    assert len(epochs) == 3
    assert name == "with COWA, collapsed and begun again at lr 2.5e-05"  # the other curve is of another rate


@pytest.mark.parametrize(("own", "other"), [("cowa", ""), ("kmeans", "cowa")])
def test_what_is_compared_is_cowa_however_the_run_had_it(own, other):
    models = pictures._with_and_without(Model.of("hcl", settings=[f"without={own}"]))
    assert [model.settings["without"] for model in models] == [own, other]


def test_entropy_of_a_run_without_something_else_is_refused(run):
    change_setting(run, without="collaborative")
    with pytest.raises(ConfigError, match="without=collaborative"):
        pictures.plot(run, "entropy")
    assert not (run / "plots").exists()


def test_where_tokens_are_weighed_the_entropy_is_over_tokens(clips_store, tmp_path):
    folder = trained(clips_store, tmp_path / "run", ("clips",), epochs=1, settings=["axis=token", "tokens=6"])
    found = table_of(folder, "entropy")
    assert all(0 < float(row["token_entropy_bits"]) <= np.log2(6) for row in found)


# --- Figures 3 and 4 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["text", "audio"])
def test_the_weights_shown_are_those_the_guide_goes_by(guide):
    """Weighing the values with them gives what the guide layer itself passes on."""
    config = hcl.Config(dim=16, heads=2, dim_head=4, ffn=16, lengths=(6, 6, 6), groups=4)
    head = hcl.HCL(replace(config, guide=guide), {TEXT: 11, AUDIO: 7, FACE: 5}, VALUES).eval()
    batch = random_batch({TEXT: 11, AUDIO: 7, FACE: 5}, VALUES)
    last, seen = head.ccl.layers[-1].guidance, []
    last.register_forward_hook(lambda module, given, out: seen.append((given[1], out)))
    head(batch)
    normed, passed_on = seen[0]
    for m, weights in head.attention(batch).items():
        values = last.w_v[m](normed[m]).unflatten(2, (2, -1)).transpose(1, 2)  # (B, heads, T, d_k)
        torch.testing.assert_close((weights @ values).transpose(1, 2).flatten(2), passed_on[m])
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert set(passed_on) == {TEXT, AUDIO, FACE} - {head.guide}


def test_attention_is_the_mean_over_samples_that_have_the_modality(clips, seen):
    found, _ = seen["attention"]
    head, part, batch = validation(clips, 43)
    there = np.array([name not in {f"clips-{i}" for i in NO_AUDIO} for name in part.ids])
    assert there.sum() == len(there) - 2
    wanted = {AUDIO: head.attention(batch)[AUDIO][there], FACE: head.attention(batch)[FACE]}
    for m, weights in wanted.items():
        rows = [row for row in found if (row["guide"], row["guided"]) == (TEXT, m)]
        matrix = np.array([float(row["weight"]) for row in rows]).reshape(8, 8)
        np.testing.assert_allclose(matrix, weights.detach().mean((0, 1)), rtol=2e-5)
        assert [(r["query"], r["key"]) for r in rows[:9]] == [*(("1", str(k)) for k in range(1, 9)), ("2", "1")]
        assert sum(float(row["from_uniform"]) for row in rows) == pytest.approx(0, abs=1e-5)
    assert len(found) == 2 * 64


def test_a_modality_that_never_meets_its_guide_is_left_out_and_said_so(union):
    said = []
    assert {row["guided"] for row in table_of(union, "attention", log=said.append)} == {IMAGE}
    assert said == ["posts+voices: no validation sample has audio and text: left out"]


@pytest.mark.parametrize(
    ("modalities", "without", "says"),
    [((TEXT,), "", "alone|lone"), ((TEXT, AUDIO, FACE), "text_guidance", "text_guidance")],
)
def test_without_a_guide_there_is_no_attention(modalities, without, says):
    dims = dict.fromkeys(modalities, 5)
    head = hcl.HCL(hcl.Config(dim=16, heads=2, ffn=16, without=without), dims, VALUES)
    with pytest.raises(ConfigError, match=says):
        head.attention(random_batch(dims, VALUES))


# --- Figure 5 ---------------------------------------------------------------------------------------------------------


def test_tsne_places_every_vector_once_and_the_same_each_time(run, seen):
    found, _ = seen["tsne"]
    _, part, _ = validation(run, 43)
    with_audio = [name for name in part.ids if name not in {f"clips-{i}" for i in NO_AUDIO}]
    assert [(row["kind"], row["id"]) for row in found] == [
        *(("F_audio", name) for name in with_audio),
        *(("F_face", name) for name in part.ids),
        *(("G_N", name) for name in part.ids),
    ]
    label = dict(zip(part.ids, part.y, strict=True))
    assert all(float(row["label"]) == close(label[row["id"]]) for row in found)
    assert {row["corpus"] for row in found} == {"clips"}
    assert np.ptp([float(row["z"]) for row in found]) > 0
    assert table_of(run, "tsne", seed=43) == found


def test_tsne_keeps_near_what_is_near():
    rng = np.random.default_rng(0)
    clouds = np.concatenate([rng.normal(size=(20, 16)) + 12 * (i == np.arange(16)) for i in range(3)])
    place = pictures.embed(clouds.astype(np.float32), 7)
    gaps = np.linalg.norm(place[:, None] - place, axis=2) + np.diag(np.full(60, np.inf))
    assert (gaps.argmin(1) // 20 == np.arange(60) // 20).all()


def test_tsne_of_classes_with_what_samples_lack(union):
    found = table_of(union, "tsne")
    kinds = {kind: {row["corpus"] for row in found if row["kind"] == kind} for kind in ("F_audio", "F_image", "G_N")}
    assert kinds == {"F_audio": {"voices"}, "F_image": {"posts"}, "G_N": {"posts", "voices"}}
    assert {row["label"] for row in found} == set(SENTIMENT.classes)


def test_tsne_of_several_labels_names_those_that_hold(tmp_path):
    store = FeatureStore.create(tmp_path / "store")
    add_emotions(store)
    found = table_of(trained(store, tmp_path / "run", ("clips",), epochs=1), "tsne")
    assert {row["label"] for row in found} == {"happy, disgust", "sad, surprise", "anger, surprise, disgust"}


def test_tsne_of_a_large_part_takes_some_samples(run, monkeypatch):
    said = []
    monkeypatch.setattr(pictures, "MOST", 9)
    found = table_of(run, "tsne", log=said.append)
    assert len({row["id"] for row in found}) == 9
    assert said == ["drawn from 9 of 12 validation samples"]


# --- All --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", pictures.PICTURES)
def test_no_picture_touches_the_test_part_or_the_run(run, what, monkeypatch):
    looked, labelled = set(), Subset.labelled
    spy = lambda part, x, k, rows: looked.update(part.table.split[rows].tolist()) or labelled(part, x, k, rows)  # noqa: E731
    monkeypatch.setattr(Subset, "labelled", spy)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    pictures.plot(run, what)
    assert looked == ({0, 1} if what == "entropy" else {1})
    assert {path for path in run.rglob("*") if path.is_file()} - set(before) == set((run / "plots").iterdir())
    assert {path: path.read_bytes() for path in before} == before


def test_text_alone_has_an_entropy_and_nothing_that_is_guided(clips_store, tmp_path):
    folder = trained(clips_store, tmp_path / "alone", ("clips",), epochs=1, modalities=(TEXT,))
    assert {row["modality"] for row in table_of(folder, "entropy")} == {TEXT}
    for what in ("attention", "tsne"):
        with pytest.raises(ConfigError, match="guides no one"):
            pictures.plot(folder, what)


def test_a_store_that_has_moved_can_be_named(run, seen, clips_store, tmp_path):
    moved = shutil.copytree(clips_store.path, tmp_path / "elsewhere")
    assert table_of(run, "attention", store=moved, seed=43) == seen["attention"][0]


@pytest.mark.parametrize("what", pictures.PICTURES)
def test_there_is_something_to_see(clips, seen, what):
    """The colours of what is drawn, beside the grey and white of paper and frame."""
    with Image.open(clips / "plots" / f"{what}.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 400
    assert (np.ptp(pixels, axis=2) > 60).sum() > 500  # a legend alone has a hundred


def test_what_cannot_be_drawn_is_refused(run):
    with pytest.raises(UnknownNameError, match="entropy"):
        pictures.plot(run, "entropie")
    with pytest.raises(ConfigError, match="42, 43, not 7"):
        pictures.plot(run, "tsne", seed=7)
    record = json.loads((run / "run.json").read_text("utf-8"))
    record["experiment"]["model"]["name"] = "cmsta"
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ConfigError, match="a run of cmsta"):
        pictures.plot(run, "attention")
    (run / "metrics.json").unlink()
    record["experiment"]["model"]["name"] = "hcl"
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ConfigError, match="not finished"):
        pictures.plot(run, "attention")
