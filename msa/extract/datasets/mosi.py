"""CMU-MOSI: clips of film reviews on YouTube, from strongly negative to strongly positive (Zadeh et al., 2016).

Paper    https://arxiv.org/abs/1606.06259
Home     https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, which shares features and no videos ("Do you share raw
         data?" in its README); clips and label.csv are in the layout that MMSA spread, see _clips.py
Size     2,199 clips of 93 videos, 89 speakers; English
Split    official, by video: 1,284 / 229 / 686
Label    a number from -3 to 3, the mean of five annotators
Traps    clips are called 1, 2, 10, whose order as strings is not that of the speech; a video's name may be digits alone
         or begin with `-`; label.csv has columns label_T, label_A and label_V, which say nothing here and are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msa.extract.datasets import _clips
from msa.types import Dropped, Sample, Source, Task

TASK = Task(low=-3.0, high=3.0)
SOURCE = Source(
    title="CMU-MOSI",
    home="https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK",
    licence="none stated for the data; its makers share features, not the videos",
    redistribution=False,  # they may pass theirs on; no permission for others is known, and a store holds the texts too
    citation="A. Zadeh, R. Zellers, E. Pincus, L.-P. Morency: MOSI: Multimodal Corpus of Sentiment Intensity and "
    "Subjectivity Analysis in Online Opinion Videos. arXiv:1606.06259, 2016.",
    layout=_clips.LAYOUT,
)


@dataclass(frozen=True)
class Config(_clips.Config):
    """The options of all three."""


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of label.csv by id (`03bSnISJMiM$_$1`); the group is the video."""
    return _clips.load(root, config, SOURCE, _clips.Labels(TASK.low, TASK.high))
