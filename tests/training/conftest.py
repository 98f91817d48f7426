"""A data set that is learned in seconds: four colours, in class folders."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import RESNEST

CLASSES = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40), "white": (230,) * 3}
# the smallest network that is still a ResNeSt, and a run of two epochs of four steps
TINY = "--scratch --model resnest14 --width 0.125 --crop 32 --resize 32".split()
SHORT = [*TINY, *"--epochs 2 --batch-size 16 --augment light --mixup 0.2 --ema 0.9".split()]


def colours(folder: Path, each: int = 20) -> Path:
    """Pictures of one noisy colour each."""
    for target, (name, colour) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(target)
        for number in range(each):
            noise = rng.normal(0, 30, (36, 44, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.jpg")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Eighty pictures of four colours."""
    return colours(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """The folder of a run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    done = subprocess.run(
        [*RESNEST, "train", data, *SHORT, "-o", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done
