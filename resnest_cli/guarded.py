"""HTTP connections that go to public addresses only.

A URL from a stranger may name this machine, its neighbours or a cloud's metadata service. The
address is looked at when the connection is made, and that very address is connected to: so it
counts for each redirect, and a name that changes its meaning in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError
from urllib3.util.connection import create_connection

from resnest_cli.errors import ImageError


class PublicOnly(HTTPAdapter):
    """Connects to public addresses only; others raise `ImageError`.

    Through a proxy it is the proxy that connects, so only addresses written out are looked at.
    """

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set up connections that look where they go."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """The connections through a proxy, which the user has named and which may be private."""
        return super().proxy_manager_for(proxy, **options)

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


class _HTTP(_Looking, HTTPConnection):
    pass


class _HTTPS(_Looking, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS
