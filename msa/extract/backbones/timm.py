"""Any image network of timm (Wightman, 2019).

Paper    https://github.com/huggingface/pytorch-image-models
Weights  `timm:NAME` (hub repository timm/NAME) or `timm:NAME@CHECKPOINT`; their licence is their own
"""

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import image
from msa.extract.encoders.image import ABOUT, OPTIONS, ImageEncoder
from msa.types import Modality

__all__ = ["SPECS", "load", "spec"]

SPECS: dict[str, BackboneSpec] = {}  # every model of timm is one
VERSIONS = {"volo": 2}  # architectures whose rows have changed: those of VOLO had the class token among the places


def spec(modality: Modality, where: str) -> BackboneSpec:
    """Return the recipe for `where`, `timm:NAME` or `timm:NAME@CHECKPOINT`."""
    if modality is not Modality.IMAGE:
        raise BackboneError(f"{where}: timm encodes images, not {modality}", fix="name hf:ORG/NAME for text and audio")
    version = _version(where)
    return BackboneSpec(
        modality,
        weights=where,
        options={**OPTIONS, **({"version": version} if version else {})},
        about={**ABOUT, **({"version": "of these rows; the one above is all that this msa makes"} if version else {})},
        source="https://github.com/huggingface/pytorch-image-models",
    )


def load(spec: BackboneSpec, weights: Weights, device: str) -> ImageEncoder:
    """Build the network. Raises BackboneError where rows of another version are asked for than this msa makes."""
    asked, made = spec.options.get("version"), _version(spec.weights)
    if asked != made:
        raise BackboneError(
            f"{spec.weights}: version {asked or 1} of its rows is asked for, this msa makes version {made or 1}",
            fix="extract with this msa and train again, or use the msa that made the others",
        )
    return image.load(spec, weights, device)


def _version(where: str) -> int | None:
    """Return the version of an architecture's rows; None of all those that have never changed."""
    return VERSIONS.get(image.architecture(where).partition("_")[0])
