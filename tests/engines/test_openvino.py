"""The OpenVINO engine: the answers of torch, without torch, compiled once."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnest_cli import Classifier
from resnest_cli.engines import base, openvino_engine
from resnest_cli.engines.base import EngineOptions, chosen_engine, open_engine
from resnest_cli.engines.compiled import Entry
from resnest_cli.engines.openvino_engine import _entry, precisions_here
from resnest_cli.errors import EngineError
from resnest_cli.model.load import build, load_state, save_checkpoint
from tests.conftest import RESNEST, ROOT, drawn, lines

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache folder in which the bundled network is compiled."""
    home = tmp_path_factory.mktemp("kept")
    subprocess.run(
        [*RESNEST, "predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino"],
        check=True, env=os.environ | {"RESNEST_HOME": str(home)}, capture_output=True,
    )  # fmt: skip
    return home


def graph_of(home, monkeypatch, **options):
    monkeypatch.setenv("RESNEST_HOME", str(home))
    weights = ROOT / "resnest_cli" / "data" / "demo.safetensors"
    return _entry(weights, EngineOptions("demo", **options)).graph


def probabilities(classifier, pictures):
    results = list(classifier.stream(pictures))
    return np.array(
        [[p.probability for p in sorted(r.predictions, key=lambda p: p.index)] for r in results]
    )


@pytest.mark.parametrize("weights", ["demo", "resnest14"])
def test_probabilities_are_torchs(weights, legacy_checkpoint):
    given = {"model": "demo"} if weights == "demo" else {"weights": legacy_checkpoint}
    pictures = [*EXAMPLES, *(drawn(300, 240, seed=seed) for seed in range(5))]
    classes = 10 if weights == "demo" else 1000
    ours, torchs = (
        Classifier(**given, engine=engine, device="cpu", top_k=classes)
        for engine in ("openvino", "torch")
    )
    assert (ours.engine.name, ours.engine.precision) == ("openvino", "fp32")
    a, b = (probabilities(c, pictures) for c in (ours, torchs))
    assert np.abs(a - b).max() <= 1e-5
    assert (np.argsort(-a)[:, :5] == np.argsort(-b)[:, :5]).all()
    one = np.array([ours(picture).top1.probability for picture in EXAMPLES])
    assert np.abs(one - a[: len(EXAMPLES)].max(1)).max() <= 1e-6


def test_an_answer_does_not_depend_on_its_neighbours(kept, monkeypatch):
    monkeypatch.setenv("RESNEST_HOME", str(kept))
    classifier = Classifier("demo", engine="openvino")
    pictures = [drawn(100, 80, seed=seed) for seed in range(21)]
    whole = probabilities(classifier, pictures)
    for start in (0, 7, 20):
        left = probabilities_continued(classifier, pictures[start:])
        assert np.array_equal(left, whole[start:])


def probabilities_continued(classifier, pictures):
    results = classifier.stream(pictures, continued=True)
    return np.array(
        [[p.probability for p in sorted(r.predictions, key=lambda p: p.index)] for r in results]
    )[:, : classifier.top_k]


