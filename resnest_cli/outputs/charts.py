"""Charts as image files: learning curves, confusion matrices, reliability, speed, contact sheets.

They need the extra `train`, except the contact sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import settings
from resnest_cli.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image

    Tile = tuple[Callable[[], Image], str, str]  # loads an image in mode RGB; two lines below it

BLUE, ORANGE, GREY = "#1f6fb4", "#d9771e", "#8a8a8a"
_MOST_NAMED_CLASSES = 60  # more names at the axes of a matrix cannot be read
_MOST_NUMBERED_CLASSES = 25  # more counts in the cells of a matrix cannot be read


def draw_curves(
    path: Path, *, losses: dict[str, Sequence[float]], top1: Sequence[float], best: int, title: str
) -> None:
    """Losses and validation top-1 (per cent) over epochs, the best one (from 1) marked, as PNG."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    for (name, values), colour in zip(losses.items(), (GREY, BLUE), strict=True):
        _line(left, values, colour, name)
    left.set(title="loss", xlabel="epoch")
    left.legend(frameon=False)
    _line(right, top1, BLUE, "")
    right.plot(best, top1[best - 1], "o", color=ORANGE)
    right.set(title=f"validation top-1: best {top1[best - 1]:.2f} % (epoch {best})", xlabel="epoch")
    figure.suptitle(_literal(title))
    _save(figure, path)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str]) -> None:
    """A confusion matrix, (classes, classes) counts, rows true and columns predicted, as a PNG."""
    count = len(names)
    named = count <= _MOST_NAMED_CLASSES
    side = min(max(4.0, 0.42 * count + 2), 16) if named else 10
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    fractions = matrix / matrix.sum(1, keepdims=True).clip(1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="fraction of the true class")
    axes.set(xlabel="predicted", ylabel="true", title="confusion matrix")
    if named:
        shown = [_literal(name) for name in names]
        axes.set_xticks(range(count), shown, rotation=90)
        axes.set_yticks(range(count), shown)
    if count <= _MOST_NUMBERED_CLASSES:
        for row, column in zip(*matrix.nonzero(), strict=True):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def draw_reliability(
    path: Path,
    *,
    confidence: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    counts: NDArray[np.int64],
    error: float,
) -> None:
    """Accuracy over confidence in bins (N) of equal width, and their images' counts, as a PNG.

    Confidence, accuracy and the expected calibration error are 0 to 1; empty bins are not drawn.
    """
    import numpy as np

    figure = _figure(5, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    width = 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    filled = counts > 0
    upper.bar(middles[filled], accuracy[filled], width * 0.94, color=BLUE)
    upper.plot([0, 1], [0, 1], "--", color=GREY)
    upper.plot(confidence[filled], accuracy[filled], "o", color=ORANGE, ms=4)
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    upper.set_title(f"reliability: expected calibration error {100 * error:.2f} %")
    lower.bar(middles, counts, width * 0.94, color=GREY)
    lower.set(xlabel="confidence", ylabel="images")
    _save(figure, path)


def draw_tradeoff(path: Path, points: dict[str, tuple[float, float]]) -> None:
    """Models by images per second and top-1 (per cent), as a PNG."""
    figure = _figure(8, 5)
    axes = figure.subplots()
    axes.set_xscale("log")
    for name, (speed, top1) in points.items():
        axes.plot(speed, top1, "o", color=BLUE)
        label, offset = _literal(name.removeprefix("resnest")), "offset points"
        axes.annotate(label, (speed, top1), xytext=(6, 4), textcoords=offset, fontsize=8)
    axes.grid(color="#e6e6e6")
    axes.set(xlabel="images per second", ylabel="ImageNet-1k top-1, %, as published")
    axes.set_title("accuracy and speed of the variants (resnest...)")
    axes.margins(x=0.15, y=0.1)
    _save(figure, path)


def draw_contact_sheet(path: Path, tiles: Sequence[Tile], *, side: int = 160) -> None:
    """Images side by side, each fitted into a square of `side` pixels over its lines, as a JPEG."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    columns = min(max(math.ceil(len(tiles) ** 0.5), 4), 8)
    rows = math.ceil(len(tiles) / columns)
    margin, text = 10, 36
    width, height = columns * (side + margin) + margin, rows * (side + margin + text) + margin
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (load, first, second) in enumerate(tiles):
        left = margin + number % columns * (side + margin)
        top = margin + number // columns * (side + margin + text)
        sheet.paste(ImageOps.pad(load(), (side, side), color="#eeeeee"), (left, top))
        for line, (words, colour) in enumerate(((first, "black"), (second, "#b03020"))):
            while pen.textlength(words, font) > side and len(words) > 1:
                words = words[:-2] + "…"
            pen.text((left, top + side + 2 + 16 * line), words, colour, font)
    with atomic_write(path) as beside:
        sheet.save(beside, "JPEG", quality=90)


def _literal(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _line(axes: Any, values: Sequence[float], colour: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(values) == 1 else ""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.plot(range(1, len(values) + 1), values, marker=marker, color=colour, label=label)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no window system."""
    settings.contain("matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=120)
