"""`resnest evaluate` as users run it, with the bundled model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, drawn, lines
from tests.evaluation.conftest import CLASSES, data

__all__ = ["data"]  # a fixture


def test_the_summary_and_the_report(data, run, tmp_path):
    done = run("evaluate", data, "--model", "demo", "-o", "report")
    assert done.returncode == 3
    assert done.stdout.startswith("top-1      75.00%  (95 %: ")
    assert "demo · squash (squash to 98 x 98" in done.stdout.splitlines()[-1]
    assert "broken.jpg': not an image" in done.stderr
    assert "1 image cannot be read" in done.stderr
    assert (tmp_path / "report" / "metrics.json").is_file()
    again = run("evaluate", data, "--model", "demo", "-o", "report")
    assert (again.returncode, "--overwrite" in again.stderr) == (1, True)
    (data / "ship" / "broken.jpg").unlink()
    clean = run("evaluate", data, "--model", "demo", "-o", "report", "--overwrite")
    assert clean.returncode == 0, clean.stderr


def test_probabilities_equal_those_of_predict(data, run, tmp_path):
    run("evaluate", data, "--model", "demo", "-o", "report")
    done = run("predict", data, "--model", "demo", "-f", "jsonl", "--top-k", "1")
    predicted = {row["path"]: row["predictions"] for row in lines(done)}
    rows = list(csv.DictReader((tmp_path / "report" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 4
    for row in rows:
        (best,) = predicted[row["path"]]
        assert best["label"] == row["predicted"]
        assert best["probability"] == pytest.approx(float(row["confidence"]), abs=1e-5)


@pytest.mark.parametrize("option", ["--ground-truth", "--labels-file"])
def test_a_list_of_classes_for_a_folder_of_images(run, tmp_path, option):
    rows = "".join(f"{image},{name}\n" for image, name in CLASSES.items())
    (tmp_path / "list.csv").write_text(rows)
    done = run("evaluate", ROOT / "examples", option, "list.csv", "--model", "demo", "-f", "json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert (metrics["images"], metrics["top1"]["value"], metrics["macro"]["f1"]) == (3, 1, 1)


def test_the_former_name_of_an_option_is_not_in_the_help(run):
    shown = run("evaluate", "--help").stdout
    assert "--ground-truth" in shown
    assert "--labels-file" not in shown


def test_options_that_select_images(data, run):
    options = ["--model", "demo", "-f", "json", "--exclude", "broken.*"]
    for selection, count in (([], 4), (["--include", "horse/*"], 1), (["--limit", "2"], 2)):
        done = run("evaluate", data, *options, *selection)
        assert (done.returncode, json.loads(done.stdout)["images"]) == (0, count), done.stderr


def test_calibration_writes_a_checkpoint(data, run):
    options = ["--model", "demo", "--exclude", "broken.*"]
    done = run("evaluate", data, *options, "--calibrate", "calibrated.safetensors")
    assert done.returncode == 0, done.stderr
    assert "temperature " in done.stdout
    assert "'calibrated.safetensors' written, with a temperature of " in done.stderr
    again = run("evaluate", data, "--weights", "calibrated.safetensors", "--exclude", "broken.*")
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]  # top-1


def test_options_that_predict_has_too(run, tmp_path):
    """What is measured is what `predict` computes with the same options."""
    folder = tmp_path / "data" / "ship"
    folder.mkdir(parents=True)
    image = drawn(1200, 900).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "transparent.png")
    drawn(1200, 900).save(folder / "large.jpg")
    grey = np.asarray(drawn(120, 90).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 4 + 7000).save(folder / "thermal.png")
    seen = set()
    for options in (
        [],
        ["--fast-jpeg"],
        ["--background", "ffffff"],
        ["--no-exif"],
        ["--crop", "64"],
        ["--stretch"],
    ):
        run("evaluate", "data", "-m", "demo", "-o", "report", "--overwrite", *options)
        text = (tmp_path / "report" / "predictions.csv").read_text()
        done = run("predict", "data", "-m", "demo", "-f", "jsonl", *options)
        for row, measured in zip(lines(done), csv.DictReader(text.splitlines()), strict=True):
            assert row["predictions"][0]["label"] == measured["predicted"]
            expected = pytest.approx(float(measured["confidence"]), abs=1e-5)
            assert row["predictions"][0]["probability"] == expected
        seen.add(text)
    assert len(seen) == 5  # all but --no-exif make a difference here


def test_options_for_torch_compile(data, run):
    done = run("evaluate", data, "-m", "demo", "--compile", "--engine", "openvino")
    assert (done.returncode, "`" in done.stderr) == (2, False)
    assert "--compile needs --engine torch" in done.stderr


WRONG = [
    (["--bins", "1"], 2, "--bins"),
    (["--calibrate", "x.pth"], 2, ".safetensors"),
    (["-o", "/proc/nowhere"], 1, "cannot be written to"),
    (["-o", "data/report"], 2, "--output must be outside the images"),
    (["--ground-truth", "none.csv"], 1, "--ground-truth 'none.csv'"),
    (["--weights", "none.pth"], 1, "No such file"),
    (["--weights", "x.pth"], 2, "demo is the bundled"),
    (["--limit", "0"], 2, "--limit"),
    (["--background", "red"], 2, "--background"),
]


@pytest.mark.parametrize(("options", "code", "words"), WRONG, ids=str)
def test_wrong_options(data, run, options, code, words):
    model = [] if options == ["--weights", "none.pth"] else ["--model", "demo"]
    done = run("evaluate", data, *model, *options)
    assert (done.returncode, done.stderr.count("\n") <= 3) == (code, True), done.stderr
    assert words in done.stderr


def test_reports_for_spreadsheets(data, run, tmp_path):
    options = ["-m", "demo", "-o", "report", "--exclude", "broken.*"]
    (tmp_path / "list.csv").write_text("ship/boat.jpg,ship\n")
    done = run(
        "evaluate", "data", "--ground-truth", "list.csv", *options, "--csv-safe", "--csv-bom"
    )
    assert done.returncode == 0, done.stderr
    assert "images     1 of 1 class" in done.stdout
    content = (tmp_path / "report" / "predictions.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfpath,true")
    done = run("evaluate", "data", "-m", "demo", "--csv-safe", "--skip-unknown")
    assert (done.returncode, "--csv-safe needs an --output" in done.stderr) == (2, True)


def test_images_of_classes_that_the_network_lacks_are_listed(data, run):
    (data / "wombat").mkdir()
    drawn().save(data / "wombat" / "a.png")
    options = ["-m", "demo", "--exclude", "broken.*"]
    done = run("evaluate", data, *options)
    assert (done.returncode, "1 class that the network lacks, of 5: 'wombat'" in done.stderr) == (
        1,
        True,
    )
    done = run("evaluate", data, *options, "--skip-unknown")
    assert "1 image of 1 class that the network lacks left out: 'wombat'" in done.stderr
    assert "images     4 of 4 classes" in done.stdout
