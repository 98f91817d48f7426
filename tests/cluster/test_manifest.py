"""The manifest: one for all who list, whenever they are killed and whatever appears meanwhile."""

import os
from itertools import islice
from pathlib import Path

import pytest

from resnest_cli.cluster.manifest import Folder, read_manifest, segments
from resnest_cli.errors import OutputError
from resnest_cli.inputs.source import Source
from tests.cluster.conftest import digests


def sources(*names: str) -> list[Source]:
    return [Source(name, Path(name)) for name in names]


def listed(folder: Path, given: list[Source], size: int = 2) -> list[Source]:
    return [s for segment in segments(Folder(folder), size, lambda: iter(given))
            for s in segment.sources()]  # fmt: skip


AWKWARD = [
    Source("new\nline.jpg", Path("new\nline.jpg")),
    Source(os.fsdecode(b"\xff\xfe.jpg"), Path(os.fsdecode(b"\xff\xfe.jpg"))),
    Source("a  b.jpg", Path("a  b.jpg")),
    Source("http://example.org/a.jpg", "http://example.org/a.jpg"),
    Source("na\u0308me.jpg", Path("n\u00e4me.jpg")),
    Source("nothing/", error="the folder holds no image"),
    Source("./a.jpg", Path("./a.jpg")),
    Source('"', Path('"')),
    Source("null", Path("null")),
]


@pytest.mark.parametrize("size", [1, 2, 9, 20])
def test_every_input_comes_back(tmp_path, size):
    assert listed(tmp_path, AWKWARD, size) == AWKWARD
    never: list[Source] = []
    assert listed(tmp_path, never, size) == AWKWARD  # which is not listed again


def test_segments_come_while_the_listing_runs(tmp_path):
    given = iter(sources("a", "b", "c", "d", "e"))
    first = next(segments(Folder(tmp_path), 2, lambda: given))
    assert [s.name for s in first.sources()] == ["a", "b"]
    assert [s.name for s in given] == ["d", "e"]  # one is read ahead, to know which is the last


@pytest.mark.parametrize("killed_after", range(5))
def test_a_listing_that_was_killed_is_continued(tmp_path, killed_after):
    names = ["a", "a", "b", "a", "c", "a", "a", "d", "e"]  # some are named several times
    list(islice(segments(Folder(tmp_path), 2, lambda: iter(sources(*names))), killed_after))
    assert listed(tmp_path, sources(*names)) == sources(*names)
    listed(tmp_path / "whole", sources(*names)) if (tmp_path / "whole").mkdir() is None else None
    whole = digests(tmp_path / "whole")
    assert {n: d for n, d in digests(tmp_path).items() if not n.startswith("whole")} == whole


def test_files_that_appear_before_the_end_of_a_listing_double_nothing(tmp_path):
    list(islice(segments(Folder(tmp_path), 2, lambda: iter(sources(*"bdfhj"))), 2))
    assert listed(tmp_path, sources(*"abcdefghij")) == sources(*"bdfhij")
    assert listed(tmp_path, sources(*"zz")) == sources(*"bdfhij")


def test_the_last_segment_is_empty_if_the_rest_has_gone(tmp_path):
    list(islice(segments(Folder(tmp_path), 2, lambda: iter(sources(*"abcd"))), 1))
    assert listed(tmp_path, sources(*"ab")) == sources(*"ab")
    assert [s.rows for s in read_manifest(Folder(tmp_path))] == [2, 0]


def test_an_end_that_has_gone_is_an_error(tmp_path):
    list(islice(segments(Folder(tmp_path), 2, lambda: iter(sources(*"abcd"))), 1))
    with pytest.raises(OutputError, match="interrupted after 'b', which is now gone"):
        listed(tmp_path, sources(*"acd"))


@pytest.mark.parametrize("first", range(4))
def test_processes_that_see_other_files_agree(tmp_path, first):
    """One is overtaken by another after some segments, and takes what that has written."""
    slow = segments(Folder(tmp_path), 2, lambda: iter(sources(*"bdfhjln")))
    taken = list(islice(slow, first))
    fast = listed(tmp_path, sources(*"abcdefghijklmn"))
    taken += slow
    assert [s for segment in taken for s in segment.sources()] == fast
    assert len(set(fast)) == len(fast)
    assert taken[-1].last


def test_a_damaged_or_foreign_segment_is_named(tmp_path):
    listed(tmp_path, sources(*"abcdef"))
    (tmp_path / "other").mkdir()
    listed(tmp_path / "other", sources(*"uvwxyz"))
    second = tmp_path / "manifest/000001.jsonl"
    good = second.read_bytes()
    for bad in (good[:-3], b"", good + b'"g"\n', b"[]\n", good.replace(b'"rows": 2', b'"rows": 3')):
        second.write_bytes(bad)
        with pytest.raises(OutputError, match=r"manifest/000001\.jsonl is damaged"):
            list(read_manifest(Folder(tmp_path)))
    second.write_bytes((tmp_path / "other/manifest/000001.jsonl").read_bytes())
    with pytest.raises(OutputError, match="belongs to another manifest"):
        list(read_manifest(Folder(tmp_path)))


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert listed(tmp_path, AWKWARD) == AWKWARD
    assert not list(tmp_path.rglob(".resnest-*"))
    assert Folder(tmp_path).add("manifest/000000.jsonl", b"other") is False


def test_a_file_and_its_name_survive_a_power_cut(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(number):
        synced.append(os.path.realpath(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = Folder(tmp_path)
    assert folder.add("run.json", b"{}")
    with folder.put("part") as beside:
        beside.write_bytes(b"rows")
    assert [Path(name).name.startswith(".resnest-") for name in synced] == [True, False] * 2
    assert synced[1::2] == [str(tmp_path)] * 2
