"""The Space of examples/space: its start command runs, and its page may be shown in a frame."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import yaml

from tests.conftest import ROOT
from tests.serve.test_deploy import free_port

SPACE = ROOT / "examples/space"
DOCKERFILE = (SPACE / "Dockerfile").read_text()
NAME = "user-resnest.hf.space"


def test_the_start_command_runs():
    command = re.search(r"^CMD ((?:.*\\\n)*.*)$", DOCKERFILE, re.M)
    assert command
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "SPACE_HOST": NAME, "PORT": str(port), "RESNEST_MODEL": "demo"}
    with subprocess.Popen(["/bin/sh", "-c", command[1]], env=os.environ | given) as process:
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"host": NAME}, timeout=60
            ) as client:
                _wait_until_ready(client, process)
                policy = client.get("/").headers["content-security-policy"]
                assert policy.endswith("frame-ancestors https://huggingface.co")
                image = (ROOT / "examples/boat.jpg").read_bytes()
                origin = {"origin": f"https://{NAME}"}
                answer = client.post("/v1/predict", content=image, headers=origin)
                assert answer.json()[0]["predictions"][0]["label"] == "ship"
                assert client.get("/", headers={"host": "evil.example"}).status_code == 421
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def test_the_front_matter_agrees_with_the_container():
    _, matter, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(matter)
    assert settings["sdk"] == "docker"
    assert f"PORT={settings['app_port']}" in DOCKERFILE
