"""Settings from the environment that are wrong, and a machine that has too little of something."""

import os
import re
import socket

import pytest

from resnest_cli import settings
from resnest_cli.catalog.demo import demo_checkpoint, example
from resnest_cli.errors import (
    CheckpointError,
    DownloadError,
    EngineError,
    ImageError,
    is_out_of_memory,
)
from resnest_cli.net.download import Download
from resnest_cli.net.http import get_image

WRONG = [
    ("predict x.jpg -m demo", "RESNEST_OFFLINE", "foo", "must be 1, true, yes, 0, false or no"),
    ("predict x.jpg -m resnest50", "RESNEST_MIRROR", "mirror.example", "must begin with http://"),
    ("download resnest50", "RESNEST_MIRROR", "ftp://example.org", "must begin with http://"),
    ("predict x.jpg", "RESNEST_MODEL", "resnet50", "did you mean resnest50"),
    ("evaluate data", "RESNEST_MODEL", "none.pth", "'none.pth' is not a file"),
    ("export -o x.xml", "RESNEST_MODEL", "none.pth", "'none.pth' is not a file"),
    ("bench", "RESNEST_MODEL", "resnet50", "did you mean resnest50"),
    ("train data", "RESNEST_MODEL", "resnet50", "did you mean resnest50"),
    ("cache list", "RESNEST_HOME", "file", "must name a folder, not the file 'file'"),
    ("cache prune", "RESNEST_HOME", "file", "must name a folder, not the file 'file'"),
]


@pytest.mark.parametrize(("command", "name", "value", "words"), WRONG)
def test_a_wrong_variable_is_named(command, name, value, words, run, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    done = run(*command.split(), env={name: value})
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: ${name}")
    assert words in done.stderr
    assert len(done.stderr) < 200


def test_doctor_says_what_is_wrong_with_the_cache_folder(run, tmp_path):
    (tmp_path / "file").touch()
    done = run("doctor", env={"RESNEST_HOME": "file"})
    assert "$RESNEST_HOME must name a folder, not the file 'file'" in done.stdout


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), (" Yes ", True), ("TRUE", True), ("", False), ("0", False), ("no", False)],
)
def test_offline_is_one_of_six_words(text, value, monkeypatch):
    monkeypatch.setenv("RESNEST_OFFLINE", text)
    assert settings.offline() is value


def test_advice_that_is_the_same_for_all_is_given_once(run):
    done = run("download", "resnest14", "resnest50", "resnest101", "--offline")
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["error:"] * 3 + ["put"]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_dead_proxy_is_named_by_its_variable(name, monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}")
    words = re.escape(f"the proxy (${name}) did not answer")
    with pytest.raises(ImageError, match=words):
        get_image("http://example.invalid/x.jpg", allow_private=True)
    with pytest.raises(DownloadError, match=words):
        Download(["http://example.invalid/x"], tmp_path / "x", None).run()
    monkeypatch.setenv(name, "nonsense://here")
    with pytest.raises(ImageError, match=re.escape(f"the proxy (${name}) is not a valid address")):
        get_image("http://example.invalid/x.jpg", allow_private=True)


