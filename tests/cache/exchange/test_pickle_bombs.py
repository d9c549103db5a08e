"""Pickles of a few bytes that ask for memory or time without end: an error soon, and memory in proportion."""

import contextlib
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from msa.cache.exchange import _columns, _pickle, _values, mmsa, mult
from msa.cache.exchange._foreign import Unreadable
from msa.cache.exchange._values import PER_BYTE
from msa.errors import SourceError

M61 = 2**61 - 1  # Python's modulus of hashes of numbers


def integer(n):
    size = (n.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def array(shape, code, data=b""):
    """A numpy array as protocol 3 has it, whatever its shape says."""
    dtype = (
        b"cnumpy\ndtype\n("
        + text(code)
        + b"K\x00K\x01tR(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return (
        made
        + b"(K\x01("
        + b"".join(map(integer, shape))
        + b"t"
        + dtype
        + b"\x89B"
        + struct.pack("<I", len(data))
        + data
        + b"tb"
    )


def split(**columns):
    inside = b"".join(text(key.encode()) + value for key, value in columns.items())
    return b"}(" + text(b"train") + b"}(" + inside + b"uu"


def same(value, times, memo=5):
    """A list that names one value again and again, two bytes a time."""
    return value + b"q%c0](" % memo + b"h%c" % memo * times + b"e"


def laughs(first, times):
    """Each tuple holds the one before it twice."""
    return first + b"2\x86" * times


N = 5 * 10**9
ONES = array((200, 2, 3), b"f4", np.ones(1200, "f4").tobytes())
BOMBS = {
    "rows without width": split(text=array((N, 0), b"f4")),
    "rows without width, in two ways": split(text=array((N, 0, 7), b"f8"), audio=array((N, 3, 0), b"f8")),
    "no rows of endless width": split(text=array((0, N), b"f4"), id=b"]"),
    "texts of no characters": split(raw_text=array((N,), b"U0"), text=array((N, 0), b"f4")),
    "bytes of no bytes": split(id=array((N,), b"S0"), text=ONES),
    "objects without width": split(text=array((N, 0), b"O8")[: -len(b"B\0\0\0\0tb")] + b"]tb"),
    "a few rows without width": split(text=array((100, 0), b"f4")),
    "one long text for all": split(text=ONES, raw_text=same(text(b"a" * 300_000), 200)),
    "one text of middle length for all": split(text=ONES, raw_text=same(text(b"b" * 60_000), 400)),
    "ids of one long text": split(text=ONES, id=same(text(b"a" * 300_000), 200)),
    "numbers that are long texts": split(text=ONES, regression_labels=same(text(b"1" * 60_000), 200)),
    "ids of one text of middle length": split(text=ONES, id=same(text(b"c" * 60_000), 200)),
    "one array for many samples": split(text=same(array((1000, 3), b"f8", bytes(24_000)), 60_000)),
    "one list for many samples": split(
        text=same(b"](" + b"K\x01" * 500 + b"eq\x060](" + b"h\x06" * 1000 + b"e", 60_000)
    ),
    "keys of one hash": b"}(" + b"".join(integer(i * M61) + b"N" for i in range(1, 5000)) + b"u",
    "a set of one hash": b"\x8f(" + b"".join(integer(i * M61) for i in range(1, 5000)) + b"\x90",
    "fractions of one hash": b"}("
    + b"".join(b"G" + struct.pack(">d", (1 + i / 65536) * 2.0**61) + b"N" for i in range(3000))
    + b"u",
    "tuples as keys": b"}(" + b"".join(integer(i) + integer(-i) + b"\x86N" for i in range(3000)) + b"u",
    "complex keys": b"cbuiltins\ncomplex\nq\x000}("
    + b"".join(b"h\x00" + integer(-1000003 * i) + integer(i) + b"\x86RN" for i in range(3000))
    + b"u",
    "long keys": b"}" + text(b"k" * 60_000) + b"q\x00Ns" + b"h\x00Ns" * 10,
    "a tuple of long texts as a key": b"}" + text(b"k" * 60_000) + b"\x85Ns",
    "laughs as a key": b"}" + laughs(b")", 90) + b"Ns",
    "laughs as a label": split(text=ONES, regression_labels=b"](" + laughs(b"K\x01\x85", 90) + b"K\x01" * 199 + b"e"),
    "laughs as states": split(text=b"](" + laughs(b"K\x01\x85", 90) + b"e"),
    "a set made of a list again and again": b"cbuiltins\nset\nq\x000]("
    + b"K\x01" * 5000
    + b"e\x85q\x010("
    + b"h\x00h\x01R" * 5000
    + b"l",
    "bytes copied again and again": b"cbuiltins\nbytearray\nq\x000C\xff"
    + b"a" * 255
    + b"\x85q\x010("
    + b"h\x00h\x01R" * 40_000
    + b"l",
    "nothing but sets": b"\x8f" * 50_000,
    "nothing but dicts": b"}" * 50_000,
    "nothing but marks": b"(" * 80_000,
    "nothing but memos": b"N" + b"\x94" * 200_000,
    "lists in lists": b"]" * 50_000 + b"a" * 49_999,
    "a number of 8,000 bits": split(
        text=ONES, regression_labels=b"](" + b"\x8b\x20\x03\0\0" + b"\xff" * 799 + b"\0" + b"K\x01" * 199 + b"e"
    ),
    "an infinite length": split(
        text=ONES,
        id=b"](" + b"".join(text(b"%d" % i) for i in range(200)) + b"e",
        text_lengths=same(b"G\x7f\xf0\0\0\0\0\0\0", 200),
        audio=b"]",
    ),
    "a complex number of texts": b"cbuiltins\ncomplex\nX\x01\0\0\0" + b"1" + b"K\x00\x86R",
}


def everything(foreign):
    """Read every sample of every feature."""
    for feature in foreign.features:
        for sample in foreign.corpus.samples:
            if feature.digest(sample.id):
                feature.read(sample.id)


@pytest.mark.parametrize("module", [mmsa, mult], ids=["mmsa", "mult"])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_an_error_soon_and_takes_memory_in_proportion(tmp_path, monkeypatch, kind, module):
    few = 1 << 22  # in place of 64 MB, so that the test is fast
    monkeypatch.setattr(_values, "SLACK", few)
    monkeypatch.setattr(_columns, "SLACK", few)
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x03" + BOMBS[kind] + b".")
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises((SourceError, Unreadable)) as caught:
            everything(module.read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    assert peak < few + 2 * PER_BYTE * path.stat().st_size
    assert time.process_time() - started < 20


def test_as_many_keys_of_any_kind_as_honest_files_have(tmp_path):
    value = {i: {f"video_{i}": i} for i in range(5000)} | {(i, "x"): None for i in range(100)}
    path = tmp_path / "honest.pkl"
    path.write_bytes(
        _pickle.pickle_dumps(value) if hasattr(_pickle, "pickle_dumps") else __import__("pickle").dumps(value)
    )
    assert _pickle.load(path) == value


def test_honest_lists_and_small_arrays_are_far_from_the_limit(tmp_path, monkeypatch):
    chance = np.random.default_rng(0)
    values = {
        "ints": [[int(n) for n in chance.integers(0, 30_000, 500)] for _ in range(100)],
        "floats": chance.normal(size=(100, 300)).tolist(),
        "arrays": [chance.normal(size=4) for _ in range(1000)],
        "words": [[f"word{n}" for n in chance.integers(0, 10**6, 20)] for _ in range(300)],
        "tuples": [((str(i), "a"), i, [i]) for i in range(3000)],
    }
    monkeypatch.setattr("msa.cache.exchange._values.SLACK", 1 << 22)
    path = tmp_path / "honest.pkl"
    for protocol in (0, 2, 4):
        for name, value in values.items():
            path.write_bytes(pickle.dumps(value, protocol))
            assert len(_pickle.load(path)) == len(value), (name, protocol)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/null"])
def test_what_never_ends_is_not_opened(tmp_path, name):
    path = tmp_path / name  # an absolute name stays as it is
    if name == "pipe":
        os.mkfifo(path)
    with pytest.raises(SourceError, match="not a file"):
        _pickle.load(path)


def test_a_sparse_file_is_not_hashed_to_its_claimed_end(tmp_path):
    path = tmp_path / "sparse.pkl"
    with open(path, "wb") as file:
        file.write(b"\x80\x04\x8e" + struct.pack("<Q", 2**40))
        file.truncate(2**40 + 100)
    with pytest.raises(SourceError, match="on the disk"):
        _pickle.load(path)


def test_the_reader_ends_when_it_is_told_to(tmp_path):
    path = tmp_path / "long.pkl"
    path.write_bytes(b"\x80\x03" + b"N0" * 20_000_000 + b".")
    code = "import sys, pathlib; from msa.cache.exchange import _pickle; print(1, flush=True)"
    code += "; _pickle.load(pathlib.Path(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"1\n"
    time.sleep(0.3)
    child.terminate()
    assert child.wait(5) == -signal.SIGTERM
    child.stdout.close()


# programs made by a grammar: what any seed gives is a value or a SourceError


def program(chance, depth=0):
    """The opcodes of a random value: containers, arrays whose shapes lie, names called with anything, shared parts."""
    made = lambda: program(chance, depth + 1)  # noqa: E731
    few = chance.randrange(4)
    leaves = [
        lambda: b"N",
        lambda: b"\x88",
        lambda: b"]",
        lambda: b"}",
        lambda: b")",
        lambda: b"\x8f",
        lambda: integer(chance.choice([0, 1, -1, 2**31, M61, -(2**200)])),
        lambda: b"G" + struct.pack(">d", chance.choice([0, 1.5, float("inf"), float("nan"), 1e300])),
        lambda: text(chance.choice([b"", b"id", b"text", b"a" * 5000, b"\xed\xa0\x80", b"train", b"labels"])),
        lambda: array(
            [chance.choice([0, 1, 2, 2**40]) for _ in range(chance.randrange(4))],
            chance.choice([b"f4", b"U0", b"O8", b"S3", b"b1"]),
            bytes(chance.choice([0, 4, 8])),
        ),
        lambda: b"h%c" % chance.randrange(3),
    ]
    nests = [
        lambda: b"](" + b"".join(made() for _ in range(few)) + b"e",
        lambda: b"}(" + b"".join(made() for _ in range(2 * few + (chance.random() < 0.05))) + b"u",
        lambda: b"(" + b"".join(made() for _ in range(few)) + b"t",
        lambda: b"\x8f(" + b"".join(made() for _ in range(few)) + b"\x90",
        lambda: made() + b"q%c" % chance.randrange(3),
        lambda: made() + b"2\x86" * chance.randrange(40),
        lambda: (
            chance.choice(
                [
                    b"cbuiltins\nset\n",
                    b"cbuiltins\nrange\n",
                    b"cbuiltins\nbytearray\n",
                    b"c_codecs\nencode\n",
                    b"cnumpy\ndtype\n",
                    b"cos\nsystem\n",
                ]
            )
            + b"("
            + b"".join(made() for _ in range(few))
            + b"tR"
        ),
        lambda: (
            b"}("
            + text(b"train")
            + b"}("
            + b"".join(text(key) + made() for key in (b"text", b"audio", b"id", b"labels"))
            + b"uu"
        ),
    ]
    return chance.choice(leaves if depth > 4 else leaves + 2 * nests)()


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_give_a_value_or_a_source_error(tmp_path, seed):
    chance, path = random.Random(seed), tmp_path / "random.pkl"
    for _ in range(250):
        path.write_bytes(b"\x80\x03" + program(chance) + b".")
        for read in (_pickle.load, mult.read, mmsa.read):
            with contextlib.suppress(SourceError):
                read(path)
