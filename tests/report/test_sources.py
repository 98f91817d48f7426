"""`report` and `sort` of partitions and archives, side files, and what the rows are joined with."""

import json
import tarfile
from pathlib import Path

import pytest

from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.errors import DatasetError, OutputError
from resnest_cli.report import chunks
from resnest_cli.report.page_of_results import report
from resnest_cli.report.sort import sort
from tests.conftest import drawn
from tests.report.results import contents, failed, row, write
from tests.report.test_report import data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of two images."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat/1.png", "cat/2.png", "n02084071/1.png", "other/1.png")):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        drawn(seed=number).save(Path("in", name))
    return tmp_path


def thumbs(page: str, kind: str = "thumbs") -> list[str]:
    text = Path(page).read_text()
    return text.partition(f'id="{kind}-0">')[2].partition("<")[0].split(",")


def test_partitions_whole_and_unfinished(folder, run):
    args = ("--model", "demo", "--partition-size", "2", "--format", "jsonl", "-q")
    assert run("predict", "in", "-o", "parts/", *args).returncode == 0
    assert not report("parts", "whole.html").unfinished
    held = data(Path("whole.html"))
    assert [Path(path).parent.name for path in held["paths"]] == [
        "cat",
        "cat",
        "n02084071",
        "other",
    ]
    assert held["run"] == Path("parts/run.json").read_text()
    sort("parts", "sorted", how="copy")
    assert len(contents(Path("sorted"))) == 4
    part = Path("parts/part-000000.jsonl")
    part.rename("away")
    assert report("parts", "half.html").unfinished
    held = data(Path("half.html"))
    assert len(held["paths"]) == 2
    assert "1 of its partitions are missing" in held["state"]
    part.write_bytes(Path("away").read_bytes().replace(b"cat/1", b"cat/9"))
    with pytest.raises(OutputError, match=r"part-000000\.jsonl is damaged"):
        report("parts", "damaged.html")
    assert not Path("damaged.html").exists()
    with pytest.raises(OutputError, match="not a run in partitions"):
        report("in", "no.html")


def test_images_in_archives_have_thumbnails(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tarfile.open("shard.tar", "w") as tar:
        tar.add("in/cat/1.png", "a#b/1.png")
    image = Path("in/cat/2.png").read_bytes()
    pq.write_table(pa.table({"image": pa.array([image, image], pa.binary())}), "d.parquet")
    names = ["shard.tar/a#b/1.png", "d.parquet#1", "d.parquet#7", "shard.tar/none.png", "in/cat"]
    rows = write(Path("r.jsonl"), [row(name) for name in names])
    assert report(rows, "r.html").without_thumbnail == 3
    held = data(Path("r.html"))
    assert held["bare"] == [2, 3, 4]
    assert [bool(text) for text in thumbs("r.html")] == [True, True, False, False, False]
    assert held["urls"] == [""] * 5
    summary = sort(rows, "sorted")
    assert summary.kept[0][1].startswith("it is in an archive")
    assert len(summary.kept) == 5


def test_an_interrupted_run_says_so(folder, run):
    args = ("predict", "in", "--model", "demo", "-o", "r.jsonl", "-q")
    assert run(*args).returncode == 0
    assert not report("r.jsonl", "r.html").unfinished
    record = Path("r.jsonl.run.json")
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"finished": ""}))
    assert report("r.jsonl", "r.html", overwrite=True).unfinished
    assert "interrupted" in data(Path("r.html"))["state"]
    assert (
        run("predict", "in", "--model", "demo", "-o", "r.jsonl", "-q", "--resume").returncode == 0
    )
    assert not report("r.jsonl", "r.html", overwrite=True).unfinished


def test_true_classes_by_name_and_number(folder):
    rows = [row("in/cat/1.png", "Cat", 0), row("in/cat/2.png", "dog", 1), row("x.png", "dog", 1)]
    rows.append(row("in/n02084071/1.png", "dog", 1))
    rows[1]["predictions"][0]["wnid"] = rows[3]["predictions"][0]["wnid"] = "n02084071"
    report(write(Path("r.jsonl"), rows), "r.html", truth=LabelledFolder(Path("in")))
    held = data(Path("r.html"))
    names = [held["labels"][at] if at >= 0 else None for at in held["true"]]
    assert names == ["Cat", "Cat", None, "dog"]
    Path("list.csv").write_text("cat/1.png,1\nother/1.png,0\ncat/2.png,unheard\n")
    truth = LabelledFolder(Path("in"), Path("list.csv"))
    report("r.jsonl", "r.html", truth=truth, overwrite=True)
    held = data(Path("r.html"))
    names = [held["labels"][at] if at >= 0 else None for at in held["true"]]
    assert names == ["dog", "unheard", None, None]
    write(Path("o.jsonl"), [row("elsewhere.png")])
    with pytest.raises(DatasetError, match="no image of the results"):
        report("o.jsonl", "o.html", truth=truth)


def test_maps_without_their_legend(folder, run):
    drawn(64, 32).save("in/cat/1.png")  # narrower than what is written below it
    args = ("--model", "demo", "-q")
    assert run("explain", "in/cat", "-o", "why", *args).returncode == 0
    rows = write(Path("r.jsonl"), [row("in/cat/1.png"), row("in/other/1.png"), failed("x.png")])
    report(rows, "r.html", explain="why")
    held = data(Path("r.html"))
    assert [bool(url) for url in held["mapUrls"]] == [True, False, False]
    assert Path(held["mapUrls"][0]).is_file()
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    first, *others = thumbs("r.html", "maps")
    assert Image.open(BytesIO(b64decode(first))).size == (64, 32)
    assert others == ["", ""]
    for name in ("in", "none"):
        with pytest.raises(OutputError, match="explain"):
            report(rows, "n.html", explain=name)


def test_side_files_belong_to_their_page(folder, monkeypatch):
    monkeypatch.setattr(chunks, "MOST_INSIDE", 500)
    rows = [row("in/cat/1.png")] * 501
    summary = report(write(Path("r.jsonl"), rows), "r.html")
    assert summary.side_files == Path("r.files")
    (old,) = Path("r.files").iterdir()
    assert old.read_text().startswith('thumbnails("thumbs-1","Ukl')
    policy = Path("r.html").read_text().partition("script-src ")[2].partition(";")[0]
    assert policy.endswith(" file:")
    with pytest.raises(OutputError, match="exists already"):
        report("r.jsonl", "r.html")
    write(Path("bad.jsonl"), [*rows, {"path": 1}])
    with pytest.raises(OutputError):
        report("bad.jsonl", "r.html", overwrite=True)
    assert list(Path("r.files").iterdir()) == [old]
    report("r.jsonl", "r.html", overwrite=True)
    (new,) = Path("r.files").iterdir()
    assert new != old
    report(write(Path("r.jsonl"), rows[:3]), "r.html", overwrite=True)
    assert not Path("r.files").exists()
    policy = Path("r.html").read_text().partition("script-src ")[2].partition(";")[0]
    assert "file:" not in policy
    Path("r.files").mkdir()
    Path("r.files/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        report("r.jsonl", "r.html", overwrite=True)
