"""How stored pictures are read: said here, where nothing is imported for it; done in `images`."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIXELS = 178_956_970  # Pillow's own limit; a gigabyte and a half while it is decoded


@dataclass(frozen=True)
class Decoding:
    """How a stored picture is read."""

    exif: bool = True  # turn it the way up that its EXIF orientation says
    # RGB, painted where it is transparent; None drops the transparency, so that the colours below
    # it show, as in the reference implementations
    background: tuple[int, int, int] | None = None
    max_pixels: int = MAX_PIXELS  # of more than that none is decoded
    # JPEG: decode at 1/2, 1/4 or 1/8 where the short side still has twice that many pixels
    shrink_to: int | None = None
    allow_private: bool = False  # read URLs on this machine and on private networks


USUAL = Decoding()
