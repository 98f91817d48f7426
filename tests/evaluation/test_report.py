"""The files of a report, and the summary for people."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from resnest_cli import evaluate
from resnest_cli.catalog.labels import numbered
from resnest_cli.errors import OutputError
from resnest_cli.evaluation.metrics import measure
from resnest_cli.evaluation.report import FILES, Evaluation


def table(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_every_file_of_the_report(data, tmp_path):
    folder = tmp_path / "report"
    evaluate(data, "demo", output=folder)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["images"], metrics["top1"]["value"], len(metrics["failed"])) == (4, 0.75, 1)
    assert [c["label"] for c in metrics["classes"] if c["support"]] == [
        "airplane", "automobile", "horse", "ship"
    ]  # fmt: skip
    (mistake,) = csv.DictReader((folder / "mistakes.csv").read_text().splitlines())
    assert (mistake["true"], mistake["predicted"]) == ("horse", "automobile")
    assert int(mistake["rank_of_true"]) > 1
    head, *rows = table(folder / "confusion.csv")
    assert next(r for r in rows if r[0] == "horse")[head.index("automobile")] == "1"
    assert sum(int(n) for row in rows for n in row[1:]) == 4
    head, *rows = table(folder / "per_class.csv")
    assert dict(zip(head, rows[9 - 1], strict=True)) | {"index": 8} == {
        "index": 8, "wnid": "", "label": "ship", "precision": "1.0", "recall": "1.0", "f1": "1.0",
        "support": "1",
    }  # fmt: skip
    assert table(folder / "failed.csv")[1][0].endswith("broken.jpg")
    for name in ("confusion.png", "reliability.png", "mistakes.jpg"):
        with Image.open(folder / name) as image:
            assert image.width > 300


def test_a_report_is_replaced_on_demand_only(data, tmp_path):
    folder = tmp_path / "report"
    result = evaluate(data, "demo")
    result.write(folder)
    (folder / "mine.txt").write_text("stays")
    with pytest.raises(OutputError, match="and 7 more already"):
        result.write(folder)
    for path in (data / "ship" / "broken.jpg", data / "horse" / "not a horse.jpg"):
        path.unlink()
    evaluate(data, "demo").write(folder, overwrite=True)
    left = {path.name for path in folder.iterdir()}
    assert left == set(FILES) - {"failed.csv", "mistakes.jpg"} | {"mine.txt"}


def test_the_sheet_shows_no_more_mistakes_than_asked_for(data, tmp_path):
    evaluate(data, "demo", output=tmp_path / "report", mistakes=0)
    assert not (tmp_path / "report" / "mistakes.jpg").exists()
    assert len(table(tmp_path / "report" / "mistakes.csv")) == 2


def made(logits, labels):
    """An evaluation of logits, without images."""
    from tests.conftest import FakeEngine

    engine = FakeEngine(classes=logits.shape[1])
    return Evaluation(
        network="fake",
        weights=engine.weights,
        config=engine.config,
        paths=[f"{i}.png" for i in range(len(labels))],
        logits=logits,
        labels=labels,
        metrics=measure(logits, labels),
    )


def test_the_summary_names_the_classes_with_the_lowest_f1():
    labels = np.arange(40)
    logits = np.eye(40, dtype=np.float32)
    logits[7] = logits[3]  # one image of class 7 is taken for class 3
    summary = made(logits, labels).summary()
    assert summary[0].startswith("top-1      97.50%  (95 %: ")
    assert summary[1].startswith("top-5      ")
    head = next(i for i, line in enumerate(summary) if line.startswith("lowest 30 of 40 classes"))
    assert [line.split("  ")[0].rstrip() for line in summary[head + 1 :]][:2] == [
        "class 7",
        "class 3",
    ]
    assert len(summary) == head + 31


def test_the_summary_of_few_classes_leaves_out_top5():
    summary = made(np.eye(3, dtype=np.float32), np.arange(3)).summary()
    assert not any(line.startswith("top-5") for line in summary)
    assert [line.split("  ")[0] for line in summary[-3:]] == list(numbered(3).names)
