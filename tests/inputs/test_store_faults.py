"""What a store does wrong: retried, or a row that says so, or one error; and never twice."""

import json

import pytest

from resnest_cli.errors import ImageError, ResNeStError
from resnest_cli.inputs import members, stores
from resnest_cli.inputs.discover import expand
from tests.conftest import drawn
from tests.hostile import stored
from tests.inputs.test_archives import make

PNG = stored(drawn(200, 200), "PNG")
PASSING = ("503", "429", "reset", "cut", "stall", "wrong length")
REASONS = {
    "503": "the store answered 503 (ServiceUnavailable)",
    "429": "the store answered 429 (SlowDown)",
    "reset": "the connection broke off",
    "stall": "the store did not answer in time",
    "wrong length": f"the store gave {len(PNG) // 2:,} of {len(PNG):,} bytes",
    "403": "the store answered 403 (AccessDenied)",
    "400": "the store answered 400 (ExpiredToken); the key has expired",
    "missing": "no such object",
}


def read(store, fault: str, times: int) -> bytes:
    """An object that was listed before its store misbehaves so many times."""
    store.put("x/a.png", PNG)
    (source,) = expand(["s3://photos/x/"])
    store.fault = lambda key, number: fault if key and number <= times else None
    return source.content.read()


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_retried(fault, store):
    assert read(store, fault, 1) == PNG
    assert store.gets["x/a.png"] == 2


@pytest.mark.parametrize("fault", ["503", "429", "reset", "stall", "wrong length"])
def test_one_that_does_not_pass_in_time_is_a_row_that_may(fault, store, monkeypatch):
    monkeypatch.setattr(stores, "RETRIES", 1)
    with pytest.raises(ImageError) as caught:
        read(store, fault, 99)
    assert str(caught.value) == REASONS[fault]
    assert caught.value.may_pass


@pytest.mark.parametrize("fault", ["403", "400", "missing"])
def test_a_lasting_fault_is_a_row_at_once(fault, store):
    with pytest.raises(ImageError) as caught:
        stores.fetch("s3://photos/x/a.png") if fault == "missing" else read(store, fault, 99)
    assert str(caught.value) == REASONS[fault]
    assert not caught.value.may_pass
    assert store.gets["x/a.png"] == 1


def test_an_object_that_has_changed_since_it_was_listed_is_read(store):
    store.put("x/a.png", b"short")
    (source,) = expand(["s3://photos/x/"])
    store.put("x/a.png", PNG)
    assert source.content.read() == PNG


def test_no_server_at_all(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ResNeStError, match="cannot be listed: the connection broke off"):
        list(expand(["s3://photos/x/"]))


def test_a_key_with_an_empty_part_ends_the_listing(store):
    store.put("x//a.png", PNG)
    with pytest.raises(ResNeStError, match=r"listed: the key 'x//a\.png' has an empty"):
        list(expand(["s3://photos/x/"]))


def test_no_key(store, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResNeStError, match="no key for the store in the environment"):
        list(expand(["s3://photos/x/"]))
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    stores._store.cache_clear()
    store.put("x/a.png", PNG)
    assert len(list(expand(["s3://photos/x/"]))) == 1


@pytest.mark.parametrize("fault", ["503", "400", "403"])
@pytest.mark.parametrize("url", ["s3://photos/x/", "s3://photos/x/*.png", "s3://photos/a.tar"])
def test_a_listing_that_fails_is_one_error(fault, url, store, tmp_path, run):
    make(tmp_path / "a.tar", {"0.png": PNG})
    store.put("a.tar", (tmp_path / "a.tar").read_bytes())
    store.fault = lambda key, number: fault if key in ("", "a.tar") else None
    done = run("predict", url, "-m", "demo", "-f", "jsonl", "-o", "out/")
    assert done.returncode == 1
    assert f"'{url}' cannot be listed: {REASONS[fault]}" in done.stderr
    hint = "try again later" if fault == "503" else "AWS_SECRET_ACCESS_KEY"
    assert hint in done.stderr
    assert not list((tmp_path / "out" / "manifest").glob("*"))
    store.fault = lambda key, number: None
    store.put("x/a.png", PNG)
    assert run("predict", url, "-m", "demo", "-f", "jsonl", "-o", "out/").returncode == 0


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_archives_pass_through_faults_and_become_rows_that_may(form, store, tmp_path):
    files = {f"{n}.png": stored(drawn(80, 80, seed=n), "PNG") for n in range(9)}
    make(tmp_path / form, files)
    store.put(form, (tmp_path / form).read_bytes())
    faults = None, "503", None, "reset", None, "cut"
    store.fault = lambda key, number: faults[number % 6]
    sources = list(expand([f"s3://photos/{form}"]))
    assert [s.content.read() for s in sources] == list(files.values())
    members._stream.cache_clear()
    members._column.cache_clear()
    store.fault = lambda key, number: "503"
    with pytest.raises(ImageError) as caught:
        sources[3].content.read()
    assert str(caught.value) == REASONS["503"]
    assert caught.value.may_pass
    store.fault = lambda key, number: None
    assert sources[3].content.read() == files["3.png"]


