"""Inputs to images: folders, globs, lists, links and names of any bytes."""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnest_cli.errors import ImageError, ResNeStError, UsageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs.discover import Inputs, expand, read_list, walk_ahead
from resnest_cli.inputs.source import as_source
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


def test_inputs_without_images_say_so(tree):
    Path("empty").mkdir()
    (folder,), (matches,), (scheme,) = (
        list(expand([text])) for text in ("empty", "no/*.jpg", "ftp://example.org/x.jpg")
    )
    assert (folder.error, folder.empty) == ("the folder holds no image", True)
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
    assert source.load(DecodeOptions()).size == (20, 20)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: os.symlink("nowhere", path), "a dangling link"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.touch(), "empty"),
    ],
)
def test_unreadable_files_have_a_reason_and_are_never_waited_for(make, reason, tmp_path):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(ImageError, match=reason):
        as_source(path).load(DecodeOptions())


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
        as_source("/dev/zero").load(DecodeOptions())


def test_lists(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"a.jpg\r\n\nb c.jpg\n caf\xe9")
    assert list(read_list(str(path))) == ["a.jpg", "b c.jpg", os.fsdecode(b" caf\xe9")]
    with pytest.raises(UsageError, match="No such file"):
        list(read_list(str(tmp_path / "nope")))


def test_everything_the_python_api_takes():
    image = drawn(30, 20)
    expected = np.asarray(image)
    for same in (image, expected):
        assert np.array_equal(as_source(same).load(DecodeOptions()), expected)
    assert np.array_equal(
        as_source(Image.fromarray(expected[..., 0])).load(DecodeOptions()),
        expected[..., :1].repeat(3, 2),
    )
    with pytest.raises(TypeError, match="list"):
        as_source([expected])


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.jpg",), (), ["b.jpg"]),
        ((), ("*.jpg",), ["a/b/c.webp", "a/z.PNG"]),
        (("a/*",), ("*.webp",), ["a/z.PNG"]),
        (("*.jpg", "*.webp"), (), ["a/b/c.webp", "b.jpg"]),
    ],
)
def test_include_and_exclude(tree, include, exclude, expected):
    inputs = Inputs(("shots",), include=include, exclude=exclude)
    assert [source.name for source in inputs.sources()] == [f"shots/{name}" for name in expected]


def test_files_that_are_named_are_taken_whatever_is_excluded(tree):
    inputs = Inputs(("shots/b.jpg", "shots"), exclude=("*.jpg",))
    assert next(inputs.sources()).name == "shots/b.jpg"
    with pytest.raises(ResNeStError, match="holds no image"):
        Inputs(("shots",), include=("*.bmp",)).sources()


def test_limit_takes_the_first_images(tree):
    assert [s.name for s in Inputs(("shots",), limit=2).sources()] == [
        "shots/a/b/c.webp", "shots/a/z.PNG"
    ]  # fmt: skip


def test_inputs_are_walked_once_and_lazily(tree, monkeypatch):
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    sources = Inputs(("shots",)).sources()
    next(sources)
    assert scanned == ["shots", "shots/a", "shots/a/b"]
    list(sources)
    assert scanned == ["shots", "shots/a", "shots/a/b"]


def test_walking_ahead_gives_the_same_sources_and_their_number(tree):
    totals = []
    found = list(walk_ahead(Inputs(("shots", "nope.jpg")).sources(), totals.append))
    assert [source.name for source in found] == [*names("shots"), "nope.jpg"]
    assert totals == [4]


def test_an_error_of_a_list_is_raised_where_it_is_waited_for(tmp_path):
    path = tmp_path / "list"
    path.write_bytes("a.jpg\n".encode("utf-16") + b"\0")  # ends within a character
    inputs = Inputs(("b.jpg",), files_from=str(path))
    walk = walk_ahead(inputs.sources(), lambda _: pytest.fail("it has no end"))
    assert next(walk).name == "b.jpg"
    with pytest.raises(UsageError, match="not utf-16"):
        list(walk)


