"""A Ray cluster: joined where one runs, else started on this machine, and ended after use."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnest_cli.errors import OutputError, ResNeStError, UsageError, require_extra
from resnest_cli.hardware import processors

_SETTINGS = {  # of Ray, which reads them when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_raylet_start_wait_time_s": "120",  # on a busy machine 30 are too few
}
_LOCAL = {  # and of a cluster on this machine alone
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it listens on 127.0.0.1 alone
    "RAY_AUTH_MODE": "token",
}
_PACKAGES = ("resnest-cli", "torch", "openvino", "numpy", "pillow")  # that decide bits of results
_REACHABLE = 10  # seconds
_OBJECTS = 100 * 2**20  # bytes of a local cluster's object store, which holds no images


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster.

    Args:
        address: `ray` for the cluster of $RAY_ADDRESS, else for a new one on this machine alone;
            `ray://HOST:PORT` for a cluster by Ray's client; HOST:PORT for that of this node.

    Raises:
        UsageError: it is none of these.
        ResNeStError: Ray is not installed, or there is no cluster.
    """
    require_extra("ray", "ray")
    if address != "ray" and ":" not in address:
        raise UsageError(f"`on` must be ray, or ray://HOST:PORT, not '{address}'")
    if address.startswith("ray://") and find_spec("grpc") is None:
        raise ResNeStError(f"`on={address}` needs grpcio\npip install 'ray[client]'")
    given = os.environ.get("RAY_ADDRESS") if address == "ray" else address
    folder = None if given else tempfile.mkdtemp(prefix="ray-", dir=_short_folder())
    if "ray" not in sys.modules:
        settings = _SETTINGS | ({} if given else _LOCAL | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
        for name, value in settings.items():
            os.environ.setdefault(name, value)
    import ray

    try:
        _join(ray, given, folder)
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _join(ray: Any, address: str | None, folder: str | None) -> None:
    """Connect to the cluster at an address, or start one whose files lie in a folder."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    stop = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    try:
        if address:
            _check_reachable(address)
            ray.init(address, **quiet)
        else:
            ray.init(
                "local", num_cpus=processors(), include_dashboard=False, _temp_dir=folder,
                object_store_memory=_OBJECTS, **quiet,
            )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError, ImportError, OSError) as error:
        where = f"cannot be joined at {address}" if address else "does not start here"
        raise ResNeStError(f"a Ray cluster {where}: {' '.join(str(error).split())}") from error
    finally:
        with suppress(ValueError):  # not in the main thread: Ray has not replaced it
            signal.signal(signal.SIGTERM, stop)


def _check_reachable(address: str) -> None:
    """Raise `OSError` if nothing answers, which Ray would await for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), _REACHABLE):
            pass


def _short_folder() -> str | None:
    """Where Ray's sockets may lie, whose paths are 107 bytes at most."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 and Path("/tmp").is_dir() else None  # noqa: S108


def versions() -> dict[str, str | None]:
    """The versions of what decides the bits of a result; None: not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def settle(folder: str, cores: tuple[int, int] | None) -> None:
    """In a worker: go to the driver's folder, and keep to some processors of the node.

    Args:
        folder: from which relative paths start.
        cores: of equal shares of the processors, which one, and how many; None: all.

    Raises:
        OutputError: this node does not see the folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise OutputError(
            f"node {platform.node()} does not see the folder '{folder}'\n"
            "start in a folder that all nodes see, such as one of a network file system"
        ) from error
    if cores and hasattr(os, "sched_setaffinity"):
        slot, count = cores
        if mine := sorted(os.sched_getaffinity(0))[slot * count : (slot + 1) * count]:
            os.sched_setaffinity(0, mine)
