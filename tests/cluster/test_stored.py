"""Partitions in an object store: the same bytes as in a local folder, whatever the store does."""

import json
from pathlib import Path

import pytest

from resnest_cli import merge
from resnest_cli.cluster.manifest import Folder
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.inputs import stores
from tests.cluster.conftest import digests, job

OUT = "s3://photos/out"


def files(folder: Path) -> dict[str, bytes]:
    """What the store holds, copied to a local folder, but for the record."""
    for key, _ in stores.keys(f"{OUT}/"):
        path = folder / key.removeprefix("out/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stores.fetch(f"s3://photos/{key}"))
    return digests(folder)


def test_the_same_files_as_in_a_local_folder(finished, small, store, tmp_path):
    folder, fmt = finished
    for shard in ("3/3", "1/3", "2/3"):
        job(small, OUT, fmt, shard=shard).run()
    assert files(tmp_path / "copy") == digests(folder)
    store.gets.clear()
    assert job(small, OUT, fmt).run().resumed == 20
    assert not [key for key in store.gets if key.startswith("PUT out/part")]
    assert merge(OUT, tmp_path / "all.jsonl").rows == 20
    merge(folder, tmp_path / "local.jsonl")
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()


def test_a_store_that_falters(finished, small, store, tmp_path):
    """Every first attempt to put is answered 503, although the object may have been stored."""
    folder, fmt = finished
    store.fault = lambda key, number: "503" if number % 2 else None
    job(small, OUT, fmt).run()
    store.fault = lambda key, number: None
    assert files(tmp_path / "copy") == digests(folder)


def test_a_store_that_fails_ends_the_run_and_the_next_continues(small, store):
    store.fault = lambda key, number: "503" if key == "PUT out/part-000003.jsonl" else None
    with pytest.raises(OutputError, match=r"part-000003\.jsonl: the store answered 503"):
        job(small, OUT).run()
    assert "part-000002.jsonl" in Folder(Path(OUT)).names()
    store.fault = lambda key, number: None
    with pytest.raises(OutputError, match=r"part-000004\.jsonl is missing"):
        merge(OUT)
    assert job(small, OUT).run().resumed >= 9
    store.fault = lambda key, number: "403" if key.startswith("PUT") else None
    with pytest.raises(OutputError, match="'s3://photos/new' cannot be written"):
        job(small, "s3://photos/new").run()


def test_a_passing_fault_is_no_damage(small, store, tmp_path):
    job(small, OUT).run()
    store.fault = lambda key, number: "503" if key == "out/part-000001.jsonl" else None
    before = objects()
    with pytest.raises(Exception, match="the store answered 503"):
        job(small, OUT).run()
    with pytest.raises(Exception, match="the store answered 503"):
        merge(OUT, tmp_path / "all.csv")
    assert objects() == before


def objects() -> list[tuple[str, int]]:
    """The keys and bytes of the run in the store."""
    return list(stores.keys(f"{OUT}/"))


def test_other_settings_and_other_objects_are_refused(small, store):
    job(small, OUT).run()
    with pytest.raises(OutputError, match="partition_size"):
        job(small, OUT, partition_size=4).run()
    store.put("other/x.txt", b"x")
    with pytest.raises(OutputError, match="holds other files already"):
        job(small, "s3://photos/other").run()
    with pytest.raises(OutputError, match="no such bucket"):
        job(small, "s3://elsewhere/out").run()


def test_damage_and_retries(small, store):
    job(small, OUT).run()
    whole = stores.fetch(f"{OUT}/part-000001.jsonl")
    store.put("out/part-000001.jsonl", whole[:100])
    store.gets.clear()
    job(small, OUT).run()
    assert stores.fetch(f"{OUT}/part-000001.jsonl") == whole
    assert [key for key in store.gets if key.startswith("PUT out/p")] == [
        "PUT out/part-000001.jsonl"
    ]
    store.gets.clear()
    assert job(small, OUT, retry_failed=True).run().failed == 2
    assert sum(key.startswith("PUT out/part") for key in store.gets) == 2


def test_one_of_two_adds_wins(store):
    folder = Folder(Path(OUT))
    assert folder.add("manifest/000000.jsonl", b"one")
    assert not folder.add("manifest/000000.jsonl", b"two")
    with folder.open("manifest/000000.jsonl") as file:
        assert file.read() == b"one"
    with pytest.raises(FileNotFoundError):
        folder.open("none")


def test_the_commands(small, store, run, tmp_path):
    done = run("predict", small, "-m", "demo", "-o", f"{OUT}/", "--partition-size", 3)
    assert done.returncode == 3, done.stderr
    assert run("merge", OUT, "-o", "all.jsonl").returncode == 3
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert not list(tmp_path.glob("s3*"))
    assert run("predict", small, "-m", "demo", "-o", f"{OUT}/", "--offline").returncode == 2


def test_partitions_need_a_slash(small):
    made = job(small, "s3://photos/out.jsonl").job
    with pytest.raises(UsageError, match="end it with a slash"):
        made.run()
