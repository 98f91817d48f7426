"""Two images compared by their pixels: aligned first, so that a crop or a mirror is no difference.

Both are looked at as small squares. A shift and a scale along each axis are fitted together with
brightness and contrast, from coarse to fine; what is left is the correlation of their detail, that
is of the brightness without its slow changes, which strangers share too easily.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Square = NDArray[np.float32]

SIDE = 64  # pixels
_LEVELS = ((16, 10), (32, 6), (64, 5))  # side, steps
_LEAST_OVERLAP = 0.7  # of either image's area
_COARSE = 0.5  # correlation at the coarsest level below which two images are strangers
_BLUR = 9  # pixels, of what is taken for a slow change
_CROPPED = 0.98  # of a side
_RECOLOURED = 6.0  # levels of 255, of the mean of a colour


@dataclass(frozen=True)
class Look:
    """What is kept of an image for comparisons: 17 kB."""

    grey: Square  # (SIDE, SIDE), 0 to 255
    colour: NDArray[np.float32]  # means of red, green and blue
    size: tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Match:
    """How an image lies on another one, and how far they differ there."""

    distance: float  # 1 minus the correlation of their detail: 0 is equal
    scale: tuple[float, float] = (1.0, 1.0)  # of the second image's width and height in the first's
    mirrored: bool = False


STRANGERS = Match(1.0)


def look(image: Image.Image) -> Look:
    """What is kept of an image in mode RGB."""
    from PIL import Image as Images

    small = image.resize((SIDE, SIDE), Images.Resampling.BOX, reducing_gap=2.0)
    colour = np.asarray(small, np.float32).mean((0, 1))
    return Look(np.asarray(small.convert("L"), np.float32), colour, image.size)


def match(first: Look, second: Look, enough: float = 0.0) -> Match:
    """The better of the two ways to lay an image on another: unmirrored, and mirrored.

    A mirror is tried only if the distance is more than `enough` without.
    """
    straight = _aligned(first.grey, second.grey)
    if straight.distance <= enough:
        return straight
    turned = _aligned(first.grey, second.grey[:, ::-1])
    if turned.distance < straight.distance:
        return Match(turned.distance, turned.scale, mirrored=True)
    return straight


def kind(kept: Look, other: Look, found: Match) -> str:
    """What distinguishes an image from the one that is kept, in words joined by `+`."""
    words = ["mirrored"] if found.mirrored else []
    if min(*found.scale, *(1 / scale for scale in found.scale)) < _CROPPED:
        words.append("cropped")
    elif kept.size != other.size:
        words.append("resized")
    if np.abs(kept.colour - other.colour).max() > _RECOLOURED and "cropped" not in words:
        words.append("recoloured")
    return "+".join(words) or "recompressed"


def _aligned(first: Square, second: Square) -> Match:
    fit = np.array([1.0, 0.0, 1.0, 0.0])  # scale and shift of x, of y; the image is -1 to 1
    for side, steps in _LEVELS:
        a, b = _reduced(first, side), _reduced(second, side)
        for _ in range(steps):
            step = _step(a, b, fit)
            if step is None:
                return STRANGERS
            fit += step
            if np.abs(step).max() < 0.02 / side:
                break
        if side == _LEVELS[0][0] and _correlation(a, b, fit, detail=False) < _COARSE:
            return STRANGERS
    correlation = _correlation(first, second, fit, detail=True)
    return Match(float(np.clip(1 - correlation, 0, 1)), (float(fit[0]), float(fit[2])))


def _reduced(square: Square, side: int) -> Square:
    cell = SIDE // side
    reduced: Square = square.reshape(side, cell, side, cell).mean((1, 3))
    return reduced


def _step(a: Square, b: Square, fit: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The next change of a fit, by least squares; None if it has left what is plausible."""
    overlap = _laid(a, b, fit)
    if overlap is None:
        return None
    a, warped, x, y = overlap
    dy, dx = np.gradient(warped)
    half = np.float32(len(b) / 2)
    dx, dy = dx * half, dy * half  # per unit of the coordinates
    columns = (dx * x, dx, dy * y[:, None], dy, warped, np.ones_like(warped))
    matrix = np.stack([column.ravel() for column in columns]).astype(np.float64)
    difference = (a - warped).ravel().astype(np.float64)
    normal = matrix @ matrix.T
    normal[np.diag_indices(6)] *= 1 + 1e-4
    normal[np.diag_indices(6)] += 1e-6
    change: NDArray[np.float64] = np.linalg.solve(normal, matrix @ difference)[:4]
    return np.clip(change, -0.1, 0.1)


def _laid(
    a: Square, b: Square, fit: NDArray[np.float64]
) -> tuple[Square, Square, NDArray[np.float32], NDArray[np.float32]] | None:
    """Where two squares overlap: both there, and the coordinates; None if they hardly do."""
    side = len(a)
    grid = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    x_weights, x_in = _weights(grid, fit[0], fit[1])
    y_weights, y_in = _weights(grid, fit[2], fit[3])
    share = x_in.sum() * y_in.sum() / side**2
    if min(share, share * abs(fit[0] * fit[2])) < _LEAST_OVERLAP:
        return None
    warped = y_weights[y_in] @ b @ x_weights[x_in].T
    return a[y_in][:, x_in], warped, grid[x_in], grid[y_in]


def _weights(
    grid: NDArray[np.float32], scale: float, shift: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The matrix that interpolates along an axis, and which of its rows lie within the image."""
    side = len(grid)
    at = (scale * grid + shift + 1) * side / 2 - 0.5
    within = (at > -0.51) & (at < side - 0.49)
    distance = np.abs(np.clip(at, 0, side - 1)[:, None] - np.arange(side))
    return np.maximum(1 - distance, 0).astype(np.float32), within


def _correlation(a: Square, b: Square, fit: NDArray[np.float64], *, detail: bool) -> float:
    overlap = _laid(a, b, fit)
    if overlap is None:
        return 0.0
    one, two = overlap[0], overlap[1]
    if detail:
        one, two = _detail(one), _detail(two)
    one, two = one - one.mean(), two - two.mean()
    size = float(np.sqrt((one**2).sum() * (two**2).sum()))
    # without any contrast there is nothing that could agree
    return float((one * two).sum()) / size if size > one.size * 0.25 else 0.0


def _detail(square: Square) -> Square:
    rows, columns = (_mean(length) for length in square.shape)
    detail: Square = square - rows @ square @ columns.T
    return detail


def _mean(length: int) -> Square:
    """The matrix that averages over neighbours along an axis."""
    index = np.arange(length)
    near = (np.abs(index[:, None] - index) <= _BLUR // 2).astype(np.float32)
    mean: Square = near / near.sum(1, keepdims=True)
    return mean
