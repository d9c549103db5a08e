"""Raw bytes -> clip: text, RGB picture, 16 kHz mono sound. The only file that decodes media.

What cannot be decoded raises MediaError with a short reason: it becomes the record of one sample, never the end of
a run. Silence, a one-pixel picture and a single emoji are valid; an empty file is not.
"""

import codecs
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import PIL
import soundfile
import soxr
from PIL import Image, ImageOps

from msa.types import Modality, Raw

RATE = 16_000  # Hz; what wav2vec 2.0 and its relatives were trained on
LEAD_S = 0.5  # decoded and thrown away before a span of a compressed stream, whose frames need their predecessors


class MediaError(Exception):
    """One piece of raw material cannot be decoded; the message is short, because such messages are counted."""


def clip(modality: Modality, raw: Raw) -> str | np.ndarray:
    """Decode one modality of one sample.

    Text becomes a stripped str, an image uint8 (H, W, 3) RGB, audio float32 (samples,) at 16 kHz mono.
    """
    decode: dict[Modality, Callable[[Raw], str | np.ndarray]] = {
        Modality.TEXT: lambda raw: read_text(raw)[0],
        Modality.IMAGE: read_image,
        Modality.AUDIO: read_audio,
    }
    if modality not in decode:
        raise ValueError(f"nothing decodes {modality} here: it has {', '.join(decode)}")
    return decode[modality](raw)


def versions(modality: Modality) -> dict[str, str | int]:
    """The facts of decoding that decide the numbers, for a view's identity."""
    if modality is Modality.TEXT:
        return {"encoding": "utf-8-sig, else cp1252"}
    if modality is Modality.AUDIO:
        return {"rate": RATE, "mono": "mean", "resample": "soxr-HQ", "soxr": soxr.__version__}
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
    return image.convert("RGB")


# sound


def read_audio(raw: Raw) -> np.ndarray:
    """A recording or the part of it from `start` to `end`, float32 (samples,) at 16 kHz mono.

    A recording that breaks off is used as far as it goes: streamed files misstate their length, so nobody could tell.
    """
    path = existing(raw)
    if raw.start < 0 or (raw.end is not None and raw.end <= raw.start):
        raise MediaError(f"span {raw.start}-{raw.end} s is empty")
    try:
        wave, rate = _soundfile(path, raw.start, raw.end)
    except soundfile.LibsndfileError:
        wave, rate = _container(path, raw.start, raw.end)
    if wave.size and not np.isfinite(wave).all():
        raise MediaError("samples are not finite")
    wave = soxr.resample(wave, rate, RATE, quality="HQ") if wave.size and rate != RATE else wave
    if not wave.size:
        span = f": nothing in {raw.start}-{raw.end or 'end'} s" if raw.start or raw.end else ""
        raise MediaError(f"zero-length audio{span}")
    return np.ascontiguousarray(wave, dtype=np.float32)


def _soundfile(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    """(samples,) float32 and their rate, for what libsndfile reads: wav, flac, ogg, mp3."""
    with soundfile.SoundFile(path) as file:
        first = min(round(start * file.samplerate), file.frames)
        last = file.frames if end is None else min(round(end * file.samplerate), file.frames)
        file.seek(first)
        return file.read(last - first, dtype="float32", always_2d=True).mean(axis=1), file.samplerate


def _container(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    """(samples,) float32 and their rate, from the first sound track of whatever FFmpeg opens: mp4, m4a, mkv."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise MediaError("no sound track")
            return _track(container, start, end)
    except av.FFmpegError as error:
        raise MediaError(f"not audio: {error.strerror}") from None


def _track(container: "av.container.InputContainer", start: float, end: float | None) -> tuple[np.ndarray, int]:
    stream = container.streams.audio[0]
    origin = max(container.start_time or 0, 0) / 1e6  # s; a broadcast recording does not start at zero
    if start > LEAD_S:
        container.seek(int((start - LEAD_S + origin) / stream.time_base), stream=stream)
    planar = av.AudioResampler(format="fltp")  # the format alone: rate and channels stay as recorded
    parts: list[np.ndarray] = []  # each (channels, samples)
    begun, rate = 0.0, stream.rate
    for frame in container.decode(stream):
        at = (frame.time or 0.0) - origin  # s
        if end is not None and at >= end:
            break
        if not parts:
            begun = at
        parts += [part.to_ndarray() for part in planar.resample(frame)]
    if not parts:
        return np.zeros(0, np.float32), rate
    wave = np.concatenate(parts, axis=1).mean(axis=0)
    first = max(round((start - begun) * rate), 0)
    return wave[first : None if end is None else max(round((end - begun) * rate), 0)], rate


def existing(raw: Raw) -> Path:
    """The path of a file that is there and not empty. Raises MediaError."""
    if raw.path is None:
        raise MediaError("no file is named")
    if not raw.path.is_file():
        raise MediaError("missing file")
    if not raw.path.stat().st_size:
        raise MediaError("empty file")
    return raw.path
