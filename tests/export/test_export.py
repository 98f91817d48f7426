"""Exported files: they give what the network gives, wherever they are run, or are not written."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnest_cli import Classifier, export_model
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.demo import demo_checkpoint
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import (
    CheckpointError,
    EngineError,
    LabelsError,
    OutputError,
    ResNeStError,
    UsageError,
)
from resnest_cli.export import formats
from resnest_cli.export.formats import TOLERANCE
from resnest_cli.model.checkpoint import load_checkpoint, save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from tests.conftest import ROOT, drawn
from tests.export.conftest import READ_BACK, SUFFIXES

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))


def probabilities(**given):
    """Of all ten classes, for the examples and some drawn images."""
    classifier = Classifier(**given, device="cpu", top_k=10)
    images = [*EXAMPLES, *(drawn(120, 90, seed=seed) for seed in range(4))]
    results = list(classifier.stream(images))
    table = [sorted(r.predictions, key=lambda p: p.index) for r in results]
    assert [p.label for p in table[0]][:2] == ["airplane", "automobile"]
    return np.array([[p.probability for p in row] for row in table])


@pytest.mark.parametrize("suffix", READ_BACK)
def test_a_file_needs_nothing_else(suffix, exported):
    expected = probabilities(model="demo", engine="torch")
    found = probabilities(model=str(exported / f"demo.{suffix}"))
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_graphs_need_no_torch(suffix, exported):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from resnest_cli.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", EXAMPLES[0], "--weights",
         exported / f"demo.{suffix}", "-f", "csv"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ",airplane," in done.stdout


def test_a_graph_runs_on_openvino_whatever_the_environment_prefers(exported, monkeypatch):
    monkeypatch.setenv("RESNEST_ENGINE", "torch")
    graph = exported / "demo.xml"
    assert Classifier(weights=graph).engine.name == "openvino"
    with pytest.raises(EngineError, match="runs on `engine=openvino`"):
        Classifier(weights=graph, engine="torch")
    monkeypatch.setenv("RESNEST_ENGINE", "bogus")
    with pytest.raises(UsageError, match=r"^\$RESNEST_ENGINE must be one of .* not 'bogus'"):
        Classifier("demo")


def test_another_resolution_is_stored(tmp_path):
    made = export_model("demo", tmp_path / "smaller.xml", crop=64, resize=72).path
    asked = probabilities(model="demo", engine="torch", crop=64, resize=72)
    assert np.abs(probabilities(weights=made) - asked).max() <= 1e-5
    assert np.abs(probabilities(model="demo", engine="torch") - asked).max() > 1e-3
    with pytest.raises(UsageError, match=r"`crop` must be 64 pixels .* not 96"):
        Classifier(weights=made, crop=96)


def test_another_preprocessing_is_stored(tmp_path):
    made = export_model("demo", tmp_path / "hub.safetensors", preprocess="hub").path
    stored = Classifier(weights=made, engine="torch")
    assert stored.preprocessing.describe() == "hub (resize 256, crop 224, bilinear)"
    asked = Classifier("demo", preprocess="hub", engine="torch")
    assert stored(EXAMPLES[0]) == asked(EXAMPLES[0])


@pytest.mark.parametrize(
    ("scale", "store", "size"), [(1.0, "fp32", 1), (1.0001, "fp32", 2), (1.0001, "fp16", 1)]
)
def test_weights_in_fp16(scale, store, size, tmp_path):
    """Weights that fp16 holds exactly are stored so; others if asked."""
    checkpoint = load_checkpoint(resolve("demo"))
    state = {k: v.half().float() * scale if v.ndim > 1 else v for k, v in checkpoint.state.items()}
    save_checkpoint(
        tmp_path / "in.safetensors", checkpoint._replace(state=state).network(), checkpoint.config
    )
    made = export_model(str(tmp_path / "in.safetensors"), tmp_path / "out.safetensors", store=store)
    assert made.difference <= 1e-6
    assert made.path.stat().st_size == pytest.approx(5_815_000 * size, rel=0.03)


RUN_ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pixels = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], session.run(["logits"], {"pixels": pixels})[0])
"""


