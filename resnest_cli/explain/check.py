"""Whether a map marks what matters: its best fifth is hidden, and as much at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.engines.api import LOGITS, Engine
from resnest_cli.explain.maps import Explained

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 20  # random choices of cells
_FIFTH = 0.2
_BETTER = 0.95  # of the draws must harm less, for a map to count as better than chance


def check(engine: Engine, pixels: NDArray[np.uint8], explained: Explained) -> dict[str, Any]:
    """What hiding does to the class's probability, in plain values.

    With another class, the probability is that of the class where only these two are possible.
    Hidden cells get the image's mean colour.

    Args:
        engine: computes 22 images.
        pixels: the network's input, (crop, crop, 3).
        explained: the map that is checked.
    """
    cells = explained.values.size
    count = max(1, round(cells * _FIFTH))
    marked = np.argsort(-explained.values, axis=None, kind="stable")[:count]
    rng = np.random.default_rng(0)
    chosen = [marked, *(rng.choice(cells, count, replace=False) for _ in range(DRAWS))]
    shown = [pixels, *(hidden(pixels, some, explained.values.shape) for some in chosen)]
    (logits,) = engine.run(np.stack(shown), (LOGITS,))
    whole, without, *drawn = _probabilities(logits, explained)
    share = sum(without < p for p in drawn) / DRAWS
    return {
        "probability": float(whole),
        "marked_hidden": float(without),
        "random_hidden_mean": float(np.mean(drawn)),
        "random_hidden_least": float(min(drawn)),
        "random_hidden_most": float(max(drawn)),
        "better_than_chance": bool(share >= _BETTER),
    }


def hidden(
    pixels: NDArray[np.uint8], cells: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """A copy of an image with some cells of a grid, numbered by rows, in its mean colour."""
    mask = np.zeros(shape, bool)
    mask.flat[cells] = True
    rows, columns = (
        np.arange(side) * n // side for side, n in zip(pixels.shape, shape, strict=False)
    )
    covered: NDArray[np.uint8] = pixels.copy()
    covered[mask[rows[:, None], columns]] = pixels.mean((0, 1)).round().astype(np.uint8)
    return covered


def _probabilities(logits: NDArray[np.float32], explained: Explained) -> NDArray[np.float64]:
    rivals = logits.astype(np.float64)
    if explained.against is not None:
        rivals = rivals[:, [explained.index, explained.against]]
    own = logits[:, [explained.index]].astype(np.float64)
    probabilities: NDArray[np.float64] = 1 / np.exp(rivals - own).sum(1)
    return probabilities
