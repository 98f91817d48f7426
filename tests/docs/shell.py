"""A shell for the documentation's examples, in which `resnest` and `python` start at once.

One process imports everything, and forks for each command; it computes nothing itself, so that its
children may. The commands themselves are run by bash, word for word.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from tests.conftest import ROOT, Done

_IMPORTED = (
    "matplotlib.backends.backend_agg",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.metrics",
    "torchvision.transforms.v2",
    "resnest_cli.cli.app",
    "resnest_cli.training.session",
)
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    request = {{"kind": {kind!r}, "arguments": sys.argv[1:], "folder": os.getcwd(),
               "environment": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    sys.exit(int(server.recv(16) or 70))
"""


class Shell:
    """Runs commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of the commands `resnest` and `python`, and any others

    def add(self, name: str, script: str) -> None:
        """Make a command."""
        path = self.folder / name
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)

    def run(self, command: str, folder: Path, environment: dict[str, str]) -> Done:
        """Run a command line in bash, and wait for it."""
        path = f"{self.folder}{os.pathsep}{os.defpath}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder, env={**os.environ, "PATH": path, **environment}, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def open_shell() -> Iterator[Shell]:
    """A shell whose server ends with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "socket"
        shell = Shell(folder)
        for kind in ("resnest", "python"):
            shell.add(kind, _CLIENT.format(python=sys.executable, path=str(path), kind=kind))
        command = [sys.executable, "-m", "tests.docs.shell", str(path)]
        with subprocess.Popen(command, cwd=ROOT) as server:
            try:
                while not path.exists() and server.poll() is None:
                    time.sleep(0.05)
                assert server.poll() is None, "the server cannot import the package"
                yield shell
            finally:
                server.kill()


def _serve(path: str) -> None:
    """Import what commands need, then fork for each that a client asks for."""
    for module in _IMPORTED:
        import_module(module)
    gc.freeze()  # so that children need not copy what they only look at
    with socket.socket(socket.AF_UNIX) as listener, DefaultSelector() as events:
        listener.bind(path + ".new")
        listener.listen()
        os.rename(path + ".new", path)
        events.register(listener, EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    child = _start(client)
                    events.register(os.pidfd_open(child), EVENT_READ, (child, client))
                else:
                    events.unregister(key.fileobj)
                    os.close(key.fd)
                    _end(*key.data)


def _start(client: socket.socket) -> int:
    """Run the command that a client sends in a child."""
    message, descriptors, _, _ = socket.recv_fds(client, 65536, 3)
    while not message.endswith(b"\n"):
        message += client.recv(65536)
    child = os.fork()
    if child == 0:
        client.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, max(descriptors) + 1)
        _run(json.loads(message))
    for descriptor in descriptors:
        os.close(descriptor)
    return child


def _end(child: int, client: socket.socket) -> None:
    """Send a client the exit code of its command."""
    _, status = os.waitpid(child, 0)
    with client, suppress(OSError):  # it may have been killed
        client.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())


def _run(request: dict[str, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = request["arguments"]
    code = 1
    try:
        if request["kind"] == "resnest":
            from resnest_cli.cli.app import main

            sys.argv = ["resnest", *arguments]
            main()
        exec(compile(Path(arguments[0]).read_text(), arguments[0], "exec"), {"__name__": "page"})
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
