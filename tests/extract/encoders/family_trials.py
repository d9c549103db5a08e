"""Every architecture of transformers and timm with random weights, in batches and one by one.

Of each model type of transformers that reads text or sound a tiny checkpoint is written, of each module of timm the
smallest network. Each is loaded as `msa extract` loads it, from `hf:FOLDER` and `timm:NAME@FILE`, and encodes inputs of
odd sizes together and alone. It is batch-independent, or refused with a reason; anything else is a fault.
"""

import multiprocessing
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 300.0
MEMORY = 8 * 2**30  # bytes of address space beyond what the libraries take
PARAMETERS = 3e7  # of a transformers model that counts as tiny
TOLERANCE = 1e-4  # relative distance of states in fp32 that counts as equal; a packed or padded text is held to 1e-5

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = [
    "a b c d e",
    "z",
    "one [MASK] two [MASK]",
    "word " * 300,
    "h e l l o [UNK] [PAD] [SEP] w o r l d",
    "x y",
    "q " * 37,
]
SECONDS = (0.02, 0.31, 1.0, 0.7003, 0.31)

# What makes a configuration small, under all the names it has; each is set where a configuration knows it
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "d_embed"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "decoder_attention_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("n_inner", "d_inner", "moe_intermediate_size", "ffn_hidden_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "d_head"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 512),
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "num_hash_buckets": 512,
    "vocab_size": 96,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_mel_bins": 80,
}
LEAVE = object()  # as it is by default
# Sizes that depend on one another
MORE: dict[str, dict[str, Any]] = {
    "ctrl": {"dff": 48},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "convbert": {"embedding_size": 32},
    "data2vec-audio": {"num_conv_pos_embeddings": 5},
    "esm": {"token_dropout": True, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "codegen": {"n_head": 4, "rotary_dim": 8},
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1], "num_hidden_layers": LEAVE},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
    "reformer": {"axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"]},
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50},
    "sew": {"conv_dim": LEAVE},
    "sew-d": {"conv_dim": LEAVE},
}


@dataclass
class Row:
    """What became of one family. `end`: packed, padded, batched, one by one, refused, not built, no answer, fault."""

    kind: str
    family: str
    network: str = ""
    end: str = "fault"
    rows: int = 0
    distance: float = 0.0
    why: str = ""


# transformers


def text(row: Row, folder: Path) -> None:
    """A tiny model of a type that reads text."""
    _model(row, folder)
    _tokenizer(row.family, folder)
    encoder = _loaded("text", f"hf:{folder}")
    row.end = "one by one" if encoder.budget == 1 else encoder.batching
    _compare(row, encoder, TEXTS, fails=True)


def audio(row: Row, folder: Path) -> None:
    """A tiny model of a type that reads sound; batched as a GPU would have it."""
    from transformers import AutoConfig, Wav2Vec2FeatureExtractor
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

    _model(row, folder)
    kind = FEATURE_EXTRACTOR_MAPPING.get(type(AutoConfig.from_pretrained(folder)), Wav2Vec2FeatureExtractor)
    try:
        kind().save_pretrained(folder)
    except Exception:
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
    encoder = _loaded("audio", f"hf:{folder}")
    from msa.extract.encoders import padding

    encoder.padded = padding.separable(encoder.model.config)
    row.end = "padded" if encoder.padded else "one by one"
    noise = np.random.default_rng(0)
    waves = [(0.1 * noise.standard_normal(int(s * 16_000))).astype(np.float32) for s in SECONDS]
    _compare(row, encoder, waves, fails=True)


def _model(row: Row, folder: Path) -> None:
    """Write a checkpoint with weights as large as a trained model has: else each token attends to all alike."""
    import torch
    from transformers import AutoModel

    try:
        config = _config(row.family)
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(4)
        model.save_pretrained(folder)
    except Exception as error:
        row.end, row.why = "not built", f"{type(error).__name__}: {error}"
        raise NotBuilt from error


def _config(family: str) -> Any:
    """The smallest configuration that constructs: all sizes are changed, or all but those of heads, or few."""
    import torch
    from transformers import AutoConfig, AutoModel

    known, errors = vars(AutoConfig.for_model(family)), []
    for leave in ("never", "head|kv", "head|kv|size|dim|d_|inner|expert|top_k"):
        changes = {name: value for name, value in SMALL.items() if name in known and not re.search(leave, name)}
        changes |= {"vocab_size": SMALL["vocab_size"]} | MORE.get(family, {})
        try:
            config = AutoConfig.for_model(family, **{k: value for k, value in changes.items() if value is not LEAVE})
            config.architectures = []  # where several classes share a type, the first
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
        except Exception as error:
            errors.append(error)
            continue
        if size <= PARAMETERS:
            return config
        raise ValueError(f"{size:,.0f} parameters in the smallest configuration tried")
    raise errors[0]


class NotBuilt(Exception):
    """These trials know no small configuration of the type."""


