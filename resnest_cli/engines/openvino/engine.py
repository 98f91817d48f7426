"""The network in OpenVINO, on the CPU: compiled once, then loaded without torch.

OpenVINO runs a compiled graph in one of two configurations: for throughput, which computes several
images side by side, or for latency, where one image has all processors. Images are computed for
throughput. A lone one is computed for latency, if that gives the same bits; this depends on the
processor, and is chosen when a network is prepared.
"""

from __future__ import annotations

import ctypes
import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.catalog.variants import get_variant
from resnest_cli.engines.api import LOGITS, OUTPUTS, Accept, RuntimeOptions, check_config
from resnest_cli.engines.graph_cache import CacheEntry, CompiledGraph
from resnest_cli.engines.openvino.graph import read_graph, reason, unusable, with_pixels
from resnest_cli.engines.openvino.runtime import (
    COMPUTING,
    core,
    ov,
    precision_hint,
    supported_precisions,
)
from resnest_cli.errors import CheckpointError, EngineError, UsageError, check_memory
from resnest_cli.hardware import after_fork, limited_to, processors
from resnest_cli.progress import SUMMARY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.catalog.config import ModelConfig
    from resnest_cli.catalog.weights import Weights

    Models = dict[str, Any]  # OpenVINO's compiled models, by configuration

log = logging.getLogger(__name__)

LATENCY, THROUGHPUT = "LATENCY", "THROUGHPUT"


