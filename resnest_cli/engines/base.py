"""The one thing an engine does, and how one is opened."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resnest_cli.errors import EngineError, UsageError
from resnest_cli.files import is_graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.card import ModelCard
    from resnest_cli.fetch import Progress

ENGINES = ("auto", "torch", "openvino", "ncnn")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")
MANY = 200  # pictures, for which an engine may take its time to start
_ZEN_5 = 26  # its family, as the processor tells it


@dataclass(frozen=True)
class EngineOptions:
    """Which network to run, and on what."""

    model: str | None = None  # a variant or alias; None: what `weights` says, else resnest50
    weights: Path | None = None  # a local checkpoint instead of the published one
    engine: str = "auto"  # then $RESNEST_ENGINE, if that is set, or what suits the machine
    device: str = "auto"  # or cpu, cuda, cuda:N, cuda:N,M for several, mps
    precision: str = "fp32"
    offline: bool = False
    compiled: bool = False  # by torch.compile: slow to start, for long runs
    keep: bool = True  # in the cache folder, what openvino compiled
    answer_first: bool = False  # `auto`: rather run on torch than make someone wait for compiling
    crop: int | None = None  # pixels that the network is to see; None: its own
    many: bool = False  # `auto`: rather be quick with hundreds of pictures than soon ready for one


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    device: str
    precision: str
    card: ModelCard
    weights: Path  # the file that they came from
    batch_size: int  # pictures per step that suit the device
    fill: int | None  # least size of a batch for answers that don't depend on it; None: any batch
    at_once: int  # calls of `run` that may be under way at a time, in threads of their own

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""


def open_engine(options: EngineOptions, on_progress: Progress | None = None) -> Engine:
    """Load a network into an engine.

    Raises:
        UsageError: an engine or a precision that there is not.
        EngineError: the engine or the device is not to be had here.
        CheckpointError: the weights are missing, damaged or of another network.
    """
    options = _settled(options)
    engine = chosen_engine(options)
    if engine == "ncnn":
        from resnest_cli.engines.ncnn_engine import NcnnEngine

        return NcnnEngine.open(options, on_progress)
    if engine == "openvino":
        from resnest_cli.engines import openvino_engine

        ready = not options.answer_first or openvino_engine.is_ready(options)
        if options.engine == "openvino" or ready:
            return openvino_engine.OpenVINOEngine.open(options, on_progress)
    from resnest_cli.engines.torch_engine import TorchEngine

    return TorchEngine.open(options, on_progress)


def _settled(options: EngineOptions) -> EngineOptions:
    """Options as they hold here; `UsageError` or `EngineError` for what can't be."""
    for value, known in ((options.engine, ENGINES), (options.precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"'{value}' is none of {', '.join(known)}")
    if options.weights and is_graph(options.weights):  # whatever the environment prefers
        if options.engine in ("torch", "ncnn") or options.device not in ("auto", "cpu"):
            raise EngineError(
                f"'{options.weights}' is a graph for --engine openvino on the cpu; for other "
                "engines and devices give the checkpoint that it was exported from"
            )
        options = replace(options, engine="openvino")
    elif options.engine == "auto":
        options = replace(options, engine=_engine_of_environment())
    if options.engine in ("openvino", "ncnn"):
        if options.compiled:
            raise UsageError(f"--compile is for --engine torch, not for {options.engine}")
        if find_spec(options.engine) is None:
            raise EngineError(f"{options.engine} is not installed\npip install 'resnest-cli[fast]'")
        if options.device not in ("auto", "cpu"):
            raise EngineError(
                f"{options.engine} runs on the cpu here; use --engine torch for {options.device}"
            )
    return options


def chosen_engine(options: EngineOptions) -> str:
    """The engine that is asked for, or that `auto` is here: a CPU's where there is no GPU."""
    engine = _engine_of_environment() if options.engine == "auto" else options.engine
    if engine != "auto":
        return engine
    cpu = options.device == "cpu" or (options.device == "auto" and not _sees_gpu())
    if options.compiled or not cpu or options.precision == "fp16":
        return "torch"
    openvino, ncnn = (find_spec(name) is not None for name in ("openvino", "ncnn"))
    suits_ncnn = options.many and options.precision == "fp32"
    if ncnn and suits_ncnn and (not openvino or quicker_by_ncnn(_processor())):
        return "ncnn"
    if openvino and options.precision != "fp32":
        from resnest_cli.engines.openvino_engine import precisions_here

        openvino = options.precision in precisions_here()
    return "openvino" if openvino else "torch"


def _engine_of_environment() -> str:
    """What `auto` stands for by `$RESNEST_ENGINE`; `UsageError` where that is no engine."""
    engine = os.environ.get("RESNEST_ENGINE") or "auto"
    if engine not in ENGINES:
        raise UsageError(f"$RESNEST_ENGINE is none of {', '.join(ENGINES)} but '{engine}'")
    return engine


def quicker_by_ncnn(processor: str) -> bool:
    """Whether ncnn was measured to be quicker than OpenVINO in fp32: on AMD's up to Zen 4.

    On Zen 5 and on Intel's OpenVINO was (docs/speed.md), and on others nobody measured.

    Args:
        processor: as `/proc/cpuinfo` or `platform.processor` describe it.
    """
    family = re.search(r"family\s*:?\s*(\d+)", processor, re.IGNORECASE)
    return "AuthenticAMD" in processor and (family is None or int(family[1]) < _ZEN_5)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return platform.processor()


def check_card(card: ModelCard) -> None:
    """Raise `EngineError` unless a network takes pictures and gives classes."""
    if card.in_channels != 3 or not card.num_classes:
        raise EngineError(
            f"{card.name} here takes {card.in_channels} channels and gives {card.num_classes} "
            "classes; pictures need a network of 3 channels and at least one class"
        )


def check_compilable(card: ModelCard) -> None:
    """Raise `EngineError` for what torch alone runs: pooling a single pixel, and `check_card`'s."""
    check_card(card)
    if card.preprocessing.crop <= 16:
        raise EngineError(
            f"{card.name} takes pictures of {card.preprocessing.crop} pixels, which are too few "
            "here\nuse --engine torch, or --crop 32"
        )


def _sees_gpu() -> bool:
    """Whether torch would find a GPU, without importing it: Apple's, or CUDA's driver with one."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):
        return False
