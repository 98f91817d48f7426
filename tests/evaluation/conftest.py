"""Labelled images for the tests of evaluation."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.inputs.conftest import served, store  # noqa: F401

CLASSES = {"aeroplane": "airplane", "boat": "ship", "car": "automobile"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The example images in class folders, a car among the horses, and a broken ship."""
    for image, name in CLASSES.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / f"{image}.jpg", tmp_path / "data" / name)
    (tmp_path / "data" / "horse").mkdir()
    shutil.copy(ROOT / "examples" / "car.jpg", tmp_path / "data" / "horse" / "not a horse.jpg")
    (tmp_path / "data" / "ship" / "broken.jpg").write_bytes(b"not an image")
    return tmp_path / "data"
