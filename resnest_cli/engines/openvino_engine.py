"""The network in OpenVINO, on the CPU: compiled once, then loaded without torch."""

from __future__ import annotations

import io
import logging
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli import checkpoints
from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions, check_card
from resnest_cli.engines.compiled import Compiled, Entry, Graph
from resnest_cli.engines.openvino_graph import read_graph, unusable, with_pixels
from resnest_cli.engines.openvino_runtime import ov
from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.fetch import Progress
from resnest_cli.files import is_graph
from resnest_cli.processors import limited_to
from resnest_cli.terminal import SUMMARY
from resnest_cli.variants import get_variant

log = logging.getLogger(__name__)

_PRECISIONS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}


class OpenVINOEngine:
    """One picture is spread over all processors; several are run side by side."""

    name = "openvino"
    device = "cpu"
    fill: int | None = 2  # more than one picture: each is run by itself, whatever the batch
    at_once = 2  # while one batch's last pictures are computed, the next one's first are

    def __init__(self, graph: Graph, card: ModelCard, weights: Path, precision: str) -> None:
        check_card(card)
        self.card = card
        self.weights = weights
        self.precision = precision
        self._graph = graph
        self._core = ov.Core()
        self._one: Any = None  # compiled for one picture at a time
        self._many: Any = None  # compiled for several side by side
        self._lock = Lock()  # of the one
        self._turn = Lock()  # to start pictures, batch after batch
        self.batch_size = 16

    @classmethod
    def open(cls, options: EngineOptions, on_progress: Progress | None = None) -> OpenVINOEngine:
        """Load a network, compiled earlier or now.

        Raises:
            EngineError: this processor doesn't compute in that precision.
            CheckpointError: the weights are missing, damaged or of another network.
        """
        core = ov.Core()
        if options.precision not in (able := precisions_here(core)):
            raise EngineError(
                f"openvino does not compute in {options.precision} on this processor; it does in "
                f"{' and '.join(able)}\nuse one of those, or --engine torch"
            )
        weights = checkpoints.locate(
            options.model, options.weights, offline=options.offline, on_progress=on_progress
        )
        if options.keep:
            found = _entry(weights, options).read_or(lambda: _converted(core, options))
        else:
            found = _converted(core, options)
        engine = cls(found.graph, found.card, weights, options.precision)
        if options.answer_first:  # few pictures, perhaps one: load while the first is decoded
            Thread(target=engine._load_early, name="loading", daemon=True).start()
        return engine

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""
        if len(pixels) == 1:
            with self._lock:  # there is one request
                self._load_one()
                return np.array(self._one(pixels)[0], np.float32)
        logits = np.empty((len(pixels), self.card.num_classes), np.float32)
        with self._turn:
            self._many = self._many or self._compiled("THROUGHPUT")
            # two for each stream of OpenVINO's: while one is computed, the next one waits there
            count = 2 * self._many.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            requests = [self._many.create_infer_request() for _ in range(count)]

            def wait_for(index: int) -> None:
                requests[index % count].wait()
                logits[index] = requests[index % count].get_output_tensor().data[0]

            for index in range(len(pixels)):
                if index >= count:
                    wait_for(index - count)
                requests[index % count].start_async({0: pixels[index : index + 1]})
        for index in range(max(0, len(pixels) - count), len(pixels)):
            wait_for(index)
        return logits

    def _load_one(self) -> None:
        self._one = self._one or self._compiled("LATENCY")

    def _load_early(self) -> None:
        with self._lock, suppress(EngineError):  # whoever needs it will be told
            self._load_one()

    def _compiled(self, hint: str) -> ov.CompiledModel:
        settings = _settings(self.precision) | {"PERFORMANCE_HINT": hint}
        if limit := limited_to():  # of which OpenVINO knows nothing
            settings["INFERENCE_NUM_THREADS"] = str(limit)
        try:
            return self._core.import_model(
                ov.Tensor(self._graph, shared_memory=True), "CPU", settings
            )
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot load the compiled network: {str(error).splitlines()[-1]}\n"
                "remove the folder 'compiled' in the cache folder, or use --engine torch"
            ) from error


def is_ready(options: EngineOptions) -> bool:
    """Whether a network, already on disk, was compiled by an earlier run."""
    try:
        weights = checkpoints.locate(options.model, options.weights, offline=True)
        entry = _entry(weights, options)
    except Exception:  # whatever is wrong will be told by who loads it
        return False
    return entry.graph.exists() and entry.note.exists()


def _entry(weights: Path, options: EngineOptions) -> Entry:
    return Entry.of(weights, options, OpenVINOEngine.name, ov.get_version())


def _converted(core: ov.Core, options: EngineOptions) -> Compiled:
    log.log(SUMMARY, "compiling the network for this processor, once ...")
    start = time.monotonic()
    if options.weights and is_graph(options.weights):
        model, card = read_graph(options.weights)
        if options.model and get_variant(options.model).architecture != card.architecture:
            raise CheckpointError(
                f"'{options.weights}' holds {card.name}, not {options.model}; leave out --model"
            )
        if options.crop not in (None, card.preprocessing.crop):
            raise UsageError(
                f"the graph in '{options.weights}' is for {card.preprocessing.crop} pixels, not "
                f"{options.crop}\nexport one for those, or give its checkpoint"
            )
        check_card(card)
    else:
        from resnest_cli.engines.openvino_convert import convert  # imports torch

        model, card = convert(options)
    try:
        model = with_pixels(model, card.preprocessing)
        compiled = core.compile_model(model, "CPU", _settings(options.precision))
    except (RuntimeError, ValueError) as error:
        raise unusable(options.weights or Path(card.name), error) from error
    stream = compiled.export_model()
    content = stream.getvalue() if isinstance(stream, io.BytesIO) else bytes(stream)
    graph = np.frombuffer(bytearray(content), np.uint8)  # what OpenVINO is given can be written
    log.log(SUMMARY, "compiled in %.1f s", time.monotonic() - start)
    return Compiled(graph, card)


def _settings(precision: str) -> dict[str, str]:
    """The precision, said outright: left alone, this engine computes in the fastest it can."""
    return {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision][0]}


def precisions_here(core: ov.Core | None = None) -> list[str]:
    """The precisions that OpenVINO computes in on this processor."""
    able = (core or ov.Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, capability) in _PRECISIONS.items() if capability in able]
