"""What stands before every route: hosts, origins, the token, headers, the access log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from resnest_cli.progress import SUMMARY
from resnest_cli.serve.metrics import Metrics
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_OPEN = ("/healthz", "/readyz")  # which probes ask for, without a token
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors ",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


_LEFT, _LEFT_SECONDS = 2**20, 1.0  # of a refused body that is read, at most


class Guard:
    """An ASGI application around another."""

    def __init__(
        self, inner: ASGIApp, options: ServeOptions, metrics: Metrics, paths: set[str]
    ) -> None:
        self._inner, self._options, self._metrics, self._paths = inner, options, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, count it and log it."""
        if scope["type"] != "http":
            return
        start, status, size = time.perf_counter(), 0, 0
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        body = _Body(receive)

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                self._add_headers(answered, origin)
                if answered.get("connection") == "close" and "expect" not in headers:
                    await body.finish()
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._checked(scope, headers)(scope, body.receive, counted)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.latency.labels(path).observe(seconds)
            if kind := scope.get("resnest.problem"):
                self._metrics.failures.labels(kind).inc()
            client = (scope.get("client") or ("-",))[0]
            line = f"{client} {scope['method']} {scope['path']} {status} {size} B"
            log.log(SUMMARY, "%s %s %.1f ms", time.strftime("%FT%T%z"), line, 1e3 * seconds)

    def _checked(self, scope: Scope, headers: Headers) -> ASGIApp:
        """What answers a request: the inner application, or a refusal."""
        if not self._is_host(headers.get("host", "")):
            scope["resnest.problem"] = "host"
            name = "the name in the request's Host header is not served (option allow-host)"
            return Problem(421, name, "host").response()
        origin = headers.get("origin")
        if origin is not None and not self._is_origin(origin, headers["host"]):
            scope["resnest.problem"] = "origin"
            return Problem(403, "pages of other sites are not served (option cors)", "").response()
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if preflight and origin in self._options.cors:
            allowed = {
                "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": "authorization, content-type",
                "access-control-max-age": "600",
            }
            return Response(status_code=204, headers=allowed)
        if scope["path"] not in _OPEN and not self._has_token(headers.get("authorization", "")):
            scope["resnest.problem"] = "unauthorized"
            return Problem(401, "this server asks for its token", "").response()
        return self._inner

    def _is_host(self, host: str) -> bool:
        allowed = self._options.hosts
        return "*" in allowed or _hostname(f"//{host}") in allowed

    def _is_origin(self, origin: str, host: str) -> bool:
        """Whether a page may send requests: one of this server, or of an origin that is named."""
        return origin in self._options.cors or urlsplit(origin).netloc.lower() == host.lower()

    def _has_token(self, given: str) -> bool:
        token = self._options.token
        if token is None:
            return True
        kind, _, value = given.partition(" ")
        if kind.lower() == "basic":  # for which browsers ask; any user name
            try:
                value = base64.b64decode(value).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), token.encode())

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        headers["content-security-policy"] += " ".join(self._options.allow_framing) or "'none'"
        if origin in self._options.cors and origin is not None:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "server-timing, retry-after"
            headers["cross-origin-resource-policy"] = "cross-origin"
            headers.add_vary_header("origin")


class _Body:
    """A request's body, and whether all of it was read."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._whole = receive, False

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def finish(self) -> None:
        """Read what is left, within limits.

        A connection that is closed before that is reset, which takes the answer from the client.
        """

        async def read() -> None:
            size = 0
            while not self._whole and size < _LEFT:
                size += len((await self.receive()).get("body", b""))

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), _LEFT_SECONDS)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
