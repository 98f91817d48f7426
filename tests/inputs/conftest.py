"""A store of objects for tests, empty at the start of each."""

import pytest

from tests.stores import serving


@pytest.fixture(scope="session")
def served():
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    with serving() as found:
        yield found


@pytest.fixture
def store(served, monkeypatch):
    """A store, see `tests.stores`, in a bucket of its own."""
    from resnest_cli.inputs import members, stores

    found, variables = served
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found.clear()
    for cache in (stores._store, members._stream, members._column):
        cache.cache_clear()
    monkeypatch.setattr(stores, "SECONDS", 1)
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(stores, "RETRIES", 2)
    yield found
    stores._store.cache_clear()
