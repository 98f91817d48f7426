"""The command `resnest audit` on folders of drawn images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import lines

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 40, 30)}


def draw(path: Path, colour: tuple[int, int, int], seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (40, 40, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def fill(folder: Path, count: int = 8, first: int = 0) -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(count):
            draw(folder / name / f"{i}.png", colour, first + 100 * number + i)
    return folder


@pytest.fixture
def data(tmp_path):
    return fill(tmp_path / "data")


@pytest.fixture
def audit(run):
    return lambda *arguments, **options: run("audit", "-m", "demo", *arguments, **options)


def by_path(done):
    return {row["path"]: row for row in lines(done)}


def state(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_a_wrong_label_comes_first_with_its_class_and_its_neighbours(audit, data):
    draw(data / "blue" / "wrong.png", COLOURS["red"], 999)
    before = state(data)
    done = audit(data, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = lines(done)
    assert len(rows) == 25
    first = rows[0]
    assert first["path"] == str(data / "blue" / "wrong.png")
    assert (first["class"], first["suggested"], first["issues"][0]) == ("blue", "red", "label")
    assert first["quality"] < 0.5 < first["suggested_probability"]
    assert [n["class"] for n in first["neighbours"]] == ["red"] * 5
    similar = [n["similarity"] for n in first["neighbours"]]
    assert similar == sorted(similar, reverse=True)
    assert [row["path"] for row in rows if "label" in row["issues"]] == [first["path"]]
    assert state(data) == before
    assert "1 probably of another class" in done.stderr


def test_rows_are_the_same_again_and_for_other_batches(audit, data, tmp_path):
    draw(data / "blue" / "wrong.png", COLOURS["red"], 999)
    first = audit(data, "-f", "csv").raw
    assert (
        audit(data, "-f", "csv", "-o", "-", "-b", 3, env={"RESNEST_HOME": str(tmp_path / "h")}).raw
        == first
    )
    assert len(first.splitlines()) == 26


def test_each_format_has_the_same_rows(audit, data, tmp_path):
    (data / "red" / "broken.png").write_bytes(b"no image")
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"):
        assert audit(data, "-o", tmp_path / name).returncode == 3
        assert json.loads((tmp_path / f"{name}.run.json").read_text())["settings"]["folds"] == 5
    nested = json.loads((tmp_path / "a.json").read_text())
    assert nested == [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    with (tmp_path / "a.csv").open(newline="") as file:
        flat = list(csv.DictReader(file))
    assert [row["path"] for row in flat] == [row["path"] for row in nested]
    assert flat[0]["neighbour_1"] == nested[0]["neighbours"][0]["path"]
    assert "broken.png" in flat[-1]["path"]
    assert flat[-1]["error"] == nested[-1]["error"] != ""
    assert audit(data, "-o", tmp_path / "a.parquet", "--overwrite").returncode == 3
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["path"] for row in table] == [row["path"] for row in nested]


def test_copies_in_another_class_and_another_split_are_named(audit, tmp_path):
    data = tmp_path / "data"
    fill(data / "train")
    fill(data / "val", first=5000)
    shutil.copy(data / "train/red/1.png", data / "val/red/again.png")
    shutil.copy(data / "train/red/2.png", data / "train/green/copy.png")
    done = audit(data, "-f", "jsonl")
    rows = by_path(done)
    leaked = rows[str(data / "val/red/again.png")]
    assert (leaked["split"], leaked["issues"]) == ("val", ["leak"])
    assert leaked["twin"] == str(data / "train/red/1.png")
    torn = rows[str(data / "train/green/copy.png")]
    assert torn["issues"][0] == "conflict"
    assert torn["twin_class"] == "red"
    assert [n["class"] for n in torn["neighbours"]] == ["red"] * 5
    assert torn["twin"] not in [n["path"] for n in torn["neighbours"]]
    assert {r["split"] for r in rows.values()} == {"train", "val"}
    assert sum("leak" in r["issues"] for r in rows.values()) == 2
    assert sum("conflict" in r["issues"] for r in rows.values()) == 2


def test_an_outlier_is_found(audit, data):
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[::4] = 255
    Image.fromarray(stripes).save(data / "red" / "stripes.png")
    rows = by_path(audit(data, "-f", "jsonl"))
    assert "outlier" in rows[str(data / "red" / "stripes.png")]["issues"]
    assert sum("outlier" in row["issues"] for row in rows.values()) == 1


def test_small_and_empty_classes_are_not_judged(audit, data):
    draw(data / "grey" / "1.png", (120, 120, 120), 1)
    (data / "empty").mkdir()
    done = audit(data, "-f", "jsonl")
    row = by_path(done)[str(data / "grey" / "1.png")]
    assert row["quality"] is row["suggested"] is None
    assert row["note"] == "not judged: its class has 1 distinct image, and needs 5"
    assert len(row["neighbours"]) == 5
    assert "1 not judged" in done.stderr


def test_a_verdict_is_kept_and_not_asked_again(audit, data, tmp_path):
    draw(data / "blue" / "wrong.png", COLOURS["red"], 999)
    out = tmp_path / "a.csv"
    assert audit(data, "-o", out).returncode == 0
    assert audit(data, "-o", out).returncode == 1  # it exists
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["verdict"] = "fine"
    names = [*reversed(rows[0])]  # as a spreadsheet may write it
    with out.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, names, delimiter=";")
        writer.writeheader()
        writer.writerows(reversed(rows))
    (data / "blue" / "wrong.png").rename(data / "blue" / "renamed.png")
    done = audit(data, "-o", out, "--overwrite")
    assert "0 to look at" in done.stderr
    assert "1 reviewed before" in done.stderr
    with out.open(newline="") as file:
        (kept,) = (row for row in csv.DictReader(file) if row["verdict"])
    assert (Path(kept["path"]).name, kept["verdict"], kept["issues"]) == ("renamed.png", "fine", "")
    (data / "blue" / "renamed.png").rename(data / "green" / "moved.png")  # another question
    assert "1 probably of another class" in audit(data, "--reviewed", out).stderr


def test_a_table_shows_what_to_look_at(audit, data):
    draw(data / "blue" / "wrong.png", COLOURS["red"], 999)
    done = audit(data)
    assert "wrong.png" in done.stdout
    assert "5 of 5 red" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 3


def test_what_cannot_be_audited_is_said(audit, data, tmp_path):
    shutil.rmtree(data / "red")
    shutil.rmtree(data / "green")
    done = audit(data)
    assert done.returncode == 1
    assert "at least two must have 5 distinct readable images, and 'blue' has" in done.stderr
    for path in (data / "blue").iterdir():
        path.write_bytes(b"")
    assert "no image can be read: 8 images failed" in audit(data).stderr
    assert "does not exist" in audit(tmp_path / "nowhere").stderr
    assert audit(data, "-o", "a.txt").returncode == 2
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    done = audit(data, "--reviewed", tmp_path / "notes.csv")
    assert "verdicts cannot be read" in done.stderr
    assert audit(data, "-o", tmp_path / "notes.csv", "--overwrite").returncode == 1
    assert (tmp_path / "notes.csv").read_text() == "a,b\n1,2\n"
    done = audit(data, "-o", tmp_path / "notes.csv")
    assert "exists already\nreplace it with --overwrite, or" in done.stderr, "it has no --resume"
