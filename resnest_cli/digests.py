"""SHA-256 of files that were read through once and did not change since.

What is known of a file is kept in the cache folder, with the size, times and inode that it had. A
file that was changed within the last seconds is not remembered: its times could not tell whether
it was changed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from resnest_cli import cache
from resnest_cli.fetch import sha256_of
from resnest_cli.files import into_place

_SETTLED = 2_000_000_000  # nanoseconds


def of(path: Path) -> str:
    """A file's SHA-256 in hex digits."""
    before = _state(path)
    record = (
        cache.home() / "digests" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()}"
    )
    try:
        state, digest = json.loads(record.read_text(encoding="ascii"))
        if state == before and isinstance(digest, str):
            return digest
    except (OSError, ValueError, TypeError):
        pass  # not there, or of no use
    digest = sha256_of(path)
    if _state(path) == before and time.time_ns() - max(before[1:3]) > _SETTLED:
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            with into_place(record) as beside:
                beside.write_text(json.dumps([before, digest]), encoding="ascii")
        except OSError:
            pass  # a cache that cannot be written costs only time
    return digest


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
