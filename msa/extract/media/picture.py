"""Pictures by Pillow, as three 8-bit channels.

Only formats that hold pixels are opened. Pillow knows thirty more; some run another program (PostScript) or draw
(WMF), and none of them is what datasets of photographs are made of.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageOps

from msa.extract.media.clips import Bounds, MediaError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")  # JPEG: also MPO
BLOCK = 1 << 20  # pixels that are converted at a time: beside a picture and what it becomes nothing large is held
WHITE_IS_ZERO = 0  # photometric interpretation of a TIFF
BITS, PHOTOMETRIC = 258, 262  # tags of a TIFF
ORIENTATION = 0x112  # tag of EXIF
Box = tuple[int, int, int, int]  # left, upper, right, lower


def read(file: BinaryIO, bounds: Bounds) -> np.ndarray:
    """Return an upright picture, uint8 (H, W, 3) RGB; the first frame of a moving one.

    Raises:
        MediaError: It is no picture of FORMATS, it is broken, or it has more pixels than `bounds` allow.
    """
    # Remarks about odd metadata are no news and must not depend on the thread that meets them first
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if bounds.pixels > max(Bounds().pixels, 2 * (Image.MAX_IMAGE_PIXELS or math.inf)):  # Pillow refuses twice as many
        Image.MAX_IMAGE_PIXELS = math.ceil(bounds.pixels / 2)
    kind = "picture"
    try:
        with Image.open(file, formats=_formats()) as image:
            kind = image.format or kind
            bounds.check_pixels(*image.size)
            bits = _bits(image, file)
            image.load()  # before anything else, so that a truncated file is named as such
            inverted = image.mode.startswith("I;16") and _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO
            ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image, bits, inverted)
    except PIL.UnidentifiedImageError:
        raise MediaError("not a picture of a format that msa reads") from None
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"too large: {error}") from None
    except Exception as error:  # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error
        state = "truncated" if "truncated" in str(error).lower() else "broken"
        raise MediaError(f"{state} {kind}: {error}") from None


def _formats() -> list[str]:
    """Return those of FORMATS that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def mirrored(file: BinaryIO) -> bool | None:
    """Return how EXIF says a picture is mirrored: True left to right once upright, False top to bottom; None: not."""
    try:
        with Image.open(file, formats=_formats()) as image:
            return {2: False, 4: False, 5: True, 7: True}.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as in `read`; a picture that Pillow does not open has no EXIF
        return None


def _tag(image: Any, number: int) -> Any:
    """Return a tag of a TIFF; None where there is none."""
    return image.tag_v2.get(number) if image.format == "TIFF" else None


def _bits(image: Any, file: BinaryIO) -> int:
    """Return how many bits a channel has in the file, which Pillow does not say of what it has scaled itself."""
    if image.format == "PNG":
        at = file.tell()
        file.seek(24)  # signature, then IHDR: length, name, width, height, bit depth
        depth = file.read(1)
        file.seek(at)
        return depth[0] if depth else 8
    depths = _tag(image, BITS)
    return int(depths[0]) if depths else 16 if image.mode.startswith("I;16") else 8


def _pixels(image: Any, bits: int, inverted: bool) -> np.ndarray:
    """Return (H, W, 3) uint8 of a loaded picture; `inverted` where its largest values are black."""
    if image.mode in ("I", "F"):  # convert() would clip these, and the value of white is not known
        raise MediaError(f"32 bits a pixel (mode {image.mode}): the range of their values is not known")
    key = image.info.get("transparency")  # of a PNG in the file's own numbers: before they became 8 bits
    if image.mode == "RGB" and bits == 16 and key is not None:
        raise MediaError("16 bits a channel and a transparent colour: Pillow has lost what tells them apart")
    if image.mode == "L" and bits < 8 and isinstance(key, int):
        image.info["transparency"] = key * (255 // (2**bits - 1))
    out = np.empty((image.height, image.width, 3), np.uint8)
    for box in _boxes(*image.size):
        left, upper, right, lower = box
        piece = image.crop(box)
        piece = _of_16_bits(piece, bits, inverted, key) if image.mode.startswith("I;16") else piece
        out[upper:lower, left:right] = np.asarray(_rgb(piece))
    return out


def _boxes(width: int, height: int) -> Iterator[Box]:
    """Yield boxes of at most BLOCK pixels that cover a picture."""
    across = min(width, BLOCK)
    down = max(1, BLOCK // across)
    for upper in range(0, height, down):
        for left in range(0, width, across):
            yield left, upper, min(left + across, width), min(upper + down, height)


def _of_16_bits(image: Image.Image, bits: int, inverted: bool, key: int | None) -> Image.Image:
    """Return grey of 9 to 16 bits scaled to 8, which convert() would clip; the value `key` is transparent."""
    values = np.asarray(image)
    grey = (values >> (bits - 8)).astype(np.uint8)
    picture = Image.fromarray(255 - grey if inverted else grey)
    if key is not None:
        picture.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return picture


def _rgb(image: Image.Image) -> Image.Image:
    """Return three 8-bit channels, with transparent parts over white, as the picture is seen."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
