"""What a server outlives: hostile requests, clients that go, and its own end under load."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import drawn
from tests.hostile import stored
from tests.serve.conftest import Running, serving
from tests.serve.crowd import HEAD, PATH, Crowd, descriptors, memory

log = logging.getLogger(__name__)
STATUSES = {0, 200, 400, 403, 408, 413, 415, 422, 429}  # 0: the client did not wait for one


def settled(server: Running) -> str:
    """The server's figures, once it holds nothing of any request."""
    end = time.monotonic() + 30
    while True:
        figures = httpx.get(f"{server.url}/metrics").text
        if "resnest_queue_images 0.0" in figures:
            return figures
        assert time.monotonic() < end, figures
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("count", "least"), [(300, 100), pytest.param(20_000, 2_000, marks=pytest.mark.slow)]
)
def test_a_tenth_of_the_requests_is_hostile(count, least):
    with serving() as server:
        crowd, process = Crowd(server), server.process.pid
        crowd.send(least)
        settled(server)
        before, files = memory(process), descriptors(process)
        crowd.send(count - least)
        settled(server)
        grown = memory(process) / before
        log.info("%d requests: %s, memory x %.3f", count, dict(crowd.statuses), grown)
        assert set(crowd.statuses) <= STATUSES
        assert descriptors(process) <= files + 2
        assert grown <= (1.05 if count > 1000 else 1.25)
        assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_signal_with_32_in_flight(times):
    content = stored(drawn(1200, 900), "PNG")
    for _ in range(times):
        with serving() as server:

            def post(_: int, url: str = server.url) -> int:
                return httpx.post(f"{url}{PATH}", content=content, timeout=60).status_code

            with ThreadPoolExecutor(32) as clients:
                answers = [clients.submit(post, n) for n in range(32)]
                while True:
                    figures = httpx.get(f"{server.url}/metrics").text
                    waiting = float(re.findall(r"^resnest_queue_images (.*)", figures, re.M)[0])
                    done = sum(answer.done() for answer in answers)
                    if waiting + done >= 32:
                        break
                server.process.send_signal(signal.SIGTERM)
                assert [answer.result() for answer in answers] == [200] * 32
            assert server.process.wait(30) == 0


@pytest.mark.parametrize("times", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_clients_that_are_killed_in_the_middle_of_an_upload(times):
    code = (
        "import socket, sys, time\n"
        "one = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        f"one.sendall({HEAD!r}.encode() + b'9000000\\r\\n\\r\\n' + bytes(3000000))\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    with serving() as server:
        address = server.url.removeprefix("http://").split(":")
        settled(server)
        files = before = 0
        for number in range(times):
            with subprocess.Popen(
                [sys.executable, "-S", "-c", code, *address], stdout=subprocess.PIPE
            ) as client:
                assert client.stdout
                client.stdout.readline()
                client.kill()
            if number == times // 4:
                settled(server)
                files, before = descriptors(server.process.pid), memory(server.process.pid)
        figures = settled(server)
        log.info("%d kills: memory x %.3f", times, memory(server.process.pid) / before)
        assert f'resnest_failures_total{{kind="gone"}} {times}.0' in figures
        assert descriptors(server.process.pid) <= files + 1
        assert memory(server.process.pid) <= 1.05 * before + 4096
        image = stored(drawn(), "PNG")
        assert httpx.post(f"{server.url}{PATH}", content=image).status_code == 200
        assert server.stop() == 0
