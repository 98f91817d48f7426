"""Some seconds of what fuzz/decode.py does for as long as one likes."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=pytest.mark.slow)])
def test_every_input_gives_an_image_or_a_reason(seconds, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (extra fuzz)")
    # through a shell, as a process's peak memory begins with its parent's, and tests use a lot
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, ROOT / "fuzz" / "decode.py",
         f"-max_total_time={seconds}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=seconds + 120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
    assert list(tmp_path.iterdir()) == []  # no crash, no slow input, no memory beyond the limit
