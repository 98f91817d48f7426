"""The Python API, and that predictions are timm's."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import resnest_cli
from resnest_cli import Classifier, DecodeOptions, ModelSpec, RuntimeOptions, load_model
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import EngineError, ImageError, UsageError
from resnest_cli.model.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import FakeEngine, drawn
from tests.servers import content, serving


@pytest.fixture(scope="module")
def classifier(legacy_checkpoint):
    return Classifier("resnest14", weights=legacy_checkpoint, allow_private=True)


def test_public_names():
    assert set(resnest_cli.__all__) == set(dir(resnest_cli))
    assert all(getattr(resnest_cli, name) for name in resnest_cli.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        resnest_cli.nothing  # noqa: B018


def test_a_path_a_url_bytes_an_image_and_an_array_give_the_same(classifier, tmp_path):
    image = drawn()
    path = tmp_path / "x.png"
    image.save(path)
    with serving(content(path.read_bytes())) as server:
        images = [
            path,
            str(path),
            f"{server.url}/x.png",
            path.read_bytes(),
            bytearray(path.read_bytes()),
            image,
            np.asarray(image),
        ]
        with path.open("rb") as file:
            results = [classifier(image) for image in [*images, file]]
            streamed = list(classifier.stream([*images, io.BytesIO(path.read_bytes())]))
    assert len({r.predictions for r in results}) == 1
    assert len({r.predictions for r in streamed}) == 1
    top1 = results[0].top1
    assert (top1.rank, top1.label) == (1, classifier.labels.names[top1.index])


def test_errors_are_raised_for_one_image_and_results_in_a_stream(classifier, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        classifier(tmp_path / "nope.jpg")
    good, bad = drawn(), b"not one"
    results = list(classifier.stream([good, bad, good]))
    assert [r.error is None for r in results] == [True, False, True]
    with pytest.raises(LookupError, match="not an image"):
        _ = results[1].top1


def test_images_that_fail_late_are_results_too(classifier):
    file = io.BytesIO()
    drawn().save(file, "PNG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:5000]))  # read only when it is loaded
    empty = Image.new("RGB", (0, 5))
    results = list(classifier.stream([truncated, empty, drawn()]))
    assert [r.error is None for r in results] == [False, False, True]


@pytest.mark.parametrize(
    "one",
    [
        "dog.jpg", Path("dog.jpg"), b"GIF89a", bytearray(3), io.BytesIO(), drawn(), None, 7,
        np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
@pytest.mark.parametrize("method", ["stream", "logits"])
def test_a_stream_of_one_image_is_refused(method, one, classifier):
    """At once: nothing is asked for yet. A text would be a row for each of its letters."""
    with pytest.raises(TypeError, match=r"list of paths, not one: .*\nput it into a list"):
        getattr(classifier, method)(one)


def test_what_is_no_image_is_a_result_in_a_stream(classifier, tmp_path):
    closed, text = io.BytesIO(), io.StringIO("not bytes")
    closed.close()
    objects = [None, 7, torch.ones(3), closed, text, drawn(), np.float32(1)]
    results = list(classifier.stream(objects))
    assert [r.path for r in results][:3] == ["<NoneType>", "<int>", "<Tensor>"]
    assert "file object, PIL image or array: NoneType" in results[0].error
    assert "closed file" in results[3].error
    assert "open the file in mode 'rb'" in results[4].error
    assert [r.error is None for r in results] == [False] * 5 + [True, False]
    with pytest.raises(TypeError, match="array: int"):
        classifier(7)


def test_a_file_object_has_its_name_and_is_read_from_where_it_is(classifier, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"head")
    with path.open("ab") as file:
        drawn().save(file, "PNG")
    with path.open("rb") as file:
        file.seek(4)
        result = classifier(file)
    assert (result.path, result.predictions) == (str(path), classifier(drawn()).predictions)


def test_grey_arrays(classifier):
    grey = np.asarray(drawn().convert("L"))
    expected = classifier(np.stack([grey] * 3, axis=2)).predictions
    for array in (grey, grey[..., None], np.asfortranarray(grey)):
        assert classifier(array).predictions == expected
    stack = np.stack([grey, grey])  # images, not one
    assert [r.predictions == expected for r in classifier.stream(stack)] == [True, True]
    for wrong in (grey.astype(float), grey[..., None, None], grey[:0], np.uint8(3)[()]):
        with pytest.raises((ImageError, TypeError), match=r"must be uint8 of|array: uint8"):
            classifier(wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": "3"}, "`top_k` must be a whole number, 1 or more, not '3'"),
        ({"top_k": 1.5}, "`top_k` must be a whole number, 1 or more, not 1.5"),
        ({"top_k": 0}, "`top_k` must be 1 or more, not 0"),
        ({"threshold": "0.5"}, "`threshold` must be a number, 0 to 1, not '0.5'"),
        ({"threshold": np.nan}, "`threshold` must be 0 to 1, not nan"),
        ({"crop": "224"}, "`crop` must be a whole number, 32 to 2048 pixels, not '224'"),
        ({"resize": 5000}, "`resize` must be 1 to 4096 pixels, not 5000"),
        ({"batch_size": "8"}, "`batch_size` must be a whole number, 1 to 4096, not '8'"),
        ({"workers": None, "batch_size": 0}, "`batch_size` must be 1 to 4096, not 0"),
        ({"max_pixels": "many"}, "`max_pixels` must be a whole number, 1 or more, not 'many'"),
        ({"background": "white"}, r"`background` must be \(red, green, blue\).* not 'white'"),
        ({"background": (0, 0, 256)}, "`background` must be 0 to 255, not 256"),
        ({"device": 0}, "`device` must be one of .* not '0'"),
    ],
)
def test_options_of_other_types_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Classifier("demo", **options)


def test_a_network_without_a_last_layer_gives_no_classes(tmp_path):
    checkpoint = load_checkpoint(resolve("demo"))
    config = replace(checkpoint.config, num_classes=0, labels=None)
    state = {k: v for k, v in checkpoint.state.items() if not k.startswith("fc.")}
    network = checkpoint._replace(state=state, config=config).network()
    save_checkpoint(tmp_path / "x.safetensors", network, config)
    with pytest.raises(EngineError, match="gives no classes\ntrain a last layer"):
        Classifier(weights=tmp_path / "x.safetensors")


def test_numpys_numbers_and_torchs_devices_are_taken():
    options = {"top_k": np.int64(2), "threshold": np.float32(0), "batch_size": np.int8(4)}
    classifier = Classifier("demo", **options, device=torch.device("cpu"))
    assert len(classifier(drawn()).predictions) == 2


def test_streams_are_lazy_and_in_order(classifier):
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield drawn(80 + number, 60, seed=number)
            number += 1

    stream = classifier.stream(endless())
    first = [next(stream) for _ in range(6)]
    assert len(taken) <= 6 + 3 * classifier.batch_size + classifier.workers
    stream.close()
    alone = [r.predictions[0].index for r in first]
    assert alone == [classifier(drawn(80 + n, 60, seed=n)).top1.index for n in range(6)]


def test_an_image_has_one_result_whichever_others_there_are(classifier):
    images = [drawn(200, 150, seed=s) for s in range(11)]
    results = [r.predictions for r in classifier.stream(images)]
    assert [r.predictions for r in classifier.stream(images[::-1])] == results[::-1]
    assert [r.predictions for r in classifier.stream(images[:2])] == results[:2]
    assert [r.predictions for r in classifier.stream(images[10:])] == results[10:]
    alone, among = classifier(images[0]).predictions, results[0]
    assert [p.index for p in alone] == [p.index for p in among]
    for ours, theirs in zip(alone, among, strict=True):
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-6)


def test_options(legacy_checkpoint, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(map(str, range(1000))), encoding="utf-8-sig")
    classifier = Classifier(
        weights=legacy_checkpoint, labels=labels, top_k=3, threshold=0.001, preprocess="hub"
    )
    result = classifier(drawn())
    assert 1 <= len(result.predictions) <= 3
    assert result.top1.label == str(result.top1.index)
    assert result.top1.wnid is None
    for wrong in ({"threshold": 2}, {"top_k": 0}, {"batch_size": 0}, {"precision": "int8"}):
        with pytest.raises(UsageError):
            Classifier(weights=legacy_checkpoint, **wrong)


def test_fewer_classes_than_five(tmp_path):
    path = tmp_path / "two.pth"
    torch.save(timm.create_model("resnest14d", num_classes=2).state_dict(), path)
    result = Classifier(weights=path)(drawn())
    assert {p.label for p in result.predictions} == {"class 0", "class 1"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_are_close(classifier, legacy_checkpoint, precision):
    other = Classifier(weights=legacy_checkpoint, precision=precision)
    ours, reference = (c(drawn()).predictions for c in (other, classifier))
    assert ours != reference
    assert ours[0].probability == pytest.approx(reference[0].probability, abs=0.05)


def test_logits_that_are_not_numbers_are_errors(tmp_path, legacy_checkpoint):
    state = torch.load(legacy_checkpoint, weights_only=True)
    state["fc.weight"][:] = 3e38  # finite, but sums of it are not
    torch.save(state, tmp_path / "nan.pth")
    (result,) = Classifier(weights=tmp_path / "nan.pth").stream([drawn()])
    assert "not a number" in result.error


def timms_predictions(checkpoint, images):
    """timm's documented way: create_model, resolve_data_config, create_transform, softmax, topk."""
    model = timm.create_model("resnest14d", checkpoint_path=str(checkpoint)).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    for image in images:
        with torch.no_grad():
            out = model(transform(image.convert("RGB")).unsqueeze(0))
        yield torch.topk(out.softmax(1)[0], 5)


def assert_equal_to_timm(results, expected):
    for result, (probabilities, indices) in zip(results, expected, strict=True):
        assert [p.index for p in result.predictions] == indices.tolist(), result.path
        found = [p.probability for p in result.predictions]
        assert found == pytest.approx(probabilities.tolist(), abs=1e-5), result.path


def test_predictions_are_timms_on_drawn_images(classifier, legacy_checkpoint):
    images = [drawn(300 + 7 * s, 240, seed=s) for s in range(24)]
    assert_equal_to_timm(classifier.stream(images), timms_predictions(legacy_checkpoint, images))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_predictions_are_timms_on_photographs(classifier, legacy_checkpoint, photos, step):
    contents = [io.BytesIO(path.read_bytes()) for path in photos[::step]]
    images = [Image.open(c) for c in contents]
    assert_equal_to_timm(
        classifier.stream(photos[::step]), timms_predictions(legacy_checkpoint, images)
    )


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_two_streams_concurrently(engine):
    pytest.importorskip(engine, reason=f"{engine} is not installed (extra fast)")
    classifier = Classifier("demo", engine=engine, device="cpu", batch_size=4)
    one, other = ([drawn(80, 60, seed=s) for s in range(start, start + 30)] for start in (0, 30))
    expected = [r.predictions for r in (*classifier.stream(one), *classifier.stream(other))]
    pairs = list(zip(classifier.stream(one), classifier.stream(other), strict=True))
    found = [r.predictions for column in zip(*pairs, strict=True) for r in column]
    assert found == expected


