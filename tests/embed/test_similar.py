"""`resnest similar`: the nearest images, formats, contact sheets, and what it refuses."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnest_cli.embed.sheet import Group, Tile, write_sheet
from resnest_cli.embed.vectors import Vectors
from resnest_cli.errors import UsageError
from tests.conftest import drawn


@pytest.fixture
def index(run, many, tmp_path):
    """The vectors of thirty images in `v.npy`; every seventh shows the same, three are broken."""
    assert run("embed", many, "-m", "demo", "-o", "v.npy", "--crop", 64).returncode == 3
    return tmp_path / "v.npy"


def test_copies_come_first(run, index, many):
    done = run("similar", many / "000.jpg", "--index", "v.npy", "-k", 5, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    names = [one["path"][-7:] for one in row["similar"]]
    assert names[:4] == ["000.jpg", "007.jpg", "021.jpg", "028.jpg"], "014 is broken"
    assert [one["similarity"] for one in row["similar"][:4]] == [1] * 4
    assert row["similar"][4]["similarity"] < 1
    assert [one["rank"] for one in row["similar"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("fmt", ["table", "json", "jsonl", "csv", "tsv"])
def test_formats_say_the_same(run, index, many, tmp_path, fmt):
    suffix = "txt" if fmt == "table" else fmt
    arguments = ("similar", many, "--limit", 5, "--index", "v.npy", "-k", 2)
    done = run(*arguments, "-o", f"out.{suffix}")
    assert done.returncode == 3, "the fifth is broken"
    assert "5 images in" in done.stderr
    assert "1 failed" in done.stderr
    text = (tmp_path / f"out.{suffix}").read_text()
    assert run(*arguments, "-f", fmt).stdout == text
    vectors = Vectors.read(index)
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    wanted = np.nan_to_num(unit @ unit[0], nan=-1).astype(float)
    if fmt == "table":
        assert re.search(r"^ {4}1 {3}1\.0000 {2}.*000.jpg$", text, re.M)
        assert "  error: " in text
        return
    if fmt in ("csv", "tsv"):
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if fmt == "tsv" else ","))
        first = [(rows[0][f"similar_{n}"], float(rows[0][f"similarity_{n}"])) for n in (1, 2)]
        assert (rows[4]["similar_1"], rows[4]["similarity_1"]) == ("", "")
    else:
        rows = json.loads(text) if fmt == "json" else [*map(json.loads, text.splitlines())]
        first = [(one["path"], one["similarity"]) for one in rows[0]["similar"]]
        assert rows[4]["similar"] == []
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True]
    assert [name for name, _ in first] == [vectors.paths[0], vectors.paths[7]]
    assert [value for _, value in first] == pytest.approx(sorted(wanted)[:-3:-1], abs=1e-5)


def test_preprocessing_is_the_indexs(run, index, many, tmp_path):
    other = run("embed", many, "-m", "demo", "-o", "w.npy", "--preprocess", "paper", "--no-exif")
    assert other.returncode == 3
    done = run("similar", many / "003.jpg", "--index", "w.npy", "-k", 1, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["similar"][0]["similarity"] == 1


def test_an_index_of_other_weights_is_refused(run, index, many, tmp_path):
    record = tmp_path / "v.npy.run.json"
    made = json.loads(record.read_text())
    for change, message in (
        ({"weights_sha256": "0" * 64}, "made with other weights than those of demo"),
        ({"preprocessing": made["settings"]["preprocessing"] | {"mean": [0, 0, 0]}}, "other pre"),
    ):
        changed = made | {"settings": made["settings"] | change}
        record.write_text(json.dumps(changed))
        done = run("similar", many / "000.jpg", "--index", "v.npy")
        assert done.returncode == 1
        assert message in done.stderr
        assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ((), "similar needs what embed has written: --index FILE", 2),
        (("--index", "missing.npy"), "'missing.npy' does not exist", 1),
        (("--index", "v.txt"), "not 'v.txt'", 2),
        (("--index", "v.npy", "--sheet", "s.gif"), "--sheet must end in .html or .png", 2),
        (("--index", "v.npy", "-o", "v.npy"), "must end in one of", 2),
        (("--index", "v.npy", "-o", "mine.csv"), "'mine.csv' exists already", 1),
        (("--index", "v.npy", "--sheet", "mine.html"), "'mine.html' exists already", 1),
        (("--index", "v.npy", "-o", "o.parquet"), "must be one of table, json", 2),
    ],
)
def test_what_is_refused(run, drawn_image, tmp_path, arguments, message, code):
    for name in ("mine.csv", "mine.html"):
        (tmp_path / name).write_text("mine")
    done = run("similar", drawn_image, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert (tmp_path / "mine.csv").read_text() == (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"no", "does not hold vectors of images: it is no NumPy file"),
        ("x.parquet", None, "does not hold vectors of images: embed did not write it"),
        ("alone.npy", b"\x93NUMPY", "'alone.npy' lacks 'alone.npy.names.csv', the paths"),
    ],
)
def test_files_of_others_are_no_index(run, drawn_image, tmp_path, name, content, message):
    (tmp_path / "x.npy.names.csv").touch()
    if content is None:
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.table({"image": [b""]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    done = run("similar", drawn_image, "--index", name)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_dash_is_standard_output(run, index, many):
    command = ("similar", many / "000.jpg", "--index", "v.npy", "-f", "csv")
    done = run(*command, "-o", "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout == run(*command).stdout


def test_approximate_prints_its_recall(run, index, many, tmp_path):
    pytest.importorskip("voyager", reason="voyager is not installed (extra index)")
    for _ in range(2):
        done = run("similar", many / "000.jpg", "--index", "v.npy", "--approximate", "-k", 3)
        assert done.returncode == 0, done.stderr
        assert "approximate: recall 100.0% of the nearest 3" in done.stderr
        assert done.stdout.count("1.0000") == 3
    assert (tmp_path / "v.npy.voyager").is_file()


def test_without_the_extra_it_is_named(run, index, many, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("resnest_cli.errors.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "voyager", None)
    done = run("similar", many / "000.jpg", "--index", "v.npy", "--approximate")
    assert done.returncode == 1
    assert "pip install 'resnest-cli[index]'" in done.stderr


def test_torch_is_not_needed(run, many, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    monkeypatch.setenv("RESNEST_ENGINE", "openvino")
    image = many / "000.jpg"
    assert run("embed", image, "-m", "demo", "-o", "first.npy").returncode == 0  # prepares it
    code = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from resnest_cli.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
    for arguments in (
        ("embed", many, "-m", "demo", "-o", "v.npy", "--limit", 3),
        ("similar", image, "--index", "v.npy", "--sheet", "s.html"),
    ):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    torch = run("embed", many, "-m", "demo", "-o", "t.npy", "--limit", 3, "--engine", "torch")
    assert torch.returncode == 0
    ours, theirs = (Vectors.read(tmp_path / name).values for name in ("v.npy", "t.npy"))
    lengths = np.linalg.norm(theirs, axis=1)
    assert (np.linalg.norm(ours - theirs, axis=1) < 1e-5 * lengths).all()
    done = run("similar", image, "--index", "t.npy", "-k", 1)
    assert "1.0000" in done.stdout, "the index may be another engine's"


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_a_contact_sheet_shows_the_images(run, index, many, tmp_path, suffix):
    shutil.copy(many / "000.jpg", tmp_path / "<b>&\n.jpg")
    arguments = ("<b>&\n.jpg", many / "004.jpg", "--index", "v.npy", "-k", 3)
    done = run("similar", *arguments, "--sheet", f"s.{suffix}", "-q")
    assert done.returncode == 3, done.stderr
    sheet = tmp_path / f"s.{suffix}"
    if suffix == "png":
        with Image.open(sheet) as image:
            assert image.width == 4 * 136 + 8
            near = np.asarray(image.convert("RGB"))[30:126, 8:136].astype(int)
        with Image.open(many / "000.jpg") as image:
            image.thumbnail((128, 128))
            assert np.abs(np.asarray(image).astype(int) - near).mean() < 12
        return
    page = sheet.read_text()
    assert page.count('src="data:image/webp;base64,') == 4, "the broken one has none"
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "default-src 'none'; img-src data:;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_sheets_of_anything(tmp_path):
    drawn().save(tmp_path / "a.png")
    tiles = [Tile(str(tmp_path / "a.png"), "same"), Tile("bad\udcff\0", "gone")] * 20
    for name in ("s.html", "s.png"):
        write_sheet(tmp_path / name, "Groups", [Group("한국어", tiles), Group("", [])], {})
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(UsageError, match="room for 2,000 images, not 2,001"):
        write_sheet(tmp_path / "t.png", "", [Group("", [Tile("x", "")] * 2001)], {})
    assert not (tmp_path / "t.png").exists()
