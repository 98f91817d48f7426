"""Images from URLs: limits on size and time, and faults in words."""

import contextlib
import time

import pytest

from resnest_cli.errors import ImageError
from resnest_cli.net import http
from tests.servers import content, cut_after, serving, status

BODY = bytes(range(256)) * 2000


def drip(*head):
    """Lines of an answer, then ever more bytes, one at a time."""

    def behave(handler):
        handler.wfile.write("".join(f"{line}\r\n" for line in head).encode())
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.02)

    return behave


DRIPS = {
    "body": drip("HTTP/1.1 200 OK", "Content-Length: 1000000", ""),
    "body of unknown length": drip("HTTP/1.1 200 OK", "Connection: close", ""),
    "headers": drip("HTTP/1.1 200 OK"),
    "first line": drip(),
}


@pytest.mark.parametrize("behaviour", DRIPS.values(), ids=DRIPS)
def test_a_dripping_image_is_given_up(behaviour, monkeypatch):
    monkeypatch.setattr(http, "IMAGE_SECONDS", 0.3)
    start = time.monotonic()
    with serving(behaviour) as server, pytest.raises(ImageError, match=r"timed out after 0\.3 s"):
        http.get_image(server.url, allow_private=True)
    assert time.monotonic() - start < 5


def test_images_are_limited_in_size(monkeypatch):
    monkeypatch.setattr(http, "IMAGE_BYTES", 1000)
    with serving(content(bytes(2000))) as server, pytest.raises(ImageError, match="larger than"):
        http.get_image(server.url, allow_private=True)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (content(b"not gzip", Content_Encoding="gzip"), "damaged"),
        (cut_after(BODY, 500), "broke off"),
        (status(302, Location="file:///etc/passwd"), "not a valid address"),
        (status(302, Location="/again"), "more than 5 redirects"),
        (status(404), "404"),
    ],
)
def test_faults_are_named_in_one_line(behaviour, reason):
    with serving(behaviour) as server, pytest.raises(ImageError, match=reason) as caught:
        http.get_image(server.url, allow_private=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a b/x.jpg", "http://" + "a" * 70]
)
def test_addresses_that_are_not_valid(url):
    with pytest.raises(ImageError) as caught:
        http.get_image(url)
    assert "\n" not in str(caught.value)
