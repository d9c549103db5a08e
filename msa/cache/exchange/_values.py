"""What a pickle of numpy arrays may name, and the values we make of it: nothing is imported, nothing of it called."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from msa.cache.exchange._arrays import ArrayOnFile, Payload, check_size

KEY = 200  # values that may stand, nested, in one key: the hash of shared tuples can take for ever
LONGEST_KEY = 4096  # characters: equal keys are compared letter by letter
MOST_KEYS = 1000  # that are neither texts nor small numbers: any number of those can be made to have one hash
SMALL = 2**31  # whole numbers below it have a hash of their own
SCALARS = (str, bytes, int, float, complex, type(None), np.generic)
OBJECT = 64  # bytes that a small object takes, with its place in a container
PER_BYTE, SLACK = 32, 1 << 26  # memory a file may ask for: so many bytes for each of its own, and so many more


@dataclass(frozen=True)
class Global:
    """A name the file asks for, of those in `NAMES`."""

    name: str


@dataclass(eq=False)
class Unbuilt:
    """An array or dtype whose state comes with a later BUILD; that replaces it, here and in the memo."""

    dtype: np.dtype | None  # None: an array
    memo: int | None = None


class Refused(Exception):
    """The file asks for what is never done."""


class TooMuch(Exception):
    """The file asks for more than a file of its size needs."""


class Limits:
    """How much a file of `size` bytes may ask for. Honest files need a third of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.allowance = PER_BYTE * size + SLACK  # bytes
        self.keys = MOST_KEYS

    def key(self, value: Any) -> Any:
        """Return the value if its hash is computed in short time and few others can share it."""
        if type(value) in (str, bytes):  # Python's hash of these cannot be foreseen
            if len(value) > LONGEST_KEY:
                raise TooMuch(f"a key of {len(value):,} characters; at most {LONGEST_KEY:,} are read")
            return value
        if isinstance(value, np.str_ | np.bytes_):
            return self.key(value.item())  # numpy hashes a text again each time
        if not (isinstance(value, int | np.integer | type(None)) and -SMALL <= (value or 0) < SMALL):
            self.keys -= 1
            if self.keys < 0:
                raise TooMuch(f"more than {MOST_KEYS:,} keys that are neither texts nor small whole numbers")
        todo, seen = [value], 0
        while todo:
            item = todo.pop()
            seen += 1
            if isinstance(item, tuple | frozenset) and len(item) <= KEY:
                todo += item
            elif not isinstance(item, SCALARS):
                raise TypeError(f"a {type(item).__name__} as a key")
            elif isinstance(item, str | bytes) and len(item) > LONGEST_KEY:
                raise TooMuch(f"a key of {len(item):,} characters; at most {LONGEST_KEY:,} are read")
            if seen > KEY:
                raise TooMuch("an endless key")
        return value

    def spend(self, amount: int) -> None:
        """Count bytes of memory: containers, and what is copied, for shared values are named again in two bytes."""
        self.allowance -= amount
        if self.allowance < 0:
            raise TooMuch(f"more than {PER_BYTE * self.size + SLACK:,} bytes of memory, for a file of {self.size:,}")

    def check_empty(self, shape: Any, dtype: np.dtype) -> None:
        """Refuse rows without bytes of which a file of this size cannot have as many; they cost it nothing."""
        if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"an array of the shape {str(shape)[:60]}")
        if (not dtype.itemsize or 0 in shape) and math.prod(n for n in shape if n) > self.size:
            raise TooMuch(f"an array of the shape {str(list(shape))[:60]} that holds no byte")


def _set(limits: Limits, items: Any = ()) -> set[Any]:
    limits.spend(OBJECT * len(items))
    return set(map(limits.key, items))


def _frozenset(limits: Limits, items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(limits, items))


def _bytes(limits: Limits) -> bytes:
    return b""  # protocols 0 to 2 write only the empty ones so


def _bytearray(limits: Limits, data: Any = b"", codec: str = "latin-1") -> bytearray:
    plain = data if isinstance(data, bytes | Payload) else _encode(limits, data, codec)
    limits.spend(len(plain) if isinstance(plain, bytes) else plain.size)
    return bytearray(plain) if isinstance(plain, bytes) else plain.read()


