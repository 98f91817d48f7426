"""Images from strangers, built here: what each holds, and what should be said of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.conftest import drawn

OK = None  # it is answered; anything else is what the error must say
MAYBE = ""  # answered or refused: damaged so that decoders may differ
Kind = tuple[bytes, str | None]

RGB = drawn(160, 120)
_PHOTO = drawn(400, 300, seed=1)


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def kinds() -> dict[str, Kind]:
    """File names, with content and the outcome."""
    return dict([*_cut(), *_bombs(), *_shapes(), *_modes(), *_exif(), *_frames(), *_liars()])


def _cut() -> Iterator[tuple[str, Kind]]:
    jpeg, png = stored(_PHOTO, "JPEG"), stored(_PHOTO, "PNG")
    for tenth in range(1, 10):
        yield (
            f"cut{tenth}.jpg",
            (jpeg[: len(jpeg) * tenth // 10], "truncated|damaged|not an image"),
        )
        yield f"cut{tenth}.png", (png[: len(png) * tenth // 10], "truncated|damaged")
    yield "noise-within.jpg", (jpeg[:2000] + bytes(range(256)) * 4 + jpeg[3024:], MAYBE)
    yield "checksum.png", (png[:60] + bytes([png[60] ^ 1]) + png[61:], MAYBE)


def _chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _png(width: int, height: int, bits: int, rows: bytes, *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    parts = (b"\x89PNG\r\n\x1a\n", head, *more, _chunk(b"IDAT", rows), _chunk(b"IEND", b""))
    return b"".join(parts)


def _bombs() -> Iterator[tuple[str, Kind]]:
    black = zlib.compress(bytes(20_000 * (20_000 // 8 + 1)), 9)
    yield "bomb-pixels.png", (_png(20_000, 20_000, 1, black), "too many pixels")
    yield "bomb-lock.png", (_png(2**31 - 1, 2**31 - 1, 8, b""), "too many pixels|damaged")
    text = zlib.compress(bytes(2**28), 9)
    yield (
        "bomb-text.png",
        (
            _png(8, 8, 8, zlib.compress(bytes(72)), _chunk(b"zTXt", b"a\0\0" + text)),
            "damaged",
        ),
    )
    yield "bomb-rows.png", (_png(8, 8, 8, zlib.compress(bytes(2**26), 9)), MAYBE)
    gif = bytearray(stored(RGB.convert("P"), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"  # the screen, not the frame
    yield "bomb-screen.gif", (bytes(gif), "too many pixels")
    bmp = bytearray(stored(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield "bomb-lock.bmp", (bytes(bmp), "too many pixels")
    tiff = io.BytesIO()
    Image.new("1", (60_000, 4_000)).save(tiff, "TIFF", compression="group4")
    yield "bomb-fax.tif", (tiff.getvalue(), "too many pixels")


def _shapes() -> Iterator[tuple[str, Kind]]:
    for width, height in ((2, 60_000), (60_000, 2), (1, 1), (1, 5000), (5000, 1), (3, 4)):
        yield f"strip-{width}x{height}.png", (stored(drawn(width, height), "PNG"), OK)
    yield "no-height.png", (_png(8, 0, 8, zlib.compress(b"")), "damaged|not an image|no pixels")


def _modes() -> Iterator[tuple[str, Kind]]:
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield f"mode-{mode}.png", (stored(RGB.convert(mode), "PNG"), OK)
    for mode in ("L", "CMYK", "RGB"):
        yield f"mode-{mode}.jpg", (stored(RGB.convert(mode), "JPEG"), OK)
    for mode in ("CMYK", "LAB", "YCbCr", "1", "L", "RGBA"):
        yield f"mode-{mode}.tif", (stored(RGB.convert(mode), "TIFF"), OK)
    cmyk = stored(RGB.convert("CMYK"), "JPEG")
    at = cmyk.index(b"\xff\xee")
    length = struct.unpack(">H", cmyk[at + 2 : at + 4])[0]
    yield "cmyk-without-adobe.jpg", (cmyk[:at] + cmyk[at + 2 + length :], OK)
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        image = Image.fromarray(ramp.astype(np.uint16))
        yield f"16-bits.{kind.lower()}", (stored(image, kind), OK)
    yield "32-bits.tif", (stored(Image.fromarray(ramp.astype(np.int32)), "TIFF"), OK)
    yield "floats.tif", (stored(Image.fromarray(ramp.astype(np.float32)), "TIFF"), OK)
    nothing = np.full((8, 8), np.nan, np.float32)
    yield "no-number.tif", (stored(Image.fromarray(nothing), "TIFF"), "finite")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "profile.jpg", (stored(RGB, "JPEG", icc_profile=profile), OK)
    yield "profile-garbage.jpg", (stored(RGB, "JPEG", icc_profile=b"garbage" * 99), OK)
    yield "profile-cmyk.jpg", (stored(RGB.convert("CMYK"), "JPEG", icc_profile=profile), OK)


def _exif() -> Iterator[tuple[str, Kind]]:
    for value in (0, 6, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        yield f"exif-{value}.jpg", (stored(RGB, "JPEG", exif=exif), OK)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    yield "exif-cut.jpg", (stored(RGB, "JPEG", exif=content[:-9]), OK)
    yield "exif-garbage.jpg", (stored(RGB, "JPEG", exif=b"Exif\0\0garbage"), OK)
    loop = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    yield "exif-loop.jpg", (stored(RGB, "JPEG", exif=loop), OK)
    many = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0" * 9
    yield "exif-many.jpg", (stored(RGB, "JPEG", exif=many), OK)


def _frames() -> Iterator[tuple[str, Kind]]:
    frames = [drawn(60, 50, seed=seed) for seed in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = stored(frames[0], kind, save_all=True, append_images=frames[1:])
        yield f"frames.{kind.lower()}", (content, OK)
    yield "progressive.jpg", (stored(RGB, "JPEG", progressive=True), OK)
    # Pillow writes none: the marker alone says arithmetic coding
    yield "arithmetic.jpg", (stored(RGB, "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1), MAYBE)
    yield "lossless-jpeg.jpg", (stored(RGB, "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1), MAYBE)
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "\x1b[31m\n" * 9)
    yield "text.png", (stored(RGB, "PNG", pnginfo=note), OK)


def _liars() -> Iterator[tuple[str, Kind]]:
    yield "png-inside.jpg", (stored(RGB, "PNG"), OK)
    yield "jpeg-inside.webp", (stored(RGB, "JPEG"), OK)
    yield "empty.jpg", (b"", "empty")
    yield "one-byte.jpg", (b"\xff", "not an image")
    yield "text.jpg", (b"this is no image\n", "not an image")
    yield "page.jpg", (b"<!DOCTYPE html><html></html>", "web page")
    yield "drawing.jpg", (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image")
    yield "paper.png", (b"%PDF-1.7\n%%EOF", "not an image")
    yield "archive.jpg", (b"PK\x05\x06" + bytes(18), "not an image")
    yield "phone.heic", (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"
    yield "program.jpg", (program, "not an image")
    envelope = b"".join(
        bytes([0x1C, record, number]) + struct.pack(">H", len(value)) + value
        for record, number, value in (
            (3, 20, b"\0\0\0\x09"), (3, 30, b"\0\0\0\x09"), (3, 60, b"\1\1"), (3, 65, b"\0"),
            (3, 120, b"\0\1"), (8, 10, program),
        )
    )  # fmt: skip
    yield "program-in-envelope.jpg", (envelope, "not an image")


def write_all(folder: Path) -> dict[str, str | None]:
    """Write every kind to a folder; gives the outcomes by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = kinds()
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    return {name: outcome for name, (_, outcome) in made.items()}
