"""No command contacts anything on its own, or writes outside of the documented folders."""

import importlib.util
from pathlib import Path

import pytest

from resnest_cli.catalog.variants import get_variant
from tests.conftest import drawn
from tests.quiet import Quiet, is_traced

ALL = ("matplotlib", "onnxscript", "openvino", "pyarrow", "scipy", "sklearn", "yaml")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ALL), reason="needs every extra"
)
TRAIN = ["train", "classes", "-m", "demo", "--epochs", 1, "--overwrite"]
COMMANDS: dict[str, list[list[object]]] = {
    "predict": [["predict", "classes", "-m", "demo", "-o", "rows.parquet"]],
    "torch": [["predict", "classes", "-m", "demo", "--engine", "torch"]],
    "explain": [["explain", "classes", "-m", "demo", "-o", "why", "--check"]],
    "evaluate": [["evaluate", "classes", "-m", "demo", "--skip-unknown", "-o", "measured"]],
    "train": [[*TRAIN, "-j", 0]],
    "xml": [["export", "-m", "demo", "-o", "demo.xml"], ["predict", "a.png", "-m", "demo.xml"]],
    "safetensors": [["export", "-m", "demo", "-o", "demo.safetensors"]],
    "bench": [["bench", "demo", "--seconds", 0.1, "-o", "bench.json", "--chart", "bench.png"]],
    "models": [["list-models"], ["--version"], ["--help"], ["train", "--help"],
               ["download", "demo"]],
    "cache": [["cache"], ["cache", "prune"]],
    "doctor": [["doctor"]],
}  # fmt: skip
LONG = COMMANDS | {
    "workers": [[*TRAIN, "-j", 2]],
    "onnx": [["export", "-m", "demo", "-o", "demo.onnx"], ["predict", "a.png", "-m", "demo.onnx"]],
    "pt2": [["export", "-m", "demo", "-o", "demo.pt2"]],
    "compile": [["predict", "a.png", "-m", "demo", "--engine", "torch", "--compile"]],
    "all bench": [["bench", "resnest14", "--seconds", 0.1, "--chart", "bench.png"]],
}
PYTHON = """
from resnest_cli import Classifier, Inputs, PredictionJob, evaluate, export_model, list_models
from resnest_cli import load_model, train
list_models()
load_model("demo")
classifier = Classifier("demo")
classifier("a.png")
list(classifier.stream(["a.png", "missing.png"]))
export_model("demo", "demo.xml")
train("classes", model="demo", output="trained", epochs=1, workers=0)
"""


def prepared(folder: Path, **options: bool) -> Quiet:
    quiet = Quiet(folder, **options)
    for name in ("cat", "dog"):
        (quiet.work / "classes" / name).mkdir(parents=True)
        for number in range(6):
            seed = number + 10 * (name == "dog")
            drawn(seed=seed).save(quiet.work / "classes" / name / f"{number}.png")
    drawn().save(quiet.work / "a.png")
    return quiet


def test_all_commands_with_nothing_set(tmp_path):
    """First use of each in a fresh home, where the documented cache folder is all there is."""
    quiet = prepared(tmp_path, cache=False)
    seen = quiet.run(*(command for commands in COMMANDS.values() for command in commands))
    assert set(seen.codes) == {0}, seen.stderr
    seen.check(in_home=".cache/resnest")
    assert "telemetry    off" in seen.stdout
    again = quiet.run(*COMMANDS["predict"], *COMMANDS["doctor"])  # a file exists
    assert again.codes == [1, 0]
    again.check(in_home=".cache/resnest")


def test_a_cache_folder_that_cannot_be_written(tmp_path):
    """What libraries store is in the folder for temporary files then, until the end."""
    quiet = prepared(tmp_path)
    (quiet.folder / "cache").write_text("a file")
    seen = quiet.run(*COMMANDS["evaluate"], *COMMANDS["train"], RESNEST_HOME="../cache/below")
    assert seen.codes == [0, 0], seen.stderr
    seen.check()


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_each_command_alone(name, tmp_path):
    seen = prepared(tmp_path).run(*LONG[name])
    assert set(seen.codes) == {0}, seen.stderr
    seen.check()


@pytest.mark.slow
def test_a_published_model_on_disk(tmp_path):
    """It is used without asking anybody, and one that is missing is not asked for if offline."""
    import torch

    from resnest_cli import load_model

    quiet, variant = prepared(tmp_path), get_variant("resnest14")
    folder = quiet.folder / "cache" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(load_model("resnest14", pretrained=False).state_dict(), folder / variant.file_name)
    record = f"{variant.digest:0<64}  {variant.file_name}\n"
    (folder / f"{variant.file_name}.sha256").write_text(record)
    predict = ["predict", "a.png", "-m"]
    seen = quiet.run([*predict, "resnest14"], ["download", "resnest14"], ["list-models"],
                     [*predict, "resnest26", "--offline"])  # fmt: skip
    assert seen.codes == [0, 0, 0, 1], seen.stderr
    seen.check()


@pytest.mark.slow
def test_the_library(tmp_path):
    seen = prepared(tmp_path).python(PYTHON)
    assert seen.codes == [0], seen.stderr
    seen.check()


def test_what_is_recorded(tmp_path):
    """Else the tests above would show nothing."""
    quiet = Quiet(tmp_path)
    seen = quiet.python(
        "import pathlib, socket, subprocess, sys, tempfile\n"
        "home = pathlib.Path.home()\n"
        "(home / 'id').write_text('x')\n"
        "pathlib.Path(tempfile.mkdtemp(), 'x').write_text('x')\n"
        "open(sys.argv[1] + '/outside', 'w').close()\n"
        "program = 'import socket; socket.create_connection((\"192.0.2.1\", 9), 0.1)'\n"
        "subprocess.run([sys.executable, '-c', program], stderr=subprocess.DEVNULL)\n",
        str(tmp_path),
    )
    assert "192.0.2.1" in seen.contacts[0]
    assert seen.strays == [f"{tmp_path}/outside"]
    assert seen.in_home == ["id"]
    assert len(seen.left) == 1
    for wrong in ("contacts", "strays", "in_home", "left"):
        assert getattr(seen, wrong)
    if is_traced():
        assert any("AF_INET" in contact for contact in seen.contacts)


def test_openvino_by_itself_reports_and_is_recorded(tmp_path):
    """What this package switches off; it remains for programs that use the converters."""
    if importlib.util.find_spec("openvino_telemetry") is None:
        pytest.skip("openvino_telemetry is not installed")
    loud = Quiet(tmp_path / "loud").python("import openvino, time; time.sleep(0.5)")
    assert any("intel" in name for name in loud.in_home), loud.stderr
    quiet = Quiet(tmp_path / "quiet").python(
        "import sys\n"
        "from resnest_cli.engines.openvino.runtime import ov\n"
        "assert not any('telemetry' in name for name in sys.modules)\n"
        "import openvino\n"
        "assert not hasattr(openvino, 'nonsense')\n"
        "print(openvino.convert_model.__name__)\n"
    )
    assert quiet.stdout == "convert_model\n", quiet.stderr


def test_onnxruntime_reports_nothing_if_a_variable_says_so(tmp_path):
    """As the guide to exports states."""
    pytest.importorskip("onnxruntime")
    seen = Quiet(tmp_path).python("import onnxruntime", ORT_DISABLE_TELEMETRY="1")
    assert seen.codes == [0], seen.stderr
    seen.check()
