"""Every backbone by the catalog: what it declares, what it returns, and that no clip depends on its neighbours.

Families with weights run their real code on small folders made here: random weights from a real configuration.
"""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from msa import catalog
from msa.errors import BackboneError, ConfigError, UnknownNameError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.backbones import librosa as acoustic
from msa.extract.backbones import ngrams
from msa.extract.encoders import image, rows, speech, text
from msa.extract.encoders.lane import lane
from msa.extract.media.decode import clip
from msa.extract.presets import spec_of
from msa.extract.weights import resolve
from msa.types import Modality, Raw

RATE = 16_000
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BYTES = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # GPT-2's alphabet
FREE = {"hf:text": Modality.TEXT, "hf:audio": Modality.AUDIO, "timm:test_vit": Modality.IMAGE}


def _modality(name: str) -> Modality:
    family, _, variant = name.partition(".")
    return catalog.load("backbone", family).SPECS[variant].modality


NAMES = [*(name for name in catalog.backbones() if _modality(name) is not Modality.FACE), *FREE]  # see test_faces.py

TEXTS = [
    "Good day to you!",
    "not what I'd call a GOOD film :( #meh http://t.co/x @you",
    "?!",
    "😀",
    "word " * 2000,
    "电影很好看",
    "a" * 10_000,
    "x",
]


def pictures() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    sizes = [(300, 200), (1, 1), (3, 900)]
    return [noise.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes] + [np.zeros((50, 50, 3), np.uint8)]


def waves() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    lengths = (1, 50, 399, 400, 401, 8000, 16_123)
    voice = 0.3 * np.sign(np.sin(2 * np.pi * 120 * np.arange(RATE) / RATE))
    clips = [0.1 * noise.standard_normal(n) for n in lengths]
    return [wave.astype(np.float32) for wave in (*clips, voice, np.zeros(5000))]


CLIPS = {Modality.TEXT: TEXTS, Modality.IMAGE: pictures(), Modality.AUDIO: waves()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only wait for a second thread, for seconds where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# small folders in the layout of the hub


def bert(folder: Path) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    letters = [*"abcdefghijklmnopqrstuvwxyz!?':#@./电影"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, **SMALL)).save_pretrained(
        folder
    )
    return folder


def roberta(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaForMaskedLM

    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *BYTES, "<mask>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(vocabulary), max_position_embeddings=130, pad_token_id=1, **SMALL)
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def wav2vec2(folder: Path, **changes: object) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining

    small = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    Wav2Vec2ForPreTraining(Wav2Vec2Config(**SMALL, **small)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**{"do_normalize": True, **changes}).save_pretrained(folder)
    return folder


def timm_file(path: Path, name: str) -> Path:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    made = {"bert": bert(root / "bert"), "roberta": roberta(root / "roberta"), "wav2vec2": wav2vec2(root / "wav2vec2")}
    made["test_vit"] = timm_file(root / "test_vit.safetensors", "test_vit")
    made["test_resnet"] = timm_file(root / "test_resnet.safetensors", "test_resnet")
    return made


@pytest.fixture(scope="session")
def small(folders, tmp_path_factory):
    """name -> (spec in float32 over small weights, the loaded backbone); each is loaded once."""
    loaded = {}

    def stand_in(name: str, spec: BackboneSpec) -> BackboneSpec:
        if not spec.weights:
            return spec
        if spec.modality is Modality.IMAGE:
            network = image.architecture(spec.weights).partition(".")[0].replace("50d", "14d")  # the same, not as deep
            if network not in folders:
                folders[network] = timm_file(tmp_path_factory.mktemp("timm") / f"{network}.safetensors", network)
            return replace(spec, weights=f"timm:{network}@{folders[network]}")
        kind = "wav2vec2" if spec.modality is Modality.AUDIO else "roberta" if name == "roberta.base" else "bert"
        return replace(spec, weights=f"hf:{folders[kind]}")

    def get(name: str):
        if name not in loaded:
            family, spec = spec_of(FREE.get(name) or _modality(name), name)
            spec = replace(stand_in(name, spec), dtype="float32")
            loaded[name] = spec, catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
        return loaded[name]

    return get


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other)) / max(float(np.linalg.norm(other)), 1e-12)


