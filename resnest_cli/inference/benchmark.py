"""How fast networks run here: latency, images per second, and how close to the machine's limit.

Everything that is compared is run in turn, over and over, so that whatever else the machine does
affects all of it alike. Speed does not depend on the weights: a variant whose checkpoint is not on
disk is timed with random ones.
"""

from __future__ import annotations

import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.catalog.weights import Weights, cached_path, resolve
from resnest_cli.engines.api import RuntimeOptions, check_config
from resnest_cli.engines.select import open_engine
from resnest_cli.errors import EngineError
from resnest_cli.hardware import cpu_name, processors
from resnest_cli.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.model.checkpoint import Checkpoint

log = logging.getLogger(__name__)

EAGER = "eager"  # plain PyTorch: the network as built, with nothing fused or rearranged
_ROUNDS = 5
# sides of the matrices whose product measures the machine; a GPU needs more to be at its limit
_SIDE, _GPU_SIDE = 2048, 8192

Step = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """One network on one engine."""

    model: str
    engine: str
    device: str
    precision: str
    batch_size: int
    latency_ms: float  # of a batch: the median
    p95_ms: float
    images_per_second: float
    times_eager: float | None  # images per second relative to eager's, same precision and batch
    of_limit: float | None  # fraction of the machine's arithmetic that the network's sums make up
    top1: float | None  # published, per cent


def benchmark(
    models: Sequence[str] = ("resnest50",),
    *,
    weights: Path | None = None,
    engines: Sequence[str] = (),
    device: str = "auto",
    precisions: Sequence[str] = ("fp32",),
    batch_sizes: Sequence[int] = (1,),
    seconds: float = 3.0,
    torch_compile: bool = False,
    limits: Mapping[str, float] | None = None,
) -> Iterator[Measurement]:
    """Time every model at every precision and batch size on every engine, beside plain PyTorch.

    Args:
        models: variants, or `demo`.
        weights: a checkpoint instead of `models`.
        engines: torch, openvino; default: those installed that run on the device.
        device: as in `Classifier`.
        precisions: fp32, bf16, fp16.
        batch_sizes: images per step.
        seconds: time for each figure.
        torch_compile: compile the torch engine's network.
        limits: those of `machine`, by precision.
    """
    from resnest_cli.model.checkpoint import load_checkpoint

    for engine in engines:
        RuntimeOptions(engine=engine)  # raises for what does not exist
    for model in (None,) if weights else models:
        with tempfile.TemporaryDirectory() as folder:
            file, stored = _weights(model, weights, Path(folder))
            checkpoint = load_checkpoint(file)
            check_config(checkpoint.config)
            for precision, batch_size in product(precisions, batch_sizes):
                runtime = RuntimeOptions(
                    device, precision=precision, torch_compile=torch_compile, use_cache=stored
                )
                names = engines or _engines(device)
                times = _in_turn(_steps(checkpoint, runtime, names, batch_size), seconds)
                limit = (limits or {}).get(precision)
                yield from _measurements(checkpoint, runtime, batch_size, times, limit)


def _limit(device: str, precision: str, seconds: float = 1.0) -> float:
    """Floating point operations per second of a large matrix product, the best of many.

    On a CPU it is also computed as a 1 x 1 convolution, as another library (oneDNN) does those.
    """
    import torch

    from resnest_cli.model.precision import DTYPES

    side = _SIDE if device == "cpu" else _GPU_SIDE
    drawn = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    one, other = drawn.to(device, DTYPES[precision])
    ways: list[Callable[[], torch.Tensor]] = [lambda: one @ other]
    if device == "cpu":
        maps = one.view(1, 1, side, side).permute(0, 3, 1, 2)  # channels last
        ways.append(lambda: torch.nn.functional.conv2d(maps, other[:, :, None, None]))
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for way in ways:
            begin = time.perf_counter()
            result = way()
            result[(0,) * result.ndim].item()  # waits for a GPU
            best = max(best, 2 * side**3 / (time.perf_counter() - begin))
    return best


