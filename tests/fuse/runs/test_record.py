"""Run folders of strangers: a clear error that names the file, at once; nothing run, nothing written elsewhere."""

import json
import os
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from msa.cache.store import FeatureStore
from msa.errors import ConfigError, MsaError
from msa.fuse import metrics
from msa.fuse.experiments import experiment, request, tables, tune
from msa.fuse.experiments.evaluate import evaluate
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.request import Request
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.sweep import baselines
from msa.fuse.runs import plots
from msa.fuse.runs.files import claimed
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model
from tests.faults.strange_runs import changed, copied, file_of, mutate
from tests.fuse.conftest import AUDIO
from tests.fuse.train.test_loop import trained

MUTATIONS = 100


@pytest.fixture(scope="module")
def base(made, tmp_path_factory):
    """A probe of speech, which is normalised. Not to be written to."""
    return run_of(made, "probe", tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def looped(made, tmp_path_factory):
    """A head that a loop trained, with checkpoints. Not to be written to."""
    return run_of(made, "lmf", tmp_path_factory.mktemp("trained"))


def run_of(store, model, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 20)
        for name in ("learning_curve", "confusion_matrix"):
            patch.setattr(plots, name, lambda *_: None)
        wanted = Experiment(Model.of(model, settings=["epochs=2"]), Data(("voices",)), (42,))
        return experiment.run(wanted, store, folder / "run").folder


class Stopped(Exception):
    pass


def ways(folder, out, monkeypatch):
    """What is done with a run: show, eval, what predict and bench read of it, and --like up to its training."""

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(experiment, "_train", stop)
    plain = Request("cmsta")
    yield lambda: tables.markdown(tables.sheet(Run.open(folder))).encode()
    yield lambda: json.dumps({**Run.open(folder).record, **Run.open(folder).metrics, "b": baselines(Run.open(folder))})
    yield lambda: evaluate(folder)
    yield lambda: (Run.open(folder).normalisation(), Run.open(folder).head())
    yield lambda: Run.open(folder).tested()
    yield lambda: request.train(plain, None, out, None, folder, lambda line: None)


def test_a_run_changed_at_random_is_read_or_refused_and_no_more(base, tmp_path, monkeypatch):
    rng, refused = random.Random(12), 0
    for number in range(MUTATIONS):
        folder = copied(base, tmp_path / "run")
        what = mutate(folder, rng)
        for way in ways(folder, tmp_path / f"out-{number}", monkeypatch):
            try:
                way()
            except MsaError:
                refused += 1
            except Stopped:
                pass
            except Exception as error:
                raise AssertionError(f"seed 12, mutation {number}: {what}") from error
    assert refused > MUTATIONS  # most of what is changed is noticed


def put(place, new):
    return lambda folder: rewrite(folder / "run.json", place, new)


def score(place, new):
    return lambda folder: rewrite(folder / "metrics.json", place, new)


def rewrite(path, place, new):
    path.write_text(json.dumps(changed(json.loads(path.read_text()), tuple(place), new)))


def bytes_of(name, data):
    return lambda folder: file_of(folder, name).write_bytes(data)


def instead(name, make):
    def change(folder):
        path = file_of(folder, name)
        path.unlink()
        make(path)

    return change


def stats(**new):
    def change(folder):
        path = folder / "normalisation.safetensors"
        save_file({**load_file(path), **new}, path)

    return change


def weights(make):
    def change(folder):
        path = file_of(folder, "head.safetensors")
        save_file(make(load_file(path)), path)

    return change


EMPTY = (2).to_bytes(8, "little") + b"{}"
DATA, MODEL = ("data",), ("experiment", "model")
RUN_JSON = {
    "an object": put((), {}),
    "a list": put((), []),
    "torn": bytes_of("run.json", b'{"experiment": {'),
    "deep": bytes_of("run.json", b'{"a":' * 100_000),
    "deep lists": bytes_of("run.json", b'{"a":' + b"[" * 100_000),
    "not UTF-8": bytes_of("run.json", b'\xff\xfe{"a":1}'),
    "digits": bytes_of("run.json", b'{"experiment": ' + b"1" * 5000 + b"}"),
    "no model": put(MODEL, KeyError),
    "another member": put((*MODEL, "x"), 1),
    "a training of words": put((*MODEL, "training", "lr"), "fast"),
    "a training of no setting": put((*MODEL, "training", "x"), 1),
    "no finite rate": put((*MODEL, "training", "lr"), float("nan")),
    "a negative batch": put((*MODEL, "training", "batch"), -1),
    "settings in settings": put((*MODEL, "settings", "dropout"), {"a": {}}),
    "no seed": put(("experiment", "seeds"), []),
    "a huge seed": put(("experiment", "seeds"), [10**30]),
    "a seed of words": put(("experiment", "seeds"), ["42"]),
    "no corpus": put(("experiment", "data", "corpora"), []),
    "a modality that is none": put(("experiment", "data", "modalities"), ["smell"]),
    "classes of numbers": put((*DATA, "task", "classes"), [1, 2]),
    "a class twice": put((*DATA, "task", "classes"), ["a", "a", "b"]),
    "a class that steers a terminal": put((*DATA, "task", "classes"), ["a", "\x1b[2J", "b"]),
    "half a character": put((*DATA, "protocol"), "\ud800"),
    "wide": put((*DATA, "dims", "audio"), 10**9),
    "no width": put((*DATA, "dims"), {}),
    "a width of words": put((*DATA, "dims", "audio"), "5"),
    "views of another modality": put((*DATA, "views"), {}),
    "a view without attributes": put((*DATA, "views", "audio", "attributes"), []),
    "a store of nothing": put((*DATA, "store"), None),
    "a store with a null byte": put((*DATA, "store"), "a\0b"),
    "a generation below 0": put((*DATA, "generation"), -1),
    "a pipe": instead("run.json", os.mkfifo),
    "a folder": instead("run.json", Path.mkdir),
    "a link": instead("run.json", lambda path: path.symlink_to("/etc/hostname")),
    "an endless device": instead("run.json", lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("change", RUN_JSON.values(), ids=RUN_JSON)
def test_what_run_json_cannot_say_is_refused_by_name_when_it_is_opened(base, tmp_path, change):
    folder = copied(base, tmp_path / "run")
    change(folder)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"run\.json") as error:
        Run.open(folder)
    assert error.value.fix
    assert time.monotonic() - begun < 5  # of a busy machine; it takes milliseconds


METRICS = {
    "an object": score((), {}),
    "a list": score((), []),
    "torn": bytes_of("metrics.json", b'{"seeds": ['),
    "no seeds": score(("seeds",), []),
    "a seed of another run": score(("seeds", 0, "seed"), 7),
    "a huge seed": score(("seeds", 0, "seed"), 10**30),
    "no headline": score(("values", "f1_macro"), KeyError),
    "a score of words": score(("values", "f1_macro"), "good"),
    "a score no float holds": score(("values", "f1_macro"), 10**400),
    "half an interval": score(("interval", "f1_macro"), [0.5]),
    "a note that steers a terminal": score(("notes",), ["\x1b]52;c;aGFjaw==\x07"]),
    "no loss to choose by": score(("seeds", 0, "valid_loss"), None),
    "samples below 0": score(("test_samples",), -1),
    "a pipe": instead("metrics.json", os.mkfifo),
}


@pytest.mark.parametrize("change", METRICS.values(), ids=METRICS)
def test_what_metrics_json_cannot_say_is_refused_by_name_when_it_is_opened(base, tmp_path, change):
    folder = copied(base, tmp_path / "run")
    change(folder)
    with pytest.raises(ConfigError, match=r"metrics\.json"):
        Run.open(folder)


NORMALISATION = {
    "missing": instead("normalisation.safetensors", lambda path: None),
    "emptied": bytes_of("normalisation.safetensors", EMPTY),
    "NaN": stats(**{"audio.mean": torch.full((5,), torch.nan)}),
    "infinite": stats(**{"audio.mean": torch.full((5,), torch.inf)}),
    "a deviation of 0": stats(**{"audio.std": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])}),
    "a deviation below 0": stats(**{"audio.std": -torch.ones(5)}),
    "another width": stats(**{"audio.std": torch.ones(6)}),
    "another modality": stats(**{"text.mean": torch.ones(8), "text.std": torch.ones(8)}),
    "a pipe": instead("normalisation.safetensors", os.mkfifo),
}


