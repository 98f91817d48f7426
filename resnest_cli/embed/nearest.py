"""The vectors nearest to others by cosine similarity: exact, by blocks of a matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Rows = NDArray[np.int64]

_BLOCK = 2**24  # numbers of a block, 64 MB: so many that starting its threads takes no time
_QUERIES = 256  # whose similarities to a block are computed at once


def unit(vectors: Floats) -> Floats:
    """Vectors (n, channels) at length 1; one of length 0 stays."""
    return np.divide(vectors, _lengths(vectors), dtype=np.float32)


def nearest(values: Floats, queries: Floats, k: int) -> tuple[Rows, Floats]:
    """The `k` rows of `values` that are most similar to each query, and their similarities.

    Of equal ones the first rows are taken. Rows that hold NaN are never taken: where fewer than
    `k` rows are left, the last places have row -1 and similarity NaN.

    Args:
        values: (rows, channels), of any length; read once for every 256 queries.
        queries: (queries, channels), of any length.
        k: at least 1.

    Returns:
        Rows and cosine similarities, -1 to 1, both (queries, k), the most similar one first.
    """
    parts = [
        _nearest(values, unit(queries[start : start + _QUERIES]), k)
        for start in range(0, len(queries), _QUERIES)
    ]
    rows = np.concatenate(parts) if parts else np.empty((0, k), np.int64)
    return ranked(values, queries, rows)


def ranked(values: Floats, queries: Floats, rows: Rows) -> tuple[Rows, Floats]:
    """Rows (queries, k), -1 for none, in the order of their similarities, computed in float64."""
    similarities = np.full(rows.shape, np.nan)
    for i, (query, some) in enumerate(zip(queries.astype(np.float64), rows, strict=True)):
        there = some >= 0
        found = values[some[there]].astype(np.float64)
        lengths = np.linalg.norm(query) * np.linalg.norm(found, axis=1)
        similarities[i, there] = found @ query / np.where(lengths > 0, lengths, 1)
    order = np.lexsort((rows, -similarities), axis=1)  # NaN last
    ordered = np.take_along_axis(similarities, order, 1).clip(-1, 1).astype(np.float32)
    return np.take_along_axis(rows, order, 1), ordered


def _nearest(values: Floats, queries: Floats, k: int) -> Rows:
    """The nearest rows (queries, k), in no order; the queries have length 1."""
    step = max(_BLOCK // values.shape[1], 1)
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(values), step):
        block = np.asarray(values[start : start + step])
        with np.errstate(invalid="ignore"):
            found = block @ queries.T
            found /= _lengths(block)
            better = best.min(1, keepdims=True) < found.T  # which NaN is not
        for i in np.flatnonzero(better.any(1)):
            new = np.flatnonzero(better[i])
            both = np.concatenate([best[i], found[new, i]])
            taken = np.argsort(-both, kind="stable")[:k]  # of equal ones the first rows
            best[i], rows[i] = both[taken], np.concatenate([rows[i], new + start])[taken]
    return rows


def _lengths(vectors: Floats) -> Floats:
    """Lengths (n, 1), above 0."""
    squares: Floats = np.einsum("ij,ij->i", vectors, vectors)
    lengths: Floats = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    return lengths[:, None]
