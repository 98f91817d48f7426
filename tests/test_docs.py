"""What is written about the program is true of it."""

import os
import re
import subprocess
import sys

import pytest

from docs import generate
from resnest_cli.variants import VARIANTS
from tests.conftest import RESNEST, ROOT, lines

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_models_is_up_to_date():
    assert generate.readme(README) == README, "run python docs/generate.py"
    assert all(v.name in README for v in VARIANTS)


def test_the_command_reference_is_up_to_date():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert generate.commands() == page, "run python docs/generate.py"


def test_the_layout_names_every_module():
    block = README.split("    resnest_cli/\n")[1].split("\n\n")[0]
    for path in (ROOT / "resnest_cli").rglob("*.py"):
        if path.parent.name != "commands" and not path.name.startswith("__"):
            assert path.name in block, path


@pytest.mark.parametrize(
    "line", [x.strip() for x in README.splitlines() if x.startswith("    resnest ")]
)
def test_examples_are_accepted_up_to_their_weights(line, tmp_path):
    """Each example is a right command line: it ends with weights that cannot be had, or well."""
    command = line.split("#")[0].split()[1:]
    if command[0] == "bench":  # needs no weights
        command += ["--output", "no/folder.json"]
    done = subprocess.run(
        [*RESNEST, *(word.strip("'") for word in command)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"RESNEST_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr


def test_the_first_command_names_the_example_pictures_without_a_network():
    (command,) = re.findall(r"\.venv/bin/resnest (predict .*)", README)
    done = subprocess.run(
        [sys.executable, "-m", "resnest_cli", *command.split(), "--offline", "-f", "jsonl"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    named = {row["path"]: row["predictions"][0]["label"] for row in lines(done)}
    assert named == {
        "examples/aeroplane.jpg": "airplane",
        "examples/boat.jpg": "ship",
        "examples/car.jpg": "automobile",
    }
