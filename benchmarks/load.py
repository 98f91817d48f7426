"""HTTP load of two kinds: a number of clients that wait for their answers, and a fixed rate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Load:
    """What was answered, and how long it took."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of answers with status 200
    took: float = 0.0

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.took

    def percentile(self, share: float) -> float:
        """Seconds that this share of the answers did not exceed."""
        ordered = sorted(self.seconds) or [float("nan")]
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def describe(self) -> str:
        total = sum(self.statuses.values())
        others = {s: n for s, n in sorted(self.statuses.items()) if s not in (200, 429)}
        more = f"  others {others}" if others else ""
        return (
            f"{self.rate:6.2f}/s  p50 {1e3 * self.percentile(0.5):7.1f} ms  "
            f"p99 {1e3 * self.percentile(0.99):7.1f} ms  "
            f"429 {self.statuses[429] / max(total, 1):.2f}{more}"
        )


class Client:
    """Requests over connections that are kept and used again."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path, self._free = port, path, list[Connection]()

    async def post(self, body: bytes) -> int:
        """The status of the answer; 0 if there was none."""
        kept = self._free.pop() if self._free else None
        try:
            reader, writer = kept or await asyncio.open_connection("127.0.0.1", self._port)
            kind = "application/json" if body[:1] == b"{" else "image/jpeg"
            writer.write(
                f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length))
        except (OSError, EOFError, ValueError):
            return 0
        if "connection: close" in head:
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(head.split()[1])

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def _send(client: Client, load: Load, body: bytes, scheduled: float) -> None:
    status = await client.post(body)
    load.statuses[status] += 1
    if status == 200:
        load.seconds.append(time.perf_counter() - scheduled)


async def _closed(port: int, path: str, bodies: list[bytes], connections: int) -> Load:
    client, load, waiting, start = Client(port, path), Load(), iter(bodies), time.perf_counter()

    async def one() -> None:
        for body in waiting:
            await _send(client, load, body, time.perf_counter())

    await asyncio.gather(*(one() for _ in range(connections)))
    client.close()
    load.took = time.perf_counter() - start
    return load


async def _opened(port: int, path: str, bodies: list[bytes], rate: float, seconds: float) -> Load:
    client, load, start = Client(port, path), Load(), time.perf_counter()
    sent: list[asyncio.Task[None]] = []
    for number in range(int(rate * seconds)):
        scheduled = start + number / rate
        await asyncio.sleep(max(scheduled - time.perf_counter(), 0))
        body = bodies[number % len(bodies)]
        sent.append(asyncio.create_task(_send(client, load, body, scheduled)))
    await asyncio.wait(sent, timeout=60)
    for task in sent:
        if task.cancel():
            load.statuses[0] += 1  # not answered in a minute
    await asyncio.gather(*sent, return_exceptions=True)
    client.close()
    load.took = time.perf_counter() - start
    return load


def closed(port: int, path: str, bodies: list[bytes], connections: int = 16) -> Load:
    """Each body once, over so many connections of which each waits for its answer."""
    return asyncio.run(_closed(port, path, bodies, connections))


def opened(port: int, path: str, bodies: list[bytes], rate: float, seconds: float) -> Load:
    """Bodies at a fixed rate, whatever is answered; latency counts from the scheduled moment."""
    return asyncio.run(_opened(port, path, bodies, rate, seconds))


def memory(process: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    total, processes = 0, [process]
    for one in processes:
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
        tasks = Path(f"/proc/{one}/task").iterdir()
        processes += [int(c) for t in tasks for c in (t / "children").read_text().split()]
    return total / 1024
