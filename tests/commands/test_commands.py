"""The commands as a person types them; the heavy lifting is tested where it is done."""

import csv
import json
import re
import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from msa import cli
from msa.cache.store import FeatureStore
from tests.extract import corpus


@pytest.fixture
def msa(capsys, monkeypatch, tmp_path):
    """msa(*words) -> (exit code, standard output, standard error), in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *args: None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["msa", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, re.sub(r"\s+", " ", err)

    return run


@pytest.fixture
def posts(tmp_path):
    return corpus.write(tmp_path / "posts", n=60, pictures=True)


CLASSIC = ("--preset", "classic", "--store", "store")


def test_the_way_from_a_table_to_a_prediction(msa, posts, tmp_path):
    code, out, err = msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    assert code == 0, err
    assert "60 samples" in out
    assert msa("cache", "verify")[:2] == (
        0,
        "store: OK: no problems found\n".replace("store", str(tmp_path / "store")),
    )
    code, out, err = msa("fuse", "train", "--model", "probe", "--seeds", "2", "--set", "epochs=3", "--out", "run")
    assert code == 0, err
    assert "majority class" in out
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "run.json",
        "metrics.json",
        "predictions.csv",
        "learning_curve.png",
        "confusion_matrix.png",
    }
    assert "majority class" in msa("fuse", "show", "run")[1]
    assert "| majority class |" in msa("fuse", "show", "run", "--markdown")[1]
    told = json.loads(msa("fuse", "eval", "run", "--json")[1])
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [row["values"] for row in told["seeds"]] == [row["values"] for row in kept["seeds"]]
    code, out, err = msa("predict", "--run", "run", "--text", "a lovely day", "--image", posts.parent / "3.png")
    assert code == 0, err
    assert "text+image" in out
    found = json.loads(msa("predict", "--run", "run", "--table", posts, "--json", "--out", "p.csv")[1])
    assert len(found) == 60
    with open(tmp_path / "p.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["id"], row["prediction"]) for row in written] == [(p["id"], p["label"]) for p in found]
    assert float(written[7]["p_neutral"]) == pytest.approx(found[7]["output"]["neutral"], rel=1e-8)
    assert all(abs(sum(p["output"].values()) - 1) < 1e-6 for p in found)


@pytest.fixture
def trained(msa, posts):
    assert msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)[0] == 0
    assert msa("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=2", "--out", "run")[0] == 0
    return msa


def test_a_prediction_says_what_it_could_not_use(trained, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"")
    code, out, _ = trained("predict", "--run", "run", "--text", "fine", "--image", "broken.jpg")
    assert code == 0
    assert "image not used: empty file" in out
    code, out, _ = trained("predict", "--run", "run", "--image", "broken.jpg")
    assert code == 1
    assert "empty file" in out


def test_a_table_of_which_a_row_gets_no_prediction_ends_non_zero(trained, tmp_path):
    (tmp_path / "ask.csv").write_text("id,text,image\na,fine day,\nb,,none.jpg\n")
    (tmp_path / "none.jpg").write_bytes(b"")
    code, _, err = trained("predict", "--run", "run", "--table", "ask.csv")
    assert (code, "2 rows, 1 without a prediction: ask-predictions.csv" in err) == (1, True)
    with open(tmp_path / "ask-predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], bool(row["prediction"]), bool(row["notes"])) for row in rows] == [
        ("a", True, False),
        ("b", False, True),
    ]


def test_a_prediction_of_a_collapsed_run_says_so(trained, tmp_path):
    path = tmp_path / "run" / "metrics.json"
    found = json.loads(path.read_text())
    for collapsed in (True, False):
        found["seeds"][0]["collapsed"] = collapsed
        path.write_text(json.dumps(found))
        err = trained("predict", "--run", "run", "--text", "fine")[2]
        assert ("seed 42 of run COLLAPSED" in err) == collapsed


def test_a_prediction_refuses_what_the_run_does_not_know(trained, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    code, _, err = trained("predict", "--run", "run", "--text", "fine", "--audio", "a.wav")
    assert (code, "does not know audio" in err) == (1, True)
    code, _, err = trained("predict", "--run", "run")
    assert (code, "given: nothing" in err) == (1, True)


def test_predictions_of_the_table_equal_those_of_the_store(trained, posts, tmp_path):
    """Raw input -> prediction meets the very numbers that training from the store did."""
    import csv

    from msa.predict import from_table, predict

    found = {p.id: p.output for p in predict(tmp_path / "run", from_table(posts)[0], "cpu")}
    with open(tmp_path / "run" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        for name in ("negative", "neutral", "positive"):
            assert float(row[f"p_{name}"]) == pytest.approx(found[row["id"]][name], abs=2e-6)


def test_parts_that_lack_a_class_are_said_with_the_way_out(msa, tmp_path):
    rows = [f"{i},text {i},{'rare' if i % 25 == 0 else 'common'}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["id,text,label", *rows]))
    words = ("extract", "--dataset", "table", "--root", "t.csv", "--preset", "classic", "--dry-run", "--store", "s")
    _, _, err = msa(*words)
    assert re.search(r"valid has (no sample|only \d) of class rare", err)
    assert "--set stratify=true" in err
    _, out, err = msa(*words, "--set", "stratify=true")
    assert "stratified by label, seed 42" in out
    counts = json.loads(msa(*words, "--set", "stratify=true", "--json")[1])["counts"]
    assert {part: row["rare"] for part, row in counts.items()} == {"train": 6, "valid": 1, "test": 1}
    assert {part: row["common"] for part, row in counts.items()} == {"train": 154, "valid": 19, "test": 19}


def test_a_dry_run_counts_and_writes_nothing(msa, posts, tmp_path):
    code, out, _ = msa("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--dry-run")
    assert code == 0
    assert "nothing was written" in out
    assert not (tmp_path / "store").exists()
    told = json.loads(msa("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--dry-run", "--json")[1])
    assert sum(sum(row.values()) for row in told["counts"].values()) == 60
    assert {view["modality"]: view["dim"] for view in told["views"]} == {"text": 270, "image": 47}


def test_a_dry_run_names_the_files_that_are_missing(msa, posts):
    (posts.parent / "7.png").unlink()
    (posts.parent / "9.png").write_bytes(b"")
    words = ("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--dry-run")
    _, out, err = msa(*words)
    assert "2 files are missing, empty or not readable" in err
    assert f"s07: image: {posts.parent / '7.png'}" in out
    out = " ".join(msa(*words[:-1])[1].split())
    assert f"s07 image decode missing file: {posts.parent / '7.png'}" in out
    told = json.loads(msa(*words, "--json")[1])["unreadable"]
    assert told == [["s07", "image", str(posts.parent / "7.png")], ["s09", "image", str(posts.parent / "9.png")]]


def test_store_and_root_are_remembered(msa, posts, tmp_path):
    msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    code, out, _ = msa("extract", "--dataset", "table", "--preset", "classic")
    assert code == 0
    assert str(tmp_path / "store") in out
    rows = json.loads(msa("cache", "ls", "--json")[1])
    assert {(row["dataset"], row["modality"], row["samples"]) for row in rows} == {
        ("posts", "text", 60),
        ("posts", "image", 60),
    }


def test_a_store_in_this_folder_comes_before_the_one_last_written_to(msa, posts, tmp_path, monkeypatch):
    """Option, MSA_STORE, ./msa-store, the store last written to; which one it is stands on standard error."""
    for name in ("here/msa-store", "named", "last"):
        msa("extract", "--dataset", "table", "--root", posts, "--preset", "classic", "--image", "none", "--store", name)
    last = tmp_path / "last"
    assert f"store: {last} (the store last written to)" in msa("cache", "ls")[2]
    monkeypatch.chdir(tmp_path / "here")
    for words in (("cache", "ls"), ("cache", "verify"), ("fuse", "train", "--model", "probe", "--seeds", "1")):
        code, _, err = msa(*words)
        assert (code, "store: msa-store (in this folder)" in err) == (0, True), err
    monkeypatch.setenv("MSA_STORE", str(tmp_path / "named"))
    assert f"store: {tmp_path / 'named'} (from MSA_STORE)" in msa("cache", "ls")[2]
    assert "store:" not in msa("cache", "ls", "--store", last)[2]


def test_a_run_is_repeated_with_a_setting_changed(trained, tmp_path):
    code, _, err = trained("fuse", "train", "--like", "run", "--set", "epochs=1", "--out", "other")
    assert code == 0, err
    first, other = (json.loads((tmp_path / run / "run.json").read_text())["experiment"] for run in ("run", "other"))
    assert (first["model"]["training"].pop("epochs"), other["model"]["training"].pop("epochs")) == (2, 1)
    assert first == other
    code, _, err = trained("fuse", "train", "--like", "run", "--modalities", "text")
    assert (code, "--like does as the run did" in err) == (1, True)
    code, _, err = trained("fuse", "train", "--resume", "run", "--set", "epochs=1")
    assert (code, "--resume does as the run did" in err) == (1, True)


def test_info_tells_failures_and_where_things_come_from(msa, posts):
    (posts.parent / "7.png").write_bytes(b"")
    msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    out = msa("cache", "info")[1]
    assert "s07: decode: empty file" in out
    assert "licence" in out


def test_rm_asks_first_and_frees_space(msa, posts, tmp_path, monkeypatch):
    msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    monkeypatch.setattr("typer.confirm", lambda *args, **kwargs: sys.exit(1))
    assert msa("cache", "rm", "--dataset", "posts")[0] == 1
    assert FeatureStore.open(tmp_path / "store").datasets
    assert msa("cache", "rm", "--dataset", "posts", "--now", "--yes")[0] == 0
    assert not FeatureStore.open(tmp_path / "store").datasets
    assert not list((tmp_path / "store").rglob("data"))


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("extract", "--dataset", "mvsa-singel"), "mvsa-single"),
        (("fuse", "train", "--model", "cmstaa"), "cmsta"),
        (("list", "dataset"), "datasets"),
        (("extract", "--dataset", "table", "--root", "{posts}", "--text", "robberta"), "roberta.base"),
        (("extract", "--dataset", "table", "--root", "{posts}", "--preset", "clasic"), "classic"),
        (("extract", "--dataset", "table", "--root", "{posts}", *CLASSIC, "--set", "spilt=random"), "split"),
        (("extract", "--dataset", "table", "--root", "{posts}", *CLASSIC, "--set", "text.dim=3"), "dims"),
    ],
)
def test_an_unknown_name_offers_the_nearest_one(msa, posts, words, near):
    code, _, err = msa(*(word.replace("{posts}", str(posts)) for word in words))
    assert code == 1
    assert f"did you mean '{near}'" in err


def test_an_unknown_setting_or_preset_of_a_head_offers_the_nearest_one(trained):
    assert "did you mean 'layers'" in trained("fuse", "train", "--model", "cmsta", "--set", "layer=2")[2]
    assert "did you mean 'paper'" in trained("fuse", "train", "--model", "cmsta", "--preset", "papers")[2]
    assert "did you mean 'random'" in trained("fuse", "train", "--data", "posts+posts", "--pairing", "ramdom")[2]
    assert "did you mean 'posts'" in trained("fuse", "train", "--data", "post")[2]
    assert "did you mean 'text'" in trained("fuse", "train", "--modalities", "txt")[2]


def test_an_unknown_option_is_a_usage_error(msa):
    code, _, err = msa("extract", "--dataest", "mvsa")
    assert code == 2
    assert "--dataset" in err


def test_missing_raw_data_says_where_it_comes_from(msa, tmp_path):
    for words in ((), ("--root", tmp_path)):
        code, _, err = msa("extract", "--dataset", "tess", *words)
        assert code == 1
        assert "https://doi.org/10.5683/SP2/E8H2MF" in err
        assert "SPEAKER_WORD_EMOTION.wav" in err


def test_without_a_network_the_refusal_says_what_to_do(msa, posts):
    code, _, err = msa("extract", "--dataset", "table", "--root", posts, "--store", "store")
    assert code == 1
    assert "roberta-base" in err
    assert "classic" in err


def test_weights_are_missed_before_a_store_is_made(msa, posts, tmp_path):
    msa("extract", "--dataset", "table", "--root", posts, "--store", "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("words", ["info", "verify", "repair --dry-run", "gc --dry-run"])
def test_a_store_may_be_named_with_an_option_wherever_it_may_be_an_argument(msa, tmp_path, words):
    for named in ([tmp_path / "nowhere"], ["--store", tmp_path / "nowhere"]):
        code, _, err = msa("cache", *words.split(), *named)
        assert code == 1
        assert f"there is no store at {tmp_path / 'nowhere'}" in err


def test_a_newer_store_is_refused(msa, posts, tmp_path):
    msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    for path in (tmp_path / "store" / "zarr.json", *(tmp_path / "store" / "manifests").glob("0*.json")):
        path.write_text(path.read_text().replace('"msa_format": 1', '"msa_format": 9'))
    for words in (("cache", "ls"), ("fuse", "train"), ("cache", "verify")):
        code, _, err = msa(*words)
        assert (code, "store format 9" in err, "upgrade" in err) == (1, True, True)


def test_a_store_that_is_not_there_is_named(msa):
    code, _, err = msa("cache", "ls", "--store", "nowhere")
    assert (code, "there is no store at nowhere" in err) == (1, True)


def test_verify_fails_on_a_damaged_store(msa, posts, tmp_path):
    msa("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    shard = next((tmp_path / "store").rglob("data/c/0/0"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    code, out, _ = msa("cache", "verify")
    assert code == 1
    assert "SHA-256" in out
    assert "s0" in out


def test_a_run_given_features_of_another_width_is_refused(trained, posts, tmp_path):
    other = tmp_path / "other"
    corpus.write(other, n=60, pictures=True).rename(other / "others.csv")
    words = ("extract", "--dataset", "table", "--root", other / "others.csv", *CLASSIC, "--set", "text.dims=64")
    assert trained(*words)[0] == 0
    code, _, err = trained("fuse", "eval", "run", "--data", "others")
    assert code == 1
    assert "270" in err
    assert "78" in err


def test_interrupting_is_not_a_crash(msa, posts, monkeypatch):
    from msa.extract.media import decode

    def clip(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(decode, "clip", clip)
    words = ("extract", "--dataset", "table", "--root", posts, *CLASSIC)
    code, _, err = msa(*words)
    assert (code, f"To continue: {shlex.join(['msa', *map(str, words)])}" in err) == (130, True)


def test_an_interrupted_training_names_the_command_that_resumes_it(trained, tmp_path, monkeypatch):
    from msa.fuse.experiments import experiment
    from msa.fuse.train import loop

    fit = loop.fit

    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", interrupted)
    code, _, err = trained("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=2")
    assert code == 130
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"To continue: msa fuse train --resume {folder.relative_to(tmp_path)}" in err
    monkeypatch.setattr(experiment, "fit", fit)
    code, _, err = trained("fuse", "train", "--resume", folder)
    assert code == 0, err
    assert (folder / "metrics.json").exists()


def test_wide_characters_and_markup_are_shown_as_they_are(msa, tmp_path):
    table = tmp_path / "x.csv"
    table.write_text("id,label,text\n[bold]1,positive,[red]好\n2,negative,a\n3,neutral,b\n", "utf-8")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "a.png")
    assert msa("extract", "--dataset", "table", "--root", table, *CLASSIC)[0] == 0
    assert msa("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=1", "--out", "run")[0] == 0
    found = json.loads(msa("predict", "--run", "run", "--table", table, "--json")[1])
    assert [p["id"] for p in found] == ["2", "3", "[bold]1"] or {p["id"] for p in found} == {"[bold]1", "2", "3"}
    assert "[bold]1" in msa("predict", "--run", "run", "--table", table)[1]


def test_weights_that_moved_are_found_again_and_other_ones_are_refused(msa, posts, tmp_path):
    from tests.extract.backbones.test_backbones import bert

    bert(tmp_path / "encoder")
    words = ("--text", f"hf:{tmp_path / 'encoder'}", "--image", "none", "--store", "store")
    assert msa("extract", "--dataset", "table", "--root", posts, *words)[0] == 0
    assert msa("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=1", "--out", "run")[0] == 0
    said = json.loads(msa("predict", "--run", "run", "--text", "lovely", "--json")[1])
    (tmp_path / "encoder").rename(tmp_path / "moved")
    code, _, err = msa("predict", "--run", "run", "--text", "lovely")
    assert (code, "which does not exist" in err, "--weights text=hf:PATH" in err) == (1, True, True)
    there = ("--weights", f"text=hf:{tmp_path / 'moved'}")
    assert json.loads(msa("predict", "--run", "run", "--text", "lovely", "--json", *there)[1]) == said
    tensors = tmp_path / "moved" / "model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    code, _, err = msa("predict", "--run", "run", "--text", "lovely", *there)
    assert (code, "SHA-256" in err) == (1, True)


def test_a_run_is_not_scored_on_what_it_was_trained_on(trained, posts, tmp_path):
    words = ("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--seed", "7")
    assert trained(*words)[0] == 0
    _, out, err = trained("fuse", "eval", "run", "--data", "posts")
    assert "left out" in out or "were)" in err
    told = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["samples"]
    assert told["train"] + told["valid"] + told["test"] == 60


def test_a_setting_of_no_modality_or_of_an_absent_one_is_refused(msa, posts):
    code, _, err = msa("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--set", "txt.dims=3")
    assert (code, "did you mean 'text'" in err) == (1, True)
    code, _, err = msa("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--set", "audio.f0=yin")
    assert (code, "posts has no audio" in err) == (1, True)


def test_rows_that_cannot_be_predicted_are_named(trained, tmp_path):
    (tmp_path / "new.csv").write_text("id,text\na,lovely\nb,\n", "utf-8")
    found = json.loads(trained("predict", "--run", "run", "--table", "new.csv", "--json")[1])
    assert [(p["id"], bool(p["label"])) for p in found] == [("a", True), ("b", False)]
    assert found[1]["notes"]
    assert trained("predict", "--run", "run", "--table", "new.csv", "--text", "x")[0] == 2


def test_a_table_to_predict_may_have_columns_of_any_name(trained, tmp_path):
    (tmp_path / "new.csv").write_text("Nr;Tweet\na;lovely\nb;sad\n", "utf-8-sig")
    words = ("predict", "--run", "run", "--table", "new.csv")
    code, _, err = trained(*words)
    assert (code, "--set columns=" in err) == (1, True)
    code, out, _ = trained(*words, "--set", "columns=id:Nr,text:Tweet", "--json")
    assert (code, [(p["id"], bool(p["label"])) for p in json.loads(out)]) == (0, [("a", True), ("b", True)])
    assert trained("predict", "--run", "run", "--text", "x", "--set", "columns=id:Nr")[0] == 2


def test_a_misspelt_setting_of_a_dataset_names_those_of_its_split_too(msa, posts):
    _, _, err = msa("extract", "--dataset", "table", "--root", posts, *CLASSIC, "--set", "stratifi=true")
    assert "did you mean 'stratify'" in err


def test_other_libraries_than_those_of_the_training_are_named(trained, tmp_path):
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["data"]["views"]["text"]["attributes"]["identity"]["libraries"] = {"vaderSentiment": "1.0"}
    path.write_text(json.dumps(record))
    code, _, err = trained("predict", "--run", "run", "--text", "lovely")
    assert (code, "'vaderSentiment': '1.0'} then" in err) == (1, True)


def test_a_narrow_terminal_cuts_no_number(trained, monkeypatch):
    from msa.commands import console

    monkeypatch.setattr(console.out, "_width", 40)
    out = trained("fuse", "show", "run")[1]
    assert "majority class" in out
    assert len(re.findall(r"\d\.\d{3}", out)) == 10  # five metrics of the probe and of the majority class


def test_a_damaged_run_is_named(trained, tmp_path):
    (tmp_path / "run" / "run.json").write_text("{")
    code, _, err = trained("fuse", "show", "run")
    assert (code, "run/run.json: is not JSON" in err) == (1, True), err


def test_a_table_that_needs_no_data_is_written_too_and_takes_no_data(msa, tmp_path, monkeypatch):
    from msa.fuse.experiments import papers, reproduce

    whole = papers.EXPERIMENTS["hcl:table2"]
    monkeypatch.setitem(papers.EXPERIMENTS, "hcl:table2", replace(whole, rows=whole.rows[:1]))
    monkeypatch.setattr(reproduce, "COMPLEXITY_STEPS", dict.fromkeys(reproduce.COMPLEXITY_STEPS, 4))
    assert msa("fuse", "reproduce", "hcl:table2", "--out", tmp_path / "out")[0] == 0
    kinds = {path.suffix: path for path in (tmp_path / "out").iterdir()}
    assert set(kinds) == {".json", ".csv", ".md", ".png"}
    (row,) = csv.DictReader(kinds[".csv"].read_text().splitlines())
    assert (row["name"], float(row["printed_parameters"])) == ("mfm", 3.28e6) and int(row["parameters"]) > 1e5
    assert "| mfm |" in kinds[".md"].read_text() and kinds[".png"].stat().st_size > 5000
    code, _, told = msa("fuse", "reproduce", "hcl:table2", "--data", "nosuch")
    assert code and "hcl:table2 needs no data" in told and "leave out --data" in told