def test_onnx_files_are_of_the_lowest_version_that_their_opset_allows(exported):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
    model = onnx.load(exported / "demo.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import) == 8


@pytest.mark.skipif(not os.environ.get("OLD_PYTHON"), reason="$OLD_PYTHON names no interpreter")
def test_an_old_onnxruntime_gives_the_same(exported, tmp_path):
    """In another interpreter, as an old version needs an old NumPy."""
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "in.npy", pixels.numpy())
    files = exported / "demo.onnx", tmp_path / "in.npy", tmp_path / "out.npy"
    subprocess.run([os.environ["OLD_PYTHON"], "-c", RUN_ONNX, *files], check=True)
    with torch.inference_mode():
        expected = load_checkpoint(resolve("demo")).network()(pixels).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["onnx", "xml", "safetensors"])
def test_labels_are_stored(suffix, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"name {n}" for n in range(10)))
    made = export_model("demo", tmp_path / f"x.{suffix}", labels=tmp_path / "names.txt").path
    assert Classifier(weights=made).labels.names[:2] == ("name 0", "name 1")


def test_labels_of_another_number_are_refused(tmp_path):
    (tmp_path / "names.txt").write_text("one\ntwo")
    with pytest.raises(LabelsError, match="has 2 names, but the network has 10 classes"):
        export_model("demo", tmp_path / "x.onnx", labels=tmp_path / "names.txt")
    assert not (tmp_path / "x.onnx").exists()


def test_onnxruntime_gives_the_same(exported):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    loaded = load_checkpoint(resolve("demo"))
    crop = loaded.config.preprocessing.crop
    pixels = torch.randn(3, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = loaded.network()(pixels).numpy()
    session = runtime.InferenceSession(exported / "demo.onnx")
    for count in (1, 3):
        found = session.run(["logits"], {"pixels": pixels[:count].numpy()})[0]
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    config = ModelConfig.from_json(session.get_modelmeta().custom_metadata_map["resnest"])
    assert config.preprocessing == loaded.config.preprocessing
    assert config.labels == loaded.config.labels
    assert config.origin == loaded.config.origin  # what the demo was made from


def test_the_program_is_torchs(exported):
    files = {"resnest.json": ""}
    program = torch.export.load(exported / "demo.pt2", extra_files=files).module()
    config = ModelConfig.from_json(files["resnest.json"])
    assert config.labels.names[:2] == ("airplane", "automobile")
    network = load_checkpoint(resolve("demo")).network()
    pixels = torch.randn(5, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(program(pixels), network(pixels))


def test_the_origin_is_stored(tmp_path):
    checkpoint = load_checkpoint(resolve("demo"))
    source = tmp_path / "mine.safetensors"
    config = replace(checkpoint.config, origin=None, tool_version="0.0.1")
    save_checkpoint(source, checkpoint.network(), config)
    made = export_model(str(source), tmp_path / "out.safetensors").path
    stored = load_checkpoint(resolve(str(made))).config
    assert stored.origin == f"mine.safetensors, SHA-256 {resolve(str(source)).sha256}"
    assert stored.tool_version != "0.0.1"


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "xml"])
def test_nothing_of_this_machine_is_in_a_file(suffix, exported):
    path = exported / f"demo.{suffix}"
    content = path.read_bytes()
    if suffix == "pt2":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path.home()).encode() + b"/" not in content
    assert str(ROOT).encode() not in content
    assert sys.prefix.encode() not in content