# the contract


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_declared_width_and_dtype_and_are_finite(small, name):
    spec, backbone = small(name)
    clips = CLIPS[spec.modality]
    encoded = backbone.encode(clips)
    assert len(encoded) == len(clips)
    for states in encoded:
        assert states.ndim == 2
        assert len(states) > 0
        assert states.shape[1] == backbone.dim
        assert states.dtype == np.dtype(spec.dtype)
        assert np.isfinite(states).all()
    assert all(isinstance(number, str) for number in backbone.versions.values())
    assert backbone.encode([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_twice(small, name):
    spec, backbone = small(name)
    clips = CLIPS[spec.modality]
    for one, other in zip(backbone.encode(clips), backbone.encode(clips), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_does_not_depend_on_its_batch(small, name):
    spec, backbone = small(name)
    clips = CLIPS[spec.modality]
    alone = [backbone.encode([clip])[0] for clip in clips]
    order = list(range(len(clips)))
    random.Random(0).shuffle(order)
    for size in (3, len(clips)):
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            for i, states in zip(batch, backbone.encode([clips[i] for i in batch]), strict=True):
                assert states.shape == alone[i].shape
                assert far(states, alone[i]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_frozen(small, name):
    spec, backbone = small(name)
    if not spec.weights:
        return  # nothing to freeze
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("name", catalog.backbones())
def test_a_recipe_states_its_licence_and_source(name):
    family, spec = spec_of(_modality(name), name)
    assert spec.licence
    assert spec.source.startswith("https://")
    assert spec.dtype in ("float16", "float32")
    assert "Paper " in catalog.load("backbone", family).__doc__


def test_loading_leaves_no_trace_in_the_process(folders):
    from transformers.utils import logging

    def state():
        return (
            torch.get_rng_state().sum().item(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.backends.cuda.matmul.allow_tf32,
            logging.get_verbosity(),
            logging.is_progress_bar_enabled(),
        )

    torch.manual_seed(3)
    before = state()
    for modality, name in (("text", "hf:{bert}"), ("audio", "hf:{wav2vec2}"), ("image", "timm:test_vit@{test_vit}")):
        family, spec = spec_of(Modality(modality), name.format(**folders))
        catalog.load("backbone", family).load(spec, resolve(spec), "cpu").encode(CLIPS[spec.modality])
    assert state() == before


def test_naming_every_backbone_imports_no_framework():
    heavy = {"torch", "transformers", "timm", "librosa", "skimage", "parselmouth", "vaderSentiment", "PIL", "sklearn"}
    code = (
        "import sys; from msa import catalog; from msa.extract import presets, weights;"
        "[catalog.load('backbone', name) for name in catalog.names('backbone')];"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_loading_prints_nothing(folders, capfd):
    spec = BackboneSpec(Modality.TEXT, f"hf:{folders['bert']}")
    text.load(spec, resolve(spec), "cpu").encode(TEXTS)
    assert capfd.readouterr() == ("", "")


# text


def test_text_keeps_its_special_tokens_and_stops_at_max_length(small):
    _, backbone = small("roberta.base")
    short, long = backbone.encode(["ab", "a" * 10_000])
    assert len(short) == 4  # <s> a b </s>
    assert len(long) == 128


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_hidden_states_are_those_of_the_library(folders, small, name):
    from transformers import AutoModel

    _, backbone = small(f"{name}.base")
    assert backbone.batching == "packed"
    ids = torch.tensor([backbone.tokenizer("good day")["input_ids"]])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folders[name]).eval()(ids).last_hidden_state[0].numpy()
    assert far(backbone.encode(["good day", TEXTS[1]])[0], expected) <= 1e-5


def test_a_layer_can_be_chosen(folders):
    spec = BackboneSpec(Modality.TEXT, f"hf:{folders['bert']}", options={"layer": 0}, dtype="float32")
    embeddings = text.load(spec, resolve(spec), "cpu")
    last = text.load(replace(spec, options={"layer": 2}), resolve(spec), "cpu").encode(["good"])[0]
    assert far(embeddings.encode(["good"])[0], last) > 1e-2
    assert far(text.load(replace(spec, options={}), resolve(spec), "cpu").encode(["good"])[0], last) == 0


@pytest.mark.parametrize("options", [{"max_length": 600}, {"layer": 9}])
def test_what_the_weights_cannot_do_is_told_at_load(folders, options):
    spec = BackboneSpec(Modality.TEXT, f"hf:{folders['bert']}", options=options)
    with pytest.raises(BackboneError, match="cannot encode"):
        text.load(spec, resolve(spec), "cpu")


def test_an_encoder_decoder_is_refused(folders, tmp_path):
    from transformers import BartConfig

    BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="encoder-decoder"):
        text.load(BackboneSpec(Modality.TEXT, f"hf:{tmp_path}"), Weights(tmp_path, None, ""), "cpu")


def copy_without(source: Path, target: Path, *prefixes: str, rename=lambda key: key, pickle=False) -> Path:
    """A folder like `source` whose tensors are renamed, or missing."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    kept = {rename(key): tensor for key, tensor in tensors.items() if not key.startswith(prefixes or ("-",))}
    if pickle:
        torch.save(kept, target / "pytorch_model.bin")
    else:
        save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_missing_tensors_are_an_error_not_random_numbers(folders, tmp_path):
    broken = copy_without(folders["bert"], tmp_path / "broken", "bert.encoder.layer.1.attention")
    with pytest.raises(BackboneError, match=r"would be random: encoder\.layer\.1\.attention.* and \d+ more"):
        text.load(BackboneSpec(Modality.TEXT, f"hf:{broken}"), Weights(broken, None, ""), "cpu")


def test_tensors_of_another_width_are_an_error(folders, tmp_path):
    broken = copy_without(folders["bert"], tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(BackboneError, match=str(broken)):
        text.load(BackboneSpec(Modality.TEXT, f"hf:{broken}"), Weights(broken, None, ""), "cpu")


def test_a_broken_file_is_an_error(folders, tmp_path):
    broken = copy_without(folders["bert"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"<html>404</html>")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        text.load(BackboneSpec(Modality.TEXT, f"hf:{broken}"), Weights(broken, None, ""), "cpu")


def test_pickled_weights_with_the_names_of_their_time_load_to_the_same_states(small, folders, tmp_path):
    """The checkpoints of 2018 call a LayerNorm's weight gamma; the hub's bert-base-uncased still does."""

    def of_2018(key: str) -> str:
        return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    old = copy_without(folders["bert"], tmp_path / "old", rename=of_2018, pickle=True)
    spec = BackboneSpec(Modality.TEXT, f"hf:{old}", dtype="float32")
    states = text.load(spec, resolve(spec), "cpu").encode(["good day"])[0]
    np.testing.assert_array_equal(states, small("bert.base")[1].encode(["good day"])[0])


# speech


def test_speech_weights_with_the_names_of_their_time_load_to_the_same_states(small, folders, tmp_path):
    def of_2020(key: str) -> str:
        parametrized = "conv.parametrizations.weight.original"
        return key.replace(f"{parametrized}0", "conv.weight_g").replace(f"{parametrized}1", "conv.weight_v")

    old = copy_without(folders["wav2vec2"], tmp_path / "old", rename=of_2020, pickle=True)
    spec = BackboneSpec(Modality.AUDIO, f"hf:{old}", dtype="float32")
    states = speech.load(spec, resolve(spec), "cpu").encode(waves()[5:6])[0]
    np.testing.assert_array_equal(states, small("wav2vec2.base")[1].encode(waves()[5:6])[0])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_wave_is_normalised_as_the_extractor_of_its_weights_does(folders, tmp_path, normalize):
    from transformers import AutoFeatureExtractor

    folder = wav2vec2(tmp_path / "w", do_normalize=normalize)
    spec = BackboneSpec(Modality.AUDIO, f"hf:{folder}")
    encoder = speech.load(spec, resolve(spec), "cpu")
    expected = AutoFeatureExtractor.from_pretrained(folder)(waves()[5], sampling_rate=RATE)["input_values"][0]
    np.testing.assert_allclose(encoder.waveform(waves()[5]), expected, rtol=1e-4, atol=1e-5)


def test_frames_come_every_20_ms_and_clips_below_one_field_are_filled(small):
    _, backbone = small("wav2vec2.base")
    assert backbone.field == 400
    counts = [len(states) for states in backbone.encode(waves())]
    assert counts == [max((max(len(wave), 400) - 400) // 320 + 1, 1) for wave in waves()]


def test_max_seconds_keeps_the_beginning(folders):
    spec = BackboneSpec(Modality.AUDIO, f"hf:{folders['wav2vec2']}", options={"max_seconds": 0.5}, dtype="float32")
    encoder = speech.load(spec, resolve(spec), "cpu")
    long = waves()[6]
    np.testing.assert_array_equal(encoder.encode([long])[0], encoder.encode([long[:8000]])[0])


def test_weights_for_another_rate_or_another_input_are_refused(folders, tmp_path):
    folder = wav2vec2(tmp_path / "w", sampling_rate=8000)
    spec = BackboneSpec(Modality.AUDIO, f"hf:{folder}")
    with pytest.raises(BackboneError, match="wants 8000 Hz"):
        speech.load(spec, resolve(spec), "cpu")
    with pytest.raises(BackboneError, match="bert does not read a waveform"):
        speech.load(spec, Weights(folders["bert"], None, ""), "cpu")


# pictures


def timm_spec(path: Path, name: str, **options: object) -> BackboneSpec:
    return BackboneSpec(Modality.IMAGE, f"timm:{name}@{path}", options=options, dtype="float32")


def test_resnest_50_gives_49_tokens_2048_wide(tmp_path):
    weights = f"timm:resnest50d.in1k@{timm_file(tmp_path / 'w.safetensors', 'resnest50d')}"
    family, spec = spec_of(Modality.IMAGE, "resnest.50d")
    spec = replace(spec, weights=weights)
    backbone = catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
    assert backbone.dim == 2048
    assert backbone.encode(pictures()[:1])[0].shape == (49, 2048)
    assert backbone.preprocessing["input_size"] == (3, 224, 224)


def test_pooled_is_the_mean_of_the_grid(folders):
    grid = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")
    pooled = image.load(replace(spec, options={"tokens": "pooled"}), resolve(spec), "cpu")
    whole, mean = grid.encode(pictures()[:1])[0], pooled.encode(pictures()[:1])[0]
    assert mean.shape == (1, whole.shape[1])
    assert far(mean[0], whole.mean(axis=0)) <= 1e-6


def test_a_class_token_is_not_a_place(small):
    _, backbone = small("timm:test_vit")
    assert len(backbone.encode(pictures()[:1])[0]) == 100  # 160 px in patches of 16


def test_channels_last_is_read_as_such(folders):
    encoder = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")

    class Last(torch.nn.Module):
        output_fmt = "NHWC"

        def forward_features(self, batch):
            return torch.arange(2 * 3 * 5).reshape(1, 2, 3, 5).float()  # 2 x 3 places

    encoder.model = Last()
    np.testing.assert_array_equal(encoder.encode(pictures()[:1])[0], np.arange(30).reshape(6, 5))


def test_what_was_prepared_ahead_is_taken_as_it_is(folders):
    encoder = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")
    ahead = [encoder.prepare(picture) for picture in pictures()]
    np.testing.assert_array_equal(encoder.encode(ahead), encoder.encode(pictures()))


def test_what_is_normalised_in_the_batch_is_what_timm_normalises_bit_for_bit(folders):
    from PIL import Image
    from timm.data import create_transform

    encoder = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")
    whole = create_transform(**encoder.preprocessing, is_training=False)
    seen = []
    encoder.model = SimpleNamespace(forward_features=lambda batch: seen.append(batch) or batch)
    encoder.encode(pictures())
    expected = torch.stack([whole(Image.fromarray(image._not_too_slim(picture))) for picture in pictures()])
    assert torch.equal(seen[0], expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_pictures_go_to_a_gpu_by_the_128(folders):
    encoder = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")
    assert encoder.budget == 8
    encoder.device = "cuda:0"
    assert encoder.budget == 128


def test_a_strip_is_cut_before_it_would_fill_the_memory():
    strip = np.zeros((1, 20_000, 3), np.uint8)
    strip[:, 10_000] = 255
    assert image._not_too_slim(strip).shape == (1, 16, 3)
    assert image._not_too_slim(strip).any()
    assert image._not_too_slim(pictures()[0]).shape == pictures()[0].shape


def test_a_classifier_of_any_size_may_be_there_or_not(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folders["test_resnet"])
    reference = image.load(spec := timm_spec(folders["test_resnet"], "test_resnet"), resolve(spec), "cpu")
    tuned = {**tensors, "fc.weight": torch.zeros(3, tensors["fc.weight"].shape[1]), "fc.bias": torch.zeros(3)}
    bare = {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}
    for i, changed in enumerate((tuned, bare)):
        save_file(changed, tmp_path / f"{i}.safetensors")
        other = image.load(spec := timm_spec(tmp_path / f"{i}.safetensors", "test_resnet"), resolve(spec), "cpu")
        np.testing.assert_array_equal(other.encode(pictures()[:1]), reference.encode(pictures()[:1]))
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in bare.items()}}, tmp_path / "w.pth")
    other = image.load(spec := timm_spec(tmp_path / "w.pth", "test_resnet"), resolve(spec), "cpu")
    np.testing.assert_array_equal(other.encode(pictures()[:1]), reference.encode(pictures()[:1]))


def test_a_checkpoint_of_another_network_is_refused(folders):
    with pytest.raises(BackboneError, match=r"would be random|cannot be loaded"):
        image.load(spec := timm_spec(folders["test_vit"], "test_resnet"), resolve(spec), "cpu")


def test_a_network_timm_does_not_know_is_refused(folders):
    with pytest.raises(UnknownNameError, match="did you mean 'test_resnet'"):
        image.load(spec := timm_spec(folders["test_resnet"], "test_resnett"), resolve(spec), "cpu")
    with pytest.raises(UnknownNameError, match="did you mean 'pooled'"):
        image.load(spec := timm_spec(folders["test_resnet"], "test_resnet", tokens="pool"), resolve(spec), "cpu")


# precision


def test_a_state_that_is_not_finite_names_its_clip():
    with pytest.raises(FloatingPointError, match="clip 1 of this batch"):
        rows([np.ones((2, 3)), np.full((1, 3), 1e6)], "float16")
    assert rows([np.full((1, 3), 1e6)], "float32")[0].dtype == np.float32


def test_a_forward_on_a_cpu_is_taken_once_without_a_graph():
    taken = []
    result = lane("cpu").forward(lambda: taken.append(1) or torch.ones(2, requires_grad=True) * 2, "float16")
    assert taken == [1]
    assert not result.states.requires_grad
    assert result.states.dtype == torch.float32


# the classic three


def test_mfcc_are_those_of_librosa(small):
    import librosa

    _, backbone = small("librosa.acoustic")
    for wave in waves()[5:8]:
        expected = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=20, n_fft=1024, hop_length=320)
        np.testing.assert_allclose(backbone.encode([wave])[0][:, :20], expected.T, atol=1e-2, rtol=1e-3)


def test_chroma_rate_and_energy_are_those_of_librosa(small):
    import librosa

    _, backbone = small("librosa.acoustic")
    wave = waves()[7]
    got = backbone.encode([wave])[0]
    settings = {"n_fft": 1024, "hop_length": 320}
    chroma = librosa.feature.chroma_stft(y=wave, sr=RATE, tuning=0.0, **settings)
    np.testing.assert_allclose(got[:, 20:32], chroma.T, atol=1e-3)
    rms = librosa.feature.rms(y=wave, frame_length=1024, hop_length=320)[0]
    np.testing.assert_allclose(got[:, acoustic.COLUMNS.index("rms")], rms, atol=1e-5)
    crossings = got[5:-5, acoustic.COLUMNS.index("zero_crossing_rate")]
    np.testing.assert_allclose(crossings, 240 / RATE, atol=2e-3)  # 120 Hz crosses zero 240 times a second


@pytest.mark.parametrize("f0", ["praat", "yin"])
def test_pitch_is_found_where_there_is_a_voice(f0):
    _, spec = spec_of(Modality.AUDIO, "librosa", [f"f0={f0}"])
    backbone = acoustic.load(spec, Weights(None, None, ""), "cpu")
    voice, quiet = waves()[7], waves()[8]
    halves = backbone.encode([np.concatenate([voice, np.zeros(RATE, np.float32)])])[0]
    f0s, voiced = halves[:, -2], halves[:, -1]
    assert np.median(f0s[5:45]) == pytest.approx(120, abs=2)
    assert voiced[5:45].all()
    assert not voiced[55:].any()
    assert not f0s[55:].any()
    assert len(backbone.encode([quiet])[0]) == 1 + len(quiet) // 320
    assert np.isfinite(np.concatenate(backbone.encode(waves()))).all()


def test_an_unknown_pitch_tracker_is_refused():
    _, spec = spec_of(Modality.AUDIO, "librosa", ["f0=pyin"])
    with pytest.raises(UnknownNameError, match="yin"):
        acoustic.load(spec, Weights(None, None, ""), "cpu")


def words(small, line: str) -> tuple[list[str], dict[str, np.ndarray]]:
    _, backbone = small("ngrams.words")
    table = backbone.encode([line])[0][:, backbone.dims :]
    return backbone.split(line), dict(zip(ngrams.COLUMNS, table.T, strict=True))


def test_words_links_emoticons_and_signs_are_tokens(small):
    tokens, _ = words(small, "I don't like #BadDay @you, see http://t.co/x?y :-( !!! 😀电影")
    assert tokens == [
        *("I", "don't", "like", "#BadDay", "@you", ",", "see", "http://t.co/x?y", ":-("),
        *("!!!", "😀", "电", "影"),
    ]


def test_the_lexicon_stands_beside_what_turns_it(small):
    _, columns = words(small, "It is not very GOOD :( 😀 !!")
    assert columns["valence"][4] == pytest.approx(1.9 / 4)  # the lexicon's own "good"
    assert columns["negative"][5] > 0
    assert columns["valence"][6] > 0
    np.testing.assert_array_equal(columns["negation"], [0, 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(columns["negated"], [0, 0, 0, 1, 1, 1, 0, 0])  # three words far
    np.testing.assert_array_equal(columns["capitals"], [0, 0, 0, 0, 1, 0, 0, 0])
    assert columns["intensifier"][3] > 0
    assert columns["emoji"][6] == 1
    assert columns["exclamation"][7] == 0.5


def test_hashing_is_the_same_in_every_process():
    assert ngrams._hash("w good") == (127603155354024135, -1)


def test_words_share_their_pieces(small):
    _, backbone = small("ngrams.words")
    films, film, other = (backbone.encode([word])[0][0, : backbone.dims] for word in ("films", "film", "quartz"))
    assert films @ film > 0.3 > abs(films @ other) + 0.1


def test_descriptors_lie_within_zero_and_one(small):
    _, backbone = small("descriptors.grid")
    for states in backbone.encode(pictures()):
        assert states.shape == (49, len(backbone.columns))
        assert states.min() >= 0
        assert states.max() <= 1.5


def test_descriptors_see_colour_place_and_edges(small):
    _, backbone = small("descriptors.grid")
    picture = np.zeros((224, 224, 3), np.uint8)
    picture[:32, :, 0] = 255  # a red row of cells above
    picture[32:, 1::4] = picture[32:, 2::4] = 255  # upright stripes below
    columns = dict(zip(backbone.columns, backbone.encode([picture])[0].T.reshape(-1, 7, 7), strict=True))
    assert (columns["hue0"][0] == 1).all()
    assert (columns["hue0"][1:] == 0).all()
    assert (columns["angle0"][3] > 0.9).all()
    assert columns["colourfulness"][0].min() > columns["colourfulness"][1:].max()
    np.testing.assert_allclose(columns["row"][:, 0], np.arange(7) / 6)


def test_a_grid_that_does_not_divide_the_picture_is_refused():
    family, spec = spec_of(Modality.IMAGE, "descriptors", ["grid=5"])
    with pytest.raises(ConfigError, match="no multiple"):
        catalog.load("backbone", family).load(spec, Weights(None, None, ""), "cpu")
    family, spec = spec_of(Modality.IMAGE, "descriptors", ["grid=4", "size=64"])
    backbone = catalog.load("backbone", family).load(spec, Weights(None, None, ""), "cpu")
    assert backbone.encode(pictures()[:1])[0].shape == (16, backbone.dim)


# real weights


@pytest.mark.real
def test_real_mobilenet_keeps_its_promises_in_the_stored_dtype(shared):
    path = shared / "weights" / "mobilenetv2_100.safetensors"
    family, spec = spec_of(Modality.IMAGE, f"timm:mobilenetv2_100@{path}")
    backbone = catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
    photos = sorted((shared / "data" / "mvsa_single" / "data").glob("*.jpg"))[:3]
    clips = [clip(Modality.IMAGE, Raw(path=photo)) for photo in photos]
    together = backbone.encode(clips)
    for states, photo in zip(together, clips, strict=True):
        assert states.shape == (49, 1280)
        assert states.dtype == np.float16
        assert far(states.astype(float), backbone.encode([photo])[0].astype(float)) <= 5e-4


@pytest.mark.real
def test_real_minilm_puts_like_beside_like(shared, tmp_path):
    made = subprocess.run([shared / "weights" / "get_minilm.sh", tmp_path / "m"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("the package index, from which these weights come, is out of reach")
    family, spec = spec_of(Modality.TEXT, f"hf:{tmp_path / 'm'}")
    backbone = catalog.load("backbone", family).load(replace(spec, dtype="float32"), resolve(spec), "cpu")
    lines = ["a wonderful film", "I loved this movie", "the train leaves at noon"]
    film, movie, train = (states.mean(axis=0) for states in backbone.encode(lines))

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / math.sqrt((one @ one) * (other @ other)))

    assert cosine(film, movie) > 0.5 > cosine(film, train) + 0.2

    from transformers import AutoModel

    model = AutoModel.from_pretrained(tmp_path / "m").eval()
    texts = [*lines, *TEXTS, *("so good " * n for n in range(1, 20))]
    assert backbone.batching == "packed"
    with torch.inference_mode():
        alone = [model(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in backbone.tokenize(texts)]
    order = random.Random(0).sample(range(len(texts)), len(texts))
    for size in (1, 7, len(texts)):
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            for i, states in zip(batch, backbone.encode([texts[i] for i in batch]), strict=True):
                assert far(states, alone[i]) <= 1e-5
