"""Training pictures: what is cut out of them, and how they are read."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from resnest_cli.errors import DatasetError
from resnest_cli.folders import LabelledPictures
from resnest_cli.preprocess import Preprocessing
from resnest_cli.training import data as data_module
from resnest_cli.training.augment import CutOut, PlainView, training_view
from resnest_cli.training.data import Pictures
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.trainer import Trainer
from tests.conftest import drawn


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


def test_decoding_processes_that_end_with_the_program_are_no_failure():
    """Those that something still holds at the end are stopped without a word."""
    held = """
import numpy as np
from resnest_cli import cli
from resnest_cli.training.data import Order, training_batches

class Pictures:
    def __getitem__(self, drawn):
        return np.zeros((2, 2, 3)), 0, None

def run():
    order = Order(64, 4, 0, part=0, parts=1)
    cli.batches = iter(training_batches(Pictures(), order, workers=2))
    next(cli.batches)
    return 130

cli.run = run
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", held], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes aren't forked here")
def test_a_decoding_process_that_has_just_begun_ends_when_it_is_told():
    """Until it has handlers of its own it has the trainer's, which end nothing at once."""
    begun, begins = os.pipe()
    with Trainer._stopping_in_order(object.__new__(Trainer)):
        if not (child := os.fork()):
            os.write(begins, b".")
            time.sleep(20)
            os._exit(0)
        os.read(begun, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    os.close(begun)
    os.close(begins)
