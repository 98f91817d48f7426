"""`resnest train` as people use it: a folder in, a checkpoint out, and on after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from resnest_cli import __version__
from resnest_cli.errors import ResNeStError
from resnest_cli.folders import read_class_folders
from resnest_cli.training.network import NetworkOptions
from resnest_cli.training.prepare import parts
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.trainer import Trainer
from tests.conftest import RESNEST, lines
from tests.training.conftest import CLASSES, SHORT, TINY, colours


def test_a_run_leaves_its_record(trained, data):
    folder, done = trained
    names = {"best.safetensors", "last.safetensors", "history.csv", "curves.png", "summary.json"}
    assert {path.name for path in folder.iterdir()} == names | {"val.csv", "run.json"}
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pictures"] == {"train": 72, "val": 8}
    assert summary["recipe"]["epochs"] == 2
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    assert "epoch 2/2" in done.stderr
    assert "\r" not in done.stderr  # no bar where there is no terminal
    assert f"--weights {folder / 'best.safetensors'}" in done.stdout


def test_a_checkpoint_says_all_that_predict_must_know(trained, data, run):
    folder, _ = trained
    with safe_open(folder / "best.safetensors", "pt") as file:
        card = json.loads(file.metadata()["resnest"])
    assert card["labels"]["names"] == list(CLASSES)
    assert (card["architecture"]["width"], card["preprocessing"]["crop"]) == (0.125, 32)
    assert (card["recipe"]["mixup"], card["tool_version"]) == (0.2, __version__)
    done = run("predict", "--weights", folder / "best.safetensors", data, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    assert {len(row["predictions"]) for row in lines(done)} == {4}


def test_the_held_out_part_can_be_evaluated(trained, data, run):
    folder, _ = trained
    done = run(
        "evaluate", data, "--labels-file", folder / "val.csv",
        "--weights", folder / "last.safetensors", "-f", "json",
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert figures["pictures"] == 8
    history = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert 100 * figures["top1"]["value"] == pytest.approx(float(history[-1]["val_top1"]))
    assert figures["loss"] == pytest.approx(float(history[-1]["val_loss"]), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--weights", "none.pth"], 1, "No such file"),
        (["--model", "demo", "--crop", "96", "--resize", "90"], 2, "resize"),
        (["--model", "demo", "--blocks", "2,2,3,1", "--freeze"], 2, "leave out one"),
    ],
    ids=["weights", "resize", "freeze"],
)
def test_the_network_is_settled_before_any_picture_is_read(
    data, run, tmp_path, options, code, words
):
    broken = shutil.copytree(data, tmp_path / "data") / "red" / "broken.jpg"
    broken.write_bytes(b"no picture")
    done = run("train", "data", *options, "-o", "out")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out" / "skipped.csv").exists()


def test_a_step_that_memory_has_no_room_for(data, monkeypatch):
    def no_room(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    learn, check = parts(read_class_folders(data), None, 0.1, 0)
    wanted = NetworkOptions("resnest14", scratch=True, width=0.125, crop=32, resize=32)
    network, card = wanted.begin().network(learn.classes, Recipe())
    trainer = Trainer(network, learn, check, recipe=Recipe(), preprocessing=card.preprocessing)
    monkeypatch.setattr(trainer, "_forward", no_room)
    with pytest.raises(ResNeStError, match=r"64 pictures at a time\n.*--batch-size"):
        next(trainer.run())


def test_a_network_that_came_apart_is_never_the_best(data, run, tmp_path):
    options = [*TINY, "--epochs", "3", "--lr", "1000", "--warmup-epochs", "0", "--augment", "none"]
    done = run("train", data, *options, "--batch-size", "32", "-o", "out")
    assert done.returncode == 1
    assert "no longer a number" in done.stderr


def test_a_stop_for_the_whole_group_is_in_order(data, tmp_path):
    """As `timeout`, systemd and batch systems stop programs: the workers hear it, too."""
    command = [*RESNEST, "train", data, *SHORT, "--epochs", "500", "-o", tmp_path / "out"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stderr:
            if "epoch   1/500" in line:
                break
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "Error" in said) == (130, False), said
    assert (tmp_path / "out" / "state.pt").exists()


def test_the_output_may_not_lie_among_the_pictures(tmp_path, run):
    copy = colours(tmp_path / "data", each=4)
    done = run("train", ".", *TINY, cwd=copy)
    assert (done.returncode, "--output" in done.stderr) == (2, True)


def test_odd_names_are_only_names(tmp_path, run):
    copy = colours(tmp_path / "data", each=4)
    (copy / "red").rename(copy / r"$\frac$ [b]rot")
    done = run("train", copy, *TINY, "--epochs", "1", "--name", r"a$\frac$b", "-o", "out")
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "out" / "best.safetensors"
    done = run("evaluate", copy, "--weights", weights, "-o", "report")
    assert done.returncode == 0, done.stderr
    assert r"$\frac$ [b]rot" in done.stdout


def test_fine_tuning_replaces_the_head_and_keeps_what_was_learned(trained, tmp_path, run):
    folder, _ = trained
    data = colours(tmp_path / "two", each=12)
    for name in ("blue", "white"):
        for path in (data / name).iterdir():
            path.unlink()
    options = "--epochs 1 --freeze --batch-size 8 --precision bf16 --store fp16".split()
    done = run("train", data, "--weights", folder / "best.safetensors", *options, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "without any picture, and so left out: 'blue', 'white'" in done.stderr
    with (
        safe_open(folder / "best.safetensors", "pt") as before,
        safe_open(tmp_path / "out" / "best.safetensors", "pt") as after,
    ):
        old, new = (f.get_tensor("layer1.0.conv1.weight") for f in (before, after))
        assert (old.half() == new).all()
        assert after.get_tensor("fc.weight").shape[0] == 2


def test_a_deepened_network_learns_and_predicts_and_keeps_its_blocks(trained, data, tmp_path, run):
    folder, _ = trained
    weights = ["--weights", folder / "best.safetensors", "--epochs", "1", "--batch-size", "16"]
    done = run("train", data, *weights, "--blocks", "1,2,1,1", "-o", "out")
    assert done.returncode == 0, done.stderr
    deeper = tmp_path / "out" / "best.safetensors"
    with safe_open(deeper, "pt") as file:
        assert file.get_tensor("layer2.1.bn3.weight").any()
        name = json.loads(file.metadata()["resnest"])["name"]
    assert name == "resnest14-w0.125-b1.2.1.1"
    done = run("predict", "--weights", deeper, data / "red", "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    done = run("train", data, "--weights", deeper, "--blocks", "1,1,1,1", "-o", "fewer")
    assert done.returncode == 2
    assert "--blocks is at least 1,2,1,1" in done.stderr


def test_broken_pictures_are_listed_and_left_out(data, tmp_path, run):
    copy = colours(tmp_path / "data", each=8)
    (copy / "red" / "000.jpg").write_bytes(b"no picture")
    options = [*TINY, "--epochs", "1", "--augment", "trivial", "--cutmix", "1", "--balance"]
    done = run("train", copy, *options, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "1 picture cannot be read and is left out" in done.stderr
    listed = list(csv.DictReader((tmp_path / "out" / "skipped.csv").read_text().splitlines()))
    assert [row["path"] for row in listed] == [str(copy / "red" / "000.jpg")]


WRONG = [
    (["--lr", "-1"], 2, "--lr"),
    (["--epochs", "0"], 2, "--epochs"),
    (["--width", "0.5"], 2, "--scratch"),
    (["--blocks", "1,2,0,1"], 2, "--blocks"),
    (["--scratch", "--crop", "4"], 2, "--crop"),
    (["--resume", "--overwrite"], 2, "exclude"),
    (["--min-scale", "2"], 2, "--min-scale"),
    (["--weights", "none.pth"], 1, "No such file"),
    (["--offline"], 1, "resnest50-528c19ca.pth"),
    (["--augment", "none", "--no-flip"], 2, "--flip would do nothing"),
    (["--scratch", "--freeze"], 2, "leave out one of the two"),
]


@pytest.mark.parametrize(("options", "code", "words"), WRONG, ids=str)
def test_wrong_options_are_told_before_anything_is_done(data, run, options, code, words):
    done = run("train", data, *options, "-o", "out")
    assert (done.returncode, done.stderr.count("\n") <= 3) == (code, True), done.stderr
    assert words in done.stderr


def test_what_is_held_out_is_there_once(data, tmp_path, run):
    copy = shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data, copy / "val")
    inside = run("train", copy, *SHORT, "--val", copy / "val", "-o", "out")
    assert (inside.returncode, "taken for a class" in inside.stderr) == (2, True)
    twice = run("train", copy, *SHORT, "--val", data, "--val-share", "0.2", "-o", "out")
    assert (twice.returncode, "leave it out" in twice.stderr) == (2, True)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 on other systems")
def test_a_folder_of_any_name_and_layout(data, tmp_path, run):
    """Its name no UTF-8, the classes below train/: the run ends, and what it held out is found."""
    folder = tmp_path / os.fsdecode(b"d\xff")
    shutil.copytree(data, folder / "train")
    done = run("train", folder, *TINY, "--epochs", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "d\\udcff" in json.loads((tmp_path / "out" / "summary.json").read_text())["data"]
    held_out = ["--labels-file", "out/val.csv", "--weights", "out/best.safetensors"]
    assert run("evaluate", folder, *held_out).returncode == 0
    above = run("evaluate", folder, "--weights", "out/best.safetensors")
    assert (above.returncode, "are they the classes?" in above.stderr) == (1, True)


@pytest.mark.parametrize(
    ("classes", "words"),
    [({"a": 3}, "nothing to tell apart"), ({"a": 1, "b": 1}, "to validate on"), ({}, "is empty")],
    ids=["one class", "one picture each", "nothing"],
)
def test_data_that_cannot_be_learned_is_told_before_the_first_step(tmp_path, run, classes, words):
    (tmp_path / "data").mkdir()
    for name, count in classes.items():
        (tmp_path / "data" / name).mkdir()
        for number in range(count):
            Image.new("RGB", (40, 40)).save(tmp_path / "data" / name / f"{number}.png")
    done = run("train", "data", *TINY, "-o", "out")
    assert done.returncode == 1
    assert words in done.stderr


def test_without_matplotlib_the_error_names_the_pip_command(data, tmp_path):
    code = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'matplotlib': raise ModuleNotFoundError(name)\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'matplotlib' else real(n, *a)\n"
        "from resnest_cli.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", data, *SHORT], cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'resnest-cli[train]'" in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")
def test_a_compiled_run_learns_the_same(trained, data, tmp_path):
    """But for rounding; two epochs, in which nothing is compiled anew for each step."""
    options = [*SHORT, "--compile", "-o", tmp_path / "out"]
    environment = os.environ | {"TORCH_LOGS": "recompiles"}
    done = subprocess.run(
        [*RESNEST, "train", data, *options],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Recompiling" not in done.stderr
    plain, compiled = (
        [float(row.split(",")[2]) for row in (folder / "history.csv").read_text().splitlines()[1:]]
        for folder in (trained[0], tmp_path / "out")
    )
    assert compiled == pytest.approx(plain, rel=1e-3)