@pytest.mark.parametrize(
    ("content", "null", "words"),
    [
        (None, False, "must be a readable list"),
        (b"a.jpg\0b.jpg\0", False, "use `null`"),
        ("a.jpg\n".encode("utf-16-le"), False, "UTF-16 without its byte order mark"),
        ("a.jpg\n".encode("utf-16-be"), True, "UTF-16 without its byte order mark"),
        ("a.jpg\n".encode("utf-16"), True, "leave out `null`"),
    ],
    ids=[
        "a folder",
        "find -print0",
        "UTF-16 without a mark",
        "and with null",
        "UTF-16 with null",
    ],
)
def test_a_list_that_is_none_is_refused_before_anything_is_read(tmp_path, content, null, words):
    path = tmp_path / "list"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        Inputs(("a.jpg",), files_from=str(path), null=null).sources()


def test_null_needs_a_list_that_holds_nul_characters(tmp_path):
    with pytest.raises(UsageError, match="`files_from`"):
        Inputs(("a.jpg",), null=True)
    (tmp_path / "list").write_text("a.jpg\nb.jpg\n")
    with pytest.raises(UsageError, match="leave out `null`"):
        list(read_list(str(tmp_path / "list"), null=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lists_in_the_encodings_of_windows(tmp_path, encoding):
    (tmp_path / "list").write_bytes("a.jpg\r\n\r\nfür.jpg\r\n".encode(encoding))
    assert list(read_list(str(tmp_path / "list"))) == ["a.jpg", "für.jpg"]


def test_comments_in_a_list_are_skipped_and_counted(tree, caplog):
    Path("#1.jpg").touch()
    Path("list").write_text("# two of them\n#1.jpg\nshots/b.jpg\n")
    caplog.set_level("INFO")
    assert list(read_list("list")) == ["#1.jpg", "shots/b.jpg"]
    assert "1 comment line of the list 'list' skipped" in caplog.text


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
        return [path] if is_image_name(path) else []
    os.makedirs(path, exist_ok=True)
    below = {name: made(tree[name], os.path.join(path, os.fsdecode(name))) for name in tree}
    shown = sorted(os.fsdecode(name) for name in tree if not name.startswith(b"."))
    return [each for name in shown for each in below[os.fsencode(name)]]


@given(tree=TREES.filter(lambda tree: isinstance(tree, dict)))
@settings(max_examples=60, deadline=None)
def test_a_walk_yields_each_image_once_and_in_order(tree):
    with tempfile.TemporaryDirectory() as folder:
        top = os.path.join(folder, "top")
        expected = made(tree, top)
        found = list(expand([top]))
        if expected:
            assert [source.name for source in found] == expected
            assert not any(source.error for source in found)
        else:
            assert [source.empty for source in found] == [True]


@given(names=st.lists(NAMES, max_size=8), end=st.sampled_from([b"\n", b"\r\n", b"\0"]))
@settings(max_examples=60, deadline=None)
def test_a_list_names_what_was_written_to_it(names, end):
    names = [name for name in names if not name.startswith(b"#")]
    if end == b"\0":  # with NULs between them, characters are taken for UTF-16
        names = [name for name in names if len(name) > 1]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "list.txt")
        mark = b"" if end == b"\0" else b"\xef\xbb\xbf"
        Path(path).write_bytes(mark + end.join([*names, b""]))
        read = read_list(path, null=end == b"\0")
        assert list(read) == [os.fsdecode(name) for name in names]


def test_a_lone_text_is_one_name_and_not_its_letters():
    inputs = Inputs("in/", include="*.png", exclude="a*")
    assert (inputs.named, inputs.include, inputs.exclude) == (("in/",), ("*.png",), ("a*",))


def test_filters_that_select_nothing_are_named(tree):
    with pytest.raises(ResNeStError, match="holds no image that `include` and `exclude` select"):
        Inputs((str(tree),), include=("*.nothing",)).sources()


def test_a_glob_follows_no_link_to_a_folder_above(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top" / "below").mkdir(parents=True)
    (tmp_path / "top" / "below" / "a.png").touch()
    (tmp_path / "top" / "below" / "up").symlink_to("..")
    (tmp_path / "top" / "other").symlink_to("below")
    found = [source.name for source in Inputs(("top/**/*.png",)).sources()]
    assert found == ["top/below/a.png", "top/other/a.png"]


def test_a_list_of_names_that_nul_ends_may_begin_with_a_mark(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbfa.jpg\0b.jpg\0")
    assert [s.name for s in Inputs((), files_from=str(path), null=True).sources()] == [
        "a.jpg",
        "b.jpg",
    ]
