"""Class probabilities of images by networks' last layers that have not seen their labels."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

# how weak the penalty may be, as scikit-learn's C
_WEAKNESSES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_STEPS = 300  # of the optimiser, at most


def deal(marks: Sequence[bytes], targets: Ints, folds: int, seed: int) -> Ints:
    """The fold of each image (N), 0 to `folds` - 1: each has about the same share of each class.

    Images with equal marks get the same fold: the label of a copy would give theirs away. An
    image's fold depends on the marks and classes of all, not on their order.
    """
    members: dict[bytes, list[int]] = {}
    for index, mark in enumerate(marks):
        members.setdefault(mark, []).append(index)
    sizes: dict[int, Counter[int]] = {}  # images of each fold, by class
    fold = np.empty(len(marks), np.int64)
    for mark in sorted(members, key=lambda mark: hashlib.sha256(b"%d/%b" % (seed, mark)).digest()):
        copies = members[mark]
        counts = sizes.setdefault(min(int(targets[i]) for i in copies), Counter())
        chosen = min(range(folds), key=lambda number: counts[number])
        counts[chosen] += len(copies)
        fold[copies] = chosen
    return fold


def probabilities(
    features: NDArray[np.float32],
    targets: Ints,
    marks: Sequence[bytes],
    *,
    folds: int,
    seed: int,
    progress: Progress = SILENT,
) -> NDArray[np.float64]:
    """Each image's class probabilities (N, classes) by a layer trained on the other folds.

    The layer is a multinomial logistic regression. Its penalty is the strongest one whose log loss
    on the first fold is within a standard error of the least: weaker ones fit wrong labels.

    Args:
        features: (N, channels).
        targets: (N), 0 to classes - 1.
        marks: (N), equal for images that are copies of each other.
        folds: how many; all classes should have as many distinct images.
        seed: of how images are dealt to folds.
        progress: advances once for each fold.
    """
    fold = deal(marks, targets, folds, seed)
    found = np.zeros((len(targets), int(targets.max()) + 1))
    weakness = _WEAKNESSES[0]
    progress.start("judging labels")
    progress.total(folds)
    try:
        for number in range(folds):
            held, others = fold == number, fold != number
            if not held.any():  # fewer distinct images than folds
                continue
            split = _Split(features[others], targets[others], features[held], found.shape[1])
            if number == 0:
                weakness, found[held] = _chosen(split, targets[held])
            else:
                found[held] = _predicted(split, weakness)
            progress.advance()
    finally:
        progress.finish()
    return found


class _Split(NamedTuple):
    """Images with classes, and images whose classes are to be found."""

    known: NDArray[np.float32]  # (M, channels)
    targets: Ints  # (M)
    unknown: NDArray[np.float32]  # (N, channels)
    classes: int


def _chosen(split: _Split, targets: Ints) -> tuple[float, Floats]:
    """How weak the penalty is to be, and the probabilities of the unknown images."""
    tried: list[tuple[float, Floats]] = []
    losses: list[float] = []
    limit = math.inf
    for weakness in _WEAKNESSES:
        found = _predicted(split, weakness)
        loss = -np.log(np.maximum(found[np.arange(len(targets)), targets], 1e-12))
        tried.append((weakness, found))
        losses.append(float(loss.mean()))
        if losses[-1] > min(losses):
            break
        limit = losses[-1] + float(loss.std()) / math.sqrt(len(loss))
    return next(each for each, loss in zip(tried, losses, strict=True) if loss <= limit)


def _predicted(split: _Split, weakness: float) -> Floats:
    """Probabilities (N, classes) of the unknown images by a layer trained on the known ones."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = split.known.mean(0, dtype=np.float64).astype(np.float32)
    spread = split.known.std(0, dtype=np.float64).astype(np.float32)
    spread[spread == 0] = 1
    layer = LogisticRegression(C=weakness, max_iter=_STEPS)
    with warnings.catch_warnings():  # an early stop is a penalty of its own kind
        warnings.simplefilter("ignore", ConvergenceWarning)
        layer.fit((split.known - mean) / spread, split.targets)
    found = np.zeros((len(split.unknown), split.classes))
    found[:, layer.classes_] = layer.predict_proba((split.unknown - mean) / spread)
    found /= found.sum(1, keepdims=True)
    return found
