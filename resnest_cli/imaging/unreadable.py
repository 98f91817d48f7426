"""What to say of files that no reader takes for an image, or gives right."""

from __future__ import annotations

import re
import struct
from typing import IO

from PIL import Image

from resnest_cli.errors import ImageError, ResNeStError, require_extra
from resnest_cli.file_kinds import file_kind
from resnest_cli.imaging.image_formats import RARE, USUAL
from resnest_cli.text import one_line

_HEAD = 2**16  # bytes that are looked at
_MOST_IN_AVIF, _LONGEST_IN_AVIF = 2**28, 2**15  # pixels, of an image and of a side: libavif's
_LONGEST_MAGIC = 16  # bytes


def avif_size(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height that an AVIF's header claims; None if it is not one."""
    file.seek(0)
    head = file.read(_HEAD)
    if head[4:12] not in (b"ftypavif", b"ftypavis"):
        return None
    found = re.search(rb"ispe\0{4}(.{8})", head, re.DOTALL)
    return struct.unpack(">II", found[1]) if found else None


def unsupported(kind: object) -> ImageError:
    """The error for an image of a known kind that no reader gives right."""
    return ImageError(f"{kind}: a kind that cannot be read; convert it to RGB or grey")


def require_readers(kind: object, *packages: str) -> None:
    """Raise `ImageError` unless the packages that read a kind of image are installed."""
    try:
        require_extra("formats", *packages)
    except ResNeStError as error:
        raise ImageError(f"{kind}: {': '.join(str(error).splitlines())}") from error


def describe(file: IO[bytes]) -> str:
    """Why a file that Pillow has refused is refused, in one line."""
    file.seek(0)
    head = file.read(_HEAD)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC images are not supported; convert it to JPEG first"
    if kind := file_kind(head):
        what, remedy = kind
        return f"{what}, not an image in any supported format{remedy and '; '}{remedy}"
    bits = int.from_bytes(head[22:24], "big")
    if head[:4] == b"8BPS" and bits not in (1, 8):
        return f"a Photoshop document of {bits} bits a sample cannot be read; save it with 8"
    size = avif_size(file)
    if size and (size[0] * size[1] > _MOST_IN_AVIF or max(size) > _LONGEST_IN_AVIF):
        return f"AVIF: {size[0]:,} x {size[1]:,} pixels are more than its decoder takes"
    return _reason(head, file) or "not an image in any supported format"


def _reason(head: bytes, file: IO[bytes]) -> str | None:
    """What the reader of the format that a file begins like says, which Pillow keeps to itself."""
    for name in (*USUAL, *RARE):
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts is None or len(head) < _LONGEST_MAGIC:
            continue
        accepted = accepts(head[:_LONGEST_MAGIC])
        if accepted is True:
            file.seek(0)
            try:
                factory(file, "")
            except Exception as error:  # a reader raises anything at all on damaged files
                accepted = str(error) or type(error).__name__
        if isinstance(accepted, str):
            return one_line(f"damaged image, or a kind of {name} that cannot be read: {accepted}")
    return None
