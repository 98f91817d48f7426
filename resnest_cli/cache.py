"""Where downloaded and hand-placed files are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """`$RESNEST_HOME`, else the platform's user cache folder + `resnest`; it need not exist."""
    given = os.environ.get("RESNEST_HOME")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("resnest", False)


def checkpoints_folder() -> Path:
    """Where checkpoints are, under their published names."""
    return home() / "checkpoints"


def compiled_folder() -> Path:
    """Where networks are in the form that an engine loads."""
    return home() / "compiled"


def offline() -> bool:
    """Whether `$RESNEST_OFFLINE` forbids the network: any value but empty, 0, false or no."""
    return os.environ.get("RESNEST_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