PIPES = [
    "checkpoints/resnest50-528c19ca.pth",
    "checkpoints/resnest50-528c19ca.pth.part",
    "checkpoints/resnest50-528c19ca.pth.sha256",
    "checkpoints/resnest50-528c19ca.pth.lock",
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_instead_of_a_file_is_not_waited_for(name, run_process, home):
    path = home / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    environment = os.environ | {
        "RESNEST_MIRROR": "http://127.0.0.1:1/", "ALL_PROXY": "http://127.0.0.1:1"
    }  # fmt: skip
    for command in ("download resnest50", "predict x.jpg --offline", "cache prune", "list-models"):
        done = run_process(*command.split(), env=environment, timeout=60)
        assert "Traceback" not in done.stderr
        assert path.is_fifo()
    if name.endswith(".pth"):
        done = run_process("predict", "x.jpg", "--offline")
        assert (done.returncode, "Not a regular file" in done.stderr) == (1, True), done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_instead_of_what_is_compiled_are_not_waited_for(run_process, home):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    command = ["predict", str(example()[0]), "-m", "demo", "-f", "csv"]
    environment = os.environ | {"RESNEST_ENGINE": "openvino"}
    expected = run_process(*command, env=environment, timeout=60)
    for path in [path for path in home.rglob("*") if path.is_file()]:
        path.unlink()
        os.mkfifo(path)
    for more in (["cache", "list"], ["cache", "prune", "--dry-run"]):
        assert run_process(*more, timeout=60).returncode == 0
    done = run_process(*command, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    assert "cannot be stored" in done.stderr
    assert all(path.is_fifo() for path in home.rglob("*.json"))


def test_a_record_of_another_kind_stays(home, monkeypatch):
    from resnest_cli.catalog import weights

    home.mkdir()
    record = home / "x.pth.sha256"
    for text, kept in (("mine", True), (f"{'0' * 64}  x.pth\n", False)):
        record.write_text(text)
        weights._record(home / "x.pth", "f" * 64)
        assert (record.read_text() == text) == kept


MESSAGES = [
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 77 bytes. Error code 12 (Cannot allocate memory)",
    "unable to mmap 77 bytes from file <x>: Cannot allocate memory (12)",
    "Exception from src/plugins: std::bad_alloc",
    "can't alloc",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_too_little_memory_is_called_that(message, monkeypatch, tmp_path):
    import shutil

    import torch

    from resnest_cli import Classifier

    assert is_out_of_memory(RuntimeError(message))
    shutil.copy(demo_checkpoint(), tmp_path / "x.safetensors")
    file = tmp_path / "x.pth"
    torch.save({"conv1.0.weight": torch.zeros(8, 3, 3, 3)}, file)

    def fail(*_args, **_options):
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(EngineError, match="not enough memory for"):
        Classifier(weights=file, engine="torch")


@pytest.mark.parametrize("message", MESSAGES[2:])
def test_too_little_memory_is_no_damaged_cache(message, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    from resnest_cli import Classifier
    from resnest_cli.engines.openvino import engine

    class Core:
        def import_model(self, *_: object) -> None:
            raise RuntimeError(message)

    image = example()[0]
    Classifier("demo", engine="openvino")(image)
    monkeypatch.setattr(engine, "core", Core)
    monkeypatch.setattr(engine, "supported_precisions", lambda: ["fp32"])
    with pytest.raises(EngineError, match="not enough memory for the compiled network") as caught:
        Classifier("demo", engine="openvino")(image)
    assert "cache" not in str(caught.value)


def test_a_damaged_checkpoint_that_claims_too_much_is_called_damaged(monkeypatch, tmp_path):
    import torch

    from resnest_cli import Classifier

    torch.save({"conv1.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "x.pth")

    def fail(*_args, **_options):
        raise RuntimeError("can't allocate memory: you tried to allocate 99999999999 bytes")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError, match="is damaged"):
        Classifier(weights=tmp_path / "x.pth", engine="torch")


def test_what_is_refused_is_refused_before_anything_is_prepared(run, tmp_path, drawn_image):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "wrong.pth").write_bytes(b"not a checkpoint")
    assert run("predict", drawn_image, "-m", "demo", "-o", "x.csv").returncode == 0
    for options in ("-m wrong.pth", "-m demo -k 11", "-m demo --labels labels.txt",
                    "-m demo -o x.csv --resume"):  # fmt: skip
        done = run("predict", drawn_image, "--engine", "openvino", *options.split())
        assert done.returncode in (1, 2)
        assert "Preparing" not in done.stderr, options


def test_nothing_is_printed_before_the_inputs_are_known_to_be_good(run, tmp_path, drawn_image):
    done = run("predict", drawn_image, "--files-from", tmp_path, "-m", "demo", "-f", "csv")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
