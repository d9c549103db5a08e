"""The contract that every dataset file keeps."""

import ast
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from msa import catalog
from msa.errors import ConfigError, SourceError
from msa.types import SENTIMENT, Source, Task
from tests.extract.datasets.folders import touch, tree

NAMES = catalog.names("dataset")
CORPORA = {"mvsa", "mvsa-single", "tess", "ravdess", "emodb"}
HEAVY = ("torch", "numpy", "PIL", "soundfile", "librosa", "av", "zarr", "h5py", "transformers", "pandas")


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_says_what_it_is_and_where_it_comes_from(name):
    module = catalog.load("dataset", name)
    assert catalog.describe("dataset")[name].endswith(".")
    assert isinstance(module.TASK, Task) or (module.TASK is None and callable(module.task))
    assert isinstance(module.SOURCE, Source)
    assert all(getattr(module.SOURCE, part) for part in ("title", "home", "licence", "layout"))


@pytest.mark.parametrize("name", NAMES)
def test_options_are_a_frozen_dataclass_with_defaults(name):
    config = catalog.load("dataset", name).Config()
    assert is_dataclass(config)
    for field in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_an_error_with_home_licence_and_layout(name, tmp_path):
    module = catalog.load("dataset", name)
    with pytest.raises(SourceError) as error:
        list(module.samples(tmp_path / "nowhere"))
    for part in (module.SOURCE.home, module.SOURCE.licence, module.SOURCE.layout, "nowhere"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_something_else_in_it_is_an_error(name, tmp_path):
    with pytest.raises(SourceError):
        list(catalog.load("dataset", name).samples(touch(tmp_path, "readme.md", *(["song.wav"] * (name != "clips")))))


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_file_has_no_module_level_import_of_a_decoder_or_tensor_package(name):
    source = Path(catalog.load("dataset", name).__file__).read_text("utf-8")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & set(HEAVY)


def test_importing_every_dataset_leaves_heavy_packages_out():
    code = (
        "import sys\nfrom msa import catalog\n"
        "for name in catalog.names('dataset'): catalog.load('dataset', name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_an_option_value_that_does_not_exist_is_refused_with_those_that_do(name):
    config = catalog.load("dataset", name).Config
    option = fields(config)[0].name
    with pytest.raises(ConfigError, match=f"{option} is 'nonsense'"):
        config(**{option: "nonsense"})


@pytest.mark.parametrize("name", sorted(CORPORA | {"table", "clips"}))
def test_samples_come_in_natural_order_whatever_the_file_system_says(name, tmp_path, monkeypatch):
    module, root = catalog.load("dataset", name), tree(name, tmp_path / name)
    once = list(module.samples(root))
    walk, listdir = os.walk, os.listdir

    def backwards(*args, **kwargs):
        for folder, below, files in walk(*args, **kwargs):
            below.reverse()
            yield folder, below, files[::-1]

    monkeypatch.setattr("os.walk", backwards)
    monkeypatch.setattr("os.listdir", lambda path: listdir(path)[::-1])
    assert list(module.samples(root)) == once
    numbers = [int("".join(filter(str.isdecimal, item.id)) or 0) for item in once]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_ids_are_unique_labels_are_of_the_task_and_material_is_below_the_root(name, tmp_path):
    module, root = catalog.load("dataset", name), tree(name, tmp_path)
    found = list(module.samples(root))
    assert len({item.id for item in found}) == len(found) > 0
    for sample in found:
        assert sample.label in SENTIMENT.classes
        assert all(raw.path.is_relative_to(root) and raw.path.is_file() for raw in sample.raw.values())
