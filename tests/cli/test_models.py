"""`resnest list-models`, `download`, `cache` and `doctor`."""

import csv
import io
import json
import os
import socket
import sys

import pytest

from resnest_cli import __version__, list_models
from resnest_cli.catalog.demo import demo_checkpoint, example
from resnest_cli.cli.options import complete_model
from resnest_cli.engines import select
from resnest_cli.errors import EngineError
from tests.conftest import RESNEST, in_terminal
from tests.servers import content, serving

KEYS = "name alias params gmacs crop resize interpolation top1 top5 cached".split()


def put(home, name):
    path = home / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_models_as_json_and_csv(run, home):
    put(home, "resnest101-22405ba7.pth")
    rows = json.loads(run("list-models", "-f", "json").stdout)
    assert [row["name"] for row in rows] == list_models()
    assert set(KEYS) <= set(rows[0])
    assert [r["name"] for r in rows if r["cached"]] == ["resnest101", "demo"]
    assert rows[-1]["top1"] is None
    table = list(csv.DictReader(io.StringIO(run("list-models", "*fast*", "-f", "csv").stdout)))
    assert [row["name"] for row in table] == list_models("*fast*")
    assert table[0]["top5"] == ""


@pytest.mark.parametrize(
    "command",
    ["list-models demo", "cache", "bench demo --seconds 0.1 -q", "predict boat.jpg -m demo",
     "evaluate classes -m demo", "doctor"],
)  # fmt: skip
def test_json_is_format_json_everywhere(command, run, tmp_path):
    image, _ = example()
    (tmp_path / "classes" / "ship").mkdir(parents=True)
    for path in (tmp_path / "boat.jpg", tmp_path / "classes" / "ship" / "0.jpg"):
        path.write_bytes(image.read_bytes())
    both = [run(*command.split(), *options) for options in (["--json"], ["-f", "json"])]
    assert {done.returncode for done in both} == {0}, both[0].stderr
    keys = [json.loads(done.stdout) for done in both]
    first, second = (set(k[0] if isinstance(k, list) else k) for k in keys)
    assert first == second


def test_models_as_a_table(run):
    text = run("list-models").stdout
    heading = next(line for line in text.splitlines() if "model" in line)
    columns = "model timm params GMACs crop resize interpolation top-1 top-5 file on disk"
    assert heading.split() == columns.split()
    named = [line.split()[0] for line in text.splitlines() if line.strip()[:1].isalpha()]
    assert named[1:] == list_models()
    code, shown = in_terminal([*RESNEST, "list-models"])
    assert code == 0
    assert "a wider terminal also shows: timm" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_completion_knows_all_names():
    assert complete_model("dem") == ["demo"]
    assert complete_model("resnest50d_") == ["resnest50d_4s2x40d", "resnest50d_1s4x24d"]
    assert set(list_models()) < set(complete_model(""))


