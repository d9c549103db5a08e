"""EMO-DB: ten German sentences spoken by ten actors in seven emotions (Burkhardt et al., Interspeech 2005).

Paper    https://doi.org/10.21437/Interspeech.2005-446
Home     http://emodb.bilderbar.info/
Size     535 recordings, 16 kHz; those of 800 that listeners recognised
Label    happiness -> positive; neutral -> neutral; anger, disgust, fear, sadness and boredom -> negative. Boredom is
         a choice of ours, for it is unpleasant though calm: 81 of the 535 recordings depend on it.
Split    none is official. `random` has each voice and each sentence in every part; `by_speaker` keeps an actor's
         recordings together, `by_text` those of a sentence.
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
    title="EMO-DB",
    home="http://emodb.bilderbar.info/",
    licence="research use, with citation",
    redistribution=False,
    citation="F. Burkhardt, A. Paeschke, M. Rolfes, W. F. Sendlmeier, B. Weiss: A Database of German Emotional "
    "Speech. Interspeech 2005.",
    layout="wav/03a01Fa.wav (speaker 03, text a01, emotion F, version a), or the folder of these files itself",
)
LABELS = {
    "W": "negative",  # Wut, anger
    "L": "negative",  # Langeweile, boredom
    "E": "negative",  # Ekel, disgust
    "A": "negative",  # Angst, fear
    "F": "positive",  # Freude, happiness
    "T": "negative",  # Trauer, sadness
    "N": "neutral",
}
NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])[a-z]?\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    split: Literal["random", "by_speaker", "by_text"] = "random"  # what stays together when parts are drawn

    def __post_init__(self) -> None:
        checked(self)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every recording below `root` once, by id (`03a01Fa`); the group is the speaker."""
    return recordings(root, SOURCE, partial(_sample, config), foreign="not an EMO-DB file name")


def _sample(config: Config, path: Path) -> Sample | None:
    match = NAME.fullmatch(path.name)
    if not match:
        return None
    speaker, text, emotion = match[1], match[2].lower(), match[3].upper()
    return Sample(
        id=path.stem,
        label=LABELS[emotion],
        raw={Modality.AUDIO: Raw(path=path)},
        group=speaker,
        keep_together={"random": "", "by_speaker": speaker, "by_text": text}[config.split],
    )
