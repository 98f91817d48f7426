"""Draws the example pictures, so that there is something to classify in a fresh checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (480, 360)
SCALE = 4  # drawn larger and shrunk: smooth edges


def boat() -> Image.Image:
    """A sailing boat on the sea."""
    width, height = (side * SCALE for side in SIZE)
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([120, 170, 225]) * (1 - rows) + np.array([235, 240, 245]) * rows
    image = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    horizon = int(height * 0.62)
    for y in range(horizon, height, SCALE * 3):
        shade = rng.integers(-14, 14)
        deep = (y - horizon) / (height - horizon)
        colour = tuple(int(c - 45 * deep + shade) for c in (60, 115, 155))
        draw.rectangle((0, y, width, y + SCALE * 3), fill=colour)
    x, y, unit = width // 2, int(height * 0.74), height // 20
    draw.polygon(
        [
            (x - 6 * unit, y),
            (x + 6 * unit, y),
            (x + 4 * unit, y + 2 * unit),
            (x - 5 * unit, y + 2 * unit),
        ],
        fill=(110, 60, 35),
    )
    draw.rectangle((x - unit // 6, y - 11 * unit, x + unit // 6, y), fill=(70, 45, 30))
    draw.polygon(
        [(x + unit // 3, y - 11 * unit), (x + unit // 3, y - unit), (x + 5 * unit, y - unit)],
        fill=(250, 248, 240),
    )
    draw.polygon(
        [(x - unit // 3, y - 10 * unit), (x - unit // 3, y - unit), (x - 4 * unit, y - unit)],
        fill=(240, 236, 225),
    )
    return image.resize(SIZE, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))


if __name__ == "__main__":
    boat().save(Path(__file__).with_name("boat.jpg"), quality=90)
