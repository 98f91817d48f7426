"""The OpenVINO engine: torch's probabilities without torch, prepared once, one result per image."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnest_cli import Classifier, RuntimeOptions
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.variants import get_variant
from resnest_cli.catalog.weights import Weights, resolve
from resnest_cli.engines.api import FEATURES, LOGITS, OUTPUTS
from resnest_cli.engines.graph_cache import CacheEntry
from resnest_cli.engines.openvino import engine as openvino_engine
from resnest_cli.engines.openvino.build import build_graph
from resnest_cli.engines.openvino.graph import CONFIG_PLACE, with_pixels
from resnest_cli.engines.openvino.runtime import core, ov, supported_precisions
from resnest_cli.engines.select import open_engine
from resnest_cli.errors import EngineError
from resnest_cli.model.checkpoint import load_checkpoint, save_checkpoint
from resnest_cli.model.resnest import ResNeSt
from tests.conftest import RESNEST, ROOT, drawn, in_process, lines, lively

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
PREDICT = ("predict", EXAMPLES[0], "-m", "demo", "--device", "cpu", "-f", "jsonl")


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A cache folder in which the bundled network is prepared."""
    home = tmp_path_factory.mktemp("prepared")
    environment = {"RESNEST_HOME": str(home), "RESNEST_ENGINE": "openvino"}
    assert in_process(*PREDICT, env=environment).returncode == 0
    return home


@pytest.fixture
def loaded(monkeypatch):
    """The settings of every graph that OpenVINO loads."""
    settings = []

    class Core:
        """OpenVINO's, with a note of each call."""

        def compile_model(self, graph, device, given):
            settings.append(given)
            return core().compile_model(graph, device, given)

        def import_model(self, graph, device, given):
            settings.append(given)
            return core().import_model(graph, device, given)

    monkeypatch.setattr(openvino_engine, "core", Core)
    return settings


def demo(**options):
    """An engine that runs the bundled network, and random images of its size."""
    engine = open_engine(resolve("demo"), RuntimeOptions("cpu", "openvino", **options))
    crop = engine.config.preprocessing.crop
    return engine, np.random.default_rng(0).integers(0, 256, (9, crop, crop, 3), np.uint8)


def entry(weights, *, precision="fp32", crop=None):
    return CacheEntry.of(weights, crop=crop, precision=precision, engine="openvino", version="1")


def probabilities(classifier, images):
    results = list(classifier.stream(images))
    return np.array(
        [[p.probability for p in sorted(r.predictions, key=lambda p: p.index)] for r in results]
    )


@pytest.mark.parametrize("weights", ["demo", "resnest14"])
def test_probabilities_are_torchs(weights, legacy_checkpoint):
    given = {"model": "demo"} if weights == "demo" else {"weights": legacy_checkpoint}
    images = [*EXAMPLES, *(drawn(300, 240, seed=seed) for seed in range(5))]
    classes = 10 if weights == "demo" else 1000
    ours, torchs = (
        Classifier(**given, engine=engine, device="cpu", top_k=classes)
        for engine in ("openvino", "torch")
    )
    assert (ours.engine.name, ours.engine.precision) == ("openvino", "fp32")
    a, b = (probabilities(c, images) for c in (ours, torchs))
    assert np.abs(a - b).max() <= 1e-5
    assert (np.argsort(-a)[:, :5] == np.argsort(-b)[:, :5]).all()


def test_an_image_has_one_result_alone_and_among_others(prepared, monkeypatch):
    monkeypatch.setenv("RESNEST_HOME", str(prepared))
    classifier = Classifier("demo", engine="openvino")
    images = [drawn(100, 80, seed=seed) for seed in range(21)]
    whole = [result.predictions for result in classifier.stream(images)]
    assert [classifier(image).predictions for image in images] == whole
    for start in (7, 20):
        assert [r.predictions for r in classifier.stream(images[start:])] == whole[start:]


