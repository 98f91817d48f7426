"""Which images of a folder are used."""

import pytest

from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.errors import DatasetError, UsageError
from tests.conftest import drawn


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes."""
    for name in (
        "cat/1.png",
        "cat/2.png",
        "cat/night/3.png",
        "dog/1.png",
        "dog/2.png",
        "dog/3.png",
    ):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(40, 32).save(tmp_path / "data" / name)
    return tmp_path / "data"


def names(folder, **options):
    """The paths below the folder that are used, with their classes."""
    images = LabelledFolder(folder, **options).read()
    used = zip(images.paths, images.targets, strict=True)
    assert all(path[len(str(folder)) + 1 :].startswith(images.classes[t]) for path, t in used)
    return [path[len(str(folder)) + 1 :] for path in images.paths]


def test_patterns_select_by_name_or_by_path_below_the_folder(folder):
    assert len(names(folder)) == 6
    assert names(folder, include=("1.png",)) == ["cat/1.png", "dog/1.png"]
    assert names(folder, include=("cat/*",), exclude=("*/night/*",)) == ["cat/1.png", "cat/2.png"]
    with pytest.raises(DatasetError, match="no image is selected"):
        names(folder, include=("*.jpg",))


def test_class_folders_without_images_are_reported(folder, caplog):
    (folder / "mouse").mkdir()
    assert len(names(folder)) == 6
    assert "class folders without images: 'mouse'" in caplog.text


def test_a_limit_spreads_evenly_over_the_classes(folder):
    assert names(folder, limit=2) == ["cat/1.png", "dog/1.png"]
    assert names(folder, limit=4) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    assert len(names(folder, limit=100)) == 6
    with pytest.raises(UsageError, match="`limit` must be 1 or more, not 0"):
        names(folder, limit=0)


def test_a_list_gives_the_classes_of_a_folder_of_images(folder, tmp_path):
    (tmp_path / "list.csv").write_text("cat/2.png,cat\ndog/3.png,dog\ndog/1.png,dog\n")
    options = {"ground_truth": tmp_path / "list.csv"}
    assert names(folder, **options) == ["cat/2.png", "dog/3.png", "dog/1.png"]
    assert names(folder, **options, exclude=("dog/*",)) == ["cat/2.png"]
