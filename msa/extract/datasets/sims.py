"""CH-SIMS: clips of Chinese films and shows, judged as a whole and by each modality alone (Yu et al., ACL 2020).

Paper    https://doi.org/10.18653/v1/2020.acl-main.343
Home     https://github.com/thuiar/MMSA, whose README links the clips and label.csv
Size     2,281 clips of 60 videos; Mandarin
Split    official, drawn from all clips: 1,368 / 456 / 457. Clips of one video stand in several parts, which the scan
         reports; split=by_video keeps them together.
Label    a number from -1 to 1 in steps of 0.2, the mean of five annotators; label_T, label_A and label_V are what was
         said of the text, the sound and the silent video alone
Traps    clips are called 0001, which a spreadsheet makes 1; the texts are Chinese, so an English encoder is no use:
         name another, such as --text hf:google-bert/bert-base-chinese. CH-SIMS v2 (meta.csv) is another corpus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msa.extract.datasets import _clips
from msa.types import Dropped, Modality, Sample, Source, Task

TASK = Task(low=-1.0, high=1.0)
SOURCE = Source(
    title="CH-SIMS",
    home="https://github.com/thuiar/MMSA",
    licence="none stated for the data, which is cut from films and shows; MMSA's MIT licence is its code's",
    redistribution=False,  # nothing allows it, and a store holds the texts too
    citation="W. Yu, H. Xu, F. Meng, Y. Zhu, Y. Ma, J. Wu, J. Zou, K. Yang: CH-SIMS: A Chinese Multimodal Sentiment "
    "Analysis Dataset with Fine-grained Annotation of Modality. ACL 2020.",
    layout=_clips.LAYOUT.replace("label, mode", "label, label_T, label_A, label_V, mode"),
)
ALONE = {Modality.TEXT: "label_T", Modality.AUDIO: "label_A", Modality.FACE: "label_V"}


@dataclass(frozen=True)
class Config(_clips.Config):
    """The options of all three."""


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of label.csv by id (`video_0001$_$0001`); the group is the video."""
    return _clips.load(root, config, SOURCE, _clips.Labels(TASK.low, TASK.high, alone=ALONE))
