"""Every environment variable that this package reads, and the folders that follow from them.

RESNEST_HOME      cache folder; default: the platform's user cache folder + `resnest`
RESNEST_MODEL     the default model; else resnest50
RESNEST_ENGINE    the engine that `auto` stands for
RESNEST_MIRROR    a URL prefix that is tried before the built-in download addresses
RESNEST_OFFLINE   never touch the network: 1, true or yes; else 0, false or no
RESNEST_DEBUG     show tracebacks and library warnings
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from resnest_cli.errors import UsageError

DEFAULT_MODEL = "resnest50"
_ON, _OFF = ("1", "true", "yes"), ("", "0", "false", "no")


def home() -> Path:
    """The cache folder; it need not exist."""
    given = os.environ.get("RESNEST_HOME")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("resnest", False)


def checkpoints_folder() -> Path:
    """Where checkpoints are stored, under their published names."""
    return home() / "checkpoints"


def compiled_folder() -> Path:
    """Where compiled networks are stored, in the form that an engine loads."""
    return home() / "compiled"


def digests_folder() -> Path:
    """Where the SHA-256 of files are recorded, see `hashing`."""
    return home() / "digests"


def inductor_folder() -> Path:
    """Where torch stores what `torch.compile` generates."""
    return home() / "inductor"


def offline() -> bool:
    """Whether the network must not be touched; `UsageError` if the variable says neither."""
    given = os.environ.get("RESNEST_OFFLINE", "")
    if (value := given.strip().lower()) not in (*_ON, *_OFF):
        raise UsageError(f"$RESNEST_OFFLINE must be 1, true, yes, 0, false or no, not '{given}'")
    return value in _ON


def debug() -> bool:
    """Whether tracebacks are shown."""
    return bool(os.environ.get("RESNEST_DEBUG"))


def mirror() -> str | None:
    """The URL prefix that is tried first, ending in a slash; `UsageError` if it is not one."""
    given = os.environ.get("RESNEST_MIRROR")
    if given and not given.lower().startswith(("http://", "https://")):
        raise UsageError(f"$RESNEST_MIRROR must begin with http:// or https://, not '{given}'")
    return f"{given.rstrip('/')}/" if given else None


def model() -> str | None:
    """The default model, where one is set."""
    return os.environ.get("RESNEST_MODEL") or None


def engine() -> str:
    """The engine that `auto` stands for; `auto` where none is set."""
    return os.environ.get("RESNEST_ENGINE") or "auto"
