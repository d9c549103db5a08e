"""Stores all of whose checksums are right and whose tables and attributes say what cannot be.

Whatever a stranger's store says: each command does its work or names what is wrong, and what `verify` passes, loads.
"""

import hashlib
import json
import shutil

import numpy as np
import pytest

from msa.cache.exchange import hdf5, mmsa, npy
from msa.cache.exchange._export import export
from msa.cache.format import generations, layout, small_arrays
from msa.cache.format.manifest import checksum
from msa.cache.maintain import describe
from msa.cache.maintain.compact import compact
from msa.cache.maintain.verify import verify
from msa.cache.share import sync
from msa.cache.share.subset import Selection
from msa.cache.store import FeatureStore
from msa.errors import MsaError, StoreError
from tests.cache.conftest import fill, make_index

N = 20
ESC = "\x1b[2J"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    store = FeatureStore.create(tmp_path_factory.mktemp("honest") / "store")
    fill(store, make_index(N))
    assert verify(store, deep=True) == []
    return store.path


class Forged:
    """A copy of a store that can be told to say anything, and then has right checksums again."""

    def __init__(self, origin, path):
        self.path = shutil.copytree(origin, path)
        newest = max((self.path / "manifests").glob("0*.json"))
        self.manifest = json.loads(newest.read_text())
        self.about = next(iter(self.manifest["datasets"].values()))
        self.index = self.path / "index" / next(iter(self.manifest["datasets"]))
        self.view = self.path / "views" / next(iter(self.manifest["views"]))
        self.entry = self.manifest["views"][self.view.name]["segments"][0]
        self.segment = self.view / "seg" / self.entry["id"]

    def array(self, folder, name, values):
        shutil.rmtree(folder / name, ignore_errors=True)
        small_arrays.write(folder / name, values, layout.array_metadata(values, {}))

    def says(self, folder, **what):
        """Change attributes; a key may lead down: task__low=3."""
        path = folder / "zarr.json"
        whole = json.loads(path.read_text())
        for key, value in what.items():
            *way, last = key.split("__")
            place = whole["attributes"]
            for step in way:
                place = place.setdefault(step, {})
            place[last] = value
            if value is LACKING:
                del place[last]
        path.write_text(json.dumps(whole))

    def seal(self):
        facts = lambda p: [len(p.read_bytes()), hashlib.sha256(p.read_bytes()).hexdigest()]  # noqa: E731
        below = lambda d: {p.relative_to(d).as_posix(): facts(p) for p in sorted(d.rglob("*")) if p.is_file()}  # noqa: E731
        self.about["files"], self.entry["files"] = below(self.index), below(self.segment)
        self.manifest["views"][self.view.name]["files"] = {"zarr.json": facts(self.view / "zarr.json")}
        self.manifest["generation"] = 3
        self.manifest.pop("checksum")
        self.manifest["checksum"] = checksum(self.manifest)
        (self.path / "manifests" / "00000003.json").write_text(json.dumps(self.manifest))


LACKING = object()
FAILURE = {"sample": 1, "digest": "0" * 32, "stage": "decode", "reason": "torn"}


def index_says(**what):
    return lambda f: f.says(f.index, **what)


def view_says(**what):
    return lambda f: f.says(f.view, **what)


def segment_says(**what):
    return lambda f: f.says(f.segment, **what)


def index_has(name, values):
    return lambda f: f.array(f.index, name, values)


def segment_has(name, values):
    return lambda f: f.array(f.segment, name, values)


def labels(value, k=1):
    return index_has("labels", np.full((N, k), value, np.float32))


def failed(record, counted=1):
    def forge(f):
        f.says(f.segment, failures=[record])
        f.entry["failed"] = counted

    return forge


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


