"""JPEG 2000 of other depths than 8 bits, of which Pillow wraps white round to black."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.imaging.depth import Depth, alpha_to_8_bits, to_8_bits
from resnest_cli.imaging.unreadable import require_readers, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.imaging.decode_options import DecodeOptions

_START = b"\xff\x4f\xff\x51"  # a codestream's first two markers: SOC and SIZ
_SRGB, _GREY = 16, 17  # of the colour spaces that a header may number


@dataclass(frozen=True)
class Jpeg2000Kind:
    """What the header of a JPEG 2000 codestream says."""

    width: int
    height: int
    bits: int  # of each component; 0 if they differ, or differ in size
    signed: bool
    components: int

    def __str__(self) -> str:
        """A phrase for messages."""
        sign = "signed " if self.signed else ""
        return f"JPEG 2000 ({self.components} x {self.bits or 'mixed'} bits {sign}".rstrip() + ")"

    @property
    def right_in_pillow(self) -> bool:
        """Whether Pillow, if it opens such a file at all, gives what is in it."""
        # it takes 9 bits in a JP2 for 8
        return not self.signed and (self.bits == 8 or (self.components == 1 and self.bits > 9))


def read_kind(data: bytes) -> Jpeg2000Kind:
    """The kind of a JPEG 2000 file; `ImageError` if its header cannot be read."""
    at = _codestream(data)
    if data[at : at + 4] != _START or len(data) < at + 42:
        raise ImageError("damaged image: JPEG 2000 without a codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (count,) = struct.unpack_from(">H", data, at + 40)
    parts = {data[i : i + 3] for i in range(at + 42, at + 42 + 3 * count, 3)}
    depth = next(iter(parts)) if len(parts) == 1 else b"\0\0\0"
    alike = depth[1:] == b"\1\1"
    bits = (depth[0] & 127) + 1 if alike else 0
    return Jpeg2000Kind(right - left, bottom - top, bits, depth[0] > 127, count)


def _codestream(data: bytes) -> int:
    """Where the codestream begins: at the start of a file, or in one of a JP2's boxes."""
    at = 0
    while data[:4] != _START and at + 16 <= len(data):
        size, kind, long = struct.unpack_from(">I4sQ", data, at)
        if kind == b"jp2c":
            return at + (16 if size == 1 else 8)
        at += max(long if size == 1 else size, 8)
    return at


def read(data: bytes, kind: Jpeg2000Kind, options: DecodeOptions, name: str) -> Image.Image:
    """The image by way of imagecodecs, in 8 bits; `ImageError` if that cannot read it."""
    space = re.search(rb"colr\x01..(.{4})", data, re.DOTALL)
    if space is None:  # with four components it may be CMYK
        known = kind.components in (1, 2, 3)
    else:
        known = int.from_bytes(space[1], "big") in (_SRGB, _GREY) and kind.components <= 4
    palette = b"pclr" in data[: _codestream(data)]
    if not known or palette or not 0 < kind.bits <= 16:
        raise unsupported(kind)
    require_readers(kind, "imagecodecs")
    from imagecodecs import jpeg2k_decode

    values: NDArray[Any] = jpeg2k_decode(data)
    if values.shape[:2] != (kind.height, kind.width):
        raise ImageError(f"{kind}: damaged image")
    depth = Depth.of("i" if kind.signed else "u", kind.bits)
    if kind.components in (1, 3):
        return Image.fromarray(to_8_bits(values, depth, options, name))
    colours = to_8_bits(values[..., :-1], depth, options, name)
    alpha = alpha_to_8_bits(values[..., -1:], depth)
    return Image.fromarray(np.concatenate([colours, alpha], -1))
