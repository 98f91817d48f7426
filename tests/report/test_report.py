"""`report`: the page's file, and what it says of the run."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.report.page_of_results import report
from tests.conftest import drawn
from tests.report.results import failed, row, write

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&lt;"


def data(page: Path) -> dict:
    """The rows that a page holds."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                       page.read_text(), re.S)  # fmt: skip
    assert len(found) == 1
    return json.loads(found[0])


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of an image, a missing one, a failure and a URL."""
    monkeypatch.chdir(tmp_path)
    drawn().save("a b.png")
    rows = [row("a b.png"), row("gone.png", HOSTILE, 3, 0.25), failed(HOSTILE, HOSTILE)]
    return write(tmp_path / "r.jsonl", [*rows, failed("https://example.org/x.jpg", "404")])


def test_the_page_holds_every_row_and_the_record(results, tmp_path):
    record = tmp_path / "r.jsonl.run.json"
    record.write_text('{"settings": {"exif": true}, "device": "</script>",\n "tool": "é"}\n')
    summary = report(results, "sub.html")
    assert (summary.images, summary.failed, summary.without_thumbnail) == (4, 2, 1)
    assert not summary.unfinished
    held = data(Path("sub.html"))
    assert held["paths"] == ["a b.png", "gone.png", HOSTILE, "https://example.org/x.jpg"]
    assert held["urls"] == ["a%20b.png", "", "", ""]
    assert held["run"] == record.read_text()
    assert [held["errors"][at] if at >= 0 else None for at in held["error"]] == [
        None, None, HOSTILE, "404",
    ]  # fmt: skip
    assert held["ranks"][0]["p"] == [0.9, 0.25, None, None]


def test_thumbnails_are_small_webp_the_right_way_up(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    drawn(640, 320).save(tmp_path / "x.jpg", exif=exif)
    results = write(tmp_path / "r.jsonl", [row(tmp_path / "x.jpg")])
    report(results, tmp_path / "r.html")
    text = re.search('id="thumbs-0">(.*?)<', (tmp_path / "r.html").read_text())[1]
    (tmp_path / "x.webp").write_bytes(base64.b64decode(text))
    with Image.open(tmp_path / "x.webp") as image:
        assert (image.format, image.size) == ("WEBP", (48, 96))


def test_the_policy_admits_only_the_page_s_own_script_and_style(results):
    report(results, "r.html")
    page = Path("r.html").read_text()
    policy = re.search('Security-Policy" content="(.*?)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data: file:; script-src 'sha256-")
    for text in (*re.findall(r"<script>(.*?)</script>", page, re.S),
                 *re.findall(r"<style>(.*?)</style>", page, re.S)):  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 2
    assert not re.search(r"https?://", page.split('id="data"')[0])


def test_nothing_is_replaced_unasked(results):
    Path("r.html").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        report(results, "r.html")
    assert Path("r.html").read_text() == "mine"
    report(results, "r.html", overwrite=True)
    before = results.read_bytes()
    with pytest.raises(UsageError, match="replace an input"):
        report(results, results, overwrite=True)
    assert results.read_bytes() == before
    with pytest.raises(OutputError, match="no results file"):
        report("none.jsonl", "n.html")


@pytest.mark.parametrize(
    ("name", "whole"),
    [("a.jsonl", True), ("b.json", True), ("c.csv", True), ("d.parquet", True)],
)
def test_an_unfinished_run_is_called_so(tmp_path, monkeypatch, name, whole):
    from resnest_cli.outputs.formats import read_results
    from resnest_cli.outputs.run_info import RunInfo
    from resnest_cli.outputs.sink import open_output

    monkeypatch.chdir(tmp_path)
    results = write(Path("all.jsonl"), [row(f"{n}.png") for n in range(3)])
    info = RunInfo({"top_k": 1, "csv_safe": False}, "cpu")
    fmt = Path(name).suffix[1:]
    with open_output(Path(name), fmt=fmt, top_k=1, info=info, foot="", resume=False) as rows:
        for result in read_results(results):
            rows.write(result)
        if fmt != "parquet":
            assert report(name, "running.html").unfinished  # by its record: the lock is our own
        else:
            assert report(name, "running.html").unfinished
        rows.finish()
    assert not report(name, "whole.html").unfinished
    assert data(Path("whole.html"))["paths"] == ["0.png", "1.png", "2.png"]
    if fmt in ("jsonl", "csv"):
        Path(name).write_bytes(Path(name).read_bytes()[:-3])
        assert report(name, "cut.html").unfinished
        held = data(Path("cut.html"))
        assert held["paths"] == ["0.png", "1.png"]
        assert "unfinished" in held["state"]


@pytest.mark.parametrize("part", [{"probability": "x"}, {"probability": float("nan")},
                                  {"label": 3}, {"index": "a"}])  # fmt: skip
def test_what_predict_does_not_write_is_refused(results, part):
    rows = [row("a b.png"), row("b.png")]
    rows[1]["predictions"][0] |= part
    write(results, rows)
    with pytest.raises(OutputError, match=r"r\.jsonl': row 2 is not a result\nname a file"):
        report(results, "r.html")
    Path("o.csv").write_text("filename,score\na.jpg,0.3\n")
    with pytest.raises(OutputError, match=r"'o\.csv': its columns"):
        report("o.csv", "r.html")
    Path("why.jsonl").write_text('{"path": "a.jpg", "classes": [], "error": null}\n')
    with pytest.raises(OutputError, match=r"'why\.jsonl': its rows are not those of predictions\n"):
        report("why.jsonl", "r.html")
    Path("photos").mkdir()
    with pytest.raises(OutputError, match=r"'photos' is a folder, but not a run .*\nname a file"):
        report("photos", "r.html")
    Path("v.npy").touch()
    with pytest.raises(UsageError, match=r"^results are in files that end in \.json, .*'v\.npy'$"):
        report("v.npy", "r.html")
    assert not Path("r.html").exists()


def test_two_classes_of_one_name_are_told_apart(results):
    write(results, [row("a b.png", "crane", 134), row("b.png", "crane", 517)])
    report(results, "r.html")
    assert data(Path("r.html"))["labels"] == ["crane (134)", "crane (517)"]


def test_the_command(results, run):
    done = run("report", "r.jsonl")
    assert done.returncode == 0
    assert done.stderr == "4 images in 'report.html'; 2 failed; 1 without thumbnail\n"
    assert run("report", "r.jsonl").returncode == 1
    assert run("report", "r.jsonl", "-o", "report.html", "--overwrite", "-q").stderr == ""
    assert run("report", "r.xlsx").returncode == 2
