"""Checkpoint downloads from servers, networks and disks that misbehave."""

import gzip
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from resnest_cli.errors import DownloadError
from resnest_cli.net import download, http
from resnest_cli.net.download import ATTEMPTS, Download
from tests import servers
from tests.servers import content, cut_after, serving, status

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds between attempts, none of which passes."""
    seconds = []
    monkeypatch.setattr(download, "sleep", seconds.append)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return seconds


@pytest.fixture
def fetch(tmp_path):
    """Download from addresses to a file; returns its content."""

    def call(*urls, sha256=DIGEST[:8], on_bytes=None):
        target = tmp_path / "file"
        digest = Download(urls, target, sha256).run(on_bytes)
        assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
        assert not target.with_name("file.part").exists()
        return target.read_bytes()

    return call


def test_progress_is_reported(fetch):
    seen = []
    with serving(content(BODY)) as server:
        assert fetch(server.url, on_bytes=lambda *p: seen.append(p)) == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_refusals_are_not_retried(code, fetch):
    with serving(status(code)) as server, pytest.raises(DownloadError, match=str(code)):
        fetch(server.url)
    assert len(server.requests) == 1


def in_seven_seconds():
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=7), usegmt=True)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("asked", [lambda: "7", in_seven_seconds], ids=["digits", "date"])
def test_transient_codes_are_retried_after_the_time_asked_for(code, asked, fetch, waits):
    with serving(status(code, Retry_After=asked()), content(BODY)) as server:
        assert fetch(server.url) == BODY
    assert waits == [pytest.approx(7.0, abs=2.5)]


@pytest.mark.parametrize(
    ("asked", "waited"), [("86400", 60.0), ("Fri, 31 Dec 2055 23:59:59 GMT", 60.0), ("soon", 1.0)]
)
def test_waits_are_bounded(asked, waited, fetch, waits):
    with serving(status(503, Retry_After=asked), content(BODY)) as server:
        assert fetch(server.url) == BODY
    assert waits == [waited]


def test_attempts_are_bounded(fetch, waits):
    with serving(status(500)) as server, pytest.raises(DownloadError, match="500"):
        fetch(server.url)
    assert len(server.requests) == ATTEMPTS
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("count", [1, 100_000, len(BODY) - 1])
def test_a_broken_connection_is_resumed(count, fetch):
    with serving(cut_after(BODY, count), content(BODY)) as server:
        assert fetch(server.url) == BODY
    assert server.requests[1][1] == f"bytes={count}-"


def test_a_server_without_ranges_is_read_from_the_start(fetch):
    with serving(cut_after(BODY, 100_000), lambda handler: handler.answer(200, BODY)) as server:
        assert fetch(server.url) == BODY


def test_a_file_that_changed_between_two_parts_is_downloaded_whole(fetch):
    other = bytes(len(BODY))
    with serving(cut_after(other, 70_000), content(BODY), content(BODY)) as server:
        assert fetch(server.url) == BODY
    assert [r for _, r in server.requests] == [None, "bytes=70000-", None]


def test_a_part_of_a_file_without_a_digest_is_not_resumed(fetch, tmp_path):
    (tmp_path / "file.part").write_bytes(b"of another file")
    with serving(content(BODY)) as server:
        assert fetch(server.url, sha256=None) == BODY
    assert server.requests[0][1] is None


def test_a_wrong_file_is_never_kept(fetch, tmp_path):
    wrong = content(b"something else")
    with serving(wrong) as server, pytest.raises(DownloadError, match=f"not {DIGEST[:8]}"):
        fetch(server.url)
    assert list(tmp_path.glob("file*")) == []


def test_a_portal_page_is_recognised(fetch):
    page = content(b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    with serving(page) as server, pytest.raises(DownloadError, match="login or portal page"):
        fetch(server.url)


def test_a_redirect_is_followed_and_a_loop_is_not(fetch):
    to = status(302, Location="/elsewhere")
    with serving(to, content(BODY)) as server:
        assert fetch(server.url) == BODY
    with serving(to) as server, pytest.raises(DownloadError, match="redirects"):
        fetch(server.url)
    assert len(server.requests) == http.MAX_REDIRECTS + 1


@pytest.mark.parametrize("to", ["ftp://localhost/x", "file:///etc/passwd"])
def test_redirects_to_other_schemes_are_not_followed(to, fetch, tmp_path):
    with serving(status(302, Location=to)) as server, pytest.raises(DownloadError):
        fetch(server.url)
    assert list(tmp_path.glob("file*")) == []


def test_addresses_are_tried_in_turn_and_each_reason_is_reported(fetch):
    with serving(status(404)) as first, serving(content(BODY)) as second:
        assert fetch(first.url, second.url) == BODY
        assert len(first.requests) == 1
    with (
        serving(status(404)) as first,
        serving(status(403)) as second,
        pytest.raises(DownloadError, match=r"404.*403"),
    ):
        fetch(first.url, second.url)


def test_a_closed_port(fetch):
    with pytest.raises(DownloadError, match="cannot connect"):
        fetch("http://127.0.0.1:1/")


def chunked(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(BODY), 100_001):
        piece = BODY[start : start + 100_001]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "behaviour",
    [content(BODY), chunked, content(gzip.compress(BODY), Content_Encoding="gzip")],
    ids=["plain", "chunked", "gzip"],
)
def test_bodies_of_every_encoding(behaviour, fetch):
    with serving(behaviour) as server:
        assert http.get_image(server.url, allow_private=True) == BODY
        assert fetch(server.url) == BODY


def test_a_killed_process_leaves_a_part_that_is_resumed(tmp_path, fetch):
    def slow(handler):
        handler.answer(200, BODY[:300_000], length=len(BODY))
        handler.wfile.flush()
        handler.rfile.read(1)  # until the client is gone

    program = (
        "from resnest_cli.net.download import Download; from pathlib import Path; import sys\n"
        "Download([sys.argv[1]], Path(sys.argv[2]), sys.argv[3]).run()"
    )
    target = tmp_path / "file"
    with serving(slow, content(BODY)) as server:
        command = [sys.executable, "-c", program, server.url, str(target), DIGEST[:8]]
        with subprocess.Popen(command) as process:
            part = Path(f"{target}.part")
            while not (part.exists() and part.stat().st_size):
                assert process.poll() is None
            process.kill()
        assert not target.exists()
        assert fetch(server.url) == BODY
    assert server.requests[1][1].startswith("bytes=")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificate")
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


def test_an_unknown_authority_is_refused_and_can_be_named(
    certificate, fetch, tmp_path, monkeypatch
):
    with serving(content(BODY)) as server:
        url = encrypted(server, certificate)
        with pytest.raises(DownloadError, match=r"not trusted.*REQUESTS_CA_BUNDLE"):
            fetch(url)
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(certificate[0]))
            assert fetch(url) == BODY
            monkeypatch.delenv(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        with pytest.raises(DownloadError, match=r"\$SSL_CERT_FILE names .*does not exist"):
            fetch(url)


def test_https_is_not_left(certificate, fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with serving(content(BODY)) as plain, serving(status(302, Location=plain.url)) as server:
        url = encrypted(server, certificate)
        with pytest.raises(DownloadError, match="redirected to http"):
            fetch(url)
    assert plain.requests
    assert list(tmp_path.glob("file*")) == []


def test_https_is_not_left_in_between_either(certificate, fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with serving(content(BODY)) as last, serving() as between, serving() as first:
        between.behaviours.append(status(302, Location=encrypted(last, certificate)))
        first.behaviours.append(status(302, Location=between.url))
        with pytest.raises(DownloadError, match="redirected to http"):
            fetch(encrypted(first, certificate))
    assert list(tmp_path.glob("file*")) == []


def test_a_proxy_is_used(fetch, monkeypatch):
    with serving(content(BODY)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert fetch("http://weights.invalid/resnest.pth") == BODY
    assert proxy.requests[0][0] == "http://weights.invalid/resnest.pth"


def test_a_dead_proxy_is_named_without_its_password(fetch, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:1")
    with pytest.raises(DownloadError, match="proxy") as caught:
        fetch("https://weights.invalid/resnest.pth")
    assert "secret" not in str(caught.value)


def test_an_unknown_host_is_not_retried(fetch, waits):
    with pytest.raises(DownloadError, match="cannot resolve the host name"):
        fetch("https://weights.invalid/resnest.pth")
    assert waits == []


def test_ipv6_alone(fetch, monkeypatch):
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    monkeypatch.setattr(servers.Server, "address_family", socket.AF_INET6)
    with serving(content(BODY), address=("::1", 0)) as server:
        assert fetch(f"http://[::1]:{server.server_address[1]}/x") == BODY


def test_a_silent_server_is_given_up(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", (1.0, 0.2))

    def silent(handler):
        handler.answer(200, BODY[:1000], length=len(BODY))
        handler.wfile.flush()
        handler.rfile.read(1)  # until the client is gone

    with serving(silent) as server, pytest.raises(DownloadError, match="no data for"):
        fetch(server.url)
    assert len(server.requests) == ATTEMPTS
    assert not (tmp_path / "file").exists()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from resnest_cli.errors import DownloadError
from resnest_cli.net.download import Download
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Download([sys.argv[1]], Path(sys.argv[2]), None).run()
except DownloadError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    """As on a full disk or past a quota, writing fails in the middle of the file."""
    with serving(content(BODY)) as server:
        command = [sys.executable, "-c", LIMITED, server.url, str(tmp_path / "file")]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot write" in printed
    assert "$RESNEST_HOME" in printed
    assert not (tmp_path / "file").exists()


def test_several_threads_share_nothing(tmp_path):
    with serving(content(BODY)) as server, ThreadPoolExecutor(4) as pool:
        files = [tmp_path / str(number) for number in range(4)]
        digests = pool.map(lambda file: Download([server.url], file, None).run(), files)
        assert set(digests) == {DIGEST}
    assert os.listdir(tmp_path).count("file.part") == 0
