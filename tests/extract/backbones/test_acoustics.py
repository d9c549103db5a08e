"""The acoustic descriptors by a second route, and pitch that is tracked in processes of its own."""

import threading

import numpy as np
import pytest

from msa.errors import BackboneError
from msa.extract.backbone import Weights
from msa.extract.backbones import librosa as acoustic
from msa.extract.encoders import pitch
from msa.extract.presets import spec_of
from msa.types import Modality

RATE, WINDOW, HOP = 16_000, 1024, 320


def loaded(**options: object) -> acoustic.Acoustic:
    _, spec = spec_of(Modality.AUDIO, "librosa", [f"{name}={value}" for name, value in options.items()])
    return acoustic.load(spec, Weights(None, None, ""), "cpu")


@pytest.fixture(scope="module")
def backbone() -> acoustic.Acoustic:
    return loaded()


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics of a moving pitch with pauses, and a little noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)) / RATE
    loud = 0.1 * np.clip(np.sin(2 * np.pi * 1.5 * t) + 0.3, 0, None)
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(t))
    return (loud * sum(np.sin(k * phase) / k for k in range(1, 20)) + noise).astype(np.float32)


CLIPS = [voice(seconds, seed) for seed, seconds in enumerate((0.0004, 0.02, 0.5, 1.7, 6.3))]


def plain(wave: np.ndarray, backbone: acoustic.Acoustic) -> dict[str, np.ndarray]:
    """The definitions, all frames at once and in float64."""
    wave = wave.astype(np.float64)
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(wave, WINDOW // 2), WINDOW)[::HOP][: 1 + len(wave) // HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(framed * hann)) ** 2  # (T, bins)
    return {
        "bands": backbone.filters.toarray().astype(np.float64) @ power.T,
        "rms": np.sqrt((framed**2).mean(axis=1)),
        "crossings": np.diff(framed < 0, axis=1).mean(axis=1),
    }


@pytest.mark.parametrize("clip", CLIPS, ids=len)
def test_the_spectrogram_in_blocks_of_float32_is_the_whole_one_in_float64(backbone, clip):
    expected = plain(clip, backbone)
    bands, rms = backbone.bands(clip)
    assert np.linalg.norm(bands - expected["bands"]) <= 1e-6 * np.linalg.norm(expected["bands"])
    np.testing.assert_allclose(rms, expected["rms"], rtol=1e-5)
    column = backbone.encode([clip])[0][:, acoustic.COLUMNS.index("zero_crossing_rate")]
    np.testing.assert_array_equal(column, expected["crossings"].astype(np.float32))


def test_mfcc_are_within_a_thousandth_of_librosas(backbone):
    import librosa

    for clip in CLIPS[2:]:
        expected = librosa.feature.mfcc(y=clip, sr=RATE, n_mfcc=20, n_fft=WINDOW, hop_length=HOP).T
        np.testing.assert_allclose(backbone.encode([clip])[0][:, :20], expected, atol=1e-3)


def test_what_a_decoding_thread_prepares_is_encoded_like_the_clip_itself(backbone):
    ahead = [backbone.prepare(clip) if i % 2 else clip for i, clip in enumerate(CLIPS)]
    for one, other in zip(backbone.encode(ahead), backbone.encode(CLIPS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_descriptors_of_another_version_are_refused():
    with pytest.raises(BackboneError, match=r"version 1 .* makes version 2"):
        loaded(version=1)


def test_pitch_from_another_process_is_the_same_to_the_bit(monkeypatch):
    """A second thread that asks while the first tracks in this process is served by a process of its own."""
    busy, go_on = threading.Event(), threading.Event()
    here = pitch.track

    def slow(*args):
        busy.set()
        assert go_on.wait(60)
        return here(*args)

    monkeypatch.setattr(pitch, "PATIENCE_S", 0)
    monkeypatch.setattr(pitch, "track", slow)
    praat, wave = pitch.Praat(), CLIPS[3]
    count = 1 + len(wave) // HOP
    first = threading.Thread(target=praat.track, args=(wave, HOP, count))
    first.start()
    try:
        assert busy.wait(60)
        f0, voiced = praat.track(wave, HOP, count)  # would wait for ever if it were this process
    finally:
        go_on.set()
        first.join()
        praat.close()
    np.testing.assert_array_equal(f0, here(wave, HOP, count)[0])
    np.testing.assert_array_equal(voiced, here(wave, HOP, count)[1])
    assert voiced.any() and not voiced.all()


def test_short_work_stays_in_this_process(monkeypatch):
    together = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(pitch, "track", lambda *args: together.wait())
    praat = pitch.Praat()
    first = threading.Thread(target=praat.track, args=(CLIPS[3], HOP, 1))
    first.start()
    praat.track(CLIPS[3], HOP, 1)  # raises BrokenBarrierError unless both are here at once
    first.join()
