"""Shared parts of the tests: an empty home, images, checkpoints, and the installed command.

Photographs are not part of the repository. `$RESNEST_TEST_DATA` names a folder that holds
`photos/dog.jpg` and `photos/imagenet_sample/`; tests that need them are skipped without.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# two tests run at once, and each may start processes: more threads would be in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
# ONNX Runtime, which only tests use, would report its use
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# as at a terminal: what a shell starts in the background is told to ignore Ctrl-C, and passes it on
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RESNEST_TEST_DATA", ROOT.parent / "shared" / "data"))
RESNEST = [sys.executable, "-m", "resnest_cli"]

Run = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: at the end both processes have something to do."""
    long = (
        "test_fuzz.py",
        "test_runs.py",
        "test_network.py",
        "test_export.py",
        "test_train.py",
        "test_resume.py",
    )
    items.sort(key=lambda item: item.path.name not in long)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; and none of the user's settings."""
    for name in list(os.environ):
        if name.startswith("RESNEST_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("RESNEST_HOME", str(folder))
    monkeypatch.setenv("RESNEST_ENGINE", "torch")  # else every test would compile its network
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    return folder


@dataclass
class Done:
    """What a command gave."""

    returncode: int
    stdout: str
    stderr: str
    raw: bytes = b""  # standard output as it came


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command in this process, in an empty folder, its output as text."""

    def call(*arguments: object, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Done:
        return in_process(*arguments, cwd=cwd, env=env)

    return call


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """The command in a process of its own, for what only that shows: pipes, signals, imports."""

    def call(*arguments: object, timeout: float = 120, **options: Any) -> Any:
        options = {"cwd": tmp_path, "text": True, "capture_output": True} | options
        command = [*RESNEST, *map(str, arguments)]
        return subprocess.run(command, timeout=timeout, check=False, **options)

    return call


def in_process(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Done:
    """Run the command line here, as `resnest` does, and put everything it changes back."""
    from resnest_cli.cli import app

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    before = sys.stdout, sys.stderr, os.getcwd(), os.environ.copy()
    logger = logging.getLogger("resnest_cli")
    level, handlers = logger.level, logger.handlers[:]
    terminate = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        try:
            sys.stdout, sys.stderr = streams
            os.chdir(cwd or os.getcwd())
            os.environ.update(env or {})
            code = app.run([*map(str, arguments)])
        finally:
            sys.stdout, sys.stderr = before[:2]
            os.chdir(before[2])
            # no more than what changed: a thread of an engine may be reading the others
            for name in {
                n for n in {*os.environ, *before[3]} if os.environ.get(n) != before[3].get(n)
            }:
                if name in before[3]:
                    os.environ[name] = before[3][name]
                else:
                    del os.environ[name]
            logger.level, logger.handlers = level, handlers
            signal.signal(signal.SIGTERM, terminate)
    out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    return Done(code, out.decode(errors="replace"), err.decode(), out)


class FakeEngine:
    """An engine whose logits follow from the pixels alone, and that notes what it was given."""

    name, device, precision = "fake", "cpu", "fp32"

    def __init__(
        self, *, classes: int = 10, batch_size: int = 4, pad_to: int | None = None,
        max_in_flight: int = 1, crop: int = 32,
    ) -> None:  # fmt: skip
        from resnest_cli.catalog.config import ModelConfig
        from resnest_cli.catalog.demo import demo_checkpoint
        from resnest_cli.catalog.labels import numbered
        from resnest_cli.catalog.variants import get_variant
        from resnest_cli.catalog.weights import Weights

        config = ModelConfig.of_variant(get_variant("resnest14"), num_classes=classes)
        view = config.preprocessing.sized(crop, None)
        self.config = replace(config, name="fake", preprocessing=view, labels=numbered(classes))
        self.weights = Weights(demo_checkpoint(), "fake")
        self.batch_size, self.pad_to, self.max_in_flight = batch_size, pad_to, max_in_flight
        self.batches: list[int] = []  # the size of each batch it was given

    def run(self, pixels: Any, outputs: Any = ("logits",)) -> list[Any]:
        self.batches.append(len(pixels))
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        weights = np.random.default_rng(0).standard_normal((flat.shape[1], self.config.num_classes))
        logits = np.stack([row @ weights / 10 for row in flat]).astype(np.float32)
        return [logits for _ in outputs]


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The 197 photographs."""
    found = [DATA / "photos" / "dog.jpg", *sorted((DATA / "photos/imagenet_sample").glob("*"))]
    if len(found) != 197 or not found[0].is_file():
        pytest.skip("the photographs are not there; $RESNEST_TEST_DATA names their folder")
    return found


def drawn(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """An image of soft colours and hard edges, always the same."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    smooth[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
    noise = rng.integers(0, 24, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise - 12, 0, 255).astype(np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of twelve drawn images, two of them one folder down."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        name = f"p{number:02}.png" if number < 10 else f"more/p{number:02}.jpg"
        drawn(300 + number, 240, seed=number).save(folder / name)
    return folder


@pytest.fixture
def drawn_image(tmp_path: Path) -> Path:
    """One drawn image."""
    path = tmp_path / "drawn.png"
    drawn().save(path)
    return path


def lively(network: Any, seed: int = 0) -> Any:
    """Random weights, also where networks begin with ones and zeros, with answers that differ.

    Batch norms get the statistics of a few images and logits their size in trained networks, so
    that signals neither die nor explode, and rounding is no chaos.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    pixels = np.stack([np.asarray(drawn(160, 160, seed=s)) for s in range(12)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).sub(0.45).div(0.225)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.weight.data.mul_(0.3 if name.endswith("bn3") else 1.0)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.train()(x)
        for name, module in network.named_modules():
            if name.endswith("conv2.bn1"):  # pooled, so almost alike; scaled up, they are chaos
                module.running_var.fill_(0.25)
        logits = network.eval()(x)
        scale = 0.4 / logits.std(0).mean()
        network.fc.weight.mul_(scale)
        network.fc.bias.sub_(logits.mean(0)).mul_(scale)
    return network


@pytest.fixture(scope="session")
def legacy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnest14 that timm made and torch saved in the legacy format, as published files are."""
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoints") / "weights.pth"
    network = lively(timm.create_model("resnest14d"))
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def predict(run: Run, legacy_checkpoint: Path) -> Run:
    """`resnest predict` with a resnest14 in a file that does not say so."""

    def call(*arguments: object, **options: Any) -> Any:
        return run("predict", "--weights", legacy_checkpoint, *arguments, **options)

    return call


def lines(done: Any) -> list[Any]:
    """The rows of JSON Lines on standard output."""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Thirty images, three of them broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        path = folder / f"{number:03}.jpg"
        drawn(400, 300, seed=number % 7).save(path)
        if number % 10 == 4:
            path.write_bytes(path.read_bytes()[:3000])
    return folder


PEAK = """
import sys
from resnest_cli.cli.app import run
code = run(sys.argv[1:])
# resource's own figure begins with what the parent had when this process was made
sys.stderr.write(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def peak(*arguments: object) -> int:
    """Peak memory of the command, KB."""
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return int(done.stderr.splitlines()[-1])


def in_terminal(command: list[Any]) -> tuple[int, str]:
    """What a person sees, without the codes for colours."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUTF8": "1"}
    with subprocess.Popen(
        [*map(str, command)], stdin=child, stdout=child, stderr=child, env=environment
    ) as process:
        os.close(child)
        seen = b""
        try:
            while chunk := os.read(parent, 4096):
                seen += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(parent)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
