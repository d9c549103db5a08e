"""Stores that mean harm: whatever is in one, using it works or raises MsaError, and nothing outside it is touched.

Watched meanwhile: every file that is opened, everything that could run code, and the memory that is taken.
"""

import json
import os
import shutil
import signal
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from random import Random

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa.cache.format import limits
from msa.cache.format.manifest import checksum
from msa.cache.maintain.verify import check_store
from msa.cache.store import FeatureStore
from msa.errors import MsaError
from tests.cache import sample_store
from tests.faults import planted

MOST_BYTES = 48 * 2**20  # of a store of 100 KB
RUNS_CODE = {
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "ctypes.dlopen",
}
STRANGE = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        7,
        2**31,
        2**40,
        2**63,
        10**400,
        -(2**70),
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "x",
        "x" * 100_000,
        "../../../outside",
        "/etc/passwd",
        "a\0b",
        "..",
        "float64",
        "object",
        "\x1b[2J",
        "\ud800",
    ),
    *([], {}, [[]], [0], [-1, 4], [2**40, 2**40], [2**62], ["x"], [None, None], {"": ""}, {"name": "numcodecs.pickle"}),
    *(
        {"name": "sharding_indexed"},
        [{"name": "sharding_indexed", "configuration": {}}],
        [{"name": "zstd"}],
        [[[[[]]]]],
    ),
]
MANY = int(os.environ.get("MSA_FUZZ", "60"))  # 3000 is half a minute a thousand
_watch: list[list[tuple[str, str]]] = []


_others = set()  # threads of other tests, such as the heartbeats of writers that they left behind


def _audit(event, arguments):
    """Note what is opened, by its true name: links in it are followed, as the system would follow them."""
    if not _watch or not (event == "open" or event in RUNS_CODE):
        return
    if threading.get_ident() in _others:
        return
    where, flags = (arguments[0], arguments[2]) if event == "open" else (str(arguments), 0)
    if isinstance(where, int):
        return  # opened before, under a name
    path = Path(os.fsdecode(where))
    real = os.path.realpath(path.parent) + "/" + path.name if flags & os.O_NOFOLLOW else os.path.realpath(path)
    _watch[-1].append((event, real))


def _too_long(*_):
    raise AssertionError("it waits for something in the store")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    sys.addaudithook(_audit)  # can never be taken off again: it does nothing outside `watched`
    made = planted.Ground.lay(tmp_path_factory.mktemp("stranger") / "sound", ("made.tones",), n=12)
    shutil.copytree(made.path, made.path.parent / "outside")  # what a store must not lead to
    use(made.path)  # imports are done now
    return made.path


@contextmanager
def watched(store):
    """Nothing outside `store` is opened but what Python itself needs, nothing is run, and memory has a bound."""
    _others.update(thread.ident for thread in threading.enumerate() if thread is not threading.current_thread())
    _watch.append([])
    tracemalloc.start()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        _others.clear()
        seen, (_, peak) = _watch.pop(), tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_BYTES, f"{peak / 2**20:.0f} MiB"
    own = (
        str(store),
        sys.prefix,
        sys.base_prefix,
        str(Path(limits.__file__).parents[3]),
        str(Path(json.__file__).parent),
    )
    strange = [found for found in seen if found[0] != "open" or not found[1].startswith(own)]
    assert not strange, strange


def use(path):
    """Open a store, look at everything in it, and read every sample in every way."""
    store = FeatureStore.open(path)
    for dataset in store.manifest.datasets:
        index = store.index(dataset)
        assert len(list(index.ids)) == len(list(index.text)) == len(list(index.group)) == len(index)
        index.counts()
        for view in store.views(dataset):
            assert view.dim > 0 and min(view.samples, view.failed, view.nbytes) >= 0 and view.is_called(view.name)
            reader = store.reader(view)
            assert all(record["reason"] for record in reader.failures.values())
            rows = np.flatnonzero(np.asarray(reader.length) >= 0)
            for row in rows.tolist():
                reader.read(row)
            reader.gather(rows)
            reader.flat(rows)


def survives(path):
    """The one claim of this file."""
    what = ""
    with watched(path):
        try:
            use(path)
        except MsaError as error:
            what = str(error)
    assert "\x1b" not in what


# ways to do harm


