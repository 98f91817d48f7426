"""Who is let in: a bounded number of images and bytes, and how long the others should wait."""

from __future__ import annotations

import math
import time
from collections import deque
from types import TracebackType

from resnest_cli.serve.options import BODIES, ServeOptions
from resnest_cli.serve.problems import Problem

_RECENT = 64  # images by which the rate is measured
_LONGEST_WAIT = 60  # seconds that a client is asked to wait, at most


class Admission:
    """Counts what is accepted and not answered; used in the event loop only."""

    def __init__(self, options: ServeOptions) -> None:
        self._most_images = options.queue
        self._most_bytes = BODIES * options.max_upload
        self.requests = self.images = self.bytes = 0
        self.ready = self.stopping = False
        self._busy, self._since = 0.0, 0.0  # seconds with images at hand, but for the present spell
        self._finished: deque[float] = deque(maxlen=_RECENT)  # when, in busy seconds

    def admit(self) -> Place:
        """A place for a request of one image.

        Raises:
            Problem: the queue is full, or the server is loading or stopping.
        """
        if self.stopping:
            raise Problem(503, "the server is stopping", "stopping")
        if not self.ready:
            raise Problem(503, "the model is being loaded", "loading", 1)
        place = Place(self)
        place.add_images(1)
        self.requests += 1
        return place

    def full(self) -> Problem:
        """The answer to a request for which there is no room."""
        return Problem(429, "too many images are waiting", "full", self.retry_after())

    def retry_after(self) -> int:
        """Seconds until what is at hand is answered, at the rate of late."""
        rate = self.rate()
        return min(max(math.ceil(self.images / rate), 1), _LONGEST_WAIT) if rate else 1

    def rate(self) -> float:
        """Images a second, while there were any; 0 if unknown."""
        spent = self._clock() - self._finished[0] if self._finished else 0.0
        return len(self._finished) / spent if spent > 0 else 0.0

    def _clock(self) -> float:
        return self._busy + (time.monotonic() - self._since if self.images else 0.0)

    def change_images(self, count: int, *, answered: bool = False) -> None:
        """Take in or let go a number of images; those that were answered give the rate."""
        if count > 0 and self.images + count > self._most_images:
            raise self.full()
        now = self._clock()
        if answered:
            self._finished.extend([now] * -count)
        if not self.images:
            self._since = time.monotonic()
        self.images += count
        if not self.images:
            self._busy = now

    def change_bytes(self, count: int) -> None:
        """Take in or let go a number of bytes."""
        if count > 0 and self.bytes + count > self._most_bytes:
            raise self.full()
        self.bytes += count


class Place:
    """What one request holds of the room that there is, until the end of a `with` block."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self._images, self._bytes = admission, 0, 0
        self.answered = False

    def add_images(self, count: int) -> None:
        """Hold room for further images; `Problem` 429 if there is none."""
        self._admission.change_images(count)
        self._images += count

    def add_bytes(self, count: int) -> None:
        """Hold room for further bytes; `Problem` 429 if there is none."""
        self._admission.change_bytes(count)
        self._bytes += count

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._admission.change_images(-self._images, answered=self.answered)
        self._admission.change_bytes(-self._bytes)
        self._admission.requests -= 1
