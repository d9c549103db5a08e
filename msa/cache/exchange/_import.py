"""A foreign file -> the store: index, then one view per feature: recover -> borrow -> read, sample by sample.

What is not finite in the view's dtype becomes 0 and is counted, by view and by sample: public feature files hold NaN
and -inf where an extractor met silence. A sample without a single finite value is recorded as failed.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from msa import __version__
from msa.annotations import splits
from msa.cache.exchange import _joining as joining
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable
from msa.cache.format import fingerprint
from msa.cache.format.files import naming_a_full_disk
from msa.cache.index import Index
from msa.cache.store import FeatureStore, refuse_view
from msa.cache.write import reuse
from msa.cache.write.dataset_index import Inputs, index_of
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import SourceError
from msa.progress import Progress
from msa.types import Modality, Sample, Split


@dataclass
class Imported:
    """What became of one feature of the file."""

    name: str
    modality: Modality
    view_id: str
    wanted: int
    already: int = 0  # there before, in whatever way
    borrowed: int = 0  # of them, imported for another index of the same features
    written: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # id, reason
    not_finite: dict[str, int] = field(default_factory=dict)  # what kind -> how many values
    seconds: float = 0.0


def bring_in(
    store: FeatureStore,
    foreign: Foreign,
    split_file: Path | None = None,
    seed: int = 42,
    progress: Progress = Progress(),
    drawing: splits.Config = splits.Config(),
) -> tuple[Index, list[Imported]]:
    """Import a dataset and its features. What an interrupted import committed is kept; the same call continues there.

    Args:
        store: The store to write to.
        foreign: What a reader of msa.cache.exchange found.
        split_file: A file that names the samples of each part.
        seed: Seed of parts that are drawn, where the dataset has none.
        progress: Told of every sample.
        drawing: How parts are drawn.
    """
    corpus = replace(foreign.corpus, origin=foreign.format).split_by(split_file).kept(foreign.path)
    inputs = [_inputs(sample, foreign) for sample in corpus.samples]
    index = index_of(corpus, inputs, split_file, seed, drawing)
    for feature in foreign.features:  # before the dataset is published without them
        refuse_view(_attributes(foreign, feature))
    _check_some_can_be_read(store, foreign, index)
    with naming_a_full_disk(store.path):
        before = store.datasets.get(index.name)
        names = [f"{foreign.format}.{feature.name}" for feature in foreign.features]
        official = [sample.split is not None for sample in corpus.samples]
        index, same = _version(store, index, before, names, official)
        dataset = store.add_index(index)
        carried = reuse.carry_over(store, index, before, same_rows=same)
        found = [_feature(store, foreign, feature, index, dataset, progress) for feature in foreign.features]
        for report in found:
            report.borrowed += carried.get(report.view_id, 0)
    for report in found:
        if report.failed and len(report.failed) == report.wanted:
            raise SourceError(
                f"{foreign.path.name}: none of {report.wanted} samples has {report.name}; the first: "
                f"{', '.join(report.failed[0])}",
                fix="look at the file: it may be of another format, or damaged; what else it has was imported",
            )
    return index, found


def _check_some_can_be_read(store: FeatureStore, foreign: Foreign, index: Index) -> None:
    """Raise SourceError where no sample of any feature can be read: a dataset without views is of no use.

    What is in the store was read before, and is not read again.
    """
    views = {fingerprint.key(_attributes(foreign, feature)["identity"]) for feature in foreign.features}
    if views & store.manifest.views.keys():
        return
    first = ""
    for feature in foreign.features:
        for id in index.ids:
            if feature.digest(id) is None:
                continue
            try:
                _states(feature, id)
                return
            except Unreadable as error:
                first = first or f"{id}, {foreign.format}.{feature.name}: {error}"
    if first:
        raise SourceError(
            f"{foreign.path.name}: none of {len(index)} samples can be read; the first: {first}",
            fix="look at the file: it may be of another format, or damaged; nothing was imported",
        )


def _version(
    store: FeatureStore, index: Index, before: str | None, names: Sequence[str], official: Sequence[bool]
) -> tuple[Index, bool]:
    """Return the index to publish, and whether it has the rows of the one `before`, which it joins.

    Raises SourceError.
    """
    if before is None or before == index.fingerprint:
        return index, False
    old = store.index(before)
    if unlike := joining.differences(old, index, official):
        joining.check_kept(store, index, before, names, unlike)
        return index, False
    if len(index) < len(old) and {view.name for view in store.views(before)} <= set(names):
        return index, False  # all of it again, with fewer samples: a new version
    return joining.joined(old, index), True


def lacking(index: Index) -> str:
    """Return what a dataset lacks for training, and the way to it; nothing where every part holds some."""
    if not np.isfinite(index.y).any():
        return "no sample has a label, and training needs some"
    empty = [split for split in Split if not len(index.rows(split))]
    missing = f"no {' and no '.join(empty)} sample, and training needs some: name the parts with --split FILE"
    return missing if empty else ""


def _inputs(sample: Sample, foreign: Foreign) -> Inputs:
    """Return digests of a sample; a text's is of the text alone, so that a later extraction has the same one."""
    raw = sample.raw.get(Modality.TEXT)
    text = (raw.text or "").strip() if raw else ""
    digests: dict[Modality, bytes] = {Modality.TEXT: fingerprint.of_text(text)} if text else {}
    for feature in foreign.features:
        if digest := feature.digest(sample.id):
            digests.setdefault(feature.modality, digest)
    return Inputs(digests, text)


