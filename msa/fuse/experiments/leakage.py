"""Audits of the data of an experiment: inputs and groups that splits share, and labels that pairing reveals."""

from collections.abc import Mapping

import numpy as np

from msa.cache.format import layout
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.fuse.data import pairing
from msa.fuse.data.table import Table
from msa.fuse.experiments.selection import Data
from msa.fuse.runs.run import drawn_only
from msa.fuse.train.model import Model
from msa.types import Modality, Split

TEST = layout.SPLITS.index(Split.TEST)


def shared_inputs(store: FeatureStore, named: Data, data: Table) -> list[str]:
    """Return how many test samples share a text, picture, recording or clip with training or validation.

    Compared are splits of the same dataset and of every other dataset of the experiment.
    """
    indices = [store.index(name) for name in named.corpora]
    parts = [_parts(index, data) for index in indices]
    lines = []
    for index, part in zip(indices, parts, strict=True):
        tested = part == TEST
        for other, theirs in zip(indices, parts, strict=True):
            where = "training or validation" if other is index else f"{other.name}'s training or validation"
            for modality in [m for m in index.digests if m in other.digests]:
                keys, present = _keys(index, modality)
                known, held = _keys(other, modality)
                seen = np.isin(keys, known[(theirs < TEST) & held]) & tested & present
                if n := int(seen.sum()):
                    lines.append(
                        f"{index.name}: the {modality} of {n} of {int(tested.sum())} test samples is also in {where}"
                    )
    return lines


def _parts(index: Index, data: Table) -> np.ndarray:
    """Return the split of each sample of a dataset in this table, (n,) uint8, NO_SPLIT where it is not in it."""
    rows = {sample: i for i, sample in enumerate(index.ids)}
    part = np.full(len(index), layout.NO_SPLIT, np.uint8)
    for corpus, sample, split in zip(data.corpus, data.ids, data.split, strict=True):
        if corpus == index.name and sample in rows:
            part[rows[sample]] = split
    lends = (part == layout.NO_SPLIT).all()  # its recordings alone, each within its own part
    return index.split if lends else part


def _keys(index: Index, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Return every sample's raw input as one comparable value (n,), and which samples have any (n,) bool."""
    digests = index.digests[modality]
    return digests.view("V16")[:, 0], index.has(modality)


def shared_groups(data: Table) -> list[str]:
    """Return a remark where test samples share a video or speaker with training or validation."""
    name = np.array([f"{corpus}/{group}" for corpus, group in zip(data.corpus, data.group, strict=True)])
    tested = data.split == layout.SPLITS.index(Split.TEST)
    n = int(np.isin(name[tested], name[~tested]).sum())
    whom = "a group (speaker, video) that is also in training or validation"
    return [f"{n} of {int(tested.sum())} test samples are of {whom}"] if n else []


def remarks(store: FeatureStore, named: Data, data: Table) -> list[str]:
    """Return all remarks about the data that belong under a table of results."""
    sizes = ", ".join(f"{len(data.subset(split))} {split}" for split in Split)
    lines = [f"{data.name}: {sizes}", *shared_inputs(store, named, data)]
    if len(lines) == 1:
        lines.append("no test sample has an input that is also in training or validation")
    lines += shared_groups(data)
    if data.protocol:
        leaky = (
            f", LEAKY: the {' and '.join(data.drawn)} was chosen by the label"
            if pairing.is_leaky(data.protocol)
            else ""
        )
        lines.append(f"pairing: {data.protocol}{leaky}")
    return lines


def probes(data: Table) -> Mapping[str, tuple[Model, tuple[Modality, ...]]]:
    """Linear probes that show what a fusion head has to beat: of all modalities together, of each alone, and where
    pairing leaks the label through several, of these."""
    probe = Model.of("probe")
    alone = {f"probe, {m} only": (probe, (m,)) for m in data.columns} if len(data.columns) > 1 else {}
    leaky = {drawn_only(data.drawn): (probe, data.drawn)} if pairing.is_leaky(data.protocol) and data.drawn else {}
    return {"probe": (probe, ()), **alone, **leaky}