def in_json(path, choose):
    """Another value, or none, somewhere in a JSON file."""
    files = sorted(path.glob("**/*.json"))
    newest = max(path.glob("manifests/*.json"))
    file = newest if choose.random() < 0.4 else choose.choice(files)
    known = json.loads(file.read_text())
    for _ in range(choose.choice([1, 1, 1, 3])):
        at, key = known, None
        while isinstance(at, dict | list) and at and (key is None or choose.random() < 0.85):
            inside = at[key] if key is not None else at
            if not isinstance(inside, dict | list) or not inside:
                break
            at, key = inside, choose.choice(sorted(inside) if isinstance(inside, dict) else range(len(inside)))
        way = choose.random()
        if way < 0.15:
            del at[key]
        elif way < 0.3 and isinstance(at, dict):
            at[choose.choice(["../x", "/etc/passwd", "data/c/0/../../x", "data/c/99/0", "", "\x1b[2J"])] = at[key]
        else:
            at[key] = choose.choice(STRANGE)
    if "checksum" in known and choose.random() < 0.9:
        known["checksum"] = checksum(known)
    file.write_text(json.dumps(known))


def in_text(path, choose):
    """JSON that is none, or that no parser should be asked to read."""
    file = choose.choice(sorted(path.glob("**/*.json")))
    deep = 100_000
    file.write_bytes(
        choose.choice(
            [
                b"",
                b"{",
                b"null",
                b"[1]",
                b"\xff\xfe",
                b"[" * deep,
                b'{"a":' * deep,
                b"9" * 10_000,
                b'{"a": 1e999999}',
                b"\0" * 99,
            ]
        )
    )


def in_bytes(path, choose):
    """Other bytes in a chunk or a shard."""
    file = choose.choice([p for p in sorted(path.glob("**/c/**/*")) if p.is_file()])
    data = bytearray(file.read_bytes())
    way = choose.randrange(5)
    if way == 0:
        data = bytearray(choose.randbytes(len(data)))
    elif way == 1:
        data = data[: choose.randrange(len(data) + 1)]
    elif way == 2:
        data += bytes(choose.randrange(1, 5000))
    elif way == 3:
        data[choose.randrange(len(data))] ^= 0xFF
    else:
        data = bytearray(len(data))
    file.write_bytes(data)


def in_numbers(path, choose):
    """Absurd numbers that match their checksum: offsets of a shard's index, rows, starts, lengths, ends of texts."""
    tables = sorted(path.glob("views/*/seg/*/*/c/*")) + sorted(path.glob("index/*/*/c/*"))
    shards = sorted(path.glob("views/*/seg/*/data/c/*/0"))
    file = choose.choice(choose.choice([shards, [table for table in tables if table.is_file()]]))
    data = bytearray(file.read_bytes())
    low = len(data) - 4 - 16 * (sample_store.SHARD // 8) if file in shards else 0
    body = data[low:-4]
    for _ in range(choose.choice([1, 2, 20])):
        at = choose.randrange(0, max(1, len(body) - 7), 4)
        body[at : at + 8] = choose.choice([-1, 0, 1, 2**31, 2**40, 2**62, 2**63 - 1, 8, 100]).to_bytes(
            8, "little", signed=True
        )
    body = body[: len(data) - 4 - low]
    crc = int(google_crc32c.value(bytes(body))).to_bytes(4, "little")
    file.write_bytes(bytes(data[:low]) + bytes(body) + crc)


def in_names(path, choose):
    """Links to elsewhere, pipes, devices and folders where files or folders belong."""
    places = sorted(p for p in path.rglob("*") if not p.name.startswith("."))
    place = choose.choice(places)
    there = path.parent.parent / "outside" / place.relative_to(path)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    way = choose.randrange(6)
    if way == 0:
        place.symlink_to(there)
    elif way == 1:
        place.symlink_to(choose.choice(["/dev/zero", "/etc/passwd", "/", "loop"]))
    elif way == 2:
        os.mkfifo(place)
    elif way == 3:
        place.mkdir()
    elif way == 4:
        place.write_bytes(b"{}")


HARM = [in_json, in_json, in_json, in_text, in_bytes, in_numbers, in_numbers, in_names, in_names]


@given(way=st.sampled_from(HARM), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_whatever_is_in_a_store_using_it_works_or_says_why_not(ground, way, seed):
    path = ground.parent / "trial" / "store"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(ground, path)
    way(path, Random(seed))
    survives(path)


@given(way=st.sampled_from(HARM), seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_verify_never_gives_up(ground, way, seed):
    path = ground.parent / "checked" / "store"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(ground, path)
    way(path, Random(seed))
    with watched(path):
        found = check_store(path, deep=True)
    assert not any("cannot be checked" in problem.what for problem in found.problems), found.problems


@pytest.mark.slow
@given(way=st.sampled_from(HARM), seed=st.integers(0, 2**32))
@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_the_same_many_times(ground, way, seed):
    path = ground.parent / "again" / "store"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(ground, path)
    way(path, Random(seed))
    survives(path)
