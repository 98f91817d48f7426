"""`resnest export`: files that answer as the network does, wherever they are run."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnest_cli import Classifier
from resnest_cli.card import ModelCard
from resnest_cli.errors import CheckpointError, EngineError, ResNeStError, UsageError
from resnest_cli.export import export
from resnest_cli.model.average import average
from resnest_cli.model.load import Loaded, build, load_state, save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.variants import VARIANTS
from tests.conftest import RESNEST, ROOT, drawn

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")

SUFFIXES = ("onnx", "xml", "pt2", "safetensors")
MUTATIONS = int(os.environ.get("RESNEST_TEST_MUTATIONS", "60"))
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
# every variant takes ten minutes; the suite takes those that differ most
VARIED = ("resnest14", "resnest50_fast_4s2x40d", "resnest50_fast_1s1x64d")
TRIED = [v for v in VARIANTS if v.name in VARIED or os.environ.get("RESNEST_TEST_EXPORTS") == "all"]


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundled network in every format."""
    folder = tmp_path_factory.mktemp("exported")
    for suffix in SUFFIXES:
        done = subprocess.run(
            [*RESNEST, "export", folder / f"demo.{suffix}", "-m", "demo"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "its logits are the network's within" in done.stderr
        assert done.stdout == ""
    assert sorted(p.suffix for p in folder.iterdir()) == sorted(
        [".bin", *(f".{suffix}" for suffix in SUFFIXES)]
    )
    return folder


def answers(**given):
    classifier = Classifier(**given, device="cpu", top_k=10)
    pictures = [*EXAMPLES, *(drawn(120, 90, seed=seed) for seed in range(4))]
    results = list(classifier.stream(pictures))
    table = [sorted(r.predictions, key=lambda p: p.index) for r in results]
    assert [p.label for p in table[0]][:2] == ["airplane", "automobile"]
    return np.array([[p.probability for p in row] for row in table])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_needs_nothing_else(suffix, exported):
    expected = answers(model="demo", engine="torch")
    found = answers(weights=exported / f"demo.{suffix}")
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_graphs_need_no_torch(suffix, exported):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from resnest_cli.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", EXAMPLES[0], "--weights",
         exported / f"demo.{suffix}", "-f", "csv"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ",airplane," in done.stdout


def test_a_graph_is_openvinos_whatever_the_environment_prefers(exported, monkeypatch):
    monkeypatch.setenv("RESNEST_ENGINE", "torch")
    assert Classifier(weights=exported / "demo.xml").engine.name == "openvino"
    with pytest.raises(EngineError, match="is a graph for --engine openvino"):
        Classifier(weights=exported / "demo.xml", engine="torch")
    monkeypatch.setenv("RESNEST_ENGINE", "bogus")
    with pytest.raises(UsageError, match=r"^\$RESNEST_ENGINE is none of .* but 'bogus'"):
        Classifier("demo")


def test_another_resolution_is_carried_along(run, tmp_path):
    sizes = ["--crop", "64", "--resize", "72"]
    assert run("export", "smaller.xml", "-m", "demo", *sizes).returncode == 0
    asked = answers(model="demo", engine="torch", crop=64, resize=72)
    assert np.abs(answers(weights=tmp_path / "smaller.xml") - asked).max() <= 1e-5
    assert np.abs(answers(model="demo", engine="torch") - asked).max() > 1e-3
    other = run("predict", EXAMPLES[0], "--weights", "smaller.xml", "--crop", "96")
    assert (other.returncode, "for 64 pixels, not 96" in other.stderr) == (2, True)


def test_another_preprocessing_is_carried_along(run, tmp_path):
    file = tmp_path / "hub.safetensors"
    done = run("export", file, "-m", "demo", "--preprocess", "hub")
    assert done.returncode == 0, done.stderr
    own = run("predict", EXAMPLES[0], "--weights", file)
    assert "hub (resize 256, crop 224, bilinear)" in own.stdout
    same = run("predict", EXAMPLES[0], "-m", "demo", "--preprocess", "hub")
    assert same.stdout == own.stdout


def test_a_blend_is_the_mean_of_its_parts(run, tmp_path):
    demo = load_state("demo")
    other = {k: v + 0.01 if v.is_floating_point() else v for k, v in demo.state.items()}
    for name, card in (("other", demo.card), ("words", replace(demo.card, labels=None))):
        save_checkpoint(tmp_path / f"{name}.safetensors", build(dict(other), card), card)
    part, words = (load_state(weights=tmp_path / f"{n}.safetensors") for n in ("other", "words"))
    blend = ["export", "blend.safetensors", "-m", "demo", "--average", "other.safetensors"]
    done = run(*blend, "--share", "0.25")
    assert done.returncode == 0, done.stderr
    made = load_state(weights=tmp_path / "blend.safetensors")
    assert "other.safetensors, SHA-256" in made.card.origin
    for state, more in ((made.state, 0.0025), (average(demo, [part, part]).state, 0.02 / 3)):
        for key, value in state.items():
            if value.is_floating_point():
                expected = demo.state[key] + more
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7, msg=key)
    alone = run("export", "x.safetensors", "-m", "demo", "--share", "0.5")
    assert (alone.returncode, "--average" in alone.stderr) == (2, True)
    with pytest.raises(UsageError, match="other classes"):
        average(demo, [words])
    card = replace(demo.card, architecture=replace(demo.card.architecture, width=1.0))
    with pytest.raises(UsageError, match="another network"):
        average(demo, [part._replace(card=card)])


def test_weights_in_16_bits(tmp_path):
    size = (ROOT / "resnest_cli" / "data" / "demo.safetensors").stat().st_size
    demo = load_state("demo")  # whose weights are of 16 bits
    wide = demo._replace(state={k: v * 1.0001 for k, v in demo.state.items()})
    for loaded, half, share in ((demo, False, 1), (wide, False, 2), (wide, True, 1)):
        assert export(loaded, tmp_path / "stored.safetensors", half=half) <= 1e-6
        stored = (tmp_path / "stored.safetensors").stat().st_size
        assert stored == pytest.approx(share * size, rel=0.03)
    with pytest.raises(UsageError, match="16 bits are for"):
        export(demo, tmp_path / "x.onnx", half=True)


def test_onnxruntime_gives_the_same(exported):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    loaded = load_state("demo")
    crop = loaded.card.preprocessing.crop
    pixels = torch.randn(3, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = build(loaded.state, loaded.card)(pixels).numpy()
    session = runtime.InferenceSession(exported / "demo.onnx")
    for count in (1, 3):
        found = session.run(["logits"], {"pixels": pixels[:count].numpy()})[0]
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    card = ModelCard.from_json(session.get_modelmeta().custom_metadata_map["resnest"])
    assert card.preprocessing == loaded.card.preprocessing
    assert card.labels == loaded.card.labels
    assert card.origin == loaded.card.origin  # which says what it was made from


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


def miniature(variant, folder):
    """A variant with a fraction of its channels and of its resolution, with weights."""
    card = ModelCard.of_variant(variant, num_classes=7)
    view = replace(card.preprocessing, crop=64, resize=72)
    narrow = replace(card.architecture, width=0.125)
    card = replace(card, architecture=narrow, preprocessing=view)
    torch.manual_seed(0)
    network = ResNeSt(narrow, num_classes=7)
    initialise(network)
    save_checkpoint(folder / "narrow.safetensors", network.eval(), card)
    return load_state(weights=folder / "narrow.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("variant", TRIED, ids=lambda v: v.name)
def test_every_variant(variant, suffix, tmp_path):
    from resnest_cli.export import TOLERANCE, export

    assert export(miniature(variant, tmp_path), tmp_path / f"out.{suffix}") <= TOLERANCE


def test_a_file_with_other_answers_is_not_written(tmp_path, monkeypatch):
    from resnest_cli import export as exporting

    def harmed(network, card, path):
        with torch.no_grad():
            network.fc.bias[0] += 0.5
        save_checkpoint(path, network, card)
        with torch.no_grad():
            network.fc.bias[0] -= 0.5

    monkeypatch.setitem(
        exporting._FORMATS, ".safetensors", (harmed, exporting._FORMATS[".safetensors"][1])
    )
    loaded = load_state("demo")
    copied = {key: value.clone() for key, value in loaded.state.items()}
    with pytest.raises(ResNeStError, match="was not written: its answers differ"):
        exporting.export(Loaded(copied, loaded.card, loaded.path), tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_answers_that_are_no_numbers_are_not_taken_for_equal(tmp_path, monkeypatch):
    from resnest_cli import export as exporting

    write, _ = exporting._FORMATS[".safetensors"]
    nothing = (write, lambda path: lambda pixels: np.full((len(pixels), 10), np.nan, np.float32))
    monkeypatch.setitem(exporting._FORMATS, ".safetensors", nothing)
    with pytest.raises(ResNeStError, match="was not written"):
        exporting.export(load_state("demo"), tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_exists_is_kept_unless_asked(run, exported, tmp_path):
    before = (exported / "demo.safetensors").read_bytes()
    done = run("export", exported / "demo.safetensors", "-m", "demo")
    assert done.returncode == 1
    assert "--overwrite" in done.stderr
    assert (exported / "demo.safetensors").read_bytes() == before
    done = run("export", tmp_path / "x.tflite", "-m", "demo")
    assert done.returncode == 2
    assert ".onnx, .xml, .pt2, .safetensors" in done.stderr


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_graphs_are_for_predicting_only(suffix, exported, run, tmp_path):
    graph = exported / f"demo.{suffix}"
    done = run("export", tmp_path / "out.pt2", "--weights", graph)
    assert (done.returncode, "which can only be run" in done.stderr) == (1, True)
    done = run("predict", EXAMPLES[0], "--weights", graph, "--engine", "torch")
    assert (done.returncode, "--engine openvino" in done.stderr) == (1, True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_named(suffix, exported, tmp_path, run):
    path = tmp_path / f"cut.{suffix}"
    whole = (exported / f"demo.{suffix}").read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    if suffix == "xml":
        path.with_suffix(".bin").write_bytes((exported / "demo.bin").read_bytes())
    done = run("predict", EXAMPLES[0], "--weights", path)
    assert done.returncode == 1, done.stdout
    assert "cut." in done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_a_graph_is_not_taken_for_another_variant(suffix, exported, run):
    done = run("predict", EXAMPLES[0], "--weights", exported / f"demo.{suffix}", "-m", "resnest50")
    assert (done.returncode, "holds demo, not resnest50" in done.stderr) == (1, True)
    done = run(
        "predict", EXAMPLES[0], "--weights", exported / f"demo.{suffix}", "--preprocess", "hub"
    )
    assert (done.returncode, "pixels, not 224" in done.stderr) == (2, True)


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_mutated_graphs_give_answers_or_a_reason(suffix, exported, tmp_path):
    """In a process of its own, as what is read is read by a library in C++."""
    program = f"""
import random, sys
from pathlib import Path
from resnest_cli.engines.openvino_graph import read_graph
from resnest_cli.errors import ResNeStError
whole, path = Path({str(exported / f"demo.{suffix}")!r}).read_bytes(), Path("mutated.{suffix}")
Path("mutated.bin").write_bytes(Path({str(exported / "demo.bin")!r}).read_bytes())
rng, refused = random.Random(0), 0
for _ in range({MUTATIONS}):
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
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_graph_without_its_weights(exported, tmp_path, run):
    (tmp_path / "alone.xml").write_bytes((exported / "demo.xml").read_bytes())
    done = run("predict", EXAMPLES[0], "--weights", tmp_path / "alone.xml")
    assert (done.returncode, "put 'alone.bin' beside it" in done.stderr) == (1, True)


def test_a_program_from_elsewhere_is_not_run(tmp_path):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "other.pt2")
    with pytest.raises(CheckpointError, match="the program in it is not run"):
        load_state(weights=tmp_path / "other.pt2")


def test_a_program_may_be_anything_as_only_the_weights_are_read(exported, tmp_path):
    """The graph in a file is never looked at: here it is garbage."""
    path = tmp_path / "odd.pt2"
    with zipfile.ZipFile(exported / "demo.pt2") as good, zipfile.ZipFile(path, "w") as odd:
        for name in good.namelist():
            garbage = name.endswith(("model.json", "model.pt"))
            odd.writestr(name, b"garbage" if garbage else good.read(name))
    again, expected = load_state(weights=path), load_state("demo")
    assert all(torch.equal(again.state[key], value) for key, value in expected.state.items())
