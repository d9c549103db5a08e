"""Checkpoints from strangers: nothing of them runs, what they claim is not believed, all that is read is hashed."""

import ast
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from msa.errors import BackboneError, UnknownNameError
from msa.extract import transformers_folder
from msa.extract.backbone import BackboneSpec
from msa.extract.encoders import checkpoint, image, speech, text
from msa.extract.transformers_folder import TOKENISER, deciding
from msa.extract.weights import resolve
from msa.types import Modality
from tests.extract.backbones import test_backbones as small

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return small.bert(tmp_path_factory.mktemp("checkpoint") / "bert")


@pytest.fixture
def copy(bert, tmp_path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


def changed(path: Path, **changes: object) -> None:
    """Write other values into a JSON file; None takes a key out."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found |= changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def load(folder: Path, **options: object) -> text.TextEncoder:
    spec = BackboneSpec(Modality.TEXT, f"hf:{folder}", options=options, dtype="float32")
    return text.load(spec, resolve(spec), "cpu")


def refused(folder: Path, match: str) -> BackboneError:
    with pytest.raises(BackboneError, match=match) as caught:
        load(folder)
    assert "msa-" not in caught.value.what, "names a temporary folder"
    return caught.value


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other)) / float(np.linalg.norm(other))


# nothing runs


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Puts Python files into a folder; what they write if they run; no question may be asked either."""
    canary = tmp_path / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def lay(folder: Path) -> Path:
        for name in ("evil.py", "__init__.py", "setup.py"):
            (folder / name).write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
        return canary

    return lay


MAPS = {
    "config of an unknown type": ("config.json", {"model_type": "x", "auto_map": {"AutoConfig": "evil.Evil"}}),
    "model of an unknown type": ("config.json", {"model_type": "x", "auto_map": {"AutoModel": "evil.Evil"}}),
    "code of another repository": ("config.json", {"model_type": "x", "auto_map": {"AutoConfig": "o/r--evil.Evil"}}),
    "type of another kind": ("config.json", {"model_type": ["x"], "auto_map": {"AutoConfig": "evil.Evil"}}),
    "no type": ("config.json", {"model_type": None, "auto_map": {"AutoConfig": "evil.Evil"}}),
    "kernel of the hub": ("config.json", {"_attn_implementation": "org/kernel"}),
    "tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}},
    ),
}


@pytest.mark.parametrize("kind", MAPS)
def test_a_checkpoint_with_code_of_its_own_never_runs_it(copy, trap, kind):
    canary, (name, changes) = trap(copy), MAPS[kind]
    changed(copy / name, **changes)
    refused(copy, "architecture|code that came with it")
    assert not canary.exists()


def test_code_is_refused_by_name_and_an_unknown_architecture_too(copy, trap):
    trap(copy)
    changed(copy / "config.json", model_type="x", auto_map={"AutoConfig": "evil.Evil"})
    assert "msa never runs such code" in refused(copy, "'x', is Python code").fix
    changed(copy / "config.json", auto_map=None)
    refused(copy, "names the architecture 'x', which this version of transformers does not have")


def test_code_beside_a_known_architecture_is_left_alone(copy, bert, trap):
    canary = trap(copy)
    changed(copy / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    np.testing.assert_array_equal(load(copy).encode(["good"])[0], load(bert).encode(["good"])[0])
    assert not canary.exists()


def test_a_speech_checkpoint_with_code_of_its_own_never_runs_it(tmp_path, trap):
    folder = small.wav2vec2(tmp_path / "w")
    canary = trap(folder)
    extractor = {"feature_extractor_type": "Evil", "auto_map": {"AutoFeatureExtractor": "evil.Evil"}}
    changed(folder / "preprocessor_config.json", **extractor)
    spec = BackboneSpec(Modality.AUDIO, f"hf:{folder}")
    with pytest.raises(BackboneError, match="without running code that came with it"):
        speech.load(spec, resolve(spec), "cpu")
    assert not canary.exists()


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def test_pickled_weights_run_nothing(copy, tmp_path):
    canary = tmp_path / "ran"
    (copy / "model.safetensors").unlink()
    torch.save({"a": Evil(canary)}, copy / "pytorch_model.bin")
    refused(copy, "cannot be loaded")
    torch.save({"state_dict": Evil(canary)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        image.load(spec := small.timm_spec(tmp_path / "w.pth", "test_resnet"), resolve(spec), "cpu")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["hf-hub:org/x", "hf_hub:org/x", "local-dir:.", "schemes:x", "../x", "x\x1b[2J"])
def test_a_network_is_one_of_timm_not_a_configuration_from_elsewhere(tmp_path, name):
    (tmp_path / "w.pth").write_bytes(b"x")
    spec = BackboneSpec(Modality.IMAGE, f"timm:{name}@{tmp_path / 'w.pth'}")
    with pytest.raises(UnknownNameError, match="no timm model called"):
        image.load(spec, resolve(spec), "cpu")


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/../x", "a/b/c", "x\x00y", "~nobody-here/x", "org/" + "x" * 5000, "."]
)
def test_names_that_lead_nowhere_are_errors(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError):
        resolve(BackboneSpec(Modality.TEXT, f"hf:{name}"))


# what is claimed is not believed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 10**9),
        ("hidden_size", 2**20),
        ("intermediate_size", 10**9),
        ("intermediate_size", 2**24),
        ("vocab_size", 10**9),
        ("vocab_size", 10**7),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 300),
        ("num_experts", 200),
        ("max_position_embeddings", 10**9),
        ("max_position_embeddings", 2**24),
        ("type_vocab_size", 10**12),
        ("hidden_size", 10**40),
        ("hidden_size", -1),
        ("hidden_size", 0),
        ("hidden_size", "32"),
        ("hidden_size", 1e9),
        ("num_attention_heads", 0),
        ("num_hidden_layers", None),
        ("hidden_act", "evil"),
    ],
)
def test_dimensions_that_are_not_there_are_refused_before_memory_is_taken(copy, name, value):
    found = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**found, name: value}))
    refused(copy, "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 10**10),
        ("rotary_emb_base", 10**9),
        ("max_length", 10**30),
        ("shared_experts_intermediate_size", 4096),
        ("num_parameters", 10**11),
        ("mask_token_id", 4),
    ],
)
def test_large_numbers_that_are_no_dimension_are_left_alone(copy, name, value):
    changed(copy / "config.json", **{name: value})
    assert load(copy).dim == 32


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"a": ' + b"9" * 5000],
)
def test_json_that_is_none_or_is_nested_absurdly_is_an_error(copy, name, content):
    (copy / name).write_bytes(content)
    refused(copy, f"{name}|model cannot be loaded")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_terabyte_of_nothing_is_not_hashed(copy, name):
    with (copy / name).open("ab") as file:
        file.truncate(2**40)  # takes no room
    refused(copy, "claims 1,099,511,627,776 bytes")


