"""The tracks that a recording is decoded into: sound, and the frames of a video at the times that are wanted."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition

from msa.extract.media.clips import Bounds, Frames, MediaError, Sampling

if TYPE_CHECKING:
    from msa.extract.media.sound import Wave

WARM_S = 0.1  # of the lead: the first frames of AAC and MP3 miss their neighbours
TOLERANCE_S = 1e-3  # time stamps are rounded to the clock of their container
GAP_S = 5e-3  # a time stamp this far from the count of the samples before it is no matter of rounding
HOLE_S = 30.0  # nothing for so long is a hole in the time stamps: no frame of a video stays on the screen meanwhile
UNLIKE_S = 0.25  # of sound with another rate than the first: less is a damaged frame, more a change
PRIMING_S = 0.1  # AAC begins with up to 2112 empty samples; MKV, FLV and MPEG-TS put off their pictures for that long


class Track(Protocol):
    """A consumer of one stream of a recording."""

    kind: str  # "audio" or "video"
    counted: bool  # the recording must be read from the beginning
    error: MediaError | None
    begun: bool  # whether it has been given a frame
    start: float  # s
    end: float | None  # s
    lost: int  # packets of its span that could not be decoded

    @property
    def latest(self) -> float:
        """s: when its first frame has to begin, unless that is the first of the stream."""

    def open(self, stream: Any) -> None:
        """Take note of the stream it will be fed from. Raises MediaError where it is out of bounds."""

    def add(self, frame: Any, at: float) -> bool:
        """Take a decoded frame that begins `at` s; False once everything wanted has been seen.

        Raises:
            ValueError: It is unlike the others; FFmpegError, too.
            MediaError: The stream is out of bounds or cannot be used at all.
        """

    def miss(self, at: float) -> None:
        """Take note that what begins `at` s cannot be decoded."""


@dataclass
class Sound:
    """A sound track from `start` to `end` s, mono, into `wave`.

    Sound that begins after `start`, or stops for a while, is not filled up with silence: the samples then begin with
    the first there is, and those after a gap move up to it.
    """

    start: float
    end: float | None
    wave: "Wave"
    counted: bool = False  # every sample is counted from the beginning, whatever the time stamps say
    kind: str = "audio"
    error: MediaError | None = None
    begun: bool = False
    lost: int = 0
    rate: int = 0
    _next: int | None = None  # samples from the beginning of the recording to the end of the newest frame
    _unlike: float = 0.0  # s of frames with another rate
    _got: bool = False  # whether there has been any sample of the span
    _form: Any = None  # of the newest frame
    _packed: Any = None

    @property
    def latest(self) -> float:
        """s."""
        return self.start - WARM_S

    def open(self, stream: Any) -> None:
        """Note the stated length; the rate comes with the frames."""
        if stream.codec_context is None:
            raise MediaError("not audio: no decoder for it")
        self.wave.stated_s = float((stream.duration or 0) * (stream.time_base or 0))

    def add(self, frame: Any, at: float) -> bool:
        """Append its samples, as far as they are wanted."""
        self.rate = self.rate or frame.sample_rate
        if frame.sample_rate != self.rate:
            self._unlike += frame.samples / max(frame.sample_rate, 1)
            if self._unlike > UNLIKE_S:
                raise MediaError(f"the rate changes from {self.rate} to {frame.sample_rate} Hz")
            raise ValueError(f"{frame.sample_rate} Hz after {self.rate} Hz")
        first = self._position(at)
        self._next = first + frame.samples
        last = None if self.end is None else round(self.end * self.rate) - first
        if last is not None and last <= 0:
            return False
        skip = 0 if self._got else max(round(self.start * self.rate) - first, 0)
        if skip < frame.samples:
            self._got = True
            self.wave.add(self._mono(frame)[skip:last], self.rate)
        return True

    def miss(self, at: float) -> None:
        """Do nothing: the time stamp of the next frame shows the gap."""

    def _position(self, at: float) -> int:
        """Return the position of a frame in samples: by count, which is exact, unless its time stamp shows a gap."""
        if self._next is not None and (self.counted or abs(at * self.rate - self._next) <= GAP_S * self.rate):
            return self._next
        if self.counted:
            return 0
        return round(at * self.rate)

    def _mono(self, frame: Any) -> np.ndarray:
        form = frame.format.name, frame.layout.name
        if form != self._form:  # rate and channels stay; packed, because PyAV reads beyond eight planes
            self._form, self._packed = form, av.AudioResampler(format="flt")
        parts = [part.to_ndarray() for part in self._packed.resample(frame)]  # each (1, samples x channels)
        return np.concatenate(parts, axis=1).reshape(-1, frame.layout.nb_channels).mean(axis=1)

    def check(self) -> None:
        """Raise MediaError where the samples cannot be had; else `wave` has them."""
        if self.error is not None:
            raise self.error


@dataclass
class Pictures:
    """The frames on the screen at start, start + 1 / fps, start + 2 / fps, ... s of the first video stream.

    A time before the first frame has none, nor has one between a frame that is lost and the next: they are left out.
    """

    start: float
    end: float | None
    sampling: Sampling
    bounds: Bounds = field(default_factory=Bounds)
    counted: bool = False
    kind: str = "video"
    error: MediaError | None = None
    begun: bool = False
    lost: int = 0
    _aspect: float = 1.0  # how much wider than high a pixel is
    _shown: Any = None  # the newest frame so far: it is on the screen until the next one begins
    _since: float = 0.0  # s
    _missed: list[float] = field(default_factory=list)  # s; where frames begin that cannot be decoded
    _size: tuple[int, int] | None = None  # (width, height) of the first frame taken: all are scaled to it
    _asked: int = 0  # moments that have passed, with or without a frame
    _pixels: list[np.ndarray] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)
    _film: bool = True  # or a file that holds one picture

    @property
    def latest(self) -> float:
        """s."""
        return self.start + TOLERANCE_S

    def open(self, stream: Any) -> None:
        """Learn the form of its pixels, and bound how many a frame may have."""
        self._aspect = float(stream.sample_aspect_ratio or 1)
        self._film = not (stream.container.format.name.endswith("_pipe") or is_cover(stream))
        codec = stream.codec_context
        if codec is None:
            raise MediaError("not video: no decoder for it")
        self.bounds.check_pixels(codec.width, codec.height, self._film)
        codec.options = {"max_pixels": str(self.bounds.of_film if self._film else self.bounds.pixels)}

    def add(self, frame: Any, at: float) -> bool:
        """Take what was on the screen until now as often as it was due."""
        self.bounds.check_pixels(frame.width, frame.height, self._film)
        over = self.end is not None and at >= self.end
        if self._shown is None and at <= PRIMING_S:  # it is the first of the recording, and there from its beginning
            at = min(at, 0.0)
        until = self.end if over and self.end is not None else at
        if until - self._since > HOLE_S:  # no frame is on the screen for so long: it is taken once at most
            self._take(before=min(until, self._since + 1 / self.sampling.fps))
            self._asked = max(self._asked, math.ceil((until - self.start - TOLERANCE_S) * self.sampling.fps))
        self._take(before=until)
        self._shown, self._since = (None, at) if over else (frame, at)
        return not over

    def miss(self, at: float) -> None:
        """What was on the screen before is gone. A decoder gives frames late: the one before may be yet to come."""
        self._missed.append(at)

    @property
    def still(self) -> bool:
        """Whether it was a file that holds one picture."""
        return not self._film

    def frames(self) -> Frames:
        """Return the frames that were taken. Raises MediaError."""
        if self.error is not None:
            raise self.error
        if self._shown is not None:
            self._take(before=self._since + 2 * TOLERANCE_S)  # the last frame, where one was due just when it came
        if not self._pixels:
            raise MediaError("no picture in this span")
        pixels = np.empty((len(self._pixels), *self._pixels[0].shape), np.uint8)
        for n in range(len(pixels)):  # one by one, and each is given back: there is no room for all of them twice
            pixels[n], self._pixels[n] = self._pixels[n], self._pixels[0][:0]
        return Frames(pixels, np.array(self._times))

    @property
    def _due(self) -> float:
        """s: when the next frame is wanted."""
        return self.start + self._asked / self.sampling.fps

    def _take(self, before: float) -> None:
        gone = min((at for at in self._missed if at > self._since), default=math.inf)
        while (due := self._due) < before - TOLERANCE_S:
            self._asked += 1
            if self._shown is not None and due < gone - TOLERANCE_S:
                self._size = self._size or _scaled(self._shown, self.sampling.side, self._aspect)
                self._check_sum(*self._size)
                self._pixels.append(_upright(self._shown, *self._size))
                self._times.append((self._asked - 1) / self.sampling.fps)

    def _check_sum(self, width: int, height: int) -> None:
        taken = len(self._pixels) + 1
        if taken > self.bounds.seconds * self.sampling.fps + 1:
            raise MediaError(f"more than {self.bounds.seconds:,.15g} s of frames, the limit (--max-seconds)")
        if taken * width * height > self.bounds.of_frames:
            most = f"{self.bounds.of_frames:,}, ten times the limit (--max-pixels)"
            raise MediaError(f"more than {taken - 1:,} frames of {width} x {height} pixels: together over {most}")


def _scaled(frame: Any, side: int, aspect: float) -> tuple[int, int]:
    """Return the width and height with which no side is longer than `side`.

    Pixels that are `aspect` times as wide as high (old television, DV) become square: the height stays.
    """
    width = frame.width * aspect
    scale = min(1.0, side / max(width, frame.height))
    return max(1, round(width * scale)), max(1, round(frame.height * scale))


def _upright(frame: Any, width: int, height: int) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB as a player shows it: phones record turned or mirrored pictures and say so."""
    pixels = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
    try:
        side = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # a still picture with EXIF, which PyAV does not know: decode.py reads it
        side = None
    if side is not None:
        a, b, _, c, d = np.frombuffer(bytes(side), np.int32, 5).astype(float)  # x' = a x + c y, y' = b x + d y
        if a * d < b * c:  # mirrored
            if abs(b) + abs(c) > abs(a) + abs(d):
                pixels, a, d = pixels.transpose(1, 0, 2), c, b
            return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is the cover of a recording of sound."""
    return bool(stream.disposition & Disposition.attached_pic)
