"""The torch engine where memory is short, on several devices, and compiled."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from resnest_cli import Classifier
from resnest_cli.engines import torch_engine
from resnest_cli.engines.base import EngineOptions, chosen_engine, open_engine
from resnest_cli.engines.torch_engine import (
    SeveralEngines,
    TorchEngine,
    even_parts,
    resolve_devices,
)
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.model.load import load_state
from tests.conftest import drawn

PIXELS = np.stack([np.asarray(drawn(64, 64, seed=seed)) for seed in range(9)])


@pytest.fixture
def engine():
    return open_engine(EngineOptions("demo", engine="torch", device="cpu"))


def with_room_for(engine, pictures):
    """An engine whose device runs out of memory past so many pictures, and the batches tried."""
    tried, network = [], engine._network
    engine._streams = []  # they are for the processor

    def run(pixels):
        tried.append(len(pixels))
        if len(pixels) > pictures:
            raise torch.OutOfMemoryError("as of CUDA")
        return network(pixels)

    engine._network = run
    return tried


def test_batches_shrink_until_they_fit(engine, caplog):
    expected = engine.run(PIXELS)
    tried = with_room_for(engine, 3)
    np.testing.assert_allclose(engine.run(PIXELS), expected, atol=1e-5)
    assert tried == [9, 4, 2, 2, 2, 2, 1]
    assert [r.message for r in caplog.records] == [
        "cpu has not enough memory for 9 pictures at once; going on with 4",
        "cpu has not enough memory for 4 pictures at once; going on with 2",
    ]
    tried.clear()
    engine.run(PIXELS)
    assert tried == [2, 2, 2, 2, 1]  # what was learned is kept


def test_one_picture_that_does_not_fit_is_an_error(engine):
    with_room_for(engine, 0)
    with pytest.raises(EngineError, match="not enough memory for one picture of demo"):
        engine.run(PIXELS)


@pytest.fixture
def two_processors(monkeypatch):
    """As on a machine of two; the tests run with one thread else."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch_engine, "processors", lambda: 64)
    yield
    torch.set_num_threads(before)


def test_a_picture_is_answered_the_same_in_either_half_of_a_batch(two_processors, engine):
    assert len(engine._streams) == 2
    for count in (2, 5, 8):
        rows = engine.run(np.stack([PIXELS[0]] * count))
        assert (rows == rows[0]).all()
        alone = [engine.run(picture[None]) for picture in PIXELS[:count]]
        np.testing.assert_allclose(engine.run(PIXELS[:count]), np.concatenate(alone), atol=1e-5)
    assert [len(part) for part in even_parts(PIXELS[:5], 2)] == [3, 3]  # sizes round differently


def test_other_threads_keep_their_processors(two_processors, engine):
    engine.run(PIXELS)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2 == torch.get_num_threads()


def test_no_processor_is_left_over(two_processors):
    torch.set_num_threads(3)
    engine = open_engine(EngineOptions("demo", engine="torch", device="cpu"))
    assert engine._streams == []
    assert engine.run(PIXELS).shape == (len(PIXELS), 10)


def test_no_more_threads_than_a_container_grants(two_processors, monkeypatch):
    monkeypatch.setattr(torch_engine, "processors", lambda: 1)
    open_engine(EngineOptions("demo", engine="torch", device="cpu"))
    assert torch.get_num_threads() == 1


def test_large_pictures_come_in_small_batches():
    sizes = [
        open_engine(EngineOptions("demo", engine="torch", device="cpu", crop=crop)).batch_size
        for crop in (256, 320, 416, 640, 1024)
    ]
    assert sizes == [8, 2, 2, 1, 1]


def test_several_devices_share_a_batch(engine):
    loaded = load_state("demo")
    several = SeveralEngines([TorchEngine(loaded, "cpu", "fp32") for _ in range(3)])
    assert (several.device, several.batch_size) == ("cpu,cpu,cpu", 3 * engine.batch_size)
    for count in (9, 4, 2, 1):
        found = several.run(PIXELS[:count])
        np.testing.assert_allclose(found, engine.run(PIXELS[:count]), atol=1e-5)


def test_lists_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_devices("cuda:0,2,3") == ["cuda:0", "cuda:2", "cuda:3"]
    assert resolve_devices("cuda:1") == ["cuda:1"]
    with pytest.raises(UsageError, match="twice"):
        resolve_devices("cuda:0,0")
    with pytest.raises(EngineError, match="cuda:4 is none"):
        resolve_devices("cuda:0,4")
    with pytest.raises(UsageError, match="cuda:0,1"):
        resolve_devices("cuda:0,")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")
def test_compiled_by_torch(home, engine):
    compiled = Classifier("demo", engine="torch", device="cpu", compiled=True, batch_size=4)
    plain = Classifier("demo", engine="torch", device="cpu", batch_size=4)
    pictures = [drawn(100, 80, seed=seed) for seed in range(6)]
    for a, b in zip(compiled.stream(pictures), plain.stream(pictures), strict=True):
        assert a.top1.index == b.top1.index
        assert abs(a.top1.probability - b.top1.probability) <= 1e-5


def test_what_cannot_be_compiled_says_so(monkeypatch):
    def no_compiler(*_args, **_options):
        def run(_):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler")

        return run

    monkeypatch.setattr(torch_engine.torch, "compile", no_compiler)
    options = EngineOptions("demo", engine="torch", device="cpu", compiled=True)
    with pytest.raises(EngineError, match=r"no working C\+\+ compiler\nleave out --compile"):
        open_engine(options).run(PIXELS)


def test_compiling_is_for_torch(monkeypatch):
    monkeypatch.delenv("RESNEST_ENGINE")
    assert chosen_engine(EngineOptions(device="cpu", compiled=True)) == "torch"
    with pytest.raises(UsageError, match="--compile is for --engine torch, not for openvino"):
        open_engine(EngineOptions("demo", engine="openvino", compiled=True))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_logits_are_not_rounded_to_the_precision_of_the_maps(engine, precision, dtype):
    options = EngineOptions("demo", engine="torch", device="cpu", precision=precision)
    logits = torch.from_numpy(open_engine(options).run(PIXELS))
    assert (logits.to(dtype).float() != logits).float().mean() > 0.8
    np.testing.assert_allclose(logits, engine.run(PIXELS), atol=0.2)
