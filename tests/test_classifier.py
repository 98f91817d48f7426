"""The Python API, and that answers are timm's."""

import io
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import resnest_cli
from resnest_cli import Classifier, load_model
from resnest_cli.errors import EngineError, ImageError, UsageError
from tests.conftest import drawn
from tests.servers import content, serving


@pytest.fixture(scope="module")
def classifier(legacy_checkpoint):
    return Classifier("resnest14", weights=legacy_checkpoint, allow_private=True)


def test_public_names():
    assert set(resnest_cli.__all__) == set(dir(resnest_cli))
    assert all(getattr(resnest_cli, name) for name in resnest_cli.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        resnest_cli.nothing  # noqa: B018


def test_a_path_a_url_bytes_a_picture_and_an_array_are_the_same(classifier, tmp_path):
    picture = drawn()
    path = tmp_path / "x.png"
    picture.save(path)
    with serving(content(path.read_bytes())) as server:
        images = [
            path,
            str(path),
            f"{server.url}/x.png",
            path.read_bytes(),
            picture,
            np.asarray(picture),
        ]
        results = [classifier(image) for image in images]
        streamed = list(classifier.stream(images))
    assert len({r.predictions for r in results}) == 1
    assert len({r.predictions for r in streamed}) == 1
    top1 = results[0].top1
    assert (top1.rank, top1.label) == (1, classifier.labels.names[top1.index])


def test_failures_raise_alone_and_are_results_in_a_stream(classifier, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        classifier(tmp_path / "nope.jpg")
    good, bad = drawn(), b"no picture"
    results = list(classifier.stream([good, bad, good]))
    assert [r.error is None for r in results] == [True, False, True]
    with pytest.raises(LookupError, match="not a picture"):
        _ = results[1].top1


def test_pictures_that_fail_late_are_results_too(classifier):
    file = io.BytesIO()
    drawn().save(file, "PNG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:5000]))  # read only when it is loaded
    empty = Image.new("RGB", (0, 5))
    results = list(classifier.stream([truncated, empty, drawn()]))
    assert [r.error is None for r in results] == [False, False, True]


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
    assert len(taken) <= 6 + 3 * (classifier.batch_size + classifier.workers)
    stream.close()
    alone = [r.predictions[0].index for r in first]
    assert alone == [classifier(drawn(80 + n, 60, seed=n)).top1.index for n in range(6)]


def test_answers_do_not_depend_on_the_company(classifier):
    pictures = [drawn(200, 150, seed=s) for s in range(11)]
    answers = [r.predictions for r in classifier.stream(pictures)]
    assert [r.predictions for r in classifier.stream(pictures[::-1])] == answers[::-1]
    assert [r.predictions for r in classifier.stream(pictures[:2])] == answers[:2]
    rest = classifier.stream(pictures[10:], continued=True)
    assert [r.predictions for r in rest] == answers[10:]


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
def test_other_precisions_are_near(classifier, legacy_checkpoint, precision):
    other = Classifier(weights=legacy_checkpoint, precision=precision)
    ours, reference = (c(drawn()).predictions for c in (other, classifier))
    assert ours != reference
    assert ours[0].probability == pytest.approx(reference[0].probability, abs=0.05)


def test_answers_that_are_no_numbers_are_failures(tmp_path, legacy_checkpoint):
    state = torch.load(legacy_checkpoint, weights_only=True)
    state["fc.weight"][:] = 3e38  # a number, but sums of it are none
    torch.save(state, tmp_path / "nan.pth")
    (result,) = Classifier(weights=tmp_path / "nan.pth").stream([drawn()])
    assert "not a number" in result.error


def timms_answers(checkpoint, images):
    """timm's documented way: create_model, resolve_data_config, create_transform, softmax, topk."""
    model = timm.create_model("resnest14d", checkpoint_path=str(checkpoint)).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    for image in images:
        with torch.no_grad():
            out = model(transform(image.convert("RGB")).unsqueeze(0))
        yield torch.topk(out.softmax(1)[0], 5)


def assert_equal_to_timm(results, answers):
    for result, (probabilities, indices) in zip(results, answers, strict=True):
        assert [p.index for p in result.predictions] == indices.tolist(), result.path
        found = [p.probability for p in result.predictions]
        assert found == pytest.approx(probabilities.tolist(), abs=1e-5), result.path


def test_answers_are_timms_on_drawn_pictures(classifier, legacy_checkpoint):
    images = [drawn(300 + 7 * s, 240, seed=s) for s in range(24)]
    assert_equal_to_timm(classifier.stream(images), timms_answers(legacy_checkpoint, images))


def test_answers_are_timms_on_all_photographs(classifier, legacy_checkpoint, photos):
    contents = [io.BytesIO(path.read_bytes()) for path in photos]
    images = [Image.open(c) for c in contents]
    assert_equal_to_timm(classifier.stream(photos), timms_answers(legacy_checkpoint, images))


@pytest.mark.parametrize("engine", ["torch", "openvino", "ncnn"])
def test_two_streams_at_once(engine):
    pytest.importorskip(engine, reason=f"{engine} is not installed (extra fast)")
    classifier = Classifier("demo", engine=engine, device="cpu", batch_size=4)
    one, other = ([drawn(80, 60, seed=s) for s in range(start, start + 30)] for start in (0, 30))
    expected = [r.predictions for r in (*classifier.stream(one), *classifier.stream(other))]
    pairs = list(zip(classifier.stream(one), classifier.stream(other), strict=True))
    found = [r.predictions for column in zip(*pairs, strict=True) for r in column]
    assert found == expected


@pytest.mark.parametrize("engine", ["torch", "openvino", "ncnn"])
def test_pictures_one_at_a_time_are_run_alone(engine, monkeypatch):
    pytest.importorskip(engine, reason=f"{engine} is not installed (extra fast)")
    classifier = Classifier("demo", engine=engine, device="cpu", batch_size=1)
    run, sizes = classifier.engine.run, []
    monkeypatch.setattr(classifier.engine, "run", lambda p: sizes.append(len(p)) or run(p))
    pictures = [drawn(80, 60, seed=s) for s in range(3)]
    found = [r.predictions for r in classifier.stream(pictures)]
    assert sizes == [1, 1, 1]
    assert found == [classifier(picture).predictions for picture in pictures]


@pytest.mark.parametrize("at_once", [1, 2])
def test_as_many_batches_are_under_way_as_the_engine_allows(at_once, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(at_once)  # with two, batches are run as halves
    classifier = Classifier("demo", engine="torch", device="cpu", batch_size=2)
    torch.set_num_threads(before)
    assert classifier.engine.at_once == at_once
    run, now, seen, meeting = classifier.engine.run, [], [], Barrier(at_once)

    def noted(pixels):
        now.append(pixels)
        with suppress(BrokenBarrierError):  # it breaks where nobody else comes
            meeting.wait(5)
        seen.append(len(now))
        try:
            return run(pixels)
        finally:
            now.pop()

    monkeypatch.setattr(classifier.engine, "run", noted)
    pictures = [drawn(80, 60, seed=seed) for seed in range(12)]
    found = [result.top1 for result in classifier.stream(pictures)]
    assert max(seen) == at_once
    monkeypatch.undo()
    assert found == [result.top1 for result in classifier.stream(pictures)]


def test_a_fault_of_the_network_is_raised_when_its_turn_comes(monkeypatch):
    classifier = Classifier("demo", engine="torch", device="cpu", batch_size=2)
    run, black = classifier.engine.run, Image.new("RGB", (80, 60))

    def failing(pixels):  # by what is in a batch: two may be at work at once, in any order
        if not pixels.any():
            raise EngineError("no memory")
        return run(pixels)

    monkeypatch.setattr(classifier.engine, "run", failing)
    stream = classifier.stream([drawn(80, 60)] * 2 + [black] * 2 + [drawn(80, 60)] * 4)
    assert [next(stream).error for _ in range(2)] == [None, None]
    with pytest.raises(EngineError, match="no memory"):
        next(stream)


def test_a_fault_of_the_input_comes_after_what_was_before_it():
    def inputs():
        yield from [drawn(80, 60)] * 5
        raise OSError("the list broke off")

    classifier, seen = Classifier("demo", batch_size=2), []
    with pytest.raises(OSError, match="broke off"):
        seen.extend(classifier.stream(inputs()))
    assert len(seen) == 0 or all(r.error is None for r in seen)


def test_load_model_gives_a_module(legacy_checkpoint):
    model = load_model("resnest14", weights=legacy_checkpoint)
    assert not model.training
    assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