def _encode(limits: Limits, text: Any, codec: str) -> bytes | Payload:
    if codec.lower() not in ("latin1", "latin-1"):
        raise Refused(f"it asks for the codec {codec!r}")
    if isinstance(text, Payload) and text.codec == "utf-8":
        return Payload(text.file, text.offset, text.size, "latin1")
    if type(text) is not str:
        raise TypeError(f"expected a text to encode, got a {type(text).__name__}")
    limits.spend(len(text))
    return text.encode("latin1")


def _complex(limits: Limits, real: float, imaginary: float) -> complex:
    if not all(isinstance(value, int | float) for value in (real, imaginary)):
        raise TypeError("a complex number whose parts are not numbers")
    return complex(real, imaginary)


def _range(limits: Limits, *bounds: Any) -> range:
    return range(*bounds)


def _slice(limits: Limits, *bounds: Any) -> slice:
    if not all(bound is None or type(bound) is int for bound in bounds):
        raise TypeError("a slice whose bounds are not whole numbers")
    return slice(*bounds)


def _no_call(limits: Limits, *args: Any) -> None:
    raise Refused("it makes an array in a way no pickler does")


def _unbuilt_array(limits: Limits, kind: Any, shape: Any, code: Any) -> Unbuilt:
    if kind != Global("numpy.ndarray"):
        raise TypeError("an array of a class of its own")
    return Unbuilt(None)


def _unbuilt_dtype(limits: Limits, code: Any, align: Any = False, copy: Any = True) -> Unbuilt:
    """Return a dtype of numbers, truth values, strings or objects; a code may be no more than a letter and a size."""
    if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[biufcSUO]\d{0,9}", code)):
        raise Refused(f"it holds values of numpy's type {code!r}, which are neither numbers nor texts")
    return Unbuilt(np.dtype(code))


def dtype_of(plain: np.dtype, version: int, order: str, sub: Any, names: Any, fields: Any, *rest: Any) -> np.dtype:
    if any(part is not None for part in (sub, names, fields)):
        raise Refused("it holds records of numpy, which are neither numbers nor texts")
    return plain.newbyteorder(order)  # type: ignore[arg-type]


def array_of(limits: Limits, shape: Any, dtype: Any, fortran: Any, data: Any) -> Any:
    """Return the state of an array: (version, shape, dtype, in Fortran's order, bytes or list of objects)."""
    return _frombuffer(limits, data, dtype, shape, "F" if fortran else "C")


def _frombuffer(limits: Limits, data: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Any:
    if type(shape) is not tuple or not isinstance(dtype, np.dtype) or order not in ("C", "F", "K"):
        raise TypeError("an array without shape, type or order")
    if dtype.kind == "O":
        return _objects(limits, data, shape, order)
    if isinstance(data, str):  # a string of Python 2
        data = data.encode("utf-8")
    order, axes = ("C", axes) if order == "K" else (order, None)
    limits.check_empty(shape, dtype)
    if isinstance(data, Payload) and dtype.kind not in "US":
        return ArrayOnFile(data, dtype, shape, order, axes)
    limits.spend(data.size if isinstance(data, Payload) else len(data))
    data = data.read() if isinstance(data, Payload) else data
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"an array of a {type(data).__name__}")
    check_size(shape, dtype, len(data))
    array: np.ndarray = np.ndarray(shape, dtype, bytes(data), order="F" if order == "F" else "C")
    if dtype.kind == "U" and data and np.ndarray(len(data) // 4, dtype.byteorder + "u4", data).max() > 0x10FFFF:
        raise ValueError(f"a unicode array with code points beyond U+10FFFF, dtype {dtype}")
    return array if axes is None else array.transpose(axes)


def _objects(limits: Limits, values: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    limits.check_empty(shape, np.dtype("O"))
    if type(values) is not list or any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) != len(values):
        raise ValueError(f"no list of objects for an array of the shape {shape}")
    limits.spend(8 * len(values))
    flat = np.empty(len(values), object)
    for i, value in enumerate(values):  # one by one: numpy would unfold lists
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            raise Refused("it nests arrays of objects")  # numpy frees them by recursion: a deep one ends the process
        flat[i] = value
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(limits: Limits, dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind == "O":
        raise TypeError("a number without a type")
    return _frombuffer(limits, data, dtype, (), "C")[()]


NAMES: dict[str, Callable[..., Any]] = {
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.range": _range,
    "builtins.xrange": _range,
    "builtins.slice": _slice,
    "_codecs.encode": _encode,
    "numpy.ndarray": _no_call,
    "numpy.dtype": _unbuilt_dtype,
    "numpy._core.multiarray._reconstruct": _unbuilt_array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _frombuffer,
}
