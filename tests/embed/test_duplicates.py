"""Duplicates: exact and near, grouped, named, reviewed."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from resnest_cli.embed.confirm import kind, look, match
from resnest_cli.embed.pairs import complete_groups, similar_pairs


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Something with structure at several scales, different for each seed."""
    random = np.random.default_rng(seed)
    image = np.zeros((size[1], size[0], 3), np.float32)
    for cells in (3, 6, 12, 24):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        image += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32) / 4
    return Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.SHARPEN)


def cropped(image: Image.Image, share: float = 0.9) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, 5, width // 20 + int(width * share), 5 + int(height * share)))


MADE = {
    "recompressed": lambda image: image.quantize(128).convert("RGB"),
    "resized": lambda image: image.resize((200, 150)),
    "cropped": cropped,
    "mirrored": ImageOps.mirror,
    "recoloured": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
}


@pytest.mark.parametrize("name", MADE)
def test_a_changed_image_is_near_and_its_change_named(name):
    image = scene(1)
    first, second = look(image), look(MADE[name](image))
    found = match(first, second, 0.2)
    assert found.distance < 0.1
    assert kind(first, second, found) == name


def test_other_images_are_far():
    looks = [look(scene(seed)) for seed in range(12)]
    assert min(match(a, b).distance for a, b in combinations(looks, 2)) > 0.5
    plain = look(Image.new("RGB", (50, 50), "red")), look(Image.new("RGB", (60, 50), "blue"))
    assert match(*plain).distance == 1


@pytest.mark.parametrize("count", [5, 300])
def test_pairs_are_those_of_the_whole_product(count, monkeypatch):
    monkeypatch.setattr("resnest_cli.embed.pairs._BLOCK", 64)
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs, cosines = similar_pairs(vectors, 0.6, 7)
    product = np.triu(vectors @ vectors.T, 1)
    expected = set()
    for i, row in enumerate(product):
        best = [j for j in np.argsort(-row, kind="stable")[:7] if row[j] >= 0.6]
        expected |= {(i, int(j)) for j in best}
    assert {(int(i), int(j)) for i, j in pairs} == expected
    assert np.allclose(cosines, product[pairs[:, 0], pairs[:, 1]], atol=1e-6)


def test_groups_are_not_chains():
    at = [0.0, 1.0, 2.0, 9.0]

    def distance(i: int, j: int) -> float:
        return abs(at[i] - at[j])

    assert complete_groups([(0, 1), (1, 2), (2, 3)], distance, 1.5) == [[0, 1]]
    assert complete_groups([(0, 1), (1, 2)], distance, 2.5) == [[0, 1, 2]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        scene(seed).save(folder / f"{seed}.png")
    scene(0).save(folder / "copy.bmp")
    scene(0).resize((240, 180)).save(folder / "small.jpg")
    ImageOps.mirror(scene(1)).save(folder / "turned.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    scene(2).rotate(180).save(folder / "z.png", exif=exif)
    (folder / "bad.jpg").write_bytes(b"nothing")
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_folder(run, folder, tmp_path):
    done = run("duplicates", folder, "-m", "demo")
    assert done.returncode == 3, done.stderr
    assert "3 groups, 2 exact and 2 near" in done.stderr
    found = {Path(row["path"]).name: row for row in rows(tmp_path / "duplicates/duplicates.csv")}
    kinds = {name: row["kind"] for name, row in found.items()}
    assert kinds == {
        "0.png": "kept", "copy.bmp": "exact", "small.jpg": "resized", "1.png": "kept",
        "turned.png": "mirrored", "2.png": "kept", "z.png": "exact", "bad.jpg": "",
    }  # fmt: skip
    assert found["bad.jpg"]["error"]
    assert not found["0.png"]["error"]
    page = (tmp_path / "duplicates/duplicates.html").read_text()
    assert page.count("data:image/webp") == 7
    assert "default-src 'none'" in page
    assert len(list(folder.iterdir())) == 8


def test_reviewed_pairs_are_not_asked_again(run, folder, tmp_path):
    command = ("duplicates", folder, "-m", "demo", "-o", "out")
    assert run(*command).returncode == 3
    assert run(*command).returncode == 1  # nothing is replaced unasked
    file = tmp_path / "out/duplicates.csv"
    changed = rows(file)
    for row in changed:
        name = Path(row["path"]).name
        row["verdict"] = {"turned.png": "keep", "z.png": "keep", "small.jpg": "duplicate"}.get(
            name, ""
        )
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, [*changed[0]])
        writer.writeheader()
        writer.writerows(changed)
    (folder / "turned.png").rename(folder / "renamed.png")
    for _ in range(2):  # the second time they are in verdicts.csv only
        assert run(*command, "--overwrite").returncode == 3
        found = {Path(row["path"]).name: row["verdict"] for row in rows(file)}
        assert found == {"0.png": "", "copy.bmp": "", "small.jpg": "duplicate", "bad.jpg": ""}
    other = ("duplicates", folder, "-m", "demo", "-o", "new", "--verdicts", "out/verdicts.csv")
    assert run(*other).returncode == 3
    assert len(rows(tmp_path / "new/duplicates.csv")) == 4


def test_wrong_verdicts(run, folder, tmp_path):
    (tmp_path / "v.csv").write_text("content,of,verdict\na,b,perhaps\n")
    done = run("duplicates", folder, "-m", "demo", "--verdicts", "v.csv")
    assert done.returncode == 2
    assert "'perhaps' is neither" in done.stderr
    (tmp_path / "v.csv").write_text("content,of\na,b\n")
    done = run("duplicates", folder, "-m", "demo", "--verdicts", "v.csv")
    assert done.returncode == 2
    assert "has no column 'verdict'" in done.stderr


def test_a_file_is_no_duplicate_of_itself(run, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    scene(1).save(folder / "z.png")
    (folder / "a.png").symlink_to("z.png")
    for inputs, again in [
        (("links",), "1 further path"),
        (("links", "links/../links/z.png", "links/z.png"), "3 further paths"),
    ]:
        done = run("duplicates", *inputs, "-m", "demo", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert "1 image: 0 groups, 0 exact and 0 near: see" in done.stderr
        assert f"left out: {again} to the same files" in done.stderr
        assert not rows(tmp_path / "duplicates" / "duplicates.csv")