def _tokenizer(family: str, folder: Path) -> None:
    """Letters as tokens; CANINE has its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CanineTokenizer, PreTrainedTokenizerFast

    if family == "canine":
        CanineTokenizer().save_pretrained(folder)
        return
    words = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = ("pad", "unk", "cls", "sep", "mask")
    PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{role}_token": word for role, word in zip(roles, SPECIAL, strict=True)}
    ).save_pretrained(folder)


# timm


def picture(row: Row, folder: Path) -> None:
    """A network of timm, the smallest of its module."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    try:
        state = timm.create_model(row.network, pretrained=False).state_dict()
    except Exception as error:
        row.end, row.why = "not built", f"{type(error).__name__}: {error}"
        raise NotBuilt from error
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "w.safetensors")
    encoder = _loaded("image", f"timm:{row.network}@{folder / 'w.safetensors'}")
    row.end = "batched"
    noise = np.random.default_rng(0)
    sizes = [(300, 200), (31, 500)]
    _compare(row, encoder, [noise.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes])


def networks() -> Iterator[tuple[str, str]]:
    """(module, its smallest network) of timm, and those that are known to put other tokens first."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            yield module, min(names, key=_size)
    for name in (
        "deit_tiny_distilled_patch16_224",
        "pit_ti_distilled_224",
        "vit_small_patch16_dinov3",
        "vit_wee_patch16_reg1_gap_256",
    ):
        if timm.is_model(name):
            yield name, name


def _size(name: str) -> tuple[int, int, str]:
    """A sort key by what names of networks say of their size."""
    words = (
        "test",
        "zepto",
        "atto",
        "femto",
        "pico",
        "nano",
        "xxt",
        "ti",
        "tiny",
        "xxs",
        "xs",
        "mini",
        "small",
        "s",
        "b0",
        "m0",
        "18",
    )
    place = next((i for i, word in enumerate(words) if re.search(rf"(?:^|_){word}(?:_|$|\d)", name)), len(words))
    pixels = re.findall(r"(?:_|x)(\d{3,4})(?:_|$)", name)
    return place, max(map(int, pixels), default=224), name


# one family


def _loaded(modality: str, weights: str) -> Any:
    from msa import catalog
    from msa.extract.presets import spec_of
    from msa.extract.weights import resolve
    from msa.types import Modality

    family, spec = spec_of(Modality(modality), weights)
    spec = replace(spec, dtype="float32")
    return catalog.load("backbone", family).load(spec, resolve(spec), "cpu")


def _compare(row: Row, encoder: Any, clips: list[Any], fails: bool = False) -> None:
    """The largest relative distance between a clip in a batch of all and the clip alone.

    `fails`: a clip may be too short for the model, where it goes alone; then it is left out.
    """
    alone = []
    for clip in clips:
        try:
            alone.append(encoder.encode([clip])[0])
        except RuntimeError:
            if not fails or encoder.budget > 1:
                raise
            alone.append(None)
    kept = [clip for clip, own in zip(clips, alone, strict=True) if own is not None]
    expected = [own for own in alone if own is not None]
    for states, own in zip(encoder.encode(kept[::-1]), expected[::-1], strict=True):
        assert states.shape == own.shape, f"{states.shape} in a batch, {own.shape} alone"
        distance = float(np.linalg.norm(states - own)) / max(float(np.linalg.norm(own)), 1e-12)
        row.distance = max(row.distance, distance)
    row.rows = len(expected[0])
    if row.distance > TOLERANCE:
        row.why, row.end = f"{row.end}, and {row.distance:.1e} from the clip alone", "fault"


def _work(row: Row, work: Callable[[Row, Path], None], answer: Any) -> None:
    """In a process of its own: what became of one family."""
    import torch

    from msa.errors import MsaError

    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with tempfile.TemporaryDirectory() as name:
        try:
            work(row, Path(name))
        except NotBuilt:
            pass
        except MsaError as error:
            row.end, row.why = "refused", error.what.replace(name, "").replace("/w.safetensors", "")
            if re.search(r"cannot encode.*(?:tensor|shape|dimension|expected|divisible|out of range)", row.why):
                row.end = "not built"  # sizes that do not fit each other, which constructed all the same
        except Exception as error:
            row.end, row.why = "fault", f"{row.end}: {type(error).__name__}: {error}"
        row.why = " ".join(row.why.split())[:160].strip("/ :")
        answer.send(asdict(row))


def one(row: Row) -> Row:
    """What became of one family, within the limits of time and memory."""
    work = {"text": text, "audio": audio, "image": picture}[row.kind]
    there, here = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(row, work, here))
    process.start()
    here.close()
    try:
        found = Row(**there.recv()) if there.poll(TIMEOUT_S) else replace(row, end="no answer")
    except EOFError:
        found = replace(row, why="the process ended without a word")
    process.kill()
    process.join()
    return found


def families(kinds: list[str], names: list[str]) -> Iterator[Row]:
    """Every family to be tried."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    reads = {"input_ids": "text", "input_values": "audio", "input_features": "audio"}
    for family in sorted(MODEL_MAPPING._model_mapping):
        try:
            found = MODEL_MAPPING[CONFIG_MAPPING[family]]
        except Exception:  # a type without a configuration, or several
            continue
        first = found[0] if isinstance(found, tuple) else found
        kind = reads.get(str(getattr(first, "main_input_name", "")), "")
        if kind in kinds and (not names or family in names):
            yield Row(kind, family)
    if "image" in kinds:
        yield from (Row("image", f, network) for f, network in networks() if not names or f in names)
