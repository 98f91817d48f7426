"""Maps add up to logits, equal another implementation's, and lie where the object is."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.catalog.labels import imagenet1k
from resnest_cli.catalog.weights import resolve
from resnest_cli.engines.api import LOGITS, MAPS
from resnest_cli.errors import UsageError
from resnest_cli.explain.check import check, hidden
from resnest_cli.explain.draw import drawn
from resnest_cli.explain.maps import LastLayer, explain_class, find_class
from resnest_cli.imaging.preprocessing import Preprocessing
from tests.conftest import drawn as drawn_photo


def explained(classifier, image):
    layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
    ((_, (logits, maps)),) = classifier.outputs([image], (LOGITS, MAPS))
    classes = range(len(logits))
    return logits, [explain_class(maps, logits, layer, index) for index in classes], maps, layer


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_maps_of_all_classes_add_up(engine, request, legacy_checkpoint):
    if engine == "openvino":
        pytest.importorskip("openvino")
    for options in ({"model": "demo"}, {"weights": legacy_checkpoint}):
        classifier = Classifier(**options, engine=engine)
        logits, each, maps, layer = explained(classifier, drawn_photo())
        assert max(abs(e.evidence + e.bias - e.logit) for e in each) < 1e-4
        one = explain_class(maps, logits, layer, 3, against=5)
        assert one.logit == pytest.approx(float(logits[3]) - float(logits[5]), abs=1e-5)
        assert one.evidence + one.bias == pytest.approx(one.logit, abs=1e-4)
        np.testing.assert_allclose(one.values, each[3].values - each[5].values, atol=1e-4)
        assert any((e.values < 0).any() for e in each), "signed"


def test_the_last_layer_is_read_without_torch_where_it_can_be(legacy_checkpoint, monkeypatch, home):
    import resnest_cli.model.checkpoint as whole

    read = []
    load = whole.load_checkpoint
    monkeypatch.setattr(whole, "load_checkpoint", lambda w: read.append(w) or load(w))
    assert LastLayer.of(resolve("demo"), 10).weight.shape[0] == 10
    assert not read
    first = LastLayer.of(resolve(None, legacy_checkpoint), 1000)
    again = LastLayer.of(resolve(None, legacy_checkpoint), 1000)
    assert len(read) == 1
    assert np.array_equal(first.weight, again.weight)
    assert first.bias.shape == again.bias.shape == (1000,)
    (kept,) = (home / "layers").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    LastLayer.of(resolve(None, legacy_checkpoint), 1000)
    assert len(read) == 2, "a damaged one is read again"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="torchcam needs Python 3.11")
def test_equal_to_torchcam_and_to_gradients():
    methods = pytest.importorskip("torchcam.methods")
    torch = pytest.importorskip("torch")
    from resnest_cli import load_model

    image = drawn_photo()
    classifier, network = Classifier("demo", engine="torch"), load_model("demo")
    _, each, _, _ = explained(classifier, image)
    x = torch.from_numpy(classifier.preprocessing(image))[None]
    with methods.CAM(network, "layer4", "fc") as cam:
        network(x)
        for e in each:
            (theirs,) = cam(class_idx=e.index, normalized=False)
            np.testing.assert_allclose(e.values, theirs[0].numpy(), atol=1e-5)
    last = network.forward_features(x).detach().requires_grad_(True)
    logits = network.fc(last.mean((2, 3)))
    for e in each:  # HiResCAM, of which the sum is the logit
        (gradient,) = torch.autograd.grad(logits[0, e.index], last, retain_graph=True)
        product = (gradient * last).sum(1)[0].detach().numpy() * e.values.size
        np.testing.assert_allclose(e.values, product, atol=1e-5)


GEOMETRIES = {
    name: Preprocessing("default", 224, 256).named(name) for name in ("default", "paper", "squash")
} | {"crop of a squash": Preprocessing("other", 224, 256, squash=True)}


@pytest.mark.parametrize("view", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("size", [(900, 300), (300, 900), (640, 480), (101, 67)])
def test_what_is_seen_is_where_the_pixels_come_from(view, size):
    """A ramp in each direction shows, in the pixels, from where in the image they are."""
    width, height = size
    ramps = np.zeros((height, width, 3), np.float64)
    ramps[..., 0] = (np.arange(width) + 0.5) / width * 255
    ramps[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    pixels = view.pixels(Image.fromarray(ramps.astype(np.uint8))).astype(float)
    left, top, right, bottom = view.seen(width, height)
    assert 0 <= left < right <= width + 1
    assert 0 <= top < bottom <= height + 1
    middle = np.arange(20, 204)
    x = left + (middle + 0.5) / view.crop * (right - left)
    y = top + (middle + 0.5) / view.crop * (bottom - top)
    np.testing.assert_allclose(pixels[112, middle, 0], x / width * 255, atol=2.5)
    np.testing.assert_allclose(pixels[middle, 112, 1], y / height * 255, atol=2.5)


def test_a_drawing_dims_what_was_not_seen():
    grey = Image.new("RGB", (300, 100), (128, 128, 128))
    values = np.array([[2.0, -2.0], [0.0, 0.0]], np.float32)
    pixels = np.asarray(drawn(grey, values, (100, 0, 200, 100), 2.0)).astype(int)
    assert (pixels[50, 20] < 60).all(), "outside"
    assert (pixels[50, 100] == 255).all(), "the frame"
    red, _, blue = pixels[10, 110]
    assert red > blue + 50, "evidence for the class"
    red, _, blue = pixels[10, 190]
    assert blue > red + 50, "evidence against it"
    assert (pixels[90, 150] == 128).all(), "no evidence"
    weak = np.asarray(drawn(grey, values, (100, 0, 200, 100), 20.0)).astype(int)
    assert weak[10, 110, 0] < pixels[10, 110, 0], "colours are on the scale, and not stretched"


def test_cells_are_hidden_in_the_mean_colour():
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:48] = 200
    covered = hidden(pixels, np.array([0, 8]), (3, 3))
    assert (covered[:32, :32] == 100).all()
    assert (covered[64:, 64:] == 100).all()
    assert (covered != pixels).any(2).sum() == 2 * 32 * 32


class Bright:
    """An engine for which only the brightness of one cell counts."""

    def run(self, pixels, outputs):
        logit = pixels[:, 32:64, 32:64].mean((1, 2, 3)) / 25
        return [np.stack([logit, np.zeros_like(logit)], 1).astype(np.float32)]


def test_the_check_tells_a_right_map_from_a_wrong_one():
    from resnest_cli.explain.maps import Explained

    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[32:64, 32:64] = 250
    right = np.zeros((5, 5), np.float32)
    right[1, 1], right[1, 2:] = 9, 1
    found = check(Bright(), pixels, Explained(0, None, right, 10.0, 0.0))
    assert found["probability"] > 0.99
    assert found["better_than_chance"] is False  # a fifth of random draws hides the cell as well
    assert found["marked_hidden"] < found["random_hidden_mean"]
    wrong = check(Bright(), pixels, Explained(0, None, -right, 10.0, 0.0))
    assert wrong["marked_hidden"] > found["marked_hidden"]
    assert wrong["better_than_chance"] is False


def test_a_class_is_found_by_its_name_wordnet_id_and_number():
    labels = imagenet1k()
    name, wnid = labels.names[207], labels.wnids[207]
    assert {find_class(labels, t, "class") for t in (name, name.upper(), wnid, "207")} == {207}
    with pytest.raises(UsageError, match="`class=golden retreiver` is not one class"):
        find_class(labels, "golden retreiver", "class")
    with pytest.raises(UsageError):
        find_class(labels, "1000", "why_not")


def _center(values, box):
    """The centre of the positive evidence, in the image's pixels."""
    positive = np.maximum(values, 0)
    rows, columns = ((np.arange(side) + 0.5) / side for side in values.shape)
    x = (positive.sum(0) * columns).sum() / positive.sum()
    y = (positive.sum(1) * rows).sum() / positive.sum()
    left, top, right, bottom = box
    return left + x * (right - left), top + y * (bottom - top)


