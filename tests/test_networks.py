"""Downloads over networks as they are: TLS, proxies, IPv6, stalls, full and read-only disks."""

import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import replace

import pytest

from resnest_cli import checkpoints, fetch
from resnest_cli.errors import CheckpointError, DownloadError
from resnest_cli.fetch import Download
from resnest_cli.variants import get_variant
from tests.servers import content, serving, status

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()
VARIANT = replace(get_variant("resnest50"), alias=None, digest=DIGEST[:8])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch, "_wait", lambda seconds: None)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody signed but itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def encrypted(server, certificate):
    """The server's URL once it speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return f"https://localhost:{server.server_address[1]}"


def fetched(url, tmp_path):
    return Download([url], tmp_path / "file", DIGEST[:8]).run()


def test_an_unknown_authority_is_refused_and_can_be_named(certificate, tmp_path, monkeypatch):
    with serving(content(BODY)) as server:
        url = encrypted(server, certificate)
        with pytest.raises(DownloadError, match=r"not trusted.*REQUESTS_CA_BUNDLE"):
            fetched(url, tmp_path)
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(certificate[0]))
            assert fetched(url, tmp_path) == DIGEST
            monkeypatch.delenv(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        with pytest.raises(DownloadError, match=r"\$SSL_CERT_FILE names .*not there"):
            fetched(url, tmp_path)


def test_encryption_is_not_left(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with serving(content(BODY)) as plain, serving(status(302, Location=plain.url)) as server:
        url = encrypted(server, certificate)
        with pytest.raises(DownloadError, match="leads from https to an address"):
            fetched(url, tmp_path)
    assert list(tmp_path.glob("file*")) == []


def test_encryption_is_not_left_on_the_way_either(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with serving(content(BODY)) as last, serving() as between, serving() as first:
        between.behaviours.append(status(302, Location=encrypted(last, certificate)))
        first.behaviours.append(status(302, Location=between.url))
        url = encrypted(first, certificate)
        with pytest.raises(DownloadError, match="leads from https to an address"):
            fetched(url, tmp_path)
    assert list(tmp_path.glob("file*")) == []


@pytest.mark.parametrize("to", ["ftp://localhost/x", "file:///etc/passwd"])
def test_redirects_to_other_schemes_are_not_followed(to, tmp_path):
    with serving(status(302, Location=to)) as server, pytest.raises(DownloadError):
        fetched(server.url, tmp_path)
    assert list(tmp_path.glob("file*")) == []


def test_a_proxy_is_used(tmp_path, monkeypatch):
    with serving(content(BODY)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert fetched("http://weights.invalid/resnest.pth", tmp_path) == DIGEST
    assert proxy.requests[0][0] == "http://weights.invalid/resnest.pth"


def test_a_proxy_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:1")
    with pytest.raises(DownloadError, match="proxy") as caught:
        fetched("https://weights.invalid/resnest.pth", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_name_that_is_not_known(tmp_path):
    with pytest.raises(DownloadError, match="name could not be resolved"):
        fetched("https://weights.invalid/resnest.pth", tmp_path)


def test_ipv6_alone(tmp_path, monkeypatch):
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    from tests import servers

    monkeypatch.setattr(servers.Server, "address_family", socket.AF_INET6)
    six = ("::1", 0)
    with servers.serving(content(BODY), address=six) as server:
        url = f"http://[::1]:{server.server_address[1]}/x"
        assert fetched(url, tmp_path) == DIGEST


def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", (1.0, 0.2))

    def silent(handler):
        handler.answer(200, BODY[:1000], length=len(BODY))
        handler.wfile.flush()
        handler.rfile.read(1)  # until the client is gone

    with serving(silent) as server, pytest.raises(DownloadError, match="nothing came"):
        fetched(server.url, tmp_path)
    assert len(server.requests) == fetch.ATTEMPTS
    assert not (tmp_path / "file").exists()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from resnest_cli import fetch
from resnest_cli.errors import DownloadError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    fetch.Download([sys.argv[1]], Path(sys.argv[2]), None).run()
except DownloadError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more(tmp_path):
    """As on a full disk or past a quota, writing ends in the midst of the file."""
    with serving(content(BODY)) as server:
        command = [sys.executable, "-c", LIMITED, server.url, str(tmp_path / "file")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot write" in said
    assert "$RESNEST_HOME" in said
    assert not (tmp_path / "file").exists()


def test_a_cache_folder_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("RESNEST_HOME", "/proc/nowhere")  # for root, too
    with pytest.raises(CheckpointError, match=r"cannot be used.*\n.*\$RESNEST_HOME"):
        checkpoints.obtain(VARIANT)


def test_eight_processes_make_one_download(tmp_path):
    program = (
        "import sys; from dataclasses import replace\n"
        "from resnest_cli import checkpoints; from resnest_cli.variants import get_variant\n"
        "checkpoints._AUTHORS = sys.argv[1]\n"
        "v = replace(get_variant('resnest50'), alias=None, digest=sys.argv[2][:8])\n"
        "print(checkpoints.obtain(v))\n"
    )
    with serving(content(BODY)) as server:
        command = [sys.executable, "-c", program, f"{server.url}/", DIGEST]
        environment = os.environ | {"RESNEST_HOME": str(tmp_path / "home")}
        all_of_them = [
            subprocess.Popen(command, stdout=-1, text=True, env=environment) for _ in range(8)
        ]
        paths = {process.communicate(timeout=60)[0] for process in all_of_them}
    assert [process.returncode for process in all_of_them] == [0] * 8
    assert len(paths) == 1
    assert len(server.requests) == 1
