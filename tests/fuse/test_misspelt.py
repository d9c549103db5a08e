"""Misspelt names of a head's or backbone's file are errors that name file, key and near match."""

import sys
from itertools import count
from types import ModuleType

import pytest

from msa import catalog
from msa.errors import ConfigError
from msa.fuse.head import head_class
from msa.fuse.heads import probe

HEAD = '''
"""A head."""
from dataclasses import dataclass
from msa.fuse.heads.probe import LinearProbe as Base
_OWN = 1

@dataclass(frozen=True)
class Config:
    dropout: float = 0.0
    width: int = 3

class Head(Base):
    pass
'''
BACKBONE = '''
"""A backbone."""
from msa.extract.backbone import Backbone, BackboneSpec
from msa.types import Modality
RATE = 16_000

class Reader(Backbone):
    dim, versions = 3, {}
    def encode(self, clips):
        return []

def load(spec, weights, device):
    return Reader()
'''
_NUMBER = count()  # a module stays imported: every one needs a name of its own
SPECS = 'SPECS = {"one": BackboneSpec(Modality.TEXT)}\n'


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Make a file a plug-in, and load it through the catalog."""

    class Point:
        def __init__(self, name):
            self.value = self.module = name

        def load(self):
            __import__(self.module)
            return sys.modules[self.module]

    def load(kind: str, text: str) -> ModuleType:
        name = f"made_{next(_NUMBER)}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(catalog, "_plugins", lambda asked: {"made": Point(name)} if asked == kind else {})
        return catalog.load(kind, "made")

    return load


@pytest.mark.parametrize(
    ("line", "where", "key", "near"),
    [
        ("TRAINS = {}", "", "TRAINS", "TRAIN"),
        ("PRESET: dict = {}", "", "PRESET", "PRESETS"),
        ("SERACH = {}", "", "SERACH", "SEARCH"),
        ("PRESETS, SEARCHES = {'default': Config()}, {}", "", "SEARCHES", "SEARCH"),
        ("TRAIN = {'default': {'learning_rate': 1.0, 'lr': 1.0}}", "TRAIN['default']", "learning_rate", None),
        ("TRAIN = {'default': {'weight_deacy': 1.0}}", "TRAIN['default']", "weight_deacy", "weight_decay"),
        ("TRAIN = {'defualt': {'lr': 1.0}}", "TRAIN", "defualt", "default"),
        ("SEARCH = {'widht': (1, 2)}", "SEARCH", "widht", "width"),
        ("SEARCH = {'lr': (1, 2)}", "SEARCH", "lr", None),  # rates are searched anyway: only settings of Config
    ],
)
def test_a_misspelt_name_in_a_head_s_file_is_refused(plugin, line, where, key, near):
    with pytest.raises(ConfigError) as error:
        plugin("head", HEAD + line + "\n")
    assert "made_" in error.value.what and repr(key) in error.value.what and where in error.value.what
    assert near is None or f"did you mean {near!r}" in error.value.fix


def test_a_head_that_still_defines_loss_is_refused(plugin):
    with pytest.raises(ConfigError, match=r"made_\d+\.py: Head defines loss\(batch\)") as error:
        head_class(plugin("head", HEAD.replace("    pass\n", "    def loss(self, batch):\n        return {}\n")))
    assert "step(batch)" in error.value.fix
    assert head_class(plugin("head", HEAD)).__name__ == "Head"


def test_a_preset_of_another_class_and_a_file_without_config_are_refused(plugin):
    with pytest.raises(ConfigError, match=r"PRESETS\['default'\] is dict"):
        plugin("head", HEAD + "PRESETS = {'default': {'width': 3}}\n")
    with pytest.raises(ConfigError, match="defines no Config") as error:
        plugin("head", HEAD.replace("class Config", "class Confg"))
    assert "by 'Confg'" in error.value.fix


def test_a_head_s_own_constants_and_all_it_may_define_pass(plugin):
    good = "PRESETS = {'default': Config(), 'wide': Config(width=9)}\nTRAIN = {'wide': {'lr': 1.0}}\n"
    assert plugin("head", HEAD + good + "SEARCH = {'width': (1, 2)}\n").Config().width == 3
    assert plugin("head", HEAD)


@pytest.mark.parametrize(("written", "near"), [("SPEC", "SPECS"), ("SPECES", "SPECS"), ("_SPECS", None)])
def test_a_backbone_s_file_without_specs_is_refused(plugin, written, near):
    with pytest.raises(ConfigError, match=r"made_\d+\.py defines no SPECS") as error:
        plugin("backbone", BACKBONE + SPECS.replace("SPECS", written, 1))
    assert near is None or f"by {written!r}" in error.value.fix
    assert plugin("backbone", BACKBONE + SPECS)


def test_the_room_s_own_files_pass_once_and_are_not_read_again(monkeypatch):
    for kind in ("dataset", "backbone", "head"):
        for name in catalog.names(kind):
            catalog.load(kind, name)
    monkeypatch.setattr(catalog, "ast", None)
    assert catalog.load("head", "probe") is probe
