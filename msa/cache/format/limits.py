"""What a stranger's store may say: names, sizes, shapes, codecs, checked before memory is taken or a path followed.

Everything here is pure, knows the rules of docs/store-format.md and nothing of a store's contents, and raises
StoreError. A value that passes can still be wrong; checksums and `msa cache verify` find that. It can no longer lead
out of the store, fill the memory, or run anything. Loaders, `verify` and writers ask the same functions: what `verify`
passes loads, and what could not be read back is refused before it is written (`writing`).
"""

import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import isfinite, prod
from pathlib import Path
from typing import Any, NoReturn

from msa.errors import StoreError
from msa.names import printable

MAX_BYTES = 2**50  # of one file or array: a petabyte
MAX_SAMPLES = 2**31  # of one corpus or segment
MAX_JSON = 2**27  # bytes: room for the failure records of a million samples
MAX_CHUNK = 2**28  # bytes of one inner chunk or small-array chunk, which is held in memory while it is decoded
MAX_SMALL = MAX_CHUNK + 2**20  # bytes of any file but a shard: one such chunk, with what codecs add to it
HOLLOW_BYTES = 2**30  # of a file that may be all holes; shards are far smaller
MAX_CHUNKS = 2**22  # in one shard, whose index of 16 bytes each is held in memory
MAX_TEXT = 4096  # characters of a name
MAX_DEPTH = 64  # of JSON in JSON; ours has 8 at most
MAX_WIDTH = 2**27  # of hidden states: a chunk spans all columns
MAX_LABEL = 1e30  # of a regression

DAMAGED = "damaged store, or none that msa wrote: "  # how each refusal begins

