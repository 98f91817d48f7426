"""A long run over good and bad images, with memory, threads and open files watched.

    python fuzz/soak.py [--minutes 60] [--engine openvino]

One `Classifier` classifies the folder of hostile images of tests/hostile.py, mixed with drawn ones,
again and again. Every so often the process's figures are printed; at the end those of the last
tenth are compared with those behind the first, and the exit code is 1 where they grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from resnest_cli import Classifier  # noqa: E402
from tests.conftest import drawn  # noqa: E402
from tests.hostile import write_all  # noqa: E402


def figures() -> tuple[float, int, int]:
    """Resident memory in MB, threads, open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threading.active_count(), files


def endless(folder: Path, end: float) -> Iterator[Path]:
    while time.monotonic() < end:
        yield from sorted(folder.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--engine", default="auto")
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[tuple[float, int, int]] = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_all(folder)
        for number in range(100):
            drawn(500, 375, seed=number).save(folder / f"good{number:02}.jpg")
        classifier = Classifier("demo", engine=a.engine, device="cpu")
        start = last = time.monotonic()
        seconds, done, failed = 60 * a.minutes, 0, 0
        for result in classifier.stream(endless(folder, start + seconds)):
            done += 1
            failed += result.error is not None
            if time.monotonic() - last > seconds / 60:
                last = time.monotonic()
                rows.append(figures())
                memory, threads, files = rows[-1]
                print(
                    f"{(last - start) / 60:5.1f} min  {done:,} images, {failed:,} failed  "
                    f"{memory:.0f} MB  {threads} threads  {files} files",
                    flush=True,
                )
    tenth = max(len(rows) // 10, 1)
    before, after = rows[tenth : 2 * tenth], rows[-tenth:]
    highest = [tuple(max(column) for column in zip(*part, strict=True)) for part in (before, after)]
    (m1, t1, f1), (m2, t2, f2) = highest
    print(f"memory x{m2 / m1:.3f}, threads {t1} to {t2}, open files {f1} to {f2}")
    return int(m2 > 1.05 * m1 or t2 > t1 or f2 > f1)


if __name__ == "__main__":
    raise SystemExit(main())
