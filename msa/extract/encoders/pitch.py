"""Pitch by Praat, in a process per decoding thread: Praat holds Python's global lock while it works.

A process is worth its start only after some minutes of sound, so short work stays in this process, and so does the work
of a single thread. Where a clip is tracked decides the speed and nothing else.
"""

import threading
from typing import Any

import numpy as np

from msa.extract.encoders.process import ProcessObject

RATE = 16_000  # Hz
FLOOR_HZ, CEILING_HZ = 75.0, 600.0  # Praat's range for voices
LEAST = RATE // 10  # samples; Praat wants three periods of the lowest pitch, 40 ms
PATIENCE_S = 300.0  # of sound: about what Praat does while another process starts


class Praat:
    """Tracks pitch, with the same numbers in whichever process. Any number of threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._askers: set[int] = set()  # threads
        self._heard = 0  # samples
        self._idle: list[ProcessObject] = []
        self._all: list[ProcessObject] = []

    def track(self, wave: np.ndarray, hop: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (count,) pitch in Hz every `hop` samples, 0 where unvoiced; and (count,) 1 where voiced, else 0."""
        process = self._process(len(wave))
        if process is None:
            return track(wave, hop, count)
        try:
            f0, voiced = process.ask("track", wave, hop, count)
        finally:
            with self._lock:
                self._idle.append(process)
        return f0, voiced

    def _process(self, samples: int) -> ProcessObject | None:
        """Return an idle process or a new one; None: track in this process."""
        with self._lock:
            self._heard += samples
            self._askers.add(threading.get_ident())
            if len(self._askers) == 1 or self._heard < PATIENCE_S * RATE:
                return None
            if not self._idle:
                self._all.append(ProcessObject(f"{__name__}:Praat"))
                self._idle.append(self._all[-1])
            return self._idle.pop()

    def close(self) -> None:
        """End the processes, also one that hangs."""
        for process in self._all:
            process.close()


def track(wave: np.ndarray, hop: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Praat's pitch at our frame times: voiced as its nearest frame, interpolated between voiced frames."""
    import parselmouth

    samples = np.pad(wave.astype(np.float64), (0, max(LEAST - len(wave), 0)))
    sound = parselmouth.Sound(samples, sampling_frequency=RATE)
    pitch: Any = sound.to_pitch(time_step=hop / RATE, pitch_floor=FLOOR_HZ, pitch_ceiling=CEILING_HZ)
    at, f0 = pitch.xs(), pitch.selected_array["frequency"]  # s, Hz with 0 for unvoiced
    times = np.arange(count) * hop / RATE
    heard = f0 > 0
    if not heard.any():
        return np.zeros(count), np.zeros(count)
    nearest = np.searchsorted((at[1:] + at[:-1]) / 2, times)
    voiced = heard[nearest].astype(float)
    return np.interp(times, at[heard], f0[heard]) * voiced, voiced