def _feature(
    store: FeatureStore, foreign: Foreign, feature: Feature, index: Index, dataset: str, progress: Progress
) -> Imported:
    attributes = _attributes(foreign, feature)
    view_id = fingerprint.key(attributes["identity"])
    if (store.path / "views" / view_id / "seg").exists():
        store.recover(view_id)
    digests = {row: digest for row, id in enumerate(index.ids) if (digest := feature.digest(id))}
    report = Imported(attributes["backbone"], feature.modality, view_id, len(digests))
    done = _done(store, view_id, dataset)
    if missing := sorted(digests.keys() - done):
        report.borrowed = reuse.borrow(store, view_id, dataset, _table(digests, len(index)), missing)
        done = _done(store, view_id, dataset) if report.borrowed else done
    report.already = len(digests.keys() & done)
    todo = sorted(digests.keys() - done)
    started = time.monotonic()
    if todo:
        store.add_view(view_id, attributes)
        writer = store.writer(view_id, dataset, Form.of(feature.dim, feature.dtype), _run())
        progress.begin(report.name, report.wanted, report.already)
        try:
            with store.writing(view_id, writer):
                for row in todo:
                    written = _sample(writer, feature, index.ids[row], row, digests[row], report)
                    progress.advance(int(written), int(not written))
        finally:
            progress.end()
    report.seconds = time.monotonic() - started
    return report


def _sample(writer: SegmentWriter, feature: Feature, id: str, row: int, digest: bytes, report: Imported) -> bool:
    try:
        states, odd = _states(feature, id)
    except Unreadable as error:
        writer.fail(row, digest, "import", str(error))
        report.failed.append((id, str(error)))
        return False
    writer.write(row, digest, states, odd)
    report.written += 1
    for kind, count in odd.items():
        report.not_finite[kind] = report.not_finite.get(kind, 0) + count
    return True


def _states(feature: Feature, id: str) -> tuple[np.ndarray, dict[str, int]]:
    """Return what `finite` makes of a sample. Raises Unreadable, also for more rows than a shard holds."""
    states, odd = finite(feature.read(id), feature.dim, feature.dtype)
    if len(states) > (most := Form.of(feature.dim, feature.dtype).shard):
        raise Unreadable(f"{len(states)} rows, more than the {most} a shard holds")
    return states, {**odd, **feature.counts()}


def finite(states: np.ndarray, dim: int, dtype: str = "float32") -> tuple[np.ndarray, dict[str, int]]:
    """Return (T, dim) of `dtype` with zeros for what is not finite in it, and how many values of which kind that were.

    Raises Unreadable for another shape, for no rows, and where nothing finite is left.
    """
    if states.ndim != 2 or states.shape[1] != dim:
        raise Unreadable(f"shape {list(states.shape)}, expected [T, {dim}]")
    if not len(states):
        raise Unreadable("no rows")
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 may be larger than any float32: counted below
        narrow = states.astype(dtype)
    good = np.isfinite(narrow)
    if good.all():
        return narrow, {}
    if not good.any():
        raise Unreadable("no finite value")
    nan = int(np.isnan(narrow).sum())
    odd = {"NaN set to 0": nan, f"infinite or beyond {dtype} set to 0": int((~good).sum()) - nan}
    odd["samples with values set to 0"] = 1
    return np.where(good, narrow, narrow.dtype.type(0)), {kind: count for kind, count in odd.items() if count}


def _done(store: FeatureStore, view_id: str, dataset: str) -> set[int]:
    """Return rows that have hidden states or a failure record."""
    view = next((view for view in store.views(dataset) if view.id == view_id), None)
    if view is None:
        return set()
    reader = store.reader(view)
    return set(np.flatnonzero(reader.length >= 0).tolist()) | set(reader.failures)


def _table(digests: Mapping[int, bytes], n: int) -> np.ndarray:
    """Return (n, 16) uint8, a feature's own digests.

    They need not be the index's: those of a text are of its words.
    """
    found = np.zeros((n, fingerprint.DIGEST), np.uint8)
    for row, digest in digests.items():
        found[row] = np.frombuffer(digest, np.uint8)
    return found


def _attributes(foreign: Foreign, feature: Feature) -> dict[str, Any]:
    """Return the provenance of an imported view; its identity says that nothing here can make it from raw material."""
    settings = {name: str(value) for name, value in foreign.corpus.settings.items()}
    identity = {
        "imported": foreign.format,
        "feature": feature.name,
        "source": foreign.digest,
        "settings": settings,
        "dtype": feature.dtype,
    }
    return {
        "modality": feature.modality,
        "backbone": f"{foreign.format}.{feature.name}",
        "family": foreign.format,
        "dim": feature.dim,
        "dtype": feature.dtype,
        "columns": list(feature.columns),
        "identity": identity,
        "weights": {
            "name": "",
            "revision": None,
            "sha256": "",
            "licence": foreign.corpus.source.licence,
            "path": "",
        },
        "source": f"imported from {foreign.path.name}",
        "facts": dict(feature.facts),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _run() -> dict[str, Any]:
    versions = {"msa": __version__, "python": platform.python_version(), "numpy": np.__version__}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"device": "none", "versions": versions, "platform": platform.platform(), "started": started}
