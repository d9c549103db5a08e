"""librosa: frame-level acoustic descriptors - MFCC, chroma, zero crossings, energy, pitch (McFee et al., 2015).

Paper    https://doi.org/10.25080/Majora-7b98e3ed-003
Weights  none. librosa is ISC; pitch by Praat (Boersma and Weenink) through parselmouth, GPL-3.0
Differs  The pictures of sound all come from one spectrogram: librosa's filters and definitions, one product each, so
         nothing is framed or transformed twice. Chroma takes concert pitch (tuning 0) where librosa would estimate
         a tuning for each clip, which speech does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msa.errors import UnknownNameError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import library_versions, rows
from msa.types import Modality

RATE = 16_000  # Hz
HOP = 320  # samples, 20 ms: the step of wav2vec 2.0, so that the two can be laid side by side
WINDOW = 1024  # samples, 64 ms: three periods of a voice of 50 Hz
MELS, MFCCS, CHROMAS = 128, 20, 12
FLOOR_HZ, CEILING_HZ = 75.0, 600.0  # Praat's range for voices
PRAAT_LEAST = RATE // 10  # samples; Praat wants three periods of the lowest pitch, 40 ms
VOICED_DB = -30.0  # for yin, which never says "no pitch": frames this far below the loudest count as unvoiced
COLUMNS = (
    *(f"mfcc{i}" for i in range(MFCCS)),
    *(f"chroma_{note}" for note in ("c", "c#", "d", "d#", "e", "f", "f#", "g", "g#", "a", "a#", "b")),
    "zero_crossing_rate",
    "rms",
    "f0_hz",  # 0 where unvoiced
    "voiced",  # 0 or 1
)
PITCH_LIBRARY = {"praat": ("praat-parselmouth",), "yin": ()}  # yin is librosa's own

SPECS = {
    "acoustic": BackboneSpec(
        modality=Modality.AUDIO,
        options={"hop_s": HOP / RATE, "window_s": WINDOW / RATE, "f0": "praat"},
        dtype="float32",  # hertz and decibels in one row
        licence="ISC (librosa), GPL-3.0 (Praat)",
        source="https://doi.org/10.25080/Majora-7b98e3ed-003",
    ),
}


@dataclass
class Acoustic:
    """The filters, made once. `columns` names what stands in each of the `dim` columns."""

    hop: int
    window: int
    f0: str
    filters: Any  # sparse (mels + 12, bins): no BLAS, so the numbers do not depend on its threads
    dtype: str
    versions: Mapping[str, str]
    dim: int = len(COLUMNS)
    columns: tuple[str, ...] = COLUMNS

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn 16 kHz mono clips, each (samples,), into descriptors, each (1 + samples // hop, 36)."""
        return rows((self._describe(clip.astype(np.float64)) for clip in clips), self.dtype)

    def _describe(self, wave: np.ndarray) -> np.ndarray:
        framed = frames(wave, self.window, self.hop)  # (T, window)
        power = np.abs(np.fft.rfft(framed * _hann(self.window))) ** 2  # (T, bins)
        mel, chroma = np.split(self.filters @ power.T, [MELS])  # (mels, T), (12, T)
        crossings = np.diff(framed < 0, axis=1).mean(axis=1)
        rms = np.sqrt((framed**2).mean(axis=1))
        return np.column_stack([_mfcc(mel), _unit(chroma).T, crossings, rms, *self._pitch(wave, rms)])

    def _pitch(self, wave: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T,) fundamental frequency in Hz and (T,) 0 or 1: is the frame voiced?"""
        if self.f0 == "praat":
            return _praat(wave, self.hop, len(rms))
        import librosa

        padded = np.pad(wave, self.window // 2)
        f0 = librosa.yin(
            padded, fmin=FLOOR_HZ, fmax=CEILING_HZ, sr=RATE, frame_length=self.window, hop_length=self.hop, center=False
        )
        voiced = (rms > rms.max() * 10 ** (VOICED_DB / 20)).astype(float)
        return f0[: len(rms)] * voiced, voiced


def load(spec: BackboneSpec, weights: Weights, device: str) -> Acoustic:
    """Make the filters of librosa for this window; there are no weights, and the CPU does it all."""
    from librosa.filters import chroma, mel
    from scipy.sparse import csr_array

    if spec.options["f0"] not in PITCH_LIBRARY:
        raise UnknownNameError("value of f0", spec.options["f0"], PITCH_LIBRARY)
    window = round(spec.options["window_s"] * RATE)
    mels = mel(sr=RATE, n_fft=window, n_mels=MELS)
    pitches = chroma(sr=RATE, n_fft=window, n_chroma=CHROMAS, tuning=0.0)
    return Acoustic(
        hop=round(spec.options["hop_s"] * RATE),
        window=window,
        f0=spec.options["f0"],
        filters=csr_array(np.concatenate([mels, pitches])),
        dtype=spec.dtype,
        versions=library_versions("librosa", "numpy", "scipy", *PITCH_LIBRARY[spec.options["f0"]]),
    )


def frames(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    """(samples,) -> (1 + samples // hop, window): frame t is centred on t hops, zeros stand beyond the ends."""
    padded = np.pad(wave, window // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][: 1 + len(wave) // hop]


def _mfcc(mel: np.ndarray) -> np.ndarray:
    """(mels, T) -> (T, 20) cepstral coefficients of the spectrogram in dB, cut 80 dB below the clip's loudest."""
    import librosa

    return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80.0), n_mfcc=MFCCS).T


def _unit(chroma: np.ndarray) -> np.ndarray:
    """(12, T) energy by pitch class, the strongest of each frame at 1; a silent frame stays 0."""
    most = chroma.max(axis=0)
    return np.divide(chroma, most, out=np.zeros_like(chroma), where=most > np.finfo(np.float32).tiny)


def _hann(window: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)


def _praat(wave: np.ndarray, hop: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Praat's pitch track at our frame times: voiced as its nearest frame is, between voiced frames interpolated."""
    import parselmouth

    sound = parselmouth.Sound(np.pad(wave, (0, max(PRAAT_LEAST - len(wave), 0))), sampling_frequency=RATE)
    track: Any = sound.to_pitch(time_step=hop / RATE, pitch_floor=FLOOR_HZ, pitch_ceiling=CEILING_HZ)
    at, f0 = track.xs(), track.selected_array["frequency"]  # s, Hz with 0 for unvoiced
    times = np.arange(count) * hop / RATE
    heard = f0 > 0
    if not heard.any():
        return np.zeros(count), np.zeros(count)
    nearest = np.searchsorted((at[1:] + at[:-1]) / 2, times)
    voiced = heard[nearest].astype(float)
    return np.interp(times, at[heard], f0[heard]) * voiced, voiced
