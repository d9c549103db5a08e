"""Which samples make a batch: a pure function of seed, epoch and lengths.

Padding costs memory and time, and a batch is padded to its longest sample. So the samples are divided into buckets of
similar length until no bucket would be padded by more than `MOST`, and an epoch shuffles them within their bucket and
then shuffles the batches. Lengths that differ little make one bucket: then this is the usual shuffle, to the bit.

Several modalities: a bucket is divided along the modality whose padding costs most, in numbers (steps x width).
"""

from collections.abc import Iterator, Sequence

import numpy as np

MOST = 0.08  # of a bucket; its batches are padded by no more, save where a bucket is a single batch
JITTER = 0.05  # of a length: batches have other members in every epoch, also where no two lengths are the same
STRETCH = 4  # batches: a longer dialogue is cut

Plan = list[np.ndarray]  # positions of each batch
Chance = tuple[int, int]  # seed and epoch


def shuffled(lengths: np.ndarray, widths: np.ndarray, size: int, chance: Chance, bucket: bool = True) -> Plan:
    """Return the batches of one epoch: lengths (n, M) of n samples in M modalities, `widths` (M,) of a step."""
    rng = np.random.default_rng(chance)
    order = rng.permutation(len(lengths))
    if not bucket:
        return _cut(order, size)
    blurred = lengths * rng.uniform(1 - JITTER, 1 + JITTER, lengths.shape)
    buckets = list(_divided(order, lengths, blurred, widths, size, MOST))
    if len(buckets) == 1:
        return _cut(order, size)
    batches = [batch for bucket_members in buckets for batch in _cut(rng.permutation(bucket_members), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def ordered(lengths: np.ndarray, widths: np.ndarray, size: int) -> Plan:
    """Return batches that hold every sample once, always the same, with minimal padding."""
    at = np.arange(len(lengths))
    return [
        batch for bucket in _divided(at, lengths, lengths, widths, size, 0.0) for batch in _cut(np.sort(bucket), size)
    ]


def whole_groups(group: np.ndarray, position: np.ndarray, size: int, chance: Chance | None = None) -> Plan:
    """Return batches of whole groups, each in the order of its positions: as many groups as fit into `size` samples.

    A group that has no order, such as a speaker's recordings, is no whole: its samples are batched one by one.
    A group of more than `size` is a batch of its own; one of more than STRETCH x size is cut into stretches of nearly
    equal length. Groups are shuffled where there is chance.
    """
    by_group = np.lexsort((position, group))
    ends = np.flatnonzero(np.diff(group[by_group])) + 1
    pieces = [
        stretch
        for members in np.split(by_group, ends)
        for stretch in np.array_split(members, _pieces(position[members], size))
    ]
    turns = np.arange(len(pieces)) if chance is None else np.random.default_rng(chance).permutation(len(pieces))
    batches: list[list[np.ndarray]] = []
    room = 0
    for turn in turns:
        piece = pieces[turn]
        if len(piece) > room:
            batches.append([])
            room = size
        batches[-1].append(piece)
        room -= len(piece)
    return [np.concatenate(batch) for batch in batches]


def _pieces(position: np.ndarray, size: int) -> int:
    """Return into how many pieces a group is cut; into single samples where all have the same position."""
    return len(position) if position[0] == position[-1] else -(-len(position) // (STRETCH * size))


def padding(plan: Sequence[np.ndarray], lengths: np.ndarray, widths: np.ndarray) -> float:
    """Return the share of padding in all batches; a modality that no sample of a batch has counts as one step."""
    whole = sum(len(at) * float(lengths[at].max(0).clip(1) @ widths) for at in plan)
    return 1 - float(lengths.sum(0) @ widths) / whole if whole else 0.0


def _cut(at: np.ndarray, size: int) -> Plan:
    return [at[start : start + size] for start in range(0, len(at), size)]


def _divided(
    at: np.ndarray, lengths: np.ndarray, key: np.ndarray, widths: np.ndarray, size: int, most: float
) -> Iterator[np.ndarray]:
    """Yield buckets with at most `most` padding, or of one batch; all but the last hold whole batches."""
    here = lengths[at]
    whole = len(at) * here.max(0) * widths  # (M,), if every batch had a longest one
    empty = whole - here.sum(0) * widths
    if len(at) <= size or empty.sum() <= most * whole.sum():
        yield at
        return
    at = at[np.argsort(key[at, empty.argmax()], kind="stable")]
    middle = (len(at) + size) // (2 * size) * size
    yield from _divided(at[:middle], lengths, key, widths, size, most)
    yield from _divided(at[middle:], lengths, key, widths, size, most)
