"""What FFmpeg opens: the sound track and the frames of a recording, in one pass over its packets.

A clip whose sound and whose faces are wanted is read and unpacked once. The streams fail apart: a broken picture
costs no sound, and a recording without a sound track still has its frames.

A packet that cannot be decoded is left out, and the rest is read; a span that lost more than half of its packets
fails. What is missing stays missing: no silence is put in its place, and no older frame. How a span begins does not
depend on what else is wanted of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.stream import Disposition

# s before a span that reading begins, until a stream is met in time: decoded and thrown away, because the frames of a
# compressed stream need their predecessors. The seeks of MPEG-TS and MPEG-PS fall between key frames, which many
# encoders set every 10 s. At last everything from the beginning.
LEADS_S = (0.5, 12.0, math.inf)
WARM_S = 0.1  # of the lead: the first frames of AAC and MP3 miss their neighbours
TOLERANCE_S = 1e-3  # time stamps are rounded to the clock of their container
GAP_S = 5e-3  # a time stamp this far from the count of the samples before it is no matter of rounding
PRIMING_S = 0.1  # AAC begins with up to 2112 empty samples; MKV, FLV and MPEG-TS put off their pictures for that long


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
    begun: bool  # has it been given a frame?
    start: float  # s
    end: float | None  # s
    lost: int  # packets of its span that could not be decoded

    @property
    def latest(self) -> float:
        """s: when its first frame has to begin, unless that is the first of the stream."""

    def open(self, stream: Any) -> None:
        """Hear of the stream it is going to be fed from."""

    def add(self, frame: Any, at: float) -> bool:
        """Take a decoded frame that begins `at` s; False once everything wanted has been seen.

        Raises ValueError or FFmpegError for one that is unlike the others.
        """

    def miss(self, at: float) -> None:
        """Hear that what begins `at` s cannot be decoded."""


def read(path: Path, start: float, tracks: Sequence[Track]) -> None:
    """Feed the tracks from `start` s on until they have enough; what keeps one from its stream is its `error`."""
    left = list(tracks)
    for lead in LEADS_S:
        _read_from(path, max(start - lead, 0.0), left)
        left = [track for track in left if not track.begun and track.error is None]
        if not left or start <= lead:
            return


def duration(path: Path) -> float:
    """Seconds of a recording by its header; 0.0 where that cannot be told."""
    try:
        with av.open(str(path)) as opened:
            return (opened.duration or 0) / 1e6
    except (av.FFmpegError, OSError):
        return 0.0


@dataclass
class _Feed:
    """One stream of a recording on its way into a track."""

    track: Track
    stream: Any
    origin: float  # s; the time stamp of the recording's beginning
    sought: bool  # reading did not start at the beginning of the recording
    packets: int = 0
    until: float = 0.0  # s; where the newest frame ends
    reason: str | None = None  # why the last packet that was lost could not be decoded

    def take(self, packet: Any) -> bool:
        """Decode a packet; False once the track has enough, or if it would begin too late."""
        at = self.until if packet.pts is None else float(packet.pts * packet.time_base) - self.origin
        counts = packet.size and self._counts(at)
        self.packets += bool(counts)
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self.reason = error.strerror
            if counts:
                self._miss(at)
            return True
        return all(self._add(frame) for frame in frames)

    def _miss(self, at: float) -> None:
        self.track.lost += 1
        self.track.miss(at)

    def _counts(self, at: float) -> bool:
        """Is a packet of the span? What a seek cut in two is not damaged."""
        end = math.inf if self.track.end is None else self.track.end
        return self.track.start <= at < end and (self.track.begun or not self.sought)

    def _add(self, frame: Any) -> bool:
        at = self.until if frame.time is None else frame.time - self.origin
        if self.sought and not self.track.begun:
            if frame.time is None or frame.is_corrupt:
                return True
            if at > max(self.track.latest, self._first):
                return False
        self.track.begun = True
        self.until = at + (frame.samples / frame.sample_rate if self.track.kind == "audio" else _shown_s(frame))
        try:
            return self.track.add(frame, at)
        except (av.FFmpegError, ValueError) as error:  # a damaged header promised what there is not: 28 channels
            self.reason = str(error)
            if self._counts(at):
                self._miss(at)
            return True

    @property
    def _first(self) -> float:
        """s: where the stream begins; before everything where nobody says."""
        began = self.stream.start_time
        return -math.inf if began is None else float(began * self.stream.time_base) - self.origin + TOLERANCE_S

    def close(self) -> None:
        """Judge what was lost."""
        if not self.track.begun and not self.sought and self.reason is not None:
            self.track.error = MediaError(f"not {self.track.kind}: {self.reason}")
        elif 2 * self.track.lost > self.packets:
            lost = f"{self.track.lost} of {self.packets} packets cannot be decoded"
            self.track.error = MediaError(f"not {self.track.kind}: {lost}")


def _shown_s(frame: Any) -> float:
    """s: how long a frame of a video stays; 0 where it does not say."""
    return float((frame.duration or 0) * (frame.time_base or 0))


def _read_from(path: Path, begin: float, tracks: Sequence[Track]) -> None:
    """Read once, from `begin` s on. A track that would begin too late is not fed, and has no error."""
    feeds: list[_Feed] = []
    try:
        with av.open(str(path)) as opened:
            feeds += _feeds(opened, begin, tracks)
            if begin and feeds:
                _seek(opened, begin + feeds[0].origin)
            _demux(opened, feeds)
    except av.FFmpegError as error:
        wanted = "audio" if all(track.kind == "audio" for track in tracks) else "video"
        for track in tracks:
            if not track.begun and not (begin and feeds):  # a recording that breaks off is used as far as it goes
                track.error = track.error or MediaError(f"not {wanted}: {error.strerror}")
    for feed in feeds:
        feed.close()


def _feeds(opened: Any, begin: float, tracks: Sequence[Track]) -> list[_Feed]:
    """A feed for each track that has a stream and can begin at `begin` s; those without a stream have an error."""
    origin = max(opened.start_time or 0, 0) / 1e6  # s; a broadcast recording does not start at zero
    feeds = []
    for track in tracks:
        stream = next(iter(getattr(opened.streams, track.kind)), None)
        if stream is None:
            track.error = MediaError("no sound track" if track.kind == "audio" else "no picture")
        elif not (begin and track.kind == "audio" and _coarse(stream)):
            track.open(stream)
            feeds.append(_Feed(track, stream, origin, sought=begin > 0))
    return feeds


def _coarse(stream: Any) -> bool:
    """Are the time stamps of a sound track too coarse (MKV, FLV: 1 ms) to tell one sample from the next?

    Then only counting from the beginning can tell where a span starts.
    """
    return bool(stream.time_base * (stream.rate or 0) > 1)


def _seek(opened: Any, stamp: float) -> None:
    """Go to a key frame at or before `stamp` s.

    By the pictures if there are any, also where nobody wants them: the sound decodes to the same samples then.
    """
    moving = [stream for stream in opened.streams.video if not stream.disposition & Disposition.attached_pic]
    stream = [*moving, *opened.streams.audio, *opened.streams.video][0]
    opened.seek(int(stamp / stream.time_base), stream=stream)


def _demux(opened: Any, feeds: Sequence[_Feed]) -> None:
    waiting = {feed.stream.index: feed for feed in feeds}
    for packet in opened.demux([feed.stream for feed in feeds]) if feeds else ():
        feed = waiting.get(packet.stream.index)
        if feed is not None and not feed.take(packet):
            del waiting[packet.stream.index]
        if not waiting:
            return


@dataclass
class Sound:
    """The first sound track from `start` to `end` s, mono.

    Sound that begins after `start`, or stops for a while, is not filled up with silence: the samples then begin with
    the first there is, and those after a gap move up to it.
    """

    start: float
    end: float | None
    kind: str = "audio"
    error: MediaError | None = None
    begun: bool = False
    lost: int = 0
    rate: int = 0
    _next: int | None = None  # samples from the beginning of the recording to the end of the newest frame
    _parts: list[np.ndarray] = field(default_factory=list)  # each (samples,)
    _form: Any = None  # of the newest frame
    _packed: Any = None

    @property
    def latest(self) -> float:
        """s."""
        return self.start - WARM_S

    def open(self, stream: Any) -> None:
        """Nothing: the frames themselves say how fast they are."""

    def add(self, frame: Any, at: float) -> bool:
        """Append its samples, as far as they are wanted."""
        self.rate = self.rate or frame.sample_rate
        if frame.sample_rate != self.rate:
            raise ValueError(f"{frame.sample_rate} Hz after {self.rate} Hz")
        first = self._position(at)
        self._next = first + frame.samples
        last = None if self.end is None else round(self.end * self.rate) - first
        if last is not None and last <= 0:
            return False
        skip = 0 if self._parts else max(round(self.start * self.rate) - first, 0)
        if skip < frame.samples:
            self._parts.append(self._mono(frame)[skip:last])
        return True

    def miss(self, at: float) -> None:
        """Nothing: the time stamp of the next frame tells."""

    def _position(self, at: float) -> int:
        """The place of a frame in samples: by count, which is exact, unless its time stamp tells of a gap."""
        if self._next is not None and abs(at * self.rate - self._next) <= GAP_S * self.rate:
            return self._next
        return round(at * self.rate)

    def _mono(self, frame: Any) -> np.ndarray:
        form = frame.format.name, frame.layout.name
        if form != self._form:  # rate and channels stay; packed, because PyAV reads beyond eight planes
            self._form, self._packed = form, av.AudioResampler(format="flt")
        parts = [part.to_ndarray() for part in self._packed.resample(frame)]  # each (1, samples x channels)
        return np.concatenate(parts, axis=1).reshape(-1, frame.layout.nb_channels).mean(axis=1)

    def wave(self) -> np.ndarray:
        """(samples,) float32 at `rate`. Raises MediaError."""
        if self.error is not None:
            raise self.error
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)


@dataclass
class Pictures:
    """The frames on the screen at start, start + 1 / fps, start + 2 / fps, ... s of the first video stream.

    A time before the first frame has none, nor has one between a frame that is lost and the next: they are left out.
    """

    start: float
    end: float | None
    sampling: Sampling
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

    @property
    def latest(self) -> float:
        """s."""
        return self.start + TOLERANCE_S

    def open(self, stream: Any) -> None:
        """Learn the form of its pixels."""
        self._aspect = float(stream.sample_aspect_ratio or 1)

    def add(self, frame: Any, at: float) -> bool:
        """Take what was on the screen until now as often as it was due."""
        over = self.end is not None and at >= self.end
        if self._shown is None and at <= PRIMING_S:  # it is the first of the recording, and there from its beginning
            at = min(at, 0.0)
        self._take(before=self.end if over and self.end is not None else at)
        self._shown, self._since = (None, at) if over else (frame, at)
        return not over

    def miss(self, at: float) -> None:
        """What was on the screen before is gone. A decoder gives frames late: the one before may be yet to come."""
        self._missed.append(at)

    def frames(self) -> Frames:
        """What was taken. Raises MediaError."""
        if self.error is not None:
            raise self.error
        self._take(before=self._since + 2 * TOLERANCE_S)  # the last frame, where one was due just when it came
        if not self._pixels:
            raise MediaError("no picture in this span")
        return Frames(np.stack(self._pixels), np.array(self._times))

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
                self._pixels.append(_upright(self._shown, *self._size))
                self._times.append((self._asked - 1) / self.sampling.fps)


def _scaled(frame: Any, side: int, aspect: float) -> tuple[int, int]:
    """Width and height with which no side is longer than `side`.

    Pixels that are `aspect` times as wide as high (old television, DV) become square: the height stays.
    """
    width = frame.width * aspect
    scale = min(1.0, side / max(width, frame.height))
    return max(1, round(width * scale)), max(1, round(frame.height * scale))


def _upright(frame: Any, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a player shows it: phones record lying pictures and say how to turn them."""
    pixels = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
