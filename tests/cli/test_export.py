"""`resnest export`: what is exported is an argument, the file an option, and nothing is lost."""

import pytest


def test_the_command(run, tmp_path):
    done = run("export", "demo", "-o", "demo.safetensors")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "'demo.safetensors' written in " in done.stderr
    assert "its logits are the model's within 0.0e+00" in done.stderr
    inputs = ["-m", "demo"], ["--weights", "demo.safetensors"], ["demo.safetensors"]
    for number, how in enumerate(inputs):
        name = f"{number}.safetensors"
        done = run("export", *how, "-o", name, "--store", "fp16", "-q")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["best.safetensors"], 2, "use, for instance: resnest export best.safetensors -o x.onnx"),
        (["best.safetensors", "--overwrite"], 2, "-o FILE is missing: what to write"),
        (["out.onnx", "--model", "demo"], 2, "resnest export demo -o out.onnx"),
        (["x.onnx", "--weights", "a.pth"], 2, "resnest export a.pth -o x.onnx"),
        (["demo", "-m", "demo", "-o", "x.onnx"], 2, "leave out one of them"),
        (["demo", "-o", "best.safetensors"], 1, "replace it with --overwrite"),
        (["demo", "-o", "x.tflite"], 2, "--output must end in one of .onnx, .xml, .pt2, .safet"),
    ],
)
def test_wrong_commands_overwrite_nothing(arguments, code, words, run, tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"best")
    done = run("export", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert (tmp_path / "best.safetensors").read_bytes() == b"best"
    assert not list(tmp_path.glob("*.onnx"))
