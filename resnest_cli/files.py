"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_graph(path: Path) -> bool:
    """Whether a file is one of those that `resnest export` writes for OpenVINO to run."""
    return path.suffix in (".onnx", ".xml")


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
