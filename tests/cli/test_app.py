"""The command line itself: cheap starts, helpful errors, completion, and what ends a process."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnest_cli import __version__
from resnest_cli.cli import app
from tests.conftest import RESNEST, ROOT

HEAVY = {"torch", "numpy", "PIL", "torchvision", "requests", "pydantic"}


def called(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_questions_about_the_command_import_nothing_heavy():
    program = """if True:
        import io, sys
        from contextlib import redirect_stdout
        import resnest_cli
        from resnest_cli.cli.app import run
        plain = ["--help", "--version", "list-models", "predict --help", "doctor --help", ""]
        for command in plain:
            with redirect_stdout(io.StringIO()) as out:
                assert run(command.split()) == 0, command
            assert out.getvalue(), command
        print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
        # an option that is wrong in itself: the whole command line has been read by then
        usual = "predict none.jpg -m resnest50 -f csv -o out.csv --device cpu --files-from none"
        assert run(usual.split()) == 2
        assert "pydantic" not in sys.modules"""
    done = called(program, *HEAVY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_each_command_is_listed_with_its_own_first_line():
    modules = {path.stem for path in (ROOT / "resnest_cli" / "cli").glob("*.py")}
    assert {name.replace("-", "_") for name in app.COMMANDS} < modules
    for name, text in app.COMMANDS.items():
        assert (inspect.getdoc(app.command(name)) or "").splitlines()[0] == text


def test_the_console_script_is_the_module(run):
    assert run("--version").stdout == f"resnest {__version__}\n"
    script = Path(sys.executable).with_name("resnest")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"resnest {__version__}\n"


WRONG = [
    ("predict x.jpg --top-k", 2, "see 'resnest predict --help'"),
    ("train x --epochs", 2, "see 'resnest train --help'"),
    ("predict x.jpg -f csv --json", 2, "--format csv and --json cannot be used together"),
    ("predict x.jpg --model resnet50", 2, "did you mean resnest50"),
    ("predict x.jpg --top-k 0", 2, "'--top-k' / '-k': must be a whole number, 1 or more, not '0'"),
    ("predict x.jpg --threshold 2", 2, "must be a number from 0.0 to 1.0, not '2'"),
    ("predict x.jpg --batch-size x", 2, "must be a whole number from 1 to 4096, not 'x'"),
    ("predict x.jpg --engine foo", 2, "must be one of auto, torch, openvino, not 'foo'"),
    ("predict x.jpg --prepocess hub", 2, "--preprocess"),
    ("predict x.jpg --format xml", 2, "table"),
    ("predict x.jpg --resume", 2, "--resume needs an --output file"),
    ("predict x.jpg --background white", 2, "--background must be six hexadecimal digits"),
    ("predict x.jpg --device gpu", 2, "--device must be one of auto, cpu, cuda, mps"),
    ("predict x.jpg --crop 8", 2, "--crop must be 32 to 2048 pixels, not 8"),
    ("predict x.jpg --engine openvino --device cuda", 1, "use --engine torch for --device cuda"),
    ("predict x.jpg -o no/where.csv", 1, "the folder 'no' does not exist"),
    ("predict x.jpg --weights none.pth", 1, "No such file"),
    ("predict x.jpg --offline", 1, "resnest50-528c19ca.pth"),
    ("predict --files-from none", 2, "--files-from must be a readable list, not 'none'"),
    ("predikt x.jpg", 2, "did you mean 'resnest predict'?"),
]


@pytest.mark.parametrize(("command", "code", "words"), WRONG, ids=lambda v: str(v)[:60])
def test_errors_are_two_lines_that_help(run, command, code, words):
    bare = any(option in command for option in ("--weights", "--offline", "--model", "predikt"))
    done = run(*command.split(), *([] if bare else ["-m", "demo"]))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""


def test_parameters_in_messages_become_options():
    text = "use `engine=torch` or `batch_size`, not `top_k=5` in 'a`b'"
    assert app.as_flags(text) == "use --engine torch or --batch-size, not --top-k 5 in 'a`b'"


def test_an_image_instead_of_a_command(run, drawn_image):
    done = run(drawn_image.name)
    assert done.returncode == 2
    assert "did you mean 'resnest predict drawn.png'?" in done.stderr


def test_debug_shows_where(run_process):
    environment = os.environ | {"RESNEST_DEBUG": "1"}
    done = run_process("predict", "x.jpg", "--offline", env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code():
    with open("/dev/full", "w") as full:
        assert subprocess.run([*RESNEST, "predikt"], stderr=full, check=False).returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_model_names(shell):
    environment = os.environ | {
        "_RESNEST_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "resnest predict --model resnest50_fast_4",
        "COMP_WORDS": "resnest predict --model resnest50_fast_4",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = "import sys; sys.argv = ['resnest']; from resnest_cli.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "resnest50_fast_4s2x40d" in done.stdout
    assert "resnest101" not in done.stdout


def test_an_interruption_while_modules_are_imported_shows_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*RESNEST, "list-models"], check=False, capture_output=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "{}"],
        ["train", "{}"],
        ["predict", "a.png", "-m", "{}"],
        ["predict", "{}", "-o", "no/{}"],
    ],
    ids=["evaluate", "train", "model", "output"],
)
def test_no_name_in_a_message_writes_to_the_terminal(arguments, run):
    hostile = "a\x1b[2Jb\udcff"
    done = run(*(argument.format(hostile) for argument in arguments))
    assert done.returncode in (1, 2)
    assert "a\\x1b[2Jb" in done.stderr
    assert "\x1b" not in done.stderr
