"""Sound: speech that does not depend on its batch, and acoustic descriptors, against the libraries they come from."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extraction import made
from benchmarks.extraction.measure import Row, in_turns
from benchmarks.extraction.text import distance
from msa.extract.backbones import librosa as acoustic
from msa.extract.encoders import padding, pitch
from msa.extract.encoders.speech import SpeechEncoder
from msa.extract.presets import spec_of
from msa.types import Modality

SHORT = (0.025, 0.1, 0.5, 1.0, 1.7, 2.4, 3.1, 4.0)  # s; exactness is hardest where most is padding


def speech(folder: Path, quick: bool) -> list[Row]:
    """wav2vec2-base with random weights: batches of many shapes, then audio seconds per CPU second."""
    import torch

    torch.set_num_threads(1)
    return [*exact(SHORT[:5] if quick else SHORT), *fast(2 if quick else 6, 1 if quick else 3)]


def exact(seconds: tuple[float, ...]) -> list[Row]:
    """How far permuted batches of two sizes are from the untouched library, one clip at a time."""
    net, clips = network(), made.voices(seconds)
    alone = encoder(net, padded=False, separate=False).encode(clips)
    library = encoder(net, padded=True, separate=False).encode(clips)
    padded = max(distance(own[: len(other)], other) for own, other in zip(library, alone, strict=True))
    ours, worst = encoder(net, padded=True), 0.0
    for seed, size in enumerate((3, len(clips))):
        order = np.random.default_rng(seed).permutation(len(clips)).tolist()
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            states = ours.encode([clips[i] for i in batch])
            worst = max(worst, *(distance(own, alone[i]) for own, i in zip(states, batch, strict=True)))
    what = "audio, wav2vec2-base, permuted batches: relative distance to alone"
    return [Row.of_limit(what, worst, padded, 1e-5, "the library's padding with a mask")]


def fast(n: int, rounds: int) -> list[Row]:
    """Clips of 1 to 15 s. On a CPU msa gives the model one at a time; its padded batches are for GPUs."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    lengths = np.random.default_rng(0).permutation(np.linspace(1, 15, n))
    clips, extract = made.voices(lengths.tolist()), Wav2Vec2FeatureExtractor()
    untouched, net = network(), network()
    alone, padded = encoder(net, padded=False), encoder(net, padded=True)
    longest_first = sorted(clips, key=len, reverse=True)

    def library(size: int) -> None:
        for i in range(0, n, size):
            batch = extract(clips[i : i + size], sampling_rate=made.RATE, padding=True, return_tensors="pt")
            with torch.inference_mode():
                untouched(**batch).last_hidden_state.numpy()

    ways = {
        "ours": lambda: alone.encode(clips),
        "one by one": lambda: library(1),
        "padded": lambda: library(n),
    }
    in_threes = {"exact": lambda: [padded.encode(longest_first[i : i + 3]) for i in range(0, n, 3)]}
    alone.encode(clips[:1])
    taken = in_turns(ways, rounds, time.process_time) | in_turns(in_threes, 1, time.process_time)
    rate = {name: sum(lengths) / seconds for name, seconds in taken.items()}
    what, unit = f"audio, wav2vec2-base, {n} clips of 1-15 s, as on a CPU", "audio s/s"
    return [
        Row.of_rates(what, rate["ours"], rate["one by one"], 0.9, unit, "library, one by one"),
        Row.of_rates(what, rate["ours"], rate["padded"], 1.5, unit, f"library, a batch of {n}"),
        Row.of_rates("the same in exact padded batches of 3", rate["exact"], rate["one by one"], None, unit, "same"),
    ]


def network(kind: str = "wav2vec2", device: str = "cpu", **changes: int) -> Any:
    """A model of base size, or with these changes of its configuration, with random weights: each time the same."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **changes)).eval().requires_grad_(False).to(device)


def encoder(net: Any, padded: bool, separate: bool = True, device: str = "cpu", dtype: str = "float32") -> Any:
    """Around a model; not `separate` leaves the model as the library made it."""
    batch, width = padding.separate(net) if separate else padding.Batch(), net.config.hidden_size
    return SpeechEncoder(net, True, 400, 30.0, -1, device, dtype, width, {}, batch=batch, padded=padded)


def descriptors(folder: Path, quick: bool) -> list[Row]:
    """Pitch and MFCC: CPU milliseconds per second of made voices, one thread."""
    import librosa

    shape = {"sr": made.RATE, "frame_length": acoustic.WINDOW, "hop_length": acoustic.HOP}
    clips = made.voices((1, 3) if quick else (1, 3, 5, 8, 12))
    whole = acoustic.load(spec_of(Modality.AUDIO, "librosa", [])[1], made.NOTHING, "cpu")
    mel = replace(whole, filters=whole.filters[: acoustic.MELS])  # chroma comes of the same product: left out

    def pyin(wave: np.ndarray) -> Any:
        return librosa.pyin(wave, fmin=pitch.FLOOR_HZ, fmax=pitch.CEILING_HZ, **shape)

    def praat(wave: np.ndarray) -> Any:
        return pitch.track(wave, acoustic.HOP, 1 + len(wave) // acoustic.HOP)

    def theirs(wave: np.ndarray) -> np.ndarray:
        size = {"n_fft": acoustic.WINDOW, "hop_length": acoustic.HOP}
        return librosa.feature.mfcc(y=wave, sr=made.RATE, n_mfcc=acoustic.MFCCS, **size).T

    def ours(wave: np.ndarray) -> np.ndarray:
        return acoustic._mfcc(mel.bands(wave)[0])

    def each(work: Callable[[np.ndarray], object]) -> Callable[[], object]:
        work(clips[0])  # what is loaded and compiled once
        return lambda: [work(clip) for clip in clips]

    ways = {name: each(work) for name, work in {"praat": praat, "pyin": pyin, "ours": ours, "theirs": theirs}.items()}
    taken = in_turns(ways, 1 if quick else 5, time.process_time)
    rate = {name: sum(map(len, clips)) / made.RATE / seconds for name, seconds in taken.items()}
    far = max(distance(ours(clip), theirs(clip)) for clip in clips)
    unit = "audio s/s"
    return [
        Row.of_rates("F0, Praat", rate["praat"], rate["pyin"], 20, unit, "librosa's pyin"),
        Row.of_rates("MFCC", rate["ours"], rate["theirs"], 2, unit, "librosa"),
        Row("MFCC: relative distance", f"{far:.1e}", "librosa's", "", "<= 1e-3", far <= 1e-3),
    ]
