"""Decode raw bytes into clips: text, RGB picture, 16 kHz mono sound, frames.

Media are decoded here, in picture.py (Pillow), sound.py (libsndfile) and container.py (FFmpeg), and nowhere else.

What cannot be decoded raises MediaError with a short reason: it becomes the record of one sample, never the end of
a run. Silence, a one-pixel picture and a single emoji are valid; an empty file is not.
"""

import codecs
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import PIL
import soxr

from msa.annotations.rows import whole_characters
from msa.cache.format import files
from msa.extract.media import container, picture, sound
from msa.extract.media.clips import Bounds as Bounds
from msa.extract.media.clips import Frames as Frames
from msa.extract.media.clips import MediaError as MediaError
from msa.extract.media.clips import Sampling
from msa.extract.media.sound import RATE as RATE
from msa.extract.media.sound import Wave
from msa.extract.media.tracks import Pictures, Sound
from msa.types import Modality, Raw

BOUNDS = Bounds()
FRAMES = Sampling(fps=5.0, side=640)  # where a recipe states none


@dataclass(frozen=True)
class Columns:
    """A table of numbers with a header, as OpenFace writes one: `names` (C,), `values` float64 (N, C)."""

    names: tuple[str, ...]
    values: np.ndarray


Clip = str | np.ndarray | Frames | Columns


def clip(modality: Modality, raw: Raw, sampling: Sampling = FRAMES, bounds: Bounds = BOUNDS) -> Clip:
    """Decode one modality of one sample.

    Text becomes a stripped str, an image uint8 (H, W, 3) RGB, audio float32 (samples,) at 16 kHz mono, faces some
    frames of a video or, from a .csv, its columns.

    Args:
        modality: What to decode.
        raw: Where it lies.
        sampling: Which frames of a video are taken.
        bounds: What it may come to.

    Raises:
        MediaError: It cannot be decoded or is out of bounds; the message is the reason.
    """
    decode: dict[Modality, Callable[[Raw], Clip]] = {
        Modality.TEXT: lambda raw: read_text(raw)[0],
        Modality.IMAGE: lambda raw: read_image(raw, bounds),
        Modality.AUDIO: lambda raw: read_audio(raw, bounds),
        Modality.FACE: lambda raw: read_columns(raw) if is_table(raw) else read_frames(raw, sampling, bounds),
    }
    return decode[modality](raw)


def clips(
    raws: Mapping[Modality, Raw], sampling: Sampling = FRAMES, bounds: Bounds = BOUNDS
) -> dict[Modality, Clip | Exception]:
    """Decode several modalities of one sample; sound and frames of the same span of a video in one pass."""
    decoded: dict[Modality, Clip | Exception] = {}
    audio, face = raws.get(Modality.AUDIO), raws.get(Modality.FACE)
    if audio is not None and audio == face and not is_table(face):
        decoded = _sound_and_frames(audio, sampling, bounds)
    for modality in raws.keys() - decoded.keys():
        try:
            decoded[modality] = clip(modality, raws[modality], sampling, bounds)
        except Exception as error:
            decoded[modality] = error
    return decoded


def versions(modality: Modality, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str | int]:
    """Return the facts of decoding that decide the numbers, for a view's identity."""
    if modality is Modality.TEXT:
        return {"encoding": "utf-8-sig, else cp1252"}
    if modality is Modality.AUDIO:
        return {"rate": RATE, "mono": "mean", "resample": "soxr-HQ", "soxr": soxr.__version__}
    if modality is Modality.FACE:
        return {"frames": "on the screen at n / fps", "scale": "area", "av": av.__version__} if "fps" in options else {}
    return {"mode": "RGB", "orientation": "exif", "alpha": "over white", "pillow": PIL.__version__}


# text


def read_text(raw: Raw) -> tuple[str, str]:
    """Return the stripped text and its encoding: UTF-8, or else Windows' Latin letters, which fit anything."""
    if raw.text is not None:
        text, encoding = whole_characters(raw.text), "str"
    else:
        text, encoding = _decode(_bytes(raw))
    text = text.strip()
    if not text:
        raise MediaError("empty text")
    return text, encoding


def _decode(data: bytes) -> tuple[str, str]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), "utf-16"
    try:
        return data.decode("utf-8-sig"), "utf-8-sig"
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "cp1252"


# pictures


def read_image(raw: Raw, bounds: Bounds = BOUNDS) -> np.ndarray:
    """Return an upright picture, uint8 (H, W, 3) RGB; the first frame of a moving one. Raises MediaError."""
    with _reasons(), BufferedReader(files.open_regular(existing(raw))) as file:
        return picture.read(file, bounds)


# sound


def read_audio(raw: Raw, bounds: Bounds = BOUNDS) -> np.ndarray:
    """Return a recording or the part of it from `start` to `end`, float32 (samples,) at 16 kHz mono. Raises MediaError.

    A recording that breaks off is used as far as it goes: streamed files misstate their length, so no one can tell.
    Where the sound begins later than the file, or has gaps, there are no samples (see `tracks.Sound`): a recording
    read from its beginning starts with the first sample there is.
    """
    with _reasons():
        return _gathered(raw, sound.read(_spanned(raw), raw.start, raw.end, lambda: Wave(bounds)))


