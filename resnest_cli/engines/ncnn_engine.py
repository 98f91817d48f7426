"""The network in ncnn, on the CPU, in fp32: for many pictures.

Its 3x3 convolutions are Winograd's (Lavin and Gray, arXiv 1509.09308), which take a quarter of the
multiplications; elsewhere, processors that do nothing but multiply and add are at their limit.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from numpy.typing import NDArray

from resnest_cli import checkpoints
from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions, check_card, check_compilable
from resnest_cli.engines.compiled import Compiled, Entry
from resnest_cli.errors import EngineError
from resnest_cli.fetch import Progress
from resnest_cli.processors import processors
from resnest_cli.terminal import SUMMARY

log = logging.getLogger(__name__)

INPUT, OUTPUT = "pixels", "logits"


class NcnnEngine:
    """One picture is spread over all processors; of several each has one to itself."""

    name = "ncnn"
    device = "cpu"
    precision = "fp32"
    fill: int | None = 2  # more than one picture: each is run by itself, whatever the batch
    at_once = 2  # while one batch's last pictures are computed, the next one's first are

    def __init__(self, compiled: Compiled, weights: Path) -> None:
        check_card(compiled.card)
        self.card: ModelCard = compiled.card
        self.weights = weights
        self._compiled = compiled
        view = compiled.card.preprocessing
        self._mean = [255 * m for m in view.mean]
        self._scale = [1 / (255 * s) for s in view.std]
        self._processors = processors()
        self.batch_size = max(16, 2 * self._processors)
        self._nets: dict[int, ncnn.Net] = {}  # by the threads that share a picture
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._processors, thread_name_prefix="ncnn")
        self._own = threading.local()  # memory that a thread uses again and again

    @classmethod
    def open(cls, options: EngineOptions, on_progress: Progress | None = None) -> NcnnEngine:
        """Load a network, converted earlier or now.

        Raises:
            EngineError: another precision than fp32 is asked for.
            CheckpointError: the weights are missing, damaged or of another network.
        """
        if options.precision != cls.precision:
            raise EngineError(
                f"ncnn computes in fp32 here; for {options.precision} use another engine"
            )
        weights = checkpoints.locate(
            options.model, options.weights, offline=options.offline, on_progress=on_progress
        )
        if not options.keep:
            return cls(_converted(options), weights)
        entry = Entry.of(weights, options, cls.name, str(ncnn.__version__))
        return cls(entry.read_or(lambda: _converted(options)), weights)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""
        if len(pixels) == 1:
            return self._logits(self._net(self._processors), pixels[0])[None]
        net = self._net(1)
        return np.stack(list(self._threads.map(lambda picture: self._logits(net, picture), pixels)))

    def _logits(self, net: ncnn.Net, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows, columns, _ = picture.shape
        ready = ncnn.Mat.from_pixels(picture, ncnn.Mat.PixelType.PIXEL_RGB, columns, rows)
        ready.substract_mean_normalize(self._mean, self._scale)
        if not hasattr(self._own, "pools"):
            self._own.pools = (ncnn.UnlockedPoolAllocator(), ncnn.UnlockedPoolAllocator())
        maps, workspace = self._own.pools
        extractor = net.create_extractor()
        extractor.set_blob_allocator(maps)
        extractor.set_workspace_allocator(workspace)
        extractor.input(INPUT, ready)
        failed, logits = extractor.extract(OUTPUT)
        if failed:
            raise EngineError(f"ncnn cannot run {self.card.name}; use --engine torch")
        return np.array(logits, np.float32)

    def _net(self, threads: int) -> ncnn.Net:
        """The network, loaded for pictures on so many threads each."""
        with self._lock:
            if threads not in self._nets:
                self._nets[threads] = self._loaded(threads)
            return self._nets[threads]

    def _loaded(self, threads: int) -> ncnn.Net:
        net = ncnn.Net()
        options: Any = net.opt
        options.num_threads = threads
        for rounded in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{rounded}", False)  # fp32 means fp32
        # tiles of 6 x 6 gain nothing over those of 4 x 4 and take more memory
        options.use_winograd63_convolution = False
        graph = self._compiled.graph
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(graph, np.memmap) and graph.filename:
                path = Path(graph.filename)
            else:
                path = Path(folder) / "graph"
                path.write_bytes(graph.data)
            if net.load_param_mem(self._compiled.layers) or net.load_model(os.fspath(path)):
                raise EngineError(
                    "ncnn cannot load the converted network\n"
                    "remove the folder 'compiled' in the cache folder, or use --engine torch"
                )
        return net


def _converted(options: EngineOptions) -> Compiled:
    log.log(SUMMARY, "converting the network for ncnn, once ...")
    start = time.monotonic()
    from resnest_cli.engines.ncnn_graph import to_ncnn  # imports torch
    from resnest_cli.model.fold import fold_batch_norm
    from resnest_cli.model.load import build, load_state

    loaded = load_state(options.model, weights=options.weights, offline=options.offline)
    card = loaded.card.at_crop(options.crop)
    check_compilable(card)
    network = build(loaded.state, card)
    fold_batch_norm(network)
    layers, weights = to_ncnn(network, card.preprocessing.crop, INPUT, OUTPUT)
    log.log(SUMMARY, "converted in %.1f s", time.monotonic() - start)
    return Compiled(np.frombuffer(weights, np.uint8), card, layers)
