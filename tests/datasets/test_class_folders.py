"""Class folders as people keep them, right and wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnest_cli.datasets.class_folders import (
    LabelledImages,
    check_output_outside,
    find_splits,
    find_unreadable,
    read_class_folders,
    split,
    validate_classes,
)
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.inputs.source import as_source
from resnest_cli.progress import Progress
from tests.conftest import drawn


class Calls(Progress):
    """Records what is reported."""

    def __init__(self):
        self.calls = []

    def start(self, task, done=0):
        self.calls.append(f"start {task}")

    def total(self, count):
        self.calls.append(f"total {count}")

    def advance(self):
        self.calls.append("advance")

    def finish(self):
        self.calls.append("finish")


def make(folder, **classes):
    """Class folders with N images each."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            drawn(40, 32, seed=number).save(folder / name / f"{number:02}.png")
    return folder


def test_classes_are_sorted_by_name_and_searched_to_any_depth(tmp_path):
    make(tmp_path, zebra=2, ant=1)
    (tmp_path / "zebra" / "deep" / "er").mkdir(parents=True)
    drawn(40, 32).save(tmp_path / "zebra" / "deep" / "er" / "x.jpg")
    (tmp_path / "zebra" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    found = read_class_folders(tmp_path)
    assert found.classes == ("ant", "zebra")
    assert found.counts() == (1, 3)


def test_empty_classes_can_be_left_out(tmp_path):
    make(tmp_path, a=2, b=0, c=1)
    found = read_class_folders(tmp_path)
    assert found.classes == ("a", "b", "c")
    assert found.used_classes == ("a", "c")
    assert found.with_classes(("a", "c")).targets == (0, 0, 1)


@pytest.mark.parametrize(
    ("classes", "words"), [({}, "it is empty"), ({"a": 0}, "hold no image")], ids=str
)
def test_class_folders_without_images(tmp_path, classes, words):
    make(tmp_path / "data", **classes) if classes else (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError, match=words):
        read_class_folders(tmp_path / "data")


def test_a_folder_of_images_has_no_class_folders(tmp_path):
    drawn(40, 32).save(tmp_path / "x.png")
    with pytest.raises(DatasetError, match="side by side"):
        read_class_folders(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_class_folders(tmp_path / "none")
    with pytest.raises(DatasetError, match="is a file"):
        read_class_folders(tmp_path / "x.png")


def test_train_and_val_folders_are_found(tmp_path):
    assert find_splits(tmp_path, None) == (tmp_path, None)
    (tmp_path / "train").mkdir()
    assert find_splits(tmp_path, None) == (tmp_path, None)  # a class that is called so
    (tmp_path / "train" / "a").mkdir()
    assert find_splits(tmp_path, None) == (tmp_path / "train", None)
    for name in ("test", "val"):
        (tmp_path / name).mkdir()
        assert find_splits(tmp_path, None) == (tmp_path / "train", tmp_path / name)
    assert find_splits(tmp_path, tmp_path / "mine") == (tmp_path / "train", tmp_path / "mine")


def test_every_validation_class_needs_training_images(tmp_path):
    train = read_class_folders(make(tmp_path / "train", a=2, b=2))
    val = read_class_folders(make(tmp_path / "val", b=1, c=1))
    with pytest.raises(DatasetError, match="classes without training images: 'c'"):
        validate_classes(train, val)
    other = read_class_folders(make(tmp_path / "other", b=2))
    validate_classes(train, other)
    good = other.with_classes(train.classes)
    assert (good.classes, good.targets) == (("a", "b"), (1, 1))


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_a_split_takes_its_fraction_of_each_class(counts, fraction, seed):
    paths = [f"data/{c}/{n}.jpg" for c, count in enumerate(counts) for n in range(count)]
    targets = [c for c, count in enumerate(counts) for _ in range(count)]
    whole = LabelledImages(tuple(map(str, range(len(counts)))), tuple(paths), tuple(targets))
    train, val = split(whole, fraction, seed)
    assert sorted(train.paths + val.paths) == sorted(paths)
    for count, trained, held_out in zip(counts, train.counts(), val.counts(), strict=True):
        assert trained >= 1
        assert held_out == min(max(round(fraction * count), 1), count - 1)
    assert split(whole, fraction, seed) == (train, val)


def test_an_image_is_in_the_same_set_wherever_the_folder_is(tmp_path):
    def names(root):
        paths = tuple(f"{root}/c/{n}.jpg" for n in range(50))
        return {p[-6:] for p in split(LabelledImages(("c",), paths, (0,) * 50), 0.2, 3)[1].paths}

    assert names("here") == names("/else/where")


def test_a_split_stays_the_same_in_every_version():
    images = LabelledImages(("c",), tuple(f"x/c/{n}.jpg" for n in range(10)), (0,) * 10)
    _, held_out = split(images, 0.3, seed=0)
    assert held_out.paths == ("x/c/0.jpg", "x/c/1.jpg", "x/c/7.jpg")
    assert images.digest().startswith("c985d344a5a14204")  # resuming a training compares it


def test_training_needs_two_classes_with_images(tmp_path):
    one = read_class_folders(make(tmp_path / "one", a=2, b=0))
    with pytest.raises(DatasetError, match="at least two classes; found only 'a'"):
        validate_classes(one, None)
    two = read_class_folders(make(tmp_path / "two", a=1, b=1))
    validate_classes(two, one)
    with pytest.raises(DatasetError, match="without training images: 'b'"):
        validate_classes(one, two)


def test_an_output_folder_among_the_images_is_refused(tmp_path):
    check_output_outside(tmp_path / "report", [tmp_path / "data", None])
    with pytest.raises(UsageError, match=r"`output` must be outside the images"):
        check_output_outside(tmp_path / "data" / "report", [tmp_path / "data"])


def test_unreadable_images_are_found_with_the_reason(tmp_path):
    folder = make(tmp_path, a=3)
    broken = folder / "a" / "01.png"
    broken.write_bytes(broken.read_bytes()[:200])
    paths = [str(p) for p in sorted((folder / "a").iterdir())]
    progress = Calls()
    found = find_unreadable([as_source(path) for path in paths], workers=2, progress=progress)
    assert list(found) == [str(broken)]
    assert "truncated" in found[str(broken)]
    assert progress.calls == ["start checking images", "total 3", *["advance"] * 3, "finish"]


@pytest.mark.parametrize("splits", [("train", "val"), ("Training", "Testing")])
def test_the_splits_of_a_dataset_are_not_classes(tmp_path, splits):
    make(tmp_path / "data", **dict.fromkeys(splits, 1))
    with pytest.raises(DatasetError, match="splits of a dataset, not classes"):
        read_class_folders(tmp_path / "data")
    make(tmp_path / "vehicles", train=1, bus=1)  # a train may be a class
    assert read_class_folders(tmp_path / "vehicles").classes == ("bus", "train")


def test_the_folder_above_the_class_folders_is_noticed(tmp_path):
    make(tmp_path / "data" / "photos", a=1, b=1)
    with pytest.raises(DatasetError, match=r"classes, give '.*photos'"):
        read_class_folders(tmp_path / "data")


NFC, NFD = "L\xf6we", "Lo\u0308we"


def test_classes_in_the_other_form_of_unicode_are_the_same(tmp_path):
    train = read_class_folders(make(tmp_path / "train", **{NFC: 2, "Hund": 2}))
    val = read_class_folders(make(tmp_path / "val", **{NFD: 1, "Hund": 1}))
    validate_classes(train, val)
    val = val.with_classes(train.classes)
    assert (val.classes, sorted(val.targets)) == (("Hund", NFC), [0, 1])


def test_class_folders_that_look_alike_cannot_be_told_apart(tmp_path):
    both = read_class_folders(make(tmp_path / "train", **{NFC: 1, NFD: 1}))
    with pytest.raises(DatasetError, match="2 class folders differ only in how Unicode"):
        validate_classes(both, None)


def test_what_class_folders_hold_besides_is_reported(tmp_path, caplog):
    caplog.set_level("INFO")
    make(tmp_path, **{"a": 1, "b": 1, "@eaDir": 1, "__MACOSX": 1})
    drawn(40, 32).save(tmp_path / "beside.png")
    for name in ("list.csv", "a/scan.dcm", ".hidden"):
        (tmp_path / name).touch()
    found = read_class_folders(tmp_path)
    assert (found.classes, found.counts()) == (("a", "b"), (1, 1))
    assert f"1 image beside the class folders of '{tmp_path}' left out" in caplog.text
    assert (
        f"'{tmp_path}': left out: 2 files not named as an image (1 .dcm, 1 .csv) and the system's "
        "own folders '@eaDir', '__MACOSX'"
    ) in caplog.text


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "photos.zip").touch()
    with pytest.raises(DatasetError, match="is a file, not a folder; unpack it"):
        read_class_folders(tmp_path / "photos.zip")
