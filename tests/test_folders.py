"""Labelled pictures as people keep them, right and wrong."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnest_cli.errors import DatasetError
from resnest_cli.folders import (
    LabelledPictures,
    find_parts,
    find_unreadable,
    match_validation,
    read_class_folders,
    read_truths,
    split,
    without_empty_classes,
)
from tests.conftest import drawn


def make(folder, **classes):
    """Class folders with so many pictures each."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            drawn(40, 32, seed=number).save(folder / name / f"{number:02}.png")
    return folder


def test_classes_are_sorted_and_searched_to_any_depth(tmp_path):
    make(tmp_path, zebra=2, ant=1)
    (tmp_path / "zebra" / "deep" / "er").mkdir(parents=True)
    drawn(40, 32).save(tmp_path / "zebra" / "deep" / "er" / "x.jpg")
    (tmp_path / "zebra" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    found = read_class_folders(tmp_path)
    assert found.classes == ("ant", "zebra")
    assert found.counts() == (1, 3)


def test_empty_classes_are_known_and_left_out(tmp_path):
    make(tmp_path, a=2, b=0, c=1)
    found = read_class_folders(tmp_path)
    assert found.classes == ("a", "b", "c")
    kept, empty = without_empty_classes(found)
    assert (kept.classes, kept.targets, empty) == (("a", "c"), (0, 0, 1), ["b"])


@pytest.mark.parametrize(
    ("classes", "words"), [({}, "it is empty"), ({"a": 0}, "hold no picture")], ids=str
)
def test_folders_without_pictures(tmp_path, classes, words):
    make(tmp_path / "data", **classes) if classes else (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError, match=words):
        read_class_folders(tmp_path / "data")


def test_pictures_side_by_side_are_no_class_folders(tmp_path):
    drawn(40, 32).save(tmp_path / "x.png")
    with pytest.raises(DatasetError, match="side by side"):
        read_class_folders(tmp_path)
    with pytest.raises(DatasetError, match="is not there"):
        read_class_folders(tmp_path / "none")
    with pytest.raises(DatasetError, match="is a file"):
        read_class_folders(tmp_path / "x.png")


def test_train_and_val_below_the_folder_are_found(tmp_path):
    assert find_parts(tmp_path, None) == (tmp_path, None)
    (tmp_path / "train").mkdir()
    assert find_parts(tmp_path, None) == (tmp_path, None)  # a class that is called so
    (tmp_path / "train" / "a").mkdir()
    assert find_parts(tmp_path, None) == (tmp_path / "train", None)
    for name in ("test", "val"):
        (tmp_path / name).mkdir()
        assert find_parts(tmp_path, None) == (tmp_path / "train", tmp_path / name)
    assert find_parts(tmp_path, tmp_path / "mine") == (tmp_path / "train", tmp_path / "mine")


def test_a_class_that_is_not_learned_cannot_be_validated(tmp_path):
    train = read_class_folders(make(tmp_path / "train", a=2, b=2))
    val = read_class_folders(make(tmp_path / "val", b=1, c=1))
    with pytest.raises(DatasetError, match="'c' of the validation pictures is no class"):
        match_validation(train, val)
    good = match_validation(train, read_class_folders(make(tmp_path / "other", b=2)))
    assert (good.classes, good.targets) == (("a", "b"), (1, 1))


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_a_split_holds_its_share_of_each_class(counts, share, seed):
    paths = [f"data/{c}/{n}.jpg" for c, count in enumerate(counts) for n in range(count)]
    targets = [c for c, count in enumerate(counts) for _ in range(count)]
    whole = LabelledPictures(tuple(map(str, range(len(counts)))), tuple(paths), tuple(targets))
    train, val = split(whole, share, seed)
    assert sorted(train.paths + val.paths) == sorted(paths)
    for count, learned, held in zip(counts, train.counts(), val.counts(), strict=True):
        assert learned >= 1
        assert held == min(max(round(share * count), 1), count - 1)
    assert split(whole, share, seed) == (train, val)


def test_a_picture_stays_on_its_side_wherever_the_folder_lies(tmp_path):
    def names(root):
        paths = tuple(f"{root}/c/{n}.jpg" for n in range(50))
        return {p[-6:] for p in split(LabelledPictures(("c",), paths, (0,) * 50), 0.2, 3)[1].paths}

    assert names("here") == names("/else/where")


def test_unreadable_pictures_are_found_with_their_reasons(tmp_path):
    folder = make(tmp_path, a=3)
    broken = folder / "a" / "01.png"
    broken.write_bytes(broken.read_bytes()[:200])
    paths = [str(p) for p in sorted((folder / "a").iterdir())]
    seen = []
    assert list(find_unreadable(paths, workers=2, advance=lambda: seen.append(1))) == [str(broken)]
    assert len(seen) == 3


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
def test_lists_of_truths(tmp_path, text, classes, targets):
    (tmp_path / "flat").mkdir()
    for number in range(2):
        drawn(40, 32).save(tmp_path / "flat" / f"val_{number}.png")
    (tmp_path / "truths").write_text(text)
    found = read_truths(tmp_path / "truths", tmp_path / "flat")
    assert (found.classes, found.targets) == (classes, targets)


def test_pictures_of_any_name_are_found_in_a_list(tmp_path):
    (tmp_path / "flat").mkdir()
    name = os.fsdecode(b"\xe9t\xe9.png")  # Latin-1
    try:
        drawn(40, 32).save(tmp_path / "flat" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "truths").write_bytes(b"\xe9t\xe9.png,summer\n")
    assert read_truths(tmp_path / "truths", tmp_path / "flat").classes == ("summer",)


@pytest.mark.parametrize("text", [b"val_0.png,\xe9t\xe9\n", "val_0.png,cat\n".encode("utf-16")])
def test_lists_that_are_not_utf8(tmp_path, text):
    (tmp_path / "flat").mkdir()
    drawn(40, 32).save(tmp_path / "flat" / "val_0.png")
    (tmp_path / "truths").write_bytes(text)
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_truths(tmp_path / "truths", tmp_path / "flat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val_0.png,cat\nnone.png,dog\n", "none.png"),
        ("none.png 3\nval_0.png 4\n", "1 of the 2"),
        ("val_0.png\n", "line 1"),
        ("val_0.png,cat\nval_0.png,dog\n", "'val_0.png' more than once"),
        ("490\n361\n", "LOC_val_solution.csv"),
        ("", "no picture"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, words):
    (tmp_path / "flat").mkdir()
    drawn(40, 32).save(tmp_path / "flat" / "val_0.png")
    (tmp_path / "truths").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_truths(tmp_path / "truths", tmp_path / "flat")


@pytest.mark.parametrize("parts", [("train", "val"), ("Training", "Testing")])
def test_parts_of_a_data_set_are_no_classes(tmp_path, parts):
    make(tmp_path / "data", **dict.fromkeys(parts, 1))
    with pytest.raises(DatasetError, match="parts of a data set, not classes"):
        read_class_folders(tmp_path / "data")
    make(tmp_path / "vehicles", train=1, bus=1)  # a train may be a train
    assert read_class_folders(tmp_path / "vehicles").classes == ("bus", "train")


def test_a_level_too_high_is_noticed(tmp_path):
    make(tmp_path / "data" / "photos", a=1, b=1)
    with pytest.raises(DatasetError, match=r"then give '.*photos'"):
        read_class_folders(tmp_path / "data")
