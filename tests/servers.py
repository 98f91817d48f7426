"""A local HTTP server whose every answer a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `behaviours`: one per request, the last one ever after."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        number = min(len(self.server.requests), len(self.server.behaviours)) - 1
        self.server.behaviours[number](self)

    def answer(
        self, code: int, body: bytes = b"", *, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    behaviours: list[Behaviour]
    requests: list[tuple[str, str | None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(
    *behaviours: Behaviour, address: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[Server]:
    """A server that answers the n-th request by the n-th behaviour."""
    with Server(address, Handler) as server:
        server.behaviours, server.requests = list(behaviours), []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def status(code: int, **headers: str) -> Behaviour:
    """Answer with a code and nothing else."""
    return lambda handler: handler.answer(code, **headers)


def content(body: bytes, **headers: str) -> Behaviour:
    """Answer with a body, or with the rest of it that a Range asks for."""

    def behave(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        if not wanted:
            handler.answer(200, body, **headers)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            handler.answer(416)
        else:
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            handler.answer(206, body[start:], Content_Range=span, **headers)

    return behave


def cut_after(body: bytes, count: int) -> Behaviour:
    """Promise the whole body and end the connection after a few bytes."""
    return lambda handler: handler.answer(200, body[:count], length=len(body))
