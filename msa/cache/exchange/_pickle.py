"""Pickles of plain values and numpy arrays, read by a machine that runs nothing and loads no large array.

A pickle is a program, and Python's own reader runs it: files from strangers must not be given to it. This machine
knows the opcodes of protocols 0 to 5, the containers and scalars of Python, and numpy's arrays and scalars; for these
it builds its own values from a closed table of names. Nothing is imported, nothing of the file is called, and every
other name is refused together with the file. So are sizes beyond the file's end, and programs that ask for more
memory or work than their own length excuses: see `Limits`. Time and memory are in proportion to the file.

Bytes of more than LAZY and texts of more than LONG_TEXT stay in the file as a `Payload`, arrays over them as an
`ArrayOnFile` (see there for those that can only be loaded whole); smaller arrays, and arrays of strings and objects,
are numpy's, and read-only. In protocol 0 bytes are lines of text: they are read where they stand.
Strings of Python 2 are text where they are UTF-8, and bytes otherwise.
"""

import codecs
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from msa import regular
from msa.cache.exchange._arrays import FileBytes, Payload
from msa.cache.exchange._values import NAMES, OBJECT, Global, Limits, Refused, TooMuch, Unbuilt, array_of, dtype_of
from msa.errors import SourceError

LAZY = 4096  # bytes: lists of ten thousands of small arrays are also more than should stand in memory
LONG_TEXT = 1 << 16
LONGEST_INT = 1024  # bytes
SET, DICT, LIST, MEMO = 216, 232, 88, 128  # bytes of a small one
TORCH = 0x1950A86A20F9469CFC6C  # the number a torch.save file of before 2020 starts with

_DAMAGE = (IndexError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, struct.error)

OTHERS = {  # how files begin that are called .pkl and are none
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"PK\x03\x04": "a zip archive, as numpy's .npz and torch.save are",
    b"\x93NUMPY": "a numpy .npy file",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PAR1": "a Parquet file",
    b"version https://git-lfs": "a Git LFS pointer, not the data",
    b"<!DOCTYPE": "a web page, as a download that asks for a confirmation leaves behind",
    b"<html": "a web page, as a download that asks for a confirmation leaves behind",
}


def load(path: Path) -> Any:
    """Return the value in a pickle.

    Raises SourceError: no such file, no pickle, damaged, or it asks for what is refused.
    """
    try:
        with regular.opened(path) as stream:
            _check_kind(path, stream.read(32))
            stream.seek(0)
            value = _Machine(stream, FileBytes.of(path)).run()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}", fix="name a pickle file") from error
    if type(value) is int and value == TORCH:
        raise _none(path, "written by torch.save")
    return value


def _check_kind(path: Path, head: bytes) -> None:
    if not head:
        raise SourceError(f"{path} is empty", fix="get the file again")
    for magic, kind in OTHERS.items():
        if head.startswith(magic):
            raise _none(path, kind)


def _none(path: Path, kind: str) -> SourceError:
    return SourceError(
        f"{path} is no pickle: it is {kind}", fix="unpack it or get the file itself, or import it as what it is"
    )


