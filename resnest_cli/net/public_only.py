"""HTTP connections that go to public addresses only, and that end when their time is up.

A URL from a stranger may name this machine, its neighbours or a cloud's metadata service. The
address is checked when the connection is made, and that very address is connected to: so each
redirect is checked, and a name that changes its meaning in between gains nothing.

A socket's time-out is the time between two bytes: a server that sends one now and then is never
late. So a timer shuts the connection down from outside, whether it is at TLS, headers or body;
name resolution and connecting get the time that is left.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import suppress
from contextvars import ContextVar, Token
from queue import Empty, Queue
from threading import Lock, Thread, Timer
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from resnest_cli.errors import ImageError


class Limits:
    """A context in which `LimitedAdapter` connects, for some seconds in all.

    Raises:
        ImageError: on leaving, if the time was up, whatever error that led to.
    """

    def __init__(self, seconds: float, *, allow_private: bool = False) -> None:
        self.allow_private = allow_private
        self.too_late = ImageError(f"download timed out after {seconds:g} s", may_pass=True)
        self._end = time.monotonic() + seconds
        self._timer = Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._lock = Lock()
        self._open: list[socket.socket] = []  # second handles, valid until they are closed here
        self._token: Token[Limits] | None = None

    def __enter__(self) -> Limits:
        self._token = _limits.set(self)
        self._timer.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Lift the limits; a connection that was shut down may have looked complete."""
        self._timer.cancel()
        if self._token:
            _limits.reset(self._token)
        with self._lock:
            while self._open:
                self._open.pop().close()
        ours = error is None or (isinstance(error, Exception) and not isinstance(error, ImageError))
        if ours and self.seconds_left() <= 0:
            raise self.too_late from error

    def seconds_left(self) -> float:
        """Seconds until the time is up; negative afterwards."""
        return self._end - time.monotonic()

    def check_time(self) -> None:
        """Raise `ImageError` if the time is up."""
        if self.seconds_left() <= 0:
            raise self.too_late

    def check_address(self, address: str) -> None:
        """Raise `ImageError` for an IP address that is not allowed."""
        if not self.allow_private:
            check_public(address)

    def watch(self, connection: socket.socket) -> None:
        """Shut a connection down when the time is up."""
        with self._lock:
            self._open.append(connection.dup())
        if self.seconds_left() <= 0:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # it is closed already
                    connection.shutdown(socket.SHUT_RDWR)


_limits: ContextVar[Limits] = ContextVar("_limits")  # without a default: no limits, no connection


class LimitedAdapter(HTTPAdapter):
    """Makes connections within the `Limits` of the surrounding context.

    Through a proxy it is the proxy that connects, so only IP addresses in URLs are checked.
    """

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set up direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Set up connections through a proxy, which the user has named and which may be private."""
        manager = super().proxy_manager_for(proxy, **options)
        if isinstance(manager, ProxyManager):  # for SOCKS it has connections of its own
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send a request, unless its URL spells out an address that is not allowed."""
        if address := _spelled_out(request.url):
            _limits.get().check_address(address)
        return super().send(request, *args, **options)


def check_public(address: str) -> None:
    """Raise `ImageError` for an IP address that is not one of the public Internet."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    for each in (ip, inner):
        if each is not None and (not each.is_global or each.is_multicast):
            raise ImageError(
                f"{address} is not a public address; the option allow-private permits it"
            )


def _spelled_out(url: str) -> str | None:
    """The host of a URL if it is an IP address."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host


class _Limited:
    """A connection within the `Limits` of the surrounding context."""

    host: str
    port: int
    timeout: Any
    source_address: Any
    socket_options: Any
    proxy: Any  # None: it goes to the host itself

    def _new_conn(self) -> socket.socket:
        limits = _limits.get()
        addresses = self._addresses(limits)
        if self.proxy is None:
            for address in addresses:
                limits.check_address(address)
        connection = self._first_that_answers(addresses, limits)
        limits.watch(connection)
        return connection

    def _addresses(self, limits: Limits) -> list[str]:
        """All addresses of the host; looked up in a thread, as that has no time-out."""
        found: Queue[list[Any] | Exception] = Queue(1)

        def look_up() -> None:
            try:
                found.put(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.put(error)

        Thread(target=look_up, name="lookup", daemon=True).start()
        try:
            answer = found.get(timeout=max(limits.seconds_left(), 0))
        except Empty:
            raise limits.too_late from None
        if isinstance(answer, Exception):
            known = isinstance(answer, socket.gaierror)
            reason = answer if known else socket.gaierror(str(answer))
            raise NameResolutionError(self.host, self, reason) from answer  # type: ignore[arg-type]
        return [str(entry[4][0]) for entry in answer]

    def _first_that_answers(self, addresses: list[str], limits: Limits) -> socket.socket:
        reason: OSError = OSError("no address")
        for address in addresses:
            limits.check_time()
            try:
                return create_connection(
                    (address, self.port),
                    min(self.timeout, max(limits.seconds_left(), 0.001)),
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                reason = error
        if isinstance(reason, TimeoutError):
            raise ConnectTimeoutError(self, "timed out") from reason
        raise NewConnectionError(self, str(reason)) from reason  # type: ignore[arg-type]


class _HTTP(_Limited, HTTPConnection):
    pass


class _HTTPS(_Limited, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
