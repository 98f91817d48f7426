"""Exported files that are given as weights: read, or refused with the reason."""

import subprocess
import sys

import pytest

from resnest_cli import Classifier
from resnest_cli.engines.openvino.graph import read_graph
from resnest_cli.errors import CheckpointError, UsageError
from tests.export.conftest import READ_BACK

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")


@pytest.mark.parametrize("suffix", READ_BACK)
def test_damaged_files_are_named(suffix, exported, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    whole = (exported / f"demo.{suffix}").read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    if suffix == "xml":
        path.with_suffix(".bin").write_bytes((exported / "demo.bin").read_bytes())
    with pytest.raises(CheckpointError, match=r"cut\."):
        Classifier(weights=path)


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_a_graph_is_not_taken_for_another_variant(suffix, exported):
    graph = exported / f"demo.{suffix}"
    with pytest.raises(CheckpointError, match="holds demo, not resnest50"):
        Classifier("resnest50", weights=graph)
    with pytest.raises(UsageError, match=r"`crop` must be 96 pixels .* not 224"):
        Classifier(weights=graph, preprocess="hub")


def test_a_graph_without_its_weights(exported, tmp_path):
    (tmp_path / "alone.xml").write_bytes((exported / "demo.xml").read_bytes())
    with pytest.raises(CheckpointError, match=r"put 'alone\.bin' beside it"):
        Classifier(weights=tmp_path / "alone.xml")


MUTATE = """
import random, sys
from pathlib import Path
from resnest_cli.engines.openvino.graph import read_graph
from resnest_cli.errors import ResNeStError
source, mutations = Path(sys.argv[1]), int(sys.argv[2])
whole, path = source.read_bytes(), Path(f"mutated{source.suffix}")
Path("mutated.bin").write_bytes(source.with_suffix(".bin").read_bytes())
rng, refused = random.Random(0), 0
for _ in range(mutations):
    content = bytearray(whole)
    edge = rng.choice((64, 4096, len(content) // 2))
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(edge, len(content) // 2))
        content[at if rng.random() < 0.5 else -1 - at] = rng.randrange(256)
    path.write_bytes(content)
    try:
        read_graph(path)
    except ResNeStError as error:
        assert str(error).count(chr(10)) <= 1, error
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
@pytest.mark.parametrize("mutations", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_graphs_are_read_or_refused_with_a_reason(suffix, mutations, exported, tmp_path):
    """In a process of its own, as a C++ library reads them."""
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, exported / f"demo.{suffix}", str(mutations)],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_reading_a_graph_gives_its_config(exported):
    _, config = read_graph(exported / "demo.onnx")
    assert config == read_graph(exported / "demo.xml")[1]
