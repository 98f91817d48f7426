"""The cache of checkpoints: downloaded once, verified, shared by processes, filled by hand."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli import settings
from resnest_cli.catalog import weights
from resnest_cli.catalog.demo import demo_checkpoint
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.errors import CheckpointError, DownloadError, UsageError
from resnest_cli.net import download
from tests.servers import content, serving, status

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()
VARIANT = replace(get_variant("resnest50"), alias=None, digest=DIGEST[:8])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "sleep", lambda seconds: None)


@pytest.fixture
def served(monkeypatch):
    """Make a server the only one that publishes checkpoints."""

    def only(server):
        monkeypatch.setattr(weights, "AUTHORS_URL", f"{server.url}/")

    return only


@pytest.fixture
def by_hand():
    """The variant's file, put into the cache folder by hand."""
    path = settings.checkpoints_folder() / VARIANT.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    return path


def test_a_download_is_verified_kept_and_not_repeated(served, home):
    seen = []
    with serving(content(BODY)) as server:
        served(server)
        path = weights.ensure_downloaded(VARIANT, on_bytes=lambda *p: seen.append(p))
        assert weights.ensure_downloaded(VARIANT, offline=True) == path
    assert path == home / "checkpoints" / VARIANT.file_name
    assert path.read_bytes() == BODY
    assert path.with_name(path.name + ".sha256").read_text() == f"{DIGEST}  {path.name}\n"
    assert seen[-1] == (len(BODY), len(BODY))
    assert len(server.requests) == 1


def test_a_failed_download_says_how_else_to_get_the_file(served):
    with serving(status(404)) as server:
        served(server)
        with pytest.raises(DownloadError) as caught:
            weights.ensure_downloaded(VARIANT)
    assert VARIANT.file_name in str(caught.value)
    assert "$RESNEST_MIRROR" in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert not list(settings.checkpoints_folder().glob("*.pth"))


def test_the_mirror_is_tried_first(served, monkeypatch):
    with serving(status(404)) as mirror, serving(content(BODY)) as server:
        served(server)
        monkeypatch.setenv("RESNEST_MIRROR", f"{mirror.url}/files/")
        assert weights.ensure_downloaded(VARIANT).read_bytes() == BODY
        assert mirror.requests == [(f"/files/{VARIANT.file_name}", None)]


def test_threads_share_one_download(served):
    with serving(content(BODY)) as server, ThreadPoolExecutor(8) as pool:
        served(server)
        paths = set(pool.map(lambda _: weights.ensure_downloaded(VARIANT), range(8)))
    assert len(paths) == 1
    assert len(server.requests) == 1


