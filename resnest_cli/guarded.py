"""HTTP connections that go to public addresses only, and that end when their time is up.

A URL from a stranger may name this machine, its neighbours or a cloud's metadata service. The
address is looked at when the connection is made, and that very address is connected to: so it
counts for each redirect, and a name that changes its meaning in between gains nothing.

A time-out of sockets is between two bytes: who sends one now and then is never late. So a deadline
cuts the connection from outside, whether it stands at TLS, at headers or in the body.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Timer
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError
from urllib3.util.connection import create_connection

from resnest_cli.errors import ImageError

_deadline: ContextVar[_Deadline | None] = ContextVar("_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Cut the connections that this thread makes by a `Guarded` adapter when the time is up.

    Raises:
        ImageError: it was, whatever went wrong for that.
    """
    limit = _Deadline()
    token = _deadline.set(limit)
    timer = Timer(seconds, limit.cut)
    timer.daemon = True
    timer.start()
    late = ImageError(f"not there after {seconds:g} s")
    try:
        yield
        if limit.over.is_set():  # a body may have ended for that, and look whole
            raise late
    except Exception as error:
        if limit.over.is_set() and error is not late:
            raise late from error
        raise
    finally:
        timer.cancel()
        _deadline.reset(token)
        limit.close()


class _Deadline:
    """The connections made so far; they are second handles, good until they are closed here."""

    def __init__(self) -> None:
        self.over = Event()
        self._made: list[socket.socket] = []

    def watch(self, made: socket.socket) -> None:
        self._made.append(made.dup())
        if self.over.is_set():
            self.cut()

    def cut(self) -> None:
        self.over.set()
        for made in list(self._made):
            with suppress(OSError):  # it is closed already
                made.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for made in self._made:
            made.close()


class Guarded(HTTPAdapter):
    """Connections that a `deadline` can cut."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set up the connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """The connections through a proxy, which the user has named and which may be private."""
        manager = super().proxy_manager_for(proxy, **options)
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


class _Watched:
    """A connection that a deadline can cut."""

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        if limit := _deadline.get():
            limit.watch(made)
        return made


class _Looking:
    """A connection that checks all addresses of its host, and connects to one it has checked."""

    host: str
    port: int
    timeout: Any
    source_address: Any
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(self.host, self, reason) from error  # type: ignore[arg-type]
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            check_public(address)
        return _first_that_answers(addresses, self)


def _first_that_answers(addresses: list[str], connection: _Looking) -> socket.socket:
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    reason: OSError = OSError("no address")
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            reason = error
    if isinstance(reason, TimeoutError):
        raise ConnectTimeoutError(connection, "timed out") from reason
    raise NewConnectionError(connection, str(reason)) from reason  # type: ignore[arg-type]


class _HTTP(_Watched, HTTPConnection):
    pass


class _HTTPS(_Watched, HTTPSConnection):
    pass


class _PublicHTTP(_Watched, _Looking, HTTPConnection):
    pass


class _PublicHTTPS(_Watched, _Looking, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTP


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPS
