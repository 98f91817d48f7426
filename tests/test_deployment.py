"""The Containerfile and the SLURM script, as far as they can be tested without either."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, drawn

CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")
SCRIPT = ROOT / "examples" / "slurm-array.sh"


def test_the_image_copies_what_exists_and_installs_extras_that_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    copied = [
        name for line in re.findall("(?m)^COPY (.*) ", CONTAINERFILE) for name in line.split()
    ]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    (extras,) = re.findall("(?m)^ARG EXTRAS=(.*)$", CONTAINERFILE)
    for extra in extras.split(","):
        assert re.search(rf"(?m)^{extra} = \[", project), extra


def test_what_the_build_of_the_package_needs_is_copied():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (section,) = re.findall(
        r"(?ms)^\[tool.hatch.build.targets.wheel.force-include\]\n(.*?)^\[", project
    )
    for source in re.findall('(?m)^"([^"/]*)', section):
        assert re.search(rf"(?m)^COPY .*\b{source}\b", CONTAINERFILE), source


@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_the_tasks_of_the_array_fill_the_folder(tmp_path, run):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        drawn(40, 40, seed=number).save(tmp_path / "photos" / f"{number}.png")
    command = tmp_path / "bin" / "resnest"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m resnest_cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    words = ["photos/", "out", "--model", "demo", "--partition-size", "1", "--format", "jsonl"]
    for task in (5, 6):
        array = {"ID": task, "MIN": 5, "MAX": 6, "STEP": 1, "COUNT": 2}
        slurm = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
        environment = {**os.environ, **slurm, "PATH": path, "PYTHONPATH": str(ROOT)}
        subprocess.run(["bash", SCRIPT, *words], cwd=tmp_path, env=environment, check=True)
        done = run("merge", tmp_path / "out", "-o", tmp_path / "all.csv")
        assert done.returncode == (1 if task == 5 else 0), done.stderr
    assert Path(tmp_path / "all.csv").read_text().count(".png") == 4
