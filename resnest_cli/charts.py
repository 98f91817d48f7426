"""Figures as pictures: learning curves, confusion matrices, reliability, contact sheets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ResNeStError
from resnest_cli.files import into_place

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

BLUE, ORANGE, GREY = "#1f6fb4", "#d9771e", "#8a8a8a"
_MOST_NAMED_CLASSES = 60  # of more than that a matrix's axes cannot be read


def require_extra(*packages: str) -> None:
    """Raise `ResNeStError`, with the pip command, unless what the extra `train` installs is there.

    Args:
        packages: import names.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ResNeStError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed\n"
            "pip install 'resnest-cli[train]'"
        )


def draw_curves(
    path: Path,
    *,
    losses: dict[str, Sequence[float]],
    top1: Sequence[float],
    best: int,
    title: str,
) -> None:
    """Losses and validation top-1 (per cent) over epochs, with the best one (from 1), as a PNG."""
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
    share = matrix / matrix.sum(1, keepdims=True).clip(1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title="confusion matrix")
    if named:
        shown = [_literal(name) for name in names]
        axes.set_xticks(range(count), shown, rotation=90)
        axes.set_yticks(range(count), shown)
    if count <= 25:
        for row in range(count):
            for column in range(count):
                colour = "white" if share[row, column] > 0.5 else "black"
                text = f"{matrix[row, column]}" if matrix[row, column] else ""
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def draw_reliability(
    path: Path,
    *,
    confidence: Sequence[float],
    accuracy: Sequence[float],
    counts: Sequence[int],
    error: float,
) -> None:
    """How often answers of a confidence are right: bins from 0 to 1, as a PNG.

    Args:
        path: where to.
        confidence: mean of each bin, 0 to 1; what empty bins hold is not drawn.
        accuracy: of each bin, 0 to 1.
        counts: pictures in each bin.
        error: the expected calibration error, 0 to 1.
    """
    figure = _figure(5, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    width = 1 / len(counts)
    middles = [(number + 0.5) * width for number in range(len(counts))]
    filled = [number for number, count in enumerate(counts) if count]
    upper.bar([middles[n] for n in filled], [accuracy[n] for n in filled], width * 0.94, color=BLUE)
    upper.plot([0, 1], [0, 1], "--", color=GREY)
    upper.plot(
        [confidence[n] for n in filled], [accuracy[n] for n in filled], "o", color=ORANGE, ms=4
    )
    upper.set(
        ylabel="share that is right",
        title=f"reliability: expected calibration error {100 * error:.2f} %",
        ylim=(0, 1),
        xlim=(0, 1),
    )
    lower.bar(middles, counts, width * 0.94, color=GREY)
    lower.set(xlabel="confidence", ylabel="pictures")
    _save(figure, path)


def draw_tradeoff(path: Path, points: dict[str, tuple[float, float]]) -> None:
    """Networks by pictures per second and top-1 (per cent), as a PNG."""
    figure = _figure(8, 5)
    axes = figure.subplots()
    axes.set_xscale("log")
    for name, (speed, top1) in points.items():
        axes.plot(speed, top1, "o", color=BLUE)
        axes.annotate(
            _literal(name.removeprefix("resnest")),
            (speed, top1),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.grid(color="#e6e6e6")
    axes.set(xlabel="pictures per second", ylabel="ImageNet-1k top-1, %, as published")
    axes.set_title("accuracy and speed of the variants (resnest...)")
    axes.margins(x=0.15, y=0.1)
    _save(figure, path)


def draw_contact_sheet(
    path: Path, pictures: Sequence[tuple[Callable[[], Picture], str, str]], *, side: int = 160
) -> None:
    """Pictures side by side, each with two lines below it, as a JPEG.

    Args:
        path: where to.
        pictures: what gives an RGB picture, called when its turn comes, and the two lines.
        side: pixels of the square that each is fitted into.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    columns = min(max(math.ceil(len(pictures) ** 0.5), 4), 8)
    rows = math.ceil(len(pictures) / columns)
    margin, text = 10, 36
    sheet = Image.new(
        "RGB",
        (columns * (side + margin) + margin, rows * (side + margin + text) + margin),
        "white",
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (load, first, second) in enumerate(pictures):
        left = margin + number % columns * (side + margin)
        top = margin + number // columns * (side + margin + text)
        fitted = ImageOps.pad(load(), (side, side), color="#eeeeee")
        sheet.paste(fitted, (left, top))
        for line, (words, colour) in enumerate(((first, "black"), (second, "#b03020"))):
            while pen.textlength(words, font) > side and len(words) > 1:
                words = words[:-2] + "…"
            pen.text((left, top + side + 2 + 16 * line), words, colour, font)
    with into_place(path) as beside:
        sheet.save(beside, "JPEG", quality=90)


def _literal(text: str) -> str:
    """Text that is not taken for a formula."""
    return text.replace("$", r"\$")


def _line(axes: Any, values: Sequence[float], colour: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(values) == 1 else ""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.plot(range(1, len(values) + 1), values, marker=marker, color=colour, label=label)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, inches; drawn without any window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with into_place(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=120)
