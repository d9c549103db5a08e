"""Raw bytes -> clip: text, RGB picture, 16 kHz mono sound, frames. With container.py the only file that decodes media.

What cannot be decoded raises MediaError with a short reason: it becomes the record of one sample, never the end of
a run. Silence, a one-pixel picture and a single emoji are valid; an empty file is not.
"""

import codecs
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import PIL
import soundfile
import soxr
from PIL import Image, ImageOps

from msa.extract import container
from msa.extract.container import Frames as Frames
from msa.extract.container import MediaError as MediaError
from msa.extract.container import Pictures, Sampling, Sound
from msa.types import Modality, Raw

RATE = 16_000  # Hz; what wav2vec 2.0 and its relatives were trained on
FRAMES = Sampling(fps=5.0, side=640)  # where a recipe has no say of its own


@dataclass(frozen=True)
class Columns:
    """A table of numbers with a header, as OpenFace writes one: `names` (C,), `values` float64 (N, C)."""

    names: tuple[str, ...]
    values: np.ndarray


Clip = str | np.ndarray | Frames | Columns


def clip(modality: Modality, raw: Raw, sampling: Sampling = FRAMES) -> Clip:
    """Decode one modality of one sample.

    Text becomes a stripped str, an image uint8 (H, W, 3) RGB, audio float32 (samples,) at 16 kHz mono, faces some
    frames of a video (`sampling` says which) or, from a .csv, its columns.
    """
    decode: dict[Modality, Callable[[Raw], Clip]] = {
        Modality.TEXT: lambda raw: read_text(raw)[0],
        Modality.IMAGE: read_image,
        Modality.AUDIO: read_audio,
        Modality.FACE: lambda raw: read_columns(raw) if is_table(raw) else read_frames(raw, sampling),
    }
    return decode[modality](raw)


def clips(raws: Mapping[Modality, Raw], sampling: Sampling = FRAMES) -> dict[Modality, Clip | Exception]:
    """Decode several modalities of one sample; sound and frames of the same span of a video in one pass."""
    found: dict[Modality, Clip | Exception] = {}
    audio, face = raws.get(Modality.AUDIO), raws.get(Modality.FACE)
    if audio is not None and audio == face and not is_table(face):
        found = _sound_and_frames(audio, sampling)
    for modality in raws.keys() - found.keys():
        try:
            found[modality] = clip(modality, raws[modality], sampling)
        except Exception as error:
            found[modality] = error
    return found


def versions(modality: Modality, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str | int]:
    """The facts of decoding that decide the numbers, for a view's identity."""
    if modality is Modality.TEXT:
        return {"encoding": "utf-8-sig, else cp1252"}
    if modality is Modality.AUDIO:
        return {"rate": RATE, "mono": "mean", "resample": "soxr-HQ", "soxr": soxr.__version__}
    if modality is Modality.FACE:
        return {"frames": "on the screen at n / fps", "scale": "area", "av": av.__version__} if "fps" in options else {}
    return {"mode": "RGB", "orientation": "exif", "alpha": "over white", "pillow": PIL.__version__}


# text


def read_text(raw: Raw) -> tuple[str, str]:
    """The stripped text and the encoding it was read in: UTF-8, or else Windows' Latin letters, which fit anything."""
    if raw.text is not None:
        text, encoding = _whole_characters(raw.text), "str"
    else:
        text, encoding = _decode(existing(raw).read_bytes())
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


