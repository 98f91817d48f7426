"""SHA-256 of files, recorded in the cache folder with each file's path, size, times and inode.

A file that was changed within the last seconds is not recorded: its times might not show another
change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from resnest_cli import settings
from resnest_cli.files import atomic_write, check_regular

_SETTLED = 2_000_000_000  # nanoseconds


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hex digits, computed now."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hex digits: the recorded one if the file has not changed since."""
    before = _state(path)
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    record = settings.digests_folder() / name
    if (found := _read(record)) and found[1] == before:
        return found[2]
    digest = sha256_of(path)
    if _state(path) == before and time.time_ns() - max(before[1:3]) > _SETTLED:
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(record) as beside:
                beside.write_text(json.dumps([str(path.absolute()), before, digest]), "ascii")
        except OSError:
            pass  # a cache that cannot be written costs only time
    return digest


def stale_records() -> list[Path]:
    """The records of files that are gone or have changed, and unusable ones."""
    return [record for record in records() if not _is_current(record)]


def records() -> Iterator[Path]:
    """All records: files whose names are digests, as nobody else names files."""
    for path in settings.digests_folder().glob("*"):
        if re.fullmatch("[0-9a-f]{64}", path.name) and path.is_file():
            yield path


def _is_current(record: Path) -> bool:
    found = _read(record)
    try:
        return found is not None and _state(Path(found[0])) == found[1]
    except OSError:
        return False


def _read(record: Path) -> tuple[str, list[int], str] | None:
    """Path, state and digest in a record; None if it is missing or unusable."""
    try:
        check_regular(record)
        path, state, digest = json.loads(record.read_text(encoding="ascii"))
        return (path, state, digest) if isinstance(path + digest, str) else None
    except (OSError, ValueError, TypeError):
        return None


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
