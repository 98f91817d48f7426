"""Prediction jobs: outputs, interruptions, terminals, devices and memory."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli import Inputs, ModelSpec, PredictionJob, Progress, RuntimeOptions
from resnest_cli.errors import UsageError
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.formats import read_results
from tests.conftest import RESNEST, in_terminal, lines, peak


def test_quiet_and_verbose(predict, images):
    assert predict(images, "-q", "-f", "csv").stderr == ""
    assert "looks like resnest14" in predict(images, "-v", "-f", "csv").stderr


def test_an_existing_output_is_kept_unless_asked(predict, drawn_image, tmp_path):
    out = tmp_path / "out.csv"
    assert predict(drawn_image, "-o", out).returncode == 0
    before = out.read_bytes()
    done = predict(drawn_image, "-o", out)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    assert "--overwrite" in done.stderr
    assert out.read_bytes() == before
    assert predict(drawn_image, "-o", out, "--resume").returncode == 0
    assert out.read_bytes() == before
    assert predict(drawn_image, drawn_image, "-o", out, "--overwrite").returncode == 0
    assert len(out.read_bytes().splitlines()) == 3
    record = json.loads(Path(f"{out}.run.json").read_text())
    assert record["settings"]["model"] == "resnest14"
    assert record["settings"]["preprocessing"]["name"] == "default"
    assert record["settings"]["engine"] == "torch"


def test_resuming_with_other_settings_is_refused(predict, drawn_image, tmp_path):
    out = tmp_path / "out.csv"
    predict(drawn_image, "-o", out)
    done = predict(drawn_image, "-o", out, "--resume", "--threshold", 0.5)
    assert done.returncode == 1
    assert "threshold was 0.0, now 0.5" in done.stderr


def test_resuming_with_another_engine_is_refused(run, drawn_image, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    common = ("predict", drawn_image, "-m", "demo", "--device", "cpu", "-o", tmp_path / "out.csv")
    assert run(*common, "--engine", "torch").returncode == 0
    before = (tmp_path / "out.csv").read_bytes()
    done = run(*common, "--engine", "openvino", "--resume")
    assert done.returncode == 1
    assert "engine was 'torch', now 'openvino'" in done.stderr
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_job_in_python(many, legacy_checkpoint, tmp_path):
    job = PredictionJob(
        Inputs((str(many),), exclude=("02*",)),
        tmp_path / "out.jsonl",
        model=ModelSpec(weights=legacy_checkpoint),
        runtime=RuntimeOptions(engine="torch"),
    )
    events = []

    class Noted(Progress):
        wants_total = True

        def start(self, task, done=0):
            events.append((task, done))

        def total(self, count):
            events.append(count)

        def advance(self):
            events.append(1)

    summary = job.run(Noted())
    assert (summary.done, summary.failed, summary.resumed) == (20, 2, 0)
    assert events[0] == ("classifying", 0)
    assert sorted(map(str, events[1:])) == ["1"] * 20 + ["20"]
    results = list(read_results(tmp_path / "out.jsonl"))
    assert sum(result.error is None for result in results) == 18
    again = replace(pickle.loads(pickle.dumps(job)), resume=True).run()
    assert (again.done, again.failed, again.resumed) == (20, 2, 20)


def test_a_job_of_plain_texts(drawn_image, tmp_path):
    job = PredictionJob(str(drawn_image), output=str(tmp_path / "x.jsonl"), model="demo")
    assert job == PredictionJob(
        Inputs((str(drawn_image),)), output=tmp_path / "x.jsonl", model=ModelSpec("demo")
    )
    assert job.run().done == 1
    assert PredictionJob([drawn_image]).inputs.named == (str(drawn_image),)
    assert ModelSpec(tmp_path / "x.pth", labels="x.txt") == ModelSpec(
        str(tmp_path / "x.pth"), labels=Path("x.txt")
    )


@pytest.mark.parametrize(
    "wrong", [{"inputs": None}, {"output": 7}, {"model": 7}, {"runtime": "cpu"}, {"decode": {}}]
)
def test_a_job_of_other_things_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"`{name}` must be a [A-Z]"):
        PredictionJob(**{"inputs": "a.jpg"} | wrong)


@pytest.mark.parametrize(("fmt", "how"), [("json", signal.SIGINT), ("parquet", signal.SIGTERM)])
def test_a_stopped_run_is_resumed_to_the_same_rows(run, many, tmp_path, fmt, how):
    whole, cut = tmp_path / f"whole.{fmt}", tmp_path / f"cut.{fmt}"
    assert run("predict", many, "-m", "demo", "-b", 1, "-o", whole).returncode == 3
    command = [*RESNEST, "predict", many, "-m", "demo", "-b", "1", "-o", cut]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
        rows = Path(f"{cut}.journal") if fmt == "parquet" else cut
        while not (rows.exists() and rows.stat().st_size > 3000):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(how)
        message = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted after" in message
    assert "--resume" in message
    done = run("predict", many, "-m", "demo", "-b", 1, "-o", cut, "--resume")
    assert done.returncode == 3, done.stderr
    assert "with the earlier run's" in done.stderr
    if fmt == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(cut).to_pylist() == pq.read_table(whole).to_pylist()
    else:
        assert cut.read_bytes() == whole.read_bytes()


def test_a_closed_pipe_ends_the_run_quietly(many):
    command = [*RESNEST, "predict", "-m", "demo", many, "-f", "jsonl", "-b", "1"]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert errors == b""


def test_bars_at_a_terminal(drawn_image):
    code, seen = in_terminal([*RESNEST, "predict", "-m", "demo", drawn_image])
    assert code == 0
    assert "▏" in seen or "█" in seen
    assert " · torch · cpu · fp32" in seen


@pytest.mark.parametrize(("name", "listed"), [("old.csv", False), ("old.png", True)])
def test_what_results_may_replace_is_listed_first(name, listed, images, tmp_path):
    (tmp_path / name).touch()
    job = PredictionJob(Inputs(str(images)), tmp_path / name, "csv", overwrite=True)
    assert isinstance(job._sources(LeftOut()), type(iter([]))) == listed


def test_progress_at_a_terminal(many, tmp_path):
    code, seen = in_terminal([*RESNEST, "predict", "-m", "demo", many, "-o", tmp_path / "out.csv"])
    assert code == 3
    assert "classifying" in seen
    assert "/30" in seen
    assert "30 images in" in seen


def test_finished_rows_wait_for_nothing(tmp_path, drawn_image):
    """An image that never comes holds back itself, not the rows before it."""
    out = tmp_path / "out.csv"
    os.mkfifo(tmp_path / "never")
    command = [*RESNEST, "predict", *[drawn_image] * 4, "-", "-m", "demo", "-b", "2", "-o", out]
    with subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not (out.exists() and out.read_bytes().count(b"\n") == 5):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert out.read_bytes().count(b"\n") == 5


def test_a_list_from_a_pipe_is_read_once(drawn_image, tmp_path):
    names = "\n".join([str(drawn_image)] + ["nope.jpg"] * 3000)
    script = (
        f"cat {tmp_path}/list | {sys.executable} -m resnest_cli predict --files-from /dev/stdin"
    )
    script += f" -m demo -o {tmp_path}/out.jsonl"
    (tmp_path / "list").write_text(names)
    code, seen = in_terminal(["sh", "-c", script])
    assert code == 3, seen
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3001


def test_an_interruption_does_not_wait_for_an_image_that_never_comes(legacy_checkpoint):
    command = [*RESNEST, "predict", "--weights", legacy_checkpoint, "-", "-v"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "looks like" in process.stderr.readline()
        time.sleep(1.5)  # until it waits for standard input
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("fmt", ["table", "csv", "jsonl", "json"])
def test_devices_and_links_are_written_through(predict, drawn_image, tmp_path, fmt):
    (tmp_path / "link.out").symlink_to(tmp_path / "target.out")
    for name in (os.devnull, "link.out"):
        assert predict(drawn_image, "-o", name, "-f", fmt).returncode == 0
    assert not Path(os.devnull).is_file()
    assert (tmp_path / "link.out").is_symlink()
    assert (tmp_path / "target.out").stat().st_size > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", [["predict"], ["predict", "-f", "csv"], ["list-models"]])
def test_a_full_disk_is_reported(run_process, legacy_checkpoint, drawn_image, command):
    if command[0] == "predict":
        command = [*command, "--weights", legacy_checkpoint, drawn_image]
    with open("/dev/full", "wb") as full:
        done = run_process(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left" in done.stderr


def test_a_missing_list_leaves_an_earlier_output_alone(predict, drawn_image, tmp_path):
    (tmp_path / "old.csv").write_text("precious")
    done = predict(drawn_image, "--files-from", "nope", "-o", "old.csv", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "old.csv").read_text() == "precious"


def test_names_too_long_for_the_system(run, predict):
    assert run("x" * 300).returncode == 2
    done = predict("x" * 300, "-f", "jsonl")
    assert done.returncode == 3
    assert "name too long" in lines(done)[0]["error"]
    assert predict("x.jpg", "-o", "x" * 300 + ".csv").returncode == 1


def test_memory_does_not_grow_with_the_number_of_images(many, tmp_path):
    peaks = []
    for count in (20, 300):
        folder = tmp_path / f"links{count}"
        folder.mkdir()
        for number in range(count):
            os.symlink(many / f"{number % 30:03}.jpg", folder / f"{number:04}.jpg")
        output = f"{folder}.jsonl"
        peaks.append(peak("predict", "-m", "demo", folder, "-q", "-o", output))
        shutil.rmtree(folder)
    assert peaks[1] <= 1.15 * peaks[0]
