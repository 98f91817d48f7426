"""Every figure against scikit-learn's, netcal's or one written down here, on random answers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as reference_log_softmax
from scipy.special import softmax
from sklearn import metrics as sklearn

from resnest_cli.evaluation.metrics import calibrate, fit_temperature, measure, share


@st.composite
def answers(draw):
    """Logits and truths of 1 to 300 pictures and 2 to 12 classes, some never seen or predicted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, classes = draw(st.integers(1, 300)), draw(st.integers(2, 12))
    truths = rng.integers(0, draw(st.integers(1, classes)), count)
    logits = rng.normal(0, draw(st.sampled_from([0.1, 1, 5])), (count, classes))
    logits[np.arange(count), truths] += draw(st.sampled_from([0, 1, 4]))
    return logits.astype(np.float32), truths


@given(answers())
@settings(deadline=None)
def test_figures_are_scikit_learns(given_answers):
    logits, truths = given_answers
    classes = np.arange(logits.shape[1])
    found = measure(logits, truths)
    predicted = logits.argmax(1)
    assert found.pictures == len(truths)
    assert found.top1.value == pytest.approx(sklearn.accuracy_score(truths, predicted))
    if len(classes) > 5:
        top5 = sklearn.top_k_accuracy_score(truths, logits, k=5, labels=classes)
        assert found.top5.value == pytest.approx(top5)
    else:
        assert found.top5.value == 1
    seen = np.unique(truths)
    for mine, score in zip(
        found.macro, (sklearn.precision_score, sklearn.recall_score, sklearn.f1_score), strict=True
    ):
        theirs = score(truths, predicted, labels=seen, average="macro", zero_division=0)
        assert mine == pytest.approx(theirs)
    each = sklearn.classification_report(
        truths, predicted, labels=classes, output_dict=True, zero_division=0
    )
    for index in classes:
        mine = [
            getattr(found.per_class, n)[index] for n in ("precision", "recall", "f1", "support")
        ]
        theirs = [each[str(index)][n] for n in ("precision", "recall", "f1-score", "support")]
        assert mine == pytest.approx(theirs)
    matrix = sklearn.confusion_matrix(truths, predicted, labels=classes)
    assert (found.confusion == matrix).all()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    loss = sklearn.log_loss(truths, probabilities, labels=classes)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    squared = (probabilities - np.eye(len(classes))[truths]) ** 2
    assert found.brier == pytest.approx(squared.sum(1).mean())


def expected_and_maximum_error(confidence, right, bins):
    """Both by the formulas of arXiv 1706.04599, section 2, picture by picture."""
    gaps, total = [], 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (c, r)
            for c, r in zip(confidence, right, strict=True)
            if low < c <= high or (number == 0 and c == 0)
        ]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            gaps.append(abs(accuracy - sum(c for c, _ in inside) / len(inside)))
            total += gaps[-1] * len(inside)
    return total / len(confidence), max(gaps)


@given(answers(), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_calibration_is_that_of_its_definition(given_answers, bins):
    logits, truths = given_answers
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truths
    found = calibrate(confidence, right, bins=bins)
    ece, mce = expected_and_maximum_error(confidence.tolist(), right.tolist(), bins)
    assert found.expected_error == pytest.approx(ece, abs=1e-9)
    assert found.maximum_error == pytest.approx(mce, abs=1e-9)
    assert found.counts.sum() == len(truths)


@given(answers(), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_calibration_is_netcals(given_answers, bins):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "netcal is not installed; it brings much along, so it is no development dependency"
        netcal = pytest.importorskip("netcal.metrics", reason=reason)
    logits, truths = given_answers
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truths
    found = calibrate(confidence, right, bins=bins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # as one class, confident or not: netcal reads N numbers as probabilities of class 1
        ece = netcal.ECE(bins, detection=True).measure(confidence, right.astype(int))
        mce = netcal.MCE(bins, detection=True).measure(confidence, right.astype(int))
    assert found.expected_error == pytest.approx(ece, abs=1e-9)
    assert found.maximum_error == pytest.approx(mce, abs=1e-9)


def test_calibration_by_hand():
    found = calibrate(np.array([0.2, 0.9, 0.95, 1.0]), np.array([True, True, False, True]), bins=2)
    assert found.counts.tolist() == [1, 3]
    assert found.confidence == pytest.approx([0.2, 0.95])
    assert found.accuracy == pytest.approx([1, 2 / 3])
    assert found.expected_error == pytest.approx((0.8 + 3 * (0.95 - 2 / 3)) / 4)
    assert found.maximum_error == pytest.approx(0.8)


def test_a_bin_holds_its_upper_edge():
    found = calibrate(np.array([0.0, 0.5, 0.75]), np.array([True, True, True]), bins=2)
    assert found.counts.tolist() == [2, 1]


def test_intervals_are_wilsons():
    z = 1.959963984540054
    for hits, count in ((0, 10), (7, 10), (9_120, 10_000)):
        p = hits / count
        middle = (p + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * (p * (1 - p) / count + z * z / (4 * count**2)) ** 0.5
        found = share(hits, count)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-9)


@given(answers(), st.floats(0.2, 5))
@settings(deadline=None, max_examples=30)
def test_no_temperature_has_a_lower_loss(given_answers, other):
    logits, truths = given_answers
    own = np.arange(len(truths))

    def loss(temperature):
        return -reference_log_softmax(logits.astype(np.float64) / temperature, axis=1)[
            own, truths
        ].mean()

    assert loss(fit_temperature(logits, truths)) <= loss(other) + 1e-6
