"""What FFmpeg opens: the sound track and the frames of a recording, in one pass over its packets.

A clip whose sound and whose faces are wanted is read and unpacked once. The streams fail apart: a broken picture
costs no sound, and a recording without a sound track still has its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

LEAD_S = 0.5  # decoded and thrown away before a span of a compressed stream, whose frames need their predecessors
TOLERANCE_S = 1e-3  # time stamps are rounded to the clock of their container


class MediaError(Exception):
    """One piece of raw material cannot be decoded; the message is short, because such messages are counted."""


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


class Track(Protocol):
    """What gathers one stream of a recording."""

    kind: str  # "audio" or "video"
    error: MediaError | None

    def add(self, frame: Any, at: float) -> bool:
        """Take a decoded frame that begins `at` s; False once everything wanted has been seen."""


def read(path: Path, start: float, tracks: Sequence[Track]) -> None:
    """Feed the tracks from `start` s on until they have enough; what keeps one from its stream is its `error`."""
    try:
        with av.open(str(path)) as opened:
            _demux(opened, start, tracks)
    except av.FFmpegError as error:
        wanted = "audio" if all(track.kind == "audio" for track in tracks) else "video"
        for track in tracks:
            track.error = track.error or MediaError(f"not {wanted}: {error.strerror}")


def _demux(opened: Any, start: float, tracks: Sequence[Track]) -> None:
    streams = {track.kind: getattr(opened.streams, track.kind)[:1] for track in tracks}
    for track in tracks:
        if not streams[track.kind]:
            track.error = MediaError("no sound track" if track.kind == "audio" else "no picture")
    found = [stream for kind in ("video", "audio") for stream in streams.get(kind, ())]
    if not found:
        return
    origin = max(opened.start_time or 0, 0) / 1e6  # s; a broadcast recording does not start at zero
    if start > LEAD_S:  # by the pictures where they are wanted: they need a key frame
        opened.seek(int((start - LEAD_S + origin) / found[0].time_base), stream=found[0])
    _feed(opened, found, origin, {track.kind: track for track in tracks})


def _feed(opened: Any, streams: Sequence[Any], origin: float, waiting: dict[str, Track]) -> None:
    for packet in opened.demux(streams):
        track = waiting.get(packet.stream.type)
        if track is None:
            continue
        try:
            enough = not all(track.add(frame, (frame.time or 0.0) - origin) for frame in packet.decode())
        except av.FFmpegError as error:
            track.error, enough = MediaError(f"not {track.kind}: {error.strerror}"), True
        if enough:
            del waiting[track.kind]
        if not waiting:
            return


@dataclass
class Sound:
    """The first sound track from `start` to `end` s, mono."""

    start: float
    end: float | None
    kind: str = "audio"
    error: MediaError | None = None
    rate: int = 0
    _begun: float = 0.0
    _parts: list[np.ndarray] = field(default_factory=list)  # each (channels, samples)
    _planar: Any = field(default_factory=lambda: av.AudioResampler(format="fltp"))  # rate and channels stay

    def add(self, frame: Any, at: float) -> bool:
        """Append its samples."""
        if self.end is not None and at >= self.end:
            return False
        if not self._parts:
            self._begun, self.rate = at, frame.sample_rate
        self._parts += [part.to_ndarray() for part in self._planar.resample(frame)]
        return True

    def wave(self) -> np.ndarray:
        """(samples,) float32 at `rate`. Raises MediaError."""
        if self.error is not None and not self._parts:
            raise self.error
        if not self._parts:
            return np.zeros(0, np.float32)
        mono = np.concatenate(self._parts, axis=1).mean(axis=0)
        first = max(round((self.start - self._begun) * self.rate), 0)
        last = None if self.end is None else max(round((self.end - self._begun) * self.rate), 0)
        return np.asarray(mono[first:last])


@dataclass
class Pictures:
    """The frames on the screen at start, start + 1 / fps, start + 2 / fps, ... s of the first video stream."""

    start: float
    end: float | None
    sampling: Sampling
    kind: str = "video"
    error: MediaError | None = None
    _shown: Any = None  # the newest frame so far: it is on the screen until the next one begins
    _since: float = 0.0  # s
    _pixels: list[np.ndarray] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)

    def add(self, frame: Any, at: float) -> bool:
        """Take what was on the screen until now as often as it was due."""
        over = self.end is not None and at >= self.end
        self._take(before=self.end if over and self.end is not None else at)
        self._shown, self._since = (None, at) if over else (frame, at)
        return not over

    def frames(self) -> Frames:
        """What was taken. Raises MediaError."""
        self._take(before=self._since + 2 * TOLERANCE_S)  # the last frame, where one was due just when it came
        if not self._pixels:
            raise self.error or MediaError("no picture in this span")
        return Frames(np.stack(self._pixels), np.array(self._times))

    @property
    def _due(self) -> float:
        """s: when the next frame is wanted."""
        return self.start + len(self._times) / self.sampling.fps

    def _take(self, before: float) -> None:
        while self._shown is not None and self._due < before - TOLERANCE_S:
            self._pixels.append(_upright(self._shown, self.sampling.side))
            self._times.append(len(self._times) / self.sampling.fps)


def _upright(frame: Any, side: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a player shows it: phones record lying pictures and say how to turn them."""
    scale = min(1.0, side / max(frame.width, frame.height))
    size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
    pixels = frame.reformat(**size, format="rgb24", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