@pytest.mark.parametrize("change", NORMALISATION.values(), ids=NORMALISATION)
def test_a_normalisation_that_is_not_of_the_runs_modalities_is_refused(base, tmp_path, change):
    folder = copied(base, tmp_path / "run")
    change(folder)
    with pytest.raises(ConfigError, match=r"normalisation\.safetensors"):
        Run.open(folder).normalisation()


HEAD = {
    "missing": instead("head.safetensors", lambda path: None),
    "cut": bytes_of("head.safetensors", EMPTY[:5]),
    "a header of 4 exabytes": bytes_of("head.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    "a tensor larger than the file": bytes_of(
        "head.safetensors",
        (77).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}     ',
    ),
    "no weights": bytes_of("head.safetensors", EMPTY),
    "NaN": weights(lambda state: {name: value * torch.nan for name, value in state.items()}),
    "another shape": weights(lambda state: {name: value[:2].clone() for name, value in state.items()}),
    "one too many": weights(lambda state: {**state, "more": torch.ones(1)}),
    "a link": instead("head.safetensors", lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("change", HEAD.values(), ids=HEAD)
def test_weights_that_are_not_the_heads_are_refused(base, tmp_path, change):
    folder = copied(base, tmp_path / "run")
    change(folder)
    with pytest.raises(ConfigError, match=r"head\.safetensors"):
        Run.open(folder).head()


@pytest.mark.parametrize("name", ["almt", "cmsta", "hcl", "mult", "tfn", "lmf", "simr"])
def test_a_head_whose_settings_are_absurd_is_refused_before_it_takes_memory_or_time(base, tmp_path, name):
    plain = Model.of(name).to_json()
    for setting, value in plain["settings"].items():
        if type(value) is not int or isinstance(value, bool):
            continue
        folder = copied(base, tmp_path / "run")
        rewrite(folder / "run.json", MODEL, plain | {"settings": plain["settings"] | {setting: 10**9}})
        begun = time.process_time()
        with pytest.raises(MsaError):
            Run.open(folder).head()
        assert time.process_time() - begun < 10


def test_a_setting_a_head_does_not_have_or_of_another_type_is_refused():
    plain = Model.of("hcl").to_json()
    for name, value in {"x": 1, "dim": "128", "layers": 2.5, "without": "all", "shared_map": 1, "lengths": 5}.items():
        with pytest.raises(MsaError, match="hcl"):
            Model.from_json(plain | {"settings": plain["settings"] | {name: value}}).config  # noqa: B018
    assert Model.from_json(json.loads(json.dumps(plain))).config == Model.of("hcl").config


PREDICTIONS = {
    "missing": b"",
    "another table": b"a,b\n1,2\n",
    "cut in a line": b"seed,corpus,id,group,label,predicted,p_negative,p_neutral,p_positive\n42,voices,v",
    "no number": b"seed,corpus,id,group,label,predicted,p_negative,p_neutral,p_positive\n42,v,a,0,neutral,x,1,y,0\n",
    "no class": b"seed,corpus,id,group,label,predicted,p_negative,p_neutral,p_positive\n42,v,a,0,joy,x,1,0,0\n",
    "another seed": b"seed,corpus,id,group,label,predicted,p_negative,p_neutral,p_positive\n7,v,a,0,neutral,x,1,0,0\n",
    "not UTF-8": b"\xff\xfe\x00",
    "a cell of a megabyte": b"seed," + b"x" * 10**6 + b"\n1,2\n",
}


@pytest.mark.parametrize("data", PREDICTIONS.values(), ids=PREDICTIONS)
def test_predictions_that_are_not_the_runs_are_refused(base, tmp_path, data):
    folder = copied(base, tmp_path / "run")
    (folder / "predictions.csv").write_bytes(data)
    with pytest.raises(ConfigError, match=r"predictions\.csv"):
        Run.open(folder).tested()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x", "https://user:key@127.0.0.1:9/x", "s3://bucket/x"])
def test_no_server_is_called_because_a_run_names_it(base, tmp_path, monkeypatch, address):
    asked = []
    monkeypatch.setattr(FeatureStore, "_open_elsewhere", lambda url, generation: asked.append(url))
    folder = copied(base, tmp_path / "run")
    rewrite(folder / "run.json", (*DATA, "store"), address)
    plain, tell = Request("cmsta"), lambda line: None
    for use in (
        lambda: evaluate(folder),
        lambda: evaluate(folder, data="voices"),
        lambda: request.train(plain, None, tmp_path / "out", None, folder, tell),
        lambda: request.train(plain, None, None, folder, None, tell),
    ):
        with pytest.raises(ConfigError, match="no server is called") as error:
            use()
        assert "--store" in error.value.fix
        assert "key" not in str(error.value)
    assert asked == []
    with pytest.raises(AttributeError):  # of None: a server that was named is asked
        evaluate(folder, address)
    assert asked == [address]


# --- a training that is taken up ----------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def begun(folder, base):
    """A run that was begun: without metrics, and with a checkpoint or a result to take up."""
    copied(base, folder)
    (folder / "metrics.json").unlink()
    return folder / "seeds" / "42"


def bomb(path):
    """Megabytes of zeros, packed."""
    torch.save({"a": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


TORCH = {
    "code": lambda path: torch.save({"head": Evil()}, path),
    "old format": lambda path: torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False),
    "packed zeros": bomb,
    "nothing": lambda path: path.write_bytes(b""),
    "half": lambda path: (torch.save({"a": torch.ones(3)}, path), os.truncate(path, 300)),
    "a list": lambda path: torch.save([1], path),
    "other members": lambda path: torch.save({"state": {}, "x": 1}, path),
    "a history of words": lambda path: torch.save({"state": {}, "history": ["x"], "best_epoch": 0}, path),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("name", ["fit.pt", "checkpoint.pt"])
@pytest.mark.parametrize("make", TORCH.values(), ids=TORCH)
def test_resuming_a_strangers_run_runs_no_code_and_names_the_file(looped, made, tmp_path, monkeypatch, make, name):
    monkeypatch.chdir(tmp_path)
    home = begun(tmp_path / "run", looped)
    make(home / name)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as error:
        request.train(Request("cmsta"), None, None, tmp_path / "run", None, lambda line: None)
    assert error.value.fix
    assert not (tmp_path / "pwned").exists()


def moments_of_another_shape(state):
    next(iter(state["optimiser"]["state"].values()))["exp_avg"] = torch.ones(3)


CHECKPOINT = {
    "no loop": lambda state: state.pop("loop"),
    "an epoch of words": lambda state: state["loop"].update(epoch="3"),
    "epochs that were not trained": lambda state: state["loop"].update(epoch=50),
    "moments of another shape": moments_of_another_shape,
    "moments of no parameter": lambda state: state["optimiser"]["state"].update({999: {}}),
    "a rate of words": lambda state: state["optimiser"]["param_groups"][0].update(lr="fast"),
    "a plateau with a method of its own": lambda state: state["plateau"].update(step=1),
    "chance of another kind": lambda state: state.update(rng=torch.ones(3)),
    "a history without losses": lambda state: state["result"].update(history=[{"x": 1.0}] * 4),
    "weights that are numbers": lambda state: state["result"].update(state={"w": 1}),
}


@pytest.mark.parametrize("change", CHECKPOINT.values(), ids=CHECKPOINT)
def test_a_checkpoint_that_was_changed_is_refused_and_named(tmp_path, change):
    path = tmp_path / "checkpoint.pt"
    trained(checkpoint=path)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt") as error:
        trained(checkpoint=path)
    assert "trained from its beginning" in error.value.fix


# --- what is written stays in the folder --------------------------------------------------------------------------


LINKED = ("predictions.csv", "history.csv", "metrics.json", "normalisation.safetensors", "learning_curve.png")


def test_a_resumed_run_writes_through_no_link(base, made, tmp_path):
    home = begun(tmp_path / "run", base)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in LINKED:
        path = tmp_path / "run" / name
        path.unlink(missing_ok=True)
        if name != "metrics.json":
            path.symlink_to(victim)
    (home / "head.safetensors").unlink()
    (home / "head.safetensors").symlink_to(victim)
    done = request.train(Request("cmsta"), None, None, tmp_path / "run", None, lambda line: None)
    assert victim.read_text() == "mine"
    assert done.metrics
    assert not any((tmp_path / "run" / name).is_symlink() for name in LINKED)


@pytest.mark.parametrize("which", ["seeds", "seeds/42"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(base, made, tmp_path, which):
    begun(tmp_path / "run", base)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "run" / which).rename(elsewhere)
    (tmp_path / "run" / which).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(ConfigError, match="is a link to"):
        request.train(Request("cmsta"), None, None, tmp_path / "run", None, lambda line: None)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_an_error_with_a_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no folder can be made there") as error, claimed(tmp_path / "file"):
        pass
    assert "--out" in error.value.fix


SEARCH = {
    "a list": ("search.json", lambda path: path.write_text("[1]")),
    "torn": ("search.json", lambda path: path.write_text("{")),
    "a pipe": ("search.json", os.mkfifo),
    "a log that is a link": ("search.log", lambda path: path.symlink_to("/etc/hostname")),
    "a log that is a pipe": ("search.log", os.mkfifo),
    "lines that are a link": ("trials.txt", lambda path: path.symlink_to("victim")),
}


@pytest.mark.parametrize(("name", "make"), SEARCH.values(), ids=SEARCH)
def test_a_strangers_search_is_refused_by_the_name_of_the_file(made, tmp_path, name, make):
    folder = tmp_path / "probe"
    folder.mkdir()
    make(folder / name)
    data = Data(("voices",)).load(made)
    pinned = experiment.pin(Experiment(Model.of("probe"), Data(("voices",))), made).data
    wanted = tune.Search("probe", "default", pinned, made.address, made.manifest.generation, str(folder), 1)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        tune.search(wanted, tune.without_test(data))


def test_a_whole_run_still_opens_and_one_without_what_came_later_too(base, tmp_path):
    folder = copied(base, tmp_path / "run")
    assert Run.open(folder).head() is not None
    assert np.isfinite(Run.open(folder).normalisation().of(AUDIO)[1]).all()
    for place in (("groups",), ("seeds", 0, "threads"), ("seeds", 0, "device"), ("seeds", 0, "padding")):
        rewrite(folder / "metrics.json", place, KeyError)
    for place in ((*MODEL, "training", "bucket"), (*MODEL, "training", "select"), (*DATA, "task", "multilabel")):
        rewrite(folder / "run.json", place, KeyError)
    run = Run.open(folder)
    assert tables.sheet(run).rows
    assert run.model == Run.open(base).model
