"""Names of presets, families and variants, and their options."""

import pytest

from msa import catalog
from msa.errors import BackboneError, ConfigError, UnknownNameError
from msa.extract.presets import PRESETS, described, preset, spec_of
from msa.types import Modality


def test_presets_name_backbones_that_fit():
    for name in PRESETS:
        for modality, backbone in preset(name).items():
            assert spec_of(modality, backbone)[1].modality is modality
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        preset("papper")


def test_a_family_alone_is_its_first_variant():
    assert spec_of(Modality.TEXT, "roberta") == spec_of(Modality.TEXT, "roberta.base")


@pytest.mark.parametrize("family", catalog.names("backbone"))
def test_every_option_says_what_it_is(family):
    variants = described(family)
    assert variants
    for options in variants.values():
        assert options
        for option, default, what in options:
            assert 10 < len(what) < 90, (option, default)


def test_the_options_of_a_free_family_are_told_by_what_it_encodes():
    assert {key: [option for option, _, _ in options] for key, options in described("hf").items()} == {
        "text": ["max_length", "layer"],
        "audio": ["max_seconds", "layer"],
    }


@pytest.mark.parametrize("name", ["robert", "roberta.bas", "roberta.base.x", "nothing"])
def test_unknown_names_are_offered_the_nearest(name):
    with pytest.raises(UnknownNameError, match=r"roberta\.base"):
        spec_of(Modality.TEXT, name)


def test_a_backbone_of_another_modality_is_refused():
    with pytest.raises(BackboneError, match=r"encodes text, not audio\n.*wav2vec2\.base"):
        spec_of(Modality.AUDIO, "roberta.base")
    with pytest.raises(BackboneError, match="not audio"):
        spec_of(Modality.AUDIO, "timm:resnet18")
    with pytest.raises(BackboneError, match="not image"):
        spec_of(Modality.IMAGE, "hf:org/name")
    for bare in ("hf", "hf:", "timm"):
        with pytest.raises(BackboneError, match="says no weights"):
            spec_of(Modality.TEXT, bare)


def test_options_take_the_type_of_their_default():
    _, spec = spec_of(Modality.AUDIO, "wav2vec2", ["max_seconds=4", "layer=6"])
    assert spec.options == {"max_seconds": 4.0, "layer": 6}
    assert spec_of(Modality.IMAGE, "timm:x", ["tokens=pooled"])[1].options == {"tokens": "pooled"}
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        spec_of(Modality.AUDIO, "wav2vec2", ["layr=6"])
    with pytest.raises(ConfigError, match="is not of type int"):
        spec_of(Modality.AUDIO, "wav2vec2", ["layer=six"])
    with pytest.raises(ConfigError, match="sets nothing"):
        spec_of(Modality.AUDIO, "wav2vec2", ["layer"])