def _whole_characters(text: str) -> str:
    """Join surrogate pairs and replace lone ones, which JSON lets through and no tokeniser takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# pictures


def read_image(raw: Raw) -> np.ndarray:
    """An upright picture, uint8 (H, W, 3) RGB; the first frame of a moving one."""
    path = existing(raw)
    # Remarks about odd metadata are no news and must not depend on the thread that meets them first
    warnings.filterwarnings("ignore", module=r"PIL\.")
    kind = "picture"
    try:
        with Image.open(path) as image:
            kind = image.format or kind
            image.load()  # before anything else, so that a truncated file is named as such
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except PIL.UnidentifiedImageError:
        raise MediaError("not a picture") from None
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"too large: {error}") from None
    except Exception as error:  # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error
        state = "truncated" if "truncated" in str(error).lower() else "broken"
        raise MediaError(f"{state} {kind}: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Three 8-bit channels, transparent parts over white: as the picture is seen, not as its file hides it."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I;16"):  # convert() would clip 16 bits to 8, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):  # convert() would clip these, too, and nobody knows what is white in them
        raise MediaError(f"32 bits a pixel (mode {image.mode}): the range of their values is not known")
    return image.convert("RGB")


# sound


def read_audio(raw: Raw) -> np.ndarray:
    """A recording or the part of it from `start` to `end`, float32 (samples,) at 16 kHz mono.

    A recording that breaks off is used as far as it goes: streamed files misstate their length, so nobody could tell.
    Where the sound begins later than the file, or has gaps, there are no samples (see `container.Sound`): a recording
    read from its beginning starts with the first sample there is.
    """
    path = _spanned(raw)
    try:
        return _at_16k(raw, *_soundfile(path, raw.start, raw.end))
    except soundfile.LibsndfileError:
        sound = Sound(raw.start, raw.end)
        container.read(path, raw.start, [sound])
        return _at_16k(raw, sound.wave(), sound.rate)


def _at_16k(raw: Raw, wave: np.ndarray, rate: int) -> np.ndarray:
    if wave.size and not np.isfinite(wave).all():
        raise MediaError("samples are not finite")
    wave = soxr.resample(wave, rate, RATE, quality="HQ") if wave.size and rate != RATE else wave
    if not wave.size:
        span = f": nothing in {raw.start}-{raw.end or 'end'} s" if raw.start or raw.end else ""
        raise MediaError(f"zero-length audio{span}")
    return np.ascontiguousarray(wave, dtype=np.float32)


def _spanned(raw: Raw) -> Path:
    """The path of a file whose span, if one is given, is not empty. Raises MediaError."""
    if not _is_span(raw):
        raise MediaError(f"span {raw.start}-{raw.end} s is empty")
    return existing(raw)


def _is_span(raw: Raw) -> bool:
    """Does it begin somewhere and end after that? A table may say `nan` of both."""
    return 0 <= raw.start < math.inf and (raw.end is None or raw.start < raw.end < math.inf)


def _soundfile(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    """(samples,) float32 and their rate, for what libsndfile reads: wav, flac, ogg, mp3."""
    with soundfile.SoundFile(path) as file:
        first = min(round(start * file.samplerate), file.frames)
        last = file.frames if end is None else min(round(end * file.samplerate), file.frames)
        file.seek(first)
        return file.read(last - first, dtype="float32", always_2d=True).mean(axis=1), file.samplerate


def seconds(raw: Raw) -> float:
    """How long a recording or its span is, by its header alone; 0.0 where that cannot be told."""
    if not _is_span(raw):
        return 0.0
    if raw.end is not None:
        return raw.end - raw.start
    try:
        return max(soundfile.info(str(existing(raw))).duration - raw.start, 0.0)
    except (MediaError, soundfile.LibsndfileError):
        return max(container.duration(raw.path) - raw.start, 0.0) if raw.path else 0.0


# faces


def is_table(raw: Raw) -> bool:
    """Are these faces somebody has measured already: a .csv instead of a video?"""
    return raw.path is not None and raw.path.suffix.lower() == ".csv"


def read_frames(raw: Raw, sampling: Sampling) -> Frames:
    """Frames of a video, or the one frame of a picture."""
    pictures = Pictures(raw.start, raw.end, sampling)
    container.read(_spanned(raw), raw.start, [pictures])
    return pictures.frames()


def _sound_and_frames(raw: Raw, sampling: Sampling) -> dict[Modality, Clip | Exception]:
    sound, pictures = Sound(raw.start, raw.end), Pictures(raw.start, raw.end, sampling)
    found: dict[Modality, Clip | Exception] = {}
    wanted: dict[Modality, Callable[[], Clip]] = {
        Modality.AUDIO: lambda: _at_16k(raw, sound.wave(), sound.rate),
        Modality.FACE: pictures.frames,
    }
    try:
        container.read(_spanned(raw), raw.start, [sound, pictures])
    except MediaError as error:
        return dict.fromkeys(wanted, error)
    for modality, take in wanted.items():
        try:
            found[modality] = take()
        except MediaError as error:
            found[modality] = error
    return found


def read_columns(raw: Raw) -> Columns:
    """A .csv of numbers under a header; blanks around names and numbers are OpenFace's."""
    lines = existing(raw).read_bytes().decode("utf-8-sig", errors="replace").splitlines()
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
    """The path of a file that is there and not empty. Raises MediaError."""
    if raw.path is None:
        raise MediaError("no file is named")
    if not raw.path.is_file():
        raise MediaError("missing file")
    if not raw.path.stat().st_size:
        raise MediaError("empty file")
    return raw.path
