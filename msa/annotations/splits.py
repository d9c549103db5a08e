"""Train, valid and test splits: drawn at random by group, read from a file, and checked for leaks.

A split by file leaks: of MVSA-Single's 4,869 texts 56 are in more than one split of the partition that most papers
reuse. The unit of a random split is therefore a group: samples with equal content, and samples that the dataset keeps
together, get the same split.
"""

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

from msa.annotations import rows as records
from msa.errors import ConfigError, SourceError
from msa.types import Dropped, Sample, Split

NAMES = {
    "train": Split.TRAIN,
    "valid": Split.VALID,
    "val": Split.VALID,
    "dev": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
PARTS = tuple(Split)
RATIOS = (0.8, 0.1, 0.1)
LARGEST_JSON = 1 << 26  # bytes of a file of ids: millions of them
SCARCE = 10  # samples of a class in a part: with fewer, a score of that class says next to nothing
FEW = 100  # below this many groups a part's size by hash value is a lottery (99 groups: 10 +- 3), so ranks decide


@dataclass(frozen=True)
class Config:
    """How parts are drawn, where a dataset has none of its own."""

    stratify: bool = False  # every class in the ratio 8:1:1, as far as samples that stay together allow it


def draw(
    samples: Sequence[Sample],
    contents: Sequence[Collection[bytes]],
    seed: int = 42,
    ratios: tuple[float, float, float] = RATIOS,
    strata: Sequence[Hashable] | None = None,
) -> list[Split]:
    """Return a part for every sample; `contents[i]` are digests of sample i that must not occur in two parts.

    A group's part is decided by a hash of the seed and its smallest id alone: order does not matter, and new samples
    move no group but those they belong to. With fewer than 100 groups the rank of the hash decides instead, so that
    every part gets its share and at least one group, and new samples may move some.
    An official split is never changed; a drawn sample that shares a group with an official one follows it.

    Args:
        samples: Samples of one dataset, in any order.
        contents: Digests of each sample's text, picture, recording, ...
        seed: Seed of the hash.
        ratios: Shares of train, valid and test.
        strata: The class of each sample. Where it is given, the rank of the hash decides inside each class, so that
            every class is divided by `ratios`; a group counts for the class most of its samples have.
    """
    if len(ratios) != len(PARTS) or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ConfigError(
            f"the ratios {ratios} do not divide one", fix="give train, valid, test, such as 0.8, 0.1, 0.1"
        )
    groups: dict[int, list[Sample]] = {}
    roots = _linked(samples, contents)
    for sample, root in zip(samples, roots, strict=True):
        groups.setdefault(root, []).append(sample)
    undecided = {root: group for root, group in groups.items() if not _official(group)}
    if strata is None:
        parts = _drawn(undecided, len(groups), seed, ratios)
    else:
        classes: dict[int, list[Hashable]] = {}
        for root, stratum in zip(roots, strata, strict=True):
            classes.setdefault(root, []).append(stratum)
        parts = _stratified(undecided, {root: _most(classes[root]) for root in undecided}, seed, ratios)
    parts |= {root: part for root, group in groups.items() if (part := _official(group))}
    return [sample.split or parts[root] for sample, root in zip(samples, roots, strict=True)]


def scarce(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Iterator[str]:
    """Say which classes that the dataset has lack samples in a part.

    Args:
        counts: Part -> class -> number of samples, of all three parts.
        classes: Names of the classes.
    """
    present = [name for name in classes if any(row.get(name) for row in counts.values())]
    for part, row in counts.items():
        lacking = [name for name in present if not row.get(name)]
        few = [f"{row[name]} of class {name}" for name in present if 0 < row.get(name, 0) < SCARCE]
        if lacking:
            yield f"{part} has no sample of class {', '.join(lacking)}"
        if few and part != Split.TRAIN:
            these = "these classes" if len(few) > 1 else "this class"
            yield f"{part} has only {', '.join(few)}: scores of {these} will be rough"


def named(path: Path) -> dict[str, Split]:
    """Read splits by id: JSON `{"train": [ids], "valid": [ids], "test": [ids]}`, or CSV/TSV with id and split."""
    if not path.exists():
        raise SourceError(f"{path}: there is no such split file", fix="name a JSON, CSV or TSV file with --split")
    splits_by_id: dict[str, Split] = {}
    for id, name in _json_pairs(path) if path.suffix.lower() == ".json" else _row_pairs(path):
        part = NAMES.get(name.strip().lower())
        if part is None:
            raise SourceError(f"{path}: {name!r} is no part of a corpus", fix=f"use one of: {', '.join(NAMES)}")
        if splits_by_id.setdefault(id, part) is not part:
            raise SourceError(f"{path}: {id} is in {splits_by_id[id]} and in {part}", fix="leave it in one of the two")
    return splits_by_id


def apply_named(samples: Iterable[Sample], names: Mapping[str, Split]) -> tuple[list[Sample], list[Dropped]]:
    """Return the samples that a split file names, with their part, and the rest as dropped.

    A file may name groups instead, as the usual lists of videos do: where no sample's id fits, groups are looked for.
    Names without a sample are allowed, for lists often name what was dropped for its label; if none fits, it is the
    wrong list or the ids are written differently, which is an error.
    """
    samples = list(samples)
    by_id = any(sample.id in names for sample in samples)
    kept: list[Sample] = []
    dropped: list[Dropped] = []
    for sample in samples:
        if part := names.get(sample.id if by_id else sample.group):
            kept.append(replace(sample, split=part))
        else:
            dropped.append(Dropped(sample.id, "not in the split file", "" if by_id else sample.group))
    if dropped and not kept:
        groups = {sample.group for sample in samples} - {""}
        raise SourceError(
            f"none of the {len(names)} ids in the split file is one of the corpus's {len(dropped)}"
            f"{' or of their groups' if groups else ''}: there {_some(names)}, "
            f"here {_some(sample.id for sample in samples)}{f' in {_some(groups)}' if groups else ''}",
            fix="write the ids as the corpus does, or take the list that belongs to this corpus",
        )
    return kept, dropped


def _some(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)[:3]))


