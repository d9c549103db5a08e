"""CMU-MOSEI: clips of YouTube monologues with their sentiment and six emotions (Zadeh et al., ACL 2018).

Paper    https://doi.org/10.18653/v1/P18-1208
Home     https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, which shares features and no videos; the clips and
         label.csv are in the layout that MMSA spread, see _clips.py
Size     22,856 clips there, of the 23,453 of the paper; 1,000 speakers, 65 hours; English
Split    official, by video: 16,326 / 1,871 / 4,659
Label    sentiment: a number from -3 to 3. emotions: happy, sad, anger, surprise, disgust and fear, each from 0 to 3, in
         the order of the SDK's "All Labels"; several may be there at once, and more than 0 means there.
Traps    the label.csv that is passed around has no emotions (MMSA's issue 84): join them to it from "All Labels", whose
         clips are intervals in seconds. Some clips are black throughout (the SDK's issue 142): they have no face.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msa.extract.datasets import _clips
from msa.types import Dropped, Sample, Source, Task

TASK: Task | None = None  # of two one: see task()
SENTIMENT = Task(low=-3.0, high=3.0)
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SOURCE = Source(
    title="CMU-MOSEI",
    home="https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK",
    licence="none stated for the data; its makers share features, not the videos",
    redistribution=False,  # they may pass theirs on; no permission for others is known, and a store holds the texts too
    citation="A. Zadeh, P. P. Liang, S. Poria, E. Cambria, L.-P. Morency: Multimodal Language Analysis in the Wild: "
    "CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph. ACL 2018.",
    layout=_clips.LAYOUT,
)


@dataclass(frozen=True)
class Config(_clips.Config):
    task: Literal["sentiment", "emotions"] = "sentiment"  # emotions: label.csv needs a column for each of the six


def task(root: Path, config: Config = Config()) -> Task:
    """Return the task: one number, or six emotions that do not exclude each other."""
    return SENTIMENT if config.task == "sentiment" else Task(classes=EMOTIONS, multilabel=True)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of label.csv by id (`-3g5yACwYnA$_$10`); the group is the video, emotions a tuple of six."""
    sentiment = _clips.Labels(SENTIMENT.low, SENTIMENT.high)
    emotions = _clips.Labels(
        low=0.0,
        high=3.0,
        columns=EMOTIONS,
        where='add the columns from CMU\'s "All Labels" (CMU_MOSEI_Labels.csd), or use task=sentiment',
    )
    return _clips.load(root, config, SOURCE, sentiment if config.task == "sentiment" else emotions)
