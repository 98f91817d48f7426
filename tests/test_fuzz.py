"""Half a minute of what fuzz/decode.py does for as long as one likes."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SECONDS = int(os.environ.get("RESNEST_TEST_FUZZ", "30"))


def test_no_input_gives_more_than_a_picture_or_a_reason(tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (extra fuzz)")
    # by a shell, as a process's peak memory begins with what its parent had, and tests have much
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, ROOT / "fuzz" / "decode.py",
         f"-max_total_time={SECONDS}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=SECONDS + 120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
    assert list(tmp_path.iterdir()) == []  # no crash, no slow input, no memory beyond the limit
