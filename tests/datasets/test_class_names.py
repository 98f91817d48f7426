"""Names find the class they mean, however people write them."""

import numpy as np
import pytest

from resnest_cli.catalog.labels import Labels, imagenet1k, numbered
from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.datasets.class_names import match, match_images
from resnest_cli.errors import DatasetError


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
def test_names_wordnet_ids_and_indices(name):
    assert match([name], imagenet1k()) == [258]


def test_every_imagenet_class_is_matched_in_every_form():
    labels = imagenet1k()
    everyone = list(range(1000))
    assert match(labels.names, labels) == everyone
    assert match(labels.wnids, labels) == everyone
    assert match([name.replace(" ", "_") for name in labels.names], labels) == everyone
    assert match(list(map(str, everyone)), labels) == everyone


def test_names_are_tried_before_indices():
    assert match(["1", "0", "2"], Labels(("0", "2", "1"))) == [2, 0, 1]


def test_an_ambiguous_name_matches_nothing():
    assert match(["A_B", "a b"], Labels(("A b", "a-B", "c"))) == [None, None]


def test_punctuation_in_names_counts():
    assert match(["C#", "c++", "-"], Labels(("C++", "java", "+"))) == [None, 0, None]


def test_numbers_are_names_if_a_class_name_is_a_number():
    assert match(["2", "7"], Labels(("3", "5", "7"))) == [None, 2]


def test_unknown_classes_are_an_error_unless_skipped(caplog):
    data = LabelledImages(("cat", "dog"), ("1", "2", "3"), (0, 1, 1))
    with pytest.raises(DatasetError, match=r"1 class .* of 2: 'cat'.*\n.*`skip_unknown`"):
        match_images(data, Labels(("dog", "bird")))
    kept, indices = match_images(data, Labels(("bird", "dog")), skip_unknown=True)
    assert "1 image of 1 class that the network lacks left out: 'cat'" in caplog.text
    assert (kept.paths, indices.tolist()) == (("2", "3"), [1, 1])
    assert indices.dtype == np.int64
    with pytest.raises(DatasetError, match="2 classes"):
        match_images(data, Labels(("bird",)), skip_unknown=True)


NFC, NFD = "L\xf6we", "Lo\u0308we"
MIXED = "\u1e69", "s\u0323\u0307", "\u1e61\u0323"  # one letter with two marks, in three forms


def test_the_other_form_of_unicode_is_the_same_name():
    assert match([NFC, NFD, NFD.lower()], Labels(("Hund", NFC))) == [1, 1, 1]
    assert match([NFC], Labels((NFD, "Hund"))) == [0]


def test_a_name_that_is_equal_comes_before_one_in_another_form():
    assert match([NFC, NFD], Labels((NFD, NFC))) == [1, 0]


def test_several_names_in_other_forms_are_an_error():
    with pytest.raises(DatasetError, match="ambiguous: 2 names"):
        match(MIXED[:1], Labels(MIXED[1:]))


def test_spaces_around_a_name_count_if_a_class_has_them():
    assert match([" lead", "lead", " plain"], Labels(("lead", " lead", "plain"))) == [1, 0, 2]


def test_a_network_without_class_names_can_be_given_some():
    data = LabelledImages(("cat", "dog"), ("1", "2"), (0, 1))
    with pytest.raises(DatasetError, match=r"\nuse `labels=FILE` for class names, which the check"):
        match_images(data, numbered(2))
    numbers = LabelledImages(("0", "class 1"), ("1", "2"), (0, 1))
    assert match_images(numbers, numbered(2))[1].tolist() == [0, 1]
