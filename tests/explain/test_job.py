"""`resnest explain`: rows, files, failures, resuming, and what it refuses."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from resnest_cli.explain.job import ExplainJob
from tests.conftest import drawn
from tests.hostile import stored
from tests.inputs.test_archives import make


def rows(folder):
    return [json.loads(line) for line in (folder / "explain.jsonl").read_text().splitlines()]


@pytest.fixture
def explain(run):
    return lambda *arguments, **options: run("explain", "-m", "demo", *arguments, **options)


def test_one_row_an_image_and_failures_are_rows(explain, many, tmp_path):
    done = explain(many, "-o", "why", "--check", "--limit", 6)
    assert done.returncode == 3, done.stderr
    assert "6 images in" in done.stderr
    assert "1 failed" in done.stderr
    found = rows(tmp_path / "why")
    assert [row["path"] for row in found] == [str(p) for p in sorted(many.iterdir())[:6]]
    assert [row["error"] is None for row in found] == [True] * 4 + [False, True]
    assert len({row["scale"] for row in found if not row["error"]}) == 1, "one scale"
    for row in found[:4]:
        (one,) = row["classes"]
        assert one["evidence"] + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
        assert one["check"]["probability"] == pytest.approx(one["probability"], abs=1e-5)
        assert row["size"] == [400, 300]
        with Image.open(tmp_path / "why" / one["image"]) as image:
            assert image.width == 480  # room for the legend
        with np.load(tmp_path / "why" / row["maps"]) as stored:
            assert stored["map"].shape == (1, 3, 3)
            assert stored["map"].mean() == pytest.approx(one["evidence"], abs=1e-5)
            assert stored["class"][0] == one["label"]
            assert stored["logit"][0] == pytest.approx(one["logit"])
            np.testing.assert_allclose(stored["box"], row["box"], atol=0.01)
    assert len(list((tmp_path / "why/maps").iterdir())) == 10


def test_the_answer_is_that_of_predict(explain, run, images, tmp_path):
    assert explain(images, "-o", "why", "--no-images").returncode == 0
    predicted = run("predict", images, "-m", "demo", "-f", "jsonl", "-k", 1)
    for row, line in zip(rows(tmp_path / "why"), predicted.stdout.splitlines(), strict=True):
        best = json.loads(line)["predictions"][0]
        assert row["classes"][0]["image"] is None
        assert row["classes"][0]["label"] == best["label"]
        assert row["classes"][0]["probability"] == best["probability"]
    assert {p.suffix for p in (tmp_path / "why/maps").iterdir()} == {".npz"}


def test_classes_and_the_difference_of_two(explain, drawn_image, tmp_path):
    done = explain(drawn_image, "-o", "two", "--class", "dog", "--class", "SHIP")
    assert done.returncode == 0, done.stderr
    dog, ship = rows(tmp_path / "two")[0]["classes"]
    assert (dog["label"], ship["label"]) == ("dog", "ship")
    names = sorted(p.name for p in (tmp_path / "two/maps").iterdir())
    assert names == ["000000-drawn.1.png", "000000-drawn.2.png", "000000-drawn.npz"]
    explain(drawn_image, "-o", "not", "--class", "dog", "--why-not", "ship")
    (one,) = rows(tmp_path / "not")[0]["classes"]
    assert one["against"] == "ship"
    assert one["logit"] == pytest.approx(dog["logit"] - ship["logit"], abs=1e-5)
    assert one["evidence"] == pytest.approx(dog["evidence"] - ship["evidence"], abs=1e-5)
    best = explain(drawn_image, "-o", "best", "--why-not", one["label"])
    assert best.returncode == 0
    assert rows(tmp_path / "best")[0]["classes"][0]["label"] != one["label"]


def test_resuming_gives_what_one_run_gives(explain, many, tmp_path):
    explain(many, "-o", "whole")
    whole = tmp_path / "whole"
    lines = (whole / "explain.jsonl").read_bytes().splitlines(keepends=True)
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    (part / "explain.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    for path in sorted((part / "maps").iterdir())[14:]:
        path.unlink()
    refused = explain(many, "-o", "part")
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    other = explain(many, "-o", "part", "--resume", "--class", "dog")
    assert other.returncode == 1
    assert "belongs to other settings: classes was []" in other.stderr
    assert explain(many, "-o", "part", "--resume").returncode == 3
    for path in (whole / "explain.jsonl", *(whole / "maps").glob("*.png")):
        assert (part / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    assert explain(many, "-o", "part", "--overwrite").returncode == 3


def test_standard_input_is_drawn_too(explain, drawn_image, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(drawn_image.read_bytes())))
    done = explain("-", "-o", "why", "--check")
    assert done.returncode == 0, done.stderr
    (one,) = rows(tmp_path / "why")[0]["classes"]
    assert (tmp_path / "why" / one["image"]).is_file()


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_images_in_archives(explain, tmp_path, form):
    shots = {f"sub/{n}/a b.png": stored(drawn(seed=n), "PNG") for n in range(3)}
    make(tmp_path / form, shots | {"sub/x.jpg": b"none"})
    done = explain(form, "-o", "why", "--check")
    assert done.returncode == 3, done.stderr
    found = rows(tmp_path / "why")
    assert [row["path"] for row in found] == [f"{form}/{name}" for name in [*shots, "sub/x.jpg"]]
    assert [row["error"] is None for row in found] == [True, True, True, False]
    assert [row["maps"] for row in found[:3]] == [f"maps/00000{n}-a_b.npz" for n in range(3)]
    for number, row in enumerate(found[:3]):
        assert row["classes"][0]["check"]["probability"] > 0
        drawn(seed=number).save(tmp_path / "same.png")
        assert explain("same.png", "-o", f"one{number}", "--check").returncode == 0
        (alone,) = rows(tmp_path / f"one{number}")
        assert alone["classes"][0]["logit"] == pytest.approx(row["classes"][0]["logit"], abs=1e-4)
        with Image.open(tmp_path / "why" / row["classes"][0]["image"]) as image:
            assert image.width == 480


def test_drawings_are_no_input_of_their_own_run(explain, images, tmp_path):
    for options in ((), ("--overwrite",)):
        assert explain("images", "-o", "images/a-why", *options).returncode == 0
        assert len(rows(tmp_path / "images/a-why")) == 12
    (one,) = list((tmp_path / "images/a-why/maps").glob("*0-*.png"))[:1]
    assert explain(one, "-o", "images/a-why", "--overwrite").returncode == 0, "it is named"


def test_names_of_files_are_tame(explain, tmp_path):
    name = "a b\n$(x) é.png"
    drawn().save(tmp_path / name)
    assert explain(name, "-o", "why").returncode == 0
    row = rows(tmp_path / "why")[0]
    assert row["path"] == name
    assert row["maps"] == "maps/000000-a_b___x___.npz"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--class", "dgo"), "--class dgo is not one class of this network\ndid you mean 'dog'", 2),
        (("--why-not", "cow"), "--why-not cow is not one class", 2),
        (("--class", "dog", "--why-not", "dog"), "--class and --why-not are both 'dog'", 2),
        (("--scale", "0"), "--scale must be", 2),
        (("--resume", "--overwrite"), "cannot be used together", 2),
        (("-m", "some.onnx"), "an exported graph gives no maps", 1),
    ],
)
def test_what_is_refused(explain, drawn_image, tmp_path, arguments, message, code):
    done = explain(drawn_image, "-o", "why", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert not (tmp_path / "why").exists()


def test_a_folder_is_needed(explain, drawn_image):
    done = explain(drawn_image)
    assert done.returncode == 2
    assert "needs a folder for its maps: --output DIR" in done.stderr


def test_files_of_users_are_not_replaced(explain, drawn_image, tmp_path):
    (tmp_path / "why/maps").mkdir(parents=True)
    (tmp_path / "why/maps/000000-drawn.png").write_text("mine")
    done = explain(drawn_image, "-o", "why")
    assert done.returncode == 1
    assert "holds files already" in done.stderr
    assert explain(drawn_image, "-o", drawn_image).returncode == 1
    assert (tmp_path / "why/maps/000000-drawn.png").read_text() == "mine"


def test_images_of_more_pixels_are_drawn_smaller_in_the_right_place(explain, tmp_path):
    drawn(3200, 1000).save(tmp_path / "wide.png")
    assert explain("wide.png", "-o", "why", "--preprocess", "hub", "-q").returncode == 0
    row = rows(tmp_path / "why")[0]
    assert row["size"] == [3200, 1000]
    with Image.open(tmp_path / "why" / row["classes"][0]["image"]) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] == 1600
    left, top, right, bottom = (round(x / 2) for x in row["box"])
    assert (pixels[(top + bottom) // 2, [left, right - 1]] == 255).all()


def test_the_library_takes_a_job(drawn_image, tmp_path):
    from resnest_cli.engines.api import ModelSpec
    from resnest_cli.inputs.discover import Inputs

    job = ExplainJob(Inputs((str(drawn_image),)), tmp_path / "why", model=ModelSpec("demo"))
    summary = job.run()
    assert (summary.done, summary.failed) == (1, 0)
