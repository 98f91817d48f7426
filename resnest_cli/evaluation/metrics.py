"""Metrics of a classifier, from its logits and the true labels.

Fractions are 0 to 1. Precision, recall, F1, support and the confusion matrix are scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Proportion:
    """A fraction of images with its 95 % interval (Wilson, doi 10.1080/01621459.1927.10502953)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PerClass:
    """Metrics of each class, arrays (classes); 0 where they are undefined."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints  # images of the class


@dataclass(frozen=True)
class MacroAverage:
    """Plain means over the classes that have images."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence, the probability of the top-1 class, is from accuracy.

    Images are binned by confidence, in bins of equal width over 0 to 1 (arXiv 1706.04599, sec. 2).
    """

    expected_error: float  # mean of |accuracy - confidence| over bins, weighted by their images
    maximum_error: float  # of the worst bin
    confidence: Floats  # mean of each bin (bins); 0 if it is empty
    accuracy: Floats  # of each bin (bins); 0 if it is empty
    counts: Ints  # images in each bin (bins)


@dataclass(frozen=True)
class Metrics:
    """All metrics of one evaluation."""

    images: int
    top1: Proportion
    top5: Proportion
    loss: float  # mean negative log-likelihood, natural logarithm
    brier: float  # Brier score: mean squared distance of probabilities from one-hot labels, 0 to 2
    macro: MacroAverage
    per_class: PerClass
    confusion: Ints  # (classes, classes): rows true, columns predicted
    calibration: Calibration


def measure(logits: Floats, labels: Ints, *, bins: int = 15) -> Metrics:
    """Metrics of logits (N, classes) against labels (N), class indices; N at least 1."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = np.arange(logits.shape[1])
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    predicted = logits.argmax(1)
    ranks = ranks_of(logits, labels)
    per_class = PerClass(
        *precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    )
    # scikit-learn counts in floats if no prediction is right
    per_class = replace(per_class, support=per_class.support.astype(np.int64))
    averaged = per_class.precision, per_class.recall, per_class.f1
    own = np.arange(len(labels))
    squared = (probabilities**2).sum(1) - 2 * probabilities[own, labels] + 1
    return Metrics(
        images=len(labels),
        top1=proportion(int((ranks < 1).sum()), len(labels)),
        top5=proportion(int((ranks < 5).sum()), len(labels)),
        loss=float(-log_probabilities[own, labels].mean()),
        brier=float(squared.mean()),
        macro=MacroAverage(*(float(each[per_class.support > 0].mean()) for each in averaged)),
        per_class=per_class,
        confusion=confusion_matrix(labels, predicted, labels=classes),
        calibration=calibration(probabilities.max(1), predicted == labels, bins=bins),
    )


def proportion(hits: int, count: int) -> Proportion:
    """`hits` of `count` images as a fraction, with Wilson's interval."""
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return Proportion(hits / count, float(interval.low), float(interval.high))


def ranks_of(logits: Floats, labels: Ints) -> Ints:
    """The rank of each label, (N), from 0; of equal logits the lower index comes first."""
    true = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    ranks: Ints = ((logits > true) | ((logits == true) & before)).sum(1)
    return ranks


def calibration(confidence: Floats, correct: NDArray[np.bool_], *, bins: int) -> Calibration:
    """Calibration of predictions by their confidence (N), 0 to 1, and whether they are correct."""
    edges = np.linspace(0, 1, bins + 1)
    # a bin includes its upper edge, and the first one 0 too
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = np.maximum(counts, 1)
    mean_confidence = np.bincount(which, confidence, minlength=bins) / filled
    accuracy = np.bincount(which, correct, minlength=bins) / filled
    gaps = np.abs(accuracy - mean_confidence)
    return Calibration(
        expected_error=float((gaps * counts).sum() / len(confidence)),
        maximum_error=float(gaps[counts > 0].max()),
        confidence=mean_confidence,
        accuracy=accuracy,
        counts=counts.astype(np.int64),
    )


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The divisor of the logits, 0.01 to 100, that gives the lowest loss (arXiv 1706.04599, 4.2).

    The loss is convex in its inverse, so a bounded search finds the only minimum.
    """
    from scipy.optimize import minimize_scalar

    own = np.arange(len(labels))

    def loss(inverse_log: float) -> float:
        return float(-log_softmax(logits * np.exp(inverse_log))[own, labels].mean())

    found = minimize_scalar(loss, bounds=(-np.log(100), np.log(100)), method="bounded")
    return float(np.exp(-found.x))


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities, over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
