"""RAVDESS speech: two sentences spoken by 24 actors in eight emotions (Livingstone and Russo, PLoS ONE 2018).

Paper    https://doi.org/10.1371/journal.pone.0196391
Home     https://zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip)
Size     1,440 recordings, 60 per actor, 48 kHz, a few in stereo
Label    happy, surprised -> positive; neutral, calm -> neutral; sad, angry, fearful, disgust -> negative
Split    none is official. Everybody speaks the same two sentences, so `random` has each voice and each sentence in
         every part; `by_speaker` keeps an actor's recordings together.
Traps    songs and videos of the full set carry names of the same form; the common mirror holds a second copy of the
         tree in `audio_speech_actors_01-24/`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from msa.config import checked
from msa.extract.datasets._layout import recordings
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Source, Task

TASK: Task = SENTIMENT
SOURCE = Source(
    title="RAVDESS",
    home="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
    redistribution=True,  # not for profit, with attribution, under the same licence
    citation="S. R. Livingstone, F. A. Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song "
    "(RAVDESS). PLoS ONE 13(5): e0196391, 2018.",
    layout="Actor_01/03-01-EE-II-SS-RR-01.wav, such as Actor_01/03-01-06-01-02-01-01.wav, also in folders below",
)
LABELS = {
    "01": "neutral",
    "02": "neutral",  # calm: recorded as a second baseline beside neutral
    "03": "positive",  # happy
    "04": "negative",  # sad
    "05": "negative",  # angry
    "06": "negative",  # fearful
    "07": "negative",  # disgust
    "08": "positive",  # surprised
}
# audio only (03), speech (01), emotion, intensity, sentence, repetition, actor
NAME = re.compile(r"03-01-(0[1-8])-0[12]-0[12]-0[12]-(\d\d)\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    split: Literal["random", "by_speaker"] = "random"  # what stays together when parts are drawn

    def __post_init__(self) -> None:
        checked(self)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every speech recording below `root` once, by id (`03-01-06-01-02-01-12`); the group is the actor."""
    read = partial(_sample, config)
    return recordings(root, SOURCE, read, foreign="not speech audio", suffixes=(".wav", ".mp4"))


def _sample(config: Config, path: Path) -> Sample | None:
    match = NAME.fullmatch(path.name)
    if not match:
        return None
    actor = f"Actor_{match[2]}"
    return Sample(
        id=path.stem,
        label=LABELS[match[1]],
        raw={Modality.AUDIO: Raw(path=path)},
        group=actor,
        keep_together=actor if config.split == "by_speaker" else "",
    )
