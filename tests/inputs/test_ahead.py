"""Fetching ahead: many at once, few in memory, and each image as it would be read alone."""

from collections import Counter
from threading import Event, Lock, Thread

import pytest

from resnest_cli.errors import ImageError
from resnest_cli.inputs import stores
from resnest_cli.inputs.ahead import _SLOT, _SLOTS, _THREADS, FetchAhead
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.source import stored as in_store


@pytest.fixture
def fetched(monkeypatch):
    """How many objects were asked for; a name with `bad` in it cannot be had."""
    count, lock = Counter(), Lock()

    def fetch(url: str, listed: int) -> bytes:
        with lock:
            count[url] += 1
        if "bad" in url:
            raise ImageError("gone", may_pass=True)
        return url.encode()

    monkeypatch.setattr(stores, "fetch", fetch)
    return count


@pytest.mark.parametrize(("size", "most"), [(1, _SLOTS), (_SLOT * 8, _SLOTS // 8), (2**29, 1)])
def test_memory_is_bounded(fetched, size, most):
    fetch, begun, ended = FetchAhead(), [], Event()

    def begin() -> None:
        for number in range(100):
            begun.append(fetch.begin(in_store(f"s3://b/{number}.png", size)))
        ended.set()

    Thread(target=begin, daemon=True).start()
    assert not ended.wait(0.3)
    assert len(begun) == most
    for number in range(100):
        while len(begun) <= number:
            ended.wait(0.01)
        assert begun[number].content.read() == f"s3://b/{number}.png".encode()
    assert ended.wait(5)
    assert set(fetched.values()) == {1}
    fetch.close()


def test_failures_free_their_place_and_other_sources_pass(fetched):
    fetch = FetchAhead()
    local = Source("a.png")
    assert fetch.begin(local) is local
    for number in range(3 * _SLOTS):
        with pytest.raises(ImageError) as caught:
            fetch.begin(in_store(f"s3://b/bad{number}.png")).content.read()
        assert caught.value.may_pass
    fetch.close()


def test_many_are_fetched_at_once(monkeypatch):
    together = Event()
    running, lock = [0], Lock()

    def fetch(url: str, listed: int) -> bytes:
        with lock:
            running[0] += 1
            if running[0] == _THREADS:
                together.set()
        assert together.wait(10)
        return b""

    monkeypatch.setattr(stores, "fetch", fetch)
    ahead = FetchAhead()
    begun = [ahead.begin(in_store(f"s3://b/{n}.png")) for n in range(_THREADS)]
    assert [source.content.read() for source in begun] == [b""] * _THREADS
    ahead.close()
