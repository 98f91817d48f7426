"""A service in this process, and a real server in another."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from resnest_cli.inference.classifier import Classifier
from resnest_cli.serve.app import Service
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.service import Model
from tests.conftest import RESNEST, FakeEngine


class SlowEngine(FakeEngine):
    """Computes when it is told to."""

    def __init__(self) -> None:
        super().__init__(pad_to=1, batch_size=1)
        self.go, self.began = threading.Event(), threading.Event()

    def run(self, pixels: Any, outputs: Any = ("logits",)) -> list[Any]:
        self.began.set()
        assert self.go.wait(20)
        return super().run(pixels, outputs)


def classifier(engine: Any = None) -> Classifier:
    """A classifier of a fake engine."""
    return Classifier(engine=engine or FakeEngine(), workers=2)


def talk(
    call: Callable[[httpx.AsyncClient, Service], Any], options: ServeOptions | None = None,
    *, engine: Any = None, ready: bool = True,
) -> Any:  # fmt: skip
    """What a coroutine function gives that talks to a service in this process."""

    async def main() -> Any:
        service = Service(options or ServeOptions())
        service.add(Model(classifier(engine), service.metrics.batches.observe))
        service.admission.ready = ready
        transport = httpx.ASGITransport(service.app())
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost:8000", timeout=20
            ) as client:
                return await call(client, service)
        finally:
            for model in service.models.values():
                model.close()

    return asyncio.run(main())


class Running:
    """A server process that is ready."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.log: list[str] = []
        self.reader = threading.Thread(target=lambda: self.log.extend(process.stderr or []))
        self.reader.start()

    def stop(self) -> int:
        """End it as systemd does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.reader.join(5)
        return code


@contextmanager
def serving(*arguments: object) -> Iterator[Running]:
    """A server process with the demo model on a free port of the loopback."""
    command = [*RESNEST, "serve", "--model", "demo", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            for line in process.stderr or []:
                if found := re.search(r"ready on (\S+)", line):
                    running = Running(process, found[1])
                    yield running
                    break
            else:
                pytest.fail("the server did not start")
        finally:
            process.kill()
            process.wait()
    running.reader.join(5)
