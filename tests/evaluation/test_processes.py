"""An evaluation on several processes, started by torchrun itself on this machine."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import RESNEST, drawn

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture
def images(tmp_path):
    """Seven images of three classes of the demo model; the fifth and the last are broken."""
    for number in range(7):
        folder = tmp_path / "images" / ("airplane", "cat", "ship")[number // 3]
        folder.mkdir(parents=True, exist_ok=True)
        drawn(40, 40, seed=number).save(folder / f"{number}.png")
    drawn(40, 40, seed=0).save(tmp_path / "images" / "cat" / "3.png")  # repeats the first
    for broken in ("cat/4.png", "ship/6.png"):
        (tmp_path / "images" / broken).write_bytes(b"not an image")
    return tmp_path / "images"


def torchrun(count, *arguments, cwd):
    words = [*TORCHRUN, str(count), "-m", "resnest_cli", "evaluate", *arguments]
    environment = {**os.environ, "RESNEST_ENGINE": "torch"}
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("count", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_everything_is_as_with_one_process(images, tmp_path, count):
    words = ("images", "--model", "demo", "-f", "json", "-o")
    one = subprocess.run(
        [*RESNEST, "evaluate", *words, "one"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    several = torchrun(count, *words, "several", cwd=tmp_path)
    assert one.returncode == 3  # two images cannot be read
    assert several.stdout == one.stdout, several.stderr
    assert json.loads(one.stdout)["images"] == 5
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "several").iterdir()) == names
    for name in names:
        assert (tmp_path / "several" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    for line in one.stderr.splitlines():
        assert several.stderr.count(line) == 1, several.stderr


def test_more_processes_than_images_and_an_exit_code_of_0(images, tmp_path):
    words = ("images", "--model", "demo", "--limit", "2", "-f", "json")
    done = torchrun(3, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2


def test_an_error_is_reported_once_and_ends_all(images, tmp_path):
    (tmp_path / "images" / "unknown").mkdir()
    drawn(40, 40, seed=0).save(tmp_path / "images" / "unknown" / "0.png")
    done = torchrun(2, "images", "--model", "demo", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "'unknown'" in done.stderr
    assert not done.stdout


HALTING = """
import os, sys, time
from resnest_cli import Classifier, evaluate

class Halting(Classifier):
    def logits(self, images):
        if os.environ["RANK"] == sys.argv[1]:
            open("pid.part", "w").write(str(os.getpid()))
            os.rename("pid.part", "pid")
            time.sleep(300)
        return super().logits(images)

evaluate("images", Halting("demo"))
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_process_ends_all_with_a_word(images, tmp_path, rank):
    """While the other one waits for its share."""
    (tmp_path / "script.py").write_text(HALTING)
    words = [*TORCHRUN, "2", "script.py", rank]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(3)
        began = time.monotonic()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert "Signal 9 (SIGKILL)" in errors


def test_processes_that_differ_are_refused(images, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom resnest_cli import evaluate\n"
        "from resnest_cli.datasets.labelled_folder import LabelledFolder\n"
        "from pathlib import Path\n"
        "limit = 3 + int(os.environ['RANK'])\n"
        "evaluate(LabelledFolder(Path('images'), limit=limit), 'demo')\n"
    )
    done = subprocess.run(
        [*TORCHRUN, "2", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 1
    assert "process 0 has 3 images" in done.stderr
    assert "but process 1 has 4 images" in done.stderr


def test_half_an_environment_is_an_error(images, run):
    done = run("evaluate", images, "--model", "demo", env={"WORLD_SIZE": "2", "RANK": "0"})
    assert done.returncode == 2
    assert "MASTER_ADDR and MASTER_PORT not" in done.stderr
