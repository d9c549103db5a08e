"""A transformers folder -> model, tokenizer, feature extractor, from nothing but the files that were hashed.

Folders come from strangers. Whatever lies in one:
- None of its code runs: `trust_remote_code=False` everywhere, and nothing is asked.
- The library sees a temporary folder of links to the files that `transformers_folder.deciding` lists. What is not
  hashed - Python files, adapters, a vocabulary that no list knows - is not there, so equal hashes mean equal numbers.
- Sizes in config.json are compared with the weights before memory is taken for them.
- A tokenizer draws no random numbers, makes no text a thousand times longer, and has no token that the model lacks.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

from msa.errors import BackboneError
from msa.extract import transformers_folder as contents
from msa.extract.encoders import complete, quiet, unloadable
from msa.types import Modality

if TYPE_CHECKING:
    import torch

ENCODERS = "name an encoder: BERT, RoBERTa, DeBERTa, T5, wav2vec 2.0, HuBERT, WavLM or one of their kind"
DAMAGED = "get the checkpoint again from where it came from, or name another"

LARGEST = 2**24  # a dimension: the largest vocabularies have a million tokens, the longest contexts ten million
MODULES = 256  # layers, or layers times experts, that need not have a tensor each: each is an object to be made
TABLE = 2**28  # numbers in a table of positions that need not come from the weights: 1 GB
SLACK = 2**24  # parameters that a model may have beside those in its file: a pooler
GROWTH = 1000  # how many times longer a tokenizer may make a text

# Files that tokenizers name and do without, and vocabularies that transformers reads whatever the class
OPTIONAL = ("target_vocab_file", "tokenizer_config_file", "normalizer_file", "emoji_file")
ANY_TOKENIZER = re.compile(r"tokenizer(?:\.\d.*)?\.json|tokenizer\.model|tiktoken\.model|tekken\.json")

_NO_SIZE = re.compile(r"(?:_ids?|seed|theta|base|version|length|steps|samples|tokens|param(?:eter)?s)$")
_COUNT = re.compile(r"^(?!.*(?:size|dim|width|rank|capacity|freq|per_)).*(?:layer|group|expert|depth|stage)")
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size")


@contextmanager
def sealed(folder: Path, modality: Modality) -> Iterator[Path]:
    """A temporary folder of links to the files of `folder` that decide the numbers of `modality`, and to no others."""
    files = contents.deciding(folder, modality)
    with tempfile.TemporaryDirectory(prefix="msa-") as name:
        for path in files:
            os.symlink(path.absolute(), Path(name, path.name))
        try:
            yield Path(name)
        except BackboneError:
            raise
        except Exception as error:  # safetensors, pickle, JSON, tokenizers and transformers each raise their own
            if "custom code" in str(error) or "trust_remote_code" in str(error):
                raise _code(folder, "it names Python code for its model, tokenizer or feature extractor") from error
            raise unloadable(folder, error, name) from error


def model(folder: Path, modality: Modality) -> "torch.nn.Module":
    """Load the bare model of a transformers folder on the CPU in float32; all tensors in use are from the checkpoint.

    Raises:
        BackboneError: the model needs code of its own, is no encoder, does not fit its file, or cannot be read.
    """
    import torch
    from transformers import AutoConfig

    claims = contents.json_object(folder / "config.json")
    _refuse_code(folder, claims)
    # heads we do not use are initialised at random: leave no trace
    with sealed(folder, modality) as inside, quiet(), torch.random.fork_rng(devices=[]):
        _check_sizes(folder, claims)
        config = AutoConfig.from_pretrained(inside, local_files_only=True, trust_remote_code=False)
        kind = _kind(folder, config, modality)
        _check_parameters(folder, kind, config)
        network, info = kind.from_pretrained(
            inside,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    network.config.name_or_path = str(folder)
    if getattr(network.config, "use_cache", False):
        network.config.use_cache = False  # of keys and values for a next token, which nothing here asks for
    complete(folder, [*info["missing_keys"], *info["mismatched_keys"]])
    return network


def tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a transformers folder. Raises BackboneError where it is unreadable or not deterministic."""
    from transformers import AutoTokenizer

    _check_tokenizer(folder)
    try:
        with sealed(folder, Modality.TEXT) as inside, quiet():
            loaded = AutoTokenizer.from_pretrained(inside, local_files_only=True, trust_remote_code=False)
    except BackboneError as error:
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and contents.json_object(settings).get("auto_map"):
            raise _code(folder, "its tokenizer is Python code in that folder or on the hub") from error
        _refuse_incomplete(folder, _declared(folder), error)
        raise
    _refuse_incomplete(folder, type(loaded))
    loaded.name_or_path = str(folder)
    return loaded


