"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "resnest_requests", "Answered requests.", ("path", "status"), registry=self._registry
        )
        self.latency = Histogram(
            "resnest_request_seconds", "From a request's head to the end of its answer.", ("path",),
            registry=self._registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.batches = Histogram(
            "resnest_batch_images", "Images of a batch.",
            registry=self._registry, buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        self.images = Counter("resnest_images", "Classified images.", registry=self._registry)
        self.failures = Counter(
            "resnest_failures", "Requests and images without an answer.", ("kind",),
            registry=self._registry,
        )  # fmt: skip
        queue = Gauge(
            "resnest_queue_images", "Images accepted, not answered.", registry=self._registry
        )
        queue.set_function(waiting)

    def text(self) -> bytes:
        """All figures, in the text format."""
        return generate_latest(self._registry)
