"""The bundled network, exported once for all tests of a file."""

import pytest

from resnest_cli import export_model

SUFFIXES = ("onnx", "xml", "pt2", "safetensors")
READ_BACK = ("onnx", "xml", "safetensors")


@pytest.fixture(autouse=True)
def default_engine(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


@pytest.fixture(scope="package")
def exported(tmp_path_factory):
    """The bundled network in every format."""
    folder = tmp_path_factory.mktemp("exported")
    for suffix in SUFFIXES:
        made = export_model("demo", folder / f"demo.{suffix}")
        assert made.path == folder / f"demo.{suffix}"
        assert 0 <= made.difference <= 1e-5
        assert made.seconds > 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "demo.bin", "demo.onnx", "demo.pt2", "demo.safetensors", "demo.xml",
    ]  # fmt: skip
    return folder
