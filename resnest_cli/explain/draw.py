"""A map on its image: red speaks for the class, blue against it, in logits on a fixed scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

LARGEST_SIDE = 1600  # pixels: larger images are drawn at this size
FOR, AGAINST = np.array([214.0, 30, 30]), np.array([30.0, 80, 230])
_STRONGEST = 0.75  # how much of the colour covers the image at the end of the scale
_UNSEEN = 0.35  # the brightness of what the network did not see
_TEXT, _BAR = 18, 200  # pixels


def drawn(image: Image.Image, values: NDArray[np.float32], box: Box, scale: float) -> Image.Image:
    """An RGB image with a map (rows, columns) over the part in `box`, which has a frame.

    `scale` is the value, in logits, whose colour is the strongest.
    """
    width, height = image.size
    left, top, right, bottom = box
    rows, columns = values.shape
    # each pixel's place in the map, so that a box may begin within a pixel
    x = (np.arange(width) + 0.5 - left) / (right - left) * columns - 0.5
    y = (np.arange(height) + 0.5 - top) / (bottom - top) * rows - 0.5
    strength = np.clip(_between(values, y, x) / scale, -1, 1)[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), np.float64)
    cover = np.abs(strength) * _STRONGEST
    made = grey * (1 - cover) + np.where(strength > 0, FOR, AGAINST) * cover
    within = ((x > -0.5) & (x < columns - 0.5))[None] & ((y > -0.5) & (y < rows - 0.5))[:, None]
    made[~within] = grey[~within] * _UNSEEN
    framed = Image.fromarray(made.round().astype(np.uint8))
    frame = (round(left), round(top), round(right) - 1, round(bottom) - 1)
    ImageDraw.Draw(framed).rectangle(frame, outline=(255, 255, 255), width=2)
    return framed


def with_legend(image: Image.Image, lines: list[str], scale: float) -> Image.Image:
    """An image with lines of text and the colour scale below it."""
    font = ImageFont.load_default(_TEXT - 4)
    width = max(image.width, 480)
    made = Image.new("RGB", (width, image.height + _TEXT * (len(lines) + 1) + 12), "white")
    made.paste(image)
    draw = ImageDraw.Draw(made)
    top = image.height + 4
    for line in lines:
        draw.text((6, top), latin(line), "black", font)
        top += _TEXT
    ramp = np.broadcast_to(np.linspace(-1, 1, _BAR), (_TEXT - 6, _BAR))[..., None]
    colours = np.where(ramp > 0, FOR, AGAINST) * np.abs(ramp) + 255 * (1 - np.abs(ramp))
    made.paste(Image.fromarray(colours.round().astype(np.uint8)), (70, top + 3))
    draw.text((6, top), f"-{scale:g}", "black", font)
    draw.text((76 + _BAR, top), f"+{scale:g} logits in a cell", "black", font)
    return made


def latin(text: str) -> str:
    """A text without letters that Pillow's own font may lack."""
    return text.encode("latin-1", "replace").decode("latin-1")


def reduced(image: Image.Image) -> Image.Image:
    """An image at the size at which it is drawn."""
    factor = LARGEST_SIDE / max(image.size)
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR)


def _between(
    values: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values between the centres of cells, linearly; beyond the outer centres, theirs."""
    rows, columns = values.shape
    lines = np.stack([np.interp(x, np.arange(columns), row) for row in values])  # (rows, width)
    y = np.clip(y, 0, rows - 1)
    above = np.minimum(y.astype(int), max(rows - 2, 0))
    part = (y - above)[:, None]
    between: NDArray[np.float64] = lines[above] * (1 - part)
    between += lines[np.minimum(above + 1, rows - 1)] * part
    return between
