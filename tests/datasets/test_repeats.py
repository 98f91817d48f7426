"""Images that occur more than once, by their pixels."""

import numpy as np
import pytest
from PIL import Image

from resnest_cli.datasets.repeats import (
    noted,
    read_fingerprints,
    repeats,
    write_fingerprints,
)
from resnest_cli.imaging.decode_options import DEFAULT
from tests.conftest import drawn, in_process


def fingerprints(folder):
    found = {}
    for source in noted([str(path) for path in sorted(folder.iterdir())], found):
        source.load(DEFAULT)
    return {path.rpartition("/")[2]: value for path, value in found.items()}


@pytest.mark.parametrize("size", [(60, 40), (1500, 900), (2, 3000)])
def test_the_same_pixels_have_one_fingerprint_whatever_the_file(tmp_path, size):
    image = drawn(*size)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    image.save(tmp_path / "c.webp", lossless=True)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned back
    turned.save(tmp_path / "d.png", exif=exif)
    image.crop((0, 0, size[0], size[1] - 1)).save(tmp_path / "other1.png")
    Image.fromarray(255 - np.asarray(image)).save(tmp_path / "other2.png")
    turned.save(tmp_path / "other3.png")
    found = fingerprints(tmp_path)
    assert len({found[name] for name in ("a.png", "b.bmp", "c.webp", "d.png")}) == 1
    assert len(set(found.values())) == 4


def test_repeats_are_named_with_the_first_of_the_same_pixels(tmp_path):
    found = {"a": b"1", "b": b"1", "c": b"2", "x": b"1", "y": b"3"}
    assert repeats(["x", "y", "broken"], ["c", "a", "b", "missing"], found) == [("x", "a")]
    file = tmp_path / "fingerprints.bin"
    assert read_fingerprints(file) == set()
    eight = {name: value * 8 for name, value in found.items()}
    write_fingerprints(file, ["c", "a", "missing"], eight)
    assert read_fingerprints(file) == {b"1" * 8, b"2" * 8}


@pytest.fixture
def sets(tmp_path):
    """Two classes; of four validation images two are training images in another format."""
    for kind, target, first in ((k, t, f) for k, f in (("train", 0), ("val", 50)) for t in "ab"):
        folder = tmp_path / "data" / kind / target
        folder.mkdir(parents=True)
        for number in range(4 if kind == "train" else 2):
            seed = first + number + 10 * (target == "b")
            drawn(80, 60, seed=seed).save(folder / f"{number}.png")
    for target in "ab":
        image = Image.open(tmp_path / "data" / "train" / target / "2.png")
        image.save(tmp_path / "data" / "val" / target / "1.bmp")
        (tmp_path / "data" / "val" / target / "1.png").unlink()
    return tmp_path


def test_validation_images_that_are_trained_on_are_counted_and_listed(sets, run):
    train = ["train", "data", "-m", "demo", "--epochs", 1, "-j", 0, "-o", "out"]
    done = run(*train)
    assert done.returncode == 0, done.stderr
    words = "2 of 4 validation images are in the training set, too (the same pixels): see"
    assert words in done.stderr
    assert (sets / "out" / "repeated.csv").read_text().splitlines() == [
        "path,same_as",
        "data/val/a/1.bmp,data/train/a/2.png",
        "data/val/b/1.bmp,data/train/b/2.png",
    ]
    checked = {"model": "out/best.safetensors"}
    for folder, words in (
        ("train", "8 of 8 images are in the training set of the model"),
        ("val", "2 of 4 images are in the training set of the model"),
    ):
        measured = run("evaluate", f"data/{folder}", "-m", checked["model"])
        assert measured.returncode == 0, measured.stderr
        assert words in measured.stderr
        assert ("without them" in measured.stderr) == (folder == "val")  # none is left of train
    for target in "ab":
        (sets / "data" / "val" / target / "1.bmp").unlink()
    again = run(*train, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert "the same pixels" not in again.stderr
    assert not (sets / "out" / "repeated.csv").exists()
    assert "training set of" not in run("evaluate", "data/val", "-m", checked["model"]).stderr


def test_repeats_within_an_evaluated_set_are_counted(tmp_path):
    for target, seeds in (("cat", (0, 0, 1)), ("dog", (0, 2, 3))):
        (tmp_path / "data" / target).mkdir(parents=True)
        for number, seed in enumerate(seeds):
            drawn(80, 60, seed=seed).save(tmp_path / "data" / target / f"{number}.png")
    done = in_process("evaluate", "data", "-m", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 6 images repeat others, by their pixels, some in another class" in done.stderr
    (tmp_path / "data" / "dog" / "0.png").unlink()
    done = in_process("evaluate", "data", "-m", "demo", cwd=tmp_path)
    assert "1 of 5 images repeat others, by their pixels\n" in done.stderr
