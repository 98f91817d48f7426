"""What this machine has: processors, a GPU, and other processes of the same run."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_CGROUP = Path("/sys/fs/cgroup")  # where a container sees its own limits
_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # versions 2 and 1
_CPUINFO = Path("/proc/cpuinfo")
_PROCESS = os.getpid()  # that imported this
Owner = TypeVar("Owner")


def processors() -> int:
    """CPUs available to this process: its affinity, and the CPU quota of its container."""
    return max(math.ceil(min(_quota(_CGROUP), _affinity())), 1)


def limited_to() -> int | None:
    """As `processors`, if a container's quota allows fewer than the system shows; else None."""
    count = processors()
    return count if count < _affinity() else None


def cpu_name() -> str:
    """The processor's name, for people."""
    found = (line for line in _cpuinfo() if line.startswith("model name"))
    return next((line.partition(": ")[2] for line in found), platform.processor())


def cpu_identity() -> str:
    """What tells processors apart: a network is compiled for the instruction set of one."""
    kept = [x for x in _cpuinfo() if x.startswith(("model name", "flags", "Features"))]
    return "\n".join(kept) or f"{platform.machine()} {platform.processor()}"


def is_secondary_process() -> bool:
    """Whether `torchrun` started this process and it is not the first one on this machine."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and os.environ.get("LOCAL_RANK", "0") != "0"


def is_main_process() -> bool:
    """Whether this process is the first of those that `torchrun` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_forked() -> bool:
    """Whether this process may be a copy of one that has computed already."""
    workers = sys.modules.get("multiprocessing")
    return os.getpid() != _PROCESS or bool(workers and workers.parent_process())


def after_fork(owner: Owner, restart: Callable[[Owner], None]) -> None:
    """Call `restart(owner)` in each process that is forked from this one while `owner` exists.

    Of its threads none exist there, and its locks may be held by them.
    """
    known = weakref.ref(owner)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            after_in_child=lambda: restart(found) if (found := known()) is not None else None
        )


def has_gpu() -> bool:
    """Whether torch would find a GPU, without importing it: Apple's, or CUDA's driver with one."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):
        return False


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _quota(cgroup: Path) -> float:
    """CPUs' worth of time that a control group grants; infinity if it has no limit."""
    for names in _LIMITS:
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return math.inf


def _cpuinfo() -> list[str]:
    """The lines about the first processor; none on systems other than Linux."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.split("\n\n", 1)[0].splitlines()
