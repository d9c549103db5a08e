"""What has to be known of data before a figure on it is believed: what the parts share, and what pairing gives away."""

from collections.abc import Mapping

import numpy as np

from msa.cache.store import FeatureStore
from msa.fuse import pairing
from msa.fuse.data import Table
from msa.fuse.experiment import Data
from msa.fuse.model import Model
from msa.types import Modality, Split


def shared_inputs(store: FeatureStore, named: Data, data: Table) -> list[str]:
    """How many test samples have a text, picture, recording or clip that training or validation holds too."""
    found = []
    for name in named.corpora:
        index = store.index(name)
        mine = {sample: i for i, sample in enumerate(index.ids)}
        part = np.full(len(index), 255, np.uint8)
        for corpus, sample, split in zip(data.corpus, data.ids, data.split, strict=True):
            if corpus == index.name and sample in mine:
                part[mine[sample]] = split
        if (part == 255).all():  # a corpus that only lends its recordings, each within its own part
            part = index.split
        tested = part == 2
        for modality, digests in index.digests.items():
            keys = digests.view("V16")[:, 0]
            there = digests.any(1)
            seen = np.isin(keys, keys[(part < 2) & there]) & tested & there
            if n := int(seen.sum()):
                found.append(
                    f"{index.name}: the {modality} of {n} of {int(tested.sum())} test samples is also in training or "
                    "validation"
                )
    return found


def remarks(store: FeatureStore, named: Data, data: Table) -> list[str]:
    """Everything about the data that belongs under a table of results."""
    sizes = ", ".join(f"{len(data.part(split))} {split}" for split in Split)
    lines = [f"{data.name}: {sizes}", *shared_inputs(store, named, data)]
    if len(lines) == 1:
        lines.append("no test sample has an input that is also in training or validation")
    if data.protocol:
        leaky = (
            f", LEAKY: the {' and '.join(data.drawn)} was chosen by the label"
            if pairing.is_leaky(data.protocol)
            else ""
        )
        lines.append(f"pairing: {data.protocol}{leaky}")
    return lines


def probes(data: Table) -> Mapping[str, tuple[Model, tuple[Modality, ...]]]:
    """Linear probes that show what a fusion head has to beat: of all modalities together, and of each alone."""
    probe = Model.of("probe")
    alone = {f"probe, {m} only": (probe, (m,)) for m in data.columns} if len(data.columns) > 1 else {}
    return {"probe": (probe, ()), **alone}
