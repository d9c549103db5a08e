"""What FFmpeg opens: the sound track and the frames of a recording, in one pass over its packets.

A clip whose sound and whose faces are wanted is read and unpacked once. The streams fail apart: a broken picture
costs no sound, and a recording without a sound track still has its frames.

FFmpeg is given an open file and no path, formats that hold their sound and pictures themselves, and no protocol: a
playlist that names other files or servers is refused.

A packet that cannot be decoded is left out, and the rest is read; a span that lost more than half of its packets
fails. What is missing stays missing: no silence is put in its place, and no older frame. How a span begins does not
depend on what else is wanted of it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition

from msa.cache.format import files

# Demuxers that read one file: none follows the names of others, draws text, or opens a device
SINGLE_FILES = (
    "3dostr,aa,aac,aax,ac3,ac4,adx,aiff,amr,amrnb,amrwb,ape,apng,aptx,asf,asf_o,au,av1,avi,avr,bit,bmp_pipe,bonk,"
    "brstm,caf,cavsvideo,dirac,dsf,dts,dtshd,dv,dxa,eac3,film_cpk,flac,flic,flv,gif,gif_pipe,gsm,gxf,h261,h263,h264,"
    "hevc,hca,iff,ilbc,ircam,iv8,ivf,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,kux,lmlm4,loas,lvf,m4v,matroska,"
    "mjpeg,mjpeg_2000,mlp,mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegtsraw,mpegvideo,mtv,mxf,nc,nistsphere,nsv,nut,obu,"
    "ogg,oma,paf,pam_pipe,pbm_pipe,pgm_pipe,png_pipe,pnm_pipe,ppm_pipe,pvf,qcp,qoi_pipe,r3d,rm,rso,sds,shn,smk,sol,"
    "sox,spdif,svs,svx,swf,tak,tiff_pipe,truehd,tta,voc,vvc,w64,wav,webm,webp_pipe,wsaud,wsd,wtv,wv,xa,xwma"
)
SAFELY = {"format_whitelist": SINGLE_FILES, "protocol_whitelist": "none"}
BUFFER = 1 << 18  # bytes that FFmpeg asks for at a time

# s before a span that reading begins, until a stream is met in time: decoded and thrown away, because the frames of a
# compressed stream need their predecessors. The seeks of MPEG-TS and MPEG-PS fall between key frames, which many
# encoders set every 10 s. At last everything from the beginning.
LEADS_S = (0.5, 12.0, math.inf)
WARM_S = 0.1  # of the lead: the first frames of AAC and MP3 miss their neighbours
TOLERANCE_S = 1e-3  # time stamps are rounded to the clock of their container
LAST = 2**62  # ticks of a clock: none is later
GAP_S = 5e-3  # a time stamp this far from the count of the samples before it is no matter of rounding
HOLE_S = 30.0  # nothing for so long is a hole in the time stamps: no frame of a video stays on the screen meanwhile
UNLIKE_S = 0.25  # of sound with another rate than the first: less is a damaged frame, more a change
BACK_S = 1.0  # a stream whose time jumps back by more begins again: a second recording was joined to the first
PRIMING_S = 0.1  # AAC begins with up to 2112 empty samples; MKV, FLV and MPEG-TS put off their pictures for that long


class MediaError(Exception):
    """One piece of raw material cannot be decoded; the message is short, because such messages are counted."""


@dataclass(frozen=True)
class Bounds:
    """What one clip may come to. Generous: they keep a small file from filling the memory, and change no number."""

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


class Track(Protocol):
    """What gathers one stream of a recording."""

    kind: str  # "audio" or "video"
    counted: bool  # must it be read from the beginning?
    error: MediaError | None
    begun: bool  # has it been given a frame?
    start: float  # s
    end: float | None  # s
    lost: int  # packets of its span that could not be decoded

    @property
    def latest(self) -> float:
        """s: when its first frame has to begin, unless that is the first of the stream."""

    def open(self, stream: Any) -> None:
        """Hear of the stream it is going to be fed from. Raises MediaError where it is out of bounds."""

    def add(self, frame: Any, at: float) -> bool:
        """Take a decoded frame that begins `at` s; False once everything wanted has been seen.

        Raises:
            ValueError: It is unlike the others; FFmpegError, too.
            MediaError: The stream is out of bounds or cannot be used at all.
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


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A recording, opened by FFmpeg. Raises OSError for what is no regular file, av.FFmpegError, MediaError."""
    with files.open_regular(path) as file, _demuxer(file, path.name) as recording:
        yield recording


def _demuxer(file: Any, name: str) -> Any:
    """FFmpeg on an open file; its name decides where the contents leave a doubt, unless that asks for more files."""
    for hint in (name, ""):
        file.name = hint
        file.seek(0)
        try:
            return av.open(file, options=SAFELY, metadata_errors="replace", buffer_size=BUFFER)
        except av.ArgumentError:  # what FFmpeg says of a format that is not among those it is allowed
            continue
    raise MediaError("not a recording of a format that msa reads")


def duration(path: Path) -> float:
    """Seconds of a recording by its header; 0.0 where that cannot be told."""
    try:
        with opened(path) as recording:
            return (recording.duration or 0) / 1e6
    except (av.FFmpegError, OSError, MediaError):
        return 0.0


def seconds_by_packets(path: Path) -> float:
    """How long the packets of the sound are together; 0.0 of no sound."""
    ticks, tick = 0, 0.0
    try:
        with opened(path) as recording:
            stream = _sound_track(recording)
            if stream is not None:
                tick = float(stream.time_base or 0)
                ticks = sum(packet.duration or 0 for packet in recording.demux([stream]))
    except (av.FFmpegError, MediaError):  # FFmpeg does not read it
        pass
    return ticks * tick


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
    shift: float = 0.0  # s; what the time stamps lack since they began again
    doubt: Any = None  # a frame, and when it begins by its time stamp, which is far ahead: the next one tells

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
        return all(self._add(frame, at) for frame in frames for frame, at in self._placed(frame))

    def _miss(self, at: float) -> None:
        self.track.lost += 1
        self.track.miss(at)

    def _counts(self, at: float) -> bool:
        """Is a packet of the span? What a seek cut in two is not damaged."""
        end = math.inf if self.track.end is None else self.track.end
        return self.track.start <= at < end and (self.track.begun or not self.sought)

    def _placed(self, frame: Any) -> Iterator[tuple[Any, float | None]]:
        """Frames that are ready, and when they begin; None where no time stamp says so.

        One time stamp far ahead of the others is wild, and the frame follows the one before it. Two are a hole. Time
        that jumps back begins again.
        """
        at = None if frame.time is None else frame.time - self.origin + self.shift
        if self.doubt is not None:
            (doubtful, then), self.doubt = self.doubt, None
            yield doubtful, then if at is None or at >= then else self.until
        known = self.track.begun or not self.sought
        if at is not None and known and at - self.until > HOLE_S:
            self.doubt = frame, at
            return
        if at is not None and self.track.begun and at < self.until - BACK_S:
            self.shift += self.until - at
            at = self.until
        yield frame, at

    def flush(self) -> None:
        """Feed what was in doubt when the stream ended."""
        if self.doubt is not None:
            (doubtful, then), self.doubt = self.doubt, None
            self._add(doubtful, then)

    def _add(self, frame: Any, stamped: float | None) -> bool:
        at = self.until if stamped is None else stamped
        if self.sought and not self.track.begun:
            if stamped is None or frame.is_corrupt:
                return True
            if at > max(self.track.latest, self._first):
                return False
        self.track.begun = True
        self.until = at + (frame.samples / frame.sample_rate if self.track.kind == "audio" else _shown_s(frame))
        try:
            return self.track.add(frame, at)
        except MediaError as error:
            self.track.error = error
            return False
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
        if self.track.error is not None:
            return
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
        with opened(path) as recording:
            feeds += _feeds(recording, begin, tracks)
            if begin and feeds:
                _seek(recording, begin + feeds[0].origin)
            _demux(recording, feeds)
    except (av.FFmpegError, MediaError) as error:
        wanted = "audio" if all(track.kind == "audio" for track in tracks) else "video"
        reason = error if isinstance(error, MediaError) else MediaError(f"not {wanted}: {error.strerror}")
        for track in tracks:
            if not track.begun and not (begin and feeds):  # a recording that breaks off is used as far as it goes
                track.error = track.error or reason
    for feed in feeds:
        feed.flush()
        feed.close()


def _feeds(recording: Any, begin: float, tracks: Sequence[Track]) -> list[_Feed]:
    """A feed for each track that has a stream and can begin at `begin` s; those without a stream have an error."""
    origin = max(recording.start_time or 0, 0) / 1e6  # s; a broadcast recording does not start at zero
    feeds = []
    for track in tracks:
        sound = track.kind == "audio"
        stream = _sound_track(recording) if sound else _film(recording)
        if stream is None:
            track.error = MediaError("no sound track" if sound else "no picture")
        elif not (begin and sound and (track.counted or _coarse(stream))):
            try:
                track.open(stream)
            except MediaError as error:
                track.error = error
                continue
            feeds.append(_Feed(track, stream, origin, sought=begin > 0))
    return feeds


def _sound_track(recording: Any) -> Any:
    """The first sound track that a player would play by itself; else the first; None where there is none."""
    return _chosen(recording.streams.audio, Disposition.default)


def _film(recording: Any) -> Any:
    """The first video stream that is no cover; else the first; None where there is none."""
    return _chosen([stream for stream in recording.streams.video if not _is_cover(stream)] or recording.streams.video)


def _chosen(streams: Sequence[Any], wanted: Disposition = Disposition(0)) -> Any:
    first = next(iter(streams), None)
    return next((stream for stream in streams if stream.disposition & wanted), first)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _coarse(stream: Any) -> bool:
    """Are the time stamps of a sound track too coarse (MKV, FLV: 1 ms) to tell one sample from the next?

    Then only counting from the beginning can tell where a span starts.
    """
    return bool(stream.time_base * (stream.rate or 0) > 1)


def _seek(recording: Any, stamp: float) -> None:
    """Go to a key frame at or before `stamp` s.

    By the pictures if there are any, also where nobody wants them: the sound decodes to the same samples then.
    """
    moving = [stream for stream in recording.streams.video if not _is_cover(stream)]
    stream = [*moving, *recording.streams.audio, *recording.streams.video][0]
    recording.seek(int(min(stamp / stream.time_base, LAST)), stream=stream)


def _demux(recording: Any, feeds: Sequence[_Feed]) -> None:
    waiting = {feed.stream.index: feed for feed in feeds}
    for packet in recording.demux([feed.stream for feed in feeds]) if feeds else ():
        feed = waiting.get(packet.stream.index)
        if feed is not None and not feed.take(packet):
            del waiting[packet.stream.index]
        if not waiting:
            return


class Gathering(Protocol):
    """What takes the samples of a sound track."""

    told: float  # s

    def add(self, samples: np.ndarray, rate: int) -> None:
        """Append mono samples, float32 (samples,). Raises MediaError where they are out of bounds."""


@dataclass
class Sound:
    """A sound track from `start` to `end` s, mono, into `wave`.

    Sound that begins after `start`, or stops for a while, is not filled up with silence: the samples then begin with
    the first there is, and those after a gap move up to it.
    """

    start: float
    end: float | None
    wave: Gathering
    counted: bool = False  # is every sample counted from the beginning, whatever the time stamps say?
    kind: str = "audio"
    error: MediaError | None = None
    begun: bool = False
    lost: int = 0
    rate: int = 0
    _next: int | None = None  # samples from the beginning of the recording to the end of the newest frame
    _unlike: float = 0.0  # s of frames with another rate
    _got: bool = False  # has there been any sample of the span?
    _form: Any = None  # of the newest frame
    _packed: Any = None

    @property
    def latest(self) -> float:
        """s."""
        return self.start - WARM_S

    def open(self, stream: Any) -> None:
        """Note how long it says it is; the frames themselves say how fast they are."""
        if stream.codec_context is None:
            raise MediaError("not audio: no decoder for it")
        self.wave.told = float((stream.duration or 0) * (stream.time_base or 0))

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
        """Nothing: the time stamp of the next frame tells."""

    def _position(self, at: float) -> int:
        """The place of a frame in samples: by count, which is exact, unless its time stamp tells of a gap."""
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
        self._film = not (stream.container.format.name.endswith("_pipe") or _is_cover(stream))
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
        """Was it a file that holds one picture?"""
        return not self._film

    def frames(self) -> Frames:
        """What was taken. Raises MediaError."""
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
    """Width and height with which no side is longer than `side`.

    Pixels that are `aspect` times as wide as high (old television, DV) become square: the height stays.
    """
    width = frame.width * aspect
    scale = min(1.0, side / max(width, frame.height))
    return max(1, round(width * scale)), max(1, round(frame.height * scale))


def _upright(frame: Any, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a player shows it: phones record lying or mirrored pictures and say how to turn them."""
    pixels = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
    try:
        side = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # a still picture with EXIF, which PyAV does not know: media.py looks for itself
        side = None
    if side is not None:
        a, b, _, c, d = np.frombuffer(bytes(side), np.int32, 5).astype(float)  # x' = a x + c y, y' = b x + d y
        if a * d < b * c:  # mirrored
            if abs(b) + abs(c) > abs(a) + abs(d):
                pixels, a, d = pixels.transpose(1, 0, 2), c, b
            return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