_ID = re.compile(r"[0-9a-z]{1,64}")  # ours are 16 hexadecimal digits
_SEGMENT = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_FILE = re.compile(r"(?:[a-z][a-z0-9_]{0,63}/)?zarr\.json|[a-z][a-z0-9_]{0,63}/c(?:[/.][0-9]{1,12}){1,4}")
_MAX_FILE = 120  # characters of such a name, and more
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODALITY = re.compile(r"text|image|audio|face")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a name is shown on terminals, and written as UTF-8
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_ITEMSIZE = {"bool": 1} | {f"{kind}{bits}": bits // 8 for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_ITEMSIZE |= {"float16": 2, "float32": 4, "float64": 8}
_STORED = {"float16": "float16", "float32": "float32", "bfloat16": "uint16"}  # dtype of a view -> of its array
_PACKED = {"zstd", "gzip", "blosc"}
_CODECS = {"bytes", "crc32c", *_PACKED}  # inside shards or without them; none runs code of the store's


def parse(where: Path | str, data: bytes) -> dict[str, Any]:
    """A JSON object out of a store. Raises StoreError where it is too large, nested absurdly, or none at all."""
    check_size(where, data)
    try:
        value = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        refuse(where, "is nested too deeply")
    except ValueError as error:  # also what is not UTF-8, and numbers of thousands of digits
        refuse(where, f"is not JSON: {error}")
    if not isinstance(value, dict):
        refuse(where, f"is not a JSON object but {type(value).__name__}")
    if _is_deep(data, value):
        refuse(where, "is nested too deeply")
    return value


def check_size(where: object, data: bytes) -> None:
    """Refuse JSON that is larger than any file of a store is."""
    if len(data) > MAX_JSON:
        refuse(str(where), f"has {len(data)} bytes, and no JSON file of a store has more than {MAX_JSON}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _is_deep(data: bytes, value: object) -> bool:
    """Is anything more than MAX_DEPTH levels down? Python reads a thousand, and fails at writing or showing them."""
    left = data.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):  # each pass takes away the innermost level
        shorter = left.replace(b"[]", b"").replace(b"{}", b"")
        if not shorter:
            return False
        if len(shorter) == len(left):
            break  # brackets in texts
        left = shorter
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        if not (level := [below for values in inner for below in values]):
            return False
    return True


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn what a reader would refuse into an error of the writer, before anything is written."""
    try:
        yield
    except StoreError as error:
        raise StoreError(
            f"{printable(what)} cannot be written, for it could not be read back: {error.what.removeprefix(DAMAGED)}",
            fix="mend what it comes from, or give it another name; nothing was written",
        ) from None


def as_read(where: Path | str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that are to be written, as a reader will see them. Raises StoreError where JSON cannot hold them."""
    try:
        return parse(where, json.dumps(attributes, allow_nan=False).encode())
    except RecursionError:
        refuse(where, "is nested too deeply")
    except ValueError as error:  # NaN and infinity; a loop
        refuse(where, f"is not JSON: {error}")


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON file of a store. Raises FileNotFoundError where there is none, else StoreError."""
    return parse(path, read_bytes(path, MAX_JSON))


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes: never a pipe that waits for ever, a device, or a link to elsewhere.

    Raises FileNotFoundError where there is none, else StoreError.
    """
    handle = open_regular(path)
    with open(handle, "rb") as file:
        size = os.fstat(handle).st_size
        if size > limit:
            refuse(path, f"has {size} bytes, at most {limit} were expected")
        return file.read(size)


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, to be closed by the caller; of anything else it is not even waited for.

    Raises FileNotFoundError where there is none, and StoreError where links lead out of the store.
    """
    if (root := _root(path)) is not None:
        for folder in path.parents:
            if folder == root:
                break
            if folder.is_symlink():
                check_inside(root, path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, a folder in the way, no permission
        refuse(path, f"cannot be opened: {error.strerror}")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        refuse(path, "is not a regular file")
    return handle


def sha256(path: Path) -> str:
    """SHA-256 of a regular file of a store, read in pieces. Raises FileNotFoundError, StoreError.

    A file of holes, whose size says nothing of what is on the disk, is refused: a terabyte of zeros takes an hour.
    """
    with open(open_regular(path), "rb") as file:
        about = os.fstat(file.fileno())
        if about.st_size > HOLLOW_BYTES and about.st_size > 64 * 512 * about.st_blocks:
            refuse(path, f"is a file of holes: {about.st_size} bytes of which {512 * about.st_blocks} are on the disk")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _root(path: Path) -> Path | None:
    """The store a file lies in, as its name tells; None of a file that has no place in any."""
    parts = path.parts
    for at in range(len(parts) - 2, 0, -1):
        below = parts[at:]
        in_view = below[0] == "views" and len(below) > 2 and below[2] in ("zarr.json", "seg")
        in_index = below[0] == "index" and len(below) > 2 and (len(below) == 3 or below[3] in ("zarr.json", "c"))
        if in_view or in_index or (below[0] in ("manifests", "tags") and len(below) == 2):
            return Path(*parts[:at])
    return None


def check_inside(root: Path, path: Path) -> None:
    """Refuse a path of a store that links lead out of it; one that does not exist leads nowhere."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        refuse(path, f"leads out of the store to {os.path.realpath(path)}")


def check_data(where: Path | str, zarr_json: object) -> None:
    """Refuse the metadata of a `data` array that is not rows of one of our dtypes, or asks for absurd memory."""
    meta = check_object(where, "the metadata", zarr_json)
    shape = check_array(where, meta)
    if len(shape) != 2 or shape[1] < 1:
        refuse(where, f"has shape {list(shape)}, expected [rows, width]")
    attributes = check_object(where, "attributes", meta.get("attributes", {}))
    dtype = attributes.get("dtype")
    if not isinstance(dtype, str) or _STORED.get(dtype) != meta["data_type"]:
        refuse(where, f"says dtype {short(dtype)} and data_type {short(meta['data_type'])}")
    if meta["chunk_grid"]["configuration"]["chunk_shape"][1] != shape[1]:
        refuse(where, "has chunks that do not span all columns")


def check_array(where: Path | str, zarr_json: object) -> tuple[int, ...]:
    """The shape of a Zarr v3 array, all of whose metadata is within bounds and names codecs that are known here."""
    meta = check_object(where, "the metadata", zarr_json)
    if meta.get("zarr_format") != 3 or meta.get("node_type") != "array":
        refuse(where, "is not the metadata of a Zarr v3 array")
    dtype = meta.get("data_type")
    if not isinstance(dtype, str) or dtype not in _ITEMSIZE:
        refuse(where, f"has data_type {short(dtype)}")
    shape = _extent(where, "shape", meta.get("shape"), 0)
    grid = check_object(where, "chunk_grid", meta.get("chunk_grid"))
    if grid.get("name") != "regular":
        refuse(where, f"has chunk grid {short(grid.get('name'))}")
    chunks = _extent(
        where, "chunk_shape", check_object(where, "chunk_grid", grid.get("configuration")).get("chunk_shape"), 1
    )
    if len(chunks) != len(shape):
        refuse(where, f"has shape {list(shape)} and chunks {list(chunks)}")
    if prod(shape) * _ITEMSIZE[dtype] >= MAX_BYTES:
        refuse(where, f"has shape {list(shape)} of {dtype}, more than a petabyte")
    _check_keys(where, meta.get("chunk_key_encoding"))
    _check_codecs(where, meta.get("codecs"), chunks, _ITEMSIZE[dtype])
    if isinstance(meta.get("fill_value"), list | dict) or meta.get("storage_transformers"):
        refuse(where, "has a fill value or storage transformers that no array of a store has")
    check_object(where, "attributes", meta.get("attributes", {}))
    return shape


def unpacked_size_problem(codecs: Sequence[Mapping[str, Any]], piece: bytes, nbytes: int) -> str:
    """Return what is wrong where a stored chunk does not unpack to `nbytes` bytes, the size its array states; else "".

    `codecs` are its chain. The chunk is unpacked to `nbytes` at most.
    """
    for place in range(len(codecs) - 1, 0, -1):
        name = codecs[place]["name"]
        if name == "crc32c":
            piece = piece[:-4]
            continue
        room = nbytes + 4 * sum(codec["name"] == "crc32c" for codec in codecs[:place])
        size = _unpacked(name, piece, room)
        if size is None or size > room:
            return f"it has a chunk that {name} unpacks to {size or 'who knows how many'} bytes instead of {room}"
        return ""
    return ""


def _unpacked(name: str, piece: bytes, room: int) -> int | None:
    """How many bytes a compressed chunk says it becomes, or is seen to, up to `room` + 1; None where nothing tells."""
    if name == "gzip":
        try:
            return len(zlib.decompressobj(wbits=31).decompress(piece, room + 1))
        except zlib.error:
            return None
    if name == "blosc":
        return int.from_bytes(piece[4:8], "little") if len(piece) >= 16 else None
    if name != "zstd" or piece[:4] != b"\x28\xb5\x2f\xfd" or len(piece) < 6:
        return None
    about = piece[4]
    single, wide = about >> 5 & 1, about >> 6
    begin = 5 + (not single) + (0, 1, 2, 4)[about & 3]
    size = (single, 2, 4, 8)[wide]
    return int.from_bytes(piece[begin : begin + size], "little") + 256 * (wide == 1) if size else None


def check_files(where: Path | str, what: str, value: object) -> dict[str, Any]:
    """Refuse what is no {path: [bytes, SHA-256]} of files that a dataset, view or segment can have; return it."""
    files = check_object(where, f"files of {what}", value)
    for name, facts in files.items():
        if len(name) > _MAX_FILE or not _is_file(name):
            refuse(where, f"{what} names a file {short(name)}")
        if not isinstance(facts, list) or len(facts) != 2:
            refuse(where, f"{what} says {short(facts)} of {name}, expected [bytes, SHA-256]")
        size, digest = facts
        most = MAX_BYTES if name.startswith("data/c") else MAX_SMALL
        if type(size) is not int or not 0 <= size < most:
            refuse(where, f"{what}: {name} has {short(size)} bytes")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            refuse(where, f"{what}: {name} has SHA-256 {short(digest)}")
    return files


@lru_cache(maxsize=4096)  # the segments of a store have files of the same names
def _is_file(name: str) -> bool:
    return bool(_FILE.fullmatch(name))


def _check_keys(where: Path | str, encoding: object) -> None:
    known = check_object(where, "chunk_key_encoding", encoding)
    separator = check_object(where, "chunk_key_encoding", known.get("configuration", {})).get("separator", "/")
    if known.get("name") != "default" or separator not in ("/", "."):
        refuse(where, f"has chunk_key_encoding {short(encoding)}")


def _check_codecs(where: Path | str, codecs: Any, chunks: Sequence[int], itemsize: int) -> None:
    """Known names only, at most one level of shards, and chunks that fit into memory."""
    names = _codecs(where, codecs)
    if names == ["sharding_indexed"]:
        inner = check_object(where, "sharding", codecs[0].get("configuration"))
        small = _extent(where, "inner chunk_shape", inner.get("chunk_shape"), 1)
        if len(small) != len(chunks) or any(big % one for big, one in zip(chunks, small, strict=True)):
            refuse(where, f"has shards {list(chunks)} of chunks {list(small)}")
        if prod(big // one for big, one in zip(chunks, small, strict=True)) > MAX_CHUNKS:
            refuse(where, f"has more than {MAX_CHUNKS} chunks in a shard")
        if inner.get("index_location", "end") not in ("start", "end"):
            refuse(where, f"has its shard index at {short(inner['index_location'])}")
        if _codecs(where, inner.get("index_codecs")) not in (["bytes", "crc32c"], ["bytes"]):
            refuse(where, "has a shard index with codecs other than bytes and crc32c")
        chunks, names = small, _codecs(where, inner.get("codecs"))
    if unknown := [name for name in names if name not in _CODECS]:
        refuse(where, f"uses codec {short(unknown[0])}; a store may use {', '.join(sorted(_CODECS))}")
    if sum(name in _PACKED for name in names) > 1 or names[0] != "bytes":
        refuse(where, f"has the chain of codecs {', '.join(names)}")
    if prod(chunks) * itemsize > MAX_CHUNK:
        refuse(where, f"has chunks {list(chunks)} of {prod(chunks) * itemsize} bytes, at most {MAX_CHUNK} are read")


def _codecs(where: Path | str, codecs: Any) -> list[str]:
    """The names of a chain of codecs."""
    if not isinstance(codecs, list) or not 1 <= len(codecs) <= 4:
        refuse(where, f"has codecs {short(codecs)}")
    for codec in codecs:
        if not isinstance(check_object(where, "a codec", codec).get("name"), str):
            refuse(where, f"has a codec called {short(codec.get('name'))}")
        check_object(where, "the configuration of a codec", codec.get("configuration", {}))
    return [codec["name"] for codec in codecs]


def _extent(where: Path | str, what: str, value: object, least: int) -> tuple[int, ...]:
    """A shape of one or two dimensions."""
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        refuse(where, f"has {what} {short(value)}")
    return tuple(check_whole(where, f"an element of {what}", n, least, MAX_BYTES) for n in value)


def check_name(where: Path | str, what: str, value: object, kind: str) -> str:
    """Refuse what is no name of its `kind`; return it.

    `kind` is "id" (of a dataset or view), "segment", "modality", "digest" (of an input, 32 hexadecimal digits) or
    "SHA-256".
    """
    kinds = {"id": _ID, "segment": _SEGMENT, "modality": _MODALITY, "digest": _DIGEST, "SHA-256": _SHA256}
    return _matches(where, what, kinds[kind], value)


def is_id(name: str) -> bool:
    """Return whether a dataset or a view may be called so."""
    return bool(_ID.fullmatch(name))


def is_digest(text: str) -> bool:
    """Return whether this is the digest of an input, in hexadecimal digits."""
    return bool(_DIGEST.fullmatch(text))


def is_segment(name: str) -> bool:
    """Return whether a segment may be called so."""
    return bool(_SEGMENT.fullmatch(name))


def check_object(where: Path | str, what: str, value: object) -> dict[str, Any]:
    """Refuse what is no JSON object; return it."""
    if not isinstance(value, dict):
        refuse(where, f"{what} is {short(value)}, expected an object")
    return value


def check_list(where: Path | str, what: str, value: object) -> list[Any]:
    """Refuse what is no list; return it."""
    if not isinstance(value, list):
        refuse(where, f"{what} is {short(value)}, expected a list")
    return value


def check_names(where: Path | str, what: str, value: object) -> list[str]:
    """Refuse what is no list of names that people may be shown, none of them twice; return it."""
    names = check_list(where, what, value)
    for name in names:
        check_printable(where, f"one of {what}", name)
    if len(set(names)) < len(names):
        refuse(where, f"{what} has a name twice")
    return names


def check_text(where: Path | str, what: str, value: object) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        refuse(where, f"{what} is {short(value)}, expected a text")


def check_number(where: Path | str, what: str, value: object) -> float:
    """Refuse what is no number that a label can be; return it."""
    if type(value) not in (int, float) or abs(value) > MAX_LABEL or not isfinite(value):  # type: ignore[arg-type]
        refuse(where, f"{what} is {short(value)}, expected a number")
    return float(value)  # type: ignore[arg-type]


def check_whole(where: Path | str, what: str, value: object, least: int, below: int) -> int:
    """Refuse what is no whole number from `least` to `below` - 1; return it."""
    if type(value) is not int or not least <= value < below:
        refuse(where, f"{what} is {short(value)}, expected a whole number from {least} to {below - 1}")
    return value


def _matches(where: Path | str, what: str, pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        refuse(where, f"{what} is called {short(value)}")
    return value


def check_printable(where: Path | str, what: str, value: object) -> None:
    """Refuse what is no name that people may be shown: too long, or with control characters."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or _CONTROL.search(value):
        refuse(where, f"{what} is {short(value)}, expected a name")


def short(value: object) -> str:
    """Return a stranger's value, short enough for a message and without what a terminal obeys."""
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(where: Path | str, what: str) -> NoReturn:
    """Raise StoreError for what no store of msa says."""
    raise StoreError(
        f"{DAMAGED}{where}: {what}",
        fix="run `msa cache repair` to drop it, restore it from a copy, or get it again from where it came from",
    )
