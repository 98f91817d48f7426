"""Many pictures at once: decoded ahead, batched, in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TYPE_CHECKING, TypeVar, cast

from resnest_cli.errors import ImageError
from resnest_cli.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

T = TypeVar("T")
Prepare = Callable[[Source], "Pixels"]
Prepared = tuple[Source, "Pixels | ImageError"]


def batches(
    sources: Iterable[Source], prepare: Prepare, *, batch_size: int, workers: int
) -> Iterator[list[Prepared]]:
    """Sources in their order, each with its pixels or the reason why there are none.

    A batch holds at most `batch_size` pictures, and failures besides. While the caller works on
    one batch, the pictures of the next are decoded, and no more than those.
    """
    batch: list[Prepared] = []
    pictures = 0
    for source, pixels in _ahead(sources, prepare, workers=workers, ahead=batch_size + workers):
        batch.append((source, pixels))
        pictures += not isinstance(pixels, ImageError)
        if pictures == batch_size or len(batch) == 4 * batch_size:
            yield batch
            batch, pictures = [], 0
    if batch:
        yield batch


def in_background(items: Iterable[T]) -> Iterator[T]:
    """Items in their order, the next one made in a thread of its own while one is used.

    One that is made is to be had at once, whatever the next one waits for. What goes wrong in the
    making is raised when its turn comes.
    """
    made: SimpleQueue[tuple[bool, T | BaseException | None]] = SimpleQueue()
    room = Semaphore(2)
    unwanted = Event()

    def make() -> None:
        try:
            room.acquire()
            for item in items:
                made.put((True, item))
                room.acquire()
                if unwanted.is_set():
                    return
            made.put((False, None))
        except BaseException as error:  # it is raised where it is waited for
            made.put((False, error))

    Thread(target=make, name="engine", daemon=True).start()
    try:
        while True:
            good, item = made.get()
            if good:
                yield cast("T", item)
                room.release()
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        unwanted.set()
        room.release()


def _ahead(
    sources: Iterable[Source], prepare: Prepare, *, workers: int, ahead: int
) -> Iterator[Prepared]:
    pending: deque[tuple[Source, Future[Pixels]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    remaining = iter(sources)
    try:
        for source in islice(remaining, ahead):
            pending.append((source, pool.submit(prepare, source)))
        while pending:
            source, future = pending.popleft()
            pixels = _outcome(future)
            for following in islice(remaining, 1):
                pending.append((following, pool.submit(prepare, following)))
            yield source, pixels
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future[Pixels]) -> Pixels | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
