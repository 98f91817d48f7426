"""`sort`: every image in one place, none overwritten, all of it undone."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.report import placing
from resnest_cli.report.naming import safe_folder
from resnest_cli.report.sort import sort, undo
from tests.conftest import ROOT
from tests.report.results import contents, failed, journal, row, write

WAYS = ("link", "copy", "move")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders with images of the same names, and their results."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        for name in ("1.jpg", "2.jpg", "bad.jpg"):
            Path(folder, name).write_text(f"{folder}/{name}")
    rows = [row(f"{f}/{n}.jpg", "cat", 3) for f in "ab" for n in (1,)]
    rows += [row("a/2.jpg", "dog", 4, 0.5), row("b/2.jpg", "Cat", 5)]
    rows += [failed("a/bad.jpg"), failed("b/bad.jpg"), failed("https://example.org/x.jpg", "404")]
    return write(tmp_path / "r.jsonl", rows)


SORTED = {
    "cat/1.jpg": b"a/1.jpg",
    "cat/1 (2).jpg": b"b/1.jpg",
    "unsure/2.jpg": b"a/2.jpg",
    "Cat (5)/2.jpg": b"b/2.jpg",
    "failed/bad.jpg": b"a/bad.jpg",
    "failed/bad (2).jpg": b"b/bad.jpg",
}


@pytest.mark.parametrize("how", WAYS)
def test_images_go_to_their_classes_and_back(shop, how):
    before = contents(Path("a")) | contents(Path("b"))
    summary = sort(shop, "out", how=how, threshold=0.6)
    assert contents(Path("out")) == SORTED
    assert summary.images == 6
    assert [path for path, _ in summary.kept] == ["https://example.org/x.jpg"]
    assert Path("a/1.jpg").exists() == (how != "move")
    assert Path("out/cat/1.jpg").is_symlink() == (how == "link")
    again = sort(shop, "out", how=how, threshold=0.6)
    assert (again.images, again.earlier) == (0, 6)
    assert contents(Path("out")) == SORTED
    assert undo("out").images == 6
    assert not Path("out").exists()
    assert contents(Path("a")) | contents(Path("b")) == before


@pytest.mark.parametrize("how", WAYS)
def test_nothing_is_overwritten(shop, how):
    Path("out/cat").mkdir(parents=True)
    Path("out/cat/1.JPG").write_text("mine")
    Path("out/unsure").mkdir()
    sort(shop, "out", how=how, threshold=0.6)
    assert Path("out/cat/1.JPG").read_text() == "mine"
    assert Path("out/cat/1 (2).jpg").read_text() == "a/1.jpg"
    undo("out")
    assert contents(Path("out")) == {"cat/1.JPG": b"mine"}
    assert Path("out/unsure").is_dir()


@pytest.mark.parametrize("how", WAYS)
def test_undo_leaves_what_was_changed_or_has_no_place(shop, how):
    sort(shop, "out", how=how)
    target = Path("out/cat/1.jpg")
    if how == "move":
        Path("a/1.jpg").write_text("new")
    else:
        target.unlink()
        target.write_text("changed")
    summary = undo("out")
    assert [path for path, _ in summary.kept] == [str(target.absolute())]
    assert contents(Path("out")) == {"cat/1.jpg": b"a/1.jpg" if how == "move" else b"changed"}
    assert contents(Path("b")) == {n: f"b/{n}".encode() for n in ("1.jpg", "2.jpg", "bad.jpg")}


def test_a_moved_image_that_is_taken_away_stays_in_the_journal(shop):
    sort(shop, "out", how="move")
    Path("out/cat/1.jpg").rename("elsewhere.jpg")
    assert [reason[:20] for _, reason in undo("out").kept] == ["it is no longer ther"]
    Path("out/cat/1.jpg").parent.mkdir(exist_ok=True)
    Path("elsewhere.jpg").rename("out/cat/1.jpg")
    assert undo("out").images == 1
    assert Path("a/1.jpg").read_text() == "a/1.jpg"
    assert not Path("out").exists()


def test_a_copy_whose_original_is_gone_is_not_removed(shop):
    sort(shop, "out", how="copy")
    Path("a/1.jpg").unlink()
    undo("out")
    assert contents(Path("out")) == {"cat/1.jpg": b"a/1.jpg"}


@pytest.mark.parametrize("how", ["copy", "move"])
def test_without_hard_links_or_on_another_disk(shop, how, monkeypatch):
    def refused(*_args, **_kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(placing.os, "link", refused)
    sort(shop, "out", how=how, threshold=0.6)
    assert contents(Path("out")) == SORTED
    undo("out")
    assert contents(Path("b")) == {n: f"b/{n}".encode() for n in ("1.jpg", "2.jpg", "bad.jpg")}
    assert not Path("out").exists()


def test_an_image_listed_twice_and_links_are_safe(shop):
    Path("a/l.jpg").symlink_to("1.jpg")
    write(shop, [row("a/1.jpg"), row("./a/1.jpg"), row("a/l.jpg")])
    summary = sort(shop, "out", how="move")
    assert contents(Path("out")) == {"cat/1.jpg": b"a/1.jpg"}
    assert [reason for _, reason in summary.kept] == ["a symbolic link is not moved"]
    undo("out")
    assert Path("a/l.jpg").read_text() == "a/1.jpg"


def test_two_classes_of_one_name_have_two_folders_in_every_run(shop):
    write(shop, [row("a/1.jpg", "crane", 134), row("a/2.jpg", "crane", 517)])
    sort(shop, "out")
    write(shop, [row("b/2.jpg", "crane", 517), row("b/1.jpg", "crane", 134)])
    sort(shop, "out")
    assert contents(Path("out")) == {
        "crane/1.jpg": b"a/1.jpg", "crane/1 (2).jpg": b"b/1.jpg",
        "crane (517)/2.jpg": b"a/2.jpg", "crane (517)/2 (2).jpg": b"b/2.jpg",
    }  # fmt: skip


def test_folders_are_safe_everywhere():
    names = ["../x", "a/b\\c", "", "..", ".hidden", "con", "LPT1.x", "x. ", "a\u202eb", "x" * 300]
    for name in [*names, "\udcff", "é" * 100, "a\0b", "<img>", "unsure"]:
        made = safe_folder(name)
        assert made
        assert not set(made) & set('/\\:*?"<>|\0')
        assert made.isprintable()
        assert made[0] != "."
        assert made[-1] not in ". "
        assert len(made.encode()) <= 121
    assert safe_folder("tench, Tinca tinca") == "tench, Tinca tinca"
    assert safe_folder("con") == "con_"


def test_classes_called_as_the_special_folders_and_long_names(shop):
    long = Path("a", "x" * 251 + ".jpg")
    long.write_text("long")
    Path("b", long.name).write_text("long too")
    write(shop, [row("a/1.jpg", "Unsure", 7), row(long), row(f"b/{long.name}")])
    sort(shop, "out")
    assert contents(Path("out")) == {
        "Unsure (7)/1.jpg": b"a/1.jpg", f"cat/{long.name}": b"long",
        "cat/" + "x" * 247 + " (2).jpg": b"long too",
    }  # fmt: skip


def test_names_that_are_not_utf8(shop):
    name = os.fsdecode(b"a/\xff.jpg")
    Path(name).write_text("odd")
    write(shop, [row(name, "\udc80")])
    sort(shop, "out", how="move")
    assert os.listdir(b"out/_") == [b"\xff.jpg"]
    undo("out")
    assert Path(name).read_text() == "odd"


def test_other_settings_and_wrong_arguments_are_refused(shop):
    sort(shop, "out")
    with pytest.raises(OutputError, match="other settings"):
        sort(shop, "out", how="move")
    for arguments in ({"how": "burn"}, {"threshold": 2}):
        with pytest.raises(UsageError):
            sort(shop, "new", **arguments)
    with pytest.raises(OutputError, match="no results file"):
        sort("none.jsonl", "new")
    with pytest.raises(OutputError, match="no journal"):
        undo("a")
    write(shop, [{"x": 1}])
    with pytest.raises(OutputError):
        sort(shop, "new")
    assert not Path("new").exists()


def test_a_journal_that_leads_elsewhere_is_refused(shop):
    sort(shop, "out")
    text = Path("out/.resnest-sort.jsonl").read_text()
    Path("out/.resnest-sort.jsonl").write_text(text.replace('"cat/1.jpg"', '"../a/1.jpg"'))
    with pytest.raises(OutputError, match="not the journal"):
        undo("out")
    assert Path("a/1.jpg").exists()


def test_places_are_in_the_journal_before_they_are_taken(shop, monkeypatch):
    seen = []

    def check(how, at):
        seen.append(at.target)
        assert at.target.relative_to(Path("out").absolute()).as_posix() in [
            entry.get("target") for entry in journal(Path("out"))
        ]

    monkeypatch.setattr("resnest_cli.report.sort.place", check)
    sort(shop, "out")
    assert len(seen) == 6


def test_the_command(shop, run):
    done = run("sort", "r.jsonl", "--to", "out", "--copy", "--threshold", "0.6")
    assert done.returncode == 3
    assert "6 images sorted into 4 folders of 'out'" in done.stderr
    assert "https://example.org/x.jpg: 404" in done.stderr
    assert contents(Path("out")) == SORTED
    done = run("sort", "--to", "out", "--undo")
    assert (done.returncode, done.stderr) == (0, "6 images put back\n")
    assert not Path("out").exists()
    for wrong in (["r.jsonl"], ["--to", "o"], ["r.jsonl", "--to", "o", "--copy", "--move"],
                  ["r.jsonl", "--to", "o", "--undo"]):  # fmt: skip
        assert run("sort", *wrong).returncode == 2


def test_csv_and_parquet(shop, run):
    from resnest_cli.outputs.formats import read_results
    from resnest_cli.outputs.run_info import RunInfo
    from resnest_cli.outputs.sink import open_output

    for name in ("r.csv", "r.parquet"):
        info = RunInfo({"top_k": 1, "csv_safe": False}, "cpu")
        with open_output(
            Path(name), fmt=name[2:], top_k=1, info=info, foot="", resume=False
        ) as rows:
            for result in read_results(shop):
                rows.write(result)
            rows.finish()
        sort(name, "out", threshold=0.6)
        assert contents(Path("out")) == SORTED
        undo("out")


_STARTED = "import sys; from resnest_cli.report import sort; sort.{}; print('end')"


def _killed(call: str, seconds: float) -> bool:
    """Run a call in a process that is killed after a time; whether it came to its end."""
    process = subprocess.Popen([sys.executable, "-c", _STARTED.format(call)],
                               env=os.environ | {"PYTHONPATH": str(ROOT)},
                               stdout=subprocess.PIPE)  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return b"end" in process.communicate()[0]


@pytest.mark.parametrize(
    ("how", "count", "most"),
    [("move", 400, 3), *(pytest.param(how, 10_000, 25, marks=pytest.mark.slow) for how in WAYS)],
)
def test_no_file_is_lost_to_kills(tmp_path, monkeypatch, how, count, most):
    """Files of which up to 100 have one name; sort and undo killed at random moments."""
    monkeypatch.chdir(tmp_path)
    draw, rows = random.Random(how), []
    for number in range(count):
        path = Path("in", f"{number // 100}", f"{number % 100}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
        rows.append(row(path, f"class {number % 7}", number % 7, draw.random()))
    write(Path("r.jsonl"), rows)
    before = contents(Path("in"))
    wanted = sorted(before.values())
    calls = (
        f"sort('r.jsonl', 'out', how={how!r}, threshold=.3)",
        "undo('out')",
    )
    for call in calls:
        kills = 0
        for _ in range(most):
            ended = _killed(call, draw.uniform(0.15, 0.6))
            kills += not ended
            held = contents(Path("in")) | {f"out/{k}": v for k, v in contents(Path("out")).items()}
            parts = [name for name in held if name.endswith(".part")]
            assert set(wanted) <= {v for k, v in held.items() if k not in parts}
            if ended:
                break
        logging.info("%s: %d kills", call, kills)
        assert kills >= (10 if count > 1000 else 0)
        if "undo" not in call:
            sort("r.jsonl", "out", how=how, threshold=0.3)
            assert sorted(contents(Path("out")).values()) == wanted
        elif Path("out").exists():
            undo("out")
    assert contents(Path("in")) == before
    assert not Path("out").exists()