@pytest.mark.parametrize("form", ["a.tar", "a.zip", "a.parquet"])
def test_partitions_over_an_archive_in_a_store(form, store, tmp_path, run):
    make(tmp_path / form, {f"{n}.png": PNG for n in range(7)} | {"3.png": b"no image"})
    url = store.put(form, (tmp_path / form).read_bytes())
    for shard in ("2/2", "1/2"):
        done = run("predict", url, "-m", "demo", "-o", "out/", "-f", "jsonl",
                   "--partition-size", 3, "--shard", shard)  # fmt: skip
        assert done.returncode in (0, 3), done
    assert run("merge", "out/", "-o", "all.jsonl").returncode == 3
    plain = run("predict", form, "-m", "demo", "-f", "jsonl").stdout
    assert (tmp_path / "all.jsonl").read_text() == plain.replace(form, url)


def test_a_listing_goes_on_after_passing_faults(store):
    for number in range(5):
        store.put(f"x/{number}.png", PNG)
    store.fault = lambda key, number: "503" if number == 1 else None
    assert len(list(expand(["s3://photos/x/"]))) == 5


def test_a_run_fetches_only_what_is_left(store, run, tmp_path):
    """Of ten images in three partitions, one of them spoiled for a while and one for good."""
    for number in range(10):
        store.put(f"x/{number}.png", PNG if number != 4 else b"no image")
        (tmp_path / f"{number}.png").write_bytes(PNG if number != 4 else b"no image")
    store.fault = lambda key, number: "503" if key == "x/7.png" else None
    common = ("predict", "s3://photos/x/", "-m", "demo", "-o", "out/", "-f", "jsonl",
              "--partition-size", 4)  # fmt: skip
    first = run(*common, "--shard", "2/3")  # images 4 to 7
    assert first.returncode == 3
    assert "1 of them may succeed at another time" in " ".join(first.stderr.split())
    assert {k for k in store.gets if k} == {f"x/{n}.png" for n in range(4, 8)}
    store.gets.clear()
    assert run(*common).returncode == 3
    assert {k for k in store.gets if k} == {f"x/{n}.png" for n in (0, 1, 2, 3, 8, 9)}
    assert all(count == 1 for count in store.gets.values())
    store.gets.clear()
    assert run(*common).returncode == 3
    assert not store.gets
    store.fault = lambda key, number: None
    assert run(*common, "--retry-failed").returncode == 3
    assert store.gets == {"x/4.png": 1, "x/7.png": 1}
    assert run("merge", "out/", "-o", "all.jsonl").returncode == 3
    plain = run("predict", "s3://photos/x/", "-m", "demo", "-f", "jsonl")
    assert (tmp_path / "all.jsonl").read_text() == plain.stdout
    rows = [json.loads(line) for line in plain.stdout.splitlines()]
    assert [row["path"] for row in rows] == [f"s3://photos/x/{n}.png" for n in range(10)]
    assert [row["error"] is None for row in rows] == [n != 4 for n in range(10)]
    local = run("predict", *(f"{n}.png" for n in range(10)), "-m", "demo", "-f", "jsonl")
    assert local.stdout == plain.stdout.replace("s3://photos/x/", "")


def test_lists_of_objects_and_single_ones(store, run, tmp_path):
    for number in range(3):
        store.put(f"x/{number}.png", PNG)
    names = ["s3://photos/x/2.png", "s3://photos/x/none.png", "s3://photos/x/*[01].png"]
    (tmp_path / "list").write_text("\n".join(names))
    done = run("predict", "--files-from", "list", "-m", "demo", "-f", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"][-5:] for row in rows] == ["2.png", "e.png", "0.png", "1.png"]
    assert rows[1]["error"] == "no such object"
    one = run("predict", names[0], "-m", "demo", "-f", "jsonl")
    assert json.loads(one.stdout)["predictions"] == rows[0]["predictions"]


def test_offline_and_files_in_a_store(store, run):
    url = "s3://photos/x/a.png"
    done = run("predict", url, "-m", "demo", "--offline")
    assert done.returncode == 2
    assert "the network is off (--offline)" in done.stderr
    done = run("predict", url, "-m", "demo", "-o", "s3://photos/out.csv")
    assert done.returncode == 2
    assert "--output in an object store is a folder: end it with a slash" in done.stderr
    assert not store.gets
