"""Training images as they are read, and the processes that read them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.errors import DatasetError
from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.training.components import StopRequest
from resnest_cli.training.data import EpochSampler, ImageDataset, loader, with_warnings
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.transforms import train_transform
from tests.conftest import drawn

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

VIEW = Preprocessing("default", crop=32, resize=32)


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        drawn(90, 70, seed=number).save(path)
    return LabelledImages(("a", "b"), tuple(map(str, paths)), (0, 0, 1, 1))


def test_the_next_image_stands_in_for_one_that_became_unreadable(images, tmp_path, caplog):
    dataset = ImageDataset(images, VIEW.pixels, 0)
    expected = dataset[0, 2]
    assert expected.substituted is None
    (tmp_path / "1.png").unlink()
    sample = dataset[0, 1]
    assert np.array_equal(sample.pixels, expected.pixels)
    assert (sample.target, "1.png': no such file" in sample.substituted) == (1, True)
    (batch,) = with_warnings(loader(dataset, EpochSampler(4, 4, 0), workers=0))
    assert sorted(batch.targets.tolist()) == [0, 1, 1, 1]
    assert "1.png': no such file; the next image stands in" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_images_in_a_row(images, tmp_path, workers):
    for path in tmp_path.iterdir():
        path.unlink()
    dataset = ImageDataset(images, VIEW.pixels, 0)
    batches = with_warnings(loader(dataset, EpochSampler(4, 4, 0), workers=workers))
    with pytest.raises(DatasetError, match=r"^10 images in a row cannot be read, the first .*png"):
        next(batches)


def test_images_are_the_same_whichever_process_decodes_them(images):
    """And the caller's random numbers are left alone."""
    dataset, before = (
        ImageDataset(images, train_transform(Recipe(), VIEW), 3),
        torch.get_rng_state(),
    )
    alone, shared = (
        next(iter(loader(dataset, EpochSampler(4, 4, 3), workers=workers))).pixels
        for workers in (0, 2)
    )
    assert torch.equal(alone, shared)
    assert torch.equal(torch.get_rng_state(), before)
    assert alone.is_contiguous(memory_format=torch.channels_last)
    # the same image is augmented otherwise at another place, and with another seed
    assert not np.array_equal(dataset[0, 0].pixels, dataset[1, 0].pixels)
    other = ImageDataset(images, dataset.transform, 4)
    assert not np.array_equal(dataset[0, 0].pixels, other[0, 0].pixels)


HELD = """
import numpy as np
from resnest_cli.cli import app
from resnest_cli.training.data import EpochSampler, Sample, loader

class Images:
    def __getitem__(self, drawn):
        return Sample(np.zeros((2, 2, 3)), 0)

def run(arguments):
    app.batches = iter(loader(Images(), EpochSampler(64, 4, 0), workers=2))
    next(app.batches)
    return 130

if __name__ == "__main__":
    app.run = run
    app.main()
"""


def test_decoding_processes_that_end_with_the_program_are_no_failure(tmp_path):
    """Those that are still running at the end are stopped without a message."""
    (tmp_path / "held.py").write_text(HELD)
    command = [sys.executable, tmp_path / "held.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes aren't forked here")
def test_a_decoding_process_that_was_just_forked_ends_on_sigterm():
    """Until it has handlers of its own it has the trainer's, which end nothing immediately."""
    reader, writer = os.pipe()
    with StopRequest() as stop:
        if not (child := os.fork()):
            os.write(writer, b".")
            time.sleep(20)
            os._exit(0)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert not stop.requested
    os.close(reader)
    os.close(writer)


def test_a_second_signal_interrupts_immediately():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
