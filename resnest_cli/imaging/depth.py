"""Samples of any depth to 8 bits.

Integers are divided by the greatest value that their type holds, as are floats that follow a
convention (0 to 1, 0 to 255, 0 to 65,535); what fits no such range is scaled from its minimum to
its maximum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_ROWS = 256  # that are converted together: bounds the memory
_SMALL = 8  # values within an eighth of the range make an image of nearly all one shade


@dataclass(frozen=True)
class Depth:
    """What the samples of an image mean."""

    full: tuple[float, ...]  # values that may stand for white, ascending; the first that is enough
    inverted: bool = False  # 0 is white
    unsigned: bool = False  # 32 bits, which Pillow gives as signed ones
    slack: float = 0.0  # by which values may lie outside the range, and are clipped

    @classmethod
    def of(cls, kind: str, bits: int, *, inverted: bool = False) -> Depth:
        """The depth of samples of a kind of NumPy: `u`, `i` or `f`."""
        if kind == "f":
            return cls((1.0, 255.0, 65535.0), inverted, slack=0.05)
        most = float(2**bits - 1 if kind == "u" else 2 ** (bits - 1) - 1)
        # 16 bits are often stored in 32
        return cls((65535.0, most) if bits > 16 else (most,), inverted, kind == "u" and bits == 32)


def to_8_bits(
    values: NDArray[Any], depth: Depth, options: DecodeOptions, name: str
) -> NDArray[np.uint8]:
    """Samples (height, width, ...) to 8 bits; infinities and NaN become the minimum.

    The channels of an image are scaled alike. `name` is the image's, for messages.

    Raises:
        ImageError: no sample is a finite number.
    """
    if depth.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    if depth.full == (255.0,) and values.dtype == np.uint8:
        return 255 - values if depth.inverted else values
    low, high = _limits(values)
    start, full = _range(low, high, depth)
    if options.stretch and values.dtype.itemsize > 1:
        start, full = low, (high - low) or 1.0
    elif 0 < high - low < full / _SMALL and values.dtype.itemsize > 1:
        _note(options, name, low, high, full)
    log.info("'%s': %g to %g scaled to 8 bits", printable(name), start, start + full)
    out = np.empty(values.shape, np.uint8)
    for rows in _blocks(len(values)):
        part = values[rows].astype(np.float64)
        np.copyto(part, low, where=~np.isfinite(part))
        part = np.clip(np.rint((part - start) * (255.0 / full)), 0, 255)
        out[rows] = 255 - part if depth.inverted else part
    return out


def alpha_to_8_bits(values: NDArray[Any], depth: Depth) -> NDArray[np.uint8]:
    """Opacity, from 0 to 1 if in floats, else to the greatest value of its type, to 8 bits."""
    opaque = 1.0 if values.dtype.kind == "f" else depth.full[-1]
    opacity: NDArray[np.uint8] = np.rint(np.clip(values / opaque, 0, 1) * 255).astype(np.uint8)
    return opacity


def check_range(image: Image.Image, options: DecodeOptions, name: str) -> None:
    """Warn if colours of 16 bits, of which Pillow gives the high bytes, are of a small range."""
    if image.mode in ("L", "RGB", "RGBA", "CMYK"):
        colours = np.asarray(image)
        colours = colours[..., :3] if image.mode == "RGBA" else colours
        low, high = int(colours.min()), int(colours.max())
        if 0 < high - low < 255 / _SMALL:
            _note(options, name, 257 * low, 257 * high, 65535)


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest finite value."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    parts = [part[np.isfinite(part)] for part in (values[rows] for rows in _blocks(len(values)))]
    parts = [part for part in parts if part.size]
    if not parts:
        raise ImageError("no pixel is a finite number")
    return float(min(part.min() for part in parts)), float(max(part.max() for part in parts))


def _range(low: float, high: float, depth: Depth) -> tuple[float, float]:
    """The values that stand for black, and how far above it those are that stand for white."""
    full = next((full for full in depth.full if high <= full + depth.slack), None)
    # wide integers that would all be black are scaled instead
    black = full is not None and full > 65535 and high < full / 256
    if full is None or black or low < -depth.slack:
        return low, max(high - low, 1.0)
    return 0.0, full


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, rows, _ROWS))


def _note(options: DecodeOptions, name: str, low: float, high: float, full: float) -> None:
    """Warn of a small range, once for each run: options are made once for each."""
    ours = object()
    if vars(options).setdefault("_noted", ours) is ours:
        hint = "" if options is DEFAULT else "; `stretch` scales each such image to its own range"
        log.warning(
            "'%s' uses only %g to %g of 0 to %g, so it is nearly all one shade%s (further images "
            "are not reported)", printable(name), low, high, full, hint,
        )  # fmt: skip