LIES = {
    # labels
    "label 7 of 3": labels(7),
    "label -1": labels(-1),
    "label half": labels(0.5),
    "label inf": labels(np.inf),
    "label -inf": labels(-np.inf),
    "one label 3": index_has("labels", np.r_[np.zeros(N - 1), 3].astype(np.float32)[:, None]),
    "a modality's label 9": lambda f: (labels(9, 2)(f), f.says(f.index, label_names=["label", "label_text"])),
    "labels of float64, 1e300": lambda f: (
        f.says(f.index, task__classes=[], task__low=-1, task__high=1),
        f.array(f.index, "labels", np.full((N, 1), 1e300)),
    ),
    "values inf": lambda f: (labels(np.inf)(f), f.says(f.index, task__classes=[], task__low=-1, task__high=1)),
    "values far outside": lambda f: (labels(50)(f), f.says(f.index, task__classes=[], task__low=-1, task__high=1)),
    "several, inf": lambda f: (
        labels(np.inf, 2)(f),
        f.says(f.index, task__classes=["a", "b"], task__multilabel=True, label_names=["a", "b"]),
    ),
    "no labels": labels(0, 2),
    # parts, ids, groups, positions
    "part 9": index_has("split", np.full(N, 9, np.uint8)),
    "part -1": index_has("split", np.full(N, -1, np.int8)),
    "parts of int64": index_has("split", np.full(N, 2**40, np.int64)),
    "positions beyond": index_has("position", np.full(N, 2**63 - 1, np.int64)),
    "positions negative": index_has("position", np.full(N, -5, np.int64)),
    "positions of uint64": index_has("position", np.full(N, 2**64 - 1, np.uint64)),
    "ids alike": lambda f: (
        f.array(f.index, "id_bytes", np.full(N, 97, np.uint8)),
        f.array(f.index, "id_offsets", np.arange(N + 1, dtype=np.int64)),
    ),
    "ids of escapes": lambda f: (
        f.array(f.index, "id_bytes", np.frombuffer(b"".join(b"\x1b[%02dm\x00" % i for i in range(N)), np.uint8)),
        f.array(f.index, "id_offsets", np.arange(N + 1, dtype=np.int64) * 6),
    ),
    "groups no utf-8": lambda f: (
        f.array(f.index, "group_bytes", np.full(N, 255, np.uint8)),
        f.array(f.index, "group_offsets", np.arange(N + 1, dtype=np.int64)),
    ),
    "offsets back": index_has("text_offsets", np.arange(N + 1, dtype=np.int64)[::-1].copy()),
    "offsets huge": index_has("text_offsets", np.array([0] * N + [2**62], np.int64)),
    "offsets short": index_has("text_offsets", np.arange(5, dtype=np.int64)),
    # the task
    "low NaN": index_says(task__low=float("nan")),
    "high inf": index_says(task__high=float("inf")),
    "low of 400 digits": index_says(task__low=10**400),
    "low a text": index_says(task__low="-1"),
    "low above high": index_says(task__classes=[], task__low=3, task__high=-3),
    "classes twice": index_says(task__classes=["a", "a", "a"]),
    "classes many": index_says(task__classes=[f"c{i}" for i in range(200_000)]),
    "classes of numbers": index_says(task__classes=[1, 2, 3]),
    "classes escape": index_says(task__classes=[ESC, "b", "c"]),
    "classes surrogate": index_says(task__classes=["\ud800", "b", "c"]),
    "classes mathematics": index_says(task__classes=["$\\frac$", "b", "c"]),
    "classes an object": index_says(task__classes={"a": 1}),
    "multilabel 1": index_says(task__multilabel=1),
    "multilabel of none": index_says(task__multilabel=True, task__classes=[]),
    "task a list": index_says(task=[]),
    "label names twice": lambda f: (labels(0, 2)(f), f.says(f.index, label_names=["label", "label"])),
    "label names of no modality": lambda f: (labels(0, 2)(f), f.says(f.index, label_names=["label", "label_smell"])),
    "label names another": index_says(label_names=["labels"]),
    "splits": index_says(splits=["../x", 5, None]),
    "splits another order": index_says(splits=["test", "valid", "train"]),
    # what is said of the corpus
    "about empty": index_says(about={}),
    "about a list": index_says(about=[]),
    "about lacking": index_says(about=LACKING),
    "about deep": index_says(about__settings__x=deep(500)),
    "source 5": index_says(about__source=5),
    "source a text": index_says(about__source=f"here{ESC}"),
    "title an object": index_says(about__source={"title": {"a": ESC}}),
    "licence a list": index_says(about__source={"licence": ["x"]}),
    "redistribution a text": index_says(about__source={"redistribution": "yes"}),
    "dropped a number": index_says(about__dropped=7),
    "dropped of texts": index_says(about__dropped={"x": "3"}),
    "dropped negative": index_says(about__dropped={"x": -3}),
    "dropped ids a text": index_says(about__dropped_ids="x"),
    "dropped ids short": index_says(about__dropped_ids=[["a"]]),
    "leaks an object": index_says(about__leaks={"a": 1}),
    "leaks of lists": index_says(about__leaks=[["a"]]),
    "split a list": index_says(about__split=[]),
    "encodings null": index_says(about__encodings=None),
    "settings a list": index_says(about__settings=[]),
    "NaN in about": index_says(about__settings__x=float("nan")),
    "another name": index_says(name="other"),
    "name an object": index_says(name={}),
    # views
    "dim 10**14": view_says(dim=10**14),
    "dim true": view_says(dim=True),
    "dim another": view_says(dim=9),
    "dtype a list": view_says(dtype=["float16"]),
    "dtype another": view_says(dtype="float32"),
    "modality another": view_says(modality="image"),
    "modality none": view_says(modality="smell"),
    "backbone escape": view_says(backbone=ESC),
    "columns 5": view_says(columns=5),
    "columns of numbers": view_says(columns=[1, 2]),
    "columns too many": view_says(columns=[str(i) for i in range(99)]),
    "weights a text": view_says(weights="x"),
    "weights' name 5": view_says(weights__name=5),
    "weights' sha256 null": view_says(weights__sha256=None),
    "weights' licence a list": view_says(weights__licence=[]),
    "weights' revision an object": view_says(weights__revision={}),
    "weights' path 9": view_says(weights__path=9),
    "source a list": view_says(source=[1]),
    "options a list": view_says(identity__options=[]),
    "decoding 5": view_says(identity__decoding=5),
    "imported 5": view_says(identity__imported=5),
    "facts a list": view_says(facts=[1]),
    "facts": view_says(facts={ESC: [ESC]}),
    "created 5": view_says(created=5),
    # segments
    "run lacking": segment_says(run=LACKING),
    "versions a list": segment_says(run__versions=[1]),
    "plan 5": segment_says(run__plan=5),
    "device an object": segment_says(run__device={}),
    "platform 7": segment_says(run__platform=7),
    "creator escape": segment_says(run__creator=ESC),
    "compacted 5": segment_says(run__compacted=5),
    "compacted of texts": segment_says(run__compacted=["x"]),
    "compacted without samples": segment_says(run__compacted=[{}]),
    "failures a text": segment_says(failures="x"),
    "failure of no sample": failed(FAILURE | {"sample": 10**9}),
    "failure without reason": failed({name: FAILURE[name] for name in ("sample", "stage", "digest")}),
    "failure without stage": failed(FAILURE | {"stage": ""}),
    "failure of 5": failed(FAILURE | {"reason": 5}),
    "failure of no digest": failed(FAILURE | {"digest": "xyz"}),
    "failure with counts": failed(FAILURE | {"counts": {"a": -1}}),
    "failure with escapes": failed(FAILURE | {"reason": ESC}),
    "counted without counts": segment_says(counted=["a"]),
    "counted more": lambda f: (
        f.says(f.segment, counted=["a", "b"]),
        f.array(f.segment, "counts", np.ones((19, 1), np.int64)),
    ),
    "counted 5": segment_says(counted=5),
    "samples beyond": segment_has("sample", np.full(19, 10**12, np.int64)),
    "samples negative": segment_has("sample", -np.arange(1, 20, dtype=np.int64)),
    "samples twice": segment_has("sample", np.zeros(19, np.int64)),
    "starts beyond": segment_has("start", np.full(19, 2**63 - 1, np.int64)),
    "lengths beyond": segment_has("length", np.full(19, 2**31 - 1, np.int32)),
    "lengths of nothing": segment_has("length", np.zeros(19, np.int32)),
    "lengths negative": segment_has("length", np.full(19, -5, np.int32)),
    "tables short": segment_has("length", np.ones(3, np.int32)),
    "dataset another": segment_says(dataset="0" * 16),
    # the manifest
    "samples more": lambda f: f.about.update(samples=N - 1),
    "called otherwise": lambda f: f.about.update(name="other"),
    "failures more": lambda f: f.entry.update(failed=7),
}


