"""How many processors there are to work with, and who else works with them."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # as a container sees its own limits there
_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # versions 2 and 1


def processors() -> int:
    """Those that this process may run on, and of whose time its container's limit leaves it some.

    On a large machine that may be few: `taskset`, batch systems and containers see to that.
    """
    return max(math.ceil(min(_share(_CGROUP), _bound())), 1)


def limited_to() -> int | None:
    """As `processors`, where a container's limit leaves less than the system shows; else None."""
    count = processors()
    return count if count < _bound() else None


def _bound() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _share(cgroup: Path) -> float:
    """Processors' worth of time that a control group grants; infinity where it is without limit."""
    for names in _LIMITS:
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return math.inf


def follows_another() -> bool:
    """Whether `torchrun` started this process beside another here, which talks."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and os.environ.get("LOCAL_RANK", "0") != "0"
