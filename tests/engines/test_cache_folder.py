"""The cache folder: listed whole, pruned of what is unused, and of nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from resnest_cli import Classifier, hashing, settings
from resnest_cli.catalog.demo import demo_checkpoint, example
from resnest_cli.engines.cache_folder import cache_items, prune_cache, remove_from_cache
from resnest_cli.errors import UsageError

IMAGE = example()[0]


def shown():
    return sorted((item.kind, item.name, item.unused_because is not None) for item in cache_items())


def stored(folder=None):
    """The files in the cache folder."""
    folder = folder or settings.home()
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def put(name, content=b"x"):
    path = settings.home() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The demo as a checkpoint of the user's, long unchanged, so that its digest is recorded."""
    path = tmp_path / "mine.safetensors"
    shutil.copy(demo_checkpoint(), path)
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    return path


@pytest.fixture
def compiled(checkpoint):
    """That checkpoint compiled for this CPU."""
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    Classifier(weights=checkpoint, engine="openvino")(IMAGE)
    return checkpoint


def test_an_empty_cache():
    assert cache_items() == []
    assert prune_cache() == []


def test_checkpoints_are_listed_by_model_with_their_companions():
    put("checkpoints/resnest50-528c19ca.pth", b"x" * 10)
    put("checkpoints/resnest50-528c19ca.pth.sha256", b"x" * 3)
    put("checkpoints/resnest50-528c19ca.pth.lock", b"")
    put("checkpoints/resnest50d.in1k.safetensors")
    put("checkpoints/by-hand.pth")
    items = {item.path.name: item for item in cache_items()}
    assert {(i.kind, i.name) for i in items.values()} == {
        ("checkpoint", "resnest50"), ("checkpoint", "by-hand.pth"),
    }  # fmt: skip
    assert items["resnest50-528c19ca.pth"].bytes == 13
    assert not any(item.unused_because for item in items.values())
    assert prune_cache() == []
    assert len(remove_from_cache(["resnest50d"])) == 2
    assert stored() == ["checkpoints/by-hand.pth"]


def test_what_downloads_have_left_is_pruned():
    put("checkpoints/gluon_resnest14-9c8fe254.pth.part", b"x" * 7)
    put("checkpoints/gluon_resnest14-9c8fe254.pth.lock", b"")
    put("checkpoints/resnest50-528c19ca.pth.sha256")
    assert [item.bytes for item in prune_cache(dry_run=True)] == [7, 1]
    assert len(stored()) == 3
    assert [item.kind for item in prune_cache()] == ["partial"] * 2
    assert stored() == []


def test_files_that_are_not_ours_are_never_pruned():
    """The cache folder may be one that the user has other files in."""
    names = [
        "checkpoints/mine.part", "checkpoints/mine.lock", "checkpoints/mine.pth.sha256",
        "compiled/main.o", "compiled/.resnest-mine.part", "digests/of my thesis", "mine.txt",
    ]  # fmt: skip
    for name in names:
        put(name)
    unfinished = settings.compiled_folder() / ".resnest-0123456789abcdef.part"
    for path in (unfinished, unfinished.with_name(unfinished.name.replace("0", "f"))):
        put(f"compiled/{path.name}")
    os.utime(unfinished, (0, 0))
    assert [item.path for item in prune_cache()] == [unfinished]
    assert stored() == sorted([*names, "compiled/.resnest-f123456789abcdef.part"])


def test_a_download_in_progress_is_left_alone():
    put("checkpoints/resnest50-528c19ca.pth.part")
    lock = settings.checkpoints_folder() / "resnest50-528c19ca.pth.lock"
    program = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, lock]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert prune_cache() == []
        process.communicate()
    assert len(stored()) == 2
    assert len(prune_cache()) == 1
    assert stored() == []


def test_compiled_models_are_listed_and_kept(compiled):
    (item,) = [item for item in cache_items() if item.kind == "compiled"]
    assert item.name == "demo"
    assert "openvino, fp32, 96 pixels" in item.detail
    assert str(compiled) in item.detail
    assert item.bytes > 1_000_000
    before = stored()
    assert prune_cache() == []
    assert stored() == before


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_what_belongs_to_checkpoints_that_are_gone_is_pruned(how, compiled):
    assert ("digests", "digests", False) in shown()
    if how == "gone":
        compiled.unlink()
    else:
        compiled.write_bytes(demo_checkpoint().read_bytes() + b" ")
    removed = prune_cache()
    # the digest of a file that has changed was recorded anew when it was compared
    assert {i.kind for i in removed} == {"compiled"} | ({"digests"} if how == "gone" else set())
    assert sum(item.bytes for item in removed) > 1_000_000
    assert not [name for name in stored() if name.startswith("compiled")]
    assert prune_cache() == []


def test_an_incomplete_compilation_is_pruned(compiled):
    note = next(settings.compiled_folder().glob("*.json"))
    note.unlink()
    put(f"compiled/{'a' * 32}.lock", b"")
    put(f"compiled/{'b' * 32}.graph.part")
    assert [item.kind for item in prune_cache()].count("partial") == 3
    assert not [name for name in stored() if name.startswith("compiled")]


def test_a_model_is_removed_with_all_that_was_compiled_from_it(compiled):
    assert {item.kind for item in remove_from_cache(["demo"], dry_run=True)} == {"compiled"}
    assert [n for n in stored() if n.startswith("compiled")]
    remove_from_cache(["demo"])
    assert not [n for n in stored() if n.startswith("compiled")]
    assert compiled.is_file()


def test_kinds_can_be_removed(checkpoint):
    put("inductor/a/b.py", b"x" * 5)
    hashing.file_sha256(checkpoint)
    assert shown() == [("digests", "digests", False), ("inductor", "inductor", False)]
    assert [item.bytes for item in remove_from_cache(["inductor"])] == [5]
    assert not (settings.home() / "inductor").exists()
    remove_from_cache(["digests"])
    assert stored() == []
    with pytest.raises(UsageError, match="nothing in the cache is called 'digests'"):
        remove_from_cache(["digests"])


def test_records_of_digests_are_used_while_their_files_stay_the_same(checkpoint):
    digest = hashing.file_sha256(checkpoint)
    assert digest == hashing.sha256_of(checkpoint)
    (record,) = settings.digests_folder().iterdir()
    path, state, _ = json.loads(record.read_text())
    assert path == str(checkpoint)
    record.write_text(json.dumps([path, state, "0" * 64]))
    assert hashing.file_sha256(checkpoint) == "0" * 64
    for damaged in ("", "[]", "null", '["a", 1, 2]', json.dumps([state, digest])):
        record.write_text(damaged)
        assert hashing.stale_records() == [record]
        assert hashing.file_sha256(checkpoint) == digest
        assert hashing.stale_records() == []
