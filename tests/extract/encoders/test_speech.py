"""Speech: padded batches, in which every clip has the hidden states that the untouched library gives it alone.

Each family runs its real code, from small folders with random weights.
"""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import padding, speech
from msa.extract.encoders.lane import Arrival, Lane
from msa.types import Modality

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
FRONT = {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 2}
BASE = {"feat_extract_norm": "group", "num_conv_pos_embeddings": 16}
LARGE = {**BASE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES = {
    "wav2vec2-base": ("wav2vec2", BASE),
    "wav2vec2-large": ("wav2vec2", LARGE),
    "hubert-base": ("hubert", BASE),
    "hubert-large": ("hubert", LARGE),
    "hubert-batch-norm": ("hubert", {**BASE, "conv_pos_batch_norm": True}),
    "wavlm-base": ("wavlm", BASE),
    "wavlm-large": ("wavlm", LARGE),
    "unispeech-base": ("unispeech", BASE),
    "unispeech-sat-base": ("unispeech-sat", BASE),
    "data2vec": ("data2vec-audio", {}),  # five positional convolutions, one after the other
}
# one field is 400 samples, the next frame comes after 320 more: on both sides of every edge, and shorter than a field
LENGTHS = (1, 399, 400, 401, 719, 720, 721, 2_900, 5_000, 8_000, 8_000, 16_123)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [(0.1 * noise.standard_normal(length) + 0.02).astype(np.float32) for length in LENGTHS]


def made(folder: Path, kind: str, changes: dict) -> Path:
    """A checkpoint in which no bias is zero and no scale is one, as after training."""
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **FRONT, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 or "rel_attn_embed" in name:
                weight += 0.3 * torch.randn_like(weight)
        for name, state in model.named_buffers():
            if "running" in name:
                state += torch.rand_like(state)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, known = tmp_path_factory.mktemp("speech"), {}

    def get(family: str) -> Path:
        if family not in known:
            known[family] = made(root / family, *FAMILIES[family])
        return known[family]

    return get


def loaded(folder: Path, padded: bool = True, **options: object) -> speech.SpeechEncoder:
    spec = BackboneSpec(Modality.AUDIO, f"hf:{folder}", options=options, dtype="float32")
    encoder = speech.load(spec, Weights(folder, None, ""), "cpu")
    encoder.padded = padded  # on a CPU only here: it is as slow as it is exact
    return encoder


def of_library(folder: Path, waves: list[np.ndarray]) -> list[dict[int, np.ndarray]]:
    """What transformers itself says of each clip alone, by layer."""
    from transformers import AutoModel

    model, found = AutoModel.from_pretrained(folder).eval(), []
    for wave in waves:
        with torch.inference_mode():
            out = model(torch.from_numpy(wave)[None], output_hidden_states=True)
        found.append({-1: out.last_hidden_state, **dict(enumerate(out.hidden_states))})
    return [{layer: states[0].numpy() for layer, states in layers.items()} for layers in found]


def far(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.linalg.norm(one - other)) / float(np.linalg.norm(other))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_leaves_every_clip_as_the_library_has_it_alone(folders, clips, family):
    encoder = loaded(folders(family))
    alone = of_library(folders(family), [encoder.waveform(clip) for clip in clips])
    for encoder.layer, seed, size in ((-1, 0, 2), (-1, 1, 5), (0, 2, 12), (1, 3, 12), (-1, 4, 12)):
        order = random.Random(seed).sample(range(len(clips)), len(clips))
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            for i, states in zip(batch, encoder.encode([clips[i] for i in batch]), strict=True):
                assert far(states, alone[i][encoder.layer]) <= 1e-5, LENGTHS[i]


@pytest.mark.parametrize("family", ["wav2vec2-base", "hubert-base"])
def test_the_librarys_own_padding_moves_the_states_of_a_shorter_clip(folders, clips, family):
    """Else the test above would show nothing."""
    from transformers import AutoModel

    encoder = loaded(folders(family))
    alone = of_library(folders(family), [encoder.waveform(clips[8])])[0][-1]
    encoder.model, encoder.batch = AutoModel.from_pretrained(folders(family)).eval(), padding.Batch()
    assert far(encoder.encode([clips[8], clips[11]])[0], alone) > 0.05


@pytest.mark.parametrize("family", ["wav2vec2-base", "hubert-large", "wavlm-base"])
def test_in_half_precision_a_padded_batch_is_as_close_as_a_clip_alone(folders, clips, family, monkeypatch):
    """A GPU's autocast, on this CPU; fp16 is promised within 5e-3 of fp32."""

    class Halved(Lane):
        def forward(self, run, dtype):
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.float16):
                return Arrival(run().float())

    encoder = loaded(folders(family), padded=False)
    alone = encoder.encode(clips)
    monkeypatch.setattr(speech, "lane", lambda device: Halved())
    assert 1e-5 < max(far(states, own) for states, own in zip(encoder.encode(clips), alone, strict=True)) <= 5e-3
    encoder.padded = True
    assert max(far(states, own) for states, own in zip(encoder.encode(clips), alone, strict=True)) <= 5e-3


def test_sizes_are_the_numbers_of_hidden_states_up_to_max_seconds(folders, clips):
    encoder = loaded(folders("wav2vec2-base"), max_seconds=0.7)
    sizes = encoder.sizes([length / 16_000 for length in LENGTHS])
    assert sizes == [len(states) for states in encoder.encode(clips)]
    assert sizes[-1] == (11_200 - 400) // 320 + 1


def test_a_cpu_takes_clips_one_at_a_time_and_gives_the_same_bits_in_any_batch(folders, clips):
    encoder = loaded(folders("hubert-base"), padded=False)
    assert speech.load(BackboneSpec(Modality.AUDIO), Weights(folders("hubert-base"), None, ""), "cpu").padded is False
    assert encoder.budget == 1
    for clip, states in zip(clips, encoder.encode(clips), strict=True):
        np.testing.assert_array_equal(states, encoder.encode([clip])[0])


def test_what_a_decoding_thread_prepares_is_encoded_like_the_clip_itself(folders, clips):
    encoder = loaded(folders("wav2vec2-base"))
    ahead = [encoder.prepare(clip) if i % 2 else clip for i, clip in enumerate(clips)]
    for one, other in zip(encoder.encode(ahead), encoder.encode(clips), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_that_fails_leaves_no_lengths_behind(folders, clips, monkeypatch):
    encoder = loaded(folders("wav2vec2-base"))
    alone = encoder.encode(clips[9:10])[0]
    with monkeypatch.context() as patch:
        patch.setattr(encoder.model.encoder.layers[0], "forward", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            encoder.encode(clips[7:10])
    assert not encoder.batch.samples
    np.testing.assert_array_equal(encoder.encode(clips[9:10])[0], alone)


def out_of_memory(*args: object, **kwargs: object) -> None:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(("kind", "changes"), [("sew", {}), ("wav2vec2", {"add_adapter": True})])
def test_a_family_that_reads_over_the_end_of_a_clip_elsewhere_is_not_padded(kind, changes):
    from transformers import AutoConfig

    assert padding.separable(AutoConfig.for_model("wav2vec2"))
    assert not padding.separable(AutoConfig.for_model(kind, **changes))
