"""The shares of an evaluation on a Ray cluster."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from resnest_cli.cluster.ray_cluster import connected, settle, versions
from resnest_cli.cluster.ray_pool import KILLED, Counted, Pool, Rebuilt
from resnest_cli.errors import DatasetError
from resnest_cli.evaluation.shares import Share, Work, share
from resnest_cli.progress import Progress

_LEAST = 16  # shares, so that several workers have some
_IMAGES = 1000  # of a share, about; logits of so many go from a worker to the driver at once


class ShareWorker:
    """Computes shares of the images. See `ray_pool.Worker`."""

    def __init__(
        self, stored: bytes, facts: dict[str, Any], count: int, folder: str,
        cores: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self._stored, self._facts, self._count = stored, facts, count
        self._folder, self._cores, self._rows = folder, cores, Counted()

    def open(self) -> None:
        """Load the network; `ResNeStError` if it or the images are not the driver's."""
        settle(self._folder, self._cores)
        self._work: Work = pickle.loads(self._stored)  # noqa: S301 - the driver's
        own = _facts(self._work)
        changed = [
            f"{own[k]}, not {wanted}" for k, wanted in self._facts.items() if own[k] != wanted
        ]
        if changed:
            raise DatasetError(
                f"node {platform.node()} differs from the driver: {'; '.join(changed)}\n"
                "install the same versions and put the same files on all nodes"
            )

    def make(self, key: int) -> Share:
        """A share, by its rank."""
        return share(self._work, key, self._count, self._rows)

    def items(self, key: int, start: int, stop: int) -> list[Share]:
        """Some images of a share, each as a share of its own."""
        made = share(self._work, key, self._count, self._rows, slice(start, stop))
        paths = self._work.images.paths[key :: self._count][start:stop]
        return [
            Share([logits], {path: made.found[path]} if path in made.found else {})
            for path, logits in zip(paths, made.logits, strict=True)
        ]

    def advanced(self) -> int:
        """How many images are computed."""
        return self._rows.count


def shares_on_ray(address: str, work: Work, progress: Progress) -> list[Share]:
    """What the workers of a cluster make of the images, see `ray_cluster.connected`."""
    total = len(work.images)
    count = max(round(total / _IMAGES), min(total, _LEAST))
    made: dict[int, Share] = {}

    def units() -> Iterator[tuple[int, int]]:
        return ((rank, len(range(rank, total, count))) for rank in range(count))

    arguments = pickle.dumps(work), _facts(work), count, str(Path.cwd())
    gpu = work.classifier.engine.device.startswith("cuda")
    with connected(address) as ray:
        progress.start("evaluating")
        progress.total(total)
        pool: Pool[Share] = Pool(ray, ShareWorker, arguments, gpu=gpu, progress=progress)
        try:
            with closing(pool):
                for rank, result in pool.results(units()):
                    made[rank] = _joined(result) if isinstance(result, Rebuilt) else result
        finally:
            progress.finish()
    return [made[rank] for rank in range(count)]


def _joined(pieces: Rebuilt) -> Share:
    """A share of its images; one that killed its processes is a failure."""
    whole = Share([], {})
    for piece in pieces.items:
        whole.logits.extend(piece.logits if piece else [KILLED])
        whole.found.update(piece.found if piece else {})
    return whole


def _facts(work: Work) -> dict[str, Any]:
    """What must be the same in all workers, in words."""
    packages = {name: f"{name} {number}" for name, number in versions().items()}
    return dict(zip(("weights", "engine", "images"), work.identity(), strict=True)) | packages
