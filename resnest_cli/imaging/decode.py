"""Stored bytes of any image format to an upright RGB image."""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resnest_cli.errors import MAY_PASS, ImageError
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.imaging.depth import Depth, check_range, to_8_bits
from resnest_cli.imaging.image_formats import RARE, USUAL
from resnest_cli.text import one_line, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.imaging.tiff import TiffKind

log = logging.getLogger(__name__)

_MOST_IN_ICON = 256  # images
_WIDE_MODES = {
    "F": Depth.of("f", 32), "I": Depth.of("i", 32),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), Depth.of("u", 16)),
}  # fmt: skip


def decode(
    content: Path | bytes, options: DecodeOptions = DEFAULT, *, name: str = "an image"
) -> Image.Image:
    """The first frame of a stored image in mode RGB; `ImageError` if it cannot be read.

    `name` is what messages call it if it is not a file.
    """
    name = str(content) if isinstance(content, Path) else name
    with image_errors():
        if (content.stat().st_size if isinstance(content, Path) else len(content)) == 0:
            raise ImageError("the file is empty")
        # Pillow's own limit, which holds for the whole process, is raised; it refuses twice as many
        if Image.MAX_IMAGE_PIXELS is not None and options.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = options.max_pixels // 2 + 1
        with _opened(content, options, name) as image:
            _check_pixels(image.size, options.max_pixels)
            if image.format == "SUN" and _first_tile(image)[1] in ("BGRX", "RGBX"):
                raise ImageError("Sun raster of 32 bits a pixel, a kind that cannot be read")
            if options.draft_size and image.format in ("JPEG", "MPO"):
                _shrink(image, 2 * options.draft_size)
            if image.format == "JPEG2000":
                return to_rgb(_deep_jpeg2000(image, content, options, name), options, name=name)
            if options.stretch and image.format == "PNG":
                return to_rgb(_stretched(image, content, options, name), options, name=name)
            try:
                return to_rgb(image, options, name=name)
            except OSError:
                whole = _without_end(content, options) if image.format == "JPEG" else None
                if whole is None:
                    raise
                log.info("'%s' lacks its end marker, and no pixel", printable(name))
                return whole


def _deep_jpeg2000(
    image: Image.Image, content: Path | bytes, options: DecodeOptions, name: str
) -> Image.Image:
    """A JPEG 2000 as Pillow has opened it, or decoded where Pillow would do that wrong."""
    from resnest_cli.imaging import jpeg2000

    data = content if isinstance(content, bytes) else content.read_bytes()
    kind = jpeg2000.read_kind(data)
    _check_pixels((kind.width, kind.height), options.max_pixels)
    deep_colour = kind.components > 1 and kind.bits > 8
    if kind.right_in_pillow and not (options.stretch and deep_colour):
        return image
    return jpeg2000.read(data, kind, options, name)


def _raw_mode(image: Image.Image) -> str:
    """How the samples of a PNG that is not decoded yet are stored; empty for other images."""
    return _first_tile(image)[1] if image.format == "PNG" else ""


def _stretched(
    image: Image.Image, content: Path | bytes, options: DecodeOptions, name: str
) -> Image.Image:
    """A PNG's colours of 16 bits, scaled to 8; other PNGs are left as they are.

    Pillow keeps the high bytes only; told that the bytes are swapped, the low ones.
    """
    if (raw := _raw_mode(image)) not in ("RGB;16B", "RGBA;16B"):
        return image
    file = content if isinstance(content, Path) else io.BytesIO(content)
    with Image.open(file, formats=("PNG",)) as low:
        low.tile = [(*low.tile[0][:3], raw.replace("16B", "16L"))]
        pixels = np.array(image)
        colours = pixels[..., :3].astype(np.uint16) << 8 | np.asarray(low)[..., :3]
    pixels[..., :3] = to_8_bits(colours, Depth.of("u", 16), options, name)
    scaled = Image.fromarray(pixels)
    scaled.info = image.info  # with the orientation
    return scaled


def _without_end(content: Path | bytes, options: DecodeOptions) -> Image.Image | None:
    """A truncated JPEG that lacks nothing but its end marker; None if pixels are missing."""
    from resnest_cli.imaging import jpeg

    data = content if isinstance(content, bytes) else content.read_bytes()
    found = []
    for ended in jpeg.ended(data):
        with suppress(OSError), Image.open(io.BytesIO(ended), formats=("JPEG",)) as image:
            if options.draft_size:
                _shrink(image, 2 * options.draft_size)
            found.append(to_rgb(image, options))
    alike = len(found) == 3 and len({image.tobytes() for image in found}) == 1
    return found[0] if alike else None


