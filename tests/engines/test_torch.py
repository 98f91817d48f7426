"""The torch engine: little memory, several devices and threads, 16 bits, torch.compile."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from resnest_cli import Classifier, RuntimeOptions
from resnest_cli.catalog.weights import resolve
from resnest_cli.engines import torch_engine
from resnest_cli.engines.api import FEATURES, LOGITS, MAPS
from resnest_cli.engines.select import open_engine, resolve_engine
from resnest_cli.engines.torch_engine import (
    MultiDeviceEngine,
    TorchEngine,
    resolve_devices,
    split_padded,
)
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.model.checkpoint import load_checkpoint, load_model
from tests.conftest import drawn

PIXELS = np.stack([np.asarray(drawn(64, 64, seed=seed)) for seed in range(9)])


def opened(crop=None, **options):
    runtime = RuntimeOptions(device="cpu", engine="torch", **options)
    return open_engine(resolve("demo"), runtime, crop=crop)


def logits(engine, pixels):
    return engine.run(pixels)[0]


@pytest.fixture
def engine():
    return opened()


@contextmanager
def memory_for(images):
    """Let convolutions of RGB images run out of memory beyond a batch size; the sizes tried."""
    tried = []

    def check(module, inputs):
        if isinstance(module, torch.nn.Conv2d) and inputs[0].shape[1] == 3:
            tried.append(len(inputs[0]))
            if tried[-1] > images:
                raise torch.OutOfMemoryError("as CUDA does")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield tried
    finally:
        hook.remove()


def test_batches_shrink_until_they_fit(engine, caplog):
    expected = logits(engine, PIXELS)
    with memory_for(3) as tried:
        np.testing.assert_allclose(logits(engine, PIXELS), expected, atol=1e-5)
        assert tried == [9, 4, 2, 2, 2, 2, 1]
        assert [r.message for r in caplog.records] == [
            "cpu has too little memory for batches of 9 images; continuing with 4",
            "cpu has too little memory for batches of 4 images; continuing with 2",
        ]
        tried.clear()
        engine.run(PIXELS)
        assert tried == [2, 2, 2, 2, 1]  # the size that fits is remembered


def test_one_image_that_does_not_fit_is_an_error(engine):
    with memory_for(0), pytest.raises(EngineError, match="too little memory for one image of demo"):
        engine.run(PIXELS)


def test_a_network_that_does_not_fit_is_an_error(monkeypatch):
    to = torch.nn.Module.to

    def full(module, *where, **options):
        if where == ("cpu",):
            raise torch.OutOfMemoryError("as CUDA does")
        return to(module, *where, **options)

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(EngineError, match="too little memory for demo"):
        opened()


def test_features_and_maps(engine):
    network = load_model("demo")
    view = engine.config.preprocessing
    batch = torch.from_numpy(view.normalise(PIXELS)).permute(0, 3, 1, 2)
    found = dict(
        zip((LOGITS, MAPS, FEATURES), engine.run(PIXELS, (LOGITS, MAPS, FEATURES)), strict=True)
    )
    with torch.inference_mode():
        maps = network.forward_features(batch).numpy()
        np.testing.assert_allclose(found[LOGITS], network(batch).numpy(), atol=1e-4)
    np.testing.assert_allclose(found[MAPS], maps, atol=1e-4)
    np.testing.assert_allclose(found[FEATURES], maps.mean((2, 3)), atol=1e-4)


@pytest.fixture
def two_processors(monkeypatch):
    """As on a machine with two; the tests otherwise run with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch_engine, "processors", lambda: 64)
    yield
    torch.set_num_threads(before)


def test_an_image_has_the_same_logits_in_either_half_of_a_batch(two_processors):
    engine = opened()
    assert engine.max_in_flight == 2
    for count in (2, 5, 8):
        rows = logits(engine, np.stack([PIXELS[0]] * count))
        assert (rows == rows[0]).all()
        alone = [logits(engine, image[None]) for image in PIXELS[:count]]
        found = logits(engine, PIXELS[:count])
        np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5)
    assert [len(part) for part in split_padded(PIXELS[:5], 2)] == [3, 3]


def test_other_threads_keep_their_processors(two_processors):
    opened().run(PIXELS)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2 == torch.get_num_threads()


def test_an_odd_number_of_processors_is_not_halved(two_processors):
    torch.set_num_threads(3)
    engine = opened()
    assert engine.max_in_flight == 1
    assert logits(engine, PIXELS).shape == (len(PIXELS), 10)


def test_no_more_threads_than_a_container_grants(two_processors, monkeypatch):
    monkeypatch.setattr(torch_engine, "processors", lambda: 1)
    engine, seen = opened(), []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda *_: seen.append(torch.get_num_threads())
    )
    engine.run(PIXELS)
    hook.remove()
    assert set(seen) == {1}


def test_large_images_come_in_small_batches():
    sizes = [opened(crop=crop).batch_size for crop in (256, 320, 416, 640, 1024)]
    assert sizes == [8, 2, 2, 1, 1]


def test_several_devices_share_a_batch(engine):
    checkpoint = load_checkpoint(resolve("demo"))
    several = MultiDeviceEngine([TorchEngine(checkpoint, "cpu", "fp32") for _ in range(3)])
    assert (several.device, several.batch_size) == ("cpu,cpu,cpu", 3 * engine.batch_size)
    for count in (9, 4, 2, 1):
        found = logits(several, PIXELS[:count])
        np.testing.assert_allclose(found, logits(engine, PIXELS[:count]), atol=1e-5)


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_devices("cuda:0,2,3") == ["cuda:0", "cuda:2", "cuda:3"]
    assert resolve_devices("cuda:1") == ["cuda:1"]
    with pytest.raises(EngineError, match="4 CUDA devices are visible"):
        resolve_devices("cuda:0,4")
    for wrong, words in (("cuda:0,0", "twice"), ("cuda:0,", "must be one of"), ("cuda:00", "must")):
        with pytest.raises(UsageError, match=words):
            resolve_devices(wrong)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")
def test_compiled_by_torch(home):
    compiled = Classifier("demo", engine="torch", device="cpu", torch_compile=True, batch_size=4)
    plain = Classifier("demo", engine="torch", device="cpu", batch_size=4)
    images = [drawn(100, 80, seed=seed) for seed in range(6)]
    for a, b in zip(compiled.stream(images), plain.stream(images), strict=True):
        assert a.top1.index == b.top1.index
        assert abs(a.top1.probability - b.top1.probability) <= 1e-5


def test_without_a_compiler_there_is_a_reason(monkeypatch):
    def no_compiler(*_args, **_options):
        def run(_):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler")

        return run

    monkeypatch.setattr(torch_engine.torch, "compile", no_compiler)
    with pytest.raises(EngineError, match=r"no working C\+\+ compiler\nleave out `compile`"):
        opened(torch_compile=True).run(PIXELS)


def test_compiling_is_for_torch(monkeypatch):
    monkeypatch.delenv("RESNEST_ENGINE")
    assert resolve_engine(RuntimeOptions(device="cpu", torch_compile=True)) == "torch"
    with pytest.raises(UsageError, match="`compile` needs `engine=torch`"):
        resolve_engine(RuntimeOptions(engine="openvino", torch_compile=True))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_logits_are_not_rounded_to_the_precision_of_the_maps(engine, precision, dtype):
    found = torch.from_numpy(logits(opened(precision=precision), PIXELS))
    assert (found.to(dtype).float() != found).float().mean() > 0.8
    np.testing.assert_allclose(found, logits(engine, PIXELS), atol=0.3)
