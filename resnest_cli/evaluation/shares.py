"""The images of an evaluation in shares: of N, each has every N-th image."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.datasets.repeats import Fingerprints, noted
from resnest_cli.errors import DatasetError, ImageError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.progress import Progress
from resnest_cli.text import counted, printable

if TYPE_CHECKING:
    from resnest_cli.evaluation.processes import Processes

log = logging.getLogger(__name__)


class Work(NamedTuple):
    """What all processes do together; picklable."""

    classifier: Classifier
    images: LabelledImages
    labels: NDArray[np.int64]  # (N), the indices of the images' classes

    def identity(self) -> tuple[str, ...]:
        """What must be the same in all of them, in words."""
        engine = self.classifier.engine
        listed = "\0".join((*self.images.paths, *map(str, self.labels)))
        return (
            f"the weights {engine.weights.sha256[:16]}",
            f"the engine {engine.name} {engine.precision}",
            f"{counted(len(self.images), 'image')} ({sha256(listed.encode()).hexdigest()[:16]})",
        )


class Share(NamedTuple):
    """What one process has found out about every N-th image."""

    logits: list[NDArray[np.float32] | str]  # (classes), or why there are none, of each image
    found: Fingerprints


def prepared(processes: Processes, prepare: Callable[[], Work]) -> Work:
    """The work, if it can be done, and is the same in all processes."""
    made: list[Work] = []

    def identity() -> tuple[str, ...]:
        made.append(prepare())
        return made[0].identity() if processes.world_size > 1 else ()

    identities = processes.gather(identity)

    def compare() -> None:
        for rank, other in enumerate(identities):
            for a, b in zip(identities[0], other, strict=True):
                if a != b:
                    raise DatasetError(f"process 0 has {a}, but process {rank} has {b}")

    processes.broadcast_from_main(compare)
    return made[0]


def share(
    work: Work, rank: int, count: int, progress: Progress, part: slice = slice(None)
) -> Share:
    """Every `count`-th image through the network, from the one numbered `rank` on.

    `part`: of these images, those to compute.
    """
    found: Fingerprints = {}
    own = work.images.paths[rank::count][part]
    sources = noted(map(work.images.source, own), found)
    outputs: list[NDArray[np.float32] | str] = []
    progress.start("evaluating")
    progress.total(len(own))
    try:
        for source, logits in work.classifier.logits(sources):
            if isinstance(logits, ImageError):
                log.warning("'%s': %s", printable(source.name), logits)
            outputs.append(str(logits) if isinstance(logits, ImageError) else logits)
            progress.advance()
    finally:
        progress.finish()
    return Share(outputs, found)