def test_a_lone_image_is_computed_for_latency_where_that_gives_the_same_bits(loaded, home):
    for _ in ("prepared", "from the cache"):
        engine, pixels = demo()
        alone = [engine.run(image[None], OUTPUTS) for image in pixels]
        for index, together in enumerate(engine.run(pixels, OUTPUTS)):
            assert all(
                (one[index][0] == row).all() for one, row in zip(alone, together, strict=True)
            )
    used = [settings["PERFORMANCE_HINT"] for settings in loaded]
    (note,) = (home / "compiled").glob("*.json")
    if json.loads(note.read_text())["same_alone_on"] is None:  # another processor than we know
        assert used == ["THROUGHPUT", "LATENCY", "THROUGHPUT"]
    else:
        assert used == ["THROUGHPUT", "LATENCY", "LATENCY", "THROUGHPUT"]


def test_a_configuration_that_rounds_otherwise_is_not_used(loaded, monkeypatch):
    checkpoint = load_checkpoint(resolve("demo"))
    state = {name: value * 1.001 for name, value in checkpoint.state.items()}
    graph = with_pixels(
        build_graph(state, checkpoint.config, OUTPUTS), checkpoint.config.preprocessing
    )
    ours = openvino_engine.core()
    import_model = ours.import_model

    def otherwise(stored, device, given):
        if given["PERFORMANCE_HINT"] == "LATENCY":
            return ours.compile_model(graph, device, given)
        return import_model(stored, device, given)

    monkeypatch.setattr(ours, "import_model", otherwise)
    monkeypatch.setattr(openvino_engine, "core", lambda: ours)
    for _ in ("prepared", "from the cache"):
        engine, pixels = demo(hint="latency")
        (alone,) = engine.run(pixels[:1])
        (together,) = engine.run(pixels)
        assert (alone[0] == together[0]).all()
    assert [s["PERFORMANCE_HINT"] for s in loaded] == ["THROUGHPUT", "LATENCY", "THROUGHPUT"]


def test_what_is_loaded_follows_from_the_hint(prepared, monkeypatch, loaded):
    monkeypatch.setenv("RESNEST_HOME", str(prepared))
    demo()
    assert loaded == []
    engine, pixels = demo(hint="latency")
    engine.run(pixels[:1])
    assert len(loaded) == 1
    for hint, first, then in (("throughput", 1, 9), (None, 9, 1)):
        loaded.clear()
        engine, pixels = demo(hint=hint)
        engine.run(pixels[:first])
        engine.run(pixels[:then])
        assert [settings["PERFORMANCE_HINT"] for settings in loaded] == ["THROUGHPUT"]


def test_threads_do_not_get_each_others_outputs(prepared, monkeypatch):
    monkeypatch.setenv("RESNEST_HOME", str(prepared))
    engine, pixels = demo()
    expected = engine.run(pixels, OUTPUTS)
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda n: engine.run(pixels[: 1 + n % 9], OUTPUTS), range(36))
        for outputs in found:
            for array, whole in zip(outputs, expected, strict=True):
                assert (array == whole[: len(array)]).all()


def test_a_signal_reaches_the_program_after_engines_were_dropped(prepared, drawn_image):
    """Two cores of OpenVINO, dropped, leave a thread whose next signal is a segmentation fault."""
    program = (
        "import faulthandler, gc, os, signal\n"
        "faulthandler.enable()\n"
        "caught = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: caught.append(1))\n"
        "from resnest_cli import Classifier\n"
        "for _ in range(2):\n"
        f"    Classifier('demo', engine='openvino')({str(drawn_image)!r})\n"
        "    gc.collect()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert caught\n"
    )
    environment = os.environ | {"RESNEST_HOME": str(prepared)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.slow
def test_engines_that_are_dropped_right_after_a_run_end_in_peace(prepared):
    program = (
        "import numpy as np\n"
        "from resnest_cli import RuntimeOptions\n"
        "from resnest_cli.catalog.weights import resolve\n"
        "from resnest_cli.engines.select import open_engine\n"
        "for count in range(400):\n"
        "    engine = open_engine(resolve('demo'), RuntimeOptions('cpu', 'openvino'))\n"
        "    crop = engine.config.preprocessing.crop\n"
        "    engine.run(np.zeros((1 + count % 4, crop, crop, 3), np.uint8))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"RESNEST_HOME": str(prepared)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnest14", "resnest50", "resnest50_fast_4s2x40d"])
