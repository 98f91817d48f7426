"""HTTP sessions, an image's bytes within limits, and faults in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resnest_cli.errors import ImageError

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

    from resnest_cli.net.public_only import Limits

_Kinds = type[BaseException] | tuple[type[BaseException], ...]

OnBytes = Callable[[int, "int | None"], None]  # bytes so far, total where known

TIMEOUT = (10.0, 30.0)  # seconds to connect; seconds between two bytes
MAX_REDIRECTS = 5
IMAGE_BYTES = 100 * 2**20  # the largest image taken from a URL
IMAGE_SECONDS = 60.0  # from looking up the host's name to the last byte
IMAGE_ATTEMPTS = 3
FIRST_WAIT = 0.5  # seconds before the second attempt, where the server names none
_RETRIED = (408, 429, 500, 502, 503, 504)  # HTTP status codes worth another attempt
_CHUNK = 2**16


class Unavailable(Exception):
    """An address failed for good; the text says why."""


class Transient(Exception):
    """An attempt failed, and another may succeed; the server asked for `wait` seconds first."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def get_image(url: str, *, allow_private: bool = False) -> bytes:
    """The bytes of an image at an http(s) URL; `allow_private`: also on this machine and its like.

    A fault that may pass, such as an answer 503, is tried again as long as there is time.

    Raises:
        ImageError: it is unavailable, not public, or over `IMAGE_BYTES` or `IMAGE_SECONDS`.
    """
    from resnest_cli.net.public_only import Limits

    with Limits(IMAGE_SECONDS, allow_private=allow_private) as limits:
        wait = FIRST_WAIT
        for attempt in range(1, IMAGE_ATTEMPTS + 1):
            try:
                return _image_bytes(url, limits)
            except Unavailable as reason:
                raise ImageError(str(reason)) from reason
            except Transient as reason:
                pause = wait if reason.wait is None else reason.wait
                if attempt == IMAGE_ATTEMPTS or pause >= limits.seconds_left():
                    raise ImageError(str(reason), may_pass=True) from reason
            sleep(pause)
            wait *= 2
    raise AssertionError("the last attempt returns or raises")


def _image_bytes(url: str, limits: Limits) -> bytes:
    """The bytes of an image, in one attempt; `Unavailable`, `Transient` or `ImageError`."""
    import requests
    import urllib3

    from resnest_cli.net.public_only import LimitedAdapter

    content = bytearray()
    try:
        with (
            open_session(LimitedAdapter()) as session,
            session.get(url, stream=True, timeout=TIMEOUT, verify=trusted()) as response,
        ):
            check_status(response)
            for chunk in chunks(response):
                content += chunk
                limits.check_time()
                if len(content) > IMAGE_BYTES:
                    raise ImageError(f"larger than {IMAGE_BYTES // 2**20} MiB")
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        limits.check_time()  # which shuts the connection down, and may look like any fault
        raise translated(error) from error
    limits.check_time()
    return bytes(content)


def check_status(response: requests.Response) -> None:
    """Raise `Transient` or `Unavailable` unless a server's answer is what was asked for."""
    reason = f"the server answered {response.status_code} {response.reason}"
    if response.status_code in _RETRIED:
        raise Transient(reason, _retry_after(response))
    if not response.ok:
        raise Unavailable(reason)


def _retry_after(response: requests.Response) -> float | None:
    """The seconds that a server asks to wait for, in digits or as a date; None: it does not."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().get_retry_after(response.raw)
    except InvalidHeader:
        return None


def open_session(adapter: HTTPAdapter | None = None) -> requests.Session:
    """A session with this package's name and limits; `adapter` makes its connections."""
    import requests

    from resnest_cli.version import __version__

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.headers["User-Agent"] = f"resnest-cli/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    if adapter:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
    return session


def chunks(response: requests.Response) -> Iterator[bytes]:
    """A body as it arrives: no chunk waits until it is full, and none is lost at a break."""
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        yield chunk


def trusted() -> bool | str:
    """The certificates to trust; requests itself knows REQUESTS_CA_BUNDLE, not SSL_CERT_FILE."""
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            if not Path(path).exists():
                raise Unavailable(f"${name} names '{path}', which does not exist")
            return path
    return True


def translated(error: Exception) -> Unavailable | Transient:
    """A fault of requests or urllib3 in words that help; `Transient` may pass."""
    from requests import exceptions as of_requests
    from urllib3 import exceptions as of_urllib3

    untrusted = (
        "the server's certificate is not trusted; behind a proxy that rewrites TLS, "
        "set REQUESTS_CA_BUNDLE to its certificates"
    )
    proxy = _proxy_variable(getattr(error, "request", None))
    slow = (TimeoutError, of_requests.Timeout, of_urllib3.TimeoutError)
    faults: list[tuple[_Kinds, Unavailable | Transient]] = [
        (of_requests.SSLError, Unavailable(untrusted)),
        (of_requests.ProxyError, Unavailable(f"the proxy ({proxy}) did not answer")),
        (
            (of_requests.InvalidProxyURL, of_urllib3.ProxySchemeUnknown),
            Unavailable(f"the proxy ({proxy}) is not a valid address"),
        ),
        (of_requests.TooManyRedirects, Unavailable(f"more than {MAX_REDIRECTS} redirects")),
        (of_urllib3.NameResolutionError, Unavailable("cannot resolve the host name; offline?")),
        (of_urllib3.NewConnectionError, Transient("cannot connect")),
        (of_requests.ConnectTimeout, Transient(f"no connection within {TIMEOUT[0]:.0f} s")),
        (slow, Transient(f"no data for {TIMEOUT[1]:.0f} s")),
        (of_urllib3.DecodeError, Unavailable("the content is damaged")),
        (of_urllib3.ProtocolError, Transient("the connection broke off")),
        (of_requests.ConnectionError, Transient("cannot connect")),
    ]
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for kinds, fault in faults:
        if any(isinstance(cause, kinds) for cause in causes):
            return fault
    return Unavailable("not a valid address, or not a valid answer")


def _proxy_variable(request: requests.PreparedRequest | None) -> str:
    """The environment variable that names the proxy of a request, as requests chooses it."""
    scheme = urlsplit(request.url or "").scheme if request else "https"
    names = [name for key in (scheme, "all") for name in (f"{key}_proxy", f"{key}_proxy".upper())]
    return next((f"${name}" for name in names if os.environ.get(name)), "in the system's settings")
