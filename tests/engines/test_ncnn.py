"""The ncnn engine: the answers of torch, by another arithmetic, for many pictures."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnest_cli import Classifier
from resnest_cli.bench import engines_here
from resnest_cli.card import ModelCard
from resnest_cli.engines import base
from resnest_cli.engines.base import MANY, EngineOptions, chosen_engine, open_engine
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.model.load import save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.variants import VARIANTS
from tests.conftest import RESNEST, ROOT, drawn, lines

pytest.importorskip("ncnn", reason="ncnn is not installed (extra fast)")

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
MANY_ON_CPU = EngineOptions(device="cpu", many=True)


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


def lively(card):
    """A network all of whose parts matter: random weights, batch norms and biases."""
    torch.manual_seed(0)
    network = ResNeSt(card.architecture, num_classes=card.num_classes).eval()
    initialise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1)
            module.running_var.uniform_(0.5, 2)
            module.running_mean.uniform_(-0.1, 0.1)
        if getattr(module, "bias", None) is not None:
            module.bias.data.uniform_(-0.3, 0.3)
    return network


def probabilities(classifier, pictures, **how):
    results = list(classifier.stream(pictures, **how))
    return np.array(
        [[p.probability for p in sorted(r.predictions, key=lambda p: p.index)] for r in results]
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_logits_of_every_variant_are_the_networks(variant, tmp_path):
    crop = 90  # then 45, 23, 12, 6 and 3: not all are halved evenly
    card = ModelCard.of_variant(variant)
    card = replace(card, architecture=replace(card.architecture, width=0.5))
    network = lively(card)
    save_checkpoint(tmp_path / "v.safetensors", network, card)
    options = EngineOptions(weights=tmp_path / "v.safetensors", engine="ncnn", keep=False)
    engine = open_engine(options)
    pixels = np.random.default_rng(0).integers(0, 256, (3, crop, crop, 3), np.uint8)
    ready = card.preprocessing.normalise(pixels).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = network(torch.from_numpy(np.ascontiguousarray(ready))).numpy()
    assert np.abs(engine.run(pixels) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(engine.run(pixels[:1]) - expected[:1]).max() <= 1e-5 * np.abs(expected).max()


def test_probabilities_are_torchs(legacy_checkpoint):
    pictures = [*EXAMPLES, *(drawn(300, 240, seed=seed) for seed in range(5))]
    for given, classes in (({"model": "demo"}, 10), ({"weights": legacy_checkpoint}, 1000)):
        a, b = (
            probabilities(Classifier(**given, engine=e, device="cpu", top_k=classes), pictures)
            for e in ("ncnn", "torch")
        )
        assert np.abs(a - b).max() <= 1e-5
        assert (np.argsort(-a)[:, :5] == np.argsort(-b)[:, :5]).all()


def test_an_answer_does_not_depend_on_its_neighbours():
    classifier = Classifier("demo", engine="ncnn", top_k=10)
    pictures = [drawn(100, 80, seed=seed) for seed in range(21)]
    whole = probabilities(classifier, pictures)
    for start in (0, 7, 20):
        left = probabilities(classifier, pictures[start:], continued=True)
        assert np.array_equal(left, whole[start:])


def test_pictures_of_another_size_go_through():
    hub, torchs = (
        Classifier("demo", engine=e, preprocess="hub", device="cpu") for e in ("ncnn", "torch")
    )
    assert hub.preprocessing.crop == 224
    assert np.abs(probabilities(hub, EXAMPLES) - probabilities(torchs, EXAMPLES)).max() <= 1e-5


def test_many_pictures_may_go_elsewhere_than_fewer(run, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    (tmp_path / "many").mkdir()
    for number in range(MANY):
        (tmp_path / "many" / f"{number}.jpg").symlink_to(EXAMPLES[0])
    many = run("predict", tmp_path / "many", "-m", "demo", "--device", "cpu")
    assert many.returncode == 0, many.stderr
    assert f"· {chosen_engine(MANY_ON_CPU)} · cpu · fp32" in many.stdout
    (tmp_path / "many" / "0.jpg").unlink()
    fewer = run("predict", tmp_path / "many", "-m", "demo", "--device", "cpu")
    assert "· openvino · cpu · fp32" in fewer.stdout


INTEL = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
ZEN_4 = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"


@pytest.mark.parametrize(
    ("processor", "quicker"),
    [
        (INTEL, False),
        (ZEN_4, True),
        (ZEN_4.replace("25", "26"), False),
        ("AMD64 Family 23 Model 113 Stepping 0, AuthenticAMD", True),  # as Windows tells it
        ("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", False),
        ("AuthenticAMD", True),
        ("arm", False),
    ],
)
def test_on_which_processors_ncnn_is_quicker(processor, quicker):
    assert base.quicker_by_ncnn(processor) is quicker


def test_what_auto_takes(monkeypatch):
    monkeypatch.setattr(base, "_sees_gpu", lambda: False)
    monkeypatch.setattr(base, "_processor", lambda: INTEL)
    assert chosen_engine(EngineOptions(many=True)) == "openvino"
    monkeypatch.setattr(base, "_processor", lambda: ZEN_4)
    assert chosen_engine(EngineOptions(many=True)) == "ncnn"
    assert chosen_engine(EngineOptions()) == "openvino"
    assert chosen_engine(EngineOptions(many=True, precision="bf16")) != "ncnn"
    assert chosen_engine(EngineOptions(many=True, compiled=True)) == "torch"
    assert chosen_engine(EngineOptions(many=True, engine="openvino")) == "openvino"
    monkeypatch.setattr(base, "_sees_gpu", lambda: True)
    assert chosen_engine(EngineOptions(many=True)) == "torch"
    assert chosen_engine(EngineOptions(many=True, device="cpu")) == "ncnn"
    monkeypatch.setenv("RESNEST_ENGINE", "torch")
    assert chosen_engine(EngineOptions(many=True, device="cpu")) == "torch"


def test_later_predictions_import_no_torch_and_convert_nothing(run, home):
    pictures = ("predict", *EXAMPLES, "-m", "demo", "--engine", "ncnn", "-f", "jsonl")
    first = run(*pictures)
    assert first.returncode == 0, first.stderr
    assert "converted in" in first.stderr
    program = (
        "import sys; from resnest_cli.cli import run\n"
        "assert run() == 0\n"
        "assert 'ncnn' in sys.modules\n"
        "assert not {'torch', 'torchvision', 'openvino'} & set(sys.modules)\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, *map(str, pictures), "-q"],
        env=os.environ | {"RESNEST_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == first.stdout


@pytest.mark.parametrize("harm", ["graph cut", "note without layers"])
def test_damaged_entries_are_made_anew(harm, run, home):
    command = ("predict", EXAMPLES[0], "-m", "demo", "--engine", "ncnn", "-f", "jsonl")
    expected = lines(run(*command))
    (graph,), (note,) = (list((home / "compiled").glob(f"*.{s}")) for s in ("graph", "json"))
    if harm == "graph cut":
        graph.write_bytes(graph.read_bytes()[:1000])
    else:
        note.write_text(note.read_text().replace('"layers"', '"later"'))
    again = run(*command)
    assert "converted in" in again.stderr
    assert lines(again) == expected
    assert run(*command).stderr == ""


def test_a_cache_that_cannot_be_written_costs_only_the_next_start(run, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    done = run("predict", *EXAMPLES, "-m", "demo", "--engine", "ncnn")
    assert done.returncode == 0, done.stderr
    assert "not kept" in done.stderr


def test_a_program_of_ones_own_ends_without_complaint(home):
    program = (
        "from resnest_cli import Classifier\n"
        "classifier = Classifier('demo', engine='ncnn')\n"
        "for result in classifier.stream(['examples/boat.jpg'] * 40): pass\n"
        "print(result.top1.label, classifier('examples/car.jpg').top1.label)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ship automobile\n")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["converting", "converted"]


def test_what_ncnn_does_not_do_is_said(monkeypatch, tmp_path):
    with pytest.raises(EngineError, match=r"ncnn computes in fp32 here; for bf16"):
        open_engine(EngineOptions("demo", engine="ncnn", precision="bf16"))
    with pytest.raises(EngineError, match="--engine torch for cuda"):
        open_engine(EngineOptions("demo", engine="ncnn", device="cuda"))
    with pytest.raises(UsageError, match="--compile is for --engine torch, not for ncnn"):
        open_engine(EngineOptions("demo", engine="ncnn", compiled=True))
    with pytest.raises(EngineError, match="is a graph for --engine openvino"):
        open_engine(EngineOptions(weights=tmp_path / "x.onnx", engine="ncnn"))
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert chosen_engine(EngineOptions(device="cpu", many=True)) == "torch"
    with pytest.raises(EngineError, match=r"pip install 'resnest-cli\[fast\]'"):
        open_engine(EngineOptions("demo", engine="ncnn"))


def test_bench_and_doctor_know_it(run):
    assert engines_here("cpu")[-1] == "ncnn"
    bench = run("bench", "demo", "--seconds", "0.1", "--engine", "ncnn", "-f", "json")
    assert [(row["engine"], row["device"]) for row in json.loads(bench.stdout)["rows"]] == [
        ("eager", "cpu"),
        ("ncnn", "cpu"),
    ]
    doctor = subprocess.run([*RESNEST, "doctor"], capture_output=True, text=True, check=False)
    assert f"for {MANY} pictures or more in fp32 {chosen_engine(MANY_ON_CPU)}" in doctor.stdout
