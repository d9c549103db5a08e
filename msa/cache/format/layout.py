"""Names, dtypes, chunks and attributes of a store: docs/store-format.md in code.

store/zarr.json                       a Zarr v3 group, attributes {"msa_format": 1}
  index/<dataset>/                    ids, labels, splits, groups, texts, input digests of one corpus
  views/<view>/zarr.json              one recipe from raw material to hidden states; attributes = provenance
    seg/<segment>/                    data[rows, D], start[n], length[n], sample[n], digest[n, 16]
  manifests/00000012.json             immutable generations: what of all this is published
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import local_files, small_arrays

FORMAT = 1
SMALL_BYTES = 2**21  # of a chunk of a small array: a million samples need few files, and a look at one reads little
CHUNK_BYTES = 192 * 1024  # inner chunks of `data` lie between half and all of this ...
SHARD_BYTES = 128 * 1024**2  # ... and are gathered into files of this size
SPLITS = ("train", "valid", "test")  # the numbers of index/<dataset>/split; 255 = none
NO_SPLIT = 255
DTYPES = ("float16", "float32", "bfloat16")  # bfloat16 is stored as uint16 with an attribute


def index_path(dataset: str) -> str:
    """Return the folder of a dataset's index, relative to the store."""
    return f"index/{dataset}"


def view_path(view: str) -> str:
    """Return the folder of a view, relative to the store."""
    return f"views/{view}"


def segments_path(view: str) -> str:
    """Return the folder of a view's segments, relative to the store."""
    return f"views/{view}/seg"


def segment_path(view: str, segment: str) -> str:
    """Return the folder of a segment, relative to the store."""
    return f"views/{view}/seg/{segment}"


def manifest_path(generation: int) -> str:
    """Return the file of a generation, relative to the store."""
    return f"manifests/{generation:08d}.json"


def tag_path(name: str) -> str:
    """Return the file of a tag, relative to the store."""
    return f"tags/{name}.json"


def chunk_rows(width: int, itemsize: int) -> int:
    """Rows of one inner chunk: a power of two near CHUNK_BYTES, or 49 rows (an image grid) when those fill it."""
    fit = max(1, CHUNK_BYTES // (width * itemsize))
    return 49 if 49 <= fit < 98 else 1 << (fit.bit_length() - 1)


def shard_rows(width: int, itemsize: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Rows of one shard: as many whole chunks as fit `shard_bytes`, at least one."""
    chunk = chunk_rows(width, itemsize)
    return chunk * max(1, shard_bytes // (chunk * width * itemsize))


def stored(dtype: str) -> np.dtype:
    """The dtype on disk of hidden states of this dtype: of bfloat16, the upper half of a float32, uint16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of a Zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def data_metadata(rows: int, width: int, dtype: str, chunk: int, shard: int) -> dict[str, Any]:
    """The zarr.json of a `data` array: shards of raw little-endian chunks, each with a crc32c, index at the end."""
    raw = {"name": "bytes", "configuration": {"endian": "little"}}
    crc = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [chunk, width],
        "codecs": [raw, crc],
        "index_codecs": [raw, crc],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, width],
        "data_type": stored(dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, width]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype == "bfloat16" else 0.0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"dtype": dtype},
        "dimension_names": ["row", "feature"],
    }


def array_metadata(
    values: np.ndarray, attributes: Mapping[str, Any], chunk: int = 0, dimensions: Sequence[str] = ()
) -> dict[str, Any]:
    """The zarr.json of a small array: raw little-endian chunks along the first axis, each with a crc32c.

    Args:
        values: The array (n, ...).
        attributes: Of the array.
        chunk: Rows of a chunk; default: as many as SMALL_BYTES hold.
        dimensions: Names of the axes, for readers such as xarray.
    """
    raw = {"name": "bytes"} if values.dtype.itemsize == 1 else {"name": "bytes", "configuration": {"endian": "little"}}
    row_bytes = prod(values.shape[1:]) * values.itemsize
    most = chunk or SMALL_BYTES // max(1, row_bytes)
    chunks = [max(1, min(len(values), most)), *values.shape[1:]]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if values.dtype.kind == "f" else 0,
        "codecs": [raw, {"name": "crc32c"}],
        "attributes": dict(attributes),
    } | ({"dimension_names": list(dimensions)} if dimensions else {})


def _dimensions(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Names of the axes of a group's arrays: those with a row per sample share the first, all others have their own."""
    often = Counter(len(values) for values in arrays.values())
    n = often.most_common(1)[0][0] if often else 0
    return {
        name: [
            "sample" if len(values) == n else f"{name}_row",
            *(f"{name}_{axis}" for axis in range(1, values.ndim)),
        ]
        for name, values in arrays.items()
    }


def store_of(segment: Path) -> Path:
    """Return the store that the folder of a segment, STORE/views/<view>/seg/<segment>, lies in."""
    return segment.parents[3]


def write_group(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    of_arrays: Mapping[str, Mapping[str, Any]] | None = None,
    root: Path | None = None,
) -> None:
    """Write a Zarr v3 group of small arrays into an existing folder.

    Args:
        folder: Where to.
        arrays: Name -> values (n, ...).
        attributes: Of the group.
        of_arrays: Attributes of some of the arrays.
        root: The store that `folder` lies in, below which no link is followed; default: `folder`.
    """
    dimensions = _dimensions(arrays)
    for name, values in arrays.items():
        described = array_metadata(values, (of_arrays or {}).get(name, {}), dimensions=dimensions[name])
        small_arrays.write(folder / name, values, described, root or folder)
    metadata = json.dumps(group_metadata(attributes), indent=1).encode()
    local_files.write(root or folder, folder / "zarr.json", metadata, durably=False)


def read_array(path: Path) -> np.ndarray:
    """One small array, whole; its checksums are verified on the way."""
    return small_arrays.whole(path)
