"""Evaluations in Python: which images count, what is reported, what is refused."""

import numpy as np
import pytest

from resnest_cli import Classifier, DecodeOptions, ModelSpec, RuntimeOptions, evaluate
from resnest_cli.catalog.weights import Weights
from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.errors import DatasetError, OutputError, UsageError
from resnest_cli.evaluation.evaluate import applies_exif
from resnest_cli.progress import Progress
from tests.conftest import FakeEngine, drawn


@pytest.fixture
def images(tmp_path):
    """Nine images in three class folders, named by index; the sixth is broken."""
    for number in range(9):
        folder = tmp_path / "images" / str(number // 3)
        folder.mkdir(parents=True, exist_ok=True)
        drawn(40, 40, seed=number).save(folder / f"{number}.png")
    (tmp_path / "images" / "1" / "5.png").write_bytes(b"not an image")
    return tmp_path / "images"


@pytest.fixture
def classifier():
    return Classifier(engine=FakeEngine())


def names(evaluation):
    return "".join(path[-5] for path in evaluation.paths)


def test_logits_are_the_classifiers_and_labels_the_folders(images, classifier):
    result = evaluate(images, classifier)
    assert names(result) == "01234678"
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    expected = np.stack([logits for _, logits in classifier.logits(result.paths)])
    assert (result.logits == expected).all()
    correct = expected.argmax(1) == result.labels
    assert result.metrics.top1.value == correct.mean()
    assert result.mistakes() == sorted(
        np.flatnonzero(~correct), key=lambda i: -confidence(expected[i])
    )
    assert result.network == classifier.describe()


def confidence(logits):
    powers = np.exp(logits - logits.max())
    return (powers / powers.sum()).max()


def test_images_that_cannot_be_read_are_listed_with_the_reason(images, classifier, caplog):
    (failed,) = evaluate(images, classifier).failed
    assert failed[0].endswith("5.png")
    assert "not an image" in failed[1]
    assert "1 image cannot be read" in caplog.text


def test_progress_is_reported_image_by_image(images, classifier):
    calls = []

    class Calls(Progress):
        def start(self, task, done=0):
            calls.append(task)

        def total(self, count):
            calls.append(count)

        def advance(self):
            calls.append("+")

        def finish(self):
            calls.append("end")

    evaluate(images, classifier, progress=Calls())
    assert calls == ["evaluating", 9, *"+++++++++", "end"]


def test_a_limit_takes_images_of_all_classes(images, classifier):
    assert names(evaluate(LabelledFolder(images, limit=3), classifier)) == "036"


def test_classes_the_network_lacks_are_an_error_unless_skipped(images):
    two = Classifier(engine=FakeEngine(classes=2))
    with pytest.raises(DatasetError, match="the data has 1 class that the network lacks, of 3"):
        evaluate(images, two)
    assert names(evaluate(images, two, skip_unknown=True)) == "01234"


def test_no_readable_image_is_an_error(images, classifier):
    with pytest.raises(DatasetError, match="no image can be read: 1 image failed"):
        evaluate(LabelledFolder(images, include=("5.png",)), classifier)


def test_outputs_that_are_not_finite_are_an_error(images):
    class Broken(FakeEngine):
        def run(self, pixels, outputs=("logits",)):
            return [np.full((len(pixels), 10), np.nan, np.float32) for _ in outputs]

    with pytest.raises(DatasetError, match="NaN or infinite"):
        evaluate(images, Classifier(engine=Broken()))


def test_a_classifier_keeps_its_own_options(images, classifier):
    for options in ({"runtime": RuntimeOptions()}, {"decode": DecodeOptions()}):
        with pytest.raises(UsageError, match="a classifier has its own"):
            evaluate(images, classifier, **options)


@pytest.mark.parametrize(
    ("spec", "applied"),
    [
        (ModelSpec(), False),
        (ModelSpec("resnest50"), False),
        (ModelSpec("resnest50d"), False),
        (ModelSpec("demo"), True),
        (ModelSpec("best.safetensors"), True),
        (ModelSpec("resnest50", "best.pth"), True),
    ],
)
def test_exif_is_ignored_for_published_models_only(spec, applied):
    assert applies_exif(spec) == applied


def test_the_exif_orientation_counts_where_it_is_applied(tmp_path):
    exif = drawn().getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    (tmp_path / "images" / "ship").mkdir(parents=True)
    drawn().save(tmp_path / "images" / "ship" / "x.jpg", exif=exif)
    applied = evaluate(tmp_path / "images", "demo")
    ignored = evaluate(tmp_path / "images", "demo", decode=DecodeOptions(exif=False))
    assert not np.allclose(applied.logits, ignored.logits, atol=1e-3)
    assert "EXIF" not in applied.network
    assert ignored.network.endswith(" · EXIF orientation ignored")


def test_what_cannot_be_written_is_refused_before_the_work(images, tmp_path):
    engine = FakeEngine()
    classifier = Classifier(engine=engine)
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").touch()
    (tmp_path / "there.safetensors").touch()
    refused = [
        (OutputError, "`overwrite`", {"output": report}),
        (OutputError, "must be a folder", {"output": report / "metrics.json"}),
        (UsageError, "taken for a class", {"output": images / "report"}),
        (OutputError, "`overwrite`", {"calibrate": tmp_path / "there.safetensors"}),
        (OutputError, "does not exist", {"calibrate": tmp_path / "none" / "x.safetensors"}),
        (UsageError, "must be a .safetensors file", {"calibrate": tmp_path / "x.pth"}),
        (UsageError, "`bins` must be 2 to 1000, not 1", {"bins": 1}),
    ]
    for error, words, options in refused:
        with pytest.raises(error, match=words):
            evaluate(images, classifier, **options)
    engine.weights = Weights(tmp_path / "x.onnx")
    with pytest.raises(UsageError, match=r"checkpoint that '.*x\.onnx' was exported from"):
        evaluate(images, classifier, calibrate=tmp_path / "x.safetensors")
    assert engine.batches == []
