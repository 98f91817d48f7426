"""The command as users run it: in a process of its own, on real files."""

import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier, __version__
from resnest_cli.labels import imagenet1k
from tests.conftest import RESNEST, drawn
from tests.servers import content, serving, status

HEAVY = ("torch", "numpy", "PIL", "torchvision", "requests")


@pytest.fixture
def checkpoint(legacy_checkpoint, tmp_path):
    """A resnest14 under a name that says nothing."""
    return legacy_checkpoint


@pytest.fixture
def predict(run, checkpoint):
    def call(*arguments, **options):
        return run("predict", "--weights", checkpoint, *arguments, **options)

    return call


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "command",
    [["--help"], ["--version"], ["list-models"], ["predict", "--help"], ["doctor", "--help"], []],
    ids=" ".join,
)
def test_answers_about_itself_import_nothing_heavy(command):
    program = (
        "import sys; from resnest_cli.cli import main\n"
        f"sys.argv[1:] = {command}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"assert not (found := sorted({set(HEAVY)} & set(sys.modules))), found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout


def test_the_package_alone_imports_nothing_heavy():
    program = f"import resnest_cli, sys; assert not {set(HEAVY)} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_version(run):
    assert run("--version").stdout == f"resnest {__version__}\n"


def test_the_console_script_is_the_module(run):
    script = Path(sys.executable).with_name("resnest")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").stdout


def test_jsonl(predict, pictures):
    done = predict(pictures, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = lines(done)
    assert [r["path"] for r in rows] == sorted(str(p) for p in pictures.rglob("*.*"))
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
    assert "12 pictures" in done.stderr


def test_all_formats_say_the_same(predict, pictures, tmp_path):
    expected = lines(predict(pictures, "-f", "jsonl", "-k", 2))
    assert json.loads(predict(pictures, "-f", "json", "-k", 2).stdout) == expected
    table = list(csv.DictReader(io.StringIO(predict(pictures, "-f", "csv", "-k", 2).stdout)))
    for row, result in zip(table, expected, strict=True):
        assert next(iter(row)) == "path"
        assert list(row)[-1] == "error"
        for p in result["predictions"]:
            assert float(row[f"probability_{p['rank']}"]) == p["probability"]
            assert row[f"label_{p['rank']}"] == p["label"]
    import pyarrow.parquet as pq

    predict(pictures, "-k", 2, "-o", "out.parquet")
    piped = predict(pictures, "-k", 2, "-f", "parquet", text=False)
    (tmp_path / "piped.parquet").write_bytes(piped.stdout)
    for name in ("out.parquet", "piped.parquet"):
        for row, result in zip(pq.read_table(tmp_path / name).to_pylist(), expected, strict=True):
            assert row["path"] == result["path"]
            for p in result["predictions"]:
                assert np.float32(row[f"probability_{p['rank']}"]) == np.float32(p["probability"])


def test_probabilities_are_whole_float32s(predict, drawn_picture, checkpoint):
    (row,) = lines(predict(drawn_picture, "-f", "jsonl", "-k", 1000))
    found = np.zeros(1000, np.float32)
    for p in row["predictions"]:
        found[p["index"]] = p["probability"]
        assert float(str(np.float32(p["probability"]))) == p["probability"]
    assert abs(found.sum() - 1) < 1e-5
    result = Classifier(weights=checkpoint, top_k=1000)(drawn_picture)
    assert [p.probability for p in result.predictions] == [
        p["probability"] for p in row["predictions"]
    ]


def test_plain_table(predict, drawn_picture):
    done = predict(drawn_picture.name, "-k", 2)
    heading, first, second, blank, foot = done.stdout.splitlines()
    assert heading == "drawn.png"
    assert re.fullmatch(r"    1 +\d+\.\d\d%  .+ \(n\d{8}\)", first)
    assert second.startswith("    2 ")
    assert blank == ""
    assert foot.split(" · ") == [
        "resnest14", "default (resize 256, crop 224, bilinear)", "torch", "cpu", "fp32"
    ]  # fmt: skip


def test_everything_mixed_in_one_call(predict, pictures, drawn_picture):
    stored = drawn_picture.read_bytes()
    (pictures / "list").write_text(f"{pictures}/p01.png\n")
    with serving(content(stored)) as server:
        done = predict(
            drawn_picture,
            pictures / "more",
            f"{pictures}/p0[0-2].png",
            f"{server.url}/x.png",
            "-",
            "--files-from",
            pictures / "list",
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


def test_bad_inputs_have_their_rows_and_exit_code_3(predict, pictures):
    (pictures / "p03a.jpg").write_bytes(b"")
    (pictures / "p05a.png").write_text("no picture")
    with serving(status(404)) as server:
        url = f"{server.url}/gone.jpg"
        done = predict(pictures, "nope.jpg", url, "none/*.jpg", "-f", "jsonl")
    assert done.returncode == 3
    rows = lines(done)
    assert len(rows) == 12 + 2 + 3
    failed = {Path(r["path"]).name: r["error"] for r in rows if r["error"]}
    assert list(failed) == ["p03a.jpg", "p05a.png", "nope.jpg", "gone.jpg", "*.jpg"]
    assert all(r["predictions"] == [] for r in rows if r["error"])
    assert failed["p03a.jpg"] == "the file is empty"
    assert "404" in failed["gone.jpg"]
    assert "5 failed" in done.stderr


def test_nothing_to_do_is_exit_code_1_or_2(run, predict, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").touch()
    assert predict("empty").returncode == 1
    assert predict("--files-from", "list").returncode == 1
    done = run("predict")
    assert done.returncode == 2
    assert "nothing to classify" in done.stderr


WRONG = [
    (["predict", "x.jpg", "--model", "resnet50"], 2, "did you mean resnest50"),
    (["predict", "x.jpg", "--top-k", "0"], 2, "top-k"),
    (["predict", "x.jpg", "--threshold", "2"], 2, "threshold"),
    (["predict", "x.jpg", "--prepocess", "hub"], 2, "--preprocess"),
    (["predict", "x.jpg", "--format", "xml"], 2, "table"),
    (["predict", "x.jpg", "--resume"], 2, "--output"),
    (["predict", "x.jpg", "--background", "white"], 2, "RRGGBB"),
    (["predict", "x.jpg", "--device", "gpu"], 2, "cuda"),
    (["predict", "x.jpg", "-o", "no/where.csv"], 1, "no folder"),
    (["predict", "x.jpg", "--weights", "none.pth"], 1, "No such file"),
    (["predict", "x.jpg", "--offline"], 1, "resnest50-528c19ca.pth"),
    (["predict", "x.jpg", "--engine", "openvino"], 1, "--engine torch"),
    (["predict", "--files-from", "none"], 2, "no list"),
    (["predikt", "x.jpg"], 2, "resnest predict"),
    (["list-models", "xyz"], 2, "no model fits"),
    (["download"], 2, "--all"),
    (["download", "resnest5"], 2, "did you mean"),
]


@pytest.mark.parametrize(("command", "code", "words"), WRONG, ids=lambda v: str(v)[:60])
def test_errors_are_two_lines_that_help(run, command, code, words, checkpoint):
    extra = (
        [] if {"--weights", "--offline", "--model"} & set(command) else ["--weights", checkpoint]
    )
    done = run(*command, *(extra if command[0] == "predict" else []))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(predict, drawn_picture):
    done = predict(drawn_picture, "--device", "cuda")
    assert done.returncode == 1
    assert "resnest doctor" in done.stderr


def test_a_picture_in_the_place_of_a_command(run, drawn_picture):
    done = run(drawn_picture.name)
    assert done.returncode == 2
    assert "did you mean 'resnest predict drawn.png'?" in done.stderr


def test_debug_shows_where(run):
    done = run("predict", "x.jpg", "--offline", env=os.environ | {"RESNEST_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_top_k_threshold_and_labels(predict, drawn_picture, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"name {i}" for i in range(1000)) + "\n\n")
    done = predict(drawn_picture, "-k", 3, "--labels", labels, "-f", "jsonl")
    (row,) = lines(done)
    assert [p["rank"] for p in row["predictions"]] == [1, 2, 3]
    assert all(p["label"] == f"name {p['index']}" for p in row["predictions"])
    assert all(p["wnid"] is None for p in row["predictions"])
    (row,) = lines(predict(drawn_picture, "--threshold", 1, "-f", "jsonl"))
    assert (row["predictions"], row["error"]) == ([], None)
    labels.write_text("one\ntwo\n")
    done = predict(drawn_picture, "--labels", labels)
    assert done.returncode == 1
    assert "2 names, but the network has 1,000 classes" in done.stderr
    assert predict(drawn_picture, "-k", 1001).returncode == 2


@pytest.mark.parametrize("name", ["default", "hub", "paper"])
def test_preprocessing_is_named_at_the_foot(predict, drawn_picture, name):
    assert f" · {name} (" in predict(drawn_picture, "--preprocess", name).stdout


def test_exif_is_obeyed_unless_told_not_to(predict, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    upright = drawn()
    upright.save(tmp_path / "up.png")
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "down.png", exif=exif)
    up, down = lines(predict("up.png", "down.png", "-f", "jsonl"))
    assert up["predictions"] == down["predictions"]
    up, down = lines(predict("up.png", "down.png", "-f", "jsonl", "--no-exif"))
    assert up["predictions"] != down["predictions"]


def test_the_environment_names_a_default_model(run, drawn_picture):
    done = run(
        "predict", drawn_picture, "--offline", env=os.environ | {"RESNEST_MODEL": "resnest101e"}
    )
    assert "resnest101 is not on disk" in done.stderr


def test_quiet_and_verbose(predict, pictures):
    assert predict(pictures, "-q", "-f", "csv").stderr == ""
    assert "looks like resnest14" in predict(pictures, "-v", "-f", "csv").stderr


def test_an_existing_output_is_kept_unless_asked(predict, drawn_picture, tmp_path):
    out = tmp_path / "out.csv"
    assert predict(drawn_picture, "-o", out).returncode == 0
    before = out.read_bytes()
    done = predict(drawn_picture, "-o", out)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    assert "--overwrite" in done.stderr
    assert predict(drawn_picture, "-o", out, "--resume").returncode == 0
    assert out.read_bytes() == before
    assert predict(drawn_picture, drawn_picture, "-o", out, "--overwrite").returncode == 0
    assert len(out.read_bytes().splitlines()) == 3
    record = json.loads(Path(f"{out}.run.json").read_text())
    assert record["settings"]["model"] == "resnest14"
    assert record["settings"]["preprocessing"]["name"] == "default"


def test_resuming_with_other_settings_is_refused(predict, drawn_picture, tmp_path):
    out = tmp_path / "out.csv"
    predict(drawn_picture, "-o", out)
    done = predict(drawn_picture, "-o", out, "--resume", "--threshold", 0.5)
    assert done.returncode == 1
    assert "threshold was 0.0, now 0.5" in done.stderr


@pytest.fixture
def many(tmp_path):
    """Thirty pictures, three of them broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        path = folder / f"{number:03}.jpg"
        drawn(400, 300, seed=number % 7).save(path)
        if number % 10 == 4:
            path.write_bytes(path.read_bytes()[:3000])
    return folder


@pytest.mark.parametrize(
    ("fmt", "how"),
    [
        ("jsonl", signal.SIGKILL),
        ("json", signal.SIGINT),
        ("csv", signal.SIGTERM),
        ("parquet", signal.SIGKILL),
    ],
)
def test_a_run_that_is_stopped_is_resumed_to_the_same_rows(
    predict, many, checkpoint, tmp_path, fmt, how
):
    whole, cut = tmp_path / f"whole.{fmt}", tmp_path / f"cut.{fmt}"
    assert predict(many, "-o", whole).returncode == 3
    command = [*RESNEST, "predict", "--weights", checkpoint, many, "-o", cut]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
        rows = Path(f"{cut}.journal") if fmt == "parquet" else cut
        while not (rows.exists() and rows.stat().st_size > 3000):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(how)
        message = process.stderr.read()
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted after" in message
        assert "--resume" in message
    done = predict(many, "-o", cut, "--resume")
    assert done.returncode == 3, done.stderr
    assert "with the earlier run's" in done.stderr
    if fmt == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(cut).to_pylist() == pq.read_table(whole).to_pylist()
    else:
        assert cut.read_bytes() == whole.read_bytes()


def test_a_reader_that_has_enough_ends_the_run_quietly(many, checkpoint):
    command = [*RESNEST, "predict", "--weights", checkpoint, many, "-f", "jsonl", "-b", "1"]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert errors == b""


def in_terminal(command, *, timeout=60):
    """What a person sees, without the codes for colours."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUTF8": "1"}
    with subprocess.Popen(
        [*map(str, command)], stdin=child, stdout=child, stderr=child, env=environment
    ) as process:
        os.close(child)
        seen = b""
        try:
            while chunk := os.read(parent, 4096):
                seen += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(parent)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_bars_at_a_terminal(drawn_picture, checkpoint):
    code, seen = in_terminal([*RESNEST, "predict", "--weights", checkpoint, drawn_picture])
    assert code == 0
    assert "▏" in seen or "█" in seen
    assert "resnest14 · default (resize 256, crop 224, bilinear) · torch · cpu · fp32" in seen


def test_progress_at_a_terminal(many, checkpoint, tmp_path):
    code, seen = in_terminal(
        [*RESNEST, "predict", "--weights", checkpoint, many, "-o", tmp_path / "out.csv"]
    )
    assert code == 3
    assert "classifying" in seen
    assert "/30" in seen
    assert "30 pictures in" in seen


def test_a_list_from_a_pipe_is_read_once(drawn_picture, checkpoint, tmp_path):
    names = "\n".join([str(drawn_picture)] + ["nope.jpg"] * 3000)
    script = f"cat {tmp_path}/list | {sys.executable} -m resnest_cli predict --weights {checkpoint}"
    script += f" --files-from /dev/stdin -o {tmp_path}/out.jsonl"
    (tmp_path / "list").write_text(names)
    code, seen = in_terminal(["sh", "-c", script])
    assert code == 3, seen
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3001


def test_offline_keeps_pictures_out_too(predict, drawn_picture):
    with serving(content(drawn_picture.read_bytes())) as server:
        done = predict(f"{server.url}/x.png", "--offline", "-f", "jsonl")
    assert done.returncode == 3
    assert "network is off" in lines(done)[0]["error"]
    assert server.requests == []


def test_an_interruption_does_not_wait_for_a_picture_that_never_comes(checkpoint):
    command = [*RESNEST, "predict", "--weights", checkpoint, "-", "-v"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "looks like" in process.stderr.readline()
        time.sleep(1.5)  # until it waits for standard input
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("fmt", ["table", "csv", "jsonl", "json"])
def test_devices_and_links_are_written_through(predict, drawn_picture, tmp_path, fmt):
    (tmp_path / "link.out").symlink_to(tmp_path / "target.out")
    for name in (os.devnull, "link.out"):
        assert predict(drawn_picture, "-o", name, "-f", fmt).returncode == 0
    assert not Path(os.devnull).is_file()
    assert (tmp_path / "link.out").is_symlink()
    assert (tmp_path / "target.out").stat().st_size > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", [["predict"], ["predict", "-f", "csv"], ["list-models"]])
def test_a_full_disk_is_told(run, checkpoint, drawn_picture, command):
    if command[0] == "predict":
        command = [*command, "--weights", checkpoint, drawn_picture]
    with open("/dev/full", "wb") as full:
        done = run(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left" in done.stderr


def test_a_wrong_list_costs_no_earlier_results(predict, drawn_picture, tmp_path):
    (tmp_path / "old.csv").write_text("precious")
    done = predict(drawn_picture, "--files-from", "nope", "-o", "old.csv", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "old.csv").read_text() == "precious"


def test_names_too_long_for_the_system(run, predict):
    assert run("x" * 300).returncode == 2
    done = predict("x" * 300, "-f", "jsonl")
    assert done.returncode == 3
    assert "name too long" in lines(done)[0]["error"]
    assert predict("x.jpg", "-o", "x" * 300).returncode == 1


def test_list_models(run, home):
    home.joinpath("checkpoints").mkdir(parents=True)
    home.joinpath("checkpoints", "resnest101-22405ba7.pth").touch()
    rows = json.loads(run("list-models", "-f", "json").stdout)
    assert len(rows) == 13
    wanted = "name alias params gmacs crop resize interpolation top1 top5 cached".split()
    assert set(wanted) <= set(rows[0])
    assert [r["name"] for r in rows if r["cached"]] == ["resnest101"]
    table = list(csv.DictReader(io.StringIO(run("list-models", "*fast*", "-f", "csv").stdout)))
    assert len(table) == 7
    plain = run("list-models").stdout.splitlines()
    assert len(plain) == 14
    assert len(in_terminal([*RESNEST, "list-models"])[1].splitlines()) >= 15


def test_download_of_what_is_there(run, home, legacy_checkpoint):
    done = run("download", "resnest14", env=os.environ | {"RESNEST_OFFLINE": "1"})
    assert done.returncode == 1
    assert "gluon_resnest14-9c8fe254.pth" in done.stderr


def test_download_from_a_mirror_that_has_another_file(run):
    with serving(content(b"not it")) as server:
        environment = os.environ | {
            "RESNEST_MIRROR": server.url,
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }
        done = run("download", "resnest50", env=environment)
    assert done.returncode == 1
    assert "not 528c19ca" in done.stderr
    assert "HTTPS_PROXY" in done.stderr


def test_doctor(run, tmp_path):
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for words in (
        __version__,
        torch.__version__.split("+")[0],
        "Devices",
        "torch",
        str(tmp_path / "home"),
    ):
        assert words in done.stdout
    assert "resnest download resnest50" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_model_names(shell, tmp_path):
    environment = os.environ | {
        "_RESNEST_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "resnest predict --model resnest50_fast_4",
        "COMP_WORDS": "resnest predict --model resnest50_fast_4",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = "import sys; sys.argv = ['resnest']; from resnest_cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "resnest50_fast_4s2x40d" in done.stdout
    assert "resnest101" not in done.stdout


def test_memory_does_not_grow_with_the_number_of_pictures(checkpoint, many, tmp_path):
    """Peaks of whole processes, in the kernel's own accounting."""
    peaks = []
    for count in (20, 300):
        folder = tmp_path / f"links{count}"
        folder.mkdir()
        for number in range(count):
            os.symlink(many / f"{number % 30:03}.jpg", folder / f"{number:04}.jpg")
        command = [*RESNEST, "predict", "--weights", checkpoint, folder, "-o", f"{folder}.jsonl"]
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        assert process.returncode == 3
        peaks.append(usage.ru_maxrss)
        shutil.rmtree(folder)
    assert peaks[1] <= 1.15 * peaks[0]
