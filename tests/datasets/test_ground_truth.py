"""Lists of names and classes as people write them, right and wrong."""

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.datasets.ground_truth import read_ground_truth
from resnest_cli.errors import DatasetError
from resnest_cli.training.splits import write_held_out
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


@pytest.mark.parametrize(
    "text", [b"val_0.png,\xe9t\xe9\n", "val_0.png,cat\n".encode("utf-16-le"), b"val_0.png\0cat\0"]
)
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
        ("none.png 3\nval_0.png 4\n", "1 image that .* lacks, of 2: 'none.png'"),
        ("val_0.png\n", "line 1"),
        ("val_0.png,cat\nval_0.png,dog\n", "'val_0.png' more than once"),
        ("490\n361\n", "LOC_val_solution.csv"),
        ("", "no image"),
        ("name,cat,dog\nval_0.png,0,1\n", "a column for each class"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, words):
    (tmp_path / "flat").mkdir()
    drawn(40, 32).save(tmp_path / "flat" / "val_0.png")
    (tmp_path / "list").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_ground_truth(tmp_path / "list", tmp_path / "flat")


LISTS = {
    "tabs, commas in the text": "a.png\tcat, a domestic one\nsub/b c.png\tdog\n",
    "dots": "./a.png,cat, a domestic one\n./sub/b c.png,dog\n",
    "the folder": "flat/a.png,cat\nflat/sub/b c.png,dog\n",
    "a folder elsewhere": "/mnt/x/flat/a.png,cat\n/mnt/x/flat/sub/b c.png,dog\n",
    "backslashes": "a.png,cat\nsub\\b c.png,dog\n",
    "R": '"","file.name","label"\n"1","a.png","cat"\n"2","sub/b c.png","dog"\n',
    "R's write.table": '"file.name" "label"\n"1" "a.png" "cat"\n"2" "sub/b c.png" "dog"\n',
    "R without row names": '"file.name","label"\n"a.png","cat"\n"sub/b c.png","dog"\n',
    "pandas": ",file,class\n0,a.png,cat\n1,sub/b c.png,dog\n",
    "a pandas series": ",0\na.png,cat\nsub/b c.png,dog\n",
    "class elsewhere": "path,width,Class Name\na.png,640,cat\nsub/b c.png,480,dog\n",
    "semicolons": "file;class\na.png;cat\nsub/b c.png;dog\n",
    "Excel": "sep=;\r\nfile;class\r\na.png;cat\r\nsub/b c.png;dog\r\n",
    "bars": "a.png|cat\nsub/b c|dog\n",
    "comments": "# by two people\nfile,class\na.png,cat\n# late\nsub/b c.png,dog\n",
    "a long class": f"a.png\t{'cat ' * 99},\nsub/b c.png\tdog\n",
    "quotes in the text": 'a.png\t"big" cat\nsub/b c.png\t5" dog\n',
    "a name in no form": "#1.png,cat\na.png,dog\n",
}


@pytest.fixture
def flat(tmp_path):
    """A folder of images, one of them one folder down."""
    for name in ("a.png", "sub/b c.png", "#1.png", "fu\u0308r.png"):
        path = tmp_path / "flat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(40, 32).save(path)
    return tmp_path / "flat"


def read(folder, content, name="list.csv"):
    """What a list says, each name below the folder and its class."""
    content = content.encode() if isinstance(content, str) else content
    (folder.parent / name).write_bytes(content)
    found = read_ground_truth(folder.parent / name, folder)
    names = [Path(path).relative_to(folder).as_posix() for path in found.paths]
    return dict(zip(names, (found.classes[target] for target in found.targets), strict=True))


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_programs_write_them(flat, text, encoding):
    found = read(flat, text.encode(encoding))
    first = ["#1.png", "a.png"] if "#1" in text else ["a.png", "sub/b c.png"]
    assert list(found) == first
    cat, dog = found.values()
    assert ("cat" in cat, "dog" in dog, "," in dog) == (True, True, False)
    assert cat in ("cat", "cat, a domestic one", '"big" cat', "cat " * 99 + ",")


def test_absolute_paths_are_those_of_the_folder(flat, tmp_path):
    assert read(flat, f"{flat}/a.png,cat\n") == {"a.png": "cat"}
    other = tmp_path / "other" / "flat" / "a.png"
    other.parent.mkdir(parents=True)
    drawn(40, 32).save(other)
    with pytest.raises(DatasetError, match=r"1 image that .* lacks"):
        read(flat, f"{other}\tcat\n")


def test_names_in_another_form_of_unicode(flat):
    assert read(flat, "f\xfcr.png,cat\n") == {"fu\u0308r.png": "cat"}


def test_names_that_two_images_have(flat):
    drawn(40, 32).save(flat / "a.jpg")
    with pytest.raises(DatasetError, match=r"'a' may be 'a[.]jpg', 'a[.]png': write the suffix"):
        read(flat, "a,cat\n")
    with pytest.raises(DatasetError, match="more than once"):
        read(flat, "a.png,cat\n./a.png,cat\n")


def test_what_the_list_leaves_out_is_reported(flat, caplog):
    caplog.set_level("INFO")
    (flat / "slice.dcm").touch()
    read(flat, "name,kind\na.png,cat\n#2,x\n")
    assert f"3 images of '{flat}' not in " in caplog.text
    assert "1 file not named as an image (1 .dcm)" in caplog.text
    assert "1 comment line of " in caplog.text
    assert "the first line is taken as a heading: 'name', 'kind'" in caplog.text


CLASSES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
    .filter(lambda name: name not in (".", "..")),
    min_size=2, max_size=2, unique=True,
)  # fmt: skip


@given(classes=CLASSES)
@settings(max_examples=100, deadline=None)
def test_the_list_that_training_writes_is_read_back(classes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    paths = [folder / f"{number}" / name for number, name in enumerate(("a b.png", "'c,\".png"))]
    paths.append(folder / "file.png")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    images = LabelledImages(tuple(classes), tuple(map(str, paths)), (1, 0, 0))
    write_held_out(images, folder, folder.parent / "val.csv")
    found = read_ground_truth(folder.parent / "val.csv", folder)
    assert found.paths == images.paths
    assert [found.classes[target] for target in found.targets] == [classes[1], *classes[:1] * 2]


def test_lists_are_not_read_past_what_a_cell_can_hold(flat):
    with pytest.raises(DatasetError, match="field larger than"):
        read(flat, "x" * (csv.field_size_limit() + 1))
