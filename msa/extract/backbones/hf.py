"""Any text or speech encoder of transformers.

Paper    https://arxiv.org/abs/1910.03771
Weights  `hf:ORG/NAME` or `hf:FOLDER`; their licence is their own
"""

from dataclasses import replace

from msa.errors import BackboneError
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.types import Modality

SPECS: dict[str, BackboneSpec] = {}  # every name on the hub is one


def spec(modality: Modality, where: str) -> BackboneSpec:
    """Return the recipe for `where`, `hf:ORG/NAME` or `hf:FOLDER`, with the default options of its modality."""
    from msa.extract.encoders import speech, text

    encoder = {Modality.TEXT: text, Modality.AUDIO: speech}.get(modality)
    if encoder is None:
        raise BackboneError(
            f"{where}: transformers encodes text and audio here, not {modality}", fix="name timm:NAME for images"
        )
    named = BackboneSpec(
        modality, weights=where, options=encoder.OPTIONS, about=encoder.ABOUT, source="https://huggingface.co"
    )
    return replace(named, batch=8) if modality is Modality.AUDIO else named


def load(spec: BackboneSpec, weights: Weights, device: str) -> Backbone:
    """Load resolved weights by the modality of their recipe."""
    from msa.extract.encoders import speech, text

    return speech.load(spec, weights, device) if spec.modality is Modality.AUDIO else text.load(spec, weights, device)
