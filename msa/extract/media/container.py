"""Recordings by FFmpeg: sound track and frames in one pass over the packets.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from msa.cache.format import files
from msa.extract.media.clips import MediaError
from msa.extract.media.tracks import HOLE_S, TOLERANCE_S, Track, is_cover

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
LAST = 2**62  # ticks of a clock: none is later
BACK_S = 1.0  # a stream whose time jumps back by more begins again: a second recording was joined to the first


def read(path: Path, start: float, tracks: Sequence[Track]) -> None:
    """Feed the tracks from `start` s on until they have enough; a track that gets nothing has its `error` set."""
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
    """Open FFmpeg on a file; its name decides where the contents are ambiguous, unless that format reads more files."""
    for hint in (name, ""):
        file.name = hint
        file.seek(0)
        try:
            return av.open(file, options=SAFELY, metadata_errors="replace", buffer_size=BUFFER)
        except av.ArgumentError:  # what FFmpeg says of a format that is not among those it is allowed
            continue
    raise MediaError("not a recording of a format that msa reads")


def duration(path: Path) -> float:
    """Return the seconds of a recording by its header; 0.0 where it does not say."""
    try:
        with opened(path) as recording:
            return (recording.duration or 0) / 1e6
    except (av.FFmpegError, OSError, MediaError):
        return 0.0


def seconds_by_packets(path: Path) -> float:
    """Return the seconds of all packets of the sound together; 0.0 without sound."""
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
        """Return whether a packet is of the span. What a seek cut in two is not damaged."""
        end = math.inf if self.track.end is None else self.track.end
        return self.track.start <= at < end and (self.track.begun or not self.sought)

    def _placed(self, frame: Any) -> Iterator[tuple[Any, float | None]]:
        """Yield the frames that are ready, and when they begin; None without a time stamp.

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
        """s: where the stream begins; before everything where it does not say."""
        began = self.stream.start_time
        return -math.inf if began is None else float(began * self.stream.time_base) - self.origin + TOLERANCE_S

    def close(self) -> None:
        """Set the error of a track that lost too much."""
        if self.track.error is not None:
            return
        if not self.track.begun and not self.sought and self.reason is not None:
            self.track.error = MediaError(f"not {self.track.kind}: {self.reason}")
        elif 2 * self.track.lost > self.packets:
            lost = f"{self.track.lost} of {self.packets} packets cannot be decoded"
            self.track.error = MediaError(f"not {self.track.kind}: {lost}")


def _shown_s(frame: Any) -> float:
    """Return how long a frame of a video is shown, in s; 0 where it does not say."""
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
    """Return a feed for each track with a stream that can begin at `begin` s; set the error of those without one."""
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
    """Return the first sound track that a player would play by itself; else the first; None where there is none."""
    return _chosen(recording.streams.audio, Disposition.default)


def _film(recording: Any) -> Any:
    """Return the first video stream that is no cover; else the first; None where there is none."""
    return _chosen([stream for stream in recording.streams.video if not is_cover(stream)] or recording.streams.video)


def _chosen(streams: Sequence[Any], wanted: Disposition = Disposition(0)) -> Any:
    first = next(iter(streams), None)
    return next((stream for stream in streams if stream.disposition & wanted), first)


def _coarse(stream: Any) -> bool:
    """Return whether the time stamps of a sound track are too coarse (MKV, FLV: 1 ms) to number its samples.

    Then only counting from the beginning can tell where a span starts.
    """
    return bool(stream.time_base * (stream.rate or 0) > 1)


def _seek(recording: Any, stamp: float) -> None:
    """Go to a key frame at or before `stamp` s.

    By the pictures if there are any, even if only the sound is wanted: then it decodes to the same samples.
    """
    moving = [stream for stream in recording.streams.video if not is_cover(stream)]
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