class OpenVINOEngine:
    """Every image is computed by itself: its outputs depend on nothing else."""

    name = "openvino"
    device = "cpu"
    batch_size = 16
    pad_to: int | None = 1
    max_in_flight = 2  # while the last images of one batch are computed, the next one starts

    def __init__(
        self, compiled: CompiledGraph, weights: Weights, runtime: RuntimeOptions, models: Models
    ) -> None:
        self.config = compiled.config
        self.weights = weights
        self.precision = runtime.precision
        self._graph = compiled.graph  # memory that the models use
        self._hint = runtime.hint
        self._same_alone = compiled.same_alone_on == processors()
        kept = (THROUGHPUT,) if runtime.hint == "throughput" else (LATENCY, THROUGHPUT)
        self._models = {name: model for name, model in models.items() if name in kept}
        self._lock = Lock()
        after_fork(self, OpenVINOEngine._forget_models)
        if runtime.hint == "latency":
            # what computes a lone image is loaded while the image is read; `run` raises errors
            loading = ThreadPoolExecutor(1, thread_name_prefix="load")
            loading.submit(self._model, 1)
            loading.shutdown(wait=False)

    def run(
        self, pixels: NDArray[np.uint8], outputs: Sequence[str] = (LOGITS,)
    ) -> list[NDArray[np.float32]]:
        """Images (N, crop, crop, 3), 0 to 255, to the named outputs, each with N first.

        Raises:
            EngineError: the network cannot be loaded or run, or is an exported one, which gives
                logits only.
        """
        with COMPUTING:
            return _infer(self._model(len(pixels)), pixels, outputs)

    def _forget_models(self) -> None:
        """Load them again when they are needed: their threads do not exist here.

        They are never freed, as this would wait for those threads.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._models))
        self._models, self._lock = {}, Lock()

    def _model(self, count: int) -> Any:
        """What computes that many images; it is loaded when it is first needed.

        Without a hint, a lone image takes what is loaded already.
        """
        alone = count == 1 and self._same_alone and self._hint != "throughput"
        with COMPUTING, self._lock:
            wanted = self._hint == "latency" or LATENCY in self._models or not self._models
            name = LATENCY if alone and wanted else THROUGHPUT
            if name not in self._models:
                self._models[name] = _loaded(self._graph, _settings(self.precision, name))
            return self._models[name]


def open_openvino(
    weights: Weights,
    runtime: RuntimeOptions,
    *,
    crop: int | None = None,
    accept: Accept | None = None,
) -> OpenVINOEngine:
    """Load a network, compiled now, if `accept` does not raise, unless it is in the cache.

    Raises:
        EngineError: this processor does not compute in that precision.
        CheckpointError: the weights are damaged or of another network.
    """
    precision = runtime.precision
    if precision not in (able := supported_precisions()):
        raise EngineError(
            f"openvino on this processor computes in {' and '.join(able)}, not in {precision}\n"
            "use one of those for `precision`, or `engine=torch`"
        )
    models: Models = {}

    def make() -> CompiledGraph:
        start = time.monotonic()
        graph, config = (_exported if weights.is_graph else _built)(weights, crop)
        if accept:
            accept(config)
        once = " (once)" if runtime.use_cache else ""
        log.log(SUMMARY, "Preparing %s for this CPU%s ...", weights.label, once)
        with COMPUTING:
            compiled = _prepared(graph, config, weights, precision, models)
        log.log(SUMMARY, "prepared in %.1f s", time.monotonic() - start)
        return compiled

    if runtime.use_cache:
        entry = CacheEntry.of(
            weights, crop=crop, precision=precision, engine=OpenVINOEngine.name,
            version=ov.get_version(),
        )  # fmt: skip
        compiled = entry.get_or_create(make)
    else:
        compiled = make()
    return OpenVINOEngine(compiled, weights, runtime, models)


def _prepared(
    graph: ov.Model, config: ModelConfig, weights: Weights, precision: str, models: Models
) -> CompiledGraph:
    """A network, compiled for this processor; its models are added to `models`."""
    try:
        graph = with_pixels(graph, config.preprocessing)
        settings = _settings(precision, THROUGHPUT)
        model = COMPUTING.loaded(core().compile_model(graph, "CPU", settings))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise unusable(weights.path, error) from error
    stream = model.export_model()
    content = stream.getbuffer() if isinstance(stream, io.BytesIO) else bytearray(stream)
    memory = np.frombuffer(content, np.uint8)
    alone = _loaded(memory, _settings(precision, LATENCY))
    models[THROUGHPUT] = model
    if not _same_bits(model, alone, config.preprocessing.crop):
        return CompiledGraph(memory, config, None)
    models[LATENCY] = alone
    return CompiledGraph(memory, config, processors())


def _built(weights: Weights, crop: int | None) -> tuple[ov.Model, ModelConfig]:
    from resnest_cli.engines.openvino.build import build_graph
    from resnest_cli.model.checkpoint import load_checkpoint  # imports torch

    checkpoint = load_checkpoint(weights)
    config = checkpoint.config.at_crop(crop)
    check_config(config)
    return build_graph(checkpoint.state, config, OUTPUTS), config


def _exported(weights: Weights, crop: int | None) -> tuple[ov.Model, ModelConfig]:
    graph, config = read_graph(weights.path)
    check_config(config)
    if weights.model and get_variant(weights.model).architecture != config.architecture:
        raise CheckpointError(
            f"'{weights.path}' holds {config.name}, not {weights.model}; leave out `model`"
        )
    if crop not in (None, config.preprocessing.crop):
        raise UsageError(
            f"`crop` must be {config.preprocessing.crop} pixels for the graph in "
            f"'{weights.path}', not {crop}\nexport another, or use its checkpoint"
        )
    return graph, config


def _loaded(graph: NDArray[np.uint8], settings: dict[str, str]) -> Any:
    try:
        content = ov.Tensor(graph, shared_memory=True)
        return COMPUTING.loaded(core().import_model(content, "CPU", settings))
    except (RuntimeError, MemoryError) as error:
        check_memory(error, "the compiled network")
        raise EngineError(
            f"openvino cannot load the compiled network: {reason(error)}\n"
            "remove it with 'resnest cache', or use `engine=torch`"
        ) from error


def _settings(precision: str, configuration: str) -> dict[str, str]:
    settings = {
        "INFERENCE_PRECISION_HINT": precision_hint(precision), "PERFORMANCE_HINT": configuration,
    }  # fmt: skip
    if limit := limited_to():  # a container's quota, which OpenVINO does not know
        settings["INFERENCE_NUM_THREADS"] = str(limit)
    return settings


def _same_bits(model: Any, other: Any, crop: int) -> bool:
    """Whether two configurations of a network give the same outputs, to the bit.

    They do if they add up in the same order, which does not depend on the image.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (1, crop, crop, 3), np.uint8)
    names = OUTPUTS[: len(model.outputs)]
    pairs = zip(_infer(model, pixels, names), _infer(other, pixels, names), strict=True)
    return all(np.array_equal(first, second) for first, second in pairs)


def _infer(
    model: Any, pixels: NDArray[np.uint8], outputs: Sequence[str]
) -> list[NDArray[np.float32]]:
    ports = [_port(model, name) for name in outputs]
    arrays = [np.empty((len(pixels), *port.shape[1:]), np.float32) for port in ports]
    # two for each stream of OpenVINO's: while one is computed, the next one waits there
    jobs = 2 * model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    queue = ov.AsyncInferQueue(model, min(jobs, len(pixels)))
    try:
        try:
            for index in range(len(pixels)):
                request = queue[queue.get_idle_request_id()]  # the one that is started next
                for port, array in zip(ports, arrays, strict=True):
                    row = ov.Tensor(array[index : index + 1], shared_memory=True)
                    request.set_tensor(port, row)
                queue.start_async({0: pixels[index : index + 1]})
        finally:  # whatever happens, what was started writes into the arrays
            queue.wait_all()
    except (RuntimeError, MemoryError) as error:
        check_memory(error, "an image")
        raise EngineError(f"openvino cannot run the network: {reason(error)}") from error
    return arrays


def _port(model: Any, name: str) -> Any:
    """The output of that name; an exported graph has logits alone."""
    if name not in OUTPUTS[: len(model.outputs)]:
        raise EngineError(
            f"an exported graph gives no {name}: use the checkpoint that it was exported from"
        )
    return model.output(OUTPUTS.index(name))
