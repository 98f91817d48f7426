"""Standard streams that are closed, full or read by nobody, and signals that end a command."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import RESNEST

COMMAND = shlex.join(RESNEST)


def shell(text, **options):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {text}"], check=False, capture_output=True, **options
    )


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path):
    program = """if True:
        import os, sys
        from resnest_cli.__main__ import _open_descriptors
        _open_descriptors()
        file = open("descriptor", "w")
        file.write(str(file.fileno()))
        assert os.read(0, 1) == b"" and os.write(2, b"a library's warning")"""
    command = shlex.join([sys.executable, "-c", program])
    assert shell(f"{command} <&- >&- 2>&-", cwd=tmp_path).returncode == 0
    assert int((tmp_path / "descriptor").read_text()) > 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("predict drawn.png -m demo", 1),
        ("predict drawn.png -m demo -f csv", 1),
        ("predict drawn.png -m demo -f parquet", 1),
        ("predict drawn.png -m demo -o out.csv", 0),
        ("list-models -f csv", 1),
        ("list-models --help", 1),
        ("--version", 1),
        ("doctor --json", 1),
    ],
)
def test_results_that_a_closed_stream_does_not_take_are_an_error(
    arguments, code, drawn_image, tmp_path
):
    done = shell(f"{COMMAND} {arguments} >&-", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert (b"error: " in done.stderr) == bool(code)
    assert shell(f"{COMMAND} {arguments} <&- >&- 2>&-", cwd=tmp_path).returncode in (code, 1)
    if code == 0:
        assert (tmp_path / "out.csv").read_bytes().startswith(b"path,")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_buffered_results_that_a_full_disk_does_not_take_are_an_error():
    done = shell(f"{COMMAND} list-models -f csv > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        b"error: standard output: No space left on device\n",
    )


@pytest.mark.parametrize(
    "arguments", ["--help", "predict --help", "list-models", "list-models -f csv"]
)
def test_a_reader_that_leaves_is_no_error(arguments):
    done = shell(f"{COMMAND} {arguments} | true")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_terminal_that_is_closed_ends_a_run_in_order(ignored, drawn_image, tmp_path):
    command = [*RESNEST, "predict", "--files-from", "-", "-m", "demo", "-o", "out.csv"]
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handler),
    ) as process:  # fmt: skip
        process.stdin.write(b"drawn.png\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.csv.run.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        if ignored:
            process.stdin.close()
        process.wait(60)
        errors = process.stderr.read().decode()
    assert process.returncode == (0 if ignored else 130)
    assert ("interrupted" in errors) == (not ignored)
