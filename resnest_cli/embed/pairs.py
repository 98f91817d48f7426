"""Pairs of similar vectors, exactly, by blocks of a matrix product; and groups of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 2048  # vectors


def similar_pairs(
    vectors: NDArray[np.float32], least: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (n, 2), first < second, with a cosine of at least `least`, and their cosines.

    Of each vector's partners that come after it, the `most` nearest are kept. The vectors have
    length 1. Memory is a block of the product and what is kept.
    """
    pairs, cosines = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        rows, columns = np.empty(0, np.int64), np.empty(0, np.int64)
        values = np.empty(0, np.float32)
        floor = np.full((len(block), 1), least, np.float32)  # rises with a row's best so far
        for other in range(start, len(vectors), _BLOCK):
            product = block @ vectors[other : other + _BLOCK].T
            flat = np.flatnonzero(product >= floor)
            i, j = np.divmod(flat, product.shape[1])
            if other == start:
                later = j > i
                i, j, flat = i[later], j[later], flat[later]
            rows, columns = np.append(rows, i), np.append(columns, j + other)
            values = np.append(values, product.ravel()[flat])
            if len(rows) > 2 * most * len(block):
                rows, columns, values = _nearest(rows, columns, values, most)
                full, counts = np.unique(rows, return_counts=True)
                lowest = np.full(len(block), np.inf, np.float32)
                np.minimum.at(lowest, rows, values)
                floor[full[counts == most], 0] = lowest[full[counts == most]]
        rows, columns, values = _nearest(rows, columns, values, most)
        pairs.append(np.stack([rows + start, columns], 1))
        cosines.append(values)
    return np.concatenate(pairs), np.concatenate(cosines)


def _nearest(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The entries with the `most` highest values of each row."""
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.searchsorted(rows, rows)  # where an entry's row begins
    kept = np.arange(len(rows)) - first < most
    return rows[kept], columns[kept], values[kept]


def complete_groups(
    pairs: Iterable[tuple[int, int]], distance: Callable[[int, int], float], most: float
) -> list[list[int]]:
    """Groups of two or more in which no pair is farther apart than `most`, sorted.

    The nearest pairs are joined first; two groups are joined only if all their pairs are near.
    """
    near = sorted((distance(*pair), pair) for pair in pairs)
    group: dict[int, list[int]] = {}
    for apart, (one, two) in near:
        if apart > most:
            break
        a, b = group.setdefault(one, [one]), group.setdefault(two, [two])
        if a is not b and all(distance(*sorted((i, j))) <= most for i in a for j in b):
            a += b
            group.update(dict.fromkeys(b, a))
    found = {id(members): sorted(members) for members in group.values() if len(members) > 1}
    return sorted(found.values())
