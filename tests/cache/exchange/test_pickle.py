"""The pickle machine: equal to Python's reader on what is harmless, deaf to the rest, and lazy."""

import collections
import contextlib
import os
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa.cache.exchange import _arrays, _pickle
from msa.cache.exchange._arrays import ArrayOnFile, Payload
from msa.errors import SourceError

PROTOCOLS = range(6)
chance = np.random.default_rng(0)

ARRAYS = {
    "float32": chance.normal(size=(4, 3)).astype(np.float32),
    "float64": chance.normal(size=5),
    "float16": chance.normal(size=(2, 2)).astype(np.float16),
    "big endian": chance.normal(size=(3, 4)).astype(">f4"),
    "integers": np.arange(7),
    "truth": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "none": np.zeros((0, 5), np.float32),
    "zero-dimensional": np.array(3.5),
    "fortran": np.asfortranarray(chance.normal(size=(3, 4))),
    "axes exchanged": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "not contiguous": np.arange(20.0)[::3],
    "strings": np.array(["a", "bcd", "ü😀"]),
    "bytes": np.array([b"a", b"bc"]),
    "empty strings": np.array(["", ""]),
    "objects": np.array(["a", None, 3, [1, 2], b"x"], object),
    "grid of objects": np.array([["a", None], [1.5, 2]], object),
    "arrays in an array": np.array([np.zeros((1, 2)), np.ones((3, 2), np.float32), None], object),
    "large": chance.normal(size=(40, 7, 11)).astype(np.float32),
    "large fortran": np.asfortranarray(chance.normal(size=(50, 40))),
    "large, axes exchanged": chance.normal(size=(30, 8, 9)).transpose(1, 2, 0),
    "large strings": np.array([f"text {i} ü" for i in range(900)]),
}
PLAIN = [
    None, True, False, 0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63, -(2**200), 2**2000,
    0.0, -0.0, 1.5, float("inf"), -1e300, 3 + 4j,
    "", "text", "a\nb\\u0041\0", "ü😀", "x" * 300, b"", b"bytes\n'\"", b"\x00\xff" * 200, bytearray(b"ab\xff"),
    "ü" * 70_000, b"\xff" * 5000, b"\xfe" * 70_000,
    (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1, [2, []]], {}, {"a": {"b": [1]}, 2: None, (1, "x"): 3.0},
    set(), {1, "a"}, frozenset({1, 2}), range(3, 9, 2), slice(1, None, 2),
    np.float64(1.5), np.float32(-2), np.int64(7), np.bool_(True), np.str_("ab"), np.bytes_(b"xy"),
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """Writes bytes, or the pickle of a value, and gives the path."""

    def write(content, protocol=4):
        path = tmp_path / "file.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path

    return write


def plain(value):
    """The value with everything read that was left in the file."""
    if isinstance(value, ArrayOnFile):
        return value.whole()
    if isinstance(value, Payload):
        return value.read().decode() if value.codec == "utf-8" else bytes(value.read())
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return {key: plain(item) for key, item in value.items()} if type(value) is dict else value


def same(found, expected):
    """Equal in type, and arrays in type and shape of their numbers; NaN equals NaN."""
    if isinstance(expected, np.ndarray):
        if not (isinstance(found, np.ndarray) and found.dtype == expected.dtype and found.shape == expected.shape):
            return False
        if expected.dtype != object:
            return found.tobytes() == expected.tobytes()
        return all(map(same, found.ravel(), expected.ravel()))
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return found == expected or (found != found and expected != expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_what_python_reads(file, protocol):
    assert same(plain(_pickle.load(file(PLAIN, protocol))), PLAIN)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_what_python_reads(file, kind, protocol):
    found = _pickle.load(file({"of": [ARRAYS[kind], "text"]}, protocol))["of"]
    assert same(plain(found[0]), ARRAYS[kind])
    assert found[1] == "text"
    if isinstance(found[0], ArrayOnFile):
        assert found[0].shape == ARRAYS[kind].shape
        assert all(np.array_equal(found[0].row(i), row) for i, row in enumerate(ARRAYS[kind]))
        with pytest.raises(IndexError):
            found[0].row(len(found[0]))


def test_arrays_of_numbers_stay_in_the_file(file):
    found = _pickle.load(file(ARRAYS))
    assert {kind for kind, array in found.items() if isinstance(array, ArrayOnFile)} == {
        "large", "large fortran", "large, axes exchanged",
    }  # fmt: skip
    assert found["large"].by_row
    assert not found["large fortran"].by_row


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_recursive_values(file, protocol):
    shared, array, ring, book = ["x"], np.arange(3), [1], {}
    ring.append(ring)
    book["self"] = (book, shared)
    found = _pickle.load(file([shared, shared, array, array, ring, book], protocol))
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert found[4][1] is found[4]
    assert found[5]["self"][0] is found[5]
    assert found[5]["self"][1] is found[0]


def python2(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def py2_array(data: bytes, shape: int) -> bytes:
    """As Python 2 and numpy 1 wrote an array of float32: module names of old, data as a string."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01"
        + b"M" + struct.pack("<H", shape) + b"\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )  # fmt: skip


@pytest.mark.parametrize("n", [3, 5000])
def test_arrays_of_python_2(file, n):
    array = chance.normal(size=n).astype(np.float32)
    content = python2(py2_array(array.tobytes(), n))
    assert np.array_equal(pickle.loads(content, encoding="latin1"), array)  # the file is one
    found = _pickle.load(file(content))
    assert isinstance(found, ArrayOnFile) == (n > 1024)
    assert same(plain(found), array)


def test_strings_of_python_2_are_text_where_they_can_be(file):
    content = python2(b"(U\x03abcU\x02\xc3\xbcU\x01\xfcS'it\\'s \\xc3\\xbc'\nI01\nL12L\ntp1\n")
    assert _pickle.load(file(content)) == ("abc", "ü", b"\xfc", "it's ü", True, 12)


class Evil:
    def __init__(self, function, *args):
        self.state = function, args

    def __reduce__(self):
        return self.state


def hostile(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that touch a file when Python reads them, or could: content, and what the refusal has to name."""
    touch = f"touch {mark}"
    system, evil = Evil(os.system, touch), Evil(eval, f"open({str(mark)!r}, 'w').close()")
    nested = np.array([None, evil], object)
    stateful = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(dS'a'\ncposix\nsystem\nsb."
    return {
        "REDUCE": (pickle.dumps(system, 0), "posix.system"),
        "STACK_GLOBAL": (pickle.dumps({"train": [evil]}, 4), "builtins.eval"),
        "in an object array": (pickle.dumps(nested, 4), "builtins.eval"),
        "as a key": (pickle.dumps({evil: 1}, 2), "__builtin__.eval"),
        "in a state": (stateful, "posix.system"),
        "a state for what is none": (b"]}S'a'\nI1\nsb.", "state of a list"),
        "a state for numpy's class": (b"cnumpy\nndarray\n(dS'a'\nI1\nsb.", "state of numpy.ndarray"),
        "a call of a value": (b"S'posix.system'\n(S'x'\ntR.", "calls a str"),
        "getattr": (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        "through a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.nam\x93.", "numpy.f2py.os.nam"),
        "__main__": (pickle.dumps(collections.OrderedDict(a=1), 4), "collections.OrderedDict"),
        "copyreg": (b"ccopy_reg\n_reconstructor\n.", "copy_reg._reconstructor"),
        "INST": (f"(S'{touch}'\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (b"(cos\nsystem\nS'x'\no.", "os.system"),
        "NEWOBJ": (b"\x80\x02cos\nsystem\n(S'x'\nt\x81.", "os.system"),
        "NEWOBJ_EX": (b"\x80\x04cbuiltins\nset\n)}\x92.", "NEWOBJ_EX"),
        "PERSID": (b"Pos\n.", "PERSID"),
        "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
        "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "a codec": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "rot13"),
        "records": (pickle.dumps(np.zeros(2, [("a", "f4")])), "V4"),
        "dates": (pickle.dumps(np.zeros(2, "M8[s]")), "M8"),
        "an array made by a call": (b"cnumpy\nndarray\n(I1000000000000\ntR.", "array in a way"),
    }


@pytest.mark.parametrize("way", hostile(Path("x")))
def test_a_hostile_file_is_refused_by_name_and_does_nothing(file, tmp_path, way):
    content, named = hostile(tmp_path / "mark")[way]
    with pytest.raises(SourceError, match="refused at byte") as raised:
        _pickle.load(file(content))
    assert named in raised.value.what
    assert not (tmp_path / "mark").exists()


def test_the_hostile_file_would_have_worked(file, tmp_path):
    content, _ = hostile(tmp_path / "mark")["STACK_GLOBAL"]
    pickle.loads(content)
    assert (tmp_path / "mark").exists()


BOMBS = {
    "bytes beyond the end": b"\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "text beyond the end": b"X" + struct.pack("<I", 1 << 31) + b"abc.",
    "a negative string": b"T\xff\xff\xff\xff.",
    "a long integer": b"\x8b" + struct.pack("<i", 1 << 20) + b"x" * (1 << 20) + b".",
    "digits": b"L" + b"9" * 5000 + b"L\n.",
    "a large bytearray": b"cbuiltins\nbytearray\n(I1000000000000\ntR.",
    "a set of a range": b"cbuiltins\nset\n(cbuiltins\nrange\n(I0\nI1000000000000\ntRtR.",
    "a key that takes for ever": b"})" + b"2\x86" * 60 + b"I1\ns.",
    "copies of one text": b"(V" + b"x" * 60_000 + b"\np0\n" + b"c_codecs\nencode\n(g0\nVlatin1\ntR" * 2000 + b"l.",
    "a key that is a list": b"}]I1\ns.",
    "a list inside out": b"(dS'x'\na.",
    "nothing on the stack": b".",
    "two values": b"NN.",
    "a mark without end": b"(.",
    "another protocol": b"\x80\x06N.",
    "an unknown opcode": b"\xff.",
    "an unknown memo": b"h\x05.",
    "a name that is none": b"cbuiltins\nset\n.",
    "half an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_no_pickler_writes_is_damage(file, kind):
    with pytest.raises(SourceError, match=r"(damaged pickle|refused) at byte"):
        _pickle.load(file(BOMBS[kind]))


def test_arrays_must_fill_their_bytes(file):
    content = pickle.dumps(np.arange(6, dtype=np.int64), 4)
    for shape in (b"K\x05", b"K\x07", b"J\xff\xff\xff\xff"):
        with pytest.raises(SourceError, match="an array of"):
            _pickle.load(file(content.replace(b"K\x06\x85", shape + b"\x85")))


def test_arrays_of_objects_nested_for_a_crash_are_refused(file):
    array = None
    for _ in range(5):
        outer = np.empty(1, object)
        outer[0], array = array, outer
    with pytest.raises(SourceError, match="nests arrays"):
        _pickle.load(file(array))


def small(protocol):
    return pickle.dumps(
        {"a": [1, "ü", b"x", 2**40, {3}], "b": np.arange(3, dtype="f4"), "o": ARRAYS["objects"]}, protocol
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_at_any_byte_is_an_error_with_a_way_out(file, protocol):
    path = file(small(protocol))
    for end in reversed(range(path.stat().st_size)):
        os.truncate(path, end)
        with pytest.raises(SourceError) as raised:
            _pickle.load(path)
        assert raised.value.fix


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PROTOCOLS), st.data())
def test_flipped_bytes_give_a_value_or_a_source_error(file, protocol, data):
    content = bytearray(small(protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SourceError):
        _pickle.load(file(bytes(content)))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
KEYS = st.text() | st.integers() | st.binary() | st.tuples(st.integers(), st.text())
NESTED = st.recursive(
    SCALARS | st.sampled_from([ARRAYS[kind] for kind in ("float32", "strings", "large", "fortran")]),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NESTED, st.sampled_from(PROTOCOLS))
def test_any_nesting_is_what_python_reads(file, value, protocol):
    assert same(plain(_pickle.load(file([value], protocol))), [value])


def test_every_opcode_is_known():
    assert {op.code.encode("latin1") for op in pickletools.opcodes} - _pickle._OPS.keys() == {b"."}


OTHERS = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"PK\x03\x04rest": "zip",
    b"\x93NUMPY\x01": "npy",
    b"\x1f\x8b\x08": "gzip",
    b"<!DOCTYPE html>": "web page",
    b"version https://git-lfs.github.com/spec/v1": "LFS",
    pickle.dumps(0x1950A86A20F9469CFC6C, 2): "torch.save",
}


@pytest.mark.parametrize("content", OTHERS)
def test_what_is_no_pickle_is_said_by_name(file, content):
    with pytest.raises(SourceError, match=OTHERS[content]):
        _pickle.load(file(content))


def test_a_missing_file_a_folder_and_an_empty_file(file, tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (file(b""), "empty")):
        with pytest.raises(SourceError, match=why):
            _pickle.load(path)


def test_a_row_of_a_large_array_is_read_by_itself(file, monkeypatch):
    array = np.arange(50 * 250_000, dtype=np.float32).reshape(50, 250, 1000)  # 50 MB
    path, read = file({"text": array, "id": ["a"]}), []
    plain_read = _arrays.FileBytes.read
    monkeypatch.setattr(_arrays.FileBytes, "read", lambda *a: (read.append(a[2]), plain_read(*a))[1])
    with open(path, "rb") as stream:
        machine = _pickle._Machine(stream, _arrays.FileBytes.of(path))
        found = machine.run()["text"]
        assert os.fstat(stream.fileno()).st_size > 50e6
    assert read == []
    assert np.array_equal(found.row(7), array[7])
    assert read == [250 * 1000 * 4]


def test_loading_a_large_file_takes_no_memory(file):
    import tracemalloc

    path = file(
        {"text": np.zeros((10, 1_000_000), np.float32), "list": [np.ones(2000)] + [np.ones(2000) for _ in "ab"]}
    )
    tracemalloc.start()
    found = _pickle.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert found["text"].row(3).shape == (1_000_000,)


def test_a_file_that_changes_under_our_hands_is_noticed(file):
    path = file({"text": np.zeros((10, 1000))})
    found = _pickle.load(path)["text"]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SourceError, match="was written to while it was read"):
        found.row(0)


def test_latin1_that_decodes_to_another_size_is_damage(file):
    content = pickle.dumps(np.ones(70_000, np.uint8), 2)
    assert np.array_equal(_pickle.load(file(content)).whole(), np.ones(70_000, np.uint8))
    found = _pickle.load(file(content.replace(b"\1\1" * 20_000, b"\xc3\xbc" * 20_000, 1)))
    with pytest.raises(SourceError, match="is damaged"):
        found.row(0)
