"""`resnest bench`: consistent figures."""

import json

import pytest
from PIL import Image

from resnest_cli.errors import EngineError
from resnest_cli.inference import benchmark

QUICK = ("--seconds", "0.2", "--device", "cpu")


def test_every_engine_beside_eager(run, tmp_path):
    done = run("bench", "resnest14", "demo", *QUICK, "-b", "1", "-b", "2", "-f", "json",
               "--engine", "torch", "-o", tmp_path / "out.json",
               "--chart", tmp_path / "c.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["limit_flops"]["fp32"] > 1e9
    keys = [(r["model"], r["batch_size"], r["engine"]) for r in found["rows"]]
    assert keys == [
        (model, batch, engine)
        for model in ("resnest14", "demo")
        for batch in (1, 2)
        for engine in ("eager", "torch")
    ]
    for row in found["rows"]:
        assert 0 < row["latency_ms"] <= row["p95_ms"]
        rate = 1000 * row["batch_size"] / row["latency_ms"]
        assert row["images_per_second"] == pytest.approx(rate)
        if row["engine"] == "eager":
            assert row["times_eager"] == 1
        if row["model"] == "resnest14":
            limit = found["machine"]["limit_flops"]["fp32"]
            assert row["of_limit"] == pytest.approx(2 * 2.76e9 * rate / limit, rel=0.01)
            assert row["top1"] == pytest.approx(75.52, abs=0.01)
        else:
            assert row["of_limit"] is None
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"


def test_openvino_of_random_weights_is_not_kept(run, home, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    done = run("bench", "resnest14", *QUICK, "--engine", "openvino")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if "resnest14" in line]
    assert rows == [["resnest14", "eager"], ["resnest14", "openvino"]]
    assert not (home / "compiled").exists()


def test_existing_files_are_kept(run, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    done = run("bench", "demo", *QUICK, "-o", tmp_path / "mine.json")
    assert (done.returncode, "--overwrite" in done.stderr) == (1, True)
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert run("bench", "demo", *QUICK, "-o", tmp_path / "no" / "x.json").returncode == 1


def test_published_figures_are_for_published_weights(run, legacy_checkpoint):
    done = run("bench", "--weights", legacy_checkpoint, *QUICK, "--engine", "torch", "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["model"] for row in rows] == ["resnest14", "resnest14"]
    assert [row["top1"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "no model fits 'nothing'"),
        (("resnest14", "--all"), "one of them"),
        (("--engine", "onnx"), "--engine must be one of auto, torch, openvino, not 'onnx'"),
        (("--precision", "int8"), "--precision must be one of fp32, bf16, fp16, not 'int8'"),
        (("demo", "--chart", "x.jpg"), "--chart must end in .png, not 'x.jpg'"),
        (("demo", "-o", "x.csv"), "--output must end in .json, not 'x.csv'"),
    ],
)
def test_wrong_command_lines(run, arguments, words):
    done = run("bench", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_engines_that_fail_are_left_out_with_a_warning(caplog, monkeypatch):
    def failing(*_, **__):
        raise EngineError("not available\nuse another")

    monkeypatch.setattr(benchmark, "open_engine", failing)
    rows = list(benchmark.benchmark(["demo"], engines=["torch"], device="cpu", seconds=0.1))
    assert [row.engine for row in rows] == ["eager"]
    assert "torch in fp32, batch size 1, left out: not available" in caplog.text


def test_a_run_that_measured_nothing_leaves_nothing(run, tmp_path):
    done = run("bench", "--weights", "nowhere.pth", *QUICK, "-f", "json", "-o", "x.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert not (tmp_path / "x.json").exists()