def test_photographs_have_one_result_alone_among_others_and_later(
    name, precision, photos, tmp_path
):
    if precision not in supported_precisions():
        pytest.skip(f"this processor has no {precision}")
    config = ModelConfig.of_variant(get_variant(name))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "x.safetensors", lively(ResNeSt(config.architecture)), config)
    first, later = (
        Classifier(weights=tmp_path / "x.safetensors", engine="openvino", precision=precision)
        for _ in range(2)
    )
    whole = [(s.name, logits.tobytes()) for s, logits in first.logits(photos[:12])]
    for classifier in (first, later):
        alone = [row for photo in photos[:12] for row in classifier.logits([photo])]
        assert [(s.name, logits.tobytes()) for s, logits in alone] == whole


def test_an_exported_graph_gives_logits_alone(tmp_path):
    state, config, _ = load_checkpoint(resolve("demo"))
    graph = build_graph(state, config)
    graph.set_rt_info(config.to_json(), CONFIG_PLACE)
    ov.save_model(graph, tmp_path / "demo.xml", compress_to_fp16=False)
    exported = open_engine(Weights(tmp_path / "demo.xml"), RuntimeOptions())
    engine, pixels = demo()
    np.testing.assert_allclose(exported.run(pixels)[0], engine.run(pixels)[0], atol=1e-5)
    with pytest.raises(EngineError, match="gives no features: use the checkpoint"):
        exported.run(pixels, (LOGITS, FEATURES))


