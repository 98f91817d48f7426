"""An index of vectors that finds most of the nearest ones, and how many it finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.embed.nearest import nearest, ranked, unit
from resnest_cli.errors import OutputError, require_extra
from resnest_cli.files import atomic_write
from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from resnest_cli.embed.nearest import Floats, Rows
    from resnest_cli.embed.vectors import Vectors

SAMPLE = 100  # vectors by which the recall is measured
_AXES = 256  # numbers of a vector in the index: an eighth, as it takes an eighth of the time
_FOR_AXES = 8192  # vectors from which the axes are computed
_AT_ONCE = 2000  # vectors that are added at once
_DEPTH = 200  # candidates of a search: more find more, and take longer
_CANDIDATES = 5  # times as many as are wanted, of which the exact similarities are computed


class Approximate:
    """The index beside a file of vectors; it is made if it is not there.

    FILE.voyager is Voyager's (HNSW) of the vectors' parts along 256 axes, which keep as much of the
    similarities as is possible. FILE.voyager.npz holds the axes, and what recall was measured.

    Args:
        path: the file of vectors.
        vectors: what it holds.
        progress: receives each vector that is added.

    Raises:
        ResNeStError: the extra `index` is not installed.
        OutputError: what is in the index's place belongs to other vectors, or cannot be written.
    """

    def __init__(self, path: Path, vectors: Vectors, progress: Progress = SILENT) -> None:
        require_extra("index", "voyager")
        self._vectors, self._valid = vectors, np.flatnonzero(vectors.valid)
        self._path, self._beside = index_path(path), index_path(path).with_suffix(".voyager.npz")
        self._recalls: dict[int, float] = {}  # by the number of nearest ones
        if self._path.exists():
            self._index = self._read()
        else:
            self._axes = self._best_axes()
            self._index = self._made(progress)

    def nearest(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """As `nearest.nearest`, but most of the nearest rows; the similarities are exact."""
        there = min(_CANDIDATES * k, len(self._valid))
        rows = np.full((len(queries), max(there, k)), -1, np.int64)
        if there and len(queries):
            depth = min(max(_DEPTH, there), len(self._valid))
            found, _ = self._index.query(self._short(queries), there, query_ef=depth)
            rows[:, :there] = found
        rows, similarities = ranked(self._vectors.values, queries, rows)
        return rows[:, :k], similarities[:, :k]

    def recall(self, k: int) -> float:
        """Which share of the nearest `k` it finds, 0 to 1, for a sample of the vectors.

        It is measured once for each `k`.
        """
        if k not in self._recalls:
            queries = np.asarray(self._vectors.values[self._some(SAMPLE)])
            found, exact = self.nearest(queries, k)[1], nearest(self._vectors.values, queries, k)[1]
            # by similarity, as of equal ones any will do
            least = np.fmin.reduce(exact, 1)[:, None]
            self._recalls[k] = float((found >= least).sum() / max((exact >= least).sum(), 1))
            self._save()
        return self._recalls[k]

    def _some(self, count: int) -> Rows:
        """Rows that have a vector, evenly over all."""
        places = np.linspace(0, len(self._valid) - 1, min(count, len(self._valid)))
        rows: Rows = self._valid[places.round().astype(np.int64)]
        return rows

    def _best_axes(self) -> Floats:
        some = unit(np.asarray(self._vectors.values[self._some(_FOR_AXES)]))
        axes: Floats = np.linalg.eigh(some.T @ some)[1][:, : -_AXES - 1 : -1]
        return axes

    def _short(self, vectors: Floats) -> Floats:
        return unit(unit(vectors) @ self._axes)

    def _made(self, progress: Progress) -> Any:
        import voyager

        index = voyager.Index(
            voyager.Space.Cosine, self._axes.shape[1], M=12, ef_construction=_DEPTH // 2,
            max_elements=max(len(self._valid), 1),
        )  # fmt: skip
        progress.start("indexing")
        progress.total(len(self._valid))
        for start in range(0, len(self._valid), _AT_ONCE):
            rows = self._valid[start : start + _AT_ONCE]
            index.add_items(self._short(np.asarray(self._vectors.values[rows])), rows.tolist())
            for _ in rows:
                progress.advance()
        progress.finish()
        self._save()
        with atomic_write(self._path) as beside:
            index.save(str(beside))
        return index

    def _save(self) -> None:
        with atomic_write(self._beside) as beside, beside.open("wb") as file:
            np.savez(file, axes=self._axes, recalls=np.array([*self._recalls.items()]))

    def _read(self) -> Any:
        """The stored index; it must hold the same vectors, as far as some of them show."""
        import voyager

        some = self._some(64)
        try:
            with np.load(self._beside) as stored:
                self._axes = stored["axes"]
                self._recalls = {int(k): float(recall) for k, recall in stored["recalls"]}
            index = voyager.Index.load(str(self._path))
            short = self._short(self._vectors.values[some])
            same = len(index) == len(self._valid)
            same = same and np.allclose(index.get_vectors(some.tolist()), short, atol=1e-4)
        except (OSError, RuntimeError, ValueError, KeyError):
            same = False
        if not same:
            raise OutputError(
                f"'{self._path}' is no index of these vectors\nremove it to make a new one"
            )
        return index


def index_path(path: Path) -> Path:
    """Where the index of a file of vectors is: FILE.voyager."""
    return path.with_name(path.name + ".voyager")