def miniature(variant, folder, blocks):
    """A checkpoint of a variant with an eighth of its channels and these blocks, at 64 pixels."""
    config = ModelConfig.of_variant(variant, num_classes=7)
    view = replace(config.preprocessing, crop=64, resize=72)
    narrow = replace(config.architecture, width=0.125, blocks=blocks)
    config = replace(config, architecture=narrow, preprocessing=view)
    torch.manual_seed(0)
    network = ResNeSt(narrow, num_classes=7)
    initialise(network)
    save_checkpoint(folder / "narrow.safetensors", network.eval(), config)
    return str(folder / "narrow.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["resnest14", "resnest50_fast_4s2x40d", "resnest50_fast_1s1x64d"])
def test_every_kind_of_variant(name, suffix, tmp_path):
    """With and without groups, of radix 1, 2 and 4, pooling before and after the convolution."""
    source = miniature(get_variant(name), tmp_path, (1, 2, 1, 1))
    assert export_model(source, tmp_path / f"out.{suffix}").difference <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variant(variant, suffix, tmp_path):
    source = miniature(variant, tmp_path, variant.architecture.blocks)
    assert export_model(source, tmp_path / f"out.{suffix}").difference <= TOLERANCE


@pytest.fixture
def other_format(monkeypatch):
    """Let the safetensors format be written, or run, otherwise."""

    def change(**parts):
        changed = replace(formats.FORMATS["safetensors"], **parts)
        monkeypatch.setitem(formats.FORMATS, "safetensors", changed)

    return change


def test_a_file_with_other_logits_is_not_written(tmp_path, other_format):
    def harmed(checkpoint, path):
        network = checkpoint.network()
        bias = network.fc.bias.detach().clone()
        bias[0] += 0.5
        network.fc.bias = torch.nn.Parameter(bias)
        save_checkpoint(path, network, checkpoint.config)

    other_format(write=harmed)
    with pytest.raises(ResNeStError, match="was not written: its logits differ"):
        export_model("demo", tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_logits_that_are_not_numbers_are_not_equal(tmp_path, other_format):
    other_format(run=lambda path: lambda pixels: np.full((len(pixels), 10), np.nan, np.float32))
    with pytest.raises(ResNeStError, match="was not written"):
        export_model("demo", tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_failed_export_leaves_an_existing_file_alone(tmp_path, other_format):
    (tmp_path / "out.safetensors").write_bytes(b"before")

    def fail(checkpoint, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    other_format(write=fail)
    with pytest.raises(OSError, match="No space left"):
        export_model("demo", tmp_path / "out.safetensors", overwrite=True)
    assert (tmp_path / "out.safetensors").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {"out.safetensors"}


@pytest.mark.parametrize("name", ["out.safetensors", "out.xml"])
def test_existing_files_are_kept_unless_asked(name, tmp_path):
    existing = tmp_path / name.replace(".xml", ".bin")  # of an .xml, its weights count, too
    existing.write_bytes(b"before")
    with pytest.raises(OutputError, match=f"{existing.name}' exists already\nreplace it with `ov"):
        export_model("demo", tmp_path / name)
    assert existing.read_bytes() == b"before"
    export_model("demo", tmp_path / name, overwrite=True)
    assert existing.stat().st_size > 1_000_000


@pytest.mark.parametrize("link", [False, True])
def test_a_checkpoint_is_never_overwritten_by_its_own_export(link, tmp_path):
    source = tmp_path / "best.safetensors"
    source.write_bytes(demo_checkpoint().read_bytes())
    output = tmp_path / "link.safetensors" if link else source
    if link:
        output.symlink_to(source)
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        export_model(str(source), output, overwrite=True, store="fp16")
    assert source.read_bytes() == demo_checkpoint().read_bytes()


@pytest.mark.parametrize(
    ("output", "options", "error", "words"),
    [
        ("x.tflite", {}, UsageError, r"end in one of \.onnx, \.xml, \.pt2, \.safetensors"),
        ("x", {}, UsageError, "or choose a `format`: onnx, openvino, torch, safetensors"),
        ("x.onnx", {"format": "openvino"}, UsageError, r"is written to a \.xml file"),
        ("x.onnx", {"format": "tflite"}, UsageError, "`format` must be one of onnx"),
        ("x.onnx", {"store": "fp16"}, UsageError, "`store` must be fp32, or fp16 for"),
        ("x.safetensors", {"store": "int8"}, UsageError, "not 'int8'"),
        ("x.safetensors", {"crop": 8}, UsageError, "`crop` must be 32 to 2048"),
        ("no/x.onnx", {}, OutputError, "does not exist"),
        (".", {"format": "onnx"}, OutputError, "is a folder"),
    ],
)
def test_wrong_options(output, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_model("demo", tmp_path / output, **options)
    assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == []


def test_a_format_adds_its_suffix(tmp_path):
    made = export_model("demo", tmp_path / "v1.2", format="safetensors")
    assert made.path == tmp_path / "v1.2.safetensors"
    assert made.path.is_file()


def test_a_network_without_a_last_layer_is_refused(tmp_path):
    checkpoint = load_checkpoint(resolve("demo"))
    state = {k: v for k, v in checkpoint.state.items() if not k.startswith("fc.")}
    config = replace(checkpoint.config, num_classes=0, labels=None)
    source = tmp_path / "features.safetensors"
    save_checkpoint(source, checkpoint._replace(state=state, config=config).network(), config)
    with pytest.raises(UsageError, match="has no last layer"):
        export_model(str(source), tmp_path / "out.safetensors")


@pytest.mark.parametrize("suffix", ["onnx", "xml", "pt2"])
def test_graphs_and_programs_cannot_be_exported_again(suffix, exported, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds a (graph|program), which"):
        export_model(str(exported / f"demo.{suffix}"), tmp_path / "out.safetensors")
