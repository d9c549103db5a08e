"""MFCC, chroma, energy and pitch (McFee et al., 2015).

Paper    https://doi.org/10.25080/Majora-7b98e3ed-003
Weights  none. librosa is ISC; pitch by Praat (Boersma and Weenink) through parselmouth, GPL-3.0
Differs  The pictures of sound all come from one spectrogram, in float32 as librosa's own: its filters and definitions,
         one product each, so nothing is framed or transformed twice. Chroma takes concert pitch (tuning 0) where
         librosa would estimate a tuning for each clip, which speech does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msa.errors import BackboneError, UnknownNameError
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders import library_versions, rows
from msa.extract.encoders.pitch import CEILING_HZ, FLOOR_HZ, Praat
from msa.types import Modality

RATE = 16_000  # Hz
HOP = 320  # samples, 20 ms: the step of wav2vec 2.0, so that the two can be laid side by side
WINDOW = 1024  # samples, 64 ms: three periods of a voice of 50 Hz
MELS, MFCCS, CHROMAS = 128, 20, 12
VOICED_DB = -30.0  # for yin, which never says "no pitch": frames this far below the loudest count as unvoiced
COLUMNS = (
    *(f"mfcc{i}" for i in range(MFCCS)),
    *(f"chroma_{note}" for note in ("c", "c#", "d", "d#", "e", "f", "f#", "g", "g#", "a", "a#", "b")),
    "zero_crossing_rate",
    "rms",
    "f0_hz",  # 0 where unvoiced
    "voiced",  # 0 or 1
)
VERSION = 2  # of the numbers: 1 took the spectrogram in float64
BLOCK = 128  # frames transformed at a time: 0.5 MB, which stays in a core's cache
PITCH_LIBRARY = {"praat": ("praat-parselmouth",), "yin": ()}  # yin is librosa's own

SPECS = {
    "acoustic": BackboneSpec(
        modality=Modality.AUDIO,
        options={"hop_s": HOP / RATE, "window_s": WINDOW / RATE, "f0": "praat", "version": VERSION},
        about={
            "hop_s": "seconds from one row to the next",
            "window_s": "seconds of sound that a row describes",
            "f0": "who tracks the pitch: praat, or yin (librosa's)",
            "version": "of these numbers; the one above is all that this msa makes",
        },
        dtype="float32",  # hertz and decibels in one row
        licence="ISC (librosa), GPL-3.0 (Praat)",
        source="https://doi.org/10.25080/Majora-7b98e3ed-003",
    ),
}


@dataclass
class Acoustic(Backbone):
    """The filters, made once. `columns` names what stands in each of the `dim` columns."""

    hop: int
    window: int
    f0: str
    filters: Any  # sparse (mels + 12, bins) float32: no BLAS, so the numbers do not depend on its threads
    hann: np.ndarray  # (window,) float32
    praat: Praat
    dtype: str
    versions: Mapping[str, str]
    dim: int = len(COLUMNS)
    columns: tuple[str, ...] = COLUMNS

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn 16 kHz mono clips, each (samples,), into descriptors, each (1 + samples // hop, 36).

        A clip may also come as `prepare` returned it: threads that decode can do all the work.
        """
        return rows((clip if clip.ndim == 2 else self.prepare(clip) for clip in clips), self.dtype)

    def prepare(self, clip: np.ndarray) -> np.ndarray:
        """Describe (samples,) by (1 + samples // hop, 36); may be called from many threads."""
        wave = clip.astype(np.float32)
        bands, rms = self.bands(wave)
        mel, chroma = np.split(bands, [MELS])
        crossings = _crossings(wave, self.window, self.hop)
        return np.column_stack([_mfcc(mel), _unit(chroma).T, crossings, rms, *self._pitch(wave, rms)])

    def bands(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (mels + 12, T) power by mel band and pitch class, (T,) root mean square; T = 1 + samples // hop."""
        from scipy.fft import rfft

        framed = frames(wave, self.window, self.hop)  # (T, window)
        power = np.empty((self.filters.shape[0], len(framed)), np.float32)
        rms = np.empty(len(framed), np.float32)
        for start in range(0, len(framed), BLOCK):
            block = framed[start : start + BLOCK]
            spectrum = rfft(block * self.hann)  # (BLOCK, bins) complex64
            power[:, start : start + BLOCK] = self.filters @ (spectrum.real**2 + spectrum.imag**2).T
            rms[start : start + BLOCK] = np.sqrt((block**2).mean(axis=1))
        return power, rms

    def _pitch(self, wave: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (T,) fundamental frequency in Hz and (T,) 0 or 1: is the frame voiced?"""
        if self.f0 == "praat":
            return self.praat.track(wave, self.hop, len(rms))
        import librosa

        padded = np.pad(wave.astype(np.float64), self.window // 2)
        f0 = librosa.yin(
            padded, fmin=FLOOR_HZ, fmax=CEILING_HZ, sr=RATE, frame_length=self.window, hop_length=self.hop, center=False
        )
        voiced = (rms > rms.max() * 10 ** (VOICED_DB / 20)).astype(float)
        return f0[: len(rms)] * voiced, voiced

    def close(self) -> None:
        """End the processes that track pitch."""
        self.praat.close()


def load(spec: BackboneSpec, weights: Weights, device: str) -> Acoustic:
    """Make the filters of librosa for this window; there are no weights, and the CPU does it all."""
    from librosa.filters import chroma, mel
    from scipy.sparse import csr_array

    if spec.options["f0"] not in PITCH_LIBRARY:
        raise UnknownNameError("value of f0", spec.options["f0"], PITCH_LIBRARY)
    if (version := spec.options.get("version", 1)) != VERSION:
        raise BackboneError(
            f"version {version} of the acoustic descriptors is asked for, this msa makes version {VERSION}",
            fix="extract with this msa and train again, or use the msa that made the others",
        )
    window = round(spec.options["window_s"] * RATE)
    mels = mel(sr=RATE, n_fft=window, n_mels=MELS)
    pitches = chroma(sr=RATE, n_fft=window, n_chroma=CHROMAS, tuning=0.0)
    return Acoustic(
        hop=round(spec.options["hop_s"] * RATE),
        window=window,
        f0=spec.options["f0"],
        filters=csr_array(np.concatenate([mels, pitches]), dtype=np.float32),
        hann=(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32),
        praat=Praat(),
        dtype=spec.dtype,
        versions=library_versions("librosa", "numpy", "scipy", *PITCH_LIBRARY[spec.options["f0"]]),
    )


def frames(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Cut (samples,) into (1 + samples // hop, window): frame t is centred on t hops, zeros stand beyond the ends."""
    padded = np.pad(wave, window // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][: 1 + len(wave) // hop]


def _crossings(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Return (T,) share of the steps in each window at which the sign changes; each step is looked at once."""
    below = np.pad(wave, window // 2) < 0
    changes = np.concatenate([[0], np.cumsum(below[1:] != below[:-1])])  # before each sample
    start = np.arange(1 + len(wave) // hop) * hop
    return (changes[start + window - 1] - changes[start]) / (window - 1)


def _mfcc(mel: np.ndarray) -> np.ndarray:
    """Return (T, 20) cepstral coefficients of a spectrogram (mels, T) in dB, cut 80 dB below the clip's loudest."""
    import librosa

    return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80.0), n_mfcc=MFCCS).T


def _unit(chroma: np.ndarray) -> np.ndarray:
    """Return (12, T) energy by pitch class, the strongest of each frame at 1; a silent frame stays 0."""
    most = chroma.max(axis=0)
    return np.divide(chroma, most, out=np.zeros_like(chroma), where=most > np.finfo(np.float32).tiny)
