"""Any image network of timm (Wightman, 2019).

Paper    https://github.com/huggingface/pytorch-image-models
Weights  `timm:NAME` (hub repository timm/NAME) or `timm:NAME@CHECKPOINT`; their licence is their own
"""

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec
from msa.extract.encoders.image import ABOUT, OPTIONS, load
from msa.types import Modality

__all__ = ["SPECS", "load", "spec"]

SPECS: dict[str, BackboneSpec] = {}  # every model of timm is one


def spec(modality: Modality, where: str) -> BackboneSpec:
    """The recipe for `where`, `timm:NAME` or `timm:NAME@CHECKPOINT`."""
    if modality is not Modality.IMAGE:
        raise BackboneError(f"{where}: timm encodes images, not {modality}", fix="name hf:ORG/NAME for text and audio")
    return BackboneSpec(
        modality,
        weights=where,
        options=OPTIONS,
        about=ABOUT,
        source="https://github.com/huggingface/pytorch-image-models",
    )
