"""A file's or a URL's bytes to an upright RGB picture, whatever they hold."""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resnest_cli.decoding import USUAL, Decoding
from resnest_cli.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_USUAL = ("JPEG", "PNG", "GIF", "BMP", "PPM")  # that Pillow has at hand
# further ones that are only data; others have Ghostscript or Windows run what is in the file, or
# open whatever they find in an envelope
_RARE = (
    "MPO", "WEBP", "TIFF", "AVIF", "JPEG2000", "DIB", "TGA", "ICO", "PCX", "SGI", "PSD", "QOI",
    "HEIF",
)  # fmt: skip
_MOST_IN_ICON = 256  # pictures
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode(content: Path | bytes, decoding: Decoding = USUAL) -> Image.Image:
    """The first frame of a stored picture in mode RGB.

    Raises:
        ImageError: it cannot be read, with the reason in one line.
    """
    with image_errors():
        if (content.stat().st_size if isinstance(content, Path) else len(content)) == 0:
            raise ImageError("the file is empty")
        with _opened(content, decoding.max_pixels) as image:
            _check_pixels(image.size, decoding.max_pixels)
            if decoding.shrink_to and image.format in ("JPEG", "MPO"):
                _shrink(image, 2 * decoding.shrink_to)
            return to_rgb(image, decoding)


def _opened(content: Path | bytes, most: int) -> Image.Image:
    """A picture of any format that is only data; an icon only of up to so many pixels."""
    file = content if isinstance(content, Path) else io.BytesIO(content)
    try:
        return Image.open(file, formats=_USUAL)
    except UnidentifiedImageError:
        Image.init()  # loads every reader, which takes a while
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as start:
        _check_icon(start, most)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        return Image.open(file, formats=[name for name in _RARE if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ImageError(_unidentified(content)) from error


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever goes wrong with one picture into `ImageError`, in one line."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels (--max-pixels): {error}") from error
    except MemoryError as error:
        raise ImageError("not enough memory for it") from error
    except OSError as error:
        raise ImageError(_one_line(error.strerror or f"damaged picture: {error}")) from error
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        raise ImageError(_one_line(f"damaged picture: {error or type(error).__name__}")) from error


def to_rgb(image: Image.Image, decoding: Decoding = USUAL) -> Image.Image:
    """A picture of any mode in mode RGB, upright, 8 bits a channel."""
    if 0 in image.size:
        raise ImageError("the picture has no pixels")
    image.load()
    if decoding.exif:
        image = _upright(image)
    if image.mode in _WIDE_MODES:
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data and image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.mode == "RGBA" and decoding.background is not None:
        canvas = Image.new("RGBA", image.size, (*decoding.background, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")


def from_array(array: NDArray[Any]) -> Image.Image:
    """An RGB picture of an array, uint8, (height, width, 3).

    Raises:
        ImageError: the array has another shape or type.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"an array must be uint8 of (height, width, 3), not {array.dtype} of {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def allow_pixels(count: int) -> None:
    """Raise Pillow's own limit, where it is lower; it holds for the whole process."""
    if Image.MAX_IMAGE_PIXELS is not None and count > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = count // 2 + 1  # it refuses what is twice that


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise ImageError(
            f"too many pixels: {width:,} x {height:,} are more than {most:,} (--max-pixels)"
        )


def _check_icon(file: IO[bytes], most: int) -> None:
    """Look at the true sizes of an icon's pictures, which Pillow decodes when it opens one.

    Each is a PNG or a BMP, whatever the icon says of it.
    """
    from PIL import BmpImagePlugin, PngImagePlugin

    if file.read(4) != b"\0\0\1\0":
        return
    count = int.from_bytes(file.read(2), "little")
    if count > _MOST_IN_ICON:
        raise ImageError(f"damaged picture: an icon of {count:,} pictures")
    entries = file.read(16 * count)
    # each once: many entries for one large PNG would have it read through as often
    for (start,) in set(struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16])):
        file.seek(start)
        png = file.read(8) == b"\x89PNG\r\n\x1a\n"
        file.seek(start)
        try:
            read = PngImagePlugin.PngImageFile if png else BmpImagePlugin.DibImageFile
            width, height = read(file).size
        except Exception as error:  # Pillow will meet it again, if it looks at this one at all
            log.info("a picture in an icon could not be read: %s", error)
            continue
        _check_pixels((width, height if png else height // 2), most)  # half is for a mask


def _shrink(image: Image.Image, short: int) -> None:
    """Have the decoder leave out detail, but keep at least so many pixels of the short side."""
    scale = short / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF must not cost the picture
        log.info("EXIF orientation could not be read: %s", error)
        return image


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of 16 or 32 bits or of floats to 8 bits; Pillow's own conversion would clip to white.

    Integers up to 65,535 count as 16 bits wide. Floats count as 0 to 1, as 0 to 255 or as 0 to
    65,535, whichever is the least that holds them. What fits none of these is stretched from its
    least to its greatest value. Infinities and what is not a number become the least value.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("none of its pixels is a finite number")
    low, high = float(values[finite].min()), float(values[finite].max())
    values = np.where(finite, values, low)
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((scale for scale in scales if high <= scale), None) if low >= 0 else None
    if full is None:
        values, full = values - low, max(high - low, 1.0)
    log.info("grey of mode %s brought from 0..%g to 8 bits", image.mode, full)
    return np.rint(values * (255.0 / full)).astype(np.uint8)


def _unidentified(content: Path | bytes) -> str:
    head = content[:64] if isinstance(content, bytes) else _first_bytes(content)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC pictures cannot be read; convert it to JPEG first"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "not a picture but a web page"
    return "not a picture in any format that can be read"


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _one_line(text: str) -> str:
    return " ".join(text.split())
