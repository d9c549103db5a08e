"""What an index says of its splits."""

import pytest

from msa.cache.write.dataset_index import Corpus, Inputs, index_of
from msa.types import SENTIMENT, Sample, Source, Split

SOURCE = Source(title="made", home="here", licence="CC0", redistribution=True, citation="", layout="")


@pytest.mark.parametrize(
    ("official", "said"),
    [(4, "official"), (3, "official for 3, others drawn 8:1:1 by duplicate group, "), (0, "drawn 8:1:1 by duplicate")],
)
def test_an_index_says_where_its_splits_come_from(official, said):
    samples = [Sample(f"s{i}", "neutral", {}, split=Split.TRAIN if i < official else None) for i in range(4)]
    index = index_of(Corpus("made", SENTIMENT, SOURCE, samples), [Inputs({}) for _ in samples])
    assert index.about["split"].startswith(said)
    assert index.rows(Split.TRAIN).tolist()[:official] == list(range(official))
