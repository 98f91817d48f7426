"""The one place that schedules: images come one by one, and are computed in batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from resnest_cli.engines.api import LOGITS, Engine
from resnest_cli.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Outputs = list[NDArray[np.float32]]  # one array for each output of an image


class Batcher:
    """Collects images into batches, and computes the next one while others are in progress.

    Every batch is padded to the same size, so that an image has the same outputs, to the bit,
    whatever else is in its batch.

    Args:
        engine: what computes.
        batch_size: images in a full batch.
        outputs: which of the engine's outputs are wanted.
        eager: compute an incomplete batch as soon as the engine is idle, for low latency; else only
            after `flush` too, as it takes as long as a full one where engines pad.
        on_batch: told how many images each batch has, padding left out, in the batch's thread.
    """

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        *,
        outputs: Sequence[str] = (LOGITS,),
        eager: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self._engine, self._on_batch = engine, on_batch
        self._batch_size = batch_size
        self._outputs = tuple(outputs)
        self._pad_to = engine.pad_to or batch_size
        # while others are computed; an engine that does not pad still gets no lone image out of
        # several, for which it may be prepared otherwise
        self._least, self._eager = 2 if self._pad_to == 1 else batch_size, eager
        self._waiting: deque[tuple[NDArray[np.uint8], Future[Outputs]]] = deque()
        self._flushed = 0  # how many of those may be computed in an incomplete batch
        self._running = 0
        self._closed = False
        self._lock = Lock()
        self._process = os.getpid()
        # threads that Python waits for: one that it ends in the middle of native code aborts
        self._pool = ThreadPoolExecutor(engine.max_in_flight, thread_name_prefix="batch")

    def submit(self, pixels: NDArray[np.uint8]) -> Future[Outputs]:
        """An image (crop, crop, 3), 0 to 255; its outputs in the future, without the batch axis."""
        self.check_process()
        future: Future[Outputs] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            self._waiting.append((pixels, future))
            self._flushed = 0  # there was more to come
            self._start()
        return future

    def check_process(self) -> None:
        """Raise `EngineError` in a process forked since, where the threads do not exist."""
        if os.getpid() != self._process:
            raise EngineError(
                "images of a stream cannot be computed in another process, which was forked since\n"
                "call `Classifier.stream` in the process that uses its results"
            )

    def flush(self) -> None:
        """Compute what is waiting once the engine is free, though the batch is incomplete."""
        with self._lock:
            self._flushed = len(self._waiting)
            self._start()

    def close(self) -> None:
        """Cancel what is waiting; batches in progress are completed."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._cancel_waiting()
        self._pool.shutdown(wait=False)

    def _cancel_waiting(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._flushed = 0

    def _start(self) -> None:
        """Start the batches that may be computed now; the lock is held."""
        while self._running < self._engine.max_in_flight and (count := self._ready()):
            batch = [self._waiting.popleft() for _ in range(count)]
            self._flushed = max(self._flushed - count, 0)
            try:
                self._pool.submit(self._compute, batch)
            except RuntimeError:  # the interpreter is shutting down
                self._waiting.extend(batch)
                self._cancel_waiting()
                return
            self._running += 1

    def _ready(self) -> int:
        """How many of the waiting images may be computed now."""
        waiting = len(self._waiting)
        if waiting >= min(self._least, self._batch_size):
            return min(waiting, self._batch_size)
        if self._running:
            return 0
        return waiting if self._eager else self._flushed

    def _compute(self, batch: list[tuple[NDArray[np.uint8], Future[Outputs]]]) -> None:
        pixels = [image for image, _ in batch]
        padding = max(self._pad_to - len(batch), 0)
        if self._on_batch:
            self._on_batch(len(batch))
        try:
            outputs = self._engine.run(np.stack(pixels + pixels[-1:] * padding), self._outputs)
        except BaseException as error:  # raised where the result is waited for
            while batch:  # no variable may hold a future: its error holds this frame, a circle
                batch.pop(0)[1].set_exception(error)
        else:
            for index, (_, future) in enumerate(batch):
                future.set_result([array[index] for array in outputs])
        with self._lock:
            self._running -= 1
            self._start()
