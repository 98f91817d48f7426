"""Pillow's resize for the few pixels that a crop keeps, exact to the bit.

An image of 2 x 60,000 pixels, resized to a short side of 256, has 2 billion pixels, of which the
crop keeps 50,000. Pillow computes all of them; this only those, in the same arithmetic: separable
filters, weights of 22 fractional bits, 8-bit pixels between the horizontal and the vertical pass,
the order in which every Pillow enlarges. (Some shrink in the other: that is left to them.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


_FRACTION_BITS = 22
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # source pixels on each side, at scale 1


def resize_and_crop(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """The same as `image.resize(size, interpolation).crop(box)` for RGB images that are enlarged.

    `box` (left, top, right, bottom) lies inside of `size`; the rest is not computed.
    """
    left, top, right, bottom = box
    pixels = np.asarray(image)
    pixels = _resample_rows(pixels.swapaxes(0, 1), size[0], left, right, interpolation)
    pixels = _resample_rows(pixels.swapaxes(0, 1), size[1], top, bottom, interpolation)
    return Image.fromarray(pixels)


def _resample_rows(
    pixels: NDArray[np.uint8], length: int, start: int, stop: int, interpolation: str
) -> NDArray[np.uint8]:
    """Rows `start` to `stop` of the pixels (rows, columns, 3) resized to `length` rows."""
    out = np.empty((stop - start, *pixels.shape[1:]), np.uint8)
    weights = _weights(len(pixels), length, range(start, stop), interpolation)
    for row, (first, taps) in zip(out, weights, strict=True):
        window = pixels[first : first + len(taps)].astype(np.int32)
        total = np.tensordot(taps, window, axes=1) + (1 << (_FRACTION_BITS - 1))
        np.clip(total >> _FRACTION_BITS, 0, 255, out=row, casting="unsafe")
    return out


def _weights(
    source: int, length: int, rows: range, interpolation: str
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """For each row wanted, the first source row it depends on, and the integer weights."""
    scale = source / length
    stretch = max(scale, 1.0)  # shrinking widens the filter: that is the antialiasing
    support = _SUPPORT[interpolation] * stretch
    kernel = _triangle if interpolation == "bilinear" else _cubic
    for row in rows:
        centre = (row + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), source)
        taps = [kernel((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = _sum_in_order(taps)
        fixed = [tap / total * (1 << _FRACTION_BITS) for tap in taps]
        yield first, np.array([int(math.copysign(0.5, f) + f) for f in fixed], np.int32)


def _sum_in_order(values: list[float]) -> float:
    """A plain running sum; `sum` of newer Pythons compensates rounding, which Pillow does not."""
    total = 0.0
    for value in values:
        total += value
    return total


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic convolution kernel (1981), with Pillow's a."""
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
