"""Bringing disjoint corpora together, such as posts with pictures (MVSA) and speech (TESS).

The CM-STA paper trains on both and does not say how a post finds its recording. Every protocol here is a function of
(seed, sample id) and never crosses a split; its name is printed with every figure.

random         the label is the post's; its recording is drawn from the same split. Sound carries no label
               information, so no model can gain from it.
union          every sample keeps its own label and lacks the other corpus's modalities; tested apart and pooled.
label_matched  the recording has the post's class. LEAKY: emotion in acted speech is nearly separable, so sound alone
               reveals the label. Only shown beside an audio-only row.
zip            both corpora in drawn order, cut to the shorter.
noisy_match    label_matched with probability rho, else random: the curve between the two. LEAKY for rho > 0.

The second corpus need not be speech: whatever it brings is what a leaky pairing leaks through (`Table.drawn`).
"""

import hashlib
from dataclasses import replace

import numpy as np

from msa.errors import ConfigError, UnknownNameError
from msa.fuse.data.table import Column, Table
from msa.types import Modality, Task

PROTOCOLS = ("random", "union", "label_matched", "zip", "noisy_match")


def is_leaky(protocol: str) -> bool:
    """Return whether the pairing itself reveals the label."""
    return protocol.startswith(("label_matched", "noisy_match")) and not protocol.startswith("noisy_match(0)")


def labels(task: Task) -> str:
    """Return a description of a task's labels."""
    several = "any of " if task.multilabel else ""
    return several + ", ".join(task.classes) or f"{task.low:g} to {task.high:g}"


def one_scale(first: Task, second: Task, otherwise: str) -> str:
    """Return the fix for two tasks that differ; of values, perhaps only their ranges, guessed if not given."""
    if first.classes or second.classes:
        return otherwise
    low, high = min(first.low, second.low), max(first.high, second.high)
    return (
        f"{otherwise}; if the labels of both are on one scale, say so where they are extracted or imported: "
        f"--set range={low:g},{high:g}"
    )


def pair(first: Table, second: Table, protocol: str, seed: int = 42, rho: float = 0.5) -> Table:
    """Join two datasets into one table. Raises ConfigError where their tasks or modalities do not fit the protocol."""
    if protocol not in PROTOCOLS:
        raise UnknownNameError("pairing", protocol, PROTOCOLS)
    if first.task != second.task:
        raise ConfigError(
            f"{first.name} has the labels {labels(first.task)}, {second.name} has {labels(second.task)}",
            fix=one_scale(first.task, second.task, "pair corpora of the same task"),
        )
    name, stated = f"{first.name}+{second.name}", f"{protocol}, seed {seed}"
    if protocol == "union":
        return _union(first, second, name)
    shared = sorted(set(first.columns) & set(second.columns))
    if shared:
        raise ConfigError(
            f"{first.name} and {second.name} both have {', '.join(shared)}: {protocol} would have to choose",
            fix="use --pairing union, or leave one out with --modalities",
        )
    if protocol == "zip":
        index, partner = _zipped(first, second, seed)
        return _joined(first.take(index), second, partner, name, stated)
    chance = {"random": 0.0, "label_matched": 1.0, "noisy_match": rho}[protocol]
    if chance and not first.task.single:
        raise ConfigError(
            f"{protocol} needs one class for each sample; {first.name} has {labels(first.task)}",
            fix="use --pairing random or union",
        )
    stated = f"noisy_match({rho:g}), seed {seed}" if protocol == "noisy_match" else stated
    pools = _Pools(second)
    partner = np.array([_draw(first, i, pools, chance, seed) for i in range(len(first))], np.int64)
    return _joined(first, second, partner, name, stated)


def _unit(seed: int, *words: str) -> float:
    """Return a number in [0, 1) that depends on seed and words alone, not on machine or order of calls."""
    digest = hashlib.blake2b("\0".join([str(seed), *words]).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits are exact: 64 would round up to 1 some day


class _Pools:
    """The samples a draw may choose from, per split and class; ordered by id, so that file order has no say."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.order = np.array(sorted(range(len(table)), key=lambda i: table.ids[i]), np.int64)
        self.known: dict[tuple[int, float | None], np.ndarray] = {}

    def of(self, split: int, label: float | None) -> np.ndarray:
        """Return positions of one split, of one class or of all."""
        if (split, label) not in self.known:
            fit = self.table.split[self.order] == split
            if label is not None:
                fit &= self.table.y[self.order] == label
            self.known[split, label] = self.order[fit]
        return self.known[split, label]


def _draw(first: Table, i: int, pools: _Pools, chance: float, seed: int) -> int:
    matched = _unit(seed, "match", first.ids[i]) < chance
    pool = pools.of(int(first.split[i]), float(first.y[i]) if matched else None)
    if not len(pool):
        what = f" of class {first.task.classes[int(first.y[i])]}" if matched else ""
        raise ConfigError(
            f"{pools.table.name} has no sample{what} in the split of {first.name}'s sample {first.ids[i]}",
            fix="use --pairing union, or extract more of it",
        )
    return int(pool[int(_unit(seed, "draw", first.ids[i]) * len(pool))])


def _zipped(first: Table, second: Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in both datasets, split by split, each shuffled by the hash of its ids."""
    ours, theirs = [], []
    for split in np.unique(first.split):
        a, b = (_shuffled(table, split, seed) for table in (first, second))
        length = min(len(a), len(b))
        ours.append(a[:length])
        theirs.append(b[:length])
    return np.concatenate(ours), np.concatenate(theirs)


def _shuffled(table: Table, split: int, seed: int) -> np.ndarray:
    rows = np.flatnonzero(table.split == split).tolist()
    return np.array(sorted(rows, key=lambda i: _unit(seed, "zip", table.name, table.ids[i])), np.int64)


def _joined(first: Table, second: Table, partner: np.ndarray, name: str, protocol: str) -> Table:
    theirs = {m: column.take(partner) for m, column in second.columns.items()}
    drawn = (*first.drawn, *second.columns)
    return replace(first, name=name, columns={**first.columns, **theirs}, protocol=protocol, drawn=drawn)


def _union(first: Table, second: Table, name: str) -> Table:
    n, m = len(first), len(second)
    ours = np.concatenate([np.arange(n), np.full(m, -1)])
    theirs = np.concatenate([np.full(n, -1), np.arange(m)])
    columns: dict[Modality, Column] = {k: column.take(ours) for k, column in first.columns.items()}
    for k, column in second.columns.items():
        other = column.take(theirs)
        columns[k] = _merged(columns[k], other, k) if k in columns else other
    return Table(
        name=name,
        task=first.task,
        ids=[*first.ids, *second.ids],
        corpus=[*first.corpus, *second.corpus],
        split=np.concatenate([first.split, second.split]),
        y=np.concatenate([first.y, second.y]),
        columns=columns,
        protocol="union",
        group=np.concatenate([first.group, second.group + 1 + first.group.max(initial=-1)]),
        position=np.concatenate([first.position, second.position]),
    )


def _merged(ours: Column, theirs: Column, modality: Modality) -> Column:
    if ours.view.id != theirs.view.id:
        raise ConfigError(
            f"{modality} was extracted by {ours.view.name}@{ours.view.id} in one corpus and by "
            f"{theirs.view.name}@{theirs.view.id} in the other",
            fix="extract both with the same backbone, or choose one with --view",
        )
    source = np.where(theirs.present, theirs.source + len(ours.readers), ours.source)
    return Column(ours.readers + theirs.readers, source, np.where(theirs.present, theirs.rows, ours.rows))
