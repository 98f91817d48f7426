"""HTTP: a checkpoint to a file, exactly and resumably; a picture's bytes, within limits."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.errors import DownloadError, ImageError

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]  # bytes so far, bytes in all where known

ATTEMPTS = 3  # per address, for faults that may pass
TIMEOUT = (10.0, 30.0)  # seconds to connect; seconds between two bytes
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever Retry-After says
MAX_REDIRECTS = 5
PICTURE_BYTES = 100 * 2**20  # the largest picture taken from a URL
PICTURE_SECONDS = 60.0
_CHUNK = 2**16
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP status codes worth another attempt


class _Unavailable(Exception):
    """One address failed for good; the text says why."""


class _Passing(Exception):
    """One attempt failed in a way that another may not; `wait` seconds were asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    urls: Sequence[str]  # tried in turn
    target: Path
    sha256: str | None  # the digest's first hex digits; None where nobody published one
    on_progress: Progress | None = None

    @property
    def part(self) -> Path:
        """Where the bytes are until they are all there and verified."""
        return self.target.with_name(self.target.name + ".part")

    def run(self) -> str:
        """Fetch, verify and put into place; the whole SHA-256 is returned.

        Raises:
            DownloadError: no address gave the file, with the reason of each, or the disk did not
                take it.
        """
        reasons = []
        with _session() as session:
            for url in self.urls:
                try:
                    digest = self._from(session, url)
                except _Unavailable as reason:
                    log.info("%s: %s", url, reason)
                    reasons.append(f"{url}: {reason}")
                except OSError as error:
                    raise DownloadError(
                        f"cannot write '{self.part}': {error.strerror or error}; "
                        "$RESNEST_HOME names another cache folder"
                    ) from error
                else:
                    self.part.replace(self.target)
                    return digest
        raise DownloadError("; ".join(reasons))

    def _from(self, session: requests.Session, url: str) -> str:
        if self.sha256 is None:
            self.part.unlink(missing_ok=True)  # nothing would notice a part of another file
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._verified(resumed=self._attempt(session, url))
            except _Passing as problem:
                if attempt == ATTEMPTS:
                    raise _Unavailable(str(problem)) from problem
                wait = min(problem.wait or 2.0 ** (attempt - 1), LONGEST_WAIT)
                log.info("%s: %s; trying again in %.0f s", url, problem, wait)
                _wait(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, session: requests.Session, url: str) -> bool:
        """Bring the part file up to its whole length; whether it went on where it ended."""
        import requests
        import urllib3

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT, verify=_trust()
            ) as response:
                _check_encrypted(url, response)
                if response.status_code == 416:  # the part is as long as the file, or longer
                    return True
                _check_status(response)
                resumed = response.status_code == 206
                self._receive(response, have if resumed else 0)
                return resumed
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _translated(error) from error

    def _receive(self, response: requests.Response, have: int) -> None:
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        total = have + int(length) if length.isdigit() and not encoded else None
        with self.part.open("ab" if have else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                have += len(chunk)
                if self.on_progress:
                    self.on_progress(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            raise _Passing(f"the connection ended after {have:,} of {total:,} bytes")

    def _verified(self, *, resumed: bool) -> str:
        digest = sha256_of(self.part)
        if self.sha256 and not digest.startswith(self.sha256):
            self.part.unlink()
            reason = f"the file's SHA-256 is {digest[:8]}..., not {self.sha256}..."
            # put together of two files, perhaps; but a whole one will not be another next time
            raise _Passing(reason) if resumed else _Unavailable(reason)
        return digest


def get_picture(url: str, *, allow_private: bool = False) -> bytes:
    """The bytes of a picture at an http(s) URL.

    Args:
        url: its address.
        allow_private: read from this machine and private networks, too.

    Raises:
        ImageError: it could not be had, is on a private network, or is over `PICTURE_BYTES` or
            `PICTURE_SECONDS`.
    """
    import requests
    import urllib3

    from resnest_cli.guarded import Guarded, PublicOnly, deadline

    content = bytearray()
    try:
        with (
            deadline(PICTURE_SECONDS) as check,
            _session(Guarded() if allow_private else PublicOnly()) as session,
            session.get(url, stream=True, timeout=TIMEOUT, verify=_trust()) as response,
        ):
            if not response.ok:
                raise ImageError(f"the server answered {response.status_code} {response.reason}")
            for chunk in _chunks(response):
                content += chunk
                check()
                if len(content) > PICTURE_BYTES:
                    raise ImageError(f"larger than {PICTURE_BYTES // 2**20} MiB")
    except _Unavailable as reason:
        raise ImageError(str(reason)) from reason
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise ImageError(str(_translated(error))) from error
    return bytes(content)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """A body as it comes in: no chunk waits until it is full, and none is lost with the line."""
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        yield chunk


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _session(adapter: HTTPAdapter | None = None) -> requests.Session:
    import requests

    from resnest_cli import __version__

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.headers["User-Agent"] = f"resnest-cli/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    if adapter:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
    return session


def _trust() -> bool | str:
    """The certificates to trust; requests itself knows REQUESTS_CA_BUNDLE, not SSL_CERT_FILE."""
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            if not Path(path).exists():
                raise _Unavailable(f"${name} names '{path}', which is not there")
            return path
    return True


def _check_encrypted(url: str, response: requests.Response) -> None:
    """Refuse what an encrypted address led to by way of one that is not."""
    passed = [step.url for step in (*response.history, response)]
    if url.lower().startswith("https:") and not all(p.lower().startswith("https:") for p in passed):
        raise _Unavailable("it leads from https to an address that is not encrypted")


def _check_status(response: requests.Response) -> None:
    code = response.status_code
    if code in _PASSING:
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isdigit() else None
        raise _Passing(f"the server answered {code} {response.reason}", wait)
    if not response.ok:
        raise _Unavailable(f"the server answered {code} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _Unavailable("a web page came instead of the file (a login or portal page?)")


def _translated(error: Exception) -> _Unavailable | _Passing:
    """What went wrong, in words that help, and whether another attempt may not."""
    import requests
    from urllib3 import exceptions

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return _Unavailable(
            "the server's certificate is not trusted; behind a proxy that rewrites TLS, "
            "set REQUESTS_CA_BUNDLE to its certificates"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return _Unavailable("the proxy (HTTPS_PROXY) did not answer")
    if isinstance(error, requests.TooManyRedirects):
        return _Unavailable(f"more than {MAX_REDIRECTS} redirects")
    if isinstance(error, requests.ConnectTimeout):
        return _Passing(f"no connection within {TIMEOUT[0]:.0f} s")
    if isinstance(error, requests.Timeout | exceptions.TimeoutError) or "timed out" in text:
        return _Passing(f"nothing came for {TIMEOUT[1]:.0f} s")
    if "NameResolutionError" in text or "getaddrinfo" in text:
        return _Unavailable("its name could not be resolved; is there a network?")
    if isinstance(error, exceptions.DecodeError | requests.exceptions.ContentDecodingError):
        return _Unavailable("its content is damaged")
    if isinstance(error, exceptions.ProtocolError | requests.exceptions.ChunkedEncodingError):
        return _Passing("the connection broke off")
    if isinstance(error, requests.ConnectionError):
        return _Passing("no connection could be made")
    return _Unavailable("no address that can be read, or no answer that can be understood")
