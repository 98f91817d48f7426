"""The nearest vectors: exact, and by an index that says how many it finds."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnest_cli.embed import nearest as module
from resnest_cli.embed.approximate import Approximate, index_path
from resnest_cli.embed.nearest import nearest, unit
from resnest_cli.embed.vectors import Vectors
from resnest_cli.errors import OutputError


def by_hand(values, queries, k):
    """All similarities in float64, sorted; of equal ones the first."""
    a, b = (x.astype(np.float64) for x in (values, queries))
    lengths = np.linalg.norm(b, axis=1)[:, None] * np.linalg.norm(a, axis=1)
    found = b @ a.T / np.where(lengths > 0, lengths, 1)
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    similarities = np.take_along_axis(found, order, 1)
    rows = np.where(np.isnan(similarities), -1, order)
    missing = k - rows.shape[1]
    rows = np.pad(rows, ((0, 0), (0, max(missing, 0))), constant_values=-1)
    return rows, np.pad(similarities, ((0, 0), (0, max(missing, 0))), constant_values=np.nan)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 9), st.integers(1, 12))
def test_the_nearest_are_those_of_a_sorted_matrix(seed, rows, queries, k):
    rng = np.random.default_rng(seed)
    # few directions, so that many rows are equal; some have no length, some failed
    values = rng.integers(-1, 2, (rows, 3)).astype(np.float32) * 2
    values[rng.random(rows) < 0.2] = np.nan
    asked = rng.standard_normal((queries, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 21)  # seven rows
        patch.setattr(module, "_QUERIES", 4)
        found, similarities = nearest(values, asked, k)
    wanted, exact = by_hand(values, asked, k)
    assert found.shape == similarities.shape == (queries, k)
    np.testing.assert_allclose(similarities, exact, atol=1e-6)
    np.testing.assert_array_equal(found < 0, wanted < 0)
    for row in found:
        assert len({i for i in row if i >= 0}) == (row >= 0).sum(), "none twice"


def test_many_vectors_and_their_order():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5000, 64)).astype(np.float32)
    found, similarities = nearest(values, values[:300] * 3, 10)
    assert np.array_equal(found, by_hand(values, values[:300], 10)[0])
    assert np.array_equal(found[:, 0], np.arange(300))
    assert (similarities[:, 0] == 1).all()
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert np.allclose(np.linalg.norm(unit(values), axis=1), 1)


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 48))
    values = centres[rng.integers(0, 30, 3000)] + rng.standard_normal((3000, 48)) * 0.4
    values[::97] = np.nan
    errors = ["broken" if number % 97 == 0 else None for number in range(3000)]
    made = values.astype(np.float32)
    return Vectors([str(n) for n in range(3000)], errors, made, {"model": "demo"})


def test_an_index_finds_most_and_says_how_many(vectors, tmp_path, monkeypatch):
    pytest.importorskip("voyager", reason="voyager is not installed (extra index)")
    path = tmp_path / "v.npy"
    made = Approximate(path, vectors)
    assert index_path(path).is_file()
    queries = vectors.values[vectors.valid][:50]
    rows, similarities = made.nearest(queries, 10)
    exact_rows, exact = nearest(vectors.values, queries, 10)
    shared = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, exact_rows, strict=True)])
    assert shared > 0.95
    assert made.recall(10) == pytest.approx(shared, abs=0.05)
    np.testing.assert_allclose(similarities[:, 0], exact[:, 0], atol=1e-6)
    written = index_path(path).stat().st_mtime_ns
    again = Approximate(path, vectors)
    assert index_path(path).stat().st_mtime_ns == written, "it is not made twice"
    assert np.array_equal(again.nearest(queries, 10)[0], rows)
    with monkeypatch.context() as patch:
        patch.setattr("resnest_cli.embed.approximate.nearest", None)
        assert again.recall(10) == made.recall(10), "nor is its recall measured twice"
    few = Vectors(vectors.paths[:5], vectors.errors[:5], vectors.values[:5], {})
    found, _ = Approximate(tmp_path / "few.npy", few).nearest(queries[:2], 7)
    assert (found[:, 4:] == -1).all()
    assert set(found[0, :4]) == {1, 2, 3, 4}


def test_the_recall_is_low_where_the_index_finds_little(vectors, tmp_path, monkeypatch):
    pytest.importorskip("voyager", reason="voyager is not installed (extra index)")
    made = Approximate(tmp_path / "v.npy", vectors)
    whole = made.nearest

    def half(queries, k):
        rows, similarities = whole(queries, k)
        return rows, np.where(np.arange(k) < k // 2, similarities, -1)

    monkeypatch.setattr(made, "nearest", half)
    assert made.recall(10) == pytest.approx(0.5, abs=0.02)


def test_an_index_of_other_vectors_is_refused(vectors, tmp_path):
    pytest.importorskip("voyager", reason="voyager is not installed (extra index)")
    path = tmp_path / "v.npy"
    Approximate(path, vectors)
    other = Vectors(vectors.paths, vectors.errors, vectors.values[:, ::-1].copy(), {})
    with pytest.raises(OutputError, match="no index of these vectors\nremove it"):
        Approximate(path, other)
    Path(index_path(path)).write_text("mine")
    with pytest.raises(OutputError, match="no index of these vectors"):
        Approximate(path, vectors)
