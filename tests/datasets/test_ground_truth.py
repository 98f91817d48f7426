"""Lists of names and classes as people write them, right and wrong."""

import os

import pytest

from resnest_cli.datasets.labelled_folder import read_ground_truth
from resnest_cli.errors import DatasetError
from tests.conftest import drawn

KAGGLE = (
    "ImageId,PredictionString\nval_1,n02111889 1 2 3 4 n02111889 5 6 7 8\nval_0,n01440764 1 2 3 4\n"
)


@pytest.mark.parametrize(
    ("text", "classes", "targets"),
    [
        ("val_0.png 65\nval_1.png 970\n", ("65", "970"), (0, 1)),
        ("val_0.png\tcat\nval_1.png\tdog\n", ("cat", "dog"), (0, 1)),
        ("val_0.png  a cat\nval_1.png   a dog\n", ("a cat", "a dog"), (0, 1)),
        ("file,class\nval_0.png,a cat\nval_1.png,a dog\n", ("a cat", "a dog"), (0, 1)),
        (KAGGLE, ("n01440764", "n02111889"), (1, 0)),
        (
            "file,class\nval_0.png,n01440764 tench\nval_1.png,n02111889 dog 2\n",
            ("n01440764 tench", "n02111889 dog 2"),
            (0, 1),
        ),
    ],
    ids=["val.txt", "tabs", "spaces", "heading", "kaggle", "id and name"],
)
def test_lists_as_people_write_them(tmp_path, text, classes, targets):
    (tmp_path / "flat").mkdir()
    for number in range(2):
        drawn(40, 32).save(tmp_path / "flat" / f"val_{number}.png")
    (tmp_path / "list").write_text(text)
    found = read_ground_truth(tmp_path / "list", tmp_path / "flat")
    assert (found.classes, found.targets) == (classes, targets)


def test_names_that_are_not_utf8_are_found(tmp_path):
    (tmp_path / "flat").mkdir()
    name = os.fsdecode(b"\xe9t\xe9.png")  # Latin-1
    try:
        drawn(40, 32).save(tmp_path / "flat" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "list").write_bytes(b"\xe9t\xe9.png,summer\n")
    assert read_ground_truth(tmp_path / "list", tmp_path / "flat").classes == ("summer",)


@pytest.mark.parametrize("text", [b"val_0.png,\xe9t\xe9\n", "val_0.png,cat\n".encode("utf-16")])
def test_lists_that_are_not_utf8(tmp_path, text):
    (tmp_path / "flat").mkdir()
    drawn(40, 32).save(tmp_path / "flat" / "val_0.png")
    (tmp_path / "list").write_bytes(text)
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_ground_truth(tmp_path / "list", tmp_path / "flat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val_0.png,cat\nnone.png,dog\n", "none.png"),
        ("none.png 3\nval_0.png 4\n", "1 of the 2"),
        ("val_0.png\n", "line 1"),
        ("val_0.png,cat\nval_0.png,dog\n", "'val_0.png' more than once"),
        ("490\n361\n", "LOC_val_solution.csv"),
        ("", "no image"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, words):
    (tmp_path / "flat").mkdir()
    drawn(40, 32).save(tmp_path / "flat" / "val_0.png")
    (tmp_path / "list").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_ground_truth(tmp_path / "list", tmp_path / "flat")
