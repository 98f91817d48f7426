"""A chart of the split attention: a row for each block, its weights, and its effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnest_cli.explain.draw import AGAINST, FOR, latin

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROW, _NAME, _SPLIT, _EFFECT, _TEXT = 18, 84, 110, 170, 44  # pixels


def attention_chart(
    rows: Sequence[dict[str, Any]], weights: Sequence[NDArray[np.float32]], titles: Sequence[str]
) -> Image.Image:
    """Rows as in JSON, each block's weights (radix, channels), and the names of the effects.

    A split's strip holds the weights of its channels in ascending order, from white, 0, to black,
    1, and their mean. An effect's bar is red if the block's attention speaks for the class.
    """
    radix = max(len(w) for w in weights)
    left = _NAME + radix * (_SPLIT + _TEXT)
    width, height = left + len(titles) * _EFFECT + 8, (len(rows) + 2) * _ROW + 8
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)

    def text(x: float, y: float, words: str) -> None:
        draw.text((x, y), latin(words), "black", font)

    for split in range(radix):
        text(_NAME + split * (_SPLIT + _TEXT), 2, f"split {split + 1}, mean")
    for number, title in enumerate(titles):
        text(left + number * _EFFECT, 2, title[:24])
    largest = max((abs(e) for row in rows for e in row["effect"]), default=0) or 1.0
    for line, (row, of_block) in enumerate(zip(rows, weights, strict=True), 1):
        y = line * _ROW + 2
        text(4, y, row["block"])
        for split, values in enumerate(of_block):
            x = _NAME + split * (_SPLIT + _TEXT)
            image.paste(_strip(values), (x, y))
            draw.rectangle((x, y, x + _SPLIT, y + _ROW - 4), outline=(160, 160, 160))
            text(x + _SPLIT + 4, y, f"{row['weights'][split]:.3f}")
        for number, effect in enumerate(row["effect"]):
            middle = left + number * _EFFECT + 50
            end = middle + effect / largest * 46
            colour = tuple(int(c) for c in (FOR if effect > 0 else AGAINST))
            draw.rectangle((min(middle, end), y + 1, max(middle, end), y + 13), colour)
            text(middle + 52, y, f"{effect:+.3f}")
    text(4, (len(rows) + 1) * _ROW + 4, "effect: logit less that with neutral attention")
    return image


def _strip(values: NDArray[np.float32]) -> Image.Image:
    """Weights in ascending order, white to black."""
    ordered = np.sort(values)[np.arange(_SPLIT) * len(values) // _SPLIT]
    grey = (255 * (1 - ordered.clip(0, 1))).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(grey, (_ROW - 3, _SPLIT)).copy()).convert("RGB")
