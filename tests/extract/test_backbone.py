"""The base class of backbones: its defaults, and the attributes it refuses."""

from dataclasses import dataclass

import numpy as np
import pytest

from msa import catalog
from msa.errors import BackboneError
from msa.extract.backbone import Backbone, BackboneSpec, Weights, checked
from msa.extract.recipe import Recipe
from msa.types import Modality


class Plain(Backbone):
    dim, versions = 2, {}

    def encode(self, clips):
        return [np.zeros((1, 2), np.float16) for _ in clips]


def test_everything_but_encode_has_a_default():
    plain = Plain()
    assert (plain.columns, plain.batching, plain.budget, plain.sizes, plain.counts) == ((), "fixed", None, None, None)
    assert plain.launch is None
    assert plain.prepare("a clip") == "a clip"
    plain.close()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("colums", "columns"),
        ("column", "columns"),
        ("batchng", "batching"),
        ("budgets", "budget"),
        ("size", "sizes"),
        ("count", "counts"),
        ("prepair", "prepare"),
        ("closed", "close"),
        ("lanch", "launch"),
    ],
)
@pytest.mark.parametrize("how", ["method", "constant", "field"])
def test_a_misspelt_optional_attribute_is_refused(written, meant, how):
    body = {"__module__": __name__}
    body |= {
        "method": {written: lambda self: None},
        "constant": {written: ()},
        "field": {"__annotations__": {written: int}},
    }[how]
    with pytest.raises(BackboneError, match=f"Reader has '{written}'") as error:
        type("Reader", (Plain,), body)
    assert "test_backbone.py" in error.value.what
    assert f"did you mean {meant!r}" in error.value.fix


def test_a_backbone_s_own_parts_may_have_other_names():
    @dataclass
    class Reader(Plain):
        filters: int
        batch: int
        window: int = 3
        _counts: int = 0

        def describe(self):
            return self.filters

    assert Reader(1, 2).describe() == 1


def recipe(monkeypatch, made) -> Recipe:
    module = type("module", (), {"load": staticmethod(lambda *args: made)})
    monkeypatch.setattr(catalog, "load", lambda kind, name: module)
    return Recipe("made", "made", BackboneSpec(Modality.TEXT), Weights(None, None, ""))


def test_what_load_returns_is_checked(monkeypatch):
    class Duck:
        dim, versions = 2, {}

        def encode(self, clips):
            return []

    class Dims(Backbone):
        versions = {}  # noqa: RUF012
        dims = 3

        def encode(self, clips):
            return []

    with pytest.raises(BackboneError, match="returned Duck, which is no Backbone") as error:
        recipe(monkeypatch, Duck()).load("cpu")
    assert "class Duck(Backbone)" in error.value.fix
    with pytest.raises(BackboneError, match="Dims of made has no 'dim'") as error:
        recipe(monkeypatch, Dims()).load("cpu")
    assert "'dims'" in error.value.fix
    plain = Plain()
    assert recipe(monkeypatch, plain).load("cpu") is plain is checked(plain, "made")