def test_an_engine_can_be_handed_in():
    engine = FakeEngine(classes=3)
    classifier = Classifier(engine=engine, top_k=2)
    images = [drawn(80, 60, seed=s) for s in range(9)]
    found = [result.predictions for result in classifier.stream(images)]
    assert found == [classifier(image).predictions for image in images]
    assert all(len(predictions) == 2 for predictions in found)
    assert classifier.describe().split(" · ")[0] == "fake"
    assert set(engine.batches) == {1, 4}


def test_an_error_of_the_engine_is_raised_when_its_turn_comes():
    class Failing(FakeEngine):
        def run(self, pixels, outputs=("logits",)):
            if not pixels.any():
                raise EngineError("no memory")
            return super().run(pixels, outputs)

    black = Image.new("RGB", (80, 60))
    classifier = Classifier(engine=Failing(), batch_size=2, workers=1)
    stream = classifier.stream([drawn(80, 60)] * 2 + [black] * 2 + [drawn(80, 60)] * 4)
    assert [next(stream).error for _ in range(2)] == [None, None]
    with pytest.raises(EngineError, match="no memory"):
        next(stream)


def test_an_error_of_the_inputs_comes_after_what_was_before_it():
    def inputs():
        yield from [drawn(80, 60)] * 100
        raise OSError("the list broke off")

    seen = []

    def read():
        for result in Classifier(engine=FakeEngine(), workers=1).stream(inputs()):
            seen.append(result)

    with pytest.raises(OSError, match="broke off"):
        read()
    assert len(seen) > 50
    assert all(result.error is None for result in seen)


def test_specs_are_picklable_and_give_the_same_predictions(legacy_checkpoint):
    spec = ModelSpec(weights=legacy_checkpoint, preprocess="hub")
    runtime, decode = RuntimeOptions(device="cpu", engine="torch"), DecodeOptions(exif=False)
    classifier = Classifier.from_specs(*pickle.loads(pickle.dumps((spec, runtime, decode))))
    flat = Classifier(
        weights=legacy_checkpoint, preprocess="hub", device="cpu", engine="torch", exif=False
    )
    assert classifier(drawn()) == flat(drawn())
    assert classifier.describe() == flat.describe()


def test_load_model_gives_a_module(legacy_checkpoint):
    model = load_model("resnest14", weights=legacy_checkpoint)
    assert not model.training
    assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize("wrong", [{"num_classes": -2}, {"in_channels": 0}])
def test_numbers_that_no_network_has_are_refused(wrong):
    with pytest.raises(UsageError, match=f"`{next(iter(wrong))}` must be . or more"):
        load_model("demo", **wrong)