def test_a_configuration_is_of_a_bounded_size(copy, monkeypatch):
    monkeypatch.setattr(transformers_folder, "MAX_JSON", 100)
    refused(copy, r"config\.json has \d+ bytes, at most 100 are read")


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../other/model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "evil.py"}},
        {"weight_map": {"a": 3}},
        {"weight_map": {}},
        {"weight_map": ["model.safetensors"]},
        {},
        [],
    ],
)
def test_an_index_names_files_beside_it(copy, index):
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copy, r"index\.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing"])
def test_what_is_no_file_is_not_waited_for(copy, name, kind):
    (copy / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(copy / name)
    elif kind == "folder":
        (copy / name).mkdir()
    else:
        (copy / name).symlink_to("/dev/zero" if kind == "device" else copy / "none")
    refused(copy, name.replace(".", r"\."))


def test_links_to_files_are_followed_as_the_cache_of_the_hub_has_them(bert, tmp_path):
    (tmp_path / "linked").mkdir()
    for path in bert.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    np.testing.assert_array_equal(load(tmp_path / "linked").encode(["good"])[0], load(bert).encode(["good"])[0])


@pytest.mark.parametrize(
    "header", [b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}"]
)
def test_tensors_with_a_header_that_lies_are_an_error(copy, header):
    (copy / "model.safetensors").write_bytes(header)
    refused(copy, "cannot be loaded|would be random")


# all that is read is hashed


def _vocabulary_files() -> set[str]:
    """Every file that a tokenizer of transformers names, read from its source."""
    root = Path(str(find_spec("transformers").origin)).parent / "models"
    found: set[str] = set()
    for path in root.glob("*/tokenization_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").upper() == "VOCAB_FILES_NAMES"
            if named and isinstance(node.value, ast.Dict):
                found |= {value.value for value in node.value.values if isinstance(value, ast.Constant)}
    return found


def test_every_file_that_a_tokenizer_of_transformers_names_is_fetched_and_hashed():
    from fnmatch import fnmatch

    names = _vocabulary_files()
    assert {"vocab.txt", "bpe.codes", "spm.model"} <= names
    assert [name for name in sorted(names) if not any(fnmatch(name, like) for like in TOKENISER)] == []


def bertweet(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaModel

    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{c} 9\n{c}@@ 9\n" for c in "abdego") + "good 9\n")
    (folder / "bpe.codes").write_text("o o 9\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertweetTokenizer"}')
    torch.manual_seed(0)
    RobertaModel(RobertaConfig(vocab_size=40, max_position_embeddings=130, pad_token_id=1, **BERT)).save_pretrained(
        folder
    )
    return folder


def test_bpe_codes_decide_the_tokens_and_so_the_hash(tmp_path):
    folder = bertweet(tmp_path / "model")
    before = resolve(BackboneSpec(Modality.TEXT, f"hf:{folder}")).sha256
    ids = load(folder).tokenize(["good dog"])
    (folder / "bpe.codes").write_text("g o 9\n")
    assert load(folder).tokenize(["good dog"]) != ids
    assert resolve(BackboneSpec(Modality.TEXT, f"hf:{folder}")).sha256 != before
    (folder / "bpe.codes").unlink()
    refused(folder, r"has no bpe\.codes, which BertweetTokenizer reads")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_vocabulary_is_never_made_up(tmp_path, name):
    folder = small.roberta(tmp_path / "model")
    load(folder)
    (folder / name).unlink()
    refused(folder, f"has no {name}".replace(".", r"\."))


def test_a_vocabulary_of_bert_is_never_made_up(copy):
    (copy / "vocab.txt").unlink()
    refused(copy, r"has no vocab\.txt, which Bert")


def test_what_is_not_hashed_is_not_there_for_the_library(copy, bert):
    """An adapter, for one, would be put into the model without a word."""
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "/x"}')
    (copy / "adapter_model.safetensors").write_bytes(b"x")
    np.testing.assert_array_equal(load(copy).encode(["good"])[0], load(bert).encode(["good"])[0])
    with checkpoint.sealed(copy, Modality.TEXT) as inside:
        assert sorted(path.name for path in inside.iterdir()) == [path.name for path in deciding(copy, Modality.TEXT)]
    assert not inside.exists()


# tokenizers


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(copy):
    with (copy / "vocab.txt").open("a") as file:
        file.write("\nmore")
    rows = json.loads((copy / "config.json").read_text())["vocab_size"]
    refused(copy, f"numbers its tokens up to {rows}, the model has embeddings for {rows}")


def test_a_token_added_beyond_the_embeddings_is_refused(copy):
    (copy / "added_tokens.json").write_text('{"<new>": 5000}')
    refused(copy, "numbers its tokens up to")


@pytest.fixture
def fast(copy) -> Path:
    """With a tokenizer.json."""
    checkpoint.tokenizer(copy).save_pretrained(copy)
    load(copy)
    return copy


def test_a_normaliser_that_makes_texts_explode_is_refused(fast):
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    changed(fast / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * 12})
    refused(fast, "makes each letter of a text into up to 1,000,000,000,000")
    changed(fast / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * 2})
    load(fast)


