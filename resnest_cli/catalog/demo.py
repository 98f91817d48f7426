"""What is part of the package: a small network for ten everyday classes, an image, labels."""

from __future__ import annotations

from pathlib import Path

DEMO = "demo"  # the network's name among the models; its card is docs/project/demo-model.md
_PACKAGE = Path(__file__).resolve().parents[1]


def demo_checkpoint() -> Path:
    """The network's checkpoint."""
    return _PACKAGE / "data" / "demo.safetensors"


def example() -> tuple[Path, str]:
    """An image, and the class that the network gives it."""
    return bundled("examples/boat.jpg"), "ship"


def bundled(name: str) -> Path:
    """A file that an installed package carries inside, and a checkout has at its top level."""
    folders = (_PACKAGE / "data", _PACKAGE.parent)
    return next(path for folder in folders if (path := folder / name).is_file())