class _Machine:
    """The stack machine of the pickle language: docs in CPython's pickletools.py."""

    def __init__(self, stream: IO[bytes], file: FileBytes) -> None:
        self.stream = stream
        self.file = file
        self.at = 0  # the byte of the opcode at work
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.unbuilt = 0
        self.limits = Limits(file.size)

    def run(self) -> Any:
        """Work through the file and return what it leaves on the stack."""
        try:
            while (code := self.take(1)) != b".":
                _OPS[code](self)
                self.at = self.stream.tell()
            (value,) = self.stack
            if self.unbuilt or self.marked or isinstance(value, Global | Unbuilt):
                raise ValueError("it ends too early")
            return value
        except Refused as error:
            what = str(error)[:200]
            raise SourceError(
                f"{self.file.path}: refused at byte {self.at}: {what}; opening such a pickle can run anything",
                fix="ask its maker for plain dicts, lists and numpy arrays, or convert it where you trust it",
            ) from error
        except TooMuch as error:
            raise SourceError(
                f"{self.file.path}: refused at byte {self.at}: it asks for {error}",
                fix="ask its maker for arrays of numbers in place of nested lists, and for short texts as keys",
            ) from error
        except KeyError as error:
            raise self.damaged(f"no such opcode or memo: {error}") from error
        except (
            IndexError,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            RecursionError,
            struct.error,
        ) as error:
            raise self.damaged(str(error)) from error

    def damaged(self, why: str) -> SourceError:
        """Return the error for what no pickler writes."""
        return SourceError(f"{self.file.path}: damaged pickle at byte {self.at}: {why[:200]}", fix="get the file again")

    # arguments behind an opcode

    def take(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) != size:
            raise ValueError("the file ends here")
        return data

    def unpack(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        data = self.stream.readline()
        if not data.endswith(b"\n"):
            raise ValueError("the file ends here")
        return data[:-1]

    def run_of(self, form: str, limit: int, codec: str = "") -> bytes | Payload:
        """Return as many bytes as the next number says; a Payload where these are more than `limit`."""
        size, start = self.unpack(form), self.stream.tell()
        if not 0 <= size <= self.file.size - start:
            raise ValueError(f"{size:,} bytes announced, {self.file.size - start:,} are left")
        if size <= limit:
            return self.take(size)
        self.stream.seek(size, 1)
        return Payload(self.file, start, size, codec)

    def data(self, form: str) -> bytes | Payload:
        return self.run_of(form, LAZY)

    def mutable(self, form: str) -> bytearray | Payload:
        run = self.run_of(form, LAZY)
        return bytearray(run) if isinstance(run, bytes) else run

    def text(self, form: str) -> str | Payload:
        run = self.run_of(form, LONG_TEXT, "utf-8")
        return run.decode("utf-8", "surrogatepass") if isinstance(run, bytes) else run

    def integer(self, form: str) -> int:
        size = self.unpack(form)
        if not 0 <= size <= LONGEST_INT:
            raise ValueError(f"an integer of {size:,} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def words(self) -> tuple[str, str]:
        return self.line().decode("utf-8"), self.line().decode("utf-8")

    # the stack

    def marks(self) -> list[Any]:
        """Return what stands above the last mark, which goes."""
        above, self.stack = self.stack, self.marked.pop()
        return above

    def args(self, n: int) -> list[Any]:
        """Return the n topmost values."""
        if len(self.stack) < n:
            raise IndexError("the stack is empty")
        above = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return above

    def top(self, kind: type) -> Any:
        if type(value := self.stack[-1]) is not kind:
            raise TypeError(f"{type(value).__name__} where a {kind.__name__} should stand")
        return value

    def push_mark(self) -> None:
        self.limits.spend(OBJECT)
        self.marked.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marks()

    def remember(self, number: int) -> None:
        value = self.stack[-1]
        self.limits.spend(MEMO)
        self.memo[number] = value
        if isinstance(value, Unbuilt):
            value.memo = number

    def recall(self, number: int) -> Any:
        return self.whole(self.memo[number])

    def whole(self, value: Any) -> Any:
        """Return the value; one that is still to be built stands in one place only, where BUILD replaces it."""
        if isinstance(value, Unbuilt):
            raise ValueError("an array that holds itself")
        return value

    # containers

    def append(self, values: Iterable[Any]) -> None:
        self.top(list).extend(values)

    def insert(self, values: list[Any]) -> None:
        self.top(dict).update(self.pairs(values))

    def pairs(self, values: list[Any]) -> dict[Any, Any]:
        if len(values) % 2:
            raise ValueError("a key without a value")
        self.limits.spend(OBJECT * len(values) // 2)
        return {self.limits.key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}

    def add(self, values: list[Any]) -> None:
        self.limits.spend(OBJECT * len(values))
        self.top(set).update(map(self.limits.key, values))

    # names

    def name(self, module: Any, name: Any) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        self.limits.spend(2 * OBJECT)
        known = re.sub(r"^numpy\.core\.", "numpy._core.", module.replace("__builtin__", "builtins")) + "." + name
        if known not in NAMES:
            raise Refused(f"it asks for {module}.{name}")
        return Global(known)

    def call(self) -> None:
        """REDUCE and NEWOBJ: the value our table makes of a name and arguments."""
        which, args = self.args(2)
        if not isinstance(which, Global):
            raise Refused(f"it calls a {type(which).__name__}")
        if type(args) is not tuple:
            raise TypeError("a call without arguments")
        self.limits.spend(OBJECT)
        value = NAMES[which.name](self.limits, *args)
        self.unbuilt += isinstance(value, Unbuilt)
        self.stack.append(value)

    def build(self) -> None:
        unbuilt, state = self.args(2)
        if not isinstance(unbuilt, Unbuilt):
            what = unbuilt.name if isinstance(unbuilt, Global) else f"a {type(unbuilt).__name__}"
            raise Refused(f"it sets the state of {what}")
        value = array_of(self.limits, *state[-4:]) if unbuilt.dtype is None else dtype_of(unbuilt.dtype, *state)
        self.unbuilt -= 1
        self.stack.append(value)
        if unbuilt.memo is not None:
            self.memo[unbuilt.memo] = value

    def refuse(self, what: str) -> None:
        raise Refused(f"it {what}")


# the opcodes


def _python2(data: bytes | Payload) -> Any:
    if isinstance(data, Payload):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _quoted(line: bytes) -> Any:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes that Python has no meaning for, which stay as they are
        return _python2(codecs.escape_decode(line[1:-1])[0])


def _decimal(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > LONGEST_INT:
        raise ValueError(f"an integer of {len(line):,} digits")
    return int(line.removesuffix(b"L"))


def _protocol(m: _Machine) -> None:
    if (version := m.unpack("<B")) > 5:
        raise ValueError(f"protocol {version}; known are 0 to 5")


def _pushes(make: Callable[[_Machine], Any], cost: int = 0) -> Callable[[_Machine], None]:
    """Return an opcode that leaves one more value on the stack, which takes `cost` bytes that are not in the file."""

    def push(m: _Machine) -> None:
        if cost:
            m.limits.spend(cost)
        value = make(m)  # first: what takes a mark changes the stack there is
        m.stack.append(value)

    return push


_OPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.take(8),  # FRAME: only says how much to read ahead
    b"(": _Machine.push_mark,
    b"0": _Machine.pop,
    b"1": _Machine.marks,
    b"2": _pushes(lambda m: m.whole(m.stack[-1])),
    b"N": _pushes(lambda m: None),
    b"\x88": _pushes(lambda m: True),
    b"\x89": _pushes(lambda m: False),
    b"I": _pushes(lambda m: _decimal(m.line())),
    b"L": _pushes(lambda m: _decimal(m.line())),
    b"J": _pushes(lambda m: m.unpack("<i")),
    b"K": _pushes(lambda m: m.unpack("<B")),
    b"M": _pushes(lambda m: m.unpack("<H")),
    b"\x8a": _pushes(lambda m: m.integer("<B")),
    b"\x8b": _pushes(lambda m: m.integer("<i")),
    b"F": _pushes(lambda m: float(m.line())),
    b"G": _pushes(lambda m: m.unpack(">d")),
    b"S": _pushes(lambda m: _quoted(m.line())),
    b"T": _pushes(lambda m: _python2(m.data("<i"))),
    b"U": _pushes(lambda m: _python2(m.data("<B"))),
    b"C": _pushes(lambda m: m.data("<B")),
    b"B": _pushes(lambda m: m.data("<I")),
    b"\x8e": _pushes(lambda m: m.data("<Q")),
    b"\x96": _pushes(lambda m: m.mutable("<Q")),
    b"V": _pushes(lambda m: m.line().decode("raw-unicode-escape")),
    b"\x8c": _pushes(lambda m: m.text("<B")),
    b"X": _pushes(lambda m: m.text("<I")),
    b"\x8d": _pushes(lambda m: m.text("<Q")),
    b"]": _pushes(lambda m: [], LIST),
    b"}": _pushes(lambda m: {}, DICT),
    b")": _pushes(lambda m: ()),
    b"\x8f": _pushes(lambda m: set(), SET),
    b"l": _pushes(_Machine.marks, LIST),
    b"t": _pushes(lambda m: tuple(m.marks()), OBJECT),
    b"d": _pushes(lambda m: m.pairs(m.marks()), DICT),
    b"\x91": _pushes(lambda m: frozenset(map(m.limits.key, m.marks())), SET),
    b"\x85": _pushes(lambda m: tuple(m.args(1)), OBJECT),
    b"\x86": _pushes(lambda m: tuple(m.args(2)), OBJECT),
    b"\x87": _pushes(lambda m: tuple(m.args(3)), OBJECT),
    b"a": lambda m: m.append(m.args(1)),
    b"e": lambda m: m.append(m.marks()),
    b"s": lambda m: m.insert(m.args(2)),
    b"u": lambda m: m.insert(m.marks()),
    b"\x90": lambda m: m.add(m.marks()),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.unpack("<B")),
    b"r": lambda m: m.remember(m.unpack("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": _pushes(lambda m: m.recall(int(m.line()))),
    b"h": _pushes(lambda m: m.recall(m.unpack("<B"))),
    b"j": _pushes(lambda m: m.recall(m.unpack("<I"))),
    b"c": _pushes(lambda m: m.name(*m.words())),
    b"\x93": _pushes(lambda m: m.name(*m.args(2))),
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"b": _Machine.build,
    b"\x92": lambda m: m.refuse("makes an object with keywords (NEWOBJ_EX)"),
    b"i": lambda m: m.refuse(f"makes an instance of {'.'.join(m.words())} (INST)"),
    b"o": lambda m: m.refuse("makes an instance (OBJ)"),
    b"P": lambda m: m.refuse("refers to something outside the file (PERSID)"),
    b"Q": lambda m: m.refuse("refers to something outside the file (BINPERSID)"),
    b"\x82": lambda m: m.refuse("uses the extension registry (EXT1)"),
    b"\x83": lambda m: m.refuse("uses the extension registry (EXT2)"),
    b"\x84": lambda m: m.refuse("uses the extension registry (EXT4)"),
    b"\x97": lambda m: m.refuse("needs a buffer outside the file (NEXT_BUFFER)"),
    b"\x98": lambda m: m.refuse("needs a buffer outside the file (READONLY_BUFFER)"),
}
