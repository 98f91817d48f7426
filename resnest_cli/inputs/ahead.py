"""Images of object stores, fetched by many threads before they are decoded by few."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import BoundedSemaphore
from typing import NamedTuple

from resnest_cli.inputs.members import OBJECT, TAR, ZIP, Member
from resnest_cli.inputs.source import Source

_ALONE = (OBJECT, TAR, ZIP)  # kinds that are read without what lies before them
_THREADS = 16
_SLOTS, _SLOT = 32, 2**24  # fetched images that wait to be decoded; bytes of one


class FetchAhead:
    """Fetches what lies in stores while other images are decoded, in bounded memory.

    A stored image takes up a slot from `begin` until it is read or fails, or more if it is large:
    `begin` waits for free ones, so what it gave before must be read by other threads, in order.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._slots = BoundedSemaphore(_SLOTS)

    def begin(self, source: Source) -> Source:
        """The same image, which is being fetched if it lies in a store by itself or in a range."""
        member = source.content
        if not (isinstance(member, Member) and source.is_stored and member.kind in _ALONE):
            return source
        self._pool = self._pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
        slots = min(max(-(-member.size // _SLOT), 1), _SLOTS)
        for _ in range(slots):
            self._slots.acquire()
        fetched = self._pool.submit(member.read)
        return replace(source, content=_Fetched(fetched, self._slots, slots))

    def close(self) -> None:
        """Fetch nothing more."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)


class _Fetched(NamedTuple):
    content: Future[bytes]
    taken_from: BoundedSemaphore
    slots: int

    def read(self) -> bytes:
        """The image's bytes, once; `ImageError` if they cannot be had."""
        try:
            return self.content.result()
        finally:
            self.taken_from.release(self.slots)
