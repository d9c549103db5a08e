"""RoBERTa: text encoders (Liu et al., 2019).

Paper    https://arxiv.org/abs/1907.11692 (base), https://arxiv.org/abs/1906.08101 (wwm-ext: Cui et al., 2019)
Weights  FacebookAI/roberta-base, MIT; hfl/chinese-roberta-wwm-ext, Apache-2.0
Differs  wwm-ext is Chinese and, despite its name, BERT's architecture and vocabulary with whole-word masking: the
         checkpoint the CM-STA paper names. `base` is its English counterpart, which English corpora need.
"""

from msa.extract.backbone import BackboneSpec
from msa.extract.encoders.text import ABOUT, OPTIONS, load
from msa.types import Modality

__all__ = ["SPECS", "load"]

SPECS = {
    "base": BackboneSpec(
        modality=Modality.TEXT,
        weights="hf:FacebookAI/roberta-base",
        options=OPTIONS,
        about=ABOUT,
        licence="MIT",
        source="https://arxiv.org/abs/1907.11692",
    ),
    "wwm-ext": BackboneSpec(
        modality=Modality.TEXT,
        weights="hf:hfl/chinese-roberta-wwm-ext",
        options=OPTIONS,
        about=ABOUT,
        licence="Apache-2.0",
        source="https://arxiv.org/abs/1906.08101",
    ),
}
