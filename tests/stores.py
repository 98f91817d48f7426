"""A store on the loopback, and a proxy before it that counts requests and can misbehave."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import requests

FAULTS = {"503": "ServiceUnavailable", "429": "SlowDown", "403": "AccessDenied",
          "400": "ExpiredToken"}  # fmt: skip
_KEPT = {"etag", "last-modified", "content-range", "content-type", "content-length"}


class Store:
    """What is behind the proxy, and how that behaves."""

    def __init__(self, behind: str, bucket: str) -> None:
        self.behind, self.bucket = behind, bucket
        self.asked = requests.Session()
        owner = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
        self.asked.headers["Authorization"] = f"{owner}, SignedHeaders=host, Signature=0"
        self.clear()

    def clear(self) -> None:
        """Remove all objects and faults, and make the bucket."""
        self.gets: Counter[str] = Counter()  # requests for each key; a listing's is ""
        # what goes wrong with the n-th request for a key
        self.fault: Callable[[str, int], str | None] = lambda key, number: None
        self.asked.post(f"{self.behind}/moto-api/reset").raise_for_status()
        self.asked.put(f"{self.behind}/{self.bucket}").raise_for_status()

    def put(self, key: str, content: bytes) -> str:
        """Store an object; its URL."""
        quoted = requests.utils.quote(key, safe="/")  # type: ignore[attr-defined]
        self.asked.put(f"{self.behind}/{self.bucket}/{quoted}", data=content).raise_for_status()
        return f"s3://{self.bucket}/{key}"


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: Store) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        found = self._behind()
        length = {"Content-Length": found.headers.get("Content-Length", "0")}
        self._answer(found.status_code, {**found.headers, **length}, b"")

    def do_PUT(self) -> None:
        store, content = self.server.store, self.rfile.read(int(self.headers["Content-Length"]))
        key = f"PUT {self._key()}"
        store.gets[key] += 1
        fault = store.fault(key, store.gets[key])
        # an answer 503 may come although the object was stored
        found = None if fault == "403" else self._behind(content)
        if fault in FAULTS:
            self._answer(int(fault), {}, f"<Error><Code>{FAULTS[fault]}</Code></Error>".encode())
        elif found is not None:
            length = {"Content-Length": str(len(found.content))}
            self._answer(found.status_code, {**found.headers, **length}, found.content)

    def _key(self) -> str:
        path = unquote(urlsplit(self.path).path)
        return path.removeprefix(f"/{self.server.store.bucket}").lstrip("/")

    def do_GET(self) -> None:
        store, key = self.server.store, self._key()
        store.gets[key] += 1
        fault = store.fault(key, store.gets[key])
        if fault == "reset":
            linger = b"\1\0\0\0\0\0\0\0"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        elif fault in FAULTS:
            body = f"<Error><Code>{FAULTS[fault]}</Code></Error>".encode()
            self._answer(int(fault), {}, body)
        else:
            found = self._behind()
            body = found.content
            if fault == "wrong length":
                body = body[: len(body) // 2]
            length = {"Content-Length": str(len(body))}
            whole = fault not in ("cut", "stall")
            if not whole:
                body = body[: len(body) // 2]
            self._answer(found.status_code, {**found.headers, **length}, body)
            if not whole:
                self.wfile.flush()
                time.sleep(2 if fault == "stall" else 0)
                self.close_connection = True

    def _behind(self, content: bytes | None = None) -> requests.Response:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        headers["Accept-Encoding"] = "identity"
        url = self.server.store.behind + self.path
        return requests.request(self.command, url, headers=headers, data=content)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            if name.lower() in _KEPT:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(bucket: str = "photos") -> Iterator[tuple[Store, dict[str, str]]]:
    """A store, and the variables of the environment that lead to it through the proxy."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    store = Store(f"http://{host}:{port}", bucket)
    proxy = _Proxy(store)
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield (
            store,
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            },
        )
    finally:
        proxy.shutdown()
        proxy.server_close()
        store.asked.close()
        moto.stop()
