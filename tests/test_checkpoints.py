"""Downloads from servers that misbehave, and files that people put into the cache."""

import contextlib
import gzip
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli import cache, checkpoints, fetch
from resnest_cli.errors import CheckpointError, DownloadError, ImageError
from resnest_cli.variants import VARIANTS, get_variant
from tests.servers import content, cut_after, serving, status

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()
VARIANT = replace(get_variant("resnest50"), alias=None, digest=DIGEST[:8])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(fetch, "_wait", waits.append)
    return waits


@pytest.fixture
def served(monkeypatch):
    """Make a server the only address there is."""

    def only(server):
        monkeypatch.setattr(checkpoints, "_AUTHORS", f"{server.url}/")
        return server

    return only


def test_a_download_is_verified_kept_and_not_repeated(served, home):
    seen = []
    with serving(content(BODY)) as server:
        served(server)
        path = checkpoints.obtain(VARIANT, on_progress=lambda *p: seen.append(p))
        assert checkpoints.obtain(VARIANT, offline=True) == path
    assert path == home / "checkpoints" / VARIANT.file_name
    assert path.read_bytes() == BODY
    assert path.with_name(path.name + ".sha256").read_text() == f"{DIGEST}  {path.name}\n"
    assert seen[-1] == (len(BODY), len(BODY))
    assert len(server.requests) == 1
    assert not path.with_name(path.name + ".part").exists()


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final_and_told(code, served):
    with serving(status(code)) as server, pytest.raises(DownloadError, match=str(code)) as caught:
        checkpoints.obtain(served(server) and VARIANT)
    assert len(server.requests) == 1
    assert VARIANT.file_name in str(caught.value)
    assert "$RESNEST_MIRROR" in str(caught.value)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_faults_that_pass_are_tried_again(code, served, no_waiting):
    answers = (status(code, Retry_After="7"), content(BODY))
    with serving(*answers) as server:
        served(server)
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY
    assert no_waiting == [7.0]


def test_attempts_are_bounded(served, no_waiting):
    with serving(status(500)) as server, pytest.raises(DownloadError, match="500"):
        checkpoints.obtain(served(server) and VARIANT)
    assert len(server.requests) == fetch.ATTEMPTS
    assert no_waiting == [1.0, 2.0]


@pytest.mark.parametrize("count", [1, 100_000, len(BODY) - 1])
def test_a_connection_that_breaks_is_gone_on_with(count, served):
    with serving(cut_after(BODY, count), content(BODY)) as server:
        served(server)
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY
    assert server.requests[1][1] == f"bytes={count}-"


def test_a_server_without_ranges_is_begun_anew(served):
    def whole(handler):
        handler.answer(200, BODY)

    with serving(cut_after(BODY, 100_000), whole) as server:
        served(server)
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY


def test_a_file_that_changed_between_two_parts_is_fetched_whole(served):
    other = bytes(len(BODY))
    with serving(cut_after(other, 70_000), content(BODY), content(BODY)) as server:
        served(server)
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=70000-", None]


def test_a_wrong_file_is_never_kept(served, home):
    with serving(content(b"something else")) as server, pytest.raises(DownloadError) as caught:
        checkpoints.obtain(served(server) and VARIANT)
    assert f"not {VARIANT.digest}" in str(caught.value)
    assert not [p for p in (home / "checkpoints").iterdir() if p.suffix != ".lock"]


def test_a_portal_page_is_known_for_what_it_is(served):
    page = content(b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    with serving(page) as server, pytest.raises(DownloadError, match="login or portal page"):
        checkpoints.obtain(served(server) and VARIANT)


def test_a_redirect_is_followed_and_a_loop_is_not(served):
    to = status(302, Location="/elsewhere")
    with serving(to, content(BODY)) as server:
        served(server)
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY
    other = replace(VARIANT, name="other")
    with serving(to) as server, pytest.raises(DownloadError, match="redirects"):
        checkpoints.obtain(served(server) and other)


def test_mirrors_are_tried_in_turn_and_each_reason_is_told(served, monkeypatch):
    with serving(status(404)) as mirror, serving(content(BODY)) as server:
        served(server)
        monkeypatch.setenv("RESNEST_MIRROR", f"{mirror.url}/files/")
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY
        assert mirror.requests == [(f"/files/{VARIANT.file_name}", None)]
    other = replace(VARIANT, name="other")
    with serving(status(404)) as mirror, serving(status(403)) as server:
        served(server)
        monkeypatch.setenv("RESNEST_MIRROR", mirror.url)
        with pytest.raises(DownloadError, match=r"(?s)404.*403"):
            checkpoints.obtain(other)


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(checkpoints, "_AUTHORS", "http://127.0.0.1:1/")
    with pytest.raises(DownloadError, match="no connection"):
        checkpoints.obtain(VARIANT)


def test_many_at_once_make_one_download(served):
    with serving(content(BODY)) as server, ThreadPoolExecutor(8) as pool:
        served(server)
        paths = set(pool.map(lambda _: checkpoints.obtain(VARIANT), range(8)))
    assert len(paths) == 1
    assert len(server.requests) == 1


def test_offline_says_where_to_put_which_file(home, monkeypatch):
    for how in ("option", "environment"):
        if how == "environment":
            monkeypatch.setenv("RESNEST_OFFLINE", "1")
        with pytest.raises(CheckpointError) as caught:
            checkpoints.obtain(get_variant("resnest14"), offline=how == "option")
        assert "gluon_resnest14-9c8fe254.pth" in str(caught.value)
        assert str(home / "checkpoints") in str(caught.value)


def test_a_file_put_there_by_hand_is_found_and_verified():
    folder = cache.checkpoints_folder()
    folder.mkdir(parents=True)
    path = folder / VARIANT.file_name
    path.write_bytes(BODY)
    assert checkpoints.obtain(VARIANT, offline=True) == path
    path.write_bytes(BODY[:-1])
    os.utime(path, ns=(2**62, 2**62))  # newer than the record of its digest
    with pytest.raises(CheckpointError, match="damaged or another file"):
        checkpoints.obtain(VARIANT, offline=True)


def test_a_cache_folder_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEST_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"\$RESNEST_HOME"):
        checkpoints.obtain(VARIANT)


