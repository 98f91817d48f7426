"""Every environment variable that this package reads, and the folders that follow from them.

RESNEST_HOME      cache folder; default: the platform's user cache folder + `resnest`
RESNEST_MODEL     the default model; else resnest50
RESNEST_ENGINE    the engine that `auto` stands for
RESNEST_MIRROR    a URL prefix that is tried before the built-in download addresses
RESNEST_OFFLINE   never touch the network: 1, true or yes; else 0, false or no
RESNEST_DEBUG     show tracebacks and library warnings

Libraries store nothing outside of the cache folder either, see `contain`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import platformdirs

from resnest_cli.errors import UsageError

DEFAULT_MODEL = "resnest50"
_ON, _OFF = ("1", "true", "yes"), ("", "0", "false", "no")
# the variables that name a library's folders, and where they are in the cache folder
_STORES = {
    "inductor": {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "inductor/triton"},
    "cuda": {"CUDA_CACHE_PATH": "cuda", "PYTORCH_KERNEL_CACHE_PATH": "cuda/torch"},
    "matplotlib": {"MPLCONFIGDIR": "matplotlib"},
}


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


def contain(library: str) -> None:
    """Have a library store in the cache folder, in this process, except where the user has set it.

    This is called before the library is first used: torch makes its folder when it is imported.
    """
    top = home()
    with suppress(OSError):
        top.mkdir(parents=True, exist_ok=True)
    if not os.access(top, os.W_OK):  # then the library would look for a place of its own
        top = _until_exit()
    for name, folder in _STORES[library].items():
        os.environ.setdefault(name, str(top / folder))


@cache
def _until_exit() -> Path:
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="resnest-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


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
