"""Where runs lie, whatever a store calls its corpora."""

from pathlib import Path

import pytest

from msa.cache.store import FeatureStore
from msa.fuse.experiments import bench as benching
from msa.fuse.experiments import experiment, request, sweep
from msa.fuse.experiments.sweep import slug
from msa.fuse.experiments.workers import Workers
from tests.fuse.conftest import add_corpus

HOSTILE = [
    "../../VICTIM",
    "x/../../../VICTIM",
    "/VICTIM",
    "..",
    ".",
    "a\\b",
    "~root",
    "-rf",
    "x" * 4000,
    "情感",
    "$HOME",
]


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder to stand in, three levels down, with nothing else in sight."""
    home = tmp_path / "a" / "b" / "work"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def trained(monkeypatch):
    """The folders that commands were about to train in."""
    folders = []

    def note(result):
        def make(*arguments, **_):
            folders.extend(a for a in arguments if isinstance(a, Path))
            return result

        return make

    monkeypatch.setattr(experiment, "run", note(None))
    monkeypatch.setattr(benching, "bench", note({}))
    monkeypatch.setattr(request.tuning, "tune", note(({}, {})))
    monkeypatch.setattr(request.reproducing, "reproduce", note({}))
    return folders


@pytest.mark.parametrize("name", HOSTILE)
def test_every_run_lies_below_runs_whatever_a_corpus_is_called(inside, trained, name):
    store = FeatureStore.create(inside.parent / "store")
    add_corpus(store, name, 30)
    asked, workers, quiet = request.Request("lmf", data=name), Workers(1), lambda line: None
    request.train(asked, store.path, None, None, None, quiet)
    request.bench(asked, ["lmf"], store.path, None, workers, quiet)
    request.tune(asked, ["lmf"], 2, store.path, None, workers, quiet)
    request.reproduce(asked, "hcl:table1", store.path, None, workers, quiet)
    assert len(trained) >= 5
    runs = inside / "runs"
    for folder in trained:
        place = folder.resolve()
        assert place.is_relative_to(runs)
        assert place != runs
        assert len(place.relative_to(runs).parts) <= 2
        place.mkdir(parents=True, exist_ok=True)  # a name that any file system takes


def test_a_training_writes_nowhere_else(inside, tmp_path):
    store = FeatureStore.create(tmp_path / "store")
    add_corpus(store, "x/../../../VICTIM", 30)
    before = sorted(tmp_path.rglob("*"))
    asked = request.Request("probe", data="x/../../../VICTIM", settings=["epochs=1"], seeds="1")
    run = request.train(asked, store.path, None, None, None, lambda line: None)
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert run.metrics
    assert made
    assert all(path.is_relative_to(inside / "runs") for path in made)


@pytest.mark.parametrize("name", ["probe, text only", "cmsta", "w/o COWA", "COWA, fixed groups", "a.b+c_d"])
def test_rows_of_a_table_have_the_folders_they_always_had(name):
    assert slug(name) == "-".join(name.replace(",", " ").replace("/", " ").split())


@pytest.mark.parametrize("name", ["..", "../x", "", "probe, ../../x only", "/", "\x1b", "x" * 400])
def test_a_row_of_any_name_is_one_folder(name, tmp_path):
    place = (tmp_path / slug(name)).resolve()
    assert place.parent == tmp_path
    assert sweep.slug(name) not in ("", ".", "..")
