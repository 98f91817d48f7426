"""What a network's answers on labelled pictures are worth: figures from logits and truths.

Shares are 0 to 1. Precision, recall, F1, support and the confusion matrix are scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A share of pictures with its 95 % interval (Wilson's, doi 10.1080/01621459.1927.10502953)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PerClass:
    """Figures of each class, arrays (classes); 0 where nothing was predicted or is there."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints  # pictures that are of the class


@dataclass(frozen=True)
class Calibration:
    """How far confidence, the probability of the answer given, is from how often it is right.

    Bins are of equal width over 0 to 1 (arXiv 1706.04599, section 2).
    """

    expected_error: float  # mean over pictures of |accuracy - confidence| of their bin
    maximum_error: float  # of the worst bin
    confidence: Floats  # mean of each bin; 0 where it is empty
    accuracy: Floats
    counts: Ints


@dataclass(frozen=True)
class Metrics:
    """All figures of one evaluation."""

    pictures: int
    top1: Share
    top5: Share
    loss: float  # mean negative log-likelihood, natural logarithm
    brier: float  # mean squared distance of probabilities from the truth, 0 to 2
    macro: tuple[float, float, float]  # precision, recall, F1: plain means over classes in the data
    per_class: PerClass
    confusion: Ints  # (classes, classes): rows true, columns predicted
    calibration: Calibration


def measure(logits: Floats, truths: Ints, *, bins: int = 15) -> Metrics:
    """The figures of logits (N, classes) against true class indices (N), N at least 1."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = np.arange(logits.shape[1])
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    predicted = logits.argmax(1)
    ranks = ranks_of(logits, truths)
    precision, recall, f1, support = precision_recall_fscore_support(
        truths, predicted, labels=classes, zero_division=0
    )
    there = support > 0
    own = np.arange(len(truths))
    squared = (probabilities**2).sum(1) - 2 * probabilities[own, truths] + 1
    return Metrics(
        pictures=len(truths),
        top1=share(int((ranks < 1).sum()), len(truths)),
        top5=share(int((ranks < 5).sum()), len(truths)),
        loss=float(-log_probabilities[own, truths].mean()),
        brier=float(squared.mean()),
        macro=(
            float(precision[there].mean()),
            float(recall[there].mean()),
            float(f1[there].mean()),
        ),
        per_class=PerClass(precision, recall, f1, support),
        confusion=confusion_matrix(truths, predicted, labels=classes),
        calibration=calibrate(probabilities.max(1), predicted == truths, bins=bins),
    )


def share(hits: int, count: int) -> Share:
    """Hits among `count` pictures, with Wilson's interval."""
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return Share(hits / count, float(interval.low), float(interval.high))


def ranks_of(logits: Floats, truths: Ints) -> Ints:
    """How many classes come before the true one, (N); of equal logits the lower index leads."""
    true = logits[np.arange(len(truths)), truths][:, None]
    before = np.arange(logits.shape[1]) < truths[:, None]
    ranks: Ints = ((logits > true) | ((logits == true) & before)).sum(1)
    return ranks


def calibrate(confidence: Floats, right: NDArray[np.bool_], *, bins: int) -> Calibration:
    """Calibration of answers with their confidence, 0 to 1, (N), and whether they are right."""
    edges = np.linspace(0, 1, bins + 1)
    # a bin holds its upper edge, and the first one 0 as well
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = np.maximum(counts, 1)
    mean_confidence = np.bincount(which, confidence, minlength=bins) / filled
    accuracy = np.bincount(which, right, minlength=bins) / filled
    gaps = np.abs(accuracy - mean_confidence)
    return Calibration(
        expected_error=float((gaps * counts).sum() / len(confidence)),
        maximum_error=float(gaps[counts > 0].max()),
        confidence=mean_confidence,
        accuracy=accuracy,
        counts=counts.astype(np.int64),
    )


def fit_temperature(logits: Floats, truths: Ints) -> float:
    """The number that logits are to be divided by for the least loss (arXiv 1706.04599).

    The loss is convex in its inverse, so one search from 0.01 to 100 finds the only minimum.
    """
    from scipy.optimize import minimize_scalar

    own = np.arange(len(truths))

    def loss(inverse_log: float) -> float:
        return float(-log_softmax(logits * np.exp(inverse_log))[own, truths].mean())

    found = minimize_scalar(loss, bounds=(-np.log(100), np.log(100)), method="bounded")
    return float(np.exp(-found.x))


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
