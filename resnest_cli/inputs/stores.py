"""Object stores: what lies under a URL such as s3://bucket/key: whole, by ranges, or as a list.

Requests are repeated after faults that may pass. Keys, endpoints and regions come from the
environment variables that the stores' own tools read.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from resnest_cli import settings
from resnest_cli.errors import ImageError, require_extra
from resnest_cli.text import one_line, printable

SCHEMES = ("s3://", "gs://", "az://")
MOST_BYTES = 2**29  # of one image; a server can claim any number

SECONDS = 30  # for one request; one that is interrupted goes on where it was
RETRIES = 5  # of a request, within `RETRY_SECONDS` of the first
RETRY_SECONDS = 60
FIRST_WAIT = 0.2  # seconds before the second attempt; it doubles
PUTS = 3  # attempts to store an object, each with its retries
SHORT_BODIES = 3  # attempts to get as many bytes as were listed
_BUFFER = 2**20  # bytes that are read at once of an object that is read by ranges

Answer = TypeVar("Answer")

_HTTP_ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL_S3",
    "AZURE_STORAGE_ENDPOINT",
)
_CLOUDS = ("AWS", "AZURE", "GOOGLE")
_OF_KEYS = {  # codes of S3 that are not 401 or 403 in every store
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "RequestTimeTooSkewed",
}  # fmt: skip
_NO_KEY = re.compile(  # none in the environment, and no service of the cloud gives one
    r"/latest/(api|meta-data)/|//169\.254\.|computeMetadata|credential error|Account must be"
)
_PASSING_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"}


class StoreError(ImageError):
    """A store does not give what it was asked for.

    `of_access`: it refuses the keys, or there are none, so that nothing else would be given either.
    """

    def __init__(self, message: str, *, may_pass: bool = False, of_access: bool = False) -> None:
        super().__init__(message, may_pass=may_pass)
        self.of_access = of_access


class NoObject(StoreError):
    """There is no such object, or no such bucket."""


def is_store_url(text: str) -> bool:
    """Whether an input lies in an object store."""
    return text.startswith(SCHEMES)


def split(url: str) -> tuple[str, str]:
    """The URL of a bucket and a key in it, which may be empty."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def url_of(path: Path) -> str | None:
    """The URL that a path was made of, which keeps one slash of two; None if it is a file's."""
    found = re.fullmatch("(s3|gs|az):/+(.*)", path.as_posix())
    return f"{found[1]}://{found[2]}" if found else None


def fetch(url: str, listed: int = -1) -> bytes:
    """An object's bytes.

    Args:
        url: the object.
        listed: bytes that it had when it was listed; -1: it was not.

    Raises:
        StoreError: it is missing, refused, cut, or over `MOST_BYTES`.
    """
    root, key = split(url)
    wait = FIRST_WAIT
    for _ in range(SHORT_BODIES):
        data = _asked(lambda: _body(_store(root), key))
        if listed in (-1, len(data)) or size(url) == len(data):  # it is another one by now
            return data
        time.sleep(wait)
        wait *= 2
    raise StoreError(f"the store gave {len(data):,} of {listed:,} bytes", may_pass=True)


def fetch_range(url: str, start: int, length: int) -> bytes:
    """Some bytes of an object, fewer at its end; `StoreError` if they cannot be had."""
    import obstore

    root, key = split(url)
    if length <= 0:
        return b""
    try:
        return _asked(
            lambda: bytes(obstore.get_range(_store(root), key, start=start, length=length))
        )
    except StoreError as error:
        if "Wanted range" in str(error.__cause__) or "answered 416" in str(error):
            return b""  # it begins behind the end
        raise


def size(url: str) -> int | None:
    """An object's bytes; None if it does not exist; `StoreError` for other faults."""
    root, key = split(url)

    def ask() -> int:
        import obstore

        return int(obstore.head(_store(root), key)["size"])

    try:
        return _asked(ask)
    except NoObject:
        return None


def keys(url: str) -> Iterator[tuple[str, int]]:
    """The keys below a URL that names a folder, each with its bytes, as the store lists them.

    They are asked for page by page. `StoreError` if the store does not list them.
    """
    root, prefix = split(url)

    def begin() -> Iterator[Any]:
        import obstore

        return iter(obstore.list(_store(root), prefix=prefix or None, chunk_size=1000))

    pages = _asked(begin)
    while page := _asked(lambda: next(pages, None)):
        for found in page:
            yield found["path"], found["size"]


def names(url: str) -> list[str]:
    """The names of the objects right below a URL that names a folder; `StoreError`."""
    root, prefix = split(url)

    def ask() -> list[str]:
        import obstore

        found = obstore.list_with_delimiter(_store(root), prefix=prefix or None)["objects"]
        return [str(each["path"]).rpartition("/")[2] for each in found]

    return _asked(ask)