def _opened(content: Path | bytes, options: DecodeOptions, name: str) -> Image.Image:
    """An image of any format that is only data; an icon with at most `max_pixels` pixels."""
    file = content if isinstance(content, Path) else io.BytesIO(content)
    try:
        return Image.open(file, formats=USUAL)
    except UnidentifiedImageError:
        Image.init()  # loads every reader, which is slow
    from resnest_cli.imaging import tiff, unreadable

    with _stream(content) as start:
        kind = tiff.read_kind(start)
        if kind is not None:
            _check_pixels((kind.width, kind.height), options.max_pixels)
            tiff.check_layout(kind, options.max_pixels)
            deep_colour = kind.samples > 1 and kind.bits > 8  # which Pillow gives in 8 bits
            if not kind.right_in_pillow or (options.stretch and deep_colour):
                return tiff.read(start, kind, options, name)
        _check_icon(start, options.max_pixels)
        try:
            return Image.open(file, formats=[known for known in RARE if known in Image.OPEN])
        except UnidentifiedImageError as error:
            if kind is not None:
                return tiff.read(start, kind, options, name)
            if size := unreadable.avif_size(start):  # refused for its size before its pixels
                _check_pixels(size, options.max_pixels)
            raise ImageError(unreadable.describe(start)) from error


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
        raise ImageError("not enough memory to decode it", may_pass=True) from error
    except OSError as error:
        text = one_line(error.strerror or f"damaged image: {error}")
        raise ImageError(text, may_pass=error.errno in MAY_PASS) from error
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        raise ImageError(one_line(f"damaged image: {error or type(error).__name__}")) from error


def to_rgb(
    image: Image.Image, options: DecodeOptions = DEFAULT, *, name: str = "an image"
) -> Image.Image:
    """An image of any mode in mode RGB, upright, 8 bits a channel; `name` is for messages."""
    if 0 in image.size:
        raise ImageError("the image has no pixels")
    kind = _tiff_kind(image)
    if kind is not None and not kind.right_in_pillow:
        raise ImageError(f"{kind}: Pillow reads this kind wrong; give the file instead")
    deep = kind.bits > 8 if kind is not None else _is_deep(image)
    raw = _raw_mode(image)
    ink = image.format == "PSD" and image.mode == "1"  # what its bits are
    if kind is None:
        image.load()
    else:
        kind.load(image, name)
    if options.exif:
        image = _upright(image)
    elif kind is not None:
        image = kind.as_stored(image)
    if options.background is not None and raw and "transparency" in image.info:
        _scale_transparency(image, raw)
    if image.mode in _WIDE_MODES:
        depth = _WIDE_MODES[image.mode] if kind is None else kind.depth
        grey = to_8_bits(np.asarray(image), depth, options, name)
        return Image.fromarray(grey).convert("RGB")
    if deep and not options.stretch:
        check_range(image, options, name)
    if ink:
        image = ImageOps.invert(image.convert("L"))
    return _opaque(image, options).convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has more than 8 bits a colour, no TIFF."""
    if image.format == "PNG":
        return _raw_mode(image).endswith(";16B")
    tiles: Any = getattr(image, "tile", ())
    many = image.format == "PPM" and tiles and isinstance(tiles[0][3], tuple)
    return _first_tile(image)[0] == "SGI16" or bool(many and tiles[0][3][-1] > 255)


def _first_tile(image: Image.Image) -> tuple[str, str]:
    """The codec, and how the samples are stored, of an image that is not decoded yet."""
    tiles: Any = getattr(image, "tile", ())
    if not tiles:
        return "", ""
    arguments = tiles[0][3]
    return str(tiles[0][0]), str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _scale_transparency(image: Image.Image, raw: str) -> None:
    """Bring a PNG's transparent grey to the 8 bits that Pillow gives the others."""
    if "16" in raw:
        raise ImageError("PNG of 16 bits with a transparent colour: it cannot be painted over")
    bits = {"L;2": 2, "L;4": 4}.get(raw)
    if bits and isinstance(image.info["transparency"], int):
        image.info["transparency"] *= 255 // (2**bits - 1)


def _tiff_kind(image: Image.Image) -> TiffKind | None:
    """The kind of a TIFF that Pillow has opened; None for other images."""
    if image.format != "TIFF":  # the module is slow to import
        return None
    from resnest_cli.imaging import tiff

    return tiff.kind_of(image)


def _opaque(image: Image.Image, options: DecodeOptions) -> Image.Image:
    """An image of 8 bits, a background painted where it is transparent if that is asked for."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.has_transparency_data and image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.mode == "RGBA" and options.background is not None:
        canvas = Image.new("RGBA", image.size, (*options.background, 255))
        image = Image.alpha_composite(canvas, image)
    return image


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

    for start in _in_icon(file):
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


def _in_icon(file: IO[bytes]) -> Iterator[int]:
    """Where the images in an icon of Windows or macOS start; nothing if a file is neither."""
    file.seek(0)
    head = file.read(8)
    if head.startswith(b"icns"):
        at = 8
        for _ in range(_MOST_IN_ICON):
            file.seek(at)
            size = int.from_bytes(file.read(8)[4:], "big")
            if size < 8:
                return
            yield at + 8
            at += size
    elif head.startswith(b"\0\0\1\0"):
        count = int.from_bytes(head[4:6], "little")
        if count > _MOST_IN_ICON:
            raise ImageError(f"damaged image: an icon with {count:,} images")
        file.seek(6)
        entries = file.read(16 * count)
        # each once: many entries may point at one large PNG
        for (start,) in set(struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16])):
            yield start


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


def _stream(content: Path | bytes) -> IO[bytes]:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
