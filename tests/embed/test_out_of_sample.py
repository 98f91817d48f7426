"""Folds, probabilities and neighbours, without a network."""

import numpy as np
import pytest

from resnest_cli.embed.audit import wrong_labels
from resnest_cli.embed.neighbours import neighbours, outliers
from resnest_cli.embed.out_of_sample import deal, probabilities


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 40)
    features = np.eye(3)[targets] @ rng.normal(0, 1, (3, 16)) * 2 + rng.normal(0, 1, (120, 16))
    marks = [b"%d" % i for i in range(120)]
    return features.astype(np.float32), targets, marks


def test_folds_are_balanced_keep_copies_together_and_know_no_order(blobs):
    _, targets, marks = blobs
    marks[7] = marks[3]
    fold = deal(marks, targets, 5, 0)
    assert fold[7] == fold[3]
    for target in range(3):
        assert set(np.bincount(fold[targets == target], minlength=5)) <= {7, 8, 9}
    order = np.random.default_rng(1).permutation(120)
    again = deal([marks[i] for i in order], targets[order], 5, 0)
    assert (again == fold[order]).all()
    assert (deal(marks, targets, 5, 1) != fold).any()


def test_probabilities_do_not_know_the_label_that_they_judge(blobs):
    features, targets, marks = blobs
    given = probabilities(features, targets, marks, folds=5, seed=0)
    assert np.allclose(given.sum(1), 1)
    spoiled = targets.copy()
    spoiled[10] = 2
    other = probabilities(features, spoiled, marks, folds=5, seed=0)
    assert other[10].argmax() == 0
    assert list(np.flatnonzero(wrong_labels(spoiled, other))) == [10]
    copied = np.concatenate([features, features[10:11]])  # whose wrong label would defend it
    labels, known = np.append(spoiled, 2), [*marks, marks[10]]
    both = probabilities(copied, labels, known, folds=5, seed=0)
    assert both[10].argmax() == both[120].argmax() == 0


def test_neighbours_are_those_of_the_whole_matrix(blobs):
    features = blobs[0]
    groups = np.arange(120)
    groups[1] = 0
    indices, similarities = neighbours(features, groups, 4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    whole = unit @ unit.T
    whole[groups[:, None] == groups] = -2
    expected = np.argsort(-whole, axis=1, kind="stable")[:, :4]
    assert (indices == expected).all()
    assert np.allclose(similarities, np.take_along_axis(whole, expected, 1), atol=1e-6)


def test_where_there_are_too_few_neighbours_they_are_missing():
    indices, similarities = neighbours(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), 4)
    assert indices.tolist() == [[2, -1, -1, -1], [2, -1, -1, -1], [0, 1, -1, -1]]
    distance, far = outliers(similarities)
    assert distance.tolist() == [1, 1, 1]
    assert not far.any()
    assert not outliers(np.full((2, 3), np.nan, np.float32))[1].any()


def test_a_single_wrong_label_among_sure_ones_is_reported():
    given = np.full((40, 2), 0.02)
    targets = np.arange(40) % 2
    given[np.arange(40), targets] = 0.98
    given[6] = 0.015, 0.9
    assert list(np.flatnonzero(wrong_labels(targets, given))) == [6]
