"""Networks that are ready, and images on their way through decoding, queue and batches."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnest_cli.errors import ImageError
from resnest_cli.hardware import processors
from resnest_cli.inference.batcher import Batcher
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.source import Source
from resnest_cli.outputs.formats import JSONWriter
from resnest_cli.outputs.schema import PredictionSchema
from resnest_cli.results import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

# images in the batcher of an engine that computes each by itself, or two for each processor
_AHEAD = 8
_FETCHES = 4  # URLs that are read at a time


class Dropped(Exception):
    """Nobody waits for the image any more."""


class Ticket:
    """Whether the answer to a request is still wanted."""

    def __init__(self, seconds: float) -> None:
        self._end, self._gone = time.monotonic() + seconds, False

    def drop(self) -> None:
        """The client has gone."""
        self._gone = True

    def check(self) -> None:
        """Raise `Dropped` if the client has gone or the deadline has passed."""
        if self._gone or time.monotonic() > self._end:
            raise Dropped


class Answer(NamedTuple):
    """The result of one image, and what it took in seconds."""

    result: Result
    decode: float
    compute: float  # with the time in the queue


class Model:
    """A classifier that many clients use at a time; made and used in the event loop's thread."""

    def __init__(self, classifier: Classifier, on_batch: Callable[[int], None]) -> None:
        self.classifier, engine = classifier, classifier.engine
        self._batcher = Batcher(engine, classifier.batch_size, eager=True, on_batch=on_batch)
        batches = classifier.batch_size * (engine.max_in_flight + 1)
        # no more than keeps the engine busy: what is in the batcher is computed in any case
        few = max(_AHEAD, 2 * processors())
        self._ahead = min(batches, few) if engine.pad_to == 1 else batches
        self._computing = 0
        self._waiting: deque[tuple[NDArray[np.uint8], Ticket, asyncio.Future[Any]]] = deque()
        self._decoding = ThreadPoolExecutor(classifier.workers, thread_name_prefix="decode")
        self._fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")

    async def classify(
        self, source: Source, ticket: Ticket, top_k: int | None, threshold: float | None
    ) -> Answer:
        """The answer to one image, a failure included; `Dropped` if it is not wanted any more."""
        loop = asyncio.get_running_loop()
        pool = self._fetching if isinstance(source.content, str) else self._decoding
        loaded, decode = await loop.run_in_executor(pool, self._load, source, ticket)
        start = time.perf_counter()
        if not isinstance(loaded, ImageError):
            future: asyncio.Future[Any] = loop.create_future()
            self._waiting.append((loaded, ticket, future))
            self._pump()
            try:
                loaded = (await future)[0]
            finally:
                del future  # whose error holds this frame
        result = self.classifier.result(source, loaded, top_k, threshold)
        return Answer(result, decode, time.perf_counter() - start)

    def _load(self, source: Source, ticket: Ticket) -> tuple[Any, float]:
        ticket.check()
        start = time.perf_counter()
        try:
            loaded: NDArray[np.uint8] | ImageError = self.classifier.load(source)
        except ImageError as error:
            loaded = error
        return loaded, time.perf_counter() - start

    def _pump(self) -> None:
        """Hand images on to the batcher as long as it has room; in the event loop."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._computing < self._ahead:
            pixels, ticket, future = self._waiting.popleft()
            if future.done():  # its client has gone
                continue
            try:
                ticket.check()
            except Dropped as dropped:
                future.set_exception(dropped)
                continue
            self._computing += 1

            def computed(outputs: Future[Any], future: asyncio.Future[Any] = future) -> None:
                with contextlib.suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(self._computed, outputs, future)

            self._batcher.submit(pixels).add_done_callback(computed)

    def _computed(self, outputs: Future[Any], future: asyncio.Future[Any]) -> None:
        self._computing -= 1
        if not future.done():
            if outputs.cancelled():
                future.cancel()
            elif error := outputs.exception():
                future.set_exception(error)
            else:
                future.set_result(outputs.result())
        self._pump()

    def describe(self) -> dict[str, Any]:
        """Name, preprocessing, engine and the like."""
        c = self.classifier
        return {
            "name": c.config.name,
            "preprocessing": c.preprocessing.describe(),
            "engine": c.engine.name,
            "device": c.engine.device,
            "precision": c.engine.precision,
            "classes": c.config.num_classes,
            "crop": c.preprocessing.crop,
        }

    def close(self) -> None:
        """End the threads once they are idle."""
        self._batcher.close()
        for pool in (self._decoding, self._fetching):
            pool.shutdown(wait=False, cancel_futures=True)


def as_json(results: list[Result], top_k: int) -> bytes:
    """Results as `predict` writes them in the format json."""
    stream = io.BytesIO()
    writer: JSONWriter[Result] = JSONWriter(stream, PredictionSchema(top_k))
    for result in results:
        writer.write(result)
    writer.close()
    return stream.getvalue()
