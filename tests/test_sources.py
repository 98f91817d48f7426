"""What a command line's inputs lead to."""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnest_cli.decoding import Decoding
from resnest_cli.errors import ImageError, UsageError
from resnest_cli.sources import SUFFIXES, as_source, expand, read_list
from tests.conftest import drawn


def names(*inputs):
    return [source.name for source in expand(inputs)]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg"):
        path = Path("shots", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("shots")


def test_folders_are_walked_sorted_and_named_as_given(tree):
    assert names("shots") == ["shots/a/b/c.webp", "shots/a/z.PNG", "shots/b.jpg"]
    assert names("./shots/")[0] == "./shots/a/b/c.webp"
    assert names(str(tree.resolve()))[0] == f"{tree.resolve()}/a/b/c.webp"


def test_globs_take_what_the_shell_would(tree):
    assert names("shots/**/*.jpg") == ["shots/b.jpg"]
    assert names("shots/*") == ["shots/b.jpg", "shots/notes.txt"]
    Path("shots/a[1].jpg").touch()
    assert names("shots/a[1].jpg") == ["shots/a[1].jpg"]  # a file of that very name


def test_everything_mixed_keeps_its_order(tree):
    inputs = ["shots/b.jpg", "http://example.org/a.jpg", "-", "shots/a", "nope.jpg", "shots/b.jpg"]
    assert names(*inputs) == [*inputs[:3], "shots/a/b/c.webp", "shots/a/z.PNG", *inputs[4:]]


def test_inputs_without_pictures_say_so(tree):
    Path("empty").mkdir()
    (folder,), (matches,), (scheme,) = (
        list(expand([text])) for text in ("empty", "no/*.jpg", "ftp://example.org/x.jpg")
    )
    assert (folder.error, folder.empty) == ("the folder holds no picture", True)
    assert (matches.error, matches.empty) == ("no file matches", True)
    assert "http" in scheme.error


def test_links_are_followed_and_loops_are_not(tree):
    os.symlink("..", "shots/a/loop")
    os.symlink("../b.jpg", "shots/a/link.jpg")
    assert names("shots") == [
        "shots/a/b/c.webp",
        "shots/a/link.jpg",
        "shots/a/z.PNG",
        "shots/b.jpg",
    ]


def test_a_file_name_of_any_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9\n.png")
    drawn(20, 20).save("x.png")
    os.rename("x.png", name)
    (source,) = expand(["."])
    assert source.name == f"./{name}"
    assert source.load(Decoding()).size == (20, 20)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: os.symlink("nowhere", path), "a link to nothing"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.touch(), "empty"),
    ],
)
def test_what_cannot_be_read_says_why_and_is_never_waited_for(make, reason, tmp_path):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(ImageError, match=reason):
        as_source(path).load(Decoding())


def test_deep_trees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    drawn(20, 20).save("x.png")
    os.chdir(tmp_path)
    (found,) = expand(["d"])
    assert found.name.endswith("/x.png") or found.error  # the system's limit on names may strike
    subprocess.run(["rm", "-rf", "d"], check=True)


def test_device_files_are_not_opened():
    with pytest.raises(ImageError, match="not a regular file"):
        as_source("/dev/zero").load(Decoding())


def test_lists(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"a.jpg\r\n\nb c.jpg\n caf\xe9")
    assert list(read_list(str(path))) == ["a.jpg", "b c.jpg", os.fsdecode(b" caf\xe9")]
    with pytest.raises(UsageError, match="No such file"):
        list(read_list(str(tmp_path / "nope")))


def test_everything_the_python_api_takes():
    picture = drawn(30, 20)
    expected = np.asarray(picture)
    for image in (picture, expected):
        assert np.array_equal(as_source(image).load(Decoding()), expected)
    assert np.array_equal(
        as_source(Image.fromarray(expected[..., 0])).load(Decoding()),
        expected[..., :1].repeat(3, 2),
    )
    with pytest.raises(TypeError, match="list"):
        as_source([expected])


NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: not {0, *b"/\r\n"} & set(name) and name not in (b".", b"..", b"-")
)
TREES = st.recursive(
    st.just(b"x"),
    lambda below: st.dictionaries(
        st.tuples(NAMES, st.sampled_from([b"", b".jpg", b".PNG", b".txt"])).map(b"".join),
        below,
        max_size=6,
    ),
    max_leaves=20,
)


def made(tree, path):
    """A tree of folders and files; what a walk in order should come upon."""
    if isinstance(tree, bytes):
        Path(path).write_bytes(tree)
        return [path] if os.path.splitext(path)[1].lower() in SUFFIXES else []
    os.makedirs(path, exist_ok=True)
    below = {name: made(tree[name], os.path.join(path, os.fsdecode(name))) for name in tree}
    shown = sorted(os.fsdecode(name) for name in tree if not name.startswith(b"."))
    return [each for name in shown for each in below[os.fsencode(name)]]


@given(tree=TREES.filter(lambda tree: isinstance(tree, dict)))
@settings(max_examples=60, deadline=None)
def test_a_walk_yields_each_picture_once_and_in_order(tree):
    with tempfile.TemporaryDirectory() as folder:
        top = os.path.join(folder, "top")
        expected = made(tree, top)
        found = list(expand([top]))
        if expected:
            assert [source.name for source in found] == expected
            assert not any(source.error for source in found)
        else:
            assert [source.empty for source in found] == [True]


@given(names=st.lists(NAMES, max_size=8), end=st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=60, deadline=None)
def test_a_list_names_what_was_written_to_it(names, end):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "list.txt")
        Path(path).write_bytes(b"\xef\xbb\xbf" + end.join([*names, b""]))
        assert list(read_list(path)) == [os.fsdecode(name) for name in names]
