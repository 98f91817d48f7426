"""A training run that is stopped, gone on with, or begun where another has been."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from resnest_cli.errors import CheckpointError, ResNeStError, UsageError
from resnest_cli.files import claimed
from resnest_cli.training.folder import RunFolder
from resnest_cli.training.state import read_state
from tests.conftest import RESNEST
from tests.training.conftest import SHORT

KILLS = int(os.environ.get("RESNEST_TEST_KILLS", "3"))


def test_kills_at_random_moments_change_nothing(trained, data, tmp_path):
    """Killed, interrupted, terminated; the weights in the end are the same to the bit."""
    whole, _ = trained
    command = [*RESNEST, "train", data, *SHORT, "-o", tmp_path / "out", "-q"]
    begun = []
    for number in range(KILLS):
        with subprocess.Popen([*command, *begun], stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not (tmp_path / "out").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(random.uniform(0, 4))
            process.send_signal((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3])
            _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        begun = ["--resume"]
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()
    kept, expected = (
        [list(r.values())[:6] for r in csv.DictReader((f / "history.csv").read_text().splitlines())]
        for f in (tmp_path / "out", whole)
    )
    assert kept == expected
    assert not list((tmp_path / "out").glob("*.part"))


def test_overwriting_keeps_what_it_begins_from_until_an_epoch_is_done(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    best = tmp_path / "out" / "best.safetensors"
    begun = ["--weights", best, "-o", "out", "--overwrite", "--epochs", "1"]
    wrong = run("train", data, *begun, "--crop", "8")
    assert (wrong.returncode, best.exists()) == (2, True)
    with subprocess.Popen([*RESNEST, "train", data, *begun], cwd=tmp_path) as process:
        while not (tmp_path / "out" / "state.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"state.pt", "best.safetensors"} <= left
    assert "last.safetensors" not in left
    (tmp_path / "out" / "state.pt").unlink()  # as if the kill had come still earlier
    done = run("train", data, "-o", "out", "--resume")
    assert done.returncode == 0, done.stderr


def test_overwriting_leaves_nothing_of_the_run_before(data, run, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("skipped.csv", "last.safetensors", "val.csv"):
        (tmp_path / "out" / name).write_text("of an earlier run")
    done = run("train", data, *SHORT, "--no-check", "--overwrite", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "skipped.csv").exists()


def test_resume_never_begins_anew_where_something_is(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    before = (tmp_path / "out" / "best.safetensors").read_bytes()
    done = run("train", data, *SHORT, "-o", "out", "--resume")
    assert (done.returncode, "state.pt" in done.stderr) == (1, True)
    assert (tmp_path / "out" / "best.safetensors").read_bytes() == before


def test_resume_says_at_once_that_there_is_nothing_to_go_on_with(run):
    done = run("train", "data", "-o", "mistyped", "--resume")
    first, second = done.stderr.splitlines()[:2]
    assert "'mistyped' holds no run to go on with" in first
    assert "data" in second


def test_a_disk_that_takes_no_more(trained, data, run, tmp_path):
    """Nothing finished is lost, and the run goes on once there is room."""
    limit = (40_000, 40_000)  # bytes a file, less than a state has
    options = [*SHORT, "--workers", "0", "-o", "out"]
    done = run(
        "train", data, *options, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert (done.returncode, "is the disk full?" in done.stderr) == (1, True), done.stderr
    assert not list((tmp_path / "out").glob("*.part"))
    assert run("train", data, *options, "--resume").returncode == 0
    ours, theirs = tmp_path / "out" / "last.safetensors", trained[0] / "last.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_that_is_there_is_never_replaced_unasked(trained, data, run):
    folder, _ = trained
    before = (folder / "best.safetensors").read_bytes()
    done = run("train", data, *SHORT, "-o", folder)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    ended = run("train", data, *SHORT, "-o", folder, "--resume")
    assert (ended.returncode, "has ended" in ended.stderr) == (0, True)
    assert (folder / "best.safetensors").read_bytes() == before


def test_a_folder_is_for_one_run_at_a_time(data, run, tmp_path):
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out"):
        done = run("train", data, *SHORT, "-o", "out")
    assert (done.returncode, "another run is at work" in done.stderr) == (1, True), done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_run_is_gone_on_with_as_it_was_begun(trained, data, run, tmp_path):
    command = [*RESNEST, "train", data, *SHORT, "-o", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 1/2" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=60)
    assert process.returncode == 130
    done = run("train", data, *SHORT, "--lr", "0.2", "-o", tmp_path / "out", "--resume")
    assert done.returncode == 2
    assert "--lr 0.1, not 0.2" in done.stderr
    done = run("train", data, "--lr", "0.1", "--no-check", "-o", tmp_path / "out", "--resume")
    assert done.returncode == 0, done.stderr
    ours, theirs = tmp_path / "out" / "last.safetensors", trained[0] / "last.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_is_gone_on_with_where_its_files_have_moved(trained, data, run, tmp_path):
    shutil.copytree(data, tmp_path / "old")
    shutil.copy(trained[0] / "best.safetensors", tmp_path / "first.safetensors")
    options = ["--val", "old", "--weights", "first.safetensors", "--batch-size", "8", "-o", "out"]
    command = [*RESNEST, "train", "old", *options, "--epochs", "20"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        while not (tmp_path / "out" / "history.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "first.safetensors").rename(tmp_path / "1.safetensors")
    moved = run("train", "new", "-o", "out", "--resume")
    assert (moved.returncode, "old' is not there" in moved.stderr) == (1, True), moved.stderr
    gone_on = ["train", "new", "-o", "out", "--resume", "--val", "new", "--weights"]
    other = run(*gone_on, trained[0] / "history.csv")
    assert (other.returncode, "begun with other weights" in other.stderr) == (2, True), other.stderr
    done = run(*gone_on, "1.safetensors")
    assert (done.returncode, "going on in epoch" in done.stderr) == (0, True), done.stderr
    kept = json.loads((tmp_path / "out" / "run.json").read_text())
    assert kept["val"] == str(tmp_path / "new")


def test_what_is_given_again_is_no_difference(tmp_path):
    """Neither a default, nor what the machine's other processes made of the batch's size."""
    folder = RunFolder(tmp_path)
    begun = dict.fromkeys(("model", "weights", "val", "teacher", "no_check", "scratch", "balance"))
    begun |= {"model": "resnest50", "epochs": 20, "batch_size": 64, "balance": False}
    folder.keep(begun)
    nothing = dict.fromkeys(begun)
    own = tmp_path / "best.safetensors"  # which the run itself makes another file of
    folder.keep(begun | {"weights": tmp_path / "run.json"})
    own.write_text("changed")
    assert folder.kept(nothing | {"weights": own})["weights"] == own
    with pytest.raises(UsageError, match="other weights"):
        folder.kept(nothing | {"weights": Path(__file__)})
    folder.keep(begun)
    assert folder.kept(nothing) == begun
    assert folder.kept(nothing | {"epochs": 20, "batch_size": 64}) == begun
    assert folder.kept(nothing | {"no_check": True}) == begun | {"no_check": True}
    for given, words in (
        ({"epochs": 30}, "--epochs 20, not 30"),
        ({"scratch": True}, "no --scratch"),
        ({"balance": True}, "no --balance"),
    ):
        with pytest.raises(UsageError, match=f"begun with {words}\n"):
            folder.kept(nothing | given)


def test_a_state_that_cannot_be_read_just_now_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "state.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(tmp_path / "state.pt")
    for error in (torch.OutOfMemoryError("out of memory"), PermissionError("not yours")):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(ResNeStError, match=r"just now: .*\n.*--resume") as told:
            read_state(tmp_path / "state.pt")
        assert "overwrite" not in str(told.value)


def test_the_options_are_kept_before_pictures_are_checked(trained, data, run, tmp_path):
    """So who stops there, or is told what is wrong and mends it, goes on with them."""
    aside = shutil.copytree(data, tmp_path / "data").rename(tmp_path / "aside")
    shutil.copytree(aside / "red", tmp_path / "data" / "red")
    (tmp_path / "data" / "blue").mkdir()
    (tmp_path / "data" / "blue" / "broken.jpg").write_text("no picture")
    wrong = run("train", "data", *SHORT, "-o", "out")
    assert (wrong.returncode, "nothing to tell apart" in wrong.stderr) == (1, True), wrong.stderr
    shutil.rmtree(tmp_path / "data")
    aside.rename(tmp_path / "data")
    done = run("train", "data", "-o", "out", "--resume")
    assert done.returncode == 0, done.stderr
    ours, theirs = tmp_path / "out" / "last.safetensors", trained[0] / "last.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()