def commands(path, out):
    """Name -> what a command does with a store."""
    from msa.fuse.experiments.selection import Data

    opened = lambda: FeatureStore.open(path)  # noqa: E731
    name = next(iter(opened().datasets))
    wanted = Selection(splits=("train",))
    return {
        "info": lambda: json.dumps(describe.describe(opened()), default=str),
        "cite": lambda: describe.citations(opened()),
        "read": lambda: [opened().reader(view).length for view in opened().views(name)],
        "train": lambda: Data((name,)).load(opened()).columns,
        "export npy": lambda: export(opened(), name, {}, "npy", npy, out / "npy"),
        "export hdf5": lambda: export(opened(), name, {}, "hdf5", hdf5, out / "made.h5"),
        "export mmsa": lambda: export(opened(), name, {}, "mmsa", mmsa, out / "made.pkl"),
        "clone": lambda: sync.clone(str(path), str(out / "clone")),
        "pull": lambda: (FeatureStore.create(out / "pull"), sync.pull(str(path), out / "pull", wanted)),
        "compact": lambda: compact(opened(), dry_run=True),
    }


def said(carry_out):
    """The error a command ends in, if it does; anything but one that can be mended is raised."""
    try:
        carry_out()
    except MsaError as error:
        return error
    return None


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_is_named_and_what_verify_passes_loads(honest, tmp_path, lie):
    forged = Forged(honest, tmp_path / "store")
    LIES[lie](forged)
    forged.seal()
    try:
        found = verify(forged.path, deep=True)
    except StoreError:  # of a manifest that is none, of whose generation nothing can be said
        found = ["it cannot be opened"]
    assert not [problem for problem in found if "cannot be checked" in str(problem)]
    for name, carry_out in commands(forged.path, tmp_path).items():
        refused = said(carry_out)
        if refused and not found:  # but what a format of others has no place for
            assert name.startswith("export"), f"verify passes this, and {name} does not: {refused}"
            assert "export" in refused.fix
    assert generations.read(forged.path).generation == 3


def test_the_honest_store_has_no_fault(honest, tmp_path):
    for carry_out in commands(honest, tmp_path).values():
        carry_out()
