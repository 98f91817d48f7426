"""The command about itself, and its errors, in a process of its own."""

import csv
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnest_cli import __version__, cli
from tests.conftest import RESNEST, ROOT, in_terminal
from tests.servers import content, serving

HEAVY = ("torch", "numpy", "PIL", "torchvision", "requests")


@pytest.mark.parametrize(
    "command",
    [["--help"], ["--version"], ["list-models"], ["predict", "--help"], ["doctor", "--help"], []],
    ids=" ".join,
)
def test_answers_about_itself_import_nothing_heavy(command):
    program = (
        "import sys; from resnest_cli.cli import run\n"
        f"sys.argv[1:] = {command}\n"
        "assert run() == 0\n"
        f"assert not (found := sorted({set(HEAVY)} & set(sys.modules))), found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout


def test_each_command_is_listed_with_its_own_first_words():
    modules = {path.stem for path in (ROOT / "resnest_cli" / "commands").glob("*.py")}
    assert {name.replace("-", "_") for name in cli.COMMANDS} < modules
    for name, words in cli.COMMANDS.items():
        assert inspect.getdoc(cli.command(name)).splitlines()[0] == words


def test_a_usual_command_line_is_read_without_pydantic():
    """Typer's own reading imports it, and that takes a seventh of a picture's whole time."""
    program = (
        "import sys; from resnest_cli.cli import run\n"
        "assert run() == 1\n"  # as there is no such checkpoint
        "assert 'pydantic' not in sys.modules"
    )
    command = "predict none.jpg -m resnest50 -f csv -o out.csv --device cpu".split()
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--weights", "none.pth"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_package_alone_imports_nothing_heavy():
    program = f"import resnest_cli, sys; assert not {set(HEAVY)} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_version(run):
    assert run("--version").stdout == f"resnest {__version__}\n"


def test_the_console_script_is_the_module(run):
    script = Path(sys.executable).with_name("resnest")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").stdout


WRONG = [
    (["predict", "x.jpg", "--model", "resnet50"], 2, "did you mean resnest50"),
    (["predict", "x.jpg", "--top-k", "0"], 2, "top-k"),
    (["predict", "x.jpg", "--threshold", "2"], 2, "threshold"),
    (["predict", "x.jpg", "--prepocess", "hub"], 2, "--preprocess"),
    (["predict", "x.jpg", "--format", "xml"], 2, "table"),
    (["predict", "x.jpg", "--resume"], 2, "--output"),
    (["predict", "x.jpg", "--background", "white"], 2, "RRGGBB"),
    (["predict", "x.jpg", "--device", "gpu"], 2, "cuda"),
    (["predict", "x.jpg", "-o", "no/where.csv"], 1, "no folder"),
    (["predict", "x.jpg", "--weights", "none.pth"], 1, "No such file"),
    (["predict", "x.jpg", "--offline"], 1, "resnest50-528c19ca.pth"),
    (["predict", "--files-from", "none"], 2, "no list"),
    (["predikt", "x.jpg"], 2, "resnest predict"),
    (["list-models", "xyz"], 2, "no model fits"),
    (["download"], 2, "--all"),
    (["download", "resnest5"], 2, "did you mean"),
]


@pytest.mark.parametrize(("command", "code", "words"), WRONG, ids=lambda v: str(v)[:60])
def test_errors_are_two_lines_that_help(run, command, code, words, legacy_checkpoint):
    given = {"--weights", "--offline", "--model"} & set(command)
    extra = [] if given else ["--weights", legacy_checkpoint]
    done = run(*command, *(extra if command[0] == "predict" else []))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""


def test_a_picture_in_the_place_of_a_command(run, drawn_picture):
    done = run(drawn_picture.name)
    assert done.returncode == 2
    assert "did you mean 'resnest predict drawn.png'?" in done.stderr


def test_debug_shows_where(run):
    done = run("predict", "x.jpg", "--offline", env=os.environ | {"RESNEST_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_list_models(run, home):
    home.joinpath("checkpoints").mkdir(parents=True)
    home.joinpath("checkpoints", "resnest101-22405ba7.pth").touch()
    rows = json.loads(run("list-models", "-f", "json").stdout)
    assert len(rows) == 13
    wanted = "name alias params gmacs crop resize interpolation top1 top5 cached".split()
    assert set(wanted) <= set(rows[0])
    assert [r["name"] for r in rows if r["cached"]] == ["resnest101"]
    table = list(csv.DictReader(io.StringIO(run("list-models", "*fast*", "-f", "csv").stdout)))
    assert len(table) == 7
    plain = run("list-models").stdout.splitlines()
    assert len(plain) == 14
    assert len(in_terminal([*RESNEST, "list-models"])[1].splitlines()) >= 15


def test_download_of_what_is_there(run, home, legacy_checkpoint):
    done = run("download", "resnest14", env=os.environ | {"RESNEST_OFFLINE": "1"})
    assert done.returncode == 1
    assert "gluon_resnest14-9c8fe254.pth" in done.stderr


def test_download_from_a_mirror_that_has_another_file(run):
    with serving(content(b"not it")) as server:
        environment = os.environ | {
            "RESNEST_MIRROR": server.url,
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }
        done = run("download", "resnest50", env=environment)
    assert done.returncode == 1
    assert "not 528c19ca" in done.stderr
    assert "HTTPS_PROXY" in done.stderr


def test_doctor(run, tmp_path):
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for words in (
        __version__,
        torch.__version__.split("+")[0],
        "Devices",
        "torch",
        str(tmp_path / "home"),
    ):
        assert words in done.stdout
    assert "boat.jpg is a ship" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_errors_that_cannot_be_written_are_errors_all_the_same():
    with open("/dev/full", "w") as full:
        assert subprocess.run([*RESNEST, "predikt"], stderr=full, check=False).returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_model_names(shell, tmp_path):
    environment = os.environ | {
        "_RESNEST_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "resnest predict --model resnest50_fast_4",
        "COMP_WORDS": "resnest predict --model resnest50_fast_4",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = "import sys; sys.argv = ['resnest']; from resnest_cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "resnest50_fast_4s2x40d" in done.stdout
    assert "resnest101" not in done.stdout


def test_an_interruption_while_modules_are_imported_shows_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [*RESNEST, "list-models"],
        check=False, capture_output=True, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
