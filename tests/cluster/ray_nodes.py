"""A real Ray cluster of two nodes on the loopback, whose processes can be killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT

# in each worker: an image that holds these bytes kills whatever process opens it
DEADLY = b"kills whoever reads this"
_SITE = f"""
import os, signal
from PIL import Image, ImageFile
import PIL.Image
opened = PIL.Image.open
def open(file, *args, **kwargs):
    import io
    data = file.getvalue() if isinstance(file, io.BytesIO) else b""
    if not data and isinstance(file, (str, os.PathLike)):
        data = __import__("pathlib").Path(file).read_bytes()
    elif hasattr(file, "read") and not data:
        at = file.tell(); data = file.read(); file.seek(at)
    if {DEADLY!r} in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(file, *args, **kwargs)
PIL.Image.open = open
"""


class Cluster:
    """Nodes, started and killed at will."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.address = f"127.0.0.2:{self.port}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_SITE)

    def start(self, host: str) -> None:
        """Start a node; the first one is the head."""
        head = host == "127.0.0.2"
        where = ["--head", f"--port={self.port}"] if head else [f"--address={self.address}"]
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block",
            f"--node-ip-address={host}", "--num-cpus=1", "--object-store-memory=80000000",
            "--disable-usage-stats", *(["--include-dashboard=false"] if head else []),
            *([f"--temp-dir={self.folder}/ray"] if head else []),
        ]  # fmt: skip
        paths = [str(self.folder / "site"), str(ROOT)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": ""}
        self._nodes[host] = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if head:
            _wait_for_port(self.port)

    def kill(self, host: str) -> None:
        """Kill a node with all its processes."""
        node = self._nodes.pop(host)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def workers(self) -> list[int]:
        """The processes that make partitions."""
        return _processes("ray::PartitionWorker")

    def close(self) -> None:
        """Kill all nodes."""
        for host in list(self._nodes):
            self.kill(host)


def _processes(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(name.encode()):
                found.append(int(path.parent.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.2", port), 1):
            return
        time.sleep(0.1)
    pytest.fail("Ray's head node does not start")


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A cluster of two nodes of a processor each."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported
    os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    pytest.importorskip("ray", reason="ray is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has all of 127.0.0.0/8 on its loopback")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name))
        try:
            for host in ("127.0.0.2", "127.0.0.3"):
                cluster.start(host)
            yield cluster
        finally:
            cluster.close()
