"""Charts show the numbers that they are given."""

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from resnest_cli.outputs import charts


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as matplotlib knows them."""
    saved = []
    save = matplotlib.figure.Figure.savefig

    def savefig(self, *args, **options):
        saved.append(self)
        return save(self, *args, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return saved


def test_learning_curves(figures, tmp_path):
    losses = {"training": [3.0, 2.0, 1.5], "validation": [2.5, 2.2, 2.3]}
    charts.draw_curves(
        tmp_path / "curves.png", losses=losses, top1=[40.0, 52.5, 50.0], best=2, title="costs $5"
    )
    left, right = figures[0].axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in left.lines}
    assert drawn == losses
    assert list(right.lines[0].get_ydata()) == [40.0, 52.5, 50.0]
    assert (right.lines[1].get_xdata(), right.lines[1].get_ydata()) == ([2], [52.5])
    assert "best 52.50 % (epoch 2)" in right.get_title()
    assert figures[0].get_suptitle() == r"costs \$5"
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.width) == ("PNG", 9 * 120)


@pytest.mark.parametrize(
    ("classes", "named", "numbered"), [(3, True, True), (40, True, False), (70, False, False)]
)
def test_a_confusion_matrix_has_no_more_text_than_can_be_read(
    figures, tmp_path, classes, named, numbered
):
    matrix = np.diag(np.full(classes, 4))
    matrix[0, 1] = 12
    charts.draw_confusion(tmp_path / "x.png", matrix, [f"c{i}" for i in range(classes)])
    axes = figures[0].axes[0]
    shown = axes.images[0].get_array()
    assert shown[0].tolist()[:2] == [0.25, 0.75]  # fractions of the row
    assert shown[1, 1] == 1
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert (labels == [f"c{i}" for i in range(classes)]) == named
    counts = sorted(text.get_text() for text in axes.texts if text.get_text())
    assert counts == (["12", "4", "4", "4"] if numbered else [])


def test_a_reliability_diagram_leaves_out_empty_bins(figures, tmp_path):
    charts.draw_reliability(
        tmp_path / "x.png",
        confidence=np.array([0.1, 0.0, 0.6, 0.9]),
        accuracy=np.array([0.2, 0.0, 0.5, 1.0]),
        counts=np.array([5, 0, 10, 85]),
        error=0.0712,
    )
    upper, lower = figures[0].axes
    assert [bar.get_height() for bar in upper.patches] == [0.2, 0.5, 1.0]
    assert [bar.get_height() for bar in lower.patches] == [5, 0, 10, 85]
    assert list(upper.lines[1].get_xdata()) == [0.1, 0.6, 0.9]
    assert upper.get_title() == "reliability: expected calibration error 7.12 %"


def test_speed_and_accuracy(figures, tmp_path):
    charts.draw_tradeoff(tmp_path / "x.png", {"resnest50": (12.5, 80.96), "demo": (400.0, 50.0)})
    axes = figures[0].axes[0]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
    assert points == [(12.5, 80.96), (400.0, 50.0)]
    assert [text.get_text() for text in axes.texts] == ["50", "demo"]


def test_a_contact_sheet_shows_every_image_in_its_place(tmp_path):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    loaded = []

    def load(colour):
        loaded.append(colour)
        return Image.new("RGB", (300, 200), colour)

    tiles = [(lambda c=colour: load(c), "first line", "a very " * 20) for colour in colours]
    charts.draw_contact_sheet(tmp_path / "x.jpg", tiles, side=100)
    assert loaded == colours
    with Image.open(tmp_path / "x.jpg") as sheet:
        assert sheet.size == (4 * 110 + 10, 2 * 146 + 10)
        for index, colour in enumerate(colours):
            centre = 10 + index % 4 * 110 + 50, 10 + index // 4 * 146 + 50
            assert sheet.getpixel(centre) == pytest.approx(colour, abs=12)
