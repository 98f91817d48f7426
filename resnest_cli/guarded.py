"""HTTP connections that go to public addresses only, and that end when their time is up.

A URL from a stranger may name this machine, its neighbours or a cloud's metadata service. The
address is looked at when the connection is made, and that very address is connected to: so it
counts for each redirect, and a name that changes its meaning in between gains nothing.

A time-out of sockets is between two bytes: who sends one now and then is never late. So a deadline
cuts the connection from outside, whether it stands at TLS, at headers or in the body; looking a
name up and connecting are given what is left of its time.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import Empty, Queue
from threading import Lock, Thread, Timer
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError
from urllib3.util.connection import create_connection

from resnest_cli.errors import ImageError

_deadline: ContextVar[_Deadline | None] = ContextVar("_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[Callable[[], None]]:
    """Cut the connections that this thread makes by a `Guarded` adapter when the time is up.

    What it gives raises `ImageError` when called behind that time: for where nothing is cut.

    Raises:
        ImageError: the time was up, whatever went wrong for that.
    """
    limit = _Deadline(seconds)
    token = _deadline.set(limit)
    timer = Timer(seconds, limit.cut)
    timer.daemon = True
    try:
        timer.start()
        yield limit.check
        limit.check()  # a body may have ended for that, and look whole
    except Exception as error:
        if limit.left() <= 0 and not isinstance(error, ImageError):
            raise limit.late from error
        raise
    finally:
        timer.cancel()
        _deadline.reset(token)
        limit.close()


class _Deadline:
    """The connections made so far; they are second handles, good until they are closed here."""

    def __init__(self, seconds: float) -> None:
        self.late = ImageError(f"not there after {seconds:g} s")
        self._end = time.monotonic() + seconds
        self._made: list[socket.socket] = []
        self._lock = Lock()

    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> None:
        if self.left() <= 0:
            raise self.late

    def watch(self, made: socket.socket) -> None:
        with self._lock:
            self._made.append(made.dup())
        if self.left() <= 0:
            self.cut()

    def cut(self) -> None:
        with self._lock:
            for made in self._made:
                with suppress(OSError):  # it is closed already
                    made.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            while self._made:
                self._made.pop().close()


class Guarded(HTTPAdapter):
    """Connections that a `deadline` can cut."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set up the connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """The connections through a proxy, which the user has named and which may be private."""
        manager = super().proxy_manager_for(proxy, **options)
        if isinstance(manager, ProxyManager):  # for SOCKS it has connections of its own
            manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


class PublicOnly(Guarded):
    """Connects to public addresses only; others raise `ImageError`.

    Through a proxy it is the proxy that connects, so only addresses written out are looked at.
    """

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set up connections that look where they go."""
        super().init_poolmanager(*args, **options)
        pools = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
        self.poolmanager.pool_classes_by_scheme = pools

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send a request, unless its URL spells out an address that is not public."""
        host = _host(request.url)
        if host is not None:
            check_public(host)
        return super().send(request, *args, **options)


def check_public(address: str) -> None:
    """Raise `ImageError` for an IP address that is not one of the public Internet."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    for each in (ip, inner):
        if each is not None and (not each.is_global or each.is_multicast):
            raise ImageError(
                f"{address} is no public address; --allow-private reads from private networks"
            )


def _host(url: str) -> str | None:
    """The host of a URL where it is an IP address."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host


class _Guarded:
    """A connection that a deadline can cut, and that is made before it."""

    host: str
    port: int
    timeout: Any
    source_address: Any
    socket_options: Any

    def check(self, address: str) -> None:
        """Raise `ImageError` for an address that is not to be connected to."""

    def _new_conn(self) -> socket.socket:
        limit = _deadline.get()
        addresses = self._addresses(limit)
        for address in addresses:
            self.check(address)
        made = self._first_that_answers(addresses, limit)
        if limit:
            limit.watch(made)
        return made

    def _addresses(self, limit: _Deadline | None) -> list[str]:
        """The host's addresses, all of them; looked up in a thread, as that has no time-out."""
        found: Queue[list[Any] | Exception] = Queue(1)

        def look() -> None:
            try:
                found.put(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.put(error)

        Thread(target=look, name="lookup", daemon=True).start()
        try:
            answer = found.get(timeout=max(limit.left(), 0) if limit else None)
        except Empty:
            assert limit
            raise limit.late from None
        if isinstance(answer, Exception):
            known = isinstance(answer, socket.gaierror)
            reason = answer if known else socket.gaierror(str(answer))
            raise NameResolutionError(self.host, self, reason) from answer  # type: ignore[arg-type]
        return [str(entry[4][0]) for entry in answer]

    def _first_that_answers(self, addresses: list[str], limit: _Deadline | None) -> socket.socket:
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

        reason: OSError = OSError("no address")
        for address in addresses:
            if limit:
                limit.check()
            try:
                return create_connection(
                    (address, self.port),
                    min(self.timeout, max(limit.left(), 0.001)) if limit else self.timeout,
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                reason = error
        if isinstance(reason, TimeoutError):
            raise ConnectTimeoutError(self, "timed out") from reason
        raise NewConnectionError(self, str(reason)) from reason  # type: ignore[arg-type]


class _PublicOnly(_Guarded):
    """A connection that checks all addresses of its host, and connects to one it has checked."""

    def check(self, address: str) -> None:
        check_public(address)


class _HTTP(_Guarded, HTTPConnection):
    pass


class _HTTPS(_Guarded, HTTPSConnection):
    pass


class _PublicHTTP(_PublicOnly, HTTPConnection):
    pass


class _PublicHTTPS(_PublicOnly, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTP


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPS
