"""Images inside archives: each its row, whatever its neighbours and the archive are like."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from resnest_cli.cluster.manifest import _decoded, _encoded
from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inputs.discover import Inputs, expand
from tests.conftest import drawn
from tests.hostile import kinds, stored

HOSTILE = {name: content for name, (content, _) in kinds().items()}
RED = drawn(8, 8)
FORMS = ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip", "a.parquet"]


def make(path: Path, files: dict[str, bytes]) -> str:
    name = path.name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inner, content in files.items():
                archive.writestr(inner, content)
    elif name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        images = [{"bytes": content, "path": inner} for inner, content in files.items()]
        pq.write_table(pa.table({"image": images}), path, row_group_size=7)
    else:
        with tarfile.open(path, f"w:{name.rpartition('.')[2].replace('tar', '')}") as archive:
            for inner, content in files.items():
                info = tarfile.TarInfo(inner)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(path)


def outcome(source) -> object:
    try:
        return source.load(DecodeOptions()).tobytes()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("form", FORMS)
def test_hostile_images_are_rows_and_their_neighbours_unchanged(form, tmp_path):
    name = make(tmp_path / form, HOSTILE)
    sources = list(expand([name]))
    assert [source.name for source in sources] == [f"{name}/{inner}" for inner in HOSTILE]
    folder = tmp_path / "plain"
    folder.mkdir()
    for source, (inner, content) in zip(sources, HOSTILE.items(), strict=True):
        (folder / inner).write_bytes(content)
        again = _decoded(_encoded(pickle.loads(pickle.dumps(source))))
        assert again == source
        plain = outcome(next(expand([str(folder / inner)])))
        assert outcome(again) == plain, inner


@pytest.mark.parametrize("form", FORMS)
def test_members_can_be_read_in_any_order(form, tmp_path, monkeypatch):
    from resnest_cli.inputs import members

    monkeypatch.setattr(members, "_BLOCK", 1000)
    monkeypatch.setattr(members, "_MOST_BLOCKS", 3)
    files = {f"{n}.png": stored(drawn(40, 40, seed=n), "PNG") for n in range(9)}
    sources = list(expand([make(tmp_path / form, files)]))
    read = [source.content.read() for source in reversed(sources)]
    assert read == list(reversed(files.values()))


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_archive_gives_its_rows_so_far_and_one_that_says_so(form, tmp_path):
    files = {f"{n}.png": stored(drawn(80, 80, seed=n), "PNG") for n in range(9)}
    path = Path(make(tmp_path / form, files))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    *rows, last = expand([str(path)])
    assert last.name == str(path)
    assert "cut or damaged" in str(last.error)
    if form != "a.parquet":  # its directory is at its end
        read = [outcome(row) for row in rows]
        assert sum(isinstance(content, bytes) for content in read) >= (0 if "bz2" in form else 4)


def test_a_compressed_tar_that_is_called_tar_is_read(tmp_path):
    files = {f"{n}.png": stored(drawn(8, 8, seed=n), "PNG") for n in range(3)}
    right = Path(make(tmp_path / "a.tar.gz", files))
    wrong = right.rename(tmp_path / "a.tar")
    plain = make(tmp_path / "b.tar", files)
    expected = [outcome(source) for source in expand([plain])]
    assert [outcome(source) for source in expand([str(wrong)])] == expected


def test_a_tar_cut_between_members_or_in_its_headers_says_so(tmp_path):
    files = {f"{n}.png": stored(drawn(8, 8, seed=n), "PNG") for n in range(3)}
    path = Path(make(tmp_path / "a.tar", files))
    data = path.read_bytes()
    third = next(s.content.place[0] for s in expand([str(path)]) if s.name.endswith("2.png")) - 512
    for damaged in (data[:third], data[:third] + b"x" * 512 + data[third + 512 :]):
        path.write_bytes(damaged)
        *rows, last = expand([str(path)])
        assert len(rows) == 2
        assert "cut or damaged" in str(last.error)


def test_a_bad_zip_member_leaves_its_neighbours(tmp_path):
    files = {f"{n}.png": stored(drawn(80, 80, seed=n), "PNG") for n in range(3)}
    path = Path(make(tmp_path / "a.zip", files))
    data = bytearray(path.read_bytes())
    data[data.index(b"1.png") + 400] ^= 255
    path.write_bytes(data)
    first, second, third = map(outcome, expand([str(path)]))
    assert isinstance(first, bytes)
    assert "damaged" in str(second)
    assert isinstance(third, bytes)


def test_long_names_in_a_zip(tmp_path):
    files = {f"{'x' * 200}/{'y' * 200}/{'z' * 200}{n}.png": stored(RED, "PNG") for n in range(2)}
    sources = list(expand([make(tmp_path / "a.zip", files)]))
    assert [source.content.read() for source in sources] == list(files.values())


def test_a_webdataset_shard_and_other_files(tmp_path):
    files = {"0.jpg": stored(drawn(8, 8), "JPEG"), "0.cls": b"1", "0.json": b"{}"}
    name = make(tmp_path / "shard-000.tar", files)
    assert [s.name for s in expand([name])] == [f"{name}/0.jpg"]
    assert [s.name for s in expand([str(tmp_path / "*.tar")])] == [f"{name}/0.jpg"]
    assert not Inputs((name,)).is_one_image


def test_parquet_rows_without_paths_and_without_images(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path, png = tmp_path / "x.parquet", stored(drawn(8, 8), "PNG")
    pq.write_table(pa.table({"data": [png, None], "label": [1, 2]}), path)
    first, second = expand([str(path)])
    assert (first.name, second.name) == (f"{path}#0", f"{path}#1")
    assert isinstance(outcome(first), bytes)
    assert outcome(second) == "no image in this row"
    pq.write_table(pa.table({"label": [1, 2]}), path)
    (only,) = expand([str(path)])
    assert "columns of bytes: none" in str(only.error)


def test_links_and_bombs_are_rows(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (row,) = expand([str(path)])
    assert "link" in str(row.error)
    huge = tarfile.TarInfo("b.png")
    huge.size = 2**40
    path.write_bytes(gzip.compress(huge.tobuf()))
    path = path.rename(tmp_path / "a.tar.gz")
    first, last = expand([str(path)])
    assert "larger than" in str(outcome(first))
    assert "cut" in str(last.error)


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_partitions_over_an_archive_equal_a_plain_run(form, tmp_path, run):
    files = {f"{n}.png": stored(drawn(40, 40, seed=n), "PNG") for n in range(7)}
    make(tmp_path / form, files | {"3.png": b"no image"})
    common = (form, "-m", "demo", "--engine", "torch")
    assert run("predict", *common, "-o", "plain.jsonl").returncode == 3
    for shard in ("2/2", "1/2"):
        done = run("predict", *common, "-o", "out/", "--format", "jsonl", "--partition-size", 3,
                   "--shard", shard)  # fmt: skip
        assert done.returncode in (0, 3), done
    assert run("merge", "out/", "-o", "all.jsonl").returncode in (0, 3)
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_an_archive_is_not_replaced_by_its_results(tmp_path, run):
    make(tmp_path / "a.parquet", {"0.png": stored(drawn(8, 8), "PNG")})
    before = (tmp_path / "a.parquet").read_bytes()
    done = run("predict", "*.parquet", "-m", "demo", "-o", "a.parquet", "--overwrite")
    assert done.returncode in (1, 2)
    assert (tmp_path / "a.parquet").read_bytes() == before


@pytest.mark.parametrize("name", ["a.tar.gz", "a.parquet"])
def test_another_archive_of_the_same_name_is_read_anew(tmp_path, monkeypatch, name):
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        monkeypatch.chdir(tmp_path / str(seed))
        drawn(seed=seed).save("one.png")
        make(Path(name), {"one.png": Path("one.png").read_bytes()})
        (source,) = Inputs(name).sources()
        assert source.load(DecodeOptions()).tobytes() == drawn(seed=seed).tobytes()
