"""No command writes over or removes a file that is not its own, unless it is told to overwrite."""

import json
import os
import shutil
from pathlib import Path

import pytest

from resnest_cli.evaluation.report import FILES as REPORT
from resnest_cli.training.run_folder import FILES as RUN
from tests.conftest import drawn
from tests.training.conftest import SHORT, colours

MINE = b"path,top1\nof a user,1\n"
COMMANDS = {  # what each writes, and the names that it may write or remove
    "evaluate": ("evaluate data -m demo -o out --skip-unknown", [f"out/{name}" for name in REPORT]),
    "train": (f"train data {' '.join(SHORT)} --epochs 1 -o out", [f"out/{name}" for name in RUN]),
    "predict": ("predict one.png -m demo -o out/x.csv", ["out/x.csv", "out/x.csv.run.json"]),
    "parquet": (
        "predict one.png -m demo -o out/x.parquet",
        [f"out/x.parquet{more}" for more in ("", ".run.json", ".journal")],
    ),
    "resume": (
        "predict one.png -m demo -o out/x.jsonl --resume",
        ["out/x.jsonl", "out/x.jsonl.run.json"],
    ),
    "export": ("export demo -o out/x.xml", ["out/x.xml", "out/x.bin"]),
    "chart": ("bench resnest14 --seconds 0.1 --chart out/x.png", ["out/x.png"]),
    "bench": ("bench demo --seconds 0.1 -o out/x.json", ["out/x.json"]),
    "calibrate": (
        "evaluate data -m demo --skip-unknown --calibrate out/x.safetensors",
        ["out/x.safetensors"],
    ),
}
CASES = [(command, name) for command, (_, names) in COMMANDS.items() for name in names]
OTHERS = [
    ".lock", "mine.txt", *(f"{name}.part" for name in (*REPORT, *RUN)), "x.csv.part",
    "x.csv.run.json.part", "x.xml.part", "x.parquet.part", "x.parquet.journal.part", "x.json.part",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of labelled images, an image, and a folder for results."""
    colours(tmp_path / "data", each=4)
    for old, new in (("blue", "airplane"), ("green", "frog"), ("red", "ship"), ("white", "cat")):
        (tmp_path / "data" / old).rename(tmp_path / "data" / new)
    drawn().save(tmp_path / "one.png")
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(("command", "name"), CASES, ids=lambda v: v.rpartition("/")[2])
def test_a_users_file_stays(command, name, folder, run):
    """Refused, with the file's name and what to do, before anything is written."""
    (folder / name).write_bytes(MINE)
    done = run(*COMMANDS[command][0].split())
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert Path(name).name in done.stderr
    assert (folder / name).read_bytes() == MINE
    assert [str(path.relative_to(folder)) for path in (folder / "out").iterdir()] == [name]


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_users_folder_stays_even_if_files_may_be_replaced(command, folder, run):
    for name in COMMANDS[command][1]:
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").write_bytes(MINE)
        done = run(*COMMANDS[command][0].split(), "--overwrite")
        assert (done.returncode, "is not a file" in done.stderr) == (1, True), done.stderr
        assert (folder / name / "mine").read_bytes() == MINE
        shutil.rmtree(folder / name)


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_other_names_stay(command, folder, run):
    """Also those whose names end as those of unfinished files and locks do."""
    for name in OTHERS:
        (folder / "out" / name).write_bytes(MINE)
    done = run(*COMMANDS[command][0].split())
    assert done.returncode == 0, done.stderr
    for name in OTHERS:
        assert (folder / "out" / name).read_bytes() == MINE, name
    assert all((folder / name).exists() for name in COMMANDS[command][1][:1])
    assert not list((folder / "out").glob(".resnest-*"))


def test_a_file_that_only_resembles_a_record_stays(folder, run):
    (folder / "out/x.csv.run.json").write_text('{"settings": {}, "device": "cpu"}')
    assert run(*COMMANDS["predict"][0].split()).returncode == 1
    assert [path.name for path in (folder / "out").iterdir()] == ["x.csv.run.json"]


def test_a_record_that_was_left_alone_is_replaced(folder, run):
    """A record is known by its content: only a run writes it."""
    command = COMMANDS["predict"][0].split()
    assert run(*command).returncode == 0
    (folder / "out/x.csv").unlink()
    assert run(*command).returncode == 0


def test_overwriting_a_report_removes_only_what_is_known_to_be_of_one(folder, run):
    command = [*COMMANDS["evaluate"][0].split(), "--overwrite"]
    (folder / "data/cat/broken.png").write_bytes(b"broken")
    assert run(*command).returncode == 3
    (folder / "data/cat/broken.png").unlink()
    files = json.loads((folder / "out/metrics.json").read_text())["files"]
    assert files.keys() == {path.name for path in (folder / "out").iterdir()} - {"metrics.json"}
    (folder / "out/failed.csv").write_bytes(MINE)
    assert run(*command).returncode == 0
    assert (folder / "out/failed.csv").read_bytes() == MINE
    (folder / "data/cat/broken.png").write_bytes(b"broken")
    assert run(*command).returncode == 3
    (folder / "data/cat/broken.png").unlink()
    assert run(*command).returncode == 0
    assert not (folder / "out/failed.csv").exists()


INPUTS = [
    ("one.png", "one.png"),
    ("link.png", "one.png"),
    ("one.png", "link.png"),
    ("folder", "folder/two.png"),
    ("folder/*", "folder/two.png"),
    ("folder", "hard.png"),
    ("--files-from list.txt", "one.png"),
    ("--files-from list.txt", "list.txt"),
    ("one.png --labels list.txt", "list.txt"),
    ("one.png folder", "folder/linked.png"),
]


@pytest.mark.parametrize(("inputs", "output"), INPUTS)
def test_an_output_that_is_an_input_is_refused(inputs, output, folder, run):
    (folder / "link.png").symlink_to("one.png")
    (folder / "folder").mkdir()
    drawn(seed=2).save(folder / "folder/two.png")
    (folder / "folder/linked.png").symlink_to("../one.png")
    os.link(folder / "folder/two.png", folder / "hard.png")
    (folder / "list.txt").write_text("folder/two.png\none.png\n")
    before = (folder / output).read_bytes()
    done = run("predict", *inputs.split(), "-m", "demo", "-f", "csv", "-o", output, "--overwrite")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output would replace an input" in done.stderr
    assert (folder / output).read_bytes() == before


def test_a_list_on_standard_input_is_compared_too(folder, run_process):
    before = (folder / "one.png").read_bytes()
    command = "predict --files-from - -m demo -f csv -o one.png --overwrite".split()
    done = run_process(*command, input="data/cat/000.png\n./one.png\n")
    assert (done.returncode, "would replace an input" in done.stderr) == (2, True), done.stderr
    assert (folder / "one.png").read_bytes() == before


def test_a_report_or_a_checkpoint_never_replaces_what_it_is_made_of(folder, run, home):
    from resnest_cli.catalog.demo import demo_checkpoint

    shutil.copy(demo_checkpoint(), folder / "mine.safetensors")
    before = (folder / "mine.safetensors").read_bytes()
    command = "evaluate data -m mine.safetensors --skip-unknown --calibrate mine.safetensors"
    done = run(*command.split(), "--overwrite")
    assert (done.returncode, "would replace an input" in done.stderr) == (2, True), done.stderr
    assert (folder / "mine.safetensors").read_bytes() == before
    shutil.copy(folder / "data/cat/000.png", folder / "out/mistakes.jpg")
    (folder / "out/predictions.csv").write_text("mistakes.jpg,cat\n")
    command = "evaluate out --ground-truth out/predictions.csv -m demo -o out --overwrite"
    done = run(*command.split())
    assert (done.returncode, "would replace an input" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("predict - -m demo -f csv -o one.png --overwrite", "one.png"),
        ("predict --files-from - -m demo -o list.csv --overwrite", "list.csv"),
    ],
)
def test_a_file_on_standard_input_is_not_replaced(command, read, folder, run_process):
    (folder / "list.csv").write_text("one.png\n")
    before = (folder / read).read_bytes()
    with (folder / read).open("rb") as file:
        done = run_process(*command.split(), stdin=file)
    assert (done.returncode, "would replace an input" in done.stderr) == (2, True), done.stderr
    assert (folder / read).read_bytes() == before


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("export demo -o x.onnx --labels x.onnx --overwrite", "x.onnx"),
        ("export demo -o x.xml --labels x.bin --overwrite", "x.bin"),
        ("predict one.png --weights x.xml -f csv -o x.bin --overwrite", "x.bin"),
        (
            "evaluate data --labels out/failed.csv -o out -m demo --overwrite",
            "out/failed.csv",
        ),
        (
            "evaluate data -m demo --labels x.safetensors --calibrate x.safetensors --overwrite",
            "x.safetensors",
        ),
    ],
)
def test_labels_and_the_weights_beside_a_graph_are_inputs_too(command, read, folder, run):
    (folder / read).write_text("a\n")
    done = run(*command.split())
    assert (done.returncode, "would replace an input" in done.stderr) == (2, True), done.stderr
    assert (folder / read).read_text() == "a\n"


def test_results_stay_if_their_record_cannot_be_written(folder, run):
    (folder / "x.csv").write_text("old\n")
    (folder / "x.csv.run.json").mkdir()
    done = run("predict", "one.png", "-m", "demo", "-o", "x.csv", "--overwrite")
    assert (done.returncode, "x.csv.run.json' is not a file" in done.stderr) == (1, True)
    assert (folder / "x.csv").read_text() == "old\n"


def test_a_users_summary_is_no_run_to_resume(folder, run):
    (folder / "out/summary.json").write_text("{}")
    done = run("train", "data", "-m", "demo", "-o", "out", "--resume")
    assert (done.returncode, "nothing to resume" in done.stderr) == (1, True), done.stderr
