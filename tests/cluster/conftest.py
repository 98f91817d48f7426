"""A folder of small images, some of them broken, and what one undisturbed run makes of it."""

import hashlib
from pathlib import Path

import pytest

from resnest_cli import Inputs, ModelSpec, PartitionedJob, PredictionJob, RuntimeOptions
from tests.conftest import drawn
from tests.inputs.conftest import served, store  # noqa: F401

SIZE = 3  # inputs of a partition


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Twenty images of few pixels, every tenth broken: seven partitions, the last one short."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(20):
        path = folder / f"{number:03}.png"
        drawn(48, 40, seed=number).save(path)
        if number % 10 == 4:
            path.write_bytes(path.read_bytes()[:300])
    return folder


def job(images: Path, output: Path, fmt: str = "jsonl", **options: object) -> PartitionedJob:
    made = PredictionJob(
        Inputs(str(images)), output, fmt, ModelSpec("demo"), RuntimeOptions(engine="torch")
    )
    return PartitionedJob(made, **{"partition_size": SIZE} | options)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file but the record, which holds when the run was started."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


@pytest.fixture(scope="session", params=["jsonl", "parquet"])
def finished(request, small, tmp_path_factory):
    """A finished folder, and its format; copy it before you change it."""
    folder = tmp_path_factory.mktemp("finished") / request.param
    summary = job(small, folder, request.param).run()
    assert (summary.done, summary.failed) == (20, 2)
    return folder, request.param
