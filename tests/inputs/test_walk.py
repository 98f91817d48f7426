"""What folders hold besides images, names in either form of Unicode, and names like patterns."""

import os
from pathlib import Path

import pytest

from resnest_cli.errors import ResNeStError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inputs.discover import Inputs, expand
from resnest_cli.inputs.patterns import Selection
from resnest_cli.inputs.source import as_source
from resnest_cli.inputs.walk import LeftOut
from tests.conftest import drawn

NFC, NFD = "L\xf6we", "Lo\u0308we"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(*inputs, left_out=None, **selection):
    return [source.name for source in expand(inputs, Selection(**selection), left_out)]


def test_every_image_is_found_and_every_other_file_is_counted():
    touch("in/a.mpo", "in/b.apng", "in/c.PSD", "in/d.qoi", "in/sub/e.dcm", "in/f.DCM", "in/g")
    touch("in/.hidden", "in/.h/x.dcm")
    left_out = LeftOut()
    assert names("in", left_out=left_out) == ["in/a.mpo", "in/b.apng", "in/c.PSD", "in/d.qoi"]
    assert str(left_out) == ("left out: 3 files not named as an image (2 .dcm, 1 without suffix)")


def test_a_summary_names_five_suffixes_and_counts_a_hundred():
    left_out = LeftOut()
    for number in range(7):
        left_out.file(f"x.{number}")
    assert str(left_out).endswith("(1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 2 more)")
    for number in range(1000):
        left_out.file(f"1.2.840.{number}")
    left_out.file("x." + "y" * 200)
    assert len(left_out.suffixes) == 101
    assert str(left_out).startswith("left out: 1,008 files not named as an image (901 others, ")
    assert not str(LeftOut())


@pytest.mark.parametrize("pattern", ["nas", "nas/**/*.png", "nas/*/../*.png", "nas/**"])
def test_folders_that_systems_make_are_left_out_and_named_once(pattern):
    touch("nas/a.png", "nas/@eaDir/a.png/THUMB.png", "nas/sub/@eaDir/b.png", "nas/sub/b.png")
    touch("nas/__MACOSX/c.png", "nas/$Recycle.Bin/d.png")
    left_out = LeftOut()
    found = set(names(pattern, left_out=left_out))
    assert {os.path.normpath(name) for name in found} <= {"nas/a.png", "nas/sub/b.png"}
    assert str(left_out) == (
        "left out: the system's own folders '$Recycle.Bin', '@eaDir', '__MACOSX'"
    )
    assert names("nas/@eaDir") == ["nas/@eaDir/a.png/THUMB.png"]  # as it is named itself
    assert names("nas/@eaDir/*/*") == ["nas/@eaDir/a.png/THUMB.png"]


def test_a_folder_of_other_files_says_what_they_are():
    touch("in/a.dcm")
    with pytest.raises(ResNeStError, match=r"no image: 'in'; left out: 1 file .* \(1 .dcm\)"):
        Inputs(("in",)).sources()


@pytest.mark.parametrize("name", ["x.zip", "X.TAR.GZ", "x.tgz", "x.tar", "x.7z"])
def test_an_archive_is_to_be_unpacked(name):
    Path(name).write_bytes(b"PK\3\4 and so on")
    with pytest.raises(ResNeStError, match="an archive: unpack it, and name the folder"):
        as_source(name).load(DecodeOptions())
    drawn(20, 20).save("y.png")
    os.rename("y.png", name)
    assert as_source(name).load(DecodeOptions()).size == (20, 20)  # whatever it is called


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("shots [2024]/*.png", ["shots [2024]/a.png"]),
        ("./shots [2024]/*.png", ["./shots [2024]/a.png"]),
        ("s*/a.png", ["shots 2/a.png", "shots [2024]/a.png"]),
        ("*/[x]/*.png", ["shots 2/x/c.png", "shots [2024]/[x]/b.png"]),
        ("**/[x]/*.png", ["shots 2/x/c.png", "shots [2024]/[x]/b.png"]),
        ("shots [0-9]/a.png", ["shots 2/a.png"]),
        ("shots [2024]/**/*.png", ["shots [2024]/[x]/b.png", "shots [2024]/a.png"]),
        ("**", ["shots 2/a.png", "shots 2/x/c.png", "shots [2024]/[x]/b.png",
                "shots [2024]/a.png"]),
    ],
)  # fmt: skip
def test_what_exists_as_it_is_written_is_no_pattern(pattern, expected):
    touch("shots [2024]/a.png", "shots [2024]/[x]/b.png", "shots 2/a.png", "shots 2/x/c.png")
    assert names(pattern) == expected
    assert names(f"{os.getcwd()}/{pattern}") == [
        f"{os.getcwd()}/{name}" for name in expected
    ] or pattern.startswith("./")


def test_hidden_names_need_a_dot():
    touch("in/.h/a.png", "in/.b.png", "in/c.png")
    assert names("in/*") == names("in/**") == names("in/**/*.png") == ["in/c.png"]
    assert names("in/.*") == ["in/.b.png"]
    assert names("in/.h/*") == ["in/.h/a.png"]


def test_selections_take_existing_folders_as_they_are_written():
    touch("in/s [1]/a.png", "in/s 1/a.png", "in/s 1/b[1].png")
    assert names("in", include=("s [1]/*",)) == ["in/s [1]/a.png"]
    assert names("in", exclude=("s [1]/*",)) == ["in/s 1/a.png", "in/s 1/b[1].png"]
    assert names("in", include=("b[1].png",)) == ["in/s 1/b[1].png"]


@pytest.mark.parametrize(("stored", "given"), [(NFC, NFD), (NFD, NFC)], ids=["to NFD", "to NFC"])
def test_names_are_found_in_the_other_form_of_unicode(stored, given):
    Path(stored).mkdir()
    drawn(20, 20).save(f"{stored}/{stored}.png")
    for text in (given, f"{given}/", f"{given}/{given}.png", f"./{given}/{given}.png"):
        (source,) = expand([text])
        assert source.name.startswith(text)  # as it was given
        assert source.load(DecodeOptions()).size == (20, 20)
    assert (
        names(f"{given}/*.png") == names(f"{given[:1]}*/{given}.png") == names(f"{given[:-1]}*/*")
    )
    assert names(".", include=(f"{given}/*",)) == [f"./{stored}/{stored}.png"]
    assert not names(".", exclude=(f"{given}.*",))[0].endswith(".png")
    (missing,) = expand([f"{given}/x{given}.png"])
    with pytest.raises(ResNeStError, match="no such file"):
        missing.load(DecodeOptions())


def test_an_equal_name_comes_first_and_an_ambiguous_one_is_an_error():
    forms = "\u1e69.png", "s\u0323\u0307.png", "\u1e61\u0323.png"
    touch(*forms[:2])
    assert [str(source.content) for source in expand(forms[:2])] == list(forms[:2])
    (source,) = expand(forms[2:])
    assert (source.name, "ambiguous: 2 names" in source.error) == (forms[2], True)


def test_selecting_from_no_folder_is_reported(caplog):
    touch("a.png", "in/b.png")
    for inputs in (Inputs(("a.png",), include="*.jpg"), Inputs(("*.png",), exclude="a*")):
        assert [source.name for source in inputs.sources()] == ["a.png"]
        assert "no input is a folder" in caplog.text
        caplog.clear()
    assert list(Inputs(("a.png", "in"), include="*.png").sources())
    assert list(Inputs(("a.png",)).sources())
    assert not caplog.text