def test_addresses_are_those_that_are_published():
    by_name = {v.name: [u for r in checkpoints.remotes(v) for u in r.urls] for v in VARIANTS}
    assert all(url.startswith("https://") for urls in by_name.values() for url in urls)
    assert len(by_name["resnest50"]) == 3
    assert len(by_name["resnest50_fast_1s1x64d"]) == 1
    assert by_name["resnest14"][0].endswith("v0.1-weights/gluon_resnest14-9c8fe254.pth")
    assert by_name["resnest269"][2].endswith("timm/resnest269e.in1k/resolve/main/model.safetensors")


@pytest.mark.parametrize("signal_after", [1])
def test_a_killed_downloader_leaves_no_file(tmp_path, signal_after):
    """A process killed amidst a download leaves a part, which the next one completes."""
    release = []

    def slow(handler):
        handler.answer(200, BODY[:300_000], length=len(BODY))
        handler.wfile.flush()
        release.append(True)
        handler.rfile.read(1)  # until the client is gone

    program = (
        "from resnest_cli.fetch import Download; from pathlib import Path; import sys\n"
        "Download([sys.argv[1]], Path(sys.argv[2]), sys.argv[3]).run()"
    )
    target = tmp_path / "file.pth"
    with serving(slow, content(BODY)) as server:
        command = [sys.executable, "-c", program, f"{server.url}/x", str(target), DIGEST[:8]]
        with subprocess.Popen(command) as process:
            part = Path(f"{target}.part")
            while not (part.exists() and part.stat().st_size):
                assert process.poll() is None
            process.kill()
        assert not target.exists()
        subprocess.run(command, check=True)
    assert target.read_bytes() == BODY
    assert server.requests[1][1].startswith("bytes=")


def drip(*head):
    """Lines of an answer, and ever more bytes, one at a time."""

    def behave(handler):
        handler.wfile.write("".join(f"{line}\r\n" for line in head).encode())
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.02)

    return behave


DRIPS = {
    "body": drip("HTTP/1.1 200 OK", "Content-Length: 1000000", ""),
    "body of unknown length": drip("HTTP/1.1 200 OK", "Connection: close", ""),
    "headers": drip("HTTP/1.1 200 OK"),
    "first line": drip(),
}


@pytest.mark.parametrize("behaviour", DRIPS.values(), ids=DRIPS)
def test_a_picture_that_drips_in_is_given_up(behaviour, monkeypatch):
    monkeypatch.setattr(fetch, "PICTURE_SECONDS", 0.3)
    start = time.monotonic()
    with serving(behaviour) as server, pytest.raises(ImageError, match=r"not there after 0\.3 s"):
        fetch.get_picture(server.url, allow_private=True)
    assert time.monotonic() - start < 5


def test_pictures_are_limited_in_size(monkeypatch):
    monkeypatch.setattr(fetch, "PICTURE_BYTES", 1000)
    with serving(content(bytes(2000))) as server, pytest.raises(ImageError, match="larger than"):
        fetch.get_picture(server.url, allow_private=True)


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
def test_bodies_of_every_encoding(behaviour, served):
    with serving(behaviour) as server:
        assert fetch.get_picture(served(server).url, allow_private=True) == BODY
        assert checkpoints.obtain(VARIANT).read_bytes() == BODY


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (content(b"not gzip", Content_Encoding="gzip"), "damaged"),
        (cut_after(BODY, 500), "broke off"),
        (status(302, Location="file:///etc/passwd"), "no address"),
        (status(404), "404"),
    ],
)
def test_pictures_that_cannot_be_had_say_why(behaviour, reason):
    with serving(behaviour) as server, pytest.raises(ImageError, match=reason) as caught:
        fetch.get_picture(server.url, allow_private=True)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_with_an_old_date_is_noticed():
    folder = cache.checkpoints_folder()
    folder.mkdir(parents=True)
    path = folder / VARIANT.file_name
    path.write_bytes(BODY)
    checkpoints.obtain(VARIANT, offline=True)
    path.write_bytes(BODY[:-1])
    os.utime(path, ns=(0, 0))
    with pytest.raises(CheckpointError, match="damaged or another file"):
        checkpoints.obtain(VARIANT, offline=True)
