"""Keys: what an input is, what a recipe is, what a corpus is.

Equal keys mean equal numbers: to the bit for the same number of threads and the same instructions of the processor,
and within rounding otherwise (see rounding.py).
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

from msa.cache.format import files

DIGEST = 16  # bytes of an input's digest


def of_text(text: str) -> bytes:
    """Digest of a text, whatever file or table it came from."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


def of_file(path: Path, start: float = 0.0, end: float | None = None) -> bytes:
    """Digest of a file's bytes, or of a span of it in seconds. Raises OSError, also for what is no regular file."""
    stat = path.stat()
    files.check_regular(path, stat)
    whole = _of_bytes(path, stat.st_size, stat.st_mtime_ns)
    if start == 0.0 and end is None:
        return whole
    return xxhash.xxh3_128_digest(whole + f"{start!r}-{end!r}".encode())


def key(value: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of a canonical JSON object: view ids and corpus ids."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)  # many spans of one video: its bytes are read once
def _of_bytes(path: Path, size: int, mtime_ns: int) -> bytes:
    state = xxhash.xxh3_128()
    with files.open_regular(path) as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.digest()
