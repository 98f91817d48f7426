"""The bundled network is as good as its model card says."""

import re
import tarfile

import pytest
from safetensors import safe_open

from resnest_cli import Classifier, evaluate
from resnest_cli.catalog.demo import demo_checkpoint, example
from resnest_cli.datasets.labelled_folder import LabelledFolder
from tests.conftest import DATA, ROOT

CARD = (ROOT / "docs" / "project" / "demo-model.md").read_text(encoding="utf-8")
CIFAR10 = DATA / "cifar10" / "test.tar.xz"
needs_cifar10 = pytest.mark.skipif(
    not CIFAR10.is_file(), reason="CIFAR-10's test set is missing; see $RESNEST_TEST_DATA"
)


def test_the_file_is_small_and_describes_itself():
    assert demo_checkpoint().stat().st_size <= 6_000_000
    config = Classifier("demo").config
    assert (config.name, config.num_classes) == ("demo", 10)
    assert f"| Classes | {', '.join(config.labels.names)} |" in CARD
    assert config.origin.startswith("best.safetensors, SHA-256 ")
    view = config.preprocessing
    assert (view.crop, view.resize, view.squash) == (96, 98, True)
    recipe = config.recipe
    assert f"| epochs, batch size | {recipe['epochs']}, {recipe['batch_size']} |" in CARD
    assert f"| learning rate | {recipe['lr']} per 256 images" in CARD


def test_the_temperature_is_recorded_and_the_last_layer_kept_in_32_bits():
    temperature = Classifier("demo").config.temperature
    assert re.search(rf"\b{temperature:.4f}, which the\nconfig records as `temperature`", CARD)
    with safe_open(demo_checkpoint(), "np") as file:
        for key in file.keys():  # noqa: SIM118
            weight = file.get_tensor(key)
            if weight.ndim > 1:
                assert weight.dtype == ("float32" if key.startswith("fc.") else "float16")


def test_it_classifies_the_example_images():
    classifier = Classifier("demo")
    expected = {"aeroplane": "airplane", "boat": "ship", "car": "automobile"}
    for name, label in expected.items():
        assert classifier(ROOT / "examples" / f"{name}.jpg").top1.label == label
    image, label = example()
    assert classifier(image).top1.label == label


def test_photographs():
    folder = DATA / "photos" / "imagenet_sample"
    if not folder.is_dir():
        pytest.skip("the photographs are missing; see $RESNEST_TEST_DATA")
    data = LabelledFolder(folder, ROOT / "tests" / "data" / "photographs.csv")
    check_row("large photographs", evaluate(data, "demo"))


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """CIFAR-10's test set as class folders."""
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(CIFAR10) as archive:
        archive.extractall(folder, filter="data")
    return folder / "test"


@needs_cifar10
def test_a_part_of_the_test_set(test_set):
    result = evaluate(LabelledFolder(test_set, limit=1000), "demo")
    assert result.metrics.per_class.support.tolist() == [100] * 10
    assert result.metrics.top1.value >= 0.9
    # a thousand images give the calibration error a sampling error of about 0.01
    assert result.metrics.calibration.expected_error <= 0.035


@needs_cifar10
@pytest.mark.slow
def test_the_whole_test_set(test_set):
    result = evaluate(test_set, "demo")
    check_row("test set", result)
    assert result.metrics.top1.value == 0.921
    assert result.metrics.calibration.expected_error <= 0.025
    per_class = result.metrics.per_class
    for index, name in enumerate(result.class_names.names):
        values = (per_class.precision[index], per_class.recall[index], per_class.f1[index])
        assert f"| {name} | {' | '.join(map(percent, values))} |" in CARD


def percent(fraction):
    return f"{100 * fraction:.2f} %"


def check_row(start, result):
    """The card's row that starts so holds the metrics of an evaluation."""
    m = result.metrics
    row = next(
        line for line in CARD.splitlines() if line.startswith(f"| {start}") and "% to" in line
    )
    _, count, top1, interval, error, *_ = (cell.strip() for cell in row.strip("|").split("|"))
    assert count == f"{m.images:,}"
    assert top1 == percent(m.top1.value)
    assert interval == f"{percent(m.top1.low)} to {percent(m.top1.high)}"
    assert error == percent(m.calibration.expected_error)
