"""TESS: 200 words spoken by two actresses in seven emotions (Pichora-Fuller and Dupuis, 2020).

Data     https://doi.org/10.5683/SP2/E8H2MF
Size     2,800 recordings: 2 actresses x 200 words x 7 emotions
Label    happy, pleasant surprise -> positive; neutral -> neutral; angry, disgust, fear, sad -> negative, which gives
         28.6 / 14.3 / 57.1 %. Surprise may be taken as neutral instead.
Split    none is official. `random` puts each word and both voices into every part, so a model may know them;
         `by_word` keeps the recordings of a word together; `by_speaker` makes the younger actress the test part and
         divides the older one's words between training and validation, nine to one.
Traps    the common mirror holds the whole tree twice; folder names are uneven (`OAF_Fear`,
         `YAF_pleasant_surprised`), so only file names are read; one file is misnamed, `OA_bite_neutral.wav`; one is
         sampled at 96,000 Hz instead of 24,414.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from msa.config import checked
from msa.extract.datasets._layout import recordings
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Source, Split, Task

TASK: Task = SENTIMENT
SOURCE = Source(
    title="TESS",
    home="https://doi.org/10.5683/SP2/E8H2MF",
    licence="CC BY-NC 4.0; mirrors state CC BY-NC-ND 4.0",
    redistribution=False,  # the stricter of the two forbids derived works
    citation="M. K. Pichora-Fuller, K. Dupuis: Toronto emotional speech set (TESS). Borealis, 2020.",
    layout="SPEAKER_WORD_EMOTION.wav, such as OAF_back_angry.wav, in any folders below",
)
LABELS = {
    "angry": "negative",
    "disgust": "negative",
    "fear": "negative",
    "happy": "positive",
    "neutral": "neutral",
    "ps": "positive",  # pleasant surprise
    "sad": "negative",
}
NAME = re.compile(rf"(OAF?|YAF)_([a-z]+)_({'|'.join(LABELS)})\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    split: Literal["random", "by_word", "by_speaker"] = "random"  # what stays together when parts are drawn
    surprise: Literal["positive", "neutral"] = "positive"  # what pleasant surprise counts as

    def __post_init__(self) -> None:
        checked(self)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every recording below `root` once, by id (`OAF_back_angry`); the group is the speaker."""
    return recordings(root, SOURCE, partial(_sample, config), foreign="not a TESS file name")


def _sample(config: Config, path: Path) -> Sample | None:
    match = NAME.fullmatch(path.name)
    if not match:
        return None
    speaker = "YAF" if match[1].upper() == "YAF" else "OAF"  # OA_bite_neutral.wav is OAF's
    word, emotion = match[2].lower(), match[3].lower()
    return Sample(
        id=f"{speaker}_{word}_{emotion}",
        label=config.surprise if emotion == "ps" else LABELS[emotion],
        raw={Modality.AUDIO: Raw(path=path)},
        group=speaker,
        split=_part(speaker, word) if config.split == "by_speaker" else None,
        keep_together=word if config.split == "by_word" else "",
    )


def _part(speaker: str, word: str) -> Split:
    if speaker == "YAF":
        return Split.TEST
    return Split.VALID if blake2b(word.encode(), digest_size=2).digest()[0] % 10 == 0 else Split.TRAIN
