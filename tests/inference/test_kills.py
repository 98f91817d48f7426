"""A run that is killed at any moment, and resumed, leaves what an undisturbed one leaves."""

import os
import random
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import RESNEST, drawn

KILLS = int(os.environ.get("RESNEST_TEST_KILLS", "1"))  # of each format
IMAGES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 images, a tenth of them bad."""
    folder = tmp_path_factory.mktemp("killed") / "images"
    folder.mkdir()
    for number in range(IMAGES):
        path = folder / f"{number:03}.png"
        drawn(64 + number % 7, 64, seed=number).save(path)
        if number % 10 == 3:
            path.write_bytes(path.read_bytes()[: 50 * (number % 4)])
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The environment of the runs: the fastest engine, compiled beforehand."""
    values = os.environ | {"RESNEST_HOME": str(tmp_path_factory.mktemp("home"))}
    values["RESNEST_ENGINE"] = "openvino" if find_spec("openvino") else "torch"
    image = Path(__file__).parents[2] / "examples" / "boat.jpg"
    command = [*RESNEST, "predict", image, "-m", "demo"]
    subprocess.run(command, env=values, check=True, capture_output=True)
    return values


@pytest.mark.parametrize("fmt", ["jsonl", "json", "csv", "parquet"])
def test_killed_runs_are_resumed_to_the_same_rows(fmt, folder, engine, tmp_path):
    if fmt == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")

    def command(out, *more):
        return [*RESNEST, "predict", folder, "-m", "demo", "-q", "-o", out, *more]

    whole = tmp_path / f"whole.{fmt}"
    start = time.monotonic()
    assert subprocess.run(command(whole), env=engine, check=False).returncode == 3
    lasting = time.monotonic() - start
    assert _rows(whole) == IMAGES
    rng, killed = random.Random(fmt), 0
    while killed < KILLS:
        out = tmp_path / f"cut{killed}.{fmt}"
        start = time.monotonic()
        with subprocess.Popen(command(out), env=engine) as process:
            try:
                process.wait(rng.uniform(0.2, 1) * lasting)
                lasting = time.monotonic() - start  # it was faster than ever
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
        done = subprocess.run(command(out, "--resume"), env=engine, check=False)
        assert done.returncode == 3
        assert _rows(out) == IMAGES
        if fmt == "parquet":
            import pyarrow.parquet as pq

            assert pq.read_table(out).equals(pq.read_table(whole))
        else:
            assert out.read_bytes() == whole.read_bytes()
        out.unlink()


def _rows(path: Path) -> int:
    """How many rows a file holds, of as many different images."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return len(set(pq.read_table(path, columns=["path"])["path"].to_pylist()))
    names = [line for line in path.read_text().splitlines() if ".png" in line]
    return len(set(names))
