"""`resnest train` and `resnest_cli.train`: class folders to a checkpoint."""

import json
import os
import shutil
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from resnest_cli import Classifier, __version__, errors, train
from resnest_cli.training.summary import TrainingProgress, TrainingSummary
from tests.conftest import lines
from tests.training.conftest import CLASSES, RECIPE, SHORT, colours, history, same_weights


def test_the_output_folder(trained):
    folder, done = trained
    names = {"best.safetensors", "last.safetensors", "history.csv", "curves.png", "summary.json"}
    assert {path.name for path in folder.iterdir()} == names | {
        "val.csv",
        "run.json",
        "fingerprints.bin",
    }
    assert [row["epoch"] for row in history(folder)] == ["1", "2"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == {"train": 36, "val": 4}
    assert summary["classes"] == dict.fromkeys(CLASSES, 9)
    assert summary["recipe"]["epochs"] == 2
    assert summary["best"]["val_top1"] == max(float(row["val_top1"]) for row in history(folder))
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    assert "epoch 2/2" in done.stderr
    assert "\r" not in done.stderr  # no bar without a terminal
    assert f"--model {folder / 'best.safetensors'}" in done.stdout


def test_a_checkpoint_carries_what_predict_needs(trained, data, run):
    folder, _ = trained
    with safe_open(folder / "best.safetensors", "pt") as file:
        config = json.loads(file.metadata()["resnest"])
    assert config["labels"]["names"] == list(CLASSES)
    assert (config["architecture"]["width"], config["preprocessing"]["crop"]) == (0.125, 32)
    assert (config["recipe"]["mixup"], config["tool_version"]) == (0.2, __version__)
    done = run("predict", "--model", folder / "best.safetensors", data, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    assert {len(row["predictions"]) for row in lines(done)} == {4}


def test_the_held_out_images_can_be_evaluated(trained, data, run):
    folder, _ = trained
    done = run(
        "evaluate", data, "--ground-truth", folder / "val.csv",
        "--weights", folder / "last.safetensors", "-f", "json",
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert figures["images"] == 4
    last = history(folder)[-1]
    assert 100 * figures["top1"]["value"] == pytest.approx(float(last["val_top1"]))
    assert figures["loss"] == pytest.approx(float(last["val_loss"]), rel=1e-4)


class Recorder(TrainingProgress):
    def __init__(self):
        self.checked, self.steps, self.epochs, self.tf32 = 0, [], [], []

    def advance(self):
        self.checked += 1

    def step(self, step):
        self.steps.append(step)
        self.tf32.append(torch.backends.cudnn.allow_tf32)

    def epoch(self, stats):
        self.epochs.append(stats)


def test_training_from_python(trained, data, tmp_path):
    """Five lines, with nothing changed in the caller's process, and the command's weights."""
    progress, before = Recorder(), (torch.get_rng_state(), torch.backends.cudnn.allow_tf32)
    summary = train(data, recipe=RECIPE, workers=0, output=tmp_path / "out", progress=progress)
    assert same_weights(tmp_path / "out", trained[0])
    assert summary.weights == tmp_path / "out" / "best.safetensors"
    assert summary == TrainingSummary.read(tmp_path / "out")
    assert Classifier(weights=summary.weights)(data / "red" / "000.png").predictions
    assert progress.checked == 40
    assert progress.epochs[-1] == summary.last
    last = progress.steps[-1]
    assert (last.epoch, last.epochs, last.step, last.steps) == (2, 2, 5, 5)
    assert last.loss == summary.last.train_loss
    assert set(progress.tf32) == {False}  # fp32 means fp32
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.backends.cudnn.allow_tf32 == before[1]


def test_options_as_arguments(data, tmp_path):
    recipe = {"resize": 32, "dropout": 0, "clip_grad": 1, "momentum": 0.8}
    summary = train(
        str(data), model="resnest14d", scratch=True, width=0.125, crop=32, epochs=1, workers=0,
        recipe=recipe, output=str(tmp_path / "out"),
    )  # fmt: skip
    assert summary.recipe["model"] == "resnest14"
    assert {name: summary.recipe[name] for name in recipe} == recipe
    assert summary.recipe["batch_size"] == 8  # of 64, as there are few images
    assert summary.preprocessing["resize"] == 32


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--weights", "none.pth"], 1, "No such file"),
        (["--model", "demo", "--recipe", "resize.toml"], 2, "--resize"),
        (["--scratch", "--model", "demo"], 2, "name a variant with --model"),
    ],
    ids=["weights", "resize", "scratch"],
)
def test_the_network_is_settled_before_any_image_is_read(data, run, tmp_path, options, code, words):
    broken = shutil.copytree(data, tmp_path / "data") / "red" / "broken.jpg"
    broken.write_bytes(b"no image")
    (tmp_path / "resize.toml").write_text("resize = 90\ncrop = 96")
    done = run("train", "data", *options, "-o", "out")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out" / "skipped.csv").exists()


def test_a_diverged_run_ends_with_an_error(data, run):
    options = ["--epochs", "3", "--lr", "1000", "--augment", "none"]
    done = run("train", data, *SHORT, *options, "-o", "out")
    assert (done.returncode, "training diverged" in done.stderr) == (1, True), done.stderr


def test_the_output_must_not_lie_among_the_images(tmp_path, run):
    copy = colours(tmp_path / "data", each=2)
    done = run("train", ".", *SHORT, cwd=copy)
    assert (done.returncode, "--output" in done.stderr) == (2, True)


def test_class_names_that_look_like_markup(tmp_path, run):
    copy = colours(tmp_path / "data", each=4)
    (copy / "red").rename(copy / r"$\frac$ [b]rot")
    done = run("train", copy, *SHORT, "--epochs", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    done = run("evaluate", copy, "--weights", "out/best.safetensors", "-o", "report")
    assert done.returncode == 0, done.stderr
    assert r"$\frac$ [b]rot" in done.stdout


def test_fine_tuning_replaces_the_head_and_keeps_the_backbone(trained, tmp_path, run):
    folder, _ = trained
    data = colours(tmp_path / "two", each=8)
    for name in ("blue", "white"):
        for path in (data / name).iterdir():
            path.unlink()
    options = "--epochs 1 --freeze-backbone --precision bf16 --store fp16 --workers 0".split()
    done = run("train", data, "--model", folder / "best.safetensors", *options, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "classes without images are left out: 'blue', 'white'" in done.stderr
    with (
        safe_open(folder / "best.safetensors", "pt") as before,
        safe_open(tmp_path / "out" / "best.safetensors", "pt") as after,
    ):
        kept = {name for name in before.keys() if not name.startswith("fc.")}  # noqa: SIM118
        for name in kept:
            old, new = before.get_tensor(name), after.get_tensor(name)
            assert new.dtype == (torch.float16 if new.ndim > 1 else old.dtype), name
            assert torch.equal(old.to(new.dtype), new), name
        assert after.get_tensor("fc.weight").shape[0] == 2


def test_unreadable_images_are_listed_and_left_out(data, tmp_path, run):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "red" / "000.png").write_bytes(b"no image")
    recipe = tmp_path / "cutmix.yaml"
    recipe.write_text(f"{RECIPE.read_text()}\ncutmix: 1\nclass_weights: true\nclip_grad: 1\n")
    options = ["--recipe", recipe, "--epochs", "1", "--augment", "trivial", "--workers", "0"]
    done = run("train", copy, *options, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "1 image left out as unreadable" in done.stderr
    header, row = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert header == "path,reason"
    assert row.startswith(f"{copy / 'red' / '000.png'},")
    assert TrainingSummary.read(tmp_path / "out").images == {"train": 35, "val": 4}


WRONG = [
    (["--lr", "-1"], 2, "--lr must be 0 to 1000, not -1"),
    (["--epochs", "0"], 2, "--epochs must be 1 to 100000, not 0"),
    (["--width", "0.5"], 2, "--width needs --scratch"),
    (["--scratch", "--width", "9"], 2, "--width must be 0.05 to 8, not 9"),
    (["--scratch", "--crop", "4"], 2, "--crop"),
    (["--val-fraction", "1"], 2, "--val-fraction must be 0.001 to 0.9, not 1"),
    (["--resume", "--overwrite"], 2, "together"),
    (["--weights", "none.pth"], 1, "No such file"),
    (["--offline"], 1, "resnest50-528c19ca.pth"),
    (["--scratch", "--freeze-backbone"], 2, "leave out it or --freeze-backbone"),
    (["--scratch", "--weights", "x.pth"], 2, "leave out it or --weights"),
    (["--model", "x.pth", "--weights", "y.pth"], 2, "leave out --weights"),
    (["--model", "resnest51"], 2, "resnest50"),
]


@pytest.mark.parametrize(("options", "code", "words"), WRONG, ids=str)
def test_wrong_options_are_reported_before_anything_is_done(data, run, options, code, words):
    done = run("train", data, *options, "-o", "out")
    assert (done.returncode, done.stderr.count("\n") <= 3) == (code, True), done.stderr
    assert words in done.stderr


def test_a_validation_set_excludes_holding_out_images(data, tmp_path, run):
    copy = shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data, copy / "val")
    inside = run("train", copy, *SHORT, "--val", copy / "val", "-o", "out")
    assert (inside.returncode, "taken for a class" in inside.stderr) == (2, True)
    both = run("train", copy, *SHORT, "--val", data, "--val-fraction", "0.2", "-o", "out")
    assert (both.returncode, "leave it out" in both.stderr) == (2, True)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 on other systems")
def test_a_folder_whose_name_is_not_utf8(data, tmp_path, run):
    """With the classes below train/: the run ends, and the held-out images are found."""
    folder = tmp_path / os.fsdecode(b"d\xff")
    shutil.copytree(data, folder / "train")
    done = run("train", folder, *SHORT, "--epochs", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert TrainingSummary.read(tmp_path / "out").data == str(folder / "train")
    held_out = ["--ground-truth", "out/val.csv", "--weights", "out/best.safetensors"]
    assert run("evaluate", folder, *held_out).returncode == 0


@pytest.mark.parametrize(
    ("classes", "words"),
    [({"a": 3}, "at least two classes"), ({"a": 1, "b": 1}, "to validate on"), ({}, "is empty")],
    ids=["one class", "one image each", "nothing"],
)
def test_unusable_data_is_reported_before_the_first_step(tmp_path, run, classes, words):
    (tmp_path / "data").mkdir()
    for name, count in classes.items():
        (tmp_path / "data" / name).mkdir()
        for number in range(count):
            Image.new("RGB", (40, 40)).save(tmp_path / "data" / name / f"{number}.png")
    done = run("train", "data", *SHORT, "-o", "out")
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("package", ["matplotlib", "yaml"])
def test_a_missing_package_is_named_with_the_pip_command(data, run, monkeypatch, package):
    found = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == package else found(name))
    done = run("train", data, *SHORT)
    assert done.returncode == 1
    assert f"{package} is not installed" in done.stderr
    assert "pip install 'resnest-cli[train]'" in done.stderr


@pytest.mark.parametrize(("rank", "reported"), [("0", True), ("1", False)])
def test_one_process_reports_an_error_that_all_meet(rank, reported, run):
    torchrun = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    done = run("train", "nowhere", env=torchrun)
    assert (done.returncode, "nowhere" in done.stderr) == (1, reported)
    assert reported or not done.stderr
