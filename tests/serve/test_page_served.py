"""The page with the real server and the demo model, with and without a token."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import RESNEST, ROOT
from tests.serve.browser import Browser
from tests.serve.test_deploy import ask, free_port, proxy
from tests.serve.test_page import assert_quiet, browser, done

__all__ = ["browser"]
pytest.importorskip("resnest_cli.serve.server", reason="the extra serve is not installed")


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The address of `resnest serve`, ready; it must end with exit code 0."""
    port = free_port()
    command = [*RESNEST, "serve", "--quiet", "--model", "demo", "--port", str(port), *options]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                time.sleep(0.1)
        yield f"127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_real_server(browser: Browser, tmp_path: Path):
    (tmp_path / "bad.jpg").write_text("not an image")
    with serving() as address:
        browser.open(f"http://{address}")
        browser.wait("document.getElementById('model').innerText.startsWith('Model demo')")
        browser.drop(ROOT / "examples/boat.jpg", ROOT / "examples/car.jpg", tmp_path / "bad.jpg")
        done(browser, 3)
        assert len(browser.texts(".predictions li")) == 10
        best = browser.texts(".predictions li:first-child .words :first-child")
        assert best == ["ship", "automobile"]
        assert "decoding" in browser.text(".timing")
        assert "not an image" in browser.text(".failed .state")
        browser.find("#open-camera").click()
        browser.wait("!document.getElementById('shoot').disabled")
        browser.find("#shoot").click()
        done(browser, 4)
        assert len(browser.texts(".failed")) == 1
        assert_quiet(browser, f"http://{address}", "422")


def test_the_real_server_with_a_token(browser: Browser):
    with serving("--token", "secret") as address:
        browser.open(f"http://any:secret@{address}")
        browser.drop(ROOT / "examples/boat.jpg")
        done(browser, 1)
        assert browser.text(".predictions li:first-child .words :first-child") == "ship"


def test_the_real_server_behind_nginx(tmp_path: Path):
    image = (ROOT / "examples/boat.jpg").read_bytes()
    allowed = ("--allow-host", "images.example.org")
    with serving(*allowed) as upstream, proxy(upstream[:-1], tmp_path) as address:
        assert ask(address, "/")[0] == 200
        status, body = ask(address, "/v1/predict", body=image)
        assert (status, json.loads(body)[0]["predictions"][0]["label"]) == (200, "ship")
    with serving() as upstream, proxy(upstream[:-1], tmp_path) as address:
        assert ask(address, "/v1/predict", body=image)[0] == 421