def test_no_model_fits(run):
    done = run("list-models", "xyz")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no model fits 'xyz'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "--all"), (("demo", "--all"), "--all"), (("demo", "resnest5"), "did you mean")],
)
def test_wrong_downloads_do_nothing(arguments, words, run, home):
    done = run("download", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not home.exists()


def test_a_download_without_the_network(run):
    for options, env in (((), {"RESNEST_OFFLINE": "1"}), (("--offline",), {})):
        done = run("download", "resnest14", *options, env=env)
        assert done.returncode == 1
        assert "gluon_resnest14-9c8fe254.pth" in done.stderr
        assert "--offline" in done.stderr
        assert done.stderr.count("\n") == 2


def test_some_downloads_fail(run):
    done = run("download", "demo", "resnest14", "resnest50d", "--offline")
    assert done.returncode == 3
    assert done.stdout == f"demo: {demo_checkpoint()}\n"
    assert done.stderr.count("error: ") == 2
    assert "resnest50 is not on disk" in done.stderr
    assert run("download", "resnest14", "resnest50", "--offline").returncode == 1


def test_a_mirror_with_another_file(run):
    with serving(content(b"not it")) as server:
        env = {"RESNEST_MIRROR": server.url, "HTTPS_PROXY": "http://127.0.0.1:1"}
        done = run("download", "resnest50", env=env)
    assert done.returncode == 1
    assert "not 528c19ca" in done.stderr
    assert "HTTPS_PROXY" in done.stderr


def test_a_download_prepares_for_this_cpu(run, home, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    monkeypatch.delenv("RESNEST_ENGINE")
    done = run("download", "demo")
    assert done.returncode == 0, done.stderr
    assert "Preparing demo for this CPU (once) ..." in done.stderr
    assert list((home / "compiled").glob("*.graph"))
    for again in (run("download", "demo"), run("download", "demo", "-q")):
        assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_model_that_cannot_be_prepared_is_a_warning(quiet, run, monkeypatch):
    def fail(*_):
        raise EngineError("no such device; use `device=cpu`")

    monkeypatch.setattr(select, "resolve_engine", fail)
    done = run("download", "demo", *(["-q"] if quiet else []))
    assert done.returncode == 0
    assert done.stdout == f"demo: {demo_checkpoint()}\n"
    warning = "warning: demo is not prepared for this machine: no such device; use --device cpu\n"
    assert done.stderr == ("" if quiet else warning)


def test_the_cache_is_listed_pruned_and_emptied(run, home):
    assert run("cache").stdout == f"0 items, 0.0 MB in {home}\n"
    put(home, "resnest50-528c19ca.pth")
    put(home, "gluon_resnest14-9c8fe254.pth.part")
    for command in (["cache"], ["cache", "list"]):
        text = run(*command).stdout
        assert "resnest50" in text
        assert "(unused: its download was interrupted)" in text
        assert "2 items" in text
    report = json.loads(run("cache", "list", "-f", "json").stdout)
    assert (report["folder"], report["bytes"]) == (str(home), 2)
    assert [item["kind"] for item in report["items"]] == ["partial", "checkpoint"]
    assert "1 item, 0.0 MB to remove" in run("cache", "prune", "--dry-run").stdout
    assert "1 item, 0.0 MB removed" in run("cache", "prune").stdout
    assert "0 items, 0.0 MB removed" in run("cache", "prune").stdout
    assert "1 item, 0.0 MB to remove" in run("cache", "remove", "resnest50", "--dry-run").stdout
    assert len(os.listdir(home / "checkpoints")) == 1
    assert "1 item, 0.0 MB removed" in run("cache", "remove", "resnest50").stdout
    assert os.listdir(home / "checkpoints") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("remove",), "name what to remove"),
        (("remove", "resnest50"), "nothing in the cache is called 'resnest50'"),
        (("prune", "resnest50"), "'prune' takes no names"),
        (("clear",), "list"),
    ],
)
def test_wrong_uses_of_the_cache(arguments, words, run):
    done = run("cache", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_doctor(run, home):
    import torch

    put(home, "resnest50-528c19ca.pth")
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    facts = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert __version__ in facts["resnest"]
    assert sys.executable in facts["python"]
    assert torch.__version__.split("+")[0] in facts["torch"] or "torch  " in done.stdout
    assert "torch on this machine" in facts["auto"]  # as $RESNEST_ENGINE says
    assert str(home) in facts["folder"]
    assert "resnest50-528c19ca.pth" in facts["resnest50"]
    assert "boat.jpg is a ship" in facts["works"]


def test_doctor_as_json(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)  # as if something had imported it
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == ["versions", "devices", "engines", "cache", "self_test", "works"]
    assert report["works"] is True
    assert report["versions"]["resnest"] == __version__
    assert "boat.jpg is a ship" in report["self_test"]["works"]
    assert report["self_test"]["telemetry"] == "on: openvino_telemetry is imported"


def test_doctor_reports_what_is_contacted(run, monkeypatch):
    """`off` is what it has seen; see tests/test_quiet.py for that."""
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)

    def contacts(*_):
        with pytest.raises(OSError), socket.socket() as client:  # noqa: PT011
            client.connect(("127.0.0.1", 1))
        return "torch"

    monkeypatch.setattr("resnest_cli.inference.diagnosis.resolve_engine", contacts)
    assert "telemetry    on: 127.0.0.1 contacted" in run("doctor").stdout


def test_doctor_reports_what_does_not_work(run):
    done = run("doctor", "--json", env={"RESNEST_ENGINE": "bogus"})
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["works"] is False
    assert "not 'bogus'" in report["engines"]["auto"]
    assert "not 'bogus'" in report["self_test"]["failed"]