def leaks(samples: Sequence[Sample], contents: Mapping[str, Sequence[bytes | None]]) -> list[str]:
    """Return what occurs in several splits, a line per kind; `contents` maps a kind to each sample's digest or None."""
    findings = []
    for kind, digests in contents.items():
        _, crossing, example = _crossing(samples, digests)
        if crossing:
            findings.append(f"{kind}: {crossing} identical in more than one split ({example})")
    total, crossing, example = _crossing(samples, [sample.group.encode() for sample in samples])
    if crossing:
        findings.append(f"group: {crossing} of {total} (speaker, video or dialogue) in more than one split ({example})")
    return findings


def _crossing(samples: Sequence[Sample], keys: Sequence[bytes | None]) -> tuple[int, int, str]:
    """Return (different keys, those in more than one split, two ids that share the first of these)."""
    first: dict[bytes, dict[Split, str]] = {}  # key -> part -> an id
    for sample, key in zip(samples, keys, strict=True):
        if key and sample.split:
            first.setdefault(key, {}).setdefault(sample.split, sample.id)
    crossing = [list(ids.values()) for ids in first.values() if len(ids) > 1]
    return len(first), len(crossing), f"e.g. ids {crossing[0][0]} and {crossing[0][1]}" if crossing else ""


def _linked(samples: Sequence[Sample], contents: Sequence[Collection[bytes]]) -> list[int]:
    """Return equal numbers for samples linked by content or `keep_together`, over any number of steps: union-find."""
    parent = list(range(len(samples)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[bytes | str, int] = {}  # a digest is bytes and keep_together a str, so they cannot be confused
    for i, (sample, digests) in enumerate(zip(samples, contents, strict=True)):
        keys: list[bytes | str] = [*digests, sample.keep_together]
        for key in keys:
            if key:
                parent[root(i)] = root(first.setdefault(key, i))
    return [root(i) for i in range(len(samples))]


def _official(group: Iterable[Sample]) -> Split | None:
    """Return the official split of a group; of several the first: a copy in train spoils no further test sample."""
    return min((sample.split for sample in group if sample.split), key=PARTS.index, default=None)


def _drawn(
    groups: Mapping[int, Sequence[Sample]], total: int, seed: int, ratios: tuple[float, float, float]
) -> dict[int, Split]:
    """Return a split for each of these groups, of `total` in all: by the value of its hash, by its rank if few.

    Where some samples have an official split the parts are filled already, and no rank is needed to fill them.
    """
    name = {root: min(sample.id for sample in group) for root, group in groups.items()}
    u = {root: _uniform(seed, name[root]) for root in groups}
    if len(groups) >= FEW or len(groups) < total:
        return {root: _part(value, ratios) for root, value in u.items()}
    order = sorted(groups, key=lambda root: (u[root], name[root]))
    return dict(zip(order, _shares([groups[root] for root in order], ratios), strict=True))


def _most(values: Sequence[Hashable]) -> Hashable:
    """Return the class most samples of a group have; of several the one that comes first by name."""
    counted = Counter(values)
    return min(counted, key=lambda value: (-counted[value], str(value)))


def _stratified(
    groups: Mapping[int, Sequence[Sample]],
    classes: Mapping[int, Hashable],
    seed: int,
    ratios: tuple[float, float, float],
) -> dict[int, Split]:
    """Return a part for each group: inside each class the groups are ranked by hash and divided by the ratios.

    A class of fewer groups than parts is learned before it is tested: train first, then test, then valid.
    """
    parts: dict[int, Split] = {}
    for stratum in sorted(set(classes.values()), key=str):
        name = {root: min(s.id for s in group) for root, group in groups.items() if classes[root] == stratum}
        order = sorted(name, key=lambda root: (_uniform(seed, name[root]), name[root]))
        wanted = [part for part, ratio in zip(PARTS, ratios, strict=True) if ratio]
        if len(order) < len(wanted):
            preferred = [part for part in (Split.TRAIN, Split.TEST, Split.VALID) if part in wanted]
            parts |= dict(zip(order, preferred, strict=False))
        else:
            parts |= dict(zip(order, _shares([groups[root] for root in order], ratios), strict=True))
    return parts


def _uniform(seed: int, id: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the id alone, on every machine."""
    digest = blake2b(f"{seed}\0{id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # 53 bits: a float holds no more, and 64 could round up to 1


def _part(u: float, ratios: Sequence[float]) -> Split:
    """Return the part in whose stretch of [0, 1) the number falls."""
    filled = [(part, edge) for part, edge, ratio in zip(PARTS, accumulate(ratios), ratios, strict=True) if ratio]
    return next((part for part, edge in filled if u < edge), filled[-1][0])


def _shares(groups: Sequence[Sequence[Sample]], ratios: Sequence[float]) -> list[Split]:
    """Return a part for each rank: every wanted part gets max(1, round(ratio * n)) groups, the largest what is left."""
    n, wanted = len(groups), sum(ratio > 0 for ratio in ratios)
    if 0 < n < wanted:
        kept = ", ".join(sorted(group[0].keep_together or group[0].id for group in groups))
        raise ConfigError(
            f"{n} groups of samples that stay together ({kept}) cannot fill {wanted} splits",
            fix="use split=random if the dataset has that option, list the splits with --split FILE, or add samples",
        )
    sizes = [max(1, round(ratio * n)) if ratio else 0 for ratio in ratios]
    sizes[sizes.index(max(sizes))] += n - sum(sizes)
    return [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)] if n else []


def _json_pairs(path: Path) -> Iterable[tuple[str, str]]:
    try:
        parts = json.loads(records.shallow(records.text_of(path, LARGEST_JSON)))
    except ValueError as error:
        raise SourceError(f"{path}: {error}", fix='write {"train": [ids], "valid": [ids], "test": [ids]}') from error
    if not isinstance(parts, dict) or not all(isinstance(ids, list) for ids in parts.values()):
        raise SourceError(f"{path}: not lists of ids", fix='write {"train": [ids], "valid": [ids], "test": [ids]}')
    return [(str(id), name) for name, ids in parts.items() for id in ids]


def _row_pairs(path: Path) -> Iterable[tuple[str, str]]:
    columns, rows = records.read(path)
    if not {"id", "split"} <= set(columns):
        raise SourceError(f"{path}: the columns are {records.listed(columns)}", fix="name two of them id and split")
    for line, cells in rows:
        if not {"id", "split"} <= set(cells):
            raise SourceError(f"{path}, line {line}: no id or no split", fix="fill both cells, or delete the line")
    return [(str(cells["id"]).strip(), str(cells["split"])) for _, cells in rows]
