"""How a server is reached and what it takes at most; importing this costs nothing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from resnest_cli.errors import UsageError, check_number

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_PIXELS = 50_000_000  # about 500 MB while one is decoded
_ORIGIN = re.compile(r"https?://[\w.-]+(:\d+)?", re.ASCII)
BODIES = 4  # bodies of the greatest size that are held at a time


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens, what it accepts, and whom."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    grace: float = 30.0  # seconds from a signal to the end, at most
    queue: int = 256  # images that are accepted and not answered
    deadline: float = 30.0  # seconds for a body to arrive, and for its answer after that
    max_upload_mb: int = 64  # of a request's body, in MiB
    max_images: int = 64  # of a request
    token: str | None = None  # what clients must present
    allow_hosts: tuple[str, ...] = ()  # names beside the loopback's under which it is reached
    cors: tuple[str, ...] = ()  # origins whose pages may read answers
    allow_framing: tuple[str, ...] = ()  # origins whose pages may show the page in a frame
    allow_urls: bool = False  # fetch images that a request names by their URL

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that are out of range."""
        check_number("port", self.port, 0, 65535)
        for name in ("queue", "max_images", "max_upload_mb"):
            check_number(name, getattr(self, name), 1)
        for name in ("grace", "deadline"):
            check_number(name, getattr(self, name), 0.1, math.inf, unit=" seconds", whole=False)
        if self.max_images > self.queue:
            raise UsageError(
                f"`max_images={self.max_images}` is more than `queue={self.queue}` ever holds"
            )
        for origin in self.allow_framing:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"`allow_framing={origin}` is no origin, as https://example.org is"
                )
        if self.token is not None and not (self.token.isascii() and self.token.strip()):
            raise UsageError("`token` must be of ASCII characters, and not empty")

    @property
    def max_upload(self) -> int:
        """Bytes of a request's body, at most."""
        return self.max_upload_mb * 2**20

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone reaches the server."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a `Host` header may hold."""
        return frozenset(name.lower() for name in (*LOOPBACK, self.host, *self.allow_hosts))
