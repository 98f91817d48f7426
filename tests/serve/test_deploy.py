"""The examples of docs/guide/deploy.md: systemd accepts the unit, and nginx serves the page."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.serve.test_page import MODEL, Stub, stub

__all__ = ["stub"]
GUIDE = (ROOT / "docs/guide/deploy.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)
    assert found
    return found[1]


def tool(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_systemd_accepts_the_unit(tmp_path: Path):
    analyze = tool("systemd-analyze")
    unit = tmp_path / "resnest.service"
    program = Path(sys.executable).with_name("resnest")
    unit.write_text(example("ini").replace("/opt/resnest/bin/resnest", str(program)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def proxy(upstream: str, tmp_path: Path) -> Iterator[str]:
    """The address of nginx before a server, configured as in the guide."""
    nginx, openssl, port = tool("nginx"), tool("openssl"), free_port()
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=images.example.org", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    text = example("nginx").replace("127.0.0.1:8000", upstream)
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}")
    text = re.sub(r"(ssl_certificate) \S+;", rf"\1 {tmp_path}/cert;", text)
    text = re.sub(r"(ssl_certificate_key) \S+;", rf"\1 {tmp_path}/key;", text)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{one}_temp_path {tmp_path}/{one};\n" for one in places)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{text} }}\n"
    )
    with (tmp_path / "errors").open("wb") as errors:
        command = [nginx, "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"]
        process = subprocess.Popen(command, stderr=errors)
    try:
        for _ in range(100):
            with socket.socket() as one:
                if not one.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None, (tmp_path / "errors").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def ask(
    address: str, path: str, *, name: str = "images.example.org", body: bytes = b"", length: int = 0
) -> tuple[int, bytes]:
    """The proxy's answer to a request for this name: status and body."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.partition(":")
    length = length or len(body)
    head = f"{'POST' if length else 'GET'} {path} HTTP/1.0\r\nHost: {name}\r\n"
    head += f"Origin: https://{name}\r\n"
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as one,
    ):
        one.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: one.recv(65536), b""))
    header, _, rest = answer.partition(b"\r\n\r\n")
    return int(header.split()[1]), rest


def test_nginx_serves_the_page_and_the_api(stub: Stub, tmp_path: Path):
    with proxy(stub.url[7:-1], tmp_path) as address:
        status, page = ask(address, "/")
        assert (status, page[:15]) == (200, b"<!doctype html>")
        assert ask(address, "/app.js")[0] == 200
        assert json.loads(ask(address, "/v1/models")[1]) == {"models": [MODEL]}
        assert ask(address, "/v1/predict", body=bytes(5_000_000)) == (200, b"[]")
        assert ask(address, "/v1/predict", length=70_000_000)[0] == 413
        assert len(stub.posts) == 1
        with pytest.raises(ssl.SSLError):
            ask(address, "/", name="attacker.example")
