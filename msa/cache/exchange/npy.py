"""A folder with a table of labels and one .npy file per sample and modality. Read and written.

Layout   FOLDER/samples.csv (id, split, label, text, group, position; also .tsv or .jsonl, see `table`) and
         FOLDER/MODALITY/ID.npy of shape (T, D), or (D,) which is one row. The folders are called text, audio, image,
         face (or vision, video); others are named by a setting: modality=covarep:audio. An id may hold a slash (a file
         in a folder of the folder); what no file name can hold is written as in web addresses: %2F.
Labels   See annotations/labels.py: classes or a scale, judged, printed, or said by task, range, classes. label_text,
         label_audio, ... label one modality alone. Several at once are a column each: labels=happy,sad. Where a
         corpus.json lies beside the table, as in what is exported, it says the task.
Lengths  T of each file; nothing is padded. Values stay as they are; float16 stays float16 where every file has it.
Traps    A row without a file is a recorded failure where other rows have one, or lacks that modality: missing=absent.
         A file without a row is dropped. A width other than that of most files, a torn file and one that holds Python
         objects are failures; no pickle is ever opened. A link to a file in the folder is followed, no other.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.exchange import _corpus, _folder, _table
from msa.cache.exchange._foreign import Bundle, Feature, Foreign, Unreadable
from msa.cache.exchange._output import whole
from msa.errors import StoreError

SUFFIX = ".npy"
LAYOUT = "FOLDER/samples.csv (id, split, label, text, group, position) and FOLDER/MODALITY/ID.npy, each (T, D) or (D,)"


@dataclass(frozen=True)
class Config(_folder.Config):
    """Settings of a folder."""


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return a folder of .npy files as a corpus. Raises SourceError where there is no table, or no feature."""
    return _folder.corpus("npy", path, config, name, SUFFIX, LAYOUT, _feature)


def _feature(folder: _folder.Files, stated: Mapping[str, Any]) -> Feature:
    """Return the hidden states, lazily. Their width is that of most files.

    Raises SourceError where none can be read.
    """
    heads = [head for id in folder.files if (head := _head(folder, id))]
    if not heads:
        raise folder.unreadable()
    dim = Counter(shape[-1] for shape, _ in heads).most_common(1)[0][0]
    narrow = all(dtype == np.float16 for _, dtype in heads)
    from_ = stated.get(folder.path.name)
    facts = dict(from_) if isinstance(from_, dict) else {}

    def states(id: str) -> np.ndarray:
        try:
            states_read = np.array(_open(folder, id))
        except Unreadable:
            raise
        except Exception as error:  # of many kinds, for a header is parsed as Python
            raise Unreadable(f"damaged file: {error}") from error
        return states_read[None] if states_read.ndim == 1 else states_read

    return Feature(
        name=folder.path.name,
        modality=folder.modality,
        dim=dim,
        read=states,
        digest={id: folder.digest(id) for id in folder.ids}.get,
        columns=_corpus.columns_in(facts.get("columns"), dim),
        dtype="float16" if narrow else "float32",
        facts={"exported from": facts} if facts else {},
    )


def _open(folder: _folder.Files, id: str) -> np.ndarray:
    """Map an array without loading it: a file shorter than its header says is an error here."""
    mapped = np.lib.format.open_memmap(folder.file(id), mode="r")  # refuses Python objects
    if mapped.dtype.kind not in "biuf":
        raise Unreadable(f"holds {mapped.dtype}, not numbers")
    return mapped


def _head(folder: _folder.Files, id: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype of a file; None where it cannot be read."""
    try:
        array = _open(folder, id)
    except Exception:  # recorded when the sample's turn comes
        return None
    return (array.shape, array.dtype.newbyteorder("=")) if array.ndim and array.size else None


# writing


def write(bundle: Bundle, out: Path) -> list[str]:
    """Write a dataset as such a folder; returns what could not be carried over.

    Raises StoreError where `out` exists, or a table or a file name cannot hold what the store holds.
    """
    index = bundle.index
    with whole(out, _size(bundle)) as folder:
        folder.mkdir()
        _table.write(folder / _folder.TABLE, index)
        about = {"format": "msa", "version": _folder.VERSION, **_corpus.facts(bundle)}
        (folder / _folder.ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False, default=str), "utf-8")
        for modality, reader in bundle.readers.items():
            (folder / modality).mkdir()
            for row in np.flatnonzero(reader.length >= 0).tolist():
                file = folder / modality / _folder.file_name(index.ids[row], SUFFIX)
                _write_states(file, index.ids[row], reader.read(row))
    return _corpus.lost(bundle)


def _size(bundle: Bundle) -> int:
    """Bytes of the files, about: values, headers and texts."""
    texts = sum(len(text) for text in bundle.index.text)
    return texts + sum(
        int((reader.length[reader.length >= 0].astype(np.int64) * reader.view.dim * 4 + 128).sum())
        for reader in bundle.readers.values()
    )


def _write_states(path: Path, id: str, states: np.ndarray) -> None:
    try:
        with open(path, "xb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(states), allow_pickle=False)
    except OSError as error:
        if isinstance(error, FileExistsError):  # a disk that does not tell A from a
            raise StoreError(f"two ids would share the file {path.name}", fix="export it as hdf5") from error
        if len(path.name.encode()) > 255:
            raise StoreError(f"the id {id!r} is too long for a file name", fix="export it as hdf5") from error
        raise
