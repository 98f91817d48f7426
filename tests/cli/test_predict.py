"""`resnest predict` as users run it: inputs of every kind to rows of every format."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.catalog.labels import imagenet1k
from resnest_cli.outputs.formats import read_results
from tests.conftest import drawn, lines
from tests.servers import content, serving, status


def test_jsonl(predict, images):
    done = predict(images, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = lines(done)
    assert [r["path"] for r in rows] == sorted(str(p) for p in images.rglob("*.*"))
    for row in rows:
        assert list(row) == ["path", "predictions", "error"]
        assert row["error"] is None
        assert [list(p) for p in row["predictions"]] == [
            ["rank", "index", "wnid", "label", "probability"]
        ] * 5
        probabilities = [p["probability"] for p in row["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        first = row["predictions"][0]
        labels = imagenet1k()
        assert first["label"] == labels.names[first["index"]]
        assert first["wnid"] == labels.wnids[first["index"]]
    assert "12 images" in done.stderr


def test_all_formats_hold_the_same(predict, images, tmp_path):
    expected = lines(predict(images, "-f", "jsonl", "-k", 2))
    assert json.loads(predict(images, "-f", "json", "-k", 2).stdout) == expected
    table = list(csv.DictReader(io.StringIO(predict(images, "-f", "csv", "-k", 2).stdout)))
    for row, result in zip(table, expected, strict=True):
        assert next(iter(row)) == "path"
        assert list(row)[-1] == "error"
        for p in result["predictions"]:
            assert float(row[f"probability_{p['rank']}"]) == p["probability"]
            assert row[f"label_{p['rank']}"] == p["label"]
    import pyarrow.parquet as pq

    predict(images, "-k", 2, "-o", "out.parquet")
    piped = predict(images, "-k", 2, "-f", "parquet")
    (tmp_path / "piped.parquet").write_bytes(piped.raw)
    for name in ("out.parquet", "piped.parquet"):
        for row, result in zip(pq.read_table(tmp_path / name).to_pylist(), expected, strict=True):
            assert row["path"] == result["path"]
            for p in result["predictions"]:
                assert np.float32(row[f"probability_{p['rank']}"]) == np.float32(p["probability"])


def test_probabilities_are_whole_float32s(predict, drawn_image, legacy_checkpoint):
    (row,) = lines(predict(drawn_image, "-f", "jsonl", "-k", 1000))
    found = np.zeros(1000, np.float32)
    for p in row["predictions"]:
        found[p["index"]] = p["probability"]
        assert float(str(np.float32(p["probability"]))) == p["probability"]
    assert abs(found.sum() - 1) < 1e-5
    result = Classifier(weights=legacy_checkpoint, top_k=1000)(drawn_image)
    assert [p.probability for p in result.predictions] == [
        p["probability"] for p in row["predictions"]
    ]


def test_plain_table(predict, drawn_image):
    done = predict(drawn_image.name, "-k", 2)
    heading, first, second, blank, foot = done.stdout.splitlines()
    assert heading == "drawn.png"
    assert re.fullmatch(r"    1 +\d+\.\d\d%  .+ \(n\d{8}\)", first)
    assert second.startswith("    2 ")
    assert blank == ""
    assert foot.split(" · ") == [
        "resnest14", "default (resize 256, crop 224, bilinear)", "torch", "cpu", "fp32"
    ]  # fmt: skip


def test_everything_mixed_in_one_call(run_process, legacy_checkpoint, images, drawn_image):
    stored = drawn_image.read_bytes()
    (images / "list").write_text(f"{images}/p01.png\n")
    with serving(content(stored)) as server:
        done = run_process(
            "predict",
            "--weights",
            legacy_checkpoint,
            drawn_image,
            images / "more",
            f"{images}/p0[0-2].png",
            f"{server.url}/x.png",
            "-",
            "--allow-private",
            "--files-from",
            images / "list",
            "-f",
            "jsonl",
            input=stored,
            text=False,
        )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = [Path(r["path"]).name for r in rows]
    assert names == [
        "drawn.png", "p10.jpg", "p11.jpg", "p00.png", "p01.png", "p02.png", "x.png", "-", "p01.png"
    ]  # fmt: skip
    assert done.returncode == 0
    same = [rows[0], rows[6], rows[7]]
    assert len({r["predictions"][0]["index"] for r in same}) == 1
    assert len({r["predictions"][0]["probability"] for r in same}) == 1


def test_bad_inputs_have_their_rows_and_exit_code_3(predict, images):
    (images / "p03a.jpg").write_bytes(b"")
    (images / "p05a.png").write_text("no image")
    with serving(status(404)) as server:
        url = f"{server.url}/gone.jpg"
        done = predict(images, "nope.jpg", url, "none/*.jpg", "-f", "jsonl", "--allow-private")
    assert done.returncode == 3
    rows = lines(done)
    assert len(rows) == 12 + 2 + 3
    failed = {Path(r["path"]).name: r["error"] for r in rows if r["error"]}
    assert list(failed) == ["p03a.jpg", "p05a.png", "nope.jpg", "gone.jpg", "*.jpg"]
    assert all(r["predictions"] == [] for r in rows if r["error"])
    assert failed["p03a.jpg"] == "the file is empty"
    assert "404" in failed["gone.jpg"]
    assert "5 failed" in done.stderr


def test_inputs_that_all_failed_have_their_rows_and_exit_code_3(predict, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    done = predict("broken.jpg", "nope.jpg", "-f", "jsonl")
    assert (done.returncode, [row["path"] for row in lines(done)]) == (
        3,
        ["broken.jpg", "nope.jpg"],
    )
    assert all(row["error"] for row in lines(done))


def test_what_is_not_named_as_an_image_is_counted_in_the_summary(predict, images):
    for name in ("scan.dcm", "notes.txt", "@eaDir/p00.png"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).touch()
    done = predict(images, "-f", "jsonl")
    assert len(lines(done)) == 12
    assert (
        "; left out: 2 files not named as an image (1 .dcm, 1 .txt) and the system's own folder "
        "'@eaDir'\n"
    ) in done.stderr.replace("(1 .txt, 1 .dcm)", "(1 .dcm, 1 .txt)")


def test_nothing_to_do_is_exit_code_1_or_2(run, predict, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").touch()
    assert predict("empty").returncode == 1
    assert predict("--files-from", "list").returncode == 1
    done = run("predict")
    assert done.returncode == 2
    assert "no inputs" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is available")
def test_an_unavailable_device(predict, drawn_image):
    done = predict(drawn_image, "--device", "cuda")
    assert done.returncode == 1
    assert "resnest doctor" in done.stderr


def test_top_k_threshold_and_labels(predict, drawn_image, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"name {i}" for i in range(1000)) + "\n\n")
    done = predict(drawn_image, "-k", 3, "--labels", labels, "-f", "jsonl")
    (row,) = lines(done)
    assert [p["rank"] for p in row["predictions"]] == [1, 2, 3]
    assert all(p["label"] == f"name {p['index']}" for p in row["predictions"])
    assert all(p["wnid"] is None for p in row["predictions"])
    (row,) = lines(predict(drawn_image, "--threshold", 1, "-f", "jsonl"))
    assert (row["predictions"], row["error"]) == ([], None)
    labels.write_text("one\ntwo\n")
    done = predict(drawn_image, "--labels", labels)
    assert done.returncode == 1
    assert "2 names, but the network has 1,000 classes" in done.stderr
    assert predict(drawn_image, "-k", 1001).returncode == 2


@pytest.mark.parametrize("name", ["default", "hub", "paper"])
def test_preprocessing_is_named_at_the_foot(predict, drawn_image, name):
    assert f" · {name} (" in predict(drawn_image, "--preprocess", name).stdout


def test_exif_orientation_is_applied_unless_ignored(predict, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    upright = drawn()
    upright.save(tmp_path / "up.png")
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "down.png", exif=exif)
    up, down = lines(predict("up.png", "down.png", "-f", "jsonl"))
    assert up["predictions"] == down["predictions"]
    up, down = lines(predict("up.png", "down.png", "-f", "jsonl", "--no-exif"))
    assert up["predictions"] != down["predictions"]


def test_the_environment_names_a_default_model(run, drawn_image):
    environment = {"RESNEST_MODEL": "resnest101e"}
    done = run("predict", drawn_image, "--offline", env=environment)
    assert "resnest101 is not on disk" in done.stderr


def test_offline_keeps_images_out_too(predict, drawn_image):
    with serving(content(drawn_image.read_bytes())) as server:
        done = predict(f"{server.url}/x.png", "--offline", "-f", "jsonl")
    assert done.returncode == 3
    assert "network is off" in lines(done)[0]["error"]
    assert server.requests == []


def test_tab_separated_values(predict, drawn_image):
    header, row = predict(drawn_image, "-k", 1, "-f", "tsv").stdout.splitlines()
    assert header.split("\t") == ["path", "index_1", "wnid_1", "label_1", "probability_1", "error"]
    assert row.split("\t")[0] == str(drawn_image)


def test_a_model_may_be_named_by_its_path(run, legacy_checkpoint, drawn_image):
    (named,) = lines(run("predict", drawn_image, "-m", legacy_checkpoint, "-f", "jsonl"))
    (given,) = lines(run("predict", drawn_image, "--weights", legacy_checkpoint, "-f", "jsonl"))
    assert named == given
    done = run("predict", drawn_image, "-m", legacy_checkpoint, "--weights", legacy_checkpoint)
    assert done.returncode == 2
    assert "leave out --weights" in done.stderr


def test_limit_include_and_exclude(predict, images):
    rows = lines(
        predict(images, "--include", "*.png", "--exclude", "p00*", "--limit", 3, "-f", "jsonl")
    )
    assert [Path(row["path"]).name for row in rows] == ["p01.png", "p02.png", "p03.png"]


def test_an_unknown_suffix_of_the_output_lists_the_known_ones(predict, drawn_image, tmp_path):
    done = predict(drawn_image, "-o", "out.xlsx")
    assert done.returncode == 2
    assert "--output must end in one of .json, .jsonl, .ndjson, .csv, .tsv" in done.stderr
    assert not (tmp_path / "out.xlsx").exists()
    assert predict(drawn_image, "-o", "out.xlsx", "-f", "csv").returncode == 0


FORMULAS = ["=1+1.png", "+a.png", "-a.png", "@a.png", "'=a.png", "'a.png", "a=.png"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("safe", [True, False], ids=["safe", "as they are"])
def test_names_that_spreadsheets_take_for_formulas(predict, images, tmp_path, safe, suffix):
    """Such names are written as they are, or such that they are read back as they are."""
    for name in FORMULAS:
        shutil.copy(images / "p00.png", tmp_path / name)
    options = ["--csv-safe", "--csv-bom"] if safe else []
    names, out = FORMULAS, f"out.{suffix}"
    done = predict(*options, "-o", out, "--", *names[:4])
    assert done.returncode == 0, done.stderr
    done = predict(*options, "-o", out, "--resume", "--", *names)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / out).read_bytes()
    assert content.startswith(b"\xef\xbb\xbfpath" if safe else b"path")
    rows = csv.reader(content.decode("utf-8-sig").splitlines(), delimiter=",\t"[suffix == "tsv"])
    written = [row[0] for row in rows][1:]
    escaped = [f"'{name}" for name in names[:5]] + names[5:]
    assert written == (escaped if safe else names)
    assert [result.path for result in read_results(tmp_path / out)] == names


def test_options_for_csv_need_csv(predict, drawn_image):
    done = predict(drawn_image, "--csv-safe", "-f", "jsonl")
    assert (done.returncode, "--csv-safe is for the formats csv and tsv" in done.stderr) == (
        2,
        True,
    )


def test_a_list_that_find_ends_with_nul_characters(predict, images, tmp_path):
    names = sorted(str(path) for path in images.glob("*.png"))
    (tmp_path / "list").write_bytes("\0".join([*names, ""]).encode())
    done = predict("--files-from", "list", "--null", "-f", "jsonl")
    assert [row["path"] for row in lines(done)] == names
    done = predict("--files-from", "list", "-f", "jsonl")
    assert (done.returncode, done.stdout, "--null" in done.stderr) == (2, "", True)
