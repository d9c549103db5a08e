"""ResNeSt: split-attention networks (Zhang, 2020).

Paper    https://arxiv.org/abs/2004.08955
Weights  timm/resnest50d.in1k (ImageNet-1k), Apache-2.0
"""

from msa.extract.backbone import BackboneSpec
from msa.extract.encoders.image import ABOUT, OPTIONS, load
from msa.types import Modality

__all__ = ["SPECS", "load"]

SPECS = {
    "50d": BackboneSpec(
        modality=Modality.IMAGE,
        weights="timm:resnest50d.in1k",
        options=OPTIONS,  # 7 x 7 tokens, 2048 wide
        about=ABOUT,
        licence="Apache-2.0",
        source="https://arxiv.org/abs/2004.08955",
    ),
}
