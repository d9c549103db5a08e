"""Sound by libsndfile: mono at 16 kHz, block by block.

The length that a file states is not believed. An MP3 without a count of its frames, a FLAC or WAV from a pipe hold more
sound than libsndfile reads; FFmpeg reads those. Of Ogg streams that follow each other libsndfile reads the first alone,
and FFmpeg stumbles: they are read one by one.
"""

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from msa.cache.format import files
from msa.extract.media import container
from msa.extract.media.clips import Bounds, MediaError
from msa.extract.media.tracks import Sound

RATE = 16_000  # Hz; what wav2vec 2.0 and its relatives were trained on
RATES = 1_000, 1_000_000  # Hz; below there is no speech, above no recorder
BLOCK = 1 << 18  # numbers that are read at a time, of all channels together
# Samples that a coder puts before and after the sound and libsndfile leaves out: two frames and what LAME announces
SLACK = {"MP3": 4096, "FLAC": 0}
BY_FFMPEG = {"VOC"}  # libsndfile takes the headers between its blocks for sound
PAGE = re.compile(rb"OggS\x00(.)", re.DOTALL)  # the start of a page, and its flags
FIRST_PAGE = 2  # the flag of a page that begins a stream
HEADERS = 1 << 10  # bytes: more than this beside the samples of a PCM file may be samples, too
WIDTH = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}


@dataclass
class Wave:
    """Mono samples, gathered block by block and resampled on the way. Bounded: what is too long is not gathered."""

    bounds: Bounds = field(default_factory=Bounds)
    target: int | None = RATE  # Hz; None: the recording's own
    stated_s: float = 0.0  # length by its header, for the message alone
    rate: int = 0  # Hz; of what comes in; 0: not known yet
    last_rate: int = 0  # Hz; of what came in last
    _seconds: float = 0.0  # of what came in
    _parts: list[np.ndarray] = field(default_factory=list)  # each (samples,)
    _soxr: Any = None

    def add(self, samples: np.ndarray, rate: int) -> None:
        """Append mono samples, float32 (samples,).

        Raises:
            MediaError: The rate is none, or not that of the samples before; they are not finite; or too many.
        """
        if self.rate == 0:
            self._begin(rate)
        if rate != self.rate:
            raise MediaError(f"the rate changes from {self.rate} to {rate} Hz")
        self._seconds += len(samples) / rate
        if self._seconds > self.bounds.seconds:
            stated = f"; its header says {self.stated_s:,.0f} s" if self.stated_s > self.bounds.seconds else ""
            raise MediaError(f"more than {self.bounds.seconds:,.15g} s of sound, the limit (--max-seconds){stated}")
        self._append(samples, last=False)

    def _begin(self, rate: int) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise MediaError(f"{rate} Hz is no rate of sound: msa reads {RATES[0]:,} to {RATES[1]:,} Hz")
        self.rate = self.last_rate = rate
        if self.target not in (None, rate):
            self._soxr = soxr.ResampleStream(rate, self.target, 1, dtype="float32", quality="HQ")

    def _append(self, samples: np.ndarray, last: bool) -> None:
        if self._soxr is not None:
            samples = self._soxr.resample_chunk(np.ascontiguousarray(samples, np.float32), last=last)
        if not np.isfinite(samples).all():
            raise MediaError("samples are not finite")
        if len(samples):
            self._parts.append(samples)

    def end_part(self) -> None:
        """End a part: the next samples may have another rate."""
        if self._soxr is not None:
            self._append(np.zeros(0, np.float32), last=True)
        self.rate, self._soxr = 0, None

    def samples(self) -> np.ndarray:
        """Return (samples,) float32 of all that came in. Raises MediaError."""
        self.end_part()
        whole = np.empty(sum(map(len, self._parts)), np.float32)
        at = 0
        for part in self._parts:
            whole[at : at + len(part)] = part
            at += len(part)
        self._parts = [whole] if len(whole) else []
        return whole


class _Straight(soundfile.SoundFile):
    """A file that is read from front to back.

    `soundfile` seeks to where it is after every block, and a seek makes the decoder of MP3 forget the last frames.
    """

    def seekable(self) -> bool:
        return False


