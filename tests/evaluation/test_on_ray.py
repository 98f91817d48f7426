"""An evaluation on a real Ray cluster gives what one process gives."""

import json

import pytest

from resnest_cli import evaluate
from tests.cluster.ray_nodes import ray_cluster
from tests.conftest import drawn


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Nineteen images of three classes of the demo model; two are broken, one repeats another."""
    for number in range(19):
        folder = tmp_path / "images" / ("airplane", "cat", "ship")[number // 7]
        folder.mkdir(parents=True, exist_ok=True)
        drawn(40, 40, seed=number % 18).save(folder / f"{number}.png")
    for broken in ("cat/8.png", "ship/15.png"):
        (tmp_path / "images" / broken).write_bytes(b"not an image")
    monkeypatch.chdir(tmp_path)


def test_everything_is_as_in_one_process(images, caplog, monkeypatch):
    one = evaluate("images", "demo")
    said = sorted(record.getMessage() for record in caplog.records)
    caplog.clear()
    with ray_cluster() as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        several = evaluate("images", "demo", on="ray")
    assert json.dumps(several.as_json()) == json.dumps(one.as_json())
    assert one.as_json()["images"] == 17
    assert sorted(record.getMessage() for record in caplog.records) == said