def test_processes_share_one_download(tmp_path):
    program = (
        "import sys; from dataclasses import replace\n"
        "from resnest_cli.catalog import weights; from resnest_cli.catalog.variants import *\n"
        "weights.AUTHORS_URL = sys.argv[1]\n"
        "v = replace(get_variant('resnest50'), alias=None, digest=sys.argv[2][:8])\n"
        "print(weights.ensure_downloaded(v))\n"
    )
    with serving(content(BODY)) as server:
        command = [sys.executable, "-c", program, f"{server.url}/", DIGEST]
        environment = os.environ | {"RESNEST_HOME": str(tmp_path / "home")}
        processes = [
            subprocess.Popen(command, stdout=-1, text=True, env=environment) for _ in range(4)
        ]
        paths = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(paths) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_says_where_to_put_which_file(how, home, monkeypatch):
    if how == "environment":
        monkeypatch.setenv("RESNEST_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="`offline`") as caught:
        weights.ensure_downloaded(get_variant("resnest14"), offline=how == "option")
    assert "gluon_resnest14-9c8fe254.pth" in str(caught.value)
    assert str(home / "checkpoints") in str(caught.value)


def test_a_file_put_there_by_hand_is_found(by_hand):
    assert weights.ensure_downloaded(VARIANT, offline=True) == by_hand
    assert weights.cached_path(VARIANT) == by_hand


@pytest.mark.parametrize("time", [0, 2**62], ids=["old", "new"])
def test_a_damaged_file_is_noticed_whatever_its_date(time, by_hand):
    weights.ensure_downloaded(VARIANT, offline=True)
    by_hand.write_bytes(BODY[:-1])
    os.utime(by_hand, ns=(time, time))
    with pytest.raises(CheckpointError, match="damaged or another file"):
        weights.ensure_downloaded(VARIANT, offline=True)


def test_the_digest_beside_a_file_is_used_if_it_is_newer(by_hand):
    weights.ensure_downloaded(VARIANT, offline=True)
    assert weights.Weights(by_hand).sha256 == DIGEST
    record = by_hand.with_name(by_hand.name + ".sha256")
    other = VARIANT.digest + "0" * 56
    record.write_text(f"{other}  {by_hand.name}\n")
    assert weights.ensure_downloaded(VARIANT, offline=True) == by_hand
    assert weights.Weights(by_hand).sha256 == other
    record.write_text("damaged")
    assert weights.Weights(by_hand).sha256 == DIGEST
    record.write_text(f"{'0' * 64}  {by_hand.name}\n")  # of another file: it is replaced
    assert weights.ensure_downloaded(VARIANT, offline=True) == by_hand
    assert record.read_text() == f"{DIGEST}  {by_hand.name}\n"


def test_digests_cover_all_files_of_a_model(tmp_path):
    (tmp_path / "x.xml").write_bytes(b"graph")
    digests = set()
    for tensors in (b"weights", b"others"):
        (tmp_path / "x.bin").write_bytes(tensors)
        digests.add(weights.Weights(tmp_path / "x.xml").sha256)
    assert len(digests) == 2
    (tmp_path / "x.pth").write_bytes(BODY)
    assert weights.Weights(tmp_path / "x.pth").sha256 == DIGEST


@pytest.mark.parametrize("home", ["file", "/proc/nowhere"])  # not writable for root either
def test_a_cache_folder_that_cannot_be_used(home, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEST_HOME", str(tmp_path / home))
    with pytest.raises(CheckpointError, match=r"cannot be used.*\n.*\$RESNEST_HOME"):
        weights.ensure_downloaded(VARIANT)


def test_addresses_are_the_published_ones():
    by_name = {v.name: [u for r in weights.downloads(v) for u in r.urls] for v in VARIANTS}
    assert all(url.startswith("https://") for urls in by_name.values() for url in urls)
    assert len(by_name["resnest50"]) == 3
    assert len(by_name["resnest50_fast_1s1x64d"]) == 1
    assert by_name["resnest14"][0].endswith("v0.1-weights/gluon_resnest14-9c8fe254.pth")
    assert by_name["resnest269"][2].endswith("timm/resnest269e.in1k/resolve/main/model.safetensors")


def test_a_model_is_a_name_or_a_path(tmp_path, monkeypatch):
    demo = weights.resolve("demo")
    assert (demo.path, demo.label, demo.published) == (demo_checkpoint(), "demo", True)
    file = tmp_path / "mine.safetensors"
    file.write_bytes(demo_checkpoint().read_bytes())
    given = weights.resolve(str(file))
    assert given == weights.resolve(weights=file)
    assert (given.label, given.published, given.model) == ("mine.safetensors", False, None)
    assert weights.resolve("resnest50d", file).model == "resnest50"
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("mine.safetensors").path.name == "mine.safetensors"
    (tmp_path / "demo").touch()  # a model's name is a name, whatever lies around
    assert weights.resolve("demo") == demo


@pytest.mark.parametrize(
    ("model", "file", "words"),
    [
        ("x.pth", "y.pth", "leave out `weights`"),
        ("demo", "y.pth", "leave out `weights`"),
        ("resnet50", None, "did you mean resnest50"),
    ],
)
def test_models_that_cannot_be(model, file, words):
    with pytest.raises(UsageError, match=words):
        weights.resolve(model, file)


@pytest.mark.parametrize("kind", ["missing", "folder", "xml"])
def test_files_that_cannot_be_read(kind, tmp_path):
    path = tmp_path / f"file.{'xml' if kind == 'xml' else 'pth'}"
    if kind == "folder":
        path.mkdir()
    elif kind == "xml":
        path.touch()
    reason = {"missing": "No such file", "folder": "is a folder", "xml": r"put 'file\.bin'"}[kind]
    with pytest.raises(CheckpointError, match=reason):
        weights.resolve(str(path))


def test_a_folder_is_no_model_but_may_hold_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    with pytest.raises(CheckpointError, match="'run' is a folder, not a model\nit holds"):
        weights.resolve("run")
    for name in ("last.safetensors", "best.safetensors", "a.csv"):
        Path("run", name).touch()
    for given in ({"model": "run"}, {"weights": "run"}, {"model": f"{tmp_path}/run"}):
        with pytest.raises(CheckpointError, match="name a checkpoint in it, such as"):
            weights.resolve(**given)
