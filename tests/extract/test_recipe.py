"""Ids of views: what stores hold already is found under the id it has, whatever is added to recipes."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from msa.cache.format import fingerprint
from msa.cache.store import FeatureStore
from msa.extract import presets
from msa.extract.backbone import Weights
from msa.extract.media import decode
from msa.extract.recipe import Recipe
from msa.types import Modality

LIBRARIES = {  # of the decoding of each modality, as on the day the ids below were made
    Modality.TEXT: {"encoding": "utf-8-sig, else cp1252"},
    Modality.IMAGE: {"mode": "RGB", "orientation": "exif", "alpha": "over white", "pillow": "12.0.0"},
    Modality.AUDIO: {"rate": 16000, "mono": "mean", "resample": "soxr-HQ", "soxr": "1.0.0"},
}
IDS = [
    (Modality.TEXT, "ngrams.words", "", "a15a674c1c6fb218"),
    (Modality.IMAGE, "resnest.50d", "5" * 64, "7f0e46ed018e42ec"),
    (Modality.AUDIO, "wav2vec2.base", "a" * 64, "6413c6eea2039c9a"),
]


def recipe(modality, name, sha256):
    family, spec = presets.spec_of(modality, name)
    return Recipe(name, family, spec, Weights(None, None, sha256))


@pytest.fixture(autouse=True)
def libraries_of_that_day(monkeypatch):
    monkeypatch.setattr(decode, "versions", lambda modality, options: LIBRARIES[modality])
    monkeypatch.setattr(Recipe, "_libraries", lambda self: {})


@pytest.mark.parametrize(("modality", "name", "sha256", "view_id"), IDS)
def test_the_views_of_existing_stores_keep_their_ids(modality, name, sha256, view_id):
    assert recipe(modality, name, sha256).view_id == view_id


def test_the_views_of_the_fixture_store_have_the_ids_of_their_identities(tmp_path):
    with tarfile.open(Path(__file__).parents[1] / "fixtures" / "store-1" / "store.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    store = FeatureStore.open(tmp_path / "store")
    ids = {view_id: fingerprint.key(store.attributes(view_id)["identity"]) for view_id in store.manifest.views}
    assert ids == {name: name for name in ("106c5ce082030c8d", "8031cd6e6b407c66", "a9d9ba5e687d32e8")}


@pytest.mark.parametrize(("modality", "name", "sha256", "view_id"), IDS)
def test_an_option_that_is_added_leaves_the_id_alone_until_it_is_chosen(modality, name, sha256, view_id):
    old = recipe(modality, name, sha256)
    spec = replace(old.spec, options={**old.spec.options, "stride": [2, 2]}, added={"stride": [2, 2]})
    assert replace(old, spec=spec).view_id == view_id
    chosen = replace(spec, options={**spec.options, "stride": [1, 1]})
    assert replace(old, spec=chosen).view_id != view_id
    assert replace(old, spec=replace(spec, added={})).view_id != view_id


def test_a_view_without_the_added_option_is_made_again_with_what_was_done_before(monkeypatch):
    old = recipe(Modality.TEXT, "ngrams.words", "")
    spec = replace(old.spec, options={**old.spec.options, "stride": 1}, added={"stride": 1})
    monkeypatch.setattr(presets, "spec_of", lambda modality, name, overrides=(): ("ngrams", spec))
    monkeypatch.setattr("msa.extract.weights.resolve", lambda spec: old.weights)
    known = {"name": "", "revision": None, "sha256": "", "path": ""}
    attributes = {"modality": "text", "backbone": "ngrams.words", "family": "ngrams", "weights": known}
    again = Recipe.of_view(attributes | {"identity": json.loads(json.dumps(old.identity))})
    assert again.spec.options["stride"] == 1
    assert again.view_id == old.view_id == "a15a674c1c6fb218"
