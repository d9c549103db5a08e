"""What media decode to besides arrays, within which bounds, and the error of what does not."""

from dataclasses import dataclass

import numpy as np


class MediaError(Exception):
    """One piece of raw material cannot be decoded; the message is short, because such messages are counted."""


@dataclass(frozen=True)
class Bounds:
    """The largest clip. Generous: these keep a small file from filling the memory, and change no number."""

    seconds: float = 7200.0  # of sound; of frames taken from a video
    pixels: int = 178_956_970  # of a picture (Pillow's own bound); see `of_film` and `of_frames`

    @property
    def of_film(self) -> int:
        """Pixels of a frame of a video: decoders keep up to sixteen. 44 million by default, more than 8K."""
        return self.pixels // 4

    @property
    def of_frames(self) -> int:
        """Pixels of all frames taken from a video together: 1.8 billion by default, 5 GB."""
        return self.pixels * 10

    def check_pixels(self, width: int, height: int, film: bool = False) -> None:
        """Raise MediaError for a picture, or a frame of a video, that has too many."""
        most = self.of_film if film else self.pixels
        if width * height > most:
            what = "a quarter of the limit, which holds for videos" if film else "the limit"
            raise MediaError(f"{width} x {height} pixels, more than {most:,}, {what} (--max-pixels)")


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken, and how large they are."""

    fps: float  # frames per second of the video's own time
    side: int  # pixels; a frame whose longer side is above this is scaled down to it


@dataclass(frozen=True)
class Frames:
    """Some frames of a clip: `pixels` uint8 (N, H, W, 3) RGB, upright; `times` float64 (N,) s from the clip's start."""

    pixels: np.ndarray
    times: np.ndarray
