"""Processes that are killed at random moments lose and double nothing."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from resnest_cli import merge
from tests.cluster.conftest import digests, job
from tests.conftest import RESNEST, drawn


@pytest.mark.parametrize(
    ("images", "size", "kills", "fmt"),
    [
        (60, 4, 6, "jsonl"),
        pytest.param(2000, 50, 100, "jsonl", marks=pytest.mark.slow),
        pytest.param(2000, 50, 100, "parquet", marks=pytest.mark.slow),
    ],
)
def test_killed_processes_leave_what_an_undisturbed_one_makes(tmp_path, images, size, kills, fmt):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(images):
        path = folder / f"{number:04}.png"
        drawn(32, 32, seed=number).save(path)
        if number % 10 == 4:
            path.write_bytes(path.read_bytes()[:200])
    start = time.monotonic()
    job(folder, tmp_path / "whole", fmt, partition_size=size).run()
    seconds = time.monotonic() - start
    rng = random.Random(0)
    out, done = tmp_path / "out", 0
    while done < kills:
        shards = rng.choice((1, 1, 2, 3))
        running = [_start(folder, out, size, fmt, f"{k}/{shards}") for k in range(1, shards + 1)]
        for process in running:
            # from the first file on, and often before the last one
            _wait_for_work(process, out)
            time.sleep(rng.uniform(0, min(2 * seconds / kills, 2)))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                done += 1
            process.wait()
        parts = sorted(out.glob("part-*"))
        if len(parts) > images / size * 0.9:  # all but done: take some away, so that work is left
            for part in rng.sample(parts, len(parts) // 2):
                part.unlink()
            if rng.random() < 0.3:
                for segment in sorted(out.glob("manifest/*"))[rng.randrange(3) :]:
                    segment.unlink()
    assert _start(folder, out, size, fmt, "1/1").wait() == 3
    assert {n: d for n, d in digests(out).items() if ".resnest-" not in n} == digests(
        tmp_path / "whole"
    )
    assert merge(out, tmp_path / "all.csv").rows == images


def _start(images: Path, out: Path, size: int, fmt: str, shard: str) -> subprocess.Popen[bytes]:
    command = [*RESNEST, "predict", images, "-m", "demo", "--engine", "torch", "-q", "-f", fmt,
               "--partition-size", size, "--shard", shard, "-o", f"{out}/"]  # fmt: skip
    return subprocess.Popen([*map(str, command)])


def _wait_for_work(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Until a process has a file of its own in the folder, or has ended."""
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        if (out / "run.json").exists() and list(out.glob(".resnest-*")):
            return
        time.sleep(0.005)
