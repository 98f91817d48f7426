"""A real server process: the same bytes as `predict`, hostile images, its end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.server import _listen
from tests.conftest import drawn
from tests.hostile import kinds, stored
from tests.serve.conftest import serving


def test_predict_hostile_images_and_stop(run, tmp_path):
    image = tmp_path / "a.png"
    drawn().save(image)
    (tmp_path / "b.png").write_bytes(b"nothing")
    hostile = kinds()
    with serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        files = [("images", (name, (tmp_path / name).read_bytes())) for name in ("a.png", "b.png")]
        answer = client.post("/v1/predict", files=files)
        expected = run("predict", "a.png", "b.png", "-m", "demo", "-f", "json").raw
        assert answer.content == expected
        for name, (content, outcome) in hostile.items():
            status = client.post("/v1/predict", files={"images": (name, content)}).status_code
            assert status in ((200,) if outcome is None else (200, 422)), name
        assert client.post("/v1/predict", files=files).content == expected
        assert server.stop() == 0
    log = "".join(server.log)
    assert re.search(r"127\.0\.0\.1 POST /v1/predict 200 \d+ B", log)
    assert " 500 " not in log
    assert "Traceback" not in log


def test_requests_in_flight_are_answered_before_it_stops():
    content = stored(drawn(2000, 1500), "PNG")
    with serving() as server:

        def post(_: int) -> int:
            return httpx.post(f"{server.url}/v1/predict", content=content, timeout=60).status_code

        def waiting() -> float:
            figures = client.get("/metrics").text
            return float(re.findall(r"^resnest_queue_images (.*)", figures, re.M)[0])

        with ThreadPoolExecutor(16) as clients, httpx.Client(base_url=server.url) as client:
            answers = [clients.submit(post, n) for n in range(16)]
            while (accepted := waiting()) < 8:
                assert not all(answer.done() for answer in answers)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            assert client.get("/readyz").status_code == 503
            statuses = [answer.result() for answer in answers]
        assert server.process.wait(20) == 0
    # those that came after the signal are told so
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= accepted


def test_a_client_that_goes_in_the_middle_leaves_nothing():
    with serving() as server, httpx.Client(base_url=server.url) as client:
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(20):
            with socket.create_connection((host, int(port))) as connection:
                head = (
                    "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
                )
                connection.sendall(head.encode() + bytes(1000))
        end = time.monotonic() + 5
        while "resnest_queue_images 0.0" not in (figures := client.get("/metrics").text):
            assert time.monotonic() < end, figures
        assert 'resnest_failures_total{kind="gone"}' in figures
        assert json.loads(client.get("/v1/models").text)["models"][0]["name"] == "demo"
        assert server.stop() == 0


def test_answers_do_not_wait_for_acknowledgements():
    async def main():
        made = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                made.set_result(transport)

        with _listen(ServeOptions(port=0)) as listening:
            server = await asyncio.get_running_loop().create_server(Protocol, sock=listening)
            async with server:
                _, writer = await asyncio.open_connection(*listening.getsockname())
                accepted = (transport := await made).get_extra_info("socket")
                delay = not accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                writer.close()
                transport.close()
                return delay

    assert not asyncio.run(main())


def test_what_cannot_be_served(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "-m", "demo", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    missing = run("serve", "--weights", tmp_path / "no.pth", "--port", 0)
    assert missing.returncode in (1, 2)
    assert "no.pth" in missing.stderr
