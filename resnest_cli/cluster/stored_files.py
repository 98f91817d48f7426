"""Files of a run in partitions that is kept in an object store: each is one object, put at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resnest_cli.errors import OutputError
from resnest_cli.inputs import stores
from resnest_cli.inputs.stores import NoObject, StoreError


class StoredFiles:
    """What `manifest.Folder` asks of a prefix in a store."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def names(self) -> list[str]:
        """The objects right below the prefix, sorted, without hidden ones."""
        with self._errors("listed"):
            return sorted(n for n in stores.names(self._url) if not n.startswith("."))

    def open(self, name: str) -> IO[bytes]:
        """An object, to be read from any position; `FileNotFoundError` if it is missing."""
        try:
            with self._errors(f"read: {name}"):
                return stores.open_object(f"{self._url}/{name}")
        except OutputError as error:
            if isinstance(error.__cause__, NoObject):
                raise FileNotFoundError(name) from error
            raise

    def add(self, name: str, content: bytes) -> bool:
        """Put an object unless it exists; whether it was put."""
        with self._errors(f"written: {name}"):
            return stores.put(f"{self._url}/{name}", content, new=True)

    @contextmanager
    def put(self, name: str) -> Iterator[Path]:
        """A local path to write to; at the end its content replaces an object, whole."""
        with tempfile.TemporaryDirectory(prefix="resnest-") as folder:
            path = Path(folder, Path(name).name)
            yield path
            with self._errors(f"written: {name}"):
                stores.put(f"{self._url}/{name}", path)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise OutputError(f"'{self._url}' cannot be {done}: {error}") from error
