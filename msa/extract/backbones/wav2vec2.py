"""wav2vec 2.0: speech encoders (Baevski et al., 2020).

Paper    https://arxiv.org/abs/2006.11477
Weights  facebook/wav2vec2-base, Apache-2.0: pre-trained on LibriSpeech, not fine-tuned for recognition
"""

from msa.extract.backbone import BackboneSpec
from msa.extract.encoders.speech import ABOUT, OPTIONS, load
from msa.types import Modality

__all__ = ["SPECS", "load"]

SPECS = {
    "base": BackboneSpec(
        modality=Modality.AUDIO,
        weights="hf:facebook/wav2vec2-base",
        options=OPTIONS,  # a frame per 20 ms (320 samples), 768 wide
        about=ABOUT,
        batch=8,
        licence="Apache-2.0",
        source="https://arxiv.org/abs/2006.11477",
    ),
}
