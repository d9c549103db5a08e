"""Pitch by Praat, beside Praat's own track of the same samples."""

import numpy as np
import parselmouth

from msa.extract.encoders import pitch

HOP = 160  # samples: 10 ms


def tone(seconds=0.5, hertz=200.0):
    """A tone, then as much silence."""
    t = np.arange(int(2 * seconds * pitch.RATE)) / pitch.RATE
    return np.where(t < seconds, np.sin(2 * np.pi * hertz * t), 0).astype(np.float32)


def test_voiced_frames_have_praats_pitch_and_unvoiced_ones_none():
    f0, voiced = pitch.track(tone(), HOP, 101)
    assert voiced[5:45].all() and not voiced[60:].any()
    assert (f0[voiced == 0] == 0).all()
    np.testing.assert_allclose(f0[5:45], 200, atol=0.5)
    sound = parselmouth.Sound(tone().astype(np.float64), sampling_frequency=pitch.RATE)
    praat = sound.to_pitch(time_step=0.01, pitch_floor=pitch.FLOOR_HZ, pitch_ceiling=pitch.CEILING_HZ)
    heard = praat.selected_array["frequency"] > 0
    times = np.arange(101) * HOP / pitch.RATE
    expected = np.interp(times, praat.xs()[heard], praat.selected_array["frequency"][heard])
    assert np.array_equal(f0[voiced == 1], expected[voiced == 1])


def test_a_clip_shorter_than_a_period_is_unvoiced():
    assert [values.tolist() for values in pitch.track(np.ones(10, np.float32), HOP, 1)] == [[0.0], [0.0]]


def test_silence_has_no_pitch():
    assert not np.any(pitch.track(np.zeros(16_000, np.float32), HOP, 101))
