"""Runs that are interrupted, killed, resumed, repeated, or started over an earlier one."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
import torch

from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import CheckpointError, ResNeStError
from resnest_cli.model.checkpoint import load_checkpoint, save_checkpoint
from resnest_cli.training import data as data_module
from resnest_cli.training.state import TrainingState
from tests.conftest import RESNEST
from tests.training.conftest import SHORT, colours, history, same_weights

KILLS = int(os.environ.get("RESNEST_TEST_KILLS", "8"))


@pytest.fixture
def interrupt_at(monkeypatch):
    """Ctrl-C while the n-th image from here on is decoded for training."""

    def set_up(number: int) -> None:
        count, decoded = iter(range(1, 10**9)), data_module.as_source

        def as_source(path):
            # straight to the handler: a real signal may arrive when the run has just ended
            stop = signal.getsignal(signal.SIGINT)
            if stop is not signal.default_int_handler and next(count) == number:
                stop(signal.SIGINT, None)
            return decoded(path)

        monkeypatch.setattr(data_module, "as_source", as_source)

    return set_up


@pytest.fixture
def interrupted(data, run, tmp_path, interrupt_at):
    """The command of a run that was interrupted in its second epoch."""
    command = ["train", data, *SHORT, "-o", "out"]
    interrupt_at(60)
    done = run(*command)
    assert (done.returncode, "--resume continues" in done.stderr) == (130, True), done.stderr
    return command


def test_interruptions_anywhere_change_nothing(trained, data, run, tmp_path, interrupt_at):
    """An epoch decodes 40 training and 4 validation images; several interruptions in one run."""
    command = ["train", data, *SHORT, "-o", "out"]
    codes = []
    for number in (1, 20, 10, 4, 12, 5):  # the third while validating, the last in the last step
        interrupt_at(number)
        codes.append(run(*command, *(["--resume"] if codes else [])).returncode)
    assert codes == [130] * 6
    done = run(*command, "--resume")
    assert (done.returncode, "resuming in epoch 2 of 2" in done.stderr) == (0, True), done.stderr
    assert same_weights(tmp_path / "out", trained[0])
    timing = ("images_per_second", "seconds")
    kept, expected = (
        [{k: v for k, v in row.items() if k not in timing} for row in history(folder)]
        for folder in (tmp_path / "out", trained[0])
    )
    assert kept == expected
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_killed_run_resumes_to_the_same_weights(data, run, tmp_path):
    """A real kill, with decoding processes of which the uninterrupted run has none."""
    command = ["train", data, *SHORT, "--epochs", "9", "-o"]
    killed = [*RESNEST, *command, tmp_path / "out", "-j", "2"]
    with subprocess.Popen(killed, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 1/9" in line:
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL
    for folder, resume in (("out", ["--resume"]), ("whole", [])):
        done = run(*command, folder, *resume)
        assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "out", tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(trained, data, tmp_path):
    """Killed, interrupted, terminated; the final weights are the same to the bit."""
    command = [*RESNEST, "train", data, *SHORT, "-o", tmp_path / "out", "-q"]
    resume = []
    for number in range(KILLS):
        with subprocess.Popen([*command, *resume], stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not (tmp_path / "out/run.json").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(random.uniform(0, 4))
            process.send_signal((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3])
            _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        resume = ["--resume"]
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "out", trained[0])


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
def test_a_signal_to_the_whole_group_stops_in_order(data, tmp_path, ending):
    """As `timeout`, systemd, batch systems and terminals stop programs: workers receive it, too."""
    command = [
        *RESNEST,
        "train",
        data,
        *SHORT,
        "--epochs",
        "500",
        "-j",
        "2",
        "-o",
        tmp_path / "out",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stderr:
            if "epoch   1/500" in line:
                break
        os.killpg(process.pid, ending)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Error" in errors) == (130, False), errors
    assert (tmp_path / "out" / "state.pt").exists()


def test_a_summary_repeats_a_run(trained, data, run, tmp_path):
    """With one option, to the bit; options on the command line take precedence."""
    summary = ["--recipe", trained[0] / "summary.json"]
    assert run("train", data, *summary, "-o", "again").returncode == 0
    assert same_weights(tmp_path / "again", trained[0])
    assert run("train", data, *summary, "--seed", "1", "-o", "other").returncode == 0
    assert not same_weights(tmp_path / "other", trained[0])
    recipes = [json.loads((f / "summary.json").read_text())["recipe"]
               for f in (trained[0], tmp_path / "again", tmp_path / "other")]  # fmt: skip
    assert recipes[0] == recipes[1] == recipes[2] | {"seed": 0}


def test_a_summary_repeats_fine_tuning_of_the_same_weights_only(trained, data, run, tmp_path):
    first = tmp_path / "first.safetensors"
    shutil.copy(trained[0] / "best.safetensors", first)
    options = ["--weights", "first.safetensors", "--epochs", "1", "-j", "0"]
    teacher = ["--teacher", "first.safetensors", "--val", data]
    assert run("train", data, *options, *teacher, "-o", "out").returncode == 0
    repeat = ["train", data, "-j", "0", "--recipe", "out/summary.json", "-o"]
    assert run(*repeat, "again").returncode == 0
    assert same_weights(tmp_path / "again", tmp_path / "out")
    checkpoint = load_checkpoint(resolve(weights=first))
    network = checkpoint.network()
    network.fc.bias.data += 1
    save_checkpoint(first, network, checkpoint.config)
    changed = run(*repeat, "changed")
    assert (changed.returncode, "has other weights" in changed.stderr) == (2, True), changed.stderr
    given = run(*repeat, "given", "--weights", trained[0] / "best.safetensors")
    assert (given.returncode, "has other teachers" in given.stderr) == (2, True), given.stderr


def test_overwriting_keeps_initial_weights_until_an_epoch_is_done(
    trained, data, run, tmp_path, interrupt_at
):
    out = shutil.copytree(trained[0], tmp_path / "out")
    command = ["train", data, "--weights", out / "best.safetensors", "-o", "out", "-j", "0"]
    wrong = run(*command, "--overwrite", "--crop", "8")
    assert (wrong.returncode, (out / "best.safetensors").exists()) == (2, True)
    interrupt_at(1)
    assert run(*command, "--overwrite", "--epochs", "1").returncode == 130
    left = {path.name for path in out.iterdir()}
    assert {"state.pt", "best.safetensors"} <= left
    assert "last.safetensors" not in left
    (out / "state.pt").unlink()  # as if it had been interrupted still earlier
    done = run("train", data, "-o", "out", "-j", "0", "--resume")
    assert done.returncode == 0, done.stderr


def test_overwriting_leaves_nothing_of_the_earlier_run(data, run, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("skipped.csv", "last.safetensors", "val.csv"):
        (tmp_path / "out" / name).write_text("from an earlier run")
    done = run("train", data, *SHORT, "--no-check", "--overwrite", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "skipped.csv").exists()


def test_resume_never_starts_from_scratch_over_results(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    done = run("train", data, *SHORT, "-o", "out", "--resume")
    assert (done.returncode, "state.pt is missing" in done.stderr) == (1, True)
    assert same_weights(tmp_path / "out", trained[0])


@pytest.mark.parametrize("name", ["run.json", "val.csv", "best.safetensors"])
def test_resume_stops_where_there_is_nothing_to_resume(data, run, tmp_path, name):
    done = run("train", data, "-o", "mistyped", "--resume")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert "nothing to resume in 'mistyped'\n" in done.stderr
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "mistyped").mkdir()
    (tmp_path / "mistyped" / name).write_text("{}")
    done = run("train", data, "-o", "mistyped", "--resume")
    assert f"nothing to resume in 'mistyped': it holds '{name}'" in done.stderr
    assert (tmp_path / "mistyped" / name).read_text() == "{}"


def test_other_options_for_a_run_that_has_ended_are_refused(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    done = run("train", data, "-o", "out", "--resume", "--epochs", "30")
    assert (done.returncode, "--epochs 2, not 30" in done.stderr) == (2, True), done.stderr
    assert same_weights(tmp_path / "out", trained[0])


def test_a_full_disk(trained, data, run, tmp_path):
    """Nothing finished is lost, and the run resumes once there is space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))  # less than a state has
    try:
        done = run("train", data, *SHORT, "-o", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 1
    assert "state.pt' cannot be written: File too large" in done.stderr
    assert not list((tmp_path / "out").glob("*.part"))
    assert run("train", data, *SHORT, "-o", "out", "--resume").returncode == 0
    assert same_weights(tmp_path / "out", trained[0])


def test_an_existing_run_is_never_replaced_unasked(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    done = run("train", data, *SHORT, "-o", "out")
    assert (done.returncode, "--resume" in done.stderr) == (1, True)
    ended = run("train", data, *SHORT, "-o", "out", "--resume")
    assert (ended.returncode, "has ended" in ended.stderr) == (0, True)
    assert ended.stdout.splitlines()[0] == trained[1].stdout.splitlines()[0]
    assert same_weights(tmp_path / "out", trained[0])


def test_a_folder_is_for_one_run_at_a_time(data, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    hold = f"from resnest_cli.files import *\nwith locked(Path({str(out)!r})): print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        done = run("train", data, *SHORT, "-o", "out")
        other.communicate(b"\n")
    assert (done.returncode, "another run" in done.stderr) == (1, True), done.stderr
    assert not list(out.iterdir())


def test_a_run_is_resumed_with_its_own_options(trained, data, run, tmp_path, interrupted):
    done = run(*interrupted, "--lr", "0.2", "--resume")
    assert (done.returncode, "--lr 0.1, not 0.2" in done.stderr) == (2, True), done.stderr
    done = run("train", data, "--lr", "0.1", "-j", "0", "--no-check", "-o", "out", "--resume")
    assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "out", trained[0])


def test_a_run_is_resumed_with_the_same_images_only(data, run, tmp_path, interrupted):
    fewer = colours(tmp_path / "fewer", each=9)
    done = run("train", fewer, "-o", "out", "--resume")
    assert (done.returncode, "with other images" in done.stderr) == (1, True), done.stderr


def test_a_run_whose_files_have_moved(trained, data, run, tmp_path, interrupt_at):
    shutil.copytree(data, tmp_path / "old")
    shutil.copy(trained[0] / "best.safetensors", tmp_path / "first.safetensors")
    options = ["--val", "old", "--weights", "first.safetensors", "--batch-size", "8", "-o", "out"]
    interrupt_at(50)
    assert run("train", "old", *options, "--epochs", "2", "-j", "0").returncode == 130
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "first.safetensors").rename(tmp_path / "1.safetensors")
    moved = run("train", "new", "-o", "out", "--resume")
    assert (moved.returncode, str(tmp_path / "old") in moved.stderr) == (1, True), moved.stderr
    resumed = ["train", "new", "-o", "out", "-j", "0", "--resume", "--val", "new", "--weights"]
    other = run(*resumed, trained[0] / "history.csv")
    assert (other.returncode, "with other weights" in other.stderr) == (2, True), other.stderr
    done = run(*resumed, "1.safetensors")
    assert (done.returncode, "resuming in epoch" in done.stderr) == (0, True), done.stderr
    options = json.loads((tmp_path / "out" / "run.json").read_text())
    assert options["val"] == str(tmp_path / "new")
    assert options["weights"] == str(tmp_path / "1.safetensors")


def test_options_are_stored_before_images_are_checked(trained, data, run, tmp_path):
    """So a run that is interrupted there, or fails on its images, is resumed with them."""
    aside = shutil.copytree(data, tmp_path / "data").rename(tmp_path / "aside")
    shutil.copytree(aside / "red", tmp_path / "data" / "red")
    (tmp_path / "data" / "blue").mkdir()
    (tmp_path / "data" / "blue" / "broken.jpg").write_text("no image")
    wrong = run("train", "data", *SHORT, "-o", "out")
    assert (wrong.returncode, "two classes" in wrong.stderr) == (1, True), wrong.stderr
    shutil.rmtree(tmp_path / "data")
    aside.rename(tmp_path / "data")
    done = run("train", "data", "-j", "0", "-o", "out", "--resume")
    assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "out", trained[0])


def test_a_state_that_cannot_be_read_at_the_moment_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "state.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        TrainingState.read(tmp_path / "state.pt")
    for error in (torch.OutOfMemoryError("out of memory"), PermissionError("not yours")):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(ResNeStError, match=r"at the moment: .*\n.*`resume`") as raised:
            TrainingState.read(tmp_path / "state.pt")
        assert "overwrite" not in str(raised.value)
