"""A data set that is learned in a second: four colours, in class folders."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Done, in_process

CLASSES = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40), "white": (230,) * 3}
RECIPE = Path(__file__).with_name("short.yaml")
SHORT = ["--recipe", str(RECIPE), "--workers", "0"]


def colours(folder: Path, each: int = 10) -> Path:
    """Class folders of images of one noisy colour each."""
    for target, (name, colour) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(target)
        for number in range(each):
            noise = rng.normal(0, 30, (36, 40, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's history."""
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def same_weights(first: Path, second: Path) -> bool:
    """Whether two runs gave the same checkpoints, to the bit."""
    names = ("best.safetensors", "last.safetensors")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Forty images of four colours."""
    return colours(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> tuple[Path, Done]:
    """The folder of an uninterrupted run, and what the command gave."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    done = in_process("train", data, *SHORT, "-o", folder, env={"NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    return folder, done
