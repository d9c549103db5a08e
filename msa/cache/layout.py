"""Names, dtypes, chunks and attributes of a store: docs/store-format.md in code.

store/zarr.json                       a Zarr v3 group, attributes {"msa_format": 1}
  index/<dataset>/                    ids, labels, splits, groups, texts, input digests of one corpus
  views/<view>/zarr.json              one recipe from raw material to hidden states; attributes = provenance
    seg/<segment>/                    data[rows, D], start[n], length[n], sample[n], digest[n, 16]
  manifests/00000012.json             immutable generations: what of all this is published
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

FORMAT = 1
SMALL_CHUNK = 65_536  # elements: an array of a million samples is read in pieces of a few hundred KiB
CHUNK_BYTES = 192 * 1024  # inner chunks of `data` lie between half and all of this ...
SHARD_BYTES = 128 * 1024**2  # ... and are gathered into files of this size
SPLITS = ("train", "valid", "test")  # the numbers of index/<dataset>/split; 255 = none
NO_SPLIT = 255
DTYPES = ("float16", "float32", "bfloat16")  # bfloat16 is stored as uint16 with an attribute


def chunk_rows(width: int, itemsize: int) -> int:
    """Rows of one inner chunk: a power of two near CHUNK_BYTES, or 49 rows (an image grid) when those fill it."""
    fit = max(1, CHUNK_BYTES // (width * itemsize))
    return 49 if 49 <= fit < 98 else 1 << (fit.bit_length() - 1)


def shard_rows(width: int, itemsize: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Rows of one shard: as many whole chunks as fit `shard_bytes`, at least one."""
    chunk = chunk_rows(width, itemsize)
    return chunk * max(1, shard_bytes // (chunk * width * itemsize))


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
        "data_type": "uint16" if dtype == "bfloat16" else dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, width]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype == "bfloat16" else 0.0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"dtype": dtype},
        "dimension_names": ["row", "feature"],
    }


def write_group(folder: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Write a Zarr v3 group of small arrays (bytes + crc32c, no compressor) into an existing folder."""
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    group.attrs.update(dict(attributes))
    for name, values in arrays.items():
        chunks = (max(1, min(len(values), SMALL_CHUNK)), *values.shape[1:])
        serializer = BytesCodec(endian=None if values.dtype.itemsize == 1 else "little")
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            serializer=serializer,
            compressors=Crc32cCodec(),
            config={"write_empty_chunks": True},
        )
        array[...] = values


def read_array(path: Path) -> np.ndarray:
    """One small array, whole; its checksums are verified on the way."""
    values = zarr.open_array(path, mode="r")[...]
    return np.asarray(values)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the store."""
    value = json.loads(path.read_bytes())
    assert isinstance(value, dict), f"{path} is not a JSON object"
    return value