def machine(device: str, precisions: Sequence[str] = ()) -> dict[str, Any]:
    """What figures are measured on, with its limit in arithmetic at some precisions."""
    import torch

    from resnest_cli.engines.torch_engine import resolve_device

    for precision in precisions:
        RuntimeOptions(precision=precision)  # raises for one that does not exist
    resolved = resolve_device(device)
    gpu = resolved.startswith("cuda")
    return {
        "processor": torch.cuda.get_device_name(resolved) if gpu else cpu_name(),
        "processors": processors(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "limit_flops": {precision: _limit(resolved, precision) for precision in precisions},
    }


def _engines(device: str) -> list[str]:
    """The installed engines that run on a device."""
    from resnest_cli.engines.torch_engine import resolve_device

    cpu = resolve_device(device) == "cpu"
    return ["torch", "openvino"] if cpu and find_spec("openvino") else ["torch"]


def _weights(model: str | None, given: Path | None, folder: Path) -> tuple[Weights, bool]:
    """A checkpoint of a model, and whether what is compiled of it is worth storing."""
    variant = None if model in (None, DEMO) else get_variant(model)
    if variant is None or cached_path(variant):
        return resolve(model, given, offline=True), True
    from resnest_cli.model.checkpoint import load_model, save_checkpoint

    file = folder / f"{variant.name}.safetensors"
    network = load_model(variant.name, pretrained=False)
    save_checkpoint(file, network, ModelConfig.of_variant(variant))
    log.info("%s is not on disk: timed with random weights", variant.name)
    return Weights(file, variant.name, published=True), False


def _steps(
    checkpoint: Checkpoint, runtime: RuntimeOptions, engines: Sequence[str], batch_size: int
) -> dict[str, Step]:
    """What computes a batch on each engine; those that cannot are left out, with a warning."""
    crop = checkpoint.config.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, crop, crop, 3), np.uint8)
    steps: dict[str, Step] = {}
    for name in (EAGER, *engines):
        try:
            if name == EAGER:
                step = _eager(checkpoint, pixels, runtime)
            else:
                compiled = runtime.torch_compile and name == "torch"
                own = replace(runtime, engine=name, torch_compile=compiled)
                step = partial(open_engine(checkpoint.weights, own).run, pixels)
            step()  # the first ones are slower, and may fail
            step()
            steps[name] = step
        except (EngineError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            log.warning(
                "%s in %s, batch size %d, left out: %s", name, runtime.precision, batch_size, reason
            )
    return steps


def _eager(checkpoint: Checkpoint, pixels: NDArray[np.uint8], runtime: RuntimeOptions) -> Step:
    """A step of plain PyTorch, on a tensor that is on the device already."""
    import torch

    from resnest_cli.engines.torch_engine import resolve_device
    from resnest_cli.model.precision import DTYPES, disable_tf32

    device, dtype = resolve_device(runtime.device), DTYPES[runtime.precision]
    network = checkpoint.network().to(device, dtype)
    normalised = checkpoint.config.preprocessing.normalise(pixels)
    batch = torch.from_numpy(normalised).permute(0, 3, 1, 2).contiguous().to(device, dtype)

    def step() -> object:
        with torch.inference_mode(), disable_tf32():
            return network(batch).float().cpu()

    return step


def _in_turn(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """The seconds that each step took, over and over."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            end = time.perf_counter() + seconds / _ROUNDS
            while not times[name] or time.perf_counter() < end:
                begin = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - begin)
    return times


def _measurements(
    checkpoint: Checkpoint,
    runtime: RuntimeOptions,
    batch_size: int,
    times: dict[str, list[float]],
    limit: float | None,
) -> Iterator[Measurement]:
    from resnest_cli.engines.torch_engine import resolve_device

    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    # what is published holds for the variant's own weights and crop
    own = checkpoint.weights
    variant = next((v for v in VARIANTS if own.published and v.name == own.model), None)
    for name, median in medians.items():
        rate = batch_size / median
        yield Measurement(
            model=printable(checkpoint.config.name),
            engine=name,
            device="cpu" if name == "openvino" else resolve_device(runtime.device),
            precision=runtime.precision,
            batch_size=batch_size,
            latency_ms=1e3 * median,
            p95_ms=1e3 * float(np.quantile(times[name], 0.95)),
            images_per_second=rate,
            times_eager=medians[EAGER] / median if EAGER in medians else None,
            of_limit=2e9 * variant.gmacs * rate / limit if variant and limit else None,
            top1=variant.top1 if variant else None,
        )