def put(url: str, content: bytes | Path, *, new: bool = False) -> bool:
    """Store an object, whole or not at all, and with `new` only if there is none; whether it was.

    After a fault that may pass it is tried again: so it may be stored already, and not be `new`.
    """
    root, key = split(url)

    def ask() -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(_store(root), key, content, mode="create" if new else "overwrite")
        except AlreadyExistsError:
            return False
        return True

    wait = FIRST_WAIT
    for _ in range(PUTS - 1):
        try:
            return _asked(ask)
        except StoreError as error:
            if not error.may_pass:
                raise
        time.sleep(wait)
        wait *= 2
    return _asked(ask)


def open_object(url: str) -> BinaryIO:
    """An object to be read from any position; `StoreError`, also from its methods."""
    return cast(BinaryIO, io.BufferedReader(_Object(url), _BUFFER))


class _Object(io.RawIOBase):
    """An object read by ranges."""

    def __init__(self, url: str) -> None:
        found = size(url)
        if found is None:
            raise NoObject("no such object")
        self._url, self._size, self._at = url, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._size - self._at), 0)
        data = fetch_range(self._url, self._at, length)
        if len(data) < length:
            raise StoreError(f"the store gave {len(data):,} of {length:,} bytes", may_pass=True)
        buffer[:length] = data
        self._at += length
        return length


@lru_cache(maxsize=16)
def _store(root: str) -> Any:
    """A bucket, its keys taken from the environment."""
    if settings.offline():
        raise StoreError("the network is off ($RESNEST_OFFLINE)")
    require_extra("cloud", "obstore")
    from obstore.store import from_url

    # an endpoint without TLS is one that the user has named
    plain = any(os.environ.get(name, "").startswith("http://") for name in _HTTP_ENDPOINTS)
    backoff = {
        "init_backoff": timedelta(seconds=FIRST_WAIT),
        "max_backoff": timedelta(seconds=RETRY_SECONDS / 6),
        "base": 2,
    }
    store: Any = from_url
    return store(
        root,
        client_options={
            "timeout": f"{SECONDS}s",
            "connect_timeout": f"{min(SECONDS, 10)}s",
            "allow_http": plain or any(_is_on(f"{name}_ALLOW_HTTP") for name in _CLOUDS),
        },
        retry_config={
            "max_retries": RETRIES,
            "backoff": backoff,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        },
    )


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def _body(store: Any, key: str) -> bytes:
    import obstore

    found = obstore.get(store, key)
    if found.meta["size"] > MOST_BYTES:
        raise StoreError(f"larger than {MOST_BYTES // 2**20} MiB")
    return bytes(found.bytes())


def _asked(request: Callable[[], Answer]) -> Answer:
    """What a request gives, its faults in words."""
    from obstore.exceptions import BaseError

    try:
        return request()
    except (BaseError, OSError, ValueError) as error:  # some are subclasses of Python's own
        raise _in_words(error) from error


def _in_words(error: Exception) -> StoreError:
    """A fault of obstore in one line, and whether it may pass."""
    text = str(error).partition("\n\nDebug source")[0]
    found = re.search(r"status(?: code:)? (\d{3})\b", text)  # in words of several versions
    code = re.search(r"<Code>(\w+)</Code>", text)
    status, name = int(found[1]) if found else 0, code[1] if code else ""
    answer = f"the store answered {status}{f' ({name})' * bool(name)}"
    if status in (401, 403) or name in _OF_KEYS:
        hint = "; the key has expired" if name == "ExpiredToken" else ""
        return StoreError(answer + hint, of_access=True)
    if status == 404 or isinstance(error, FileNotFoundError):
        return NoObject("no such bucket" if name == "NoSuchBucket" else "no such object")
    if status in (408, 429) or status >= 500 or name in _PASSING_CODES:
        return StoreError(answer, may_pass=True)
    if 300 <= status < 400:
        return StoreError(f"{answer}: the bucket is in another region", of_access=True)
    if status:
        return StoreError(answer)
    if _NO_KEY.search(text):
        return StoreError("no key for the store in the environment", of_access=True)
    if re.search(r"HTTP error|timed out|body error", text):
        slow = "kind: Timeout" in str(error) or "timed out" in str(error)
        return StoreError(
            "the store did not answer in time" if slow else "the connection broke off",
            may_pass="builder error" not in text,
        )
    if empty := re.search(r'Path "(.*)" contained empty path segment', text):
        return StoreError(f"the key '{printable(empty[1])}' has an empty part")
    return StoreError(one_line(text)[:200])
