"""Every metric against scikit-learn, netcal or its formula, on random logits."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as reference_log_softmax
from scipy.special import softmax
from sklearn import metrics as sklearn

from resnest_cli.evaluation.metrics import calibration, fit_temperature, measure, proportion


@st.composite
def outputs(draw):
    """Logits and labels of 1 to 300 images and 2 to 12 classes, some never seen or predicted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, classes = draw(st.integers(1, 300)), draw(st.integers(2, 12))
    labels = rng.integers(0, draw(st.integers(1, classes)), count)
    logits = rng.normal(0, draw(st.sampled_from([0.1, 1, 5])), (count, classes))
    logits[np.arange(count), labels] += draw(st.sampled_from([0, 1, 4]))
    return logits.astype(np.float32), labels


@given(outputs())
@settings(deadline=None)
def test_metrics_equal_scikit_learns(drawn_outputs):
    logits, labels = drawn_outputs
    classes = np.arange(logits.shape[1])
    found = measure(logits, labels)
    predicted = logits.argmax(1)
    assert found.images == len(labels)
    assert found.top1.value == pytest.approx(sklearn.accuracy_score(labels, predicted))
    if len(classes) > 5:
        top5 = sklearn.top_k_accuracy_score(labels, logits, k=5, labels=classes)
        assert found.top5.value == pytest.approx(top5)
    else:
        assert found.top5.value == 1
    seen = np.unique(labels)
    for mine, score in zip(
        (found.macro.precision, found.macro.recall, found.macro.f1),
        (sklearn.precision_score, sklearn.recall_score, sklearn.f1_score),
        strict=True,
    ):
        theirs = score(labels, predicted, labels=seen, average="macro", zero_division=0)
        assert mine == pytest.approx(theirs)
    each = sklearn.classification_report(
        labels, predicted, labels=classes, output_dict=True, zero_division=0
    )
    for index in classes:
        mine = [
            getattr(found.per_class, n)[index] for n in ("precision", "recall", "f1", "support")
        ]
        theirs = [each[str(index)][n] for n in ("precision", "recall", "f1-score", "support")]
        assert mine == pytest.approx(theirs)
    matrix = sklearn.confusion_matrix(labels, predicted, labels=classes)
    assert (found.confusion == matrix).all()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    loss = sklearn.log_loss(labels, probabilities, labels=classes)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    squared = (probabilities - np.eye(len(classes))[labels]) ** 2
    assert found.brier == pytest.approx(squared.sum(1).mean())


def expected_and_maximum_error(confidence, correct, bins):
    """Both by the formulas of arXiv 1706.04599, section 2, image by image."""
    gaps, total = [], 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if low < c <= high or (number == 0 and c == 0)
        ]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            gaps.append(abs(accuracy - sum(c for c, _ in inside) / len(inside)))
            total += gaps[-1] * len(inside)
    return total / len(confidence), max(gaps)


@given(outputs(), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_calibration_errors_follow_their_formulas(drawn_outputs, bins):
    logits, labels = drawn_outputs
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    found = calibration(confidence, correct, bins=bins)
    ece, mce = expected_and_maximum_error(confidence.tolist(), correct.tolist(), bins)
    assert found.expected_error == pytest.approx(ece, abs=1e-9)
    assert found.maximum_error == pytest.approx(mce, abs=1e-9)
    assert found.counts.sum() == len(labels)


@given(outputs(), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_calibration_errors_equal_netcals(drawn_outputs, bins):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "netcal is not installed; it has many dependencies, so it is optional"
        netcal = pytest.importorskip("netcal.metrics", reason=reason)
    logits, labels = drawn_outputs
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    found = calibration(confidence, correct, bins=bins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # as one class, confident or not: netcal reads N numbers as probabilities of class 1
        ece = netcal.ECE(bins, detection=True).measure(confidence, correct.astype(int))
        mce = netcal.MCE(bins, detection=True).measure(confidence, correct.astype(int))
    assert found.expected_error == pytest.approx(ece, abs=1e-9)
    assert found.maximum_error == pytest.approx(mce, abs=1e-9)


def test_calibration_by_hand():
    found = calibration(
        np.array([0.2, 0.9, 0.95, 1.0]), np.array([True, True, False, True]), bins=2
    )
    assert found.counts.tolist() == [1, 3]
    assert found.confidence == pytest.approx([0.2, 0.95])
    assert found.accuracy == pytest.approx([1, 2 / 3])
    assert found.expected_error == pytest.approx((0.8 + 3 * (0.95 - 2 / 3)) / 4)
    assert found.maximum_error == pytest.approx(0.8)


def test_a_bin_includes_its_upper_edge():
    found = calibration(np.array([0.0, 0.5, 0.75]), np.array([True, True, True]), bins=2)
    assert found.counts.tolist() == [2, 1]


def test_intervals_follow_wilsons_formula():
    z = 1.959963984540054
    for hits, count in ((0, 10), (7, 10), (9_120, 10_000)):
        p = hits / count
        middle = (p + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * (p * (1 - p) / count + z * z / (4 * count**2)) ** 0.5
        found = proportion(hits, count)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-9)


@given(outputs(), st.floats(0.2, 5))
@settings(deadline=None, max_examples=30)
def test_no_temperature_has_a_lower_loss(drawn_outputs, other):
    logits, labels = drawn_outputs
    own = np.arange(len(labels))

    def loss(temperature):
        return -reference_log_softmax(logits.astype(np.float64) / temperature, axis=1)[
            own, labels
        ].mean()

    assert loss(fit_temperature(logits, labels)) <= loss(other) + 1e-6


def test_images_are_counted_in_whole_numbers_though_all_are_wrong():
    found = measure(np.eye(3, dtype=np.float32), np.array([1, 2, 0]))
    assert [repr(count.item()) for count in found.per_class.support] == ["1", "1", "1"]
