"""The backbone of a modality by the name of a preset, a family, a hub repository, or by default."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from msa import catalog
from msa.config import parse
from msa.errors import BackboneError, ConfigError, UnknownNameError
from msa.extract.backbone import BackboneSpec
from msa.types import Modality

PRESETS: Mapping[str, Mapping[Modality, str]] = {
    # Section 1.1 of the CM-STA paper, with the English RoBERTa its English corpora need;
    # it reads no faces, but corpora of videos have them
    "paper": {
        Modality.TEXT: "roberta.base",
        Modality.IMAGE: "resnest.50d",
        Modality.AUDIO: "wav2vec2.base",
        Modality.FACE: "pyfeat.multitask",
    },
    # no weights, no network, no GPU; nothing reads a face without weights
    "classic": {Modality.TEXT: "ngrams.words", Modality.IMAGE: "descriptors.grid", Modality.AUDIO: "librosa.acoustic"},
}
FREE = ("hf", "timm", "pyfeat")  # families whose variants are whatever the hub or this disk holds


def preset(name: str) -> Mapping[Modality, str]:
    """Return the backbone of each modality in a preset."""
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]


def described(name: str) -> dict[str, list[tuple[str, Any, str]]]:
    """Return variant -> (option, default, description) of each option; of a free family by what it encodes."""
    family = name.partition(".")[0].partition(":")[0]
    specs: dict[str, BackboneSpec] = dict(catalog.load("backbone", family).SPECS)
    if not specs:
        for modality in Modality:
            with suppress(BackboneError):
                specs[modality] = catalog.load("backbone", family).spec(modality, f"{family}:NAME")
    return {
        key: [(option, default, spec.about.get(option, "")) for option, default in spec.options.items()]
        for key, spec in specs.items()
    }


def spec_of(modality: Modality, name: str, overrides: Iterable[str] = ()) -> tuple[str, BackboneSpec]:
    """Return the family file and the recipe behind a name, with `KEY=VALUE` put into its options.

    `roberta.base` is a variant, `roberta` the family's first, `hf:...` and `timm:...` are anything of those libraries,
    `pyfeat:FOLDER` are weights of its own kind.
    """
    family, spec = _named(modality, name)
    if spec.modality is not modality:
        fitting = ", ".join(_of(modality))
        raise BackboneError(f"{name} encodes {spec.modality}, not {modality}", fix=f"for {modality} there is {fitting}")
    return family, replace(spec, options=_options(spec.options, overrides))


def _named(modality: Modality, name: str) -> tuple[str, BackboneSpec]:
    free, _, where = name.partition(":")
    if free in FREE and (where or not catalog.variants(free)):
        if not where:
            raise BackboneError(f"{name} without a name after it says no weights", fix=f"write {free}:NAME")
        return free, catalog.load("backbone", free).spec(modality, name)
    family, _, variant = name.partition(".")
    if family not in catalog.names("backbone"):
        raise UnknownNameError("backbone", name, catalog.backbones())
    specs: dict[str, BackboneSpec] = catalog.load("backbone", family).SPECS
    variant = variant or next(iter(specs), "")
    if variant not in specs:
        raise UnknownNameError("backbone", name, catalog.backbones())
    return family, specs[variant]


def _of(modality: Modality) -> list[str]:
    """Return every variant that encodes a modality."""
    families = {name: catalog.load("backbone", name).SPECS for name in catalog.names("backbone")}
    fitting = [
        f"{name}.{key}" for name, specs in families.items() for key, spec in specs.items() if spec.modality is modality
    ]
    return [*fitting, {Modality.IMAGE: "timm:NAME", Modality.FACE: "pyfeat:FOLDER"}.get(modality, "hf:ORG/NAME")]


def _options(defaults: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    options = dict(defaults)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} sets nothing", fix=f"write {key}=VALUE")
        if key not in defaults:
            raise UnknownNameError("option", key, defaults)
        options[key] = parse(key, value, defaults[key])
    return options
