"""How fast networks run here: latency, pictures per second, and how near the machine's limit.

Everything that is to be compared is run in turn, again and again, so that what else the machine
does meanwhile touches all of it alike. A network's speed does not depend on its weights: where a
checkpoint is not on disk, random ones stand in for it, and nothing else is made of them.
"""

from __future__ import annotations

import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from resnest_cli import bundled, checkpoints
from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions, check_card, open_engine
from resnest_cli.engines.torch_engine import exact, resolve_device
from resnest_cli.errors import EngineError
from resnest_cli.model.load import build, load_state, save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.processors import processors
from resnest_cli.variants import VARIANTS, get_variant
from resnest_cli.writers import printable

log = logging.getLogger(__name__)

EAGER = "eager"  # plain PyTorch: the network as it is built, nothing fused or laid out anew
_ROUNDS = 5
_SIDE = 2048  # of the matrices whose product measures the machine
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    models: Sequence[str]  # variants, or demo
    weights: Path | None = None  # a checkpoint instead
    engines: Sequence[str] = ("torch",)
    device: str = "cpu"
    precisions: Sequence[str] = ("fp32",)
    batch_sizes: Sequence[int] = (1,)
    seconds: float = 3.0  # for each figure
    compiled: bool = False  # the torch engine's network, by torch.compile


@dataclass(frozen=True)
class Measured:
    """One network on one engine."""

    model: str
    engine: str
    device: str
    precision: str
    batch_size: int
    latency_ms: float  # of a batch: the median
    p95_ms: float
    pictures_per_second: float
    times_eager: float | None  # pictures per second in relation to eager's, same precision, batch
    of_limit: float | None  # share of the machine's arithmetic that the network's sums make up
    top1: float | None  # published, per cent


Step = Callable[[], object]


def measure(settings: Settings, limits: dict[str, float]) -> Iterator[Measured]:
    """Every network on every engine, network by network.

    Args:
        settings: what.
        limits: the machine's floating point operations per second for each precision.
    """
    for model in [None] if settings.weights else settings.models:
        with tempfile.TemporaryDirectory() as folder:
            weights, keep = _weights(model, settings, Path(folder))
            for precision in settings.precisions:
                for batch_size in settings.batch_sizes:
                    yield from _compare(
                        model, weights, settings, precision, batch_size, limits, keep=keep
                    )


def machine_limit(device: str, precision: str, seconds: float = 1.0) -> float:
    """Floating point operations per second of a large matrix product, the best of many.

    On a CPU it is computed as a 1 x 1 convolution, too, since another library (oneDNN) does those.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, _SIDE, _SIDE, generator=generator)
    one, other = drawn.to(device, _DTYPES[precision])
    ways: list[Callable[[], torch.Tensor]] = [lambda: one @ other]
    if device == "cpu":
        maps = one.view(1, 1, _SIDE, _SIDE).permute(0, 3, 1, 2)  # channels last
        ways.append(lambda: functional.conv2d(maps, other[:, :, None, None]))
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for product in ways:
            begun = time.perf_counter()
            made = product()
            made[(0,) * made.ndim].item()  # for which a GPU is waited for
            best = max(best, 2 * _SIDE**3 / (time.perf_counter() - begun))
    return best


def machine(device: str) -> dict[str, str | int]:
    """What was measured on."""
    name = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), name)
    return {
        "processor": name,
        "processors": processors(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
    }


def _weights(model: str | None, settings: Settings, folder: Path) -> tuple[Path, bool]:
    """A checkpoint of a model, and whether it is one to keep what is compiled of it."""
    if settings.weights:
        return settings.weights, True
    if model == bundled.DEMO:
        return bundled.demo_checkpoint(), True
    variant = get_variant(model or "")
    if found := checkpoints.find(variant):
        return found, True
    card = ModelCard.of_variant(variant)
    network = ResNeSt(card.architecture, num_classes=card.num_classes)
    initialise(network)
    save_checkpoint(folder / f"{variant.name}.safetensors", network, card)
    log.info("%s is not on disk: timed with random weights", variant.name)
    return folder / f"{variant.name}.safetensors", False


def _compare(
    model: str | None,
    weights: Path,
    settings: Settings,
    precision: str,
    batch_size: int,
    limits: dict[str, float],
    *,
    keep: bool,
) -> Iterator[Measured]:
    """One network at one precision and batch size, on every engine."""
    named = None if weights == bundled.demo_checkpoint() else model
    loaded = load_state(named, weights=weights)
    check_card(loaded.card)
    view, device = loaded.card.preprocessing, resolve_device(settings.device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch_size, view.crop, view.crop, 3), np.uint8)
    options = EngineOptions(named, weights, device=settings.device, precision=precision, keep=keep)
    steps: dict[str, Step] = {}
    for engine in (EAGER, *settings.engines):
        try:
            if engine == EAGER:
                network = build(loaded.state, loaded.card).to(device, _DTYPES[precision])
                step = _eager(network, view.normalise(pixels), device, precision)
            else:
                compiled = settings.compiled and engine == "torch"
                opened = open_engine(replace(options, engine=engine, compiled=compiled))
                step = partial(opened.run, pixels)
            step()  # the first ones are slower, and may not be possible at all
            step()
        except (EngineError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("%s %s, %d a batch: left out: %s", engine, precision, batch_size, reason)
        else:
            steps[engine] = step
    times = _in_turn(steps, settings.seconds)
    eager = statistics.median(times[EAGER]) if EAGER in times else None
    # what is published holds for the variant's own weights and crop
    variant = next((v for v in VARIANTS if v.name == model and not settings.weights), None)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        rate = batch_size / median
        limit = limits.get(precision)
        yield Measured(
            model=printable(loaded.card.name),
            engine=name,
            device="cpu" if name in ("openvino", "ncnn") else device,
            precision=precision,
            batch_size=batch_size,
            latency_ms=1e3 * median,
            p95_ms=1e3 * float(np.quantile(seconds, 0.95)),
            pictures_per_second=rate,
            times_eager=eager / median if eager else None,
            of_limit=2e9 * variant.gmacs * rate / limit if variant and limit else None,
            top1=variant.top1 if variant else None,
        )


def _eager(network: ResNeSt, pixels: np.ndarray, device: str, precision: str) -> Step:
    """A step of plain PyTorch on a tensor that is ready on the device."""
    ready = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    ready = ready.to(device, _DTYPES[precision])

    def step() -> object:
        with torch.inference_mode(), exact(precision):
            return network(ready).float().cpu()

    return step


def _in_turn(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """How long each step took, again and again."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            end = time.perf_counter() + seconds / _ROUNDS
            while True:
                begun = time.perf_counter()
                step()
                now = time.perf_counter()
                times[name].append(now - begun)
                if now >= end:
                    break
    return times


def engines_here(device: str) -> list[str]:
    """The engines that can run on a device of this machine."""
    others = ("openvino", "ncnn") if device == "cpu" else ()
    return ["torch", *(name for name in others if find_spec(name))]