@pytest.mark.parametrize("preprocess", ["hub", "paper", "squash"])
@pytest.mark.parametrize("place", [390, 510])
def test_the_evidence_lies_on_a_planted_object(run, tmp_path: Path, preprocess, place):
    """An object in a 3:1 image that is stored turned, with an EXIF orientation."""
    from resnest_cli.catalog.demo import example

    path, label = example()
    photo = Image.new("RGB", (900, 300), (127, 127, 127))
    with Image.open(path) as image:
        boat = image.convert("RGB").resize((120, 120))
    photo.paste(boat, (place - 60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    done = run(
        "explain", "a.png", "-m", "demo", "--crop", 224, "-o", "why", "--preprocess", preprocess,
        "--class", label, "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "why/maps/000000-a.npz") as found:
        values, box, size = found["map"][0], found["box"], found["size"]
    assert size.tolist() == [900, 300]
    x, y = _center(values, box)
    cell = (box[2] - box[0]) / values.shape[1], (box[3] - box[1]) / values.shape[0]
    assert abs(x - place) <= cell[0], (x, place)
    assert abs(y - 150) <= cell[1], y
    with Image.open(tmp_path / "why/maps/000000-a.png") as made:
        pixels = np.asarray(made)
    assert pixels.shape[1] == 900
    if preprocess != "squash":
        assert pixels[150, 40].max() < 60, "not seen"
