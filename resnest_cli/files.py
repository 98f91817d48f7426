"""Files that are either whole or not there, and folders that take them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import OutputError


def is_graph(path: Path) -> bool:
    """Whether a file is one of those that `resnest export` writes for OpenVINO to run."""
    return path.suffix in (".onnx", ".xml")


def writable_folder(folder: Path) -> None:
    """Make a folder where there is none; raise `OutputError` if no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"'{folder}' cannot be written to: {error.strerror or error}\ngive another folder"
        ) from error


def claim(file: IO[Any], name: Path) -> None:
    """Keep a file that is open for writing to this process until it is closed.

    Without effect on Windows and on file systems that have no locks.

    Raises:
        OutputError: another process has claimed it.
    """
    try:
        import fcntl  # whose locks, other than flock's, forked processes don't share
    except ImportError:  # on Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(
            f"another run is at work in '{name}'\nwait for its end, or name another --output"
        ) from None
    except OSError:  # a file system without locks
        pass


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a folder to one process; it is free again when that ends, however it does.

    Raises:
        OutputError: another process has claimed it.
    """
    with (folder / ".lock").open("w") as file:
        claim(file, folder)
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file
                (folder / ".lock").unlink(missing_ok=True)


@contextmanager
def into_place(path: Path) -> Iterator[Path]:
    """A path beside a file to write to; renamed into the file's place once that has gone well."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
