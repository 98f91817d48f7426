"""Stored bytes of any image format to an upright RGB image."""

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

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger(__name__)

_USUAL = ("JPEG", "PNG", "GIF", "BMP", "PPM")  # whose readers Pillow loads first
# further formats that are only data; others have Ghostscript or Windows execute what is in the
# file, or open whatever they find in a container
_RARE = (
    "MPO", "WEBP", "TIFF", "AVIF", "JPEG2000", "DIB", "TGA", "ICO", "PCX", "SGI", "PSD", "QOI",
    "HEIF",
)  # fmt: skip
_MOST_IN_ICON = 256  # images
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode(content: Path | bytes, options: DecodeOptions = DEFAULT) -> Image.Image:
    """The first frame of a stored image in mode RGB; `ImageError` if it cannot be read."""
    with image_errors():
        if (content.stat().st_size if isinstance(content, Path) else len(content)) == 0:
            raise ImageError("the file is empty")
        # Pillow's own limit, which holds for the whole process, is raised; it refuses twice as many
        if Image.MAX_IMAGE_PIXELS is not None and options.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = options.max_pixels // 2 + 1
        with _opened(content, options.max_pixels) as image:
            _check_pixels(image.size, options.max_pixels)
            if options.draft_size and image.format in ("JPEG", "MPO"):
                _shrink(image, 2 * options.draft_size)
            return to_rgb(image, options)


def _opened(content: Path | bytes, most: int) -> Image.Image:
    """An image of any format that is only data; an icon with at most `most` pixels."""
    file = content if isinstance(content, Path) else io.BytesIO(content)
    try:
        return Image.open(file, formats=_USUAL)
    except UnidentifiedImageError:
        Image.init()  # loads every reader, which is slow
    with _stream(content) as start:
        _check_icon(start, most)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        return Image.open(file, formats=[name for name in _RARE if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ImageError(_unidentified(content)) from error


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever goes wrong with one image into `ImageError`, in one line."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels (option max-pixels): {error}") from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except OSError as error:
        raise ImageError(one_line(error.strerror or f"damaged image: {error}")) from error
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        raise ImageError(one_line(f"damaged image: {error or type(error).__name__}")) from error


def to_rgb(image: Image.Image, options: DecodeOptions = DEFAULT) -> Image.Image:
    """An image of any mode in mode RGB, upright, 8 bits a channel."""
    if 0 in image.size:
        raise ImageError("the image has no pixels")
    image.load()
    if options.exif:
        image = _upright(image)
    if image.mode in _WIDE_MODES:
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data and image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.mode == "RGBA" and options.background is not None:
        canvas = Image.new("RGBA", image.size, (*options.background, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")


def from_array(array: NDArray[Any]) -> Image.Image:
    """An RGB image of an array, uint8, (height, width, 3) or, grey, (height, width[, 1]).

    Any other array is an `ImageError`.
    """
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (grey or array.shape[2:] == (3,)) or 0 in array.shape:
        raise ImageError(
            "an array must be uint8 of (height, width, 3) or, grey, (height, width), "
            f"not {array.dtype} of {array.shape}"
        )
    pixels = array.reshape(array.shape[:2]) if grey else array
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        shape = f"{width:,} x {height:,}"
        raise ImageError(f"too many pixels: {shape} are more than {most:,} (option max-pixels)")


def _check_icon(file: IO[bytes], most: int) -> None:
    """Check the true sizes of an icon's images, which Pillow decodes when it opens one.

    Each is a PNG or a BMP, whatever the icon's header claims.
    """
    from PIL import BmpImagePlugin, PngImagePlugin

    if file.read(4) != b"\0\0\1\0":
        return
    count = int.from_bytes(file.read(2), "little")
    if count > _MOST_IN_ICON:
        raise ImageError(f"damaged image: an icon with {count:,} images")
    entries = file.read(16 * count)
    # each once: many entries may point at one large PNG
    for (start,) in set(struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16])):
        file.seek(start)
        png = file.read(8) == b"\x89PNG\r\n\x1a\n"
        file.seek(start)
        try:
            read = PngImagePlugin.PngImageFile if png else BmpImagePlugin.DibImageFile
            width, height = read(file).size
        except Exception as error:  # Pillow meets it again if it reads this one at all
            log.info("an image in an icon could not be read: %s", error)
            continue
        _check_pixels((width, height if png else height // 2), most)  # half is a mask


def _shrink(image: Image.Image, short: int) -> None:
    """Decode at a lower resolution, with at least `short` pixels on the short side."""
    scale = short / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data must not fail the image
        log.info("unreadable EXIF orientation: %s", error)
        return image


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of 16 or 32 bits or floats to 8 bits; Pillow's own conversion would clip to white.

    Integers up to 65,535 are taken as 16 bits wide. Floats are taken as 0 to 1, 0 to 255 or 0 to
    65,535, the smallest range that holds them all. Other values are scaled from their minimum to
    their maximum. Infinities and NaN become the minimum.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("no pixel is a finite number")
    low, high = float(values[finite].min()), float(values[finite].max())
    values = np.where(finite, values, low)
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((scale for scale in scales if high <= scale), None) if low >= 0 else None
    if full is None:
        values, full = values - low, max(high - low, 1.0)
    log.info("grey of mode %s scaled from 0..%g to 8 bits", image.mode, full)
    return np.rint(values * (255.0 / full)).astype(np.uint8)


def _unidentified(content: Path | bytes) -> str:
    with _stream(content) as file:
        head = file.read(64)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC images are not supported; convert it to JPEG first"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image"
    return "not an image in any supported format"


def _stream(content: Path | bytes) -> IO[bytes]:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
