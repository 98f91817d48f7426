"""Folders of images from strangers: each gets its row, and nothing else happens."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resnest_cli import Classifier
from resnest_cli.imaging.decode import decode
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inputs.source import as_source
from tests.conftest import RESNEST, ROOT, drawn, lines, peak
from tests.hostile import RGB, kinds, stored, write_all


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of everything, and what should be said of each file in it."""
    folder = tmp_path_factory.mktemp("strangers") / "hostile"
    outcomes = write_all(folder)
    image = stored(RGB, "PNG")
    for name in (
        "line\nbreak.png",
        "\u202egnp.exe.png",
        "\x1b[31mred.png",
        "-o.png",
        "a b'\"$(x).png",
    ):
        (folder / name).write_bytes(image)
        outcomes[name] = None
    raw = os.fsencode(folder) + b"/not-utf8-\xff.png"
    Path(os.fsdecode(raw)).write_bytes(image)
    outcomes[os.fsdecode(b"not-utf8-\xff.png")] = None
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(image)
    outcomes["folder.jpg/inside.png"] = None
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "not there.jpg")
    for name in ("pipe.jpg", "device.jpg", "loop.jpg", "nowhere.jpg"):
        outcomes[name] = "."
    deep = folder / "/".join(["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "deep.png").write_bytes(image)
    outcomes[(deep / "deep.png").relative_to(folder).as_posix()] = None
    (deep / "up").symlink_to(folder)
    return folder, outcomes


def test_there_are_forty_kinds_and_more():
    assert len(kinds()) >= 80


def test_every_file_gets_its_row(hostile, run, tmp_path, monkeypatch):
    folder, outcomes = hostile
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c", "convert", "sh"):  # what readers of some formats would call
        trap = tmp_path / "bin" / program
        trap.write_text(f"#!/bin/bash\n/bin/touch {tmp_path}/executed\n")
        trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    done = run("predict", folder, "-m", "demo", "-f", "jsonl")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "executed").exists()
    rows = lines(done)
    found = {row["path"].encode("utf-8", "surrogateescape"): row["error"] for row in rows}
    assert len(rows) == len(outcomes)
    for name, expected in outcomes.items():
        path = f"{folder}/{name}".encode("utf-8", "surrogateescape")
        error = found[path] if path in found else found[_as_shown(path)]
        if expected is None:
            assert error is None, name
        elif expected:
            assert error is not None, name
            assert re.search(expected, error), (name, error)
        assert "\n" not in (error or "")


def _as_shown(path: bytes) -> bytes:
    """How JSON shows a name that is no UTF-8."""
    return path.decode("utf-8", "backslashreplace").encode()


def test_memory_is_that_of_clean_images(hostile, tmp_path):
    folder, outcomes = hostile
    for number in range(len(outcomes)):
        drawn(500, 375, seed=number % 8).save(tmp_path / f"{number}.jpg")
    options = "-m", "demo", "-q", "-f", "csv"
    assert peak("predict", folder, *options) <= 1.3 * peak("predict", tmp_path, *options)


def test_a_file_that_vanishes_or_changes_meanwhile(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        RGB.save(path)

    def listed():
        for number, path in enumerate(paths):
            if number == 2:
                path.unlink()
            if number == 3:
                path.write_bytes(path.read_bytes()[:200])
            if number == 4:
                path.unlink()
                path.mkdir()
            yield path

    errors = [result.error for result in Classifier("demo", batch_size=2).stream(listed())]
    assert [error is None for error in errors] == [True, True, False, False, False, True]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENAMETOOLONG])
def test_file_systems_that_fail(number, tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path in paths:
        RGB.save(path)
    normal = Path.stat

    def failing(self, **options):
        if self == paths[1]:
            raise OSError(number, os.strerror(number))
        return normal(self, **options)

    classifier = Classifier("demo")
    monkeypatch.setattr(Path, "stat", failing)
    errors = [result.error for result in classifier.stream(paths)]
    assert errors == [None, f"cannot be read: {os.strerror(number)}", None]


def test_a_strip_is_answered_exactly_and_in_little_memory(tmp_path):
    """The resize of 2 x 60,000 pixels would make 256 x 7,680,000 of them, six gigabytes."""
    drawn(2, 60_000).save(tmp_path / "strip.png")
    program = (
        "import sys\n"
        "from resnest_cli import Classifier\n"
        f"print(Classifier('demo')({str(tmp_path / 'strip.png')!r}).top1.label)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    label, kilobytes = done.stdout.split()
    assert label
    assert int(kilobytes) < 1_000_000
    image = as_source(tmp_path / "strip.png").load(DecodeOptions())
    assert image.size == (2, 60_000)


def test_programs_are_no_images():
    """Pillow would have Ghostscript run these."""
    content = stored(RGB, "EPS")
    with pytest.raises(Exception, match="not an image"):
        decode(content)


def test_a_table_obeys_no_name(hostile, run):
    folder, _ = hostile
    done = run("predict", folder / "\x1b[31mred.png", folder / "line\nbreak.png", "-m", "demo")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_installed_command_survives_a_folder_that_is_removed(tmp_path):
    folder = tmp_path / "going"
    folder.mkdir()
    for number in range(40):
        drawn(200, 150, seed=number % 4).save(folder / f"{number:02}.png")
    command = [*RESNEST, "predict", folder, "-m", "demo", "-f", "csv", "-b", "1", "-j", "1"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.readline()
        subprocess.run(["rm", "-rf", folder], check=True)
        process.communicate(timeout=60)
    assert process.returncode in (0, 3)