def _gathered(raw: Raw, wave: Wave) -> np.ndarray:
    samples = wave.samples()
    if not len(samples):
        span = f": nothing in {raw.start}-{raw.end or 'end'} s" if raw.start or raw.end else ""
        raise MediaError(f"zero-length audio{span}")
    return samples


def _spanned(raw: Raw) -> Path:
    """Return the path of a file whose span, if one is given, is not empty. Raises MediaError."""
    if not _is_span(raw):
        raise MediaError(f"span {raw.start}-{raw.end} s is empty")
    return existing(raw)


def _is_span(raw: Raw) -> bool:
    """Return whether a span begins and ends later. A table may say `nan` of both."""
    return 0 <= raw.start < math.inf and (raw.end is None or raw.start < raw.end < math.inf)


def seconds(raw: Raw) -> float:
    """Return the seconds of a recording or its span by its header alone; 0.0 where it does not say."""
    if not _is_span(raw):
        return 0.0
    if raw.end is not None:
        return raw.end - raw.start
    try:
        return max(sound.stated_seconds(existing(raw)) - raw.start, 0.0)
    except MediaError:
        return 0.0


# faces


def is_table(raw: Raw) -> bool:
    """Return whether faces were measured before: a .csv instead of a video."""
    return raw.path is not None and raw.path.suffix.lower() == ".csv"


def read_frames(raw: Raw, sampling: Sampling, bounds: Bounds = BOUNDS) -> Frames:
    """Return frames of a video, or the one frame of a picture. Raises MediaError."""
    pictures = Pictures(raw.start, raw.end, sampling, bounds)
    with _reasons():
        container.read(_spanned(raw), raw.start, [pictures])
        return _seen(raw, pictures)


def _seen(raw: Raw, pictures: Pictures) -> Frames:
    """Return the frames; a still picture that is mirrored by its EXIF is mirrored back, which FFmpeg does not do."""
    frames = pictures.frames()
    if pictures.still:
        with BufferedReader(files.open_regular(existing(raw))) as file:
            mirrored = picture.mirrored(file)
        if mirrored is not None:
            return Frames(np.ascontiguousarray(np.flip(frames.pixels, 2 if mirrored else 1)), frames.times)
    return frames


def _sound_and_frames(raw: Raw, sampling: Sampling, bounds: Bounds) -> dict[Modality, Clip | Exception]:
    wave = Wave(bounds)
    track, pictures = Sound(raw.start, raw.end, wave), Pictures(raw.start, raw.end, sampling, bounds)
    decoded: dict[Modality, Clip | Exception] = {}

    def heard() -> Clip:
        track.check()
        return _gathered(raw, wave)

    wanted: dict[Modality, Callable[[], Clip]] = {
        Modality.AUDIO: heard,
        Modality.FACE: lambda: _seen(raw, pictures),
    }
    try:
        with _reasons():
            container.read(_spanned(raw), raw.start, [track, pictures])
    except MediaError as error:
        return dict.fromkeys(wanted, error)
    for modality, take in wanted.items():
        try:
            decoded[modality] = take()
        except MediaError as error:
            decoded[modality] = error
    return decoded


def read_columns(raw: Raw) -> Columns:
    """Return a .csv of numbers under a header; blanks around names and numbers are OpenFace's."""
    lines = _bytes(raw).decode("utf-8-sig", errors="replace").splitlines() or [""]
    names = tuple(name.strip() for name in lines[0].split(","))
    rows = [line.split(",") for line in lines[1:] if line.strip()]
    if ragged := next((n for n, row in enumerate(rows, start=2) if len(row) != len(names)), None):
        raise MediaError(f"line {ragged} of the table has another number of cells than its header")
    try:
        values = np.array(rows, np.float64).reshape(len(rows), len(names))
    except ValueError as error:
        raise MediaError(f"not a table of numbers: {error}") from None
    return Columns(names, values)


def existing(raw: Raw) -> Path:
    """Return the path of a regular file that is not empty; a link to one is one. Raises MediaError."""
    if raw.path is None:
        raise MediaError("no file is named")
    with _reasons():
        facts = raw.path.stat()
        files.check_regular(raw.path, facts)
    if not facts.st_size:
        raise MediaError("empty file")
    return raw.path


def _bytes(raw: Raw) -> bytes:
    path = existing(raw)
    with _reasons(), files.open_regular(path) as file:
        return file.readall()


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn errors of the file system into MediaError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing file") from None
    except OSError as error:
        raise MediaError(f"no file that can be read: {error.strerror or error}") from None
    except ValueError as error:
        if "null" not in str(error):  # a path with a NUL in it, which no file has
            raise
        raise MediaError("missing file") from None
