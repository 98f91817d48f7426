"""A checkpoint to a file: verified, resumed after a break, never left half in place."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from resnest_cli.errors import DownloadError
from resnest_cli.files import check_regular
from resnest_cli.hashing import sha256_of
from resnest_cli.net import http
from resnest_cli.net.http import OnBytes, Transient, Unavailable

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

ATTEMPTS = 3  # per address, for faults that may pass
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever Retry-After says


@dataclass(frozen=True)
class Download:
    """One file to download."""

    urls: Sequence[str]  # tried in turn
    target: Path
    sha256: str | None  # the digest's first hex digits; None: nobody published one

    @property
    def part(self) -> Path:
        """Where the bytes are until all have arrived and are verified."""
        return self.target.with_name(self.target.name + ".part")

    def run(self, on_bytes: OnBytes | None = None) -> str:
        """Download, verify and put into place; the whole SHA-256, or else `DownloadError`."""
        reasons = []
        with http.open_session() as session:
            for url in self.urls:
                try:
                    digest = self._from(session, url, on_bytes)
                except Unavailable as reason:
                    log.info("%s: %s", url, reason)
                    reasons.append(f"{url}: {reason}")
                except OSError as error:
                    raise DownloadError(
                        f"cannot write '{self.part}': {error.strerror or error}; "
                        "set $RESNEST_HOME to another cache folder"
                    ) from error
                else:
                    self.part.replace(self.target)
                    return digest
        raise DownloadError("; ".join(reasons))

    def _from(self, session: requests.Session, url: str, on_bytes: OnBytes | None) -> str:
        """Attempt an address until it serves the file.

        urllib3's `Retry` can't do this: it repeats a request, and not one whose body broke off,
        which is to be continued by a Range.
        """
        if self.sha256 is None:
            self.part.unlink(missing_ok=True)  # it may be of another file, and nothing would notice
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._verified(resumed=self._attempt(session, url, on_bytes))
            except Transient as problem:
                if attempt == ATTEMPTS:
                    raise Unavailable(str(problem)) from problem
                backoff = 2.0 ** (attempt - 1)
                wait = min(backoff if problem.wait is None else problem.wait, LONGEST_WAIT)
                log.info("%s: %s; trying again in %.0f s", url, problem, wait)
                sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, session: requests.Session, url: str, on_bytes: OnBytes | None) -> bool:
        """Bring the part file up to its whole length; whether an earlier part was continued."""
        import requests
        import urllib3

        check_regular(self.part)
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with session.get(
                url, headers=headers, stream=True, timeout=http.TIMEOUT, verify=http.trusted()
            ) as response:
                _check_encrypted(url, response)
                if response.status_code == 416:  # the part is as long as the file, or longer
                    return True
                _check_status(response)
                resumed = response.status_code == 206
                self._receive(response, have if resumed else 0, on_bytes)
                return resumed
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise http.translated(error) from error

    def _receive(self, response: requests.Response, have: int, on_bytes: OnBytes | None) -> None:
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        total = have + int(length) if length.isdigit() and not encoded else None
        with self.part.open("ab" if have else "wb") as file:
            for chunk in http.chunks(response):
                file.write(chunk)
                have += len(chunk)
                if on_bytes:
                    on_bytes(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            raise Transient(f"the connection ended after {have:,} of {total:,} bytes")

    def _verified(self, *, resumed: bool) -> str:
        digest = sha256_of(self.part)
        if self.sha256 and not digest.startswith(self.sha256):
            self.part.unlink()
            reason = f"the file's SHA-256 is {digest[:8]}..., not {self.sha256}..."
            # parts of two files may have been joined; a file served whole would be the same again
            raise Transient(reason) if resumed else Unavailable(reason)
        return digest


def _check_encrypted(url: str, response: requests.Response) -> None:
    """Refuse what an encrypted address led to through one that is not encrypted."""
    passed = [step.url for step in (*response.history, response)]
    if url.lower().startswith("https:") and not all(p.lower().startswith("https:") for p in passed):
        raise Unavailable("redirected to http, refused")


def _check_status(response: requests.Response) -> None:
    http.check_status(response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise Unavailable("a web page was served instead of the file (a login or portal page?)")