def read(path: Path, start: float, end: float | None, new_wave: Callable[[], Wave]) -> Wave:
    """Return the samples from `start` to `end` s; by FFmpeg where libsndfile does not read them, or not all.

    Args:
        path: A regular file.
        start: s.
        end: s; None: as far as there is sound.
        new_wave: Make what gathers them; a second one where the first reader fails half-way.

    Raises:
        MediaError: There is no sound in it that can be decoded, or it is out of bounds.
        OSError: The file cannot be read.
    """
    counted = False
    try:
        with files.open_regular(path) as handle, _Straight(handle.fileno(), closefd=False) as file:
            if file.format == "OGG":
                return _by_streams(handle, start, end, new_wave())
            if _is_whole(path, file):
                wave = new_wave()
                missed = _by_libsndfile(file, start, end, wave)
                if not missed or not _stopped_early(path, file, end, missed):
                    return wave
            counted = file.format in SLACK  # how FFmpeg stamps such a file is not known: samples are counted
    except soundfile.LibsndfileError:
        pass
    wave = new_wave()
    track = Sound(start, end, wave, counted)
    container.read(path, start, [track])
    track.check()
    return wave


def _by_libsndfile(file: soundfile.SoundFile, start: float, end: float | None, wave: Wave) -> int:
    """Read a span in blocks, whatever the header says of its length; return how many frames were missing.

    `start` may lie behind the end.
    """
    wave.stated_s = max(wave.stated_s, file.frames / max(file.samplerate, 1))
    first = round(min(start * file.samplerate, file.frames))
    left = round(min(np.inf if end is None else end * file.samplerate, file.frames)) - first
    skip = first if file.format == "MP3" else 0  # after a seek its decoder rounds otherwise, and begins with noise
    file.seek(first - skip)
    block = np.empty((max(1, BLOCK // file.channels), file.channels), np.float32)
    while skip + left > 0:
        got = file.read(min(len(block), skip + left), out=block)  # (frames, channels)
        if not len(got):
            break
        unwanted = min(skip, len(got))
        skip, left = skip - unwanted, left - (len(got) - unwanted)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused as such
            wave.add(got[unwanted:].mean(axis=1), file.samplerate)
    return skip + left


def _stopped_early(path: Path, file: soundfile.SoundFile, end: float | None, missed: int) -> bool:
    """Return whether there is sound after where libsndfile stopped, as it does where an MP3's rate changes."""
    if file.format not in SLACK:
        return False  # a WAV that breaks off is used as far as it goes
    facts = path.stat()
    present = _seconds_by_packets(path, facts.st_size, facts.st_mtime_ns) * file.samplerate
    wanted = file.frames if end is None else min(end * file.samplerate, file.frames)
    return wanted - missed + SLACK[file.format] + 1 < min(wanted, present)


def _by_streams(handle: FileIO, start: float, end: float | None, wave: Wave) -> Wave:
    """Read a span of Ogg streams that follow each other, as they do in recorded radio."""
    with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begins, before = [], 0
        for page in PAGE.finditer(data):
            if page[1][0] & FIRST_PAGE and not before & FIRST_PAGE:  # streams side by side begin with a page each
                begins.append(page.start())
            before = page[1][0]
        at = 0.0  # s; where a stream begins
        for n, (begin, until) in enumerate(zip(begins, [*begins[1:], len(data)], strict=True)):
            if end is not None and at >= end:
                break
            try:
                with _Straight(BytesIO(data[begin:until])) as file:
                    if wave.rate != file.samplerate:
                        wave.end_part()
                    _by_libsndfile(file, max(start - at, 0.0), None if end is None else end - at, wave)
                    at += file.frames / file.samplerate
            except soundfile.LibsndfileError:
                if not n:
                    raise
                raise MediaError(f"stream {n + 1} of {len(begins)} in this Ogg file cannot be decoded") from None
    return wave


def _is_whole(path: Path, file: soundfile.SoundFile) -> bool:
    """Return whether libsndfile reads all of a file. Asked for a span, too: all spans come from one decoder."""
    facts = path.stat()
    counted = partial(_seconds_by_packets, path, facts.st_size, facts.st_mtime_ns)
    if file.format in BY_FFMPEG:
        return False
    if file.format in SLACK:
        if file.frames == 2**63 - 1:  # a FLAC that leaves its length open
            return False
        return counted() * file.samplerate <= file.frames + SLACK[file.format] + 1
    promised = file.frames * file.channels * WIDTH.get(file.subtype, 0)
    if promised and facts.st_size - promised <= HEADERS:
        return True
    return counted() * file.samplerate <= file.frames + 1


@lru_cache(maxsize=1024)  # many spans of one recording
def _seconds_by_packets(path: Path, size: int, mtime_ns: int) -> float:
    return container.seconds_by_packets(path)


def stated_seconds(path: Path) -> float:
    """Return the seconds of a recording by its header alone; 0.0 where it does not say."""
    try:
        with files.open_regular(path) as handle, _Straight(handle.fileno(), closefd=False) as file:
            if file.frames < 2**62:
                return float(file.frames / max(file.samplerate, 1))
    except soundfile.LibsndfileError:
        pass
    except OSError:
        return 0.0
    return container.duration(path)