def test_the_first_run_and_later_ones_give_the_same_bytes(run, tmp_path):
    first = run(*PREDICT)
    assert first.returncode == 0, first.stderr
    assert "Preparing demo for this CPU (once) ..." in first.stderr
    assert "prepared in" in first.stderr
    second = run(*PREDICT)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    among = run("predict", *EXAMPLES, "-m", "demo", "--device", "cpu", "-f", "jsonl")
    assert among.stdout.splitlines()[0] == first.stdout.strip()
    run("predict", *EXAMPLES, "-m", "demo", "--device", "cpu", "-o", tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == among.stdout


def test_a_prepared_network_needs_no_torch(prepared):
    program = (
        "import sys; from resnest_cli.cli.app import run\n"
        "assert run(sys.argv[1:]) == 0\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'torch', 'torchvision', 'openvino.tools'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, PREDICT)],
        env=os.environ | {"RESNEST_HOME": str(prepared)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_preparing_imports_no_converter_and_no_telemetry(home):
    program = (
        "import sys; from resnest_cli.cli.app import run\n"
        "assert run(sys.argv[1:]) == 0\n"
        "assert 'torch' in sys.modules\n"
        "assert not {'openvino.tools', 'openvino_telemetry'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, PREDICT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_processes_prepare_once(tmp_path):
    environment = os.environ | {"RESNEST_HOME": str(tmp_path / "home")}
    both = [
        subprocess.Popen([*RESNEST, *PREDICT], env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    (first, log), (second, other) = (process.communicate(timeout=120) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert (log + other).count("prepared in") == 1


@pytest.mark.parametrize("damage", ["graph cut", "graph changed", "note cut", "note missing"])
def test_damaged_entries_are_replaced(damage, prepared, home, run):
    (graph,) = (prepared / "compiled").glob("*.graph")
    (home / "compiled").mkdir(parents=True)
    note = graph.with_suffix(".json").read_text()
    content = bytearray(graph.read_bytes())
    if damage == "graph changed":
        content[len(content) // 2] ^= 1
    copy = home / "compiled" / graph.name
    copy.write_bytes(content[: len(content) // 2] if damage == "graph cut" else content)
    if damage != "note missing":
        copy.with_suffix(".json").write_text(note[:50] if damage == "note cut" else note)
    done = run(*PREDICT)
    assert done.returncode == 0, done.stderr
    assert "prepared in" in done.stderr
    assert lines(done)[0]["predictions"][0]["label"] == "airplane"
    assert run(*PREDICT).stderr == ""


def test_a_kill_while_preparing_leaves_no_harm(run, home):
    with subprocess.Popen([*RESNEST, *PREDICT], stdout=-1, stderr=-1, text=True) as process:
        assert "Preparing" in process.stderr.readline()
        process.send_signal(signal.SIGKILL)
    assert not list((home / "compiled").glob("*.json"))  # it was not done
    done = run(*PREDICT)
    assert done.returncode == 0, done.stderr
    assert "prepared in" in done.stderr


def test_another_precision_or_crop_is_another_entry():
    demo = resolve("demo")
    graphs = {entry(demo).graph, entry(demo, precision="bf16").graph, entry(demo, crop=224).graph}
    assert len(graphs) == 3


def test_a_published_network_has_one_entry_whatever_it_is_called(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"of resnest50")
    published = Weights(file, "resnest50", published=True)
    assert entry(published).graph == entry(published, crop=224).graph
    assert entry(published).graph != entry(published, crop=288).graph
    others = [Weights(file, "resnest101", published=True), Weights(file, "resnest50")]
    assert len({entry(weights).graph for weights in (published, *others)}) == 3


def test_bf16_is_used_only_when_chosen():
    if "bf16" not in supported_precisions():
        pytest.skip("this processor has no bf16")
    exact, rounded = (
        Classifier("demo", engine="openvino", precision=p, top_k=10) for p in ("fp32", "bf16")
    )
    a, b = (probabilities(c, EXAMPLES) for c in (exact, rounded))
    assert (a.argmax(1) == b.argmax(1)).all()
    assert 0 < np.abs(a - b).max() < 0.05


def test_no_more_threads_than_a_container_grants(monkeypatch, loaded):
    monkeypatch.setattr(openvino_engine, "limited_to", lambda: 1)
    monkeypatch.setattr(openvino_engine, "processors", lambda: 1)
    engine, pixels = demo()
    engine.run(pixels)
    assert [settings["INFERENCE_NUM_THREADS"] for settings in loaded] == ["1", "1"]


def test_another_input_resolution():
    ours, torchs = (
        Classifier("demo", engine=e, crop=64, device="cpu", top_k=10) for e in ("openvino", "torch")
    )
    assert (ours.engine.name, ours.preprocessing.crop) == ("openvino", 64)
    assert np.abs(probabilities(ours, EXAMPLES) - probabilities(torchs, EXAMPLES)).max() <= 1e-5


def test_a_resolution_of_one_last_pixel(tmp_path):
    checkpoint = load_checkpoint(resolve("demo"))
    view = replace(checkpoint.config.preprocessing, crop=16, resize=16)
    config = replace(checkpoint.config, preprocessing=view)
    save_checkpoint(tmp_path / "small.safetensors", checkpoint.network(), config)
    ours, torchs = (
        Classifier(weights=tmp_path / "small.safetensors", engine=e, device="cpu", top_k=10)
        for e in ("openvino", "torch")
    )
    assert np.abs(probabilities(ours, EXAMPLES) - probabilities(torchs, EXAMPLES)).max() <= 1e-5


def test_a_cache_that_cannot_be_written_costs_only_the_next_start(run, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    done = run(*PREDICT)
    assert done.returncode == 0, done.stderr
    assert "cannot be stored" in done.stderr
