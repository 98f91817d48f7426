"""The batcher: batches of one size, in progress while others form, and nothing left waiting."""

from concurrent.futures import CancelledError
from threading import Barrier, Event

import numpy as np
import pytest

from resnest_cli.engines.api import FEATURES, LOGITS
from resnest_cli.errors import EngineError
from resnest_cli.inference.batcher import Batcher
from tests.conftest import FakeEngine


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def logits(engine, seed):
    return engine.run(pixels(seed)[None])[0][0]


def test_full_batches_are_computed_immediately_and_incomplete_ones_after_a_flush():
    engine = FakeEngine()
    batcher = Batcher(engine, 4)
    futures = [batcher.submit(pixels(seed)) for seed in range(6)]
    for future in futures[:4]:
        future.result(5)
    assert not futures[4].done()
    batcher.flush()
    assert np.array_equal(futures[5].result(5)[0], logits(FakeEngine(), 5))
    assert engine.batches == [4, 4]  # the second one is padded


def test_outputs_do_not_depend_on_the_batch():
    engine = FakeEngine(pad_to=3)
    batcher = Batcher(engine, 3)
    futures = [batcher.submit(pixels(seed)) for seed in (1, 2, 3, 1)]
    batcher.flush()
    first, _, _, last = (future.result(5)[0] for future in futures)
    assert np.array_equal(first, last)


class Slow(FakeEngine):
    """Computes when it is released, and says that it has begun."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.started, self.release = Event(), Event()

    def run(self, images, outputs=(LOGITS,)):
        self.started.set()
        assert self.release.wait(5)
        return super().run(images, outputs)


@pytest.mark.parametrize(("pad_to", "batches"), [(1, [1, 4, 1]), (None, [4, 4, 4])])
def test_an_eager_batcher_waits_for_nobody_and_collects_while_it_computes(pad_to, batches):
    engine = Slow(pad_to=pad_to)
    batcher = Batcher(engine, 4, eager=True)
    first = batcher.submit(pixels(0))
    assert engine.started.wait(5)
    rest = [batcher.submit(pixels(seed)) for seed in range(1, 6)]
    engine.release.set()
    for future in [first, *rest]:
        future.result(5)
    assert engine.batches == batches


@pytest.mark.parametrize(("pad_to", "least"), [(1, 2), (None, 4)])
def test_an_eager_batcher_gives_a_busy_engine_no_batch_that_wastes_it(pad_to, least):
    engine = Slow(pad_to=pad_to)
    engine.max_in_flight = 2
    batcher, begun = Batcher(engine, 4, eager=True), []
    batcher._on_batch = begun.append
    futures = [batcher.submit(pixels(0))]
    assert engine.started.wait(5)
    futures += [batcher.submit(pixels(seed)) for seed in range(1, least)]
    assert batcher._running == 1
    futures.append(batcher.submit(pixels(least)))
    assert batcher._running == 2
    engine.release.set()
    for future in futures:
        future.result(5)
    assert begun == [1, least]


def test_an_engine_that_does_not_pad_gets_no_lone_image_out_of_several():
    engine = FakeEngine(pad_to=1)
    batcher = Batcher(engine, 4)
    first = batcher.submit(pixels(0))
    second = batcher.submit(pixels(1))
    for future in (first, second):
        future.result(5)
    last = batcher.submit(pixels(2))
    batcher.flush()
    last.result(5)
    assert engine.batches == [2, 1]


def test_as_many_batches_overlap_as_the_engine_allows():
    meeting = Barrier(2)

    class Overlapping(FakeEngine):
        def run(self, images, outputs=(LOGITS,)):
            meeting.wait(5)  # broken unless another batch is in progress
            return super().run(images, outputs)

    batcher = Batcher(Overlapping(max_in_flight=2), 2)
    for future in [batcher.submit(pixels(seed)) for seed in range(8)]:
        future.result(10)


def test_several_outputs():
    batcher = Batcher(FakeEngine(), 1, outputs=(LOGITS, FEATURES))
    assert len(batcher.submit(pixels(0)).result(5)) == 2


def test_an_error_reaches_every_image_of_the_batch_and_no_other():
    class Failing(FakeEngine):
        def run(self, images, outputs=(LOGITS,)):
            if not images.any():
                raise EngineError("no memory")
            return super().run(images, outputs)

    batcher = Batcher(Failing(), 2)
    black = np.zeros((32, 32, 3), np.uint8)
    bad = [batcher.submit(black) for _ in range(2)]
    good = [batcher.submit(pixels(seed)) for seed in range(2)]
    for future in bad:
        with pytest.raises(EngineError, match="no memory"):
            future.result(5)
    for future in good:
        future.result(5)


def test_closing_cancels_what_is_waiting():
    batcher = Batcher(FakeEngine(), 4)
    future = batcher.submit(pixels(0))
    batcher.close()
    with pytest.raises(CancelledError):
        future.result(5)


def test_nothing_is_accepted_once_it_is_closed():
    batcher = Batcher(FakeEngine(), 1)
    batcher.close()
    assert batcher.submit(pixels(0)).cancelled()