def feature_extractor(folder: Path) -> Any:
    """Return how the weights of a speech model want their waveforms. Raises BackboneError where it cannot be read."""
    from transformers import AutoFeatureExtractor

    with sealed(folder, Modality.AUDIO) as inside, quiet():
        return AutoFeatureExtractor.from_pretrained(inside, local_files_only=True, trust_remote_code=False)


def check_vocabulary(folder: Path, tokens: Any, network: Any) -> None:
    """Refuse a tokenizer with numbers beyond the model's embeddings: it is not the model's.

    Args:
        folder: where both come from, for the message.
        tokens: the tokenizer.
        network: the model; one without a table of embeddings, such as CANINE, takes any number.
    """
    try:
        rows = getattr(network.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return
    if rows is None:
        return
    highest = max(tokens.get_vocab().values(), default=-1)
    if highest >= rows:
        raise BackboneError(
            f"{folder}: the tokenizer numbers its tokens up to {highest}, the model has embeddings for {rows}",
            fix="put the tokenizer there that the model was trained with",
        )


# code


def _refuse_code(folder: Path, claims: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that only code of its own, or of a hub, can run."""
    from transformers import CONFIG_MAPPING

    kind = claims.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        if claims.get("auto_map"):
            raise _code(folder, f"its architecture, {kind!r}, is Python code in that folder or on the hub")
        raise BackboneError(
            f"{folder}/config.json names the architecture {kind!r}, which this version of transformers does not have",
            fix=ENCODERS,
        )
    for name, value in _values(claims):
        if name.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise _code(folder, f"its attention is {value!r}, a kernel on the hub")


def _code(folder: Path, why: str) -> BackboneError:
    return BackboneError(
        f"{folder} cannot be used without running code that came with it: {why}",
        fix="msa never runs such code; " + ENCODERS,
    )


def _kind(folder: Path, config: Any, modality: Modality) -> Any:
    """Return the Auto class that builds the encoder of a configuration."""
    from transformers import MODEL_MAPPING, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as TEXT

    if modality is Modality.TEXT and str(TEXT.get(config.model_type, "")).endswith("EncoderModel"):
        return AutoModelForTextEncoding  # T5 and its kind: the half that reads
    if config.is_encoder_decoder:
        raise BackboneError(
            f"{folder}: {config.model_type} is an encoder-decoder, which has no encoder-only forward", fix=ENCODERS
        )
    try:
        network_class = MODEL_MAPPING[type(config)]
    except KeyError:
        network_class = None
    network_class = network_class[0] if isinstance(network_class, tuple) else network_class
    if network_class is None or getattr(network_class, "main_input_name", "") not in (
        "input_ids",
        "input_values",
        "input_features",
    ):
        raise BackboneError(f"{folder}: {config.model_type} reads neither text nor a waveform", fix=ENCODERS)
    return AutoModel


# sizes


def _bytes(folder: Path) -> int:
    """Return how much the files of tensors hold: no more numbers than this."""
    return sum(path.stat().st_size for path in contents.tensors(folder))


def _names(folder: Path) -> int:
    """Return how many tensors the files hold, at most; of a pickle so old that it is no archive, as its size allows."""
    from safetensors import safe_open

    count = 0
    for path in contents.tensors(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                count += len(file.keys())
        elif path.suffix != ".json":
            count += len(ZipFile(path).namelist()) if is_zipfile(path) else path.stat().st_size // 2**16
    return count


def _check_sizes(folder: Path, claims: Mapping[str, Any]) -> None:
    """Refuse dimensions that no checkpoint has, before anything is made in their size."""
    held, tensors = _bytes(folder), _names(folder)
    sizes = [(name, value) for name, value in _values(claims) if type(value) is int and not _NO_SIZE.search(name)]
    width = max((value for name, value in sizes if name in _WIDTHS), default=1)
    counts = [(name, value) for name, value in sizes if _COUNT.search(name)]
    layers = max((value for name, value in counts if "layer" in name), default=1)
    for name, value in counts:
        if value * (layers if "expert" in name else 1) > max(MODULES, tensors):
            raise BackboneError(
                f"{folder}/config.json says {name} = {value:,}; its weights have {tensors:,} tensors", fix=DAMAGED
            )
    for name, value in sizes:
        if value > LARGEST or ("position" in name and value * width > max(TABLE, held)):
            raise BackboneError(
                f"{folder}/config.json says {name} = {value:,}; its weights have {held:,} bytes", fix=DAMAGED
            )


def _check_parameters(folder: Path, kind: Any, config: Any) -> None:
    """Refuse a configuration whose model does not fit into the file: the rest would be made up, in memory."""
    import torch

    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in kind.from_config(config, trust_remote_code=False).parameters())
    if wanted > _bytes(folder) + SLACK:
        raise BackboneError(
            f"{folder}/config.json describes a model of {wanted:,} parameters; its weights have "
            f"{_bytes(folder):,} bytes",
            fix=DAMAGED,
        )


def _values(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every leaf of a JSON object, at any depth; the elements of a list have its name."""
    todo: list[tuple[str, Any]] = [("", tree)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, Mapping):
            todo += [(str(key), below) for key, below in value.items()]
        elif isinstance(value, list):
            todo += [(name, below) for below in value]
        else:
            yield name, value


# tokenizers


def _check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that answers differently each time, or whose normaliser makes texts explode."""
    for path in contents.beside(folder, Modality.TEXT):
        if path.suffix != ".json" or not path.name.startswith("tokenizer"):
            continue
        settings = contents.json_object(path, limit=contents.MAX_TOKENIZER)
        parts = settings.get("model")
        options = settings.get("sp_model_kwargs")
        random = isinstance(parts, dict) and parts.get("dropout")
        random = random or (isinstance(options, dict) and options.get("enable_sampling"))
        if random:
            raise BackboneError(
                f"{path} cuts the same text differently each time (dropout or sampling)",
                fix='set "dropout" to null and "enable_sampling" to false in it',
            )
        if (growth := _growth(settings.get("normalizer"))) > GROWTH:
            raise BackboneError(f"{path} makes each letter of a text into up to {growth:,.0f}", fix=DAMAGED)


def _declared(folder: Path) -> Any:
    """Return the class of the library that a folder says its tokenizer is of; None where it says none."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for name in ("tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            called = contents.json_object(folder / name).get("tokenizer_class")
            if isinstance(called, str):
                return tokenizer_class_from_name(called)
    return None


def _refuse_incomplete(folder: Path, kind: Any, error: Exception | None = None) -> None:
    """Refuse a tokenizer without the files of its vocabulary: the library would make up an empty one.

    Args:
        folder: where the files lie.
        kind: the tokenizer's class, which names its files.
        error: why it could not be loaded; then a tokenizer.json does not stand in for them.
    """
    held = [path.name for path in contents.beside(folder, Modality.TEXT)]
    names = dict(getattr(kind, "vocab_files_names", {}))
    whole = names.pop("tokenizer_file", "")
    if error is None and (whole in held or any(ANY_TOKENIZER.match(name) for name in held)):
        return
    lacking = sorted(name for role, name in names.items() if role not in OPTIONAL and name not in held)
    if lacking or (error is None and whole and not names):
        raise BackboneError(
            f"{folder} has no {' and no '.join(lacking) or whole}, which {kind.__name__} reads", fix=contents.AGAIN
        ) from error


def _growth(normalizer: Any) -> float:
    """Return how many times longer all replacements of a tokenizer's normaliser may make a text."""
    factor, todo = 1.0, [normalizer]
    while todo:
        part = todo.pop()
        if not isinstance(part, dict):
            continue
        below = part.get("normalizers")
        todo += below if isinstance(below, list) else []
        if part.get("type") == "Replace":
            pattern = part.get("pattern")
            literal = pattern.get("String") if isinstance(pattern, dict) else None
            factor *= max(1.0, len(str(part.get("content", ""))) / max(1, len(literal or "")) + (not literal))
    return factor
