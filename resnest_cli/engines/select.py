"""The one place that chooses an engine, and makes a model ready for it.

The choice follows from the machine, what is installed, the device and the precision: not from the
number of images, nor from what is in a cache. So an image has one answer.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from resnest_cli import settings
from resnest_cli.catalog.weights import Weights, resolve
from resnest_cli.engines.api import ENGINES, GPU_AFTER_FORK, Accept, Engine, RuntimeOptions
from resnest_cli.errors import EngineError, ResNeStError, UsageError
from resnest_cli.hardware import has_gpu, is_forked
from resnest_cli.progress import SILENT, Progress

log = logging.getLogger(__name__)


def open_engine(
    weights: Weights,
    runtime: RuntimeOptions,
    *,
    crop: int | None = None,
    accept: Accept | None = None,
) -> Engine:
    """Load a network into the engine that `resolve_engine` names.

    Args:
        weights: the file that holds the network.
        runtime: on what it runs.
        crop: pixels of its input; default: its own.
        accept: raises, before a network is compiled, what the caller has against it.

    Raises:
        EngineError: the engine or the device is not available here.
        CheckpointError: the weights are damaged or of another network.
    """
    if not is_forked():
        return _opened(weights, runtime, crop, accept)
    torch: Any = sys.modules.get("torch")
    on_gpu = torch and runtime.device != "cpu" and torch.cuda.device_count()
    if on_gpu and torch.cuda._is_in_bad_fork():
        raise EngineError(GPU_AFTER_FORK)
    # OpenMP waits for threads that do not exist here, in a thread that had some before the fork
    with ThreadPoolExecutor(1, thread_name_prefix="open") as fresh:
        return fresh.submit(_opened, weights, runtime, crop, accept).result()


def _opened(
    weights: Weights, runtime: RuntimeOptions, crop: int | None, accept: Accept | None
) -> Engine:
    runtime = replace(runtime, engine=resolve_engine(runtime, graph=weights.is_graph))
    if runtime.engine == "openvino":
        from resnest_cli.engines.openvino.engine import open_openvino

        return open_openvino(weights, runtime, crop=crop, accept=accept)
    from resnest_cli.engines.torch_engine import open_torch

    return open_torch(weights, runtime, crop=crop)


def download_model(model: str, *, offline: bool = False, progress: Progress = SILENT) -> Weights:
    """A model's verified checkpoint, downloaded if it is missing, and prepared for this machine.

    Its first prediction then needs neither the network nor time to compile. A model that cannot be
    prepared is a warning.

    Raises:
        CheckpointError: the checkpoint cannot be downloaded, or is damaged.
        UsageError: no model has that name.
    """
    weights = resolve(model, offline=offline, on_bytes=progress.download)
    try:
        _prepare(weights)
    except (ResNeStError, OSError) as error:
        log.warning("%s is not prepared for this machine: %s", weights.label, error)
    finally:
        progress.finish()
    return weights


def _prepare(weights: Weights) -> None:
    """Compile a network if its engine does that, and run it once, so that a failure shows now."""
    import numpy as np

    if resolve_engine(RuntimeOptions()) == "openvino":
        engine = open_engine(weights, RuntimeOptions())
        crop = engine.config.preprocessing.crop
        engine.run(np.zeros((1, crop, crop, 3), np.uint8))


def resolve_engine(runtime: RuntimeOptions, *, graph: bool = False) -> str:
    """The engine that is asked for, by `runtime` or `$RESNEST_ENGINE`, or that `auto` is here.

    Args:
        runtime: device, engine and precision.
        graph: whether the network is an exported graph, which OpenVINO alone runs.

    Raises:
        UsageError: options exclude each other, or `$RESNEST_ENGINE` is not an engine.
        EngineError: the engine is not installed, or does not run on the device.
    """
    engine = runtime.engine
    if graph:
        if engine == "torch" or runtime.device not in ("auto", "cpu"):
            raise EngineError(
                "an exported graph runs on `engine=openvino` with `device=cpu` alone; for other "
                "engines and devices give the checkpoint that it was exported from"
            )
        engine = "openvino"
    elif engine == "auto":
        engine = _engine_of_environment()
    if engine == "auto":
        return _best_engine(runtime)
    if engine == "openvino":
        _check_openvino(runtime)
    return engine


def _check_openvino(runtime: RuntimeOptions) -> None:
    if runtime.torch_compile:
        raise UsageError("`compile` needs `engine=torch`, not openvino")
    if find_spec("openvino") is None:
        raise EngineError("openvino is not installed\npip install 'resnest-cli[fast]'")
    if runtime.device not in ("auto", "cpu"):
        raise EngineError(
            f"openvino runs on the CPU only; use `engine=torch` for `device={runtime.device}`"
        )


def _best_engine(runtime: RuntimeOptions) -> str:
    """torch on a GPU; OpenVINO on a CPU if it is installed and computes in the precision."""
    settings.contain("cuda")
    cpu = runtime.device == "cpu" or (runtime.device == "auto" and not has_gpu())
    if runtime.torch_compile or not cpu or find_spec("openvino") is None:
        return "torch"
    if runtime.precision != "fp32":
        from resnest_cli.engines.openvino.runtime import supported_precisions

        return "openvino" if runtime.precision in supported_precisions() else "torch"
    return "openvino"


def _engine_of_environment() -> str:
    engine = settings.engine()
    if engine not in ENGINES:
        raise UsageError(f"$RESNEST_ENGINE must be one of {', '.join(ENGINES)}, not '{engine}'")
    return engine
