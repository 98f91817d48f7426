"""Clients of all kinds for a real server: ordinary, hostile, slow, and gone in the middle."""

from __future__ import annotations

import random
import re
import socket
import struct
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.conftest import drawn
from tests.hostile import kinds, stored
from tests.serve.conftest import Running

PATH = "/v1/predict"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
GIGABYTE = 10**9


def descriptors(process: int) -> int:
    """Open files and connections of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def memory(process: int) -> int:
    """A process's resident memory, in KiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def connected(url: str) -> socket.socket:
    """A connection to the server."""
    address = urllib.parse.urlsplit(url)
    return socket.create_connection((address.hostname, address.port), 60)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that a connection gets; 0 if it is closed without one."""
    try:
        head = connection.recv(64)
    except OSError:
        return 0
    return int(head.split()[1]) if head else 0


def cut(url: str) -> int:
    """A client that goes in the middle of its upload."""
    with connected(url) as one:
        one.sendall(f"{HEAD}90000\r\n\r\n".encode() + bytes(5000))
        # closed with a reset, as the system does for a process that is killed
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return 0


def slow(url: str) -> int:
    """A client that sends its image in drops."""
    content = stored(drawn(), "PNG")
    with connected(url) as one:
        one.sendall(f"{HEAD}{len(content)}\r\n\r\n".encode())
        step = len(content) // 8 + 1
        for start in range(0, len(content), step):
            one.sendall(content[start : start + step])
            time.sleep(0.05)
        return status_of(one)


def huge(url: str) -> int:
    """A client that announces a gigabyte, and sends of it what is taken."""
    with connected(url) as one:
        one.sendall(f"{HEAD}{GIGABYTE}\r\n\r\n".encode())
        try:
            for _ in range(GIGABYTE // 2**16):
                one.sendall(bytes(2**16))
        except OSError:
            pass
        return status_of(one)


def endless(url: str) -> int:
    """A client that sends a gigabyte in chunks, without saying how much it is."""
    head = HEAD.replace("Content-Length: ", "Transfer-Encoding: chunked\r\n\r\n")
    with connected(url) as one:
        try:
            one.sendall(head.encode())
            for _ in range(GIGABYTE // 2**16):
                one.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")
        except OSError:
            pass
        return status_of(one)


class Crowd:
    """Sends requests of which a tenth are hostile, and counts the answers."""

    def __init__(self, server: Running, *, clients: int = 8, seed: int = 0) -> None:
        self._url, self._clients, self._random = server.url, clients, random.Random(seed)
        self._images = [stored(drawn(seed=n), "JPEG") for n in range(4)]
        self._kinds = [(name, content) for name, (content, _) in kinds().items()]
        self.statuses: Counter[int] = Counter()

    def send(self, count: int) -> None:
        """That many requests."""
        calls = [self._next() for _ in range(count)]
        limits = httpx.Limits(max_connections=self._clients)
        with (
            httpx.Client(base_url=self._url, timeout=60, limits=limits) as client,
            ThreadPoolExecutor(self._clients) as pool,
        ):
            self.statuses.update(pool.map(lambda call: call(client), calls))

    def _next(self) -> Callable[[httpx.Client], int]:
        if self._random.random() >= 0.1:
            image = self._random.choice(self._images)
            return lambda client: client.post(PATH, content=image).status_code
        return self._random.choice((self._hostile, self._hostile, self._odd, self._raw))()

    def _hostile(self) -> Callable[[httpx.Client], int]:
        file = self._random.choice(self._kinds)
        return lambda client: client.post(PATH, files={"images": file}).status_code

    def _odd(self) -> Callable[[httpx.Client], int]:
        kind = self._random.choice(
            ("text/plain", "application/json", "multipart/form-data", "image/\xff", "a" * 4000,
             "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"),
        )  # fmt: skip
        headers = {"content-type": kind.encode("latin-1")}
        body = self._random.choice((b"", b"{", b"--x\r\n\r\n--x--", self._images[0]))
        return lambda client: client.post(PATH, content=body, headers=headers).status_code

    def _raw(self) -> Callable[[httpx.Client], int]:
        call = self._random.choice((cut, slow, huge, endless))
        return lambda client: call(self._url)
