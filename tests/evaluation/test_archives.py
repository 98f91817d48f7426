"""Labelled images in archives and stores: the same metrics as of the folder that was packed."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.evaluation.evaluate import evaluate
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inference.classifier import Classifier
from tests.conftest import ROOT, FakeEngine, drawn
from tests.evaluation.conftest import CLASSES

FILES = [f"{n // 3}/{n}.png" for n in range(9)]


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """Nine images in three class folders, named by index; the sixth is broken."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(FILES):
        path = Path("images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(40, 40, seed=number).save(path)
    Path("images", FILES[5]).write_bytes(b"not an image")
    return "images"


def tar(name: str, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as archive:
        for inner, content in members:
            info = tarfile.TarInfo(inner)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return name


def packed(below: str = "", only: str = "") -> list[tuple[str, bytes]]:
    return [(below + n, Path("images", n).read_bytes()) for n in FILES if n.startswith(only)]


def metrics(data: str, **options: object) -> dict[str, object]:
    classifier = Classifier(engine=FakeEngine())
    found = evaluate(LabelledFolder(data, **options), classifier).as_json()
    assert len(found["failed"]) == 1
    return {key: value for key, value in found.items() if key != "failed"}


@pytest.mark.parametrize("below", ["", "./", "val/", "some/where/"])
@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip"])
def test_the_class_is_the_folder_inside(below, form):
    if form == "a.zip":
        with zipfile.ZipFile(form, "w") as archive:
            for name, content in packed(below):
                archive.writestr(name, content)
    else:
        tar(form, packed(below))
    assert metrics(form) == metrics("images")
    some = {"include": ("0/*", "*/5.png", "*/8.png")}
    assert below or metrics(form, **some) == metrics("images", **some)


def test_several_archives_with_a_class_each():
    Path("shards").mkdir()
    for name in "012":
        tar(f"shards/{name}.tar", packed(only=name))
    assert metrics("shards/*.tar") == metrics("images")


def test_parquet_columns():
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    contents, labels = [c for _, c in packed()], [n // 3 for n in range(9)]
    features = {"info": {"features": {"label": {"names": ["2", "1", "0"], "_type": "ClassLabel"}}}}
    about = {"huggingface": json.dumps(features)}
    named = pa.table({"image": contents, "label": [2 - x for x in labels]})
    pq.write_table(named.replace_schema_metadata(about), "named.parquet", row_group_size=4)
    pq.write_table(pa.table({"image": contents, "label": labels}), "numbers.parquet")
    pq.write_table(pa.table({"image": contents, "label": [*map(str, labels)]}), "texts.parquet")
    pq.write_table(pa.table({"image": contents, "path": FILES}), "paths.parquet")
    expected = metrics("images")
    for name in ("named", "numbers", "texts", "paths"):
        assert metrics(f"{name}.parquet") == expected, name


def test_webdataset_classes():
    members = []
    for number, (_, content) in enumerate(packed()):
        members += [(f"{number}.png", content), (f"{number}.cls", b"%d" % (number // 3))]
    assert metrics(tar("shard.tar", members)) == metrics("images")


def test_a_list_of_classes_over_an_archive():
    flat = [(Path(name).name, content) for name, content in packed()]
    tar("val.tar", flat)
    lines = [f"{n}.png {n // 3}" for n in range(9)]
    Path("val.txt").write_text("\n".join(lines))
    assert metrics("val.tar", ground_truth=Path("val.txt")) == metrics("images")
    with pytest.raises(DatasetError, match="states no classes"):
        metrics("val.tar")
    Path("val.txt").write_text("9.png 1")
    with pytest.raises(DatasetError, match=r"names 1 image that 'val\.tar' lacks"):
        metrics("val.tar", ground_truth=Path("val.txt"))


def test_what_cannot_be_measured_whole_is_refused():
    name = Path(tar("a.tar", packed()))
    name.write_bytes(name.read_bytes()[:20_000])
    with pytest.raises(DatasetError, match=r"a\.tar': the archive is cut or damaged"):
        metrics("a.tar")
    tar("splits.tar", packed("train/") + packed("val/"))
    with pytest.raises(DatasetError, match="holds the splits of a dataset"):
        metrics("splits.tar")
    with pytest.raises(DatasetError, match="no file matches"):
        metrics("none*.tar")


def test_a_store(store, run):
    for name, content in packed():
        store.put(f"val/{name}", content)
    tar("a.tar", packed())
    url = store.put("a.tar", Path("a.tar").read_bytes())
    expected = metrics("images")
    assert metrics("s3://photos/val") == metrics("s3://photos/val/") == expected
    assert metrics("s3://photos/val/*/*.png") == metrics(url) == expected
    offline = DecodeOptions(offline=True)
    with pytest.raises(UsageError, match="the network is off"):
        evaluate(url, "demo", decode=offline)
    done = run("train", url, "-o", "out")
    assert done.returncode == 1
    assert f"'{url}' lies in an object store: copy the images" in done.stderr


def test_the_command_and_its_report(run):
    photos = {n: (ROOT / f"examples/{n}.jpg").read_bytes() for n in CLASSES}
    files = [(f"{CLASSES[n]}/{n}.jpg", content) for n, content in photos.items()]
    tar("a.tar", [*files, ("horse/wrong.jpg", photos["car"])])
    done = run("evaluate", "a.tar", "-m", "demo", "-o", "report")
    assert done.returncode == 0, done.stderr
    assert "top-1      75.00%" in done.stdout
    assert Path("report/mistakes.jpg").is_file()
    assert "a.tar/horse/wrong.jpg" in Path("report/mistakes.csv").read_text()
