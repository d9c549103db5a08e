"""The files of a transformers folder: which of them decide its hidden states, and its configuration as JSON."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from msa.errors import BackboneError
from msa.names import printable
from msa.types import Modality

AGAIN = "get the folder again: `hf download ORG/NAME --local-dir FOLDER`, or save_pretrained, makes a whole one"
TENSORS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENISER: tuple[str, ...] = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    # read by tokenizers of few families: BERTweet, PhoBERT, LUKE, RoCBert, GPT-NeoX-Japanese, Marian, FSMT, Mistral
    *("bpe.codes", "entity_vocab.json", "word_shape.json", "word_pronunciation.json", "emoji.json", "dict.txt"),
    *("source.spm", "target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json", "normalizer.json"),
    *("byte_maps.json", "prophetnet.tokenizer", "tokenizer.model.*", "tekken.json"),
)
# What decides the numbers beside the tensors and config.json; a speech model's vocabulary, for one, does not
BESIDE = {
    Modality.TEXT: TOKENISER,
    Modality.AUDIO: ("preprocessor_config.json", "processor_config.json"),
}
MAX_JSON = 2**26  # bytes of a configuration or an index: the largest known have 2 MB
MAX_TOKENIZER = 2**28  # bytes of a tokenizer.json: the largest known have 35 MB


def deciding(folder: Path, modality: Modality) -> list[Path]:
    """List the files of a transformers folder that decide its hidden states: configuration, one set of tensors, and
    tokeniser or feature extractor. A folder copied from the hub with more in it hashes the same.
    """
    return sorted({folder / "config.json", *tensors(folder), *beside(folder, modality)})


def beside(folder: Path, modality: Modality) -> list[Path]:
    """List the files of a tokeniser or feature extractor. Raises BackboneError for what is no file, such as a pipe."""
    named = sorted(path for path in folder.iterdir() if any(fnmatch(path.name, like) for like in BESIDE[modality]))
    return [_regular(path) for path in named]


def tensors(folder: Path) -> list[Path]:
    """List the tensor files transformers would read: safetensors before pickles, an index with its shards."""
    for path in (folder / name for name in TENSORS):
        if not path.exists():
            continue
        if _regular(path).suffix == ".json":
            return [path, *(folder / shard for shard in _shards(path))]
        return [path]
    return []


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index of tensors lists."""
    listed = json_object(index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise BackboneError(f"{index} lists no files of tensors", fix=AGAIN)
    if outside := next(
        (name for name in names if name != Path(name).name or not fnmatch(name, f"*{_ending(index)}")), ""
    ):
        raise BackboneError(
            f"{index} lists {printable(outside)[:100]!r}, which is no *{_ending(index)} beside it", fix=AGAIN
        )
    return names


def _ending(index: Path) -> str:
    return ".safetensors" if "safetensors" in index.name else ".bin"


def _regular(path: Path) -> Path:
    """Return the path of a file, or of a link to one. Raises BackboneError for others: a pipe would block for ever."""
    if path.is_file():
        return path
    what = "a link to nothing" if not path.exists() else "a folder" if path.is_dir() else "no regular file"
    raise BackboneError(f"{path} is {what}", fix=AGAIN)


def json_object(path: Path, limit: int | None = None) -> dict[str, Any]:
    """Read the JSON object in a file of a checkpoint. Raises BackboneError where there is none within `limit` bytes."""
    limit = MAX_JSON if limit is None else limit
    if (size := _regular(path).stat().st_size) > limit:
        raise BackboneError(f"{path} has {size:,} bytes, at most {limit:,} are read", fix=AGAIN)
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise BackboneError(f"{path} is nested too deeply", fix=AGAIN) from error
    except ValueError as error:  # also what is not UTF-8, and numbers of thousands of digits
        raise BackboneError(f"{path} is not JSON: {printable(error)[:200]}", fix=AGAIN) from error
    if not isinstance(content, dict):
        raise BackboneError(f"{path} holds a JSON {type(content).__name__}, expected an object", fix=AGAIN)
    return content


def missing(folder: Path, modality: Modality) -> str:
    """Return what a folder lacks to be loaded, in words; "" when it is complete."""
    present = tensors(folder)
    absent = [path.name for path in [folder / "config.json", *present] if not path.is_file()]
    absent += [] if present else ["model.safetensors or pytorch_model.bin"]
    absent += (
        []
        if beside(folder, modality)
        else [{Modality.TEXT: "tokenizer files"}.get(modality, "preprocessor_config.json")]
    )
    return ", ".join(absent)
