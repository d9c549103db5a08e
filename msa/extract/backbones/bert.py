"""BERT: text encoders (Devlin et al., NAACL 2019).

Paper    https://arxiv.org/abs/1810.04805
Weights  google-bert/bert-base-uncased, google-bert/bert-base-chinese, Apache-2.0
"""

from msa.extract.backbone import BackboneSpec
from msa.extract.encoders.text import ABOUT, OPTIONS, load
from msa.types import Modality

__all__ = ["SPECS", "load"]

SPECS = {
    "base": BackboneSpec(
        modality=Modality.TEXT,
        weights="hf:google-bert/bert-base-uncased",
        options=OPTIONS,
        about=ABOUT,
        licence="Apache-2.0",
        source="https://arxiv.org/abs/1810.04805",
    ),
    "chinese": BackboneSpec(
        modality=Modality.TEXT,
        weights="hf:google-bert/bert-base-chinese",
        options=OPTIONS,
        about=ABOUT,
        licence="Apache-2.0",
        source="https://arxiv.org/abs/1810.04805",
    ),
}
