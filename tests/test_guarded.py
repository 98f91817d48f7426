"""URLs of strangers lead to public addresses only."""

import socket
import time

import pytest

from resnest_cli import Classifier, fetch, guarded
from resnest_cli.errors import ImageError
from tests.servers import content, serving, status

PRIVATE = (
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 "
    "fe80::1 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1::"
).split()


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address):
    with pytest.raises(ImageError, match="no public address; --allow-private"):
        guarded.check_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ImageError, match="no public address"):
        fetch.get_picture(f"http://{host}:9/x.jpg")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_not(address):
    guarded.check_public(address)


@pytest.mark.parametrize("name", ["localhost", "localhost."])
def test_names_are_looked_up_and_nothing_is_sent(name):
    with serving(content(b"secret")) as server:
        port = server.url.rsplit(":", 1)[1].strip("/")
        with pytest.raises(ImageError, match="no public address"):
            fetch.get_picture(f"http://{name}:{port}/x.jpg")
        assert server.requests == []


def test_a_name_is_looked_up_once_and_all_its_addresses_count(monkeypatch):
    answers = []

    def resolve(host, port, *_, **__):
        answers.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in
                ("93.184.215.14", "127.0.0.1")]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ImageError, match=r"127\.0\.0\.1 is no public address"):
        fetch.get_picture("http://two-faced.example/x.jpg")
    assert answers == ["two-faced.example"]


def test_a_name_that_is_not_looked_up_in_time_is_given_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    monkeypatch.setattr(fetch, "PICTURE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"not there after 0\.3 s"):
        fetch.get_picture("http://slow.example/x.jpg")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("allowed", [False, True])
def test_addresses_that_do_not_answer_take_no_more_than_the_time_in_all(allowed, monkeypatch):
    given = []

    def connect(address, timeout, **_):
        given.append(timeout)
        time.sleep(min(timeout, 5))
        raise TimeoutError

    def resolve(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"93.184.215.{n}", port))
                for n in range(50)]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(guarded, "create_connection", connect)
    monkeypatch.setattr(fetch, "TIMEOUT", (0.2, 1.0))
    monkeypatch.setattr(fetch, "PICTURE_SECONDS", 0.5)
    with pytest.raises(ImageError, match=r"not there after 0\.5 s"):
        fetch.get_picture("http://silent.example/x.jpg", allow_private=allowed)
    assert 2 <= len(given) <= 4
    assert given[-1] < 0.2


def test_redirects_are_looked_at_too(monkeypatch):
    seen = []

    def only_the_first(address):
        seen.append(address)
        if len(seen) > 2:  # the URL's own address, and the connection's
            raise ImageError("no public address")

    monkeypatch.setattr(guarded, "check_public", only_the_first)
    with serving(content(b"secret")) as inner:
        to = status(302, Location=inner.url)
        with serving(to) as outer, pytest.raises(ImageError, match="no public address"):
            fetch.get_picture(outer.url)
        assert inner.requests == []


def test_it_can_be_allowed(monkeypatch, drawn_picture):
    with serving(content(drawn_picture.read_bytes())) as server:
        refused, read = (
            next(Classifier("demo", allow_private=allowed).stream([server.url]))
            for allowed in (False, True)
        )
    assert "--allow-private" in refused.error
    assert read.predictions
