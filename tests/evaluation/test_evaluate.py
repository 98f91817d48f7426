"""`resnest evaluate` as people use it, with the network that comes with the package."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.evaluation.metrics import Share, measure
from resnest_cli.evaluation.report import FILES, compare_with_published
from resnest_cli.variants import get_variant
from tests.conftest import ROOT, lines

TRUTHS = {"aeroplane": "airplane", "boat": "ship", "car": "automobile"}


@pytest.fixture
def data(tmp_path):
    """The example pictures in class folders, one of them among horses; and a broken one."""
    for picture, name in TRUTHS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / f"{picture}.jpg", tmp_path / "data" / name)
    (tmp_path / "data" / "horse").mkdir()
    shutil.copy(ROOT / "examples" / "car.jpg", tmp_path / "data" / "horse" / "no horse.jpg")
    (tmp_path / "data" / "ship" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "data"


def test_the_whole_report(data, run, tmp_path):
    done = run("evaluate", data, "--model", "demo", "-o", "report")
    assert done.returncode == 3
    assert "top-1      75.00%" in done.stdout
    assert "broken.jpg" in done.stderr
    folder = tmp_path / "report"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    figures = json.loads((folder / "metrics.json").read_text())
    assert (figures["pictures"], figures["top1"]["value"], len(figures["failed"])) == (4, 0.75, 1)
    (mistake,) = csv.DictReader((folder / "mistakes.csv").read_text().splitlines())
    assert (mistake["true"], mistake["predicted"]) == ("horse", "automobile")
    head, *rows = csv.reader((folder / "confusion.csv").read_text().splitlines())
    assert next(r for r in rows if r[0] == "horse")[head.index("automobile")] == "1"
    for name in ("confusion.png", "reliability.png", "mistakes.jpg"):
        with Image.open(folder / name) as image:
            assert image.width > 300
    again = run("evaluate", data, "--model", "demo", "-o", "report")
    assert (again.returncode, "--overwrite" in again.stderr) == (1, True)
    for path in (data / "ship" / "broken.jpg", data / "horse" / "no horse.jpg"):
        path.unlink()
    clean = run("evaluate", data, "--model", "demo", "-o", "report", "--overwrite")
    assert clean.returncode == 0, clean.stderr
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"failed.csv", "mistakes.jpg"}


def test_a_report_among_the_classes_would_be_one(data, run):
    done = run("evaluate", data, "--model", "demo", "-o", data / "report")
    assert (done.returncode, "taken for a class" in done.stderr) == (2, True)


def test_probabilities_are_those_of_predict(data, run, tmp_path):
    run("evaluate", data, "--model", "demo", "-o", "report")
    done = run("predict", data, "--model", "demo", "-f", "jsonl", "--top-k", "1")
    predicted = {row["path"]: row["predictions"] for row in lines(done)}
    for row in csv.DictReader((tmp_path / "report" / "predictions.csv").read_text().splitlines()):
        (best,) = predicted[row["path"]]
        assert best["label"] == row["predicted"]
        assert best["probability"] == pytest.approx(float(row["confidence"]), abs=1e-5)


def test_a_list_of_truths(run, tmp_path):
    rows = "".join(f"{picture},{name}\n" for picture, name in TRUTHS.items())
    (tmp_path / "truths.csv").write_text(rows)
    options = ["--labels-file", "truths.csv", "--model", "demo", "-f", "json"]
    done = run("evaluate", ROOT / "examples", *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["top1"]["value"] == 1
    assert figures["macro"]["f1"] == 1


def test_calibration_divides_the_logits(data, run, tmp_path):
    done = run("evaluate", data, "--model", "demo", "--calibrate", "cal.safetensors", "-f", "json")
    temperature = json.loads(done.stdout)["temperature"]
    assert temperature["loss_after"] <= temperature["loss_before"]
    before = Classifier("demo")
    after = Classifier(weights=tmp_path / "cal.safetensors")
    picture = ROOT / "examples" / "car.jpg"
    ((_, a),), ((_, b),) = (list(c.logits([picture])) for c in (before, after))
    assert b * temperature["temperature"] == pytest.approx(a, rel=1e-3, abs=1e-3)
    assert after.card.labels == before.card.labels


WRONG = [
    (["--bins", "1"], 2, "--bins"),
    (["--calibrate", "x.pth"], 2, ".safetensors"),
    (["--weights", "x.onnx", "--calibrate", "x.safetensors"], 2, "checkpoint that it was exported"),
    (["-o", "/proc/nowhere"], 1, "cannot be written to"),
    (["--labels-file", "none.csv"], 1, "none.csv"),
    (["--weights", "none.pth"], 1, "No such file"),
    (["--model", "demo", "--weights", "x.pth"], 2, "demo is the bundled"),
]


@pytest.mark.parametrize(("options", "code", "words"), WRONG, ids=str)
def test_wrong_options(data, run, options, code, words):
    done = run("evaluate", data, *options)
    assert (done.returncode, done.stderr.count("\n") <= 3) == (code, True), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("top1", "pictures", "preprocess", "crop", "agrees"),
    [
        (0.8096, 50_000, "default", None, True),
        (0.8070, 50_000, "default", None, False),
        (0.8103, 50_000, "paper", None, True),
        (0.80, 2_000, "default", None, True),
        (0.70, 2_000, "default", None, False),
        (0.80, 50_000, "hub", None, None),
        (0.8096, 50_000, "default", 288, None),
    ],
)
def test_a_published_figure_is_reproduced_or_not(top1, pictures, preprocess, crop, agrees):
    rng = np.random.default_rng(0)
    truths = np.arange(2000) % 1000
    metrics = measure(rng.normal(size=(2000, 1000)).astype(np.float32), truths)
    half = 1.96 * (top1 * (1 - top1) / pictures) ** 0.5
    shown = Share(top1, top1 - half, top1 + half)
    metrics = dataclasses.replace(metrics, top1=shown, pictures=pictures)
    preprocessing = get_variant("resnest50").preprocessing.named(preprocess).sized(crop, None)
    found = compare_with_published("resnest50", preprocessing, metrics, labelled_as_imagenet=True)
    assert found.agrees == agrees
    assert ("--preprocess default" in found.reason) == (agrees is None)
    assert not compare_with_published("demo", preprocessing, metrics, labelled_as_imagenet=False)
    assert get_variant("resnest50").accuracy.timm == 80.958
