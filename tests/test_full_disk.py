"""A disk that is full, or read-only: all or nothing, a reason, and a second try that works."""

import shutil
import subprocess
from pathlib import Path

import pytest

from resnest_cli import evaluate
from resnest_cli.errors import OutputError
from tests.conftest import drawn
from tests.training.conftest import SHORT, colours

REASON = "No space left on device"


@pytest.fixture
def disk(tmp_path):
    """An empty file system of 12 MB, which `filled` fills."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=False)


def filled(disk: Path, *, left: int) -> Path:
    """A file that fills a disk but for some KB."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - left * 1024))
    return filler


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def photos_of_classes(tmp_path):
    """Images in folders that the bundled model knows."""
    for number, name in enumerate(("cat", "dog", "ship")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for each in range(3):
            drawn(seed=10 * number + each).save(tmp_path / "data" / name / f"{each}.png")
    return tmp_path / "data"


def test_a_report_is_written_whole_or_not_at_all(photos_of_classes, disk):
    result, folder = evaluate(photos_of_classes, "demo"), disk / "report"
    result.write(folder)
    whole = contents(folder)
    for left in (4, 24, 80):  # an earlier report stays
        filler = filled(disk, left=left)
        with pytest.raises(OutputError, match=f"the report in '{folder}' .*: {REASON}"):
            result.write(folder, overwrite=True)
        assert contents(folder) == whole
        shutil.rmtree(folder)
        filled(disk, left=left)
        with pytest.raises(OutputError, match=f"'{folder}' cannot be written: {REASON}"):
            result.write(folder)
        assert not folder.exists() or not list(folder.iterdir())
        filler.unlink()
        result.write(folder)  # once there is space
        assert contents(folder) == whole
        assert {path.name for path in folder.iterdir()} == whole.keys()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x.onnx", marks=pytest.mark.slow),
        "x.xml",
        pytest.param("x.pt2", marks=pytest.mark.slow),
        "x.safetensors",
    ],
)
def test_an_export_is_written_whole_or_not_at_all(name, run_process, run, disk):
    if name == "x.onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")
    command = ["export", "demo", "-o", disk / name]
    for left in (0, 3000):
        filler = filled(disk, left=left)
        done = run_process(*command) if name == "x.pt2" else run(*command)  # torch may abort
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: '{disk / name}' cannot be written: {REASON}\n"
        assert [path.name for path in disk.iterdir()] == ["filler"]
    filler.unlink()
    assert run(*command).returncode == 0


def test_a_training_that_a_full_disk_ends_is_resumed(run, disk, tmp_path):
    data = colours(tmp_path / "colours")
    command = ["train", data, *SHORT, "-o", disk / "out"]
    for left in (0, 200):
        filler = filled(disk, left=left)
        done = run(*command)
        assert done.returncode == 1, done.stderr
        assert f"'{disk / 'out'}" in done.stderr
        assert f"{REASON}\n" in done.stderr
        filler.unlink()
        assert not list((disk / "out").glob(".resnest-*"))
        resume = ["--resume"] if (disk / "out/run.json").exists() else []
        done = run(*command, *resume)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(disk / "out")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.txt"])
def test_rows_that_a_full_disk_took_stay_and_are_resumed(name, run, disk, images):
    if name == "x.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")
    command = ["predict", images, "-m", "demo", "-o", disk / name]
    for left in (0, 8):
        filler = filled(disk, left=left)
        done = run(*command)
        if done.returncode:
            assert f"'{disk / name}" in done.stderr
            assert REASON in done.stderr
        filler.unlink()
        again = "--overwrite" if name == "x.txt" else "--resume"
        assert run(*command, again).returncode == 0
        for path in disk.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    "command",
    [
        "predict one.png -m demo -o disk/x.csv",
        "evaluate data -m demo -o disk/out",
        "export demo -o disk/x.safetensors",
        "train data -m demo -j 0 -o disk/out",
        "bench demo -o disk/x.json",
    ],
)
def test_a_disk_that_is_read_only_is_named(command, run, disk, photos_of_classes, tmp_path):
    drawn().save(tmp_path / "one.png")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = run(*command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert "'disk" in done.stderr
    assert "cannot be written" in done.stderr
