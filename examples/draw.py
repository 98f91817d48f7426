"""Draws the example images, so that there is something to classify in a fresh checkout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (480, 360)
SCALE = 4  # drawn larger and shrunk: smooth edges

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Canvas:
    """An image to draw on, in units of a twentieth of its height; (0, 0) is its centre."""

    def __init__(self, top: Colour, bottom: Colour) -> None:
        width, height = (side * SCALE for side in SIZE)
        rows = np.linspace(0, 1, height)[:, None, None]
        blend = np.array(top) * (1 - rows) + np.array(bottom) * rows
        pixels = np.broadcast_to(blend, (height, width, 3)).astype(np.uint8)
        self.image = Image.fromarray(pixels)
        self.pen = ImageDraw.Draw(self.image)
        self.unit = height / 20
        self.centre = (width / 2, height / 2)

    def at(self, points: Points) -> list[tuple[float, float]]:
        """Points in pixels."""
        return [(self.centre[0] + x * self.unit, self.centre[1] + y * self.unit) for x, y in points]

    def shape(self, points: Points, fill: Colour) -> None:
        """A polygon."""
        self.pen.polygon(self.at(points), fill=fill)

    def box(self, corner: tuple[float, float], other: tuple[float, float], fill: Colour) -> None:
        """A rectangle."""
        self.pen.rectangle([*self.at([corner])[0], *self.at([other])[0]], fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A circle."""
        corners = self.at([(x - radius, y - radius), (x + radius, y + radius)])
        self.pen.ellipse([*corners[0], *corners[1]], fill=fill)

    def stripes(self, top: float, near: Colour, far: Colour, *, rough: int) -> None:
        """Ground or water from a height down to the lower edge, in stripes of uneven brightness."""
        rng = np.random.default_rng(0)
        for y in np.arange(top, 10, 0.15):
            share = (y - top) / (10 - top)
            shade = int(rng.integers(-rough, rough + 1))
            mixed = [int(f + (n - f) * share) + shade for n, f in zip(near, far, strict=True)]
            red, green, blue = (min(max(c, 0), 255) for c in mixed)
            self.box((-14, float(y)), (14, float(y) + 0.15), (red, green, blue))

    def finished(self) -> Image.Image:
        """The image in its final size."""
        shrunk = self.image.resize(SIZE, Image.Resampling.LANCZOS)
        return shrunk.filter(ImageFilter.GaussianBlur(0.6))


def boat() -> Image.Image:
    """A sailing boat on the sea."""
    c = Canvas((120, 170, 225), (235, 240, 245))
    c.stripes(2.4, (15, 70, 110), (60, 115, 155), rough=14)
    c.shape([(-6, 4.8), (6, 4.8), (4, 6.8), (-5, 6.8)], (110, 60, 35))
    c.box((-0.17, -6.2), (0.17, 4.8), (70, 45, 30))
    c.shape([(0.33, -6.2), (0.33, 3.8), (5, 3.8)], (250, 248, 240))
    c.shape([(-0.33, -5.2), (-0.33, 3.8), (-4, 3.8)], (240, 236, 225))
    return c.finished()


def aeroplane() -> Image.Image:
    """An airliner in the sky, from the side."""
    c = Canvas((70, 130, 210), (190, 215, 240))
    body, shade = (240, 242, 245), (185, 192, 202)
    c.shape([(-8, -1), (-10.6, -4.6), (-9, -4.6), (-5.6, -1)], (35, 70, 140))
    c.shape([(-9.6, -0.6), (-11, -1.8), (-10, -1.8), (-7, -0.4)], shade)
    c.shape(
        [(-10, -1), (8, -1.2), (9.8, -0.5), (10.6, 0.3), (9.8, 0.8), (7, 1.1), (-6, 1), (-9, 0)],
        body,
    )
    c.shape([(-9, 0), (10.6, 0.3), (9.8, 0.8), (7, 1.1), (-6, 1)], (215, 220, 228))
    for x in np.arange(-5.5, 7, 0.8):
        c.disc(float(x), -0.3, 0.18, (60, 75, 100))
    c.shape([(8.4, -0.9), (9.6, -0.5), (9.2, -0.3), (8.2, -0.4)], (40, 55, 80))
    c.shape([(2.4, 0.3), (-0.6, 0.3), (-5.6, 4.6), (-4.2, 4.6)], shade)
    c.shape([(-0.2, 1.6), (2.2, 1.5), (2.4, 2.5), (-0.2, 2.6)], (120, 128, 140))
    return c.finished()


def car() -> Image.Image:
    """A red car on a road, from the side."""
    c = Canvas((170, 200, 230), (225, 232, 238))
    c.box((-14, 0), (14, 3.2), (95, 125, 80))
    c.stripes(3.2, (85, 85, 90), (120, 120, 124), rough=5)
    c.shape([(-9.4, 5.2), (9.6, 5.2), (9.2, 5.9), (-9, 5.9)], (45, 45, 48))
    c.shape(
        [
            *((-9.4, 5), (-9.4, 2.2), (-8.8, 1), (-5.6, 0.5), (-3.4, -2.4), (-2.6, -2.8)),
            *((2.6, -2.8), (3.6, -2.4), (6, 0.6), (8.8, 1.2), (9.5, 2.4), (9.5, 5)),
        ],
        (195, 25, 30),
    )
    glass = (70, 90, 110)
    c.shape([(-4.8, 0.5), (-3, -2), (-0.3, -2), (-0.3, 0.5)], glass)
    c.shape([(0.3, 0.5), (0.3, -2), (2.7, -2), (4.9, 0.5)], glass)
    c.box((-9.2, 2.9), (9.3, 3.2), (140, 15, 20))
    c.disc(9, 2.2, 0.5, (250, 245, 215))
    c.box((-9.4, 1.8), (-8.8, 2.6), (255, 120, 60))
    for x in (-5.6, 5.8):
        c.disc(x, 4.8, 1.9, (25, 25, 28))
        c.disc(x, 4.8, 1.05, (190, 192, 196))
        c.disc(x, 4.8, 0.35, (90, 92, 96))
    return c.finished()


IMAGES: dict[str, Callable[[], Image.Image]] = {
    "aeroplane": aeroplane,
    "boat": boat,
    "car": car,
}

if __name__ == "__main__":
    for name, draw in IMAGES.items():
        draw().save(Path(__file__).with_name(f"{name}.jpg"), quality=90)
