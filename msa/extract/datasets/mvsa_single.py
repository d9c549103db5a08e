"""MVSA-Single: tweets with a photo, each judged by one annotator (Niu et al., MMM 2016).

Paper    https://doi.org/10.1007/978-3-319-27674-8_2
Home     http://www.mcrlab.net/research/mvsa-sentiment-analysis-on-multi-view-social-data/
Size     4,869 pairs; 4,511 by the merge rule: 2,683 positive, 470 neutral, 1,358 negative; 358 conflicts
Label    as in mvsa.py, where the loader is: the majority of one annotator is that annotator's label
Traps    1,131 texts are not UTF-8; 54 photos are duplicates and 4,638 files stand in groups of exact duplicates, so
         splits are drawn by content; the partition that most papers reuse has 56 texts in more than one split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msa.extract.datasets import mvsa
from msa.types import SENTIMENT, Dropped, Sample, Task

TASK: Task = SENTIMENT
SOURCE = replace(
    mvsa.SOURCE,
    title="MVSA-Single",
    layout="labelResultAll.txt   ID and text,image, tab-separated\ndata/ID.txt\ndata/ID.jpg",
)


@dataclass(frozen=True)
class Config(mvsa.Config):
    """The options of MVSA-Multiple."""


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of the label file below `root`, by id: a pair with one label, or the reason why it has none."""
    return mvsa.load(root, config, SOURCE, annotators=1)
