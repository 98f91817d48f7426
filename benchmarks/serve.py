"""What `resnest serve` adds to `resnest predict`, and how it and LitServe bear load.

    python benchmarks/serve.py PHOTOS --weights resnest50.pth --litserve DIRECTORY

Rounds take turns in one run: the files through `Classifier.stream`, as `predict` does, then through
each server over 16 connections. A lone request is compared with the engine's own latency, then
requests come at 0.5, 0.8 and 1.5 of the measured capacity. LitServe is taken from a directory into
which `pip install --target DIRECTORY litserve` put it. All traffic is on the loopback.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from load import closed, memory, opened

# an answer for each line that is read: images a second of all files, or milliseconds
PREDICT = """
import sys, time
from resnest_cli import Classifier
from resnest_cli.inputs.source import Source
classifier = Classifier(weights=sys.argv[1], offline=True)
files = sys.argv[2:]
content = open(files[0], "rb").read()
pixels = classifier.load(Source("-", content))[None]
classifier.engine.run(pixels), list(classifier.stream(files[:16]))
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    if line == "files\\n":
        assert all(not result.error for result in classifier.stream(files))
    elif line == "image\\n":
        classifier(content)
    else:
        classifier.engine.run(pixels)
    seconds = time.perf_counter() - start
    print(len(files) / seconds if line == "files\\n" else 1e3 * seconds, flush=True)
"""


class Predict:
    """A process that has the network, and measures without a server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


class Server:
    """A server process, and what is sent to it."""

    def __init__(self, name: str, port: int, process: int, path: str, bodies: list[bytes]) -> None:
        self.name, self.port, self.process = name, port, process
        self.path, self.bodies = path, bodies


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], port: int, health: str, **variables: str) -> Iterator[int]:
    """The id of a process whose server is ready."""
    with subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                assert process.poll() is None, f"{command} ended"
                connection = http.client.HTTPConnection("127.0.0.1", port)
                try:
                    connection.request("GET", health)
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    pass
                finally:
                    connection.close()
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()


@contextmanager
def predicting(weights: str, files: list[str]) -> Iterator[Predict]:
    with subprocess.Popen(
        [sys.executable, "-c", PREDICT, weights, *files],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield Predict(process)
        assert process.stdin
        process.stdin.close()


def servers(stack: ExitStack, weights: str, images: list[bytes], lit: str | None) -> list[Server]:
    port = free_port()
    ours = [sys.executable, "-m", "resnest_cli", "serve", "--weights", weights, "--offline"]
    process = stack.enter_context(started([*ours, "--port", str(port)], port, "/readyz"))
    found = [Server("resnest", port, process, "/v1/predict", images)]
    if lit:
        port = free_port()
        theirs = [sys.executable, str(Path(__file__).with_name("litserve_peer.py"))]
        here = str(Path(__file__).resolve().parents[1])
        process = stack.enter_context(started(
            [*theirs, str(port), weights], port, "/health", PYTHONPATH=os.pathsep.join((here, lit))
        ))  # fmt: skip
        forms = [json.dumps({"image": base64.b64encode(i).decode()}).encode() for i in images]
        found.append(Server("litserve", port, process, "/predict", forms))
    for server in found:
        closed(server.port, server.path, server.bodies[:16])
    return found


def throughput(predict: Predict, found: list[Server], rounds: int) -> dict[str, float]:
    """Images a second of each server, with the ratios to predict of the rounds."""
    rates: dict[str, list[float]] = {server.name: [] for server in found}
    bases = []
    for _ in range(rounds):
        bases.append(predict.ask("files"))
        for server in found:
            load = closed(server.port, server.path, server.bodies)
            assert set(load.statuses) == {200}, load.statuses
            rates[server.name].append(load.rate)
    bases.append(predict.ask("files"))
    print(f"predict  {statistics.median(bases):6.2f}/s")
    for name, of in rates.items():
        # each round against the mean of predict's before and after it
        ratios = [r / ((a + b) / 2) for r, a, b in zip(of, bases, bases[1:], strict=False)]
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:8} {statistics.median(of):6.2f}/s  of predict "
              f"{statistics.median(ratios):.2f} ({each})", flush=True)  # fmt: skip
    return {name: statistics.median(of) for name, of in rates.items()}


def lone(predict: Predict, found: list[Server], times: int) -> None:
    """A lone request's latency, and that of decoding and computing alone, in turns."""
    engine: list[float] = []
    image: list[float] = []
    mine: dict[str, list[float]] = {server.name: [] for server in found}
    for _ in range(times):
        engine.append(predict.ask("engine"))
        image.append(predict.ask("image"))
        for server in found:
            # the second of a connection: what is wrong with connections that are kept would show
            load = closed(server.port, server.path, server.bodies[:1] * 2, 1)
            mine[server.name].append(1e3 * load.seconds[1])
    for name, of in {"engine": engine, "decoding and engine": image, **mine}.items():
        more = statistics.median(a - b for a, b in zip(of, image, strict=True))
        print(f"{name:20} {statistics.median(of):7.1f} ms (least {min(of):.1f}), "
              f"{more:+.1f} over decoding and engine", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", required=True, help="a checkpoint")
    parser.add_argument("--litserve", help="directory in which LitServe is installed")
    parser.add_argument("--files", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each open loop")
    a = parser.parse_args()
    files = sorted(str(path) for path in a.photos.rglob("*.[jJ][pP]*"))[: a.files]
    images = [Path(file).read_bytes() for file in files]
    with ExitStack() as stack:
        found = servers(stack, a.weights, images, a.litserve)
        predict = stack.enter_context(predicting(a.weights, files))
        rates = throughput(predict, found, a.rounds)
        lone(predict, found, 20)
        for share in (0.5, 0.8, 1.5):
            for server in found if a.seconds else ():
                before = memory(server.process)
                load = opened(
                    server.port, server.path, server.bodies, share * rates[server.name], a.seconds
                )
                grown = memory(server.process) / before
                print(f"{share} of capacity  {server.name:8} {load.describe()}  "
                      f"memory x {grown:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
