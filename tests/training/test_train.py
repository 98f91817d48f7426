"""`resnest train` as people use it: a folder in, a checkpoint out, and on after a kill."""

import csv
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from resnest_cli import __version__
from resnest_cli.errors import DatasetError
from resnest_cli.folders import LabelledPictures
from resnest_cli.preprocess import Preprocessing
from resnest_cli.training import data as data_module
from resnest_cli.training.augment import CutOut, PlainView, training_view
from resnest_cli.training.data import Pictures
from resnest_cli.training.prepare import NetworkOptions
from resnest_cli.training.recipe import Recipe
from tests.conftest import RESNEST, drawn, lines
from tests.training.conftest import CLASSES, SHORT, TINY, colours

KILLS = int(os.environ.get("RESNEST_TEST_KILLS", "3"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    done = subprocess.run(
        [*RESNEST, "train", data, *SHORT, "-o", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_its_record(trained, data):
    folder, done = trained
    names = {"best.safetensors", "last.safetensors", "history.csv", "curves.png", "summary.json"}
    assert {path.name for path in folder.iterdir()} == names | {"val.csv"}
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


def test_blocks_begin_as_their_shortcuts():
    """Which is as in timm, and so that deep networks learn from the first step on."""
    recipe = Recipe()
    network, _ = NetworkOptions("resnest26", scratch=True, width=0.25).network(("a", "b"), recipe)
    theirs = timm.create_model("resnest26d").state_dict()
    for name, parameter in network.state_dict().items():
        if name.endswith("bn3.weight"):
            assert not parameter.any()
            assert not theirs[name].any()


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


def test_overwriting_keeps_what_it_begins_from_until_it_is_read(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    best = tmp_path / "out" / "best.safetensors"
    begun = ["--weights", best, "-o", "out", "--overwrite", "--epochs", "1"]
    wrong = run("train", data, *begun, "--crop", "8")
    assert (wrong.returncode, best.exists()) == (2, True)
    done = run("train", data, *begun)
    assert done.returncode == 0, done.stderr


def test_resume_never_begins_anew_where_something_is(trained, data, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    before = (tmp_path / "out" / "best.safetensors").read_bytes()
    done = run("train", data, *SHORT, "-o", "out", "--resume")
    assert (done.returncode, "state.pt" in done.stderr) == (1, True)
    assert (tmp_path / "out" / "best.safetensors").read_bytes() == before


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


def test_cut_outs_are_torchvisions():
    """The quick step equals crop, resize and mirroring one after the other, to the bit."""
    image, mirrored = drawn(90, 61), 0
    quick = CutOut((0.2, 1.0), 40, ["bicubic"], flip=True)
    for seed in range(12):
        torch.manual_seed(seed)
        found = pil_to_tensor(quick(image))
        torch.manual_seed(seed)
        left, top, right, bottom = quick.part(90, 61, iter(torch.rand(24).tolist()[2:]))
        part = top, left, bottom - top, right - left
        expected = resized_crop(image, *part, [40, 40], v2.InterpolationMode.BICUBIC)
        expected = pil_to_tensor(expected)
        turned = not torch.equal(found, expected)
        assert torch.equal(found, expected.flip(2) if turned else expected)
        mirrored += turned
    assert 0 < mirrored < 12


@pytest.mark.parametrize("size", [(90, 61), (40, 40), (300, 30)])
def test_parts_are_drawn_as_torchvision_draws_them(size):
    """Two samples of sides and places, by the Kolmogorov-Smirnov test."""
    image, scale = Image.new("RGB", size), (0.1, 0.8)
    quick = CutOut(scale, 40, ["bicubic"], flip=True)
    torch.manual_seed(0)
    mine, theirs = [], []
    for _ in range(2000):
        left, top, right, bottom = quick.part(*size, iter(torch.rand(22).tolist()))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        mine.append((top, left, bottom - top, right - left))
        theirs.append(v2.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]))
    for ours, reference in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=True):
        assert ks_2samp(ours, reference).pvalue > 0.001


def test_what_workers_are_given_can_be_sent_to_them():
    """Where processes are not forked, as on macOS and Windows, all of it is pickled."""
    view = Preprocessing("default", crop=32, resize=32)
    for recipe in (Recipe(), Recipe(augment="none"), Recipe(resampling=True, max_scale=1.5)):
        for made in (training_view(recipe, view), PlainView(view)):
            again = pickle.loads(pickle.dumps(made))
            torch.manual_seed(0)
            before = made(drawn(50, 40))
            torch.manual_seed(0)
            assert np.array_equal(again(drawn(50, 40)), before)
            assert (before.dtype, before.shape) == (np.uint8, (32, 32, 3))


def test_pictures_that_go_bad_while_training_are_told(tmp_path):
    paths = []
    for number in range(4):
        drawn(90, 70, seed=number).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    pictures = LabelledPictures(("a", "b"), tuple(paths), (0, 0, 1, 1))
    found = Pictures(pictures, PlainView(Preprocessing("default", crop=32, resize=32)), 0)
    (tmp_path / "1.png").unlink()
    _, target, lost = found[(0, 1)]
    assert target == 1
    assert "1.png': no such file" in lost
    for path in paths:
        Path(path).unlink(missing_ok=True)
    with pytest.raises(DatasetError, match="in a row"):
        found[(0, 0)]


def test_small_pictures_are_decoded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_KEPT", 6000)
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for number, path in enumerate(paths):
        drawn(32, 32, seed=number).save(path, icc_profile=bytes(100_000))
    pictures = LabelledPictures(("a", "b"), tuple(paths), (0, 1))
    view = PlainView(Preprocessing("default", crop=32, resize=32))
    found = Pictures(pictures, view, 0, keep=True)
    first = [found[(0, index)] for index in range(2)]
    Path(paths[0]).unlink()
    assert np.array_equal(found[(0, 0)][0], first[0][0])
    assert list(found._kept) == [0]  # there is no room for both
    assert not found._kept[0].info


def test_a_run_that_is_there_is_never_replaced_unasked(trained, data, run):
    folder, _ = trained
    before = (folder / "best.safetensors").read_bytes()
    done = run("train", data, *SHORT, "-o", folder)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    ended = run("train", data, *SHORT, "-o", folder, "--resume")
    assert (ended.returncode, "has ended" in ended.stderr) == (0, True)
    assert (folder / "best.safetensors").read_bytes() == before


def test_another_recipe_is_not_gone_on_with(data, run, tmp_path):
    command = [*RESNEST, "train", data, *SHORT, "-o", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 1/2" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=60)
    assert process.returncode == 130
    done = run("train", data, *SHORT, "--lr", "0.2", "-o", tmp_path / "out", "--resume")
    assert done.returncode == 1
    assert "lr 0.1, now 0.2" in done.stderr


def test_fine_tuning_replaces_the_head_and_keeps_what_was_learned(trained, tmp_path, run):
    folder, _ = trained
    data = colours(tmp_path / "two", each=12)
    for name in ("blue", "white"):
        for path in (data / name).iterdir():
            path.unlink()
    options = "--epochs 1 --freeze --batch-size 8 --precision bf16 --store fp16".split()
    done = run("train", data, "--weights", folder / "best.safetensors", *options, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "without any picture, and so left out: blue, white" in done.stderr
    with (
        safe_open(folder / "best.safetensors", "pt") as before,
        safe_open(tmp_path / "out" / "best.safetensors", "pt") as after,
    ):
        old, new = (f.get_tensor("layer1.0.conv1.weight") for f in (before, after))
        assert (old.half() == new).all()
        assert after.get_tensor("fc.weight").shape[0] == 2


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
    (["--scratch", "--crop", "4"], 2, "--crop"),
    (["--resume", "--overwrite"], 2, "exclude"),
    (["--min-scale", "2"], 2, "--min-scale"),
    (["--weights", "none.pth"], 1, "No such file"),
    (["--offline"], 1, "resnest50-528c19ca.pth"),
]


@pytest.mark.parametrize(("options", "code", "words"), WRONG, ids=str)
def test_wrong_options_are_told_before_anything_is_done(data, run, options, code, words):
    done = run("train", data, *options, "-o", "out")
    assert (done.returncode, done.stderr.count("\n") <= 3) == (code, True), done.stderr
    assert words in done.stderr


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
