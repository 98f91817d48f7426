"""Ray: the same bytes as one process, whatever is killed, and nothing that differs is taken."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from resnest_cli import merge
from resnest_cli.cluster import on_ray
from resnest_cli.errors import EngineError, OutputError, ResNeStError, UsageError
from tests.cluster.conftest import digests, job
from tests.cluster.ray_nodes import DEADLY, ray_cluster
from tests.conftest import RESNEST, drawn

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as made:
        yield made


@pytest.fixture
def joined(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster


def test_a_cluster_makes_the_bytes_of_one_process(joined, small, finished, tmp_path):
    folder, fmt = finished
    summary = job(small, tmp_path / "ray", fmt, on="ray").run()
    assert (summary.done, summary.failed, summary.resumed) == (20, 2, 0)
    assert digests(tmp_path / "ray") == digests(folder)
    (tmp_path / "ray" / f"part-000003.{fmt}").unlink()
    again = job(small, tmp_path / "ray", fmt, on="ray").run()
    assert (again.done, again.resumed) == (20, 17)
    assert digests(tmp_path / "ray") == digests(folder)


def test_other_versions_are_refused(joined, small, tmp_path, monkeypatch):
    versions = on_ray.versions() | {"pillow": "1.0"}
    monkeypatch.setattr(on_ray, "versions", lambda: versions)
    with pytest.raises(
        EngineError, match=r"other settings than the driver: pillow '.*', not '1.0'"
    ):
        job(small, tmp_path / "out", on="ray").run()


def test_a_folder_that_nodes_do_not_see_is_refused(joined, small, tmp_path, monkeypatch):
    made = on_ray.Setup.of

    def elsewhere(*args, **kwargs):
        return on_ray.replace(made(*args, **kwargs), here=str(tmp_path / "missing"))

    monkeypatch.setattr(on_ray.Setup, "of", elsewhere)
    with pytest.raises(OutputError, match="does not see the folder"):
        job(small, tmp_path / "out", on="ray").run()


@pytest.mark.parametrize(
    ("images", "size"), [(12, 6), pytest.param(1000, 100, marks=pytest.mark.slow)]
)
def test_an_image_that_kills_its_process_is_found(joined, tmp_path, images, size):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(images):
        drawn(40, 40, seed=number).save(folder / f"{number:03}.png")
    job(folder, tmp_path / "whole", partition_size=size).run()
    with (folder / "004.png").open("ab") as file:
        file.write(DEADLY)
    summary = job(folder, tmp_path / "out", partition_size=size, on="ray").run()
    assert (summary.done, summary.failed) == (images, 1)
    merge(tmp_path / "out", tmp_path / "out.jsonl")
    merge(tmp_path / "whole", tmp_path / "whole.jsonl")
    rows, others = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("out", "whole")
    )
    assert rows[4]["error"] == on_ray.KILLED
    assert rows[:4] + rows[5:] == others[:4] + others[5:]


@pytest.mark.parametrize(
    ("on", "words"),
    [("spark", "must be ray"), ("127.0.0.2:1", "cannot be joined at 127.0.0.2:1")],
)
def test_what_is_no_cluster_is_an_error(small, tmp_path, on, words, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    with pytest.raises(ResNeStError, match=words):
        job(small, tmp_path / "out", on=on).run()


def test_a_share_of_a_cluster_is_refused(small, tmp_path):
    with pytest.raises(UsageError, match="`on` and `shard`"):
        job(small, tmp_path / "out", on="ray", shard="1/2").run()


@pytest.mark.parametrize(
    ("images", "size", "kills"), [(60, 4, 4), pytest.param(2000, 50, 100, marks=pytest.mark.slow)]
)
def test_kills_at_random_moments_lose_and_double_nothing(joined, tmp_path, images, size, kills):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(images):
        path = folder / f"{number:04}.png"
        drawn(32, 32, seed=number).save(path)
        if number % 10 == 4:
            path.write_bytes(path.read_bytes()[:200])
    job(folder, tmp_path / "whole", partition_size=size).run()
    rng, done, out = random.Random(0), 0, tmp_path / "out"
    driver = _driver(folder, out, size)
    while done < kills:
        time.sleep(rng.uniform(0.2, 2))
        if driver.poll() is not None:  # take some parts away, so that there is work
            for part in sorted(out.glob("part-*"))[:: rng.choice((1, 2))]:
                part.unlink()
            driver = _driver(folder, out, size)
            continue
        what = rng.choices(("worker", "node", "driver"), (6, 1, 1))[0]
        if what == "driver":
            driver.kill()
            driver.wait()
        elif what == "node":
            joined.kill("127.0.0.3")
            joined.start("127.0.0.3")
        elif workers := joined.workers():
            _kill(rng.choice(workers))
        else:
            continue
        done += 1
    driver.wait(300)
    assert _driver(folder, out, size).wait(300) == 3
    assert {n: d for n, d in digests(out).items() if ".resnest-" not in n} == digests(
        tmp_path / "whole"
    )


def _driver(images: Path, out: Path, size: int) -> "subprocess.Popen[bytes]":
    command = [*RESNEST, "predict", images, "-m", "demo", "--engine", "torch", "-q", "-f", "jsonl",
               "--partition-size", size, "--on", "ray", "-o", f"{out}/"]  # fmt: skip
    return subprocess.Popen([*map(str, command)])


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def test_failed_rows_alone_count_as_made_again(joined, small, finished, tmp_path):
    folder, fmt = finished
    shutil.copytree(folder, tmp_path / "out")
    summary = job(small, tmp_path / "out", fmt, on="ray", retry_failed=True).run()
    assert (summary.done, summary.failed, summary.resumed) == (20, 2, 18)
    assert digests(tmp_path / "out") == digests(folder)


def test_no_cluster_is_needed_if_nothing_is_missing(small, finished, tmp_path, monkeypatch):
    folder, fmt = finished
    shutil.copytree(folder, tmp_path / "out")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.2:1")
    assert job(small, tmp_path / "out", fmt, on="ray").run().resumed == 20


def test_a_driver_is_stopped_in_order(joined, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(400):
        drawn(600, 500, seed=number % 9).save(folder / f"{number:03}.png")
    driver = _driver(folder, tmp_path / "out", 20)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob("part-*")) and time.monotonic() < end:
        time.sleep(0.05)
    driver.terminate()
    assert driver.wait(60) == 130
