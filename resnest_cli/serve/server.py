"""A server's life: it listens, loads its models, answers, and stops without losing a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType

import numpy as np
import uvicorn

from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.progress import SILENT, SUMMARY, Progress
from resnest_cli.serve.app import Service
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.service import Model

log = logging.getLogger(__name__)

_GARBAGE = 1000  # objects, some ten requests', before garbage is looked for


def serve(
    specs: Sequence[ModelSpec],
    runtime: RuntimeOptions,
    decode: DecodeOptions,
    options: ServeOptions,
    *,
    top_k: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Raises:
        UsageError: two models have one name.
        ResNeStError: the address is in use, or a model cannot be loaded.
    """
    listening = _listen(options)
    service = Service(options)
    server = _Server(service)

    def load() -> list[Classifier]:
        made = [
            Classifier.from_specs(spec, runtime, decode, top_k=top_k, progress=progress)
            for spec in specs
        ]
        if len({c.config.name for c in made}) < len(made):
            raise UsageError("two models have the same name: `model` would not tell them apart")
        for c in made:  # so that the first client does not wait for what is done once
            crop = c.preprocessing.crop
            c.engine.run(np.zeros((1, crop, crop, 3), np.uint8))
        return made

    async def main() -> None:
        loading = asyncio.ensure_future(_in_daemon(load))
        loading.add_done_callback(lambda done: _loaded(done, service, server, listening))
        await server.serve([listening])
        if loading.done() and not loading.cancelled() and (error := loading.exception()):
            raise error
        loading.cancel()
        for model in service.models.values():
            model.close()

    for name in ("uvicorn", "uvicorn.error"):  # whose lines say what the access log says better
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        asyncio.run(main())
    finally:
        listening.close()


def _listen(options: ServeOptions) -> socket.socket:
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((options.host, options.port), family=family, backlog=1024)
        # asyncio sends small pieces at once only where the protocol is named; else the body of an
        # answer waits 40 ms for the acknowledgement of its head
        return socket.socket(family, made.type, socket.IPPROTO_TCP, fileno=made.detach())
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise ResNeStError(
            f"cannot listen on {where}: {error.strerror or error}\nchoose another `port` or `host`"
        ) from error


async def _in_daemon(call: object) -> object:
    """What a function returns, from a thread that the end of the process does not wait for."""
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(result: object, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def work() -> None:
        result, fault = None, None
        try:
            result = call()  # type: ignore[operator]
        except BaseException as error:  # raised where the result is waited for
            fault = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, fault)

    threading.Thread(target=work, name="load", daemon=True).start()
    return await future


def _loaded(
    done: asyncio.Future[object], service: Service, server: _Server, listening: socket.socket
) -> None:
    if done.cancelled():
        return
    if done.exception():
        server.should_exit = True
        return
    classifiers = done.result()
    assert isinstance(classifiers, list)
    for classifier in classifiers:
        service.add(Model(classifier, service.metrics.batches.observe))
        log.log(SUMMARY, "%s", classifier.describe())
    # the command collects seldom, as it imports much; a server must, and need not look at imports
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    service.admission.ready = True
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.log(SUMMARY, "ready on http://%s:%d", shown, port)


class _Server(uvicorn.Server):
    """Answers what was accepted before it stops; a second signal ends it at once."""

    def __init__(self, service: Service) -> None:
        options = service.options
        super().__init__(uvicorn.Config(
            service.app(), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=max(int(options.grace), 1),
        ))  # fmt: skip
        self._service, self._end = service, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: refuse new requests; the second: end."""
        admission = self._service.admission
        if admission.stopping:
            self.should_exit = self.force_exit = True
        admission.stopping = True
        self._end = time.monotonic() + self._service.options.grace

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop, asked ten times a second."""
        admission = self._service.admission
        if admission.stopping and not admission.requests:
            self.should_exit = True
        elif admission.stopping and time.monotonic() > self._end - 1:
            self.should_exit = self.force_exit = True
        return await super().on_tick(counter)
