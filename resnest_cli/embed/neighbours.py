"""The nearest other images of each image of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 512  # rows whose similarities to all are held at once


def neighbours(
    features: NDArray[np.float32], groups: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and cosine similarities (N, count) of each image's most similar ones, best first.

    Images of its own group are no neighbours. Where there are too few, indices are -1 and
    similarities NaN.

    Args:
        features: (N, channels).
        groups: (N), equal for images that are copies of each other.
        count: at least 1.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    indices = np.full((len(unit), count), -1, np.int64)
    similarities = np.full((len(unit), count), np.nan, np.float32)
    most = min(count, len(unit))
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found = unit[rows] @ unit.T
        found[groups[rows, None] == groups[None]] = -np.inf
        best = np.argpartition(-found, most - 1, axis=1)[:, :most]
        values = np.take_along_axis(found, best, 1)
        order = np.lexsort((best, -values), axis=1)
        best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        there = np.isfinite(values)
        indices[rows, :most] = np.where(there, best, -1)
        similarities[rows, :most] = np.where(there, values.clip(-1, 1), np.nan)
    return indices, similarities


def outliers(
    similarities: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far each image is from its neighbours, and whether it is far farther than usual.

    The distance is 1 - the mean similarity, 0 to 2, or NaN without neighbours. Far is above the
    third quartile by three times the distance between the quartiles.
    """
    there = np.isfinite(similarities)
    count = there.sum(1)
    total = np.where(there, similarities, 0).sum(1, dtype=np.float64)
    distance = np.where(count > 0, 1 - total / np.maximum(count, 1), np.nan)
    if not count.any():
        return distance, np.zeros(len(distance), np.bool_)
    low, high = np.nanpercentile(distance, [25, 75])
    return distance, np.nan_to_num(distance, nan=-1) > high + 3 * (high - low)
