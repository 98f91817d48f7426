"""URLs of strangers lead to public addresses only."""

import socket
import time

import pytest

from resnest_cli import Classifier
from resnest_cli.errors import ImageError
from resnest_cli.net import http, public_only
from tests.conftest import FakeEngine
from tests.servers import content, serving, status

PRIVATE = (
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 "
    "fe80::1 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1::"
).split()


def resolve_to(monkeypatch, *addresses):
    """Let every name have these addresses; the names that are looked up are returned."""
    asked = []

    def getaddrinfo(host, port, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address):
    with pytest.raises(ImageError, match="is not a public address; the option allow-private"):
        public_only.check_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ImageError, match="is not a public address"):
        http.get_image(f"http://{host}:9/x.jpg")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_allowed(address):
    public_only.check_public(address)


@pytest.mark.parametrize("name", ["localhost", "localhost."])
def test_names_are_resolved_and_nothing_is_sent(name):
    with serving(content(b"secret")) as server:
        with pytest.raises(ImageError, match="is not a public address"):
            http.get_image(f"http://{name}:{server.server_address[1]}/x.jpg")
        assert server.requests == []


def test_a_name_is_resolved_once_and_all_its_addresses_count(monkeypatch):
    asked = resolve_to(monkeypatch, "93.184.215.14", "127.0.0.1")
    with pytest.raises(ImageError, match=r"127\.0\.0\.1 is not a public address"):
        http.get_image("http://two-faced.example/x.jpg")
    assert asked == ["two-faced.example"]


def test_slow_name_resolution_is_given_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    monkeypatch.setattr(http, "IMAGE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"timed out after 0\.3 s"):
        http.get_image("http://slow.example/x.jpg")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("allowed", [False, True])
def test_silent_addresses_share_the_time(allowed, monkeypatch):
    given = []

    def connect(address, timeout, **_):
        given.append(timeout)
        time.sleep(min(timeout, 5))
        raise TimeoutError

    resolve_to(monkeypatch, *(f"93.184.215.{n}" for n in range(50)))
    monkeypatch.setattr(public_only, "create_connection", connect)
    monkeypatch.setattr(http, "TIMEOUT", (0.2, 1.0))
    monkeypatch.setattr(http, "IMAGE_SECONDS", 0.5)
    with pytest.raises(ImageError, match=r"timed out after 0\.5 s"):
        http.get_image("http://silent.example/x.jpg", allow_private=allowed)
    assert 2 <= len(given) <= 4
    assert given[-1] < 0.2


def test_redirects_are_checked_too(monkeypatch):
    seen = []

    def only_the_first(address):
        seen.append(address)
        if len(seen) > 2:  # the URL's own address, and the connection's
            raise ImageError("not a public address")

    monkeypatch.setattr(public_only, "check_public", only_the_first)
    with serving(content(b"secret")) as inner:
        to = status(302, Location=inner.url)
        with serving(to) as outer, pytest.raises(ImageError, match="not a public address"):
            http.get_image(outer.url)
        assert inner.requests == []


@pytest.mark.parametrize("spelled_out", [False, True])
def test_a_private_proxy_is_used_and_private_addresses_stay_refused(spelled_out, monkeypatch):
    with serving(content(b"image")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        if spelled_out:
            with pytest.raises(ImageError, match="is not a public address"):
                http.get_image("http://10.1.2.3/x.jpg")
            assert proxy.requests == []
        else:
            assert http.get_image("http://images.invalid/x.jpg") == b"image"


def test_nothing_connects_without_limits():
    session = http.open_session(public_only.LimitedAdapter())
    with serving(content(b"secret")) as server, session, pytest.raises(LookupError):
        session.get(f"http://localhost:{server.server_address[1]}/", timeout=5)
    assert server.requests == []


def test_private_addresses_can_be_allowed(drawn_image):
    with serving(content(drawn_image.read_bytes())) as server:
        refused, read = (
            next(Classifier(engine=FakeEngine(), allow_private=allowed).stream([server.url]))
            for allowed in (False, True)
        )
    assert "option allow-private" in refused.error
    assert read.predictions
