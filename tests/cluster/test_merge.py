"""A merge names every fault of a folder, and then writes nothing."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resnest_cli import merge
from resnest_cli.cluster.partitions import part_name
from resnest_cli.errors import OutputError
from tests.cluster.conftest import job
from tests.conftest import lines

Damage = Callable[[Path, str, Path], str]  # folder, format, images -> what is to be named


def missing(out: Path, fmt: str, images: Path) -> str:
    (out / part_name(2, fmt)).unlink()
    return "part-000002.* is missing"


def last_missing(out: Path, fmt: str, images: Path) -> str:
    (out / part_name(6, fmt)).unlink()
    return "part-000006.* is missing"


def cut(out: Path, fmt: str, images: Path) -> str:
    os.truncate(out / part_name(1, fmt), (out / part_name(1, fmt)).stat().st_size // 2)
    return "part-000001.* is cut"


def cut_by_a_byte(out: Path, fmt: str, images: Path) -> str:
    os.truncate(out / part_name(1, fmt), (out / part_name(1, fmt)).stat().st_size - 1)
    return "part-000001.* is cut"


def empty(out: Path, fmt: str, images: Path) -> str:
    (out / part_name(0, fmt)).write_bytes(b"")
    return "part-000000.* is cut, or not a partition"


def nonsense(out: Path, fmt: str, images: Path) -> str:
    (out / part_name(0, fmt)).write_bytes(b"PAR1 {} \n" * 99)
    return "part-000000.* is cut, or not a partition"


def copy_of_another(out: Path, fmt: str, images: Path) -> str:
    shutil.copy(out / part_name(3, fmt), out / part_name(4, fmt))
    return "part-000004.* is a copy of part-000003"


def doubled(out: Path, fmt: str, images: Path) -> str:
    shutil.copy(out / part_name(3, fmt), out / f"part-000003 (1).{fmt}")
    return r"part-000003 \(1\).* is foreign"


def one_too_many(out: Path, fmt: str, images: Path) -> str:
    shutil.copy(out / part_name(3, fmt), out / part_name(7, fmt))
    return "part-000007.* is foreign"


def other_format(out: Path, fmt: str, images: Path) -> str:
    (out / f"part-000003.{'jsonl' if fmt == 'parquet' else 'parquet'}").write_bytes(b"rows")
    return "part-000003.* is foreign"


def other_top_k(out: Path, fmt: str, images: Path) -> str:
    return _from_another_run(out, fmt, images, "top_k 2, not 5", top_k=2)


def other_threshold(out: Path, fmt: str, images: Path) -> str:
    return _from_another_run(out, fmt, images, "threshold 0.5, not 0.0", threshold=0.5)


def other_manifest(out: Path, fmt: str, images: Path) -> str:
    others = Path(shutil.copytree(images, out.parent / "others" / images.name))
    (others / "000.png").rename(others / "000b.png")
    (others / "000b.png").rename(others / "0000.png")
    here = os.getcwd()
    os.chdir(out.parent / "others")
    try:
        job(Path(images.name), out.parent / "other", fmt).run()
    finally:
        os.chdir(here)
    record = json.loads((out / "run.json").read_text())["settings"]
    text = (out.parent / "other" / part_name(2, fmt)).read_bytes()
    if fmt == "jsonl":  # as if the inputs had been called the same
        text = text.replace(
            json.dumps([images.name]).encode(), json.dumps(record["inputs"]).encode()
        )
    (out / part_name(2, fmt)).write_bytes(text)
    return "part-000002.* is of (another manifest|other settings .inputs)"


def changed_row(out: Path, fmt: str, images: Path) -> str:
    path = out / part_name(5, fmt)
    text = path.read_bytes()
    name = b"015.png"
    assert name in text
    path.write_bytes(text.replace(name, b"025.png"))
    return "part-000005.* is damaged"


def lost_row(out: Path, fmt: str, images: Path) -> str:
    path = out / part_name(5, fmt)
    if fmt == "jsonl":
        path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    else:
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path).slice(1), path)
    return "part-000005.* is damaged"


def unfinished_manifest(out: Path, fmt: str, images: Path) -> str:
    (out / "manifest/000006.jsonl").unlink()
    return "the manifest is not finished.*part-000006.* is foreign"


DAMAGES = [
    missing, last_missing, cut, cut_by_a_byte, empty, nonsense, copy_of_another, doubled,
    one_too_many, other_format, other_top_k, other_threshold, other_manifest, changed_row, lost_row,
    unfinished_manifest,
]  # fmt: skip


def _from_another_run(out: Path, fmt: str, images: Path, word: str, **options: object) -> str:
    from dataclasses import replace

    made = job(images, out.parent / "other", fmt)
    replace(made, job=replace(made.job, **options)).run()
    shutil.copy(out.parent / "other" / part_name(2, fmt), out)
    return f"part-000002.* is of other settings .*{word}"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damage_is_named_and_nothing_is_written(small, finished, tmp_path, damage):
    fmt = finished[1]
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    words = damage(out, fmt, small)
    with pytest.raises(OutputError) as error:
        merge(out, tmp_path / "all.csv")
    assert re.search(words, str(error.value))
    assert str(error.value).count("\n") == 1
    assert len(re.findall("part-[^;]* is ", str(error.value))) == 1
    assert not list(tmp_path.glob("all.csv*"))


def test_several_damages_are_all_named(small, finished, tmp_path):
    fmt = finished[1]
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    words = [damage(out, fmt, small) for damage in (missing, cut, copy_of_another, one_too_many)]
    with pytest.raises(OutputError) as error:
        merge(out, tmp_path / "all.csv")
    for word in words:
        assert re.search(word, str(error.value))


def test_a_run_mends_what_a_merge_names(small, finished, tmp_path):
    fmt = finished[1]
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    for damage in (missing, cut, last_missing):
        damage(out, fmt, small)
    job(small, out, fmt).run()
    assert merge(out, tmp_path / "all.csv").rows == 20


def test_the_command(run, finished, tmp_path):
    out, _ = finished
    done = run("merge", out, "-f", "jsonl")
    assert done.returncode == 3
    assert len(lines(done)) == 20
    assert "20 rows of 7 partitions; 2 hold an error" in done.stderr
    assert run("merge", out, "-o", "all.csv").returncode == 3
    assert run("merge", out, "-o", "all.csv").returncode == 1
    assert run("merge", out, "-o", "all.csv", "--overwrite").returncode == 3
    done = run("merge", tmp_path, "-o", "none.csv")
    assert done.returncode == 1
    assert "holds no run.json" in done.stderr
