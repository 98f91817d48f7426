"""What comes with the package and is always there: a small network, and a picture to try it on.

The network knows ten everyday classes; docs/demo.md says how it was made and how good it is.
"""

from __future__ import annotations

from pathlib import Path

DEMO = "demo"  # its name among the models

_PACKAGE = Path(__file__).resolve().parent
# an installed package carries the folder inside, a checkout has it at the top level
_EXAMPLES = (_PACKAGE / "data" / "examples", _PACKAGE.parent / "examples")


def demo_checkpoint() -> Path:
    """The network, with the card that says what it is."""
    return _PACKAGE / "data" / "demo.safetensors"


def example() -> tuple[Path, str]:
    """A picture, and what the network calls it."""
    return next(p for folder in _EXAMPLES if (p := folder / "boat.jpg").is_file()), "ship"
