"""How stored images are read, as plain values: importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from resnest_cli.errors import UsageError, check_number

MAX_PIXELS = 178_956_970  # Pillow's own limit; about 1.5 GB while it is decoded


@dataclass(frozen=True)
class DecodeOptions:
    """How a stored image is read."""

    exif: bool = True  # apply the EXIF orientation
    # RGB, 0 to 255, painted where an image is transparent; None drops the transparency, so that the
    # colours below it show, as in the reference implementations
    background: tuple[int, int, int] | None = None
    max_pixels: int = MAX_PIXELS  # larger images are rejected before they are decoded
    fast_jpeg: bool = False  # decode large JPEGs at a lower resolution: faster, slightly different
    # what fast_jpeg needs to know: the short side, in pixels, that the network's resize asks for;
    # a JPEG is decoded at 1/2, 1/4 or 1/8 if its short side then still has twice as many
    draft_size: int | None = None
    stretch: bool = False  # scale images of more than 8 bits from their minimum to their maximum
    allow_private: bool = False  # read URLs on this machine and on private networks
    offline: bool = False  # do not read URLs

    def __post_init__(self) -> None:
        """Raise `UsageError` for a background that is no colour and a limit that is no number."""
        check_number("max_pixels", self.max_pixels, 1)
        if (colour := self.background) is None:
            return
        if not isinstance(colour, tuple | list) or len(colour) != 3:
            raise UsageError(
                f"`background` must be (red, green, blue), each 0 to 255, not {colour!r}"
            )
        for part in colour:
            check_number("background", part, 0, 255)


DEFAULT = DecodeOptions()
