"""Truths find their classes, however people call them."""

import numpy as np
import pytest

from resnest_cli.errors import DatasetError
from resnest_cli.folders import LabelledPictures
from resnest_cli.labels import Labels, imagenet1k
from resnest_cli.matching import match, targets


@pytest.mark.parametrize(
    "name",
    [
        "Samoyed",
        "samoyed",
        "n02111889",
        "n02111889_samoyed",
        "n02111889-Samoyed",
        "n02111889 dog",
        "258",
    ],
)
def test_names_ids_and_indices(name):
    assert match([name], imagenet1k()) == [258]


def test_every_imagenet_class_finds_itself():
    labels = imagenet1k()
    everyone = list(range(1000))
    assert match(labels.names, labels) == everyone
    assert match(labels.wnids, labels) == everyone
    assert match([name.replace(" ", "_") for name in labels.names], labels) == everyone
    assert match(list(map(str, everyone)), labels) == everyone


def test_a_name_goes_before_an_index():
    assert match(["1", "0", "2"], Labels(("0", "2", "1"))) == [2, 0, 1]


def test_what_means_two_classes_means_none():
    assert match(["A_B", "a b"], Labels(("A b", "a-B", "c"))) == [None, None]


def test_signs_that_make_names_differ_are_kept():
    assert match(["C#", "c++", "-"], Labels(("C++", "java", "+"))) == [None, 0, None]


def test_names_that_are_numbers_leave_no_room_for_indices():
    assert match(["2", "7"], Labels(("3", "5", "7"))) == [None, 2]


def test_unknown_classes():
    data = LabelledPictures(("cat", "dog"), ("1", "2", "3"), (0, 1, 1))
    with pytest.raises(DatasetError, match=r"1 of 2 classes .*'cat'.*\n.*--skip-unknown"):
        targets(data, Labels(("dog", "bird")))
    kept, truths = targets(data, Labels(("bird", "dog")), skip_unknown=True)
    assert (kept.paths, truths.tolist()) == (("2", "3"), [1, 1])
    assert truths.dtype == np.int64
    with pytest.raises(DatasetError, match="2 of 2"):
        targets(data, Labels(("bird",)), skip_unknown=True)