def test_a_tokenizer_that_draws_at_random_is_refused(fast):
    found = json.loads((fast / "tokenizer.json").read_text())
    changed(fast / "tokenizer.json", model={**found["model"], "dropout": 0.1})
    refused(fast, "differently each time")


def test_a_checkpoint_with_nothing_but_a_sentencepiece_model_is_read(tmp_path):
    import sentencepiece
    from transformers import DebertaV2Config, DebertaV2Model

    (tmp_path / "lines").write_text("\n".join(f"good film number {i}, not what I like" for i in range(50)))
    (tmp_path / "model").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines"), model_prefix=str(tmp_path / "model" / "spm"), vocab_size=39, minloglevel=9
    )
    (tmp_path / "model" / "spm.vocab").unlink()
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    DebertaV2Model(DebertaV2Config(vocab_size=80, **BERT)).save_pretrained(tmp_path / "model")
    assert len(load(tmp_path / "model").encode(["good film"])[0]) > 3


# families whose texts must not meet


def with_letters(folder: Path, model: torch.nn.Module) -> Path:
    """A model with the vocabulary of the small BERT."""
    model.save_pretrained(folder)
    return folder


def test_texts_of_esm_are_not_packed_since_its_masks_are_counted_over_the_row(copy, bert):
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(0)
    rows = json.loads((copy / "config.json").read_text())["vocab_size"]
    kinds = {"token_dropout": True, "position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 4}
    EsmModel(EsmConfig(vocab_size=rows, **BERT, **kinds)).save_pretrained(copy)
    encoder = load(copy)
    assert encoder.batching == "padded"
    for texts in (["i [MASK] it", "a longer text without"], ["no mask", "i [MASK] it", "[MASK] [MASK] a"]):
        for states, own in zip(encoder.encode(texts), texts, strict=True):
            assert far(states, encoder.encode([own])[0]) <= 1e-5


def test_a_text_too_short_for_canine_fails_alone_and_in_every_batch(tmp_path):
    from transformers import CanineConfig, CanineModel, CanineTokenizer

    torch.manual_seed(0)
    config = CanineConfig(**BERT, num_hash_buckets=256)  # also its places
    CanineModel(config).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    encoder = load(tmp_path)
    assert encoder.budget == 1
    assert len(encoder.encode(["a text long enough"])[0]) == 20
    for texts in (["z"], ["a text long enough", "z"]):
        with pytest.raises(RuntimeError):
            encoder.encode(texts)


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_the_half_of_t5_that_reads_is_an_encoder(fast, kind):
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 100}
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(fast)
    encoder = load(fast)
    ids = encoder.tokenize(["good film", "a"])
    model = AutoModelForTextEncoding.from_pretrained(fast).eval()
    with torch.no_grad():
        expected = [model(torch.tensor([own])).last_hidden_state[0].numpy() for own in ids]
    for states, own in zip(encoder.encode(["good film", "a"]), expected, strict=True):
        assert far(states, own) <= 1e-5