def test_later_predictions_import_no_torch(kept):
    program = (
        "import sys; from resnest_cli.cli import run\n"
        "assert run() == 0\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", EXAMPLES[0], "-m", "demo", "--device", "cpu"],
        env=os.environ | {"RESNEST_HOME": str(kept)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "openvino" in done.stdout
    assert "compil" not in done.stderr


def test_a_first_picture_is_answered_before_compiling(run):
    first = run("predict", EXAMPLES[0], "-m", "demo", "--device", "cpu")
    assert "torch" in first.stdout
    assert "compiled in" in first.stderr
    second = run("predict", EXAMPLES[0], "-m", "demo", "--device", "cpu")
    assert "openvino" in second.stdout
    assert second.stderr == ""


def test_processes_at_once_compile_once(tmp_path):
    environment = os.environ | {"RESNEST_HOME": str(tmp_path / "home")}
    command = [*RESNEST, "predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino", "-f", "csv"]
    both = [
        subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    (first, said), (second, also) = (process.communicate(timeout=120) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert (said + also).count("compiled in") == 1


@pytest.mark.parametrize("harm", ["graph cut", "graph changed", "note cut", "note gone"])
def test_damaged_entries_are_made_anew(harm, kept, tmp_path, monkeypatch, run):
    whole = graph_of(kept, monkeypatch)
    graph = graph_of(tmp_path / "home", monkeypatch)
    graph.parent.mkdir(parents=True)
    note = whole.with_suffix(".json").read_text()
    content = bytearray(whole.read_bytes())
    if harm == "graph changed":
        content[len(content) // 2] ^= 1
    graph.write_bytes(content[: len(content) // 2] if harm == "graph cut" else content)
    if harm != "note gone":
        graph.with_suffix(".json").write_text(note[:50] if harm == "note cut" else note)
    done = run("predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino", "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    assert "compiled in" in done.stderr
    assert lines(done)[0]["predictions"][0]["label"] == "airplane"
    again = run("predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino", "-f", "jsonl")
    assert (again.stdout, again.stderr) == (done.stdout, "")


def test_a_kill_while_compiling_leaves_nothing_half(run, tmp_path):
    command = [*RESNEST, "predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert "compiling" in process.stderr.readline()
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
    done = run("predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino")
    assert done.returncode == 0, done.stderr


def test_another_precision_or_crop_is_another_entry(kept, monkeypatch):
    own = graph_of(kept, monkeypatch)
    assert own != graph_of(kept, monkeypatch, precision="bf16")
    assert own != graph_of(kept, monkeypatch, crop=224)


def test_a_published_network_has_one_entry_whatever_it_is_called(tmp_path):
    (tmp_path / "weights").write_bytes(b"of resnest50")

    def entry(*named, crop=None):
        options = EngineOptions(*named, crop=crop)
        return Entry.of(tmp_path / "weights", options, "openvino", "1").graph

    assert entry() == entry("resnest50") == entry("resnest50d") == entry(crop=224)
    assert entry() != entry(crop=288)
    assert entry() != entry("resnest101")
    assert entry(None, Path("a.pth")) != entry(None, Path("b.pth"))  # which says nothing of itself


def test_bf16_is_taken_only_when_asked_for():
    if "bf16" not in precisions_here():
        pytest.skip("this processor has no bf16")
    exact, rounded = (
        Classifier("demo", engine="openvino", precision=p, top_k=10) for p in ("fp32", "bf16")
    )
    a, b = (probabilities(c, EXAMPLES) for c in (exact, rounded))
    assert (a.argmax(1) == b.argmax(1)).all()
    assert 0 < np.abs(a - b).max() < 0.05


def test_a_precision_that_the_processor_lacks_is_torchs(monkeypatch, run):
    monkeypatch.setattr(openvino_engine, "precisions_here", lambda _=None: ["fp32"])
    with pytest.raises(EngineError, match=r"does not compute in bf16 .* fp32\n.*--engine torch"):
        open_engine(EngineOptions("demo", engine="openvino", precision="bf16"))
    monkeypatch.setattr(base, "_sees_gpu", lambda: False)
    assert chosen_engine(EngineOptions()) == "openvino"
    assert chosen_engine(EngineOptions(precision="bf16")) == "torch"
    classifier = Classifier("demo", precision="bf16", device="cpu", answer_first=True)
    assert classifier.engine.name == "torch"
    monkeypatch.setattr("resnest_cli.classifier.open_engine", lambda _: pytest.fail("compiled"))
    classifier.compile()


def test_no_more_threads_than_a_container_grants(kept, monkeypatch):
    monkeypatch.setenv("RESNEST_HOME", str(kept))
    monkeypatch.setattr(openvino_engine, "limited_to", lambda: 1)
    engine = open_engine(EngineOptions("demo", engine="openvino"))
    for hint in ("LATENCY", "THROUGHPUT"):
        assert engine._compiled(hint).get_property("INFERENCE_NUM_THREADS") == 1


def test_pictures_of_another_size_are_compiled_for():
    ours, torchs = (
        Classifier("demo", engine=e, crop=64, device="cpu", top_k=10) for e in ("openvino", "torch")
    )
    assert (ours.engine.name, ours.preprocessing.crop) == ("openvino", 64)
    assert np.abs(probabilities(ours, EXAMPLES) - probabilities(torchs, EXAMPLES)).max() <= 1e-5


def test_a_size_that_cannot_be_compiled_is_torchs_only(tmp_path):
    state, card, _ = load_state("demo")
    small = replace(card, preprocessing=replace(card.preprocessing, crop=16, resize=16))
    save_checkpoint(tmp_path / "small.safetensors", build(state, small), small)
    weights = tmp_path / "small.safetensors"
    for engine in ("openvino", "ncnn"):
        with pytest.raises(EngineError, match=r"16 pixels.*\n.*--engine torch"):
            Classifier(weights=weights, engine=engine)
    assert Classifier(weights=weights, engine="torch")(EXAMPLES[0]).top1


def test_without_openvino_torch_is_taken_and_the_pip_command_named(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert chosen_engine(EngineOptions(device="cpu")) == "torch"
    with pytest.raises(EngineError, match=r"pip install 'resnest-cli\[fast\]'"):
        open_engine(EngineOptions("demo", engine="openvino"))


def test_what_auto_takes(monkeypatch):
    monkeypatch.setattr(base, "_sees_gpu", lambda: False)
    assert chosen_engine(EngineOptions()) == "openvino"
    assert chosen_engine(EngineOptions(device="cpu")) == "openvino"
    assert chosen_engine(EngineOptions(device="cuda")) == "torch"
    assert chosen_engine(EngineOptions(precision="fp16")) == "torch"
    monkeypatch.setattr(base, "_sees_gpu", lambda: True)
    assert chosen_engine(EngineOptions()) == "torch"
    monkeypatch.setenv("RESNEST_ENGINE", "torch")
    assert chosen_engine(EngineOptions(device="cpu")) == "torch"
    with pytest.raises(EngineError, match="--engine torch for cuda"):
        open_engine(EngineOptions("demo", engine="openvino", device="cuda"))


def test_a_cache_that_cannot_be_written_costs_only_the_next_start(run, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    done = run("predict", EXAMPLES[0], "-m", "demo", "--engine", "openvino")
    assert done.returncode == 0, done.stderr
    assert "not kept" in done.stderr
    auto = run("predict", EXAMPLES[0], "-m", "demo", "--device", "cpu")
    assert (auto.returncode, auto.stderr) == (0, "")  # and nothing is compiled in vain
