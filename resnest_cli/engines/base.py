"""The one thing an engine does, and how one is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resnest_cli.errors import EngineError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.card import ModelCard
    from resnest_cli.fetch import Progress

ENGINES = ("auto", "torch", "openvino")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class EngineOptions:
    """Which network to run, and on what."""

    model: str | None = None  # a variant or alias; None: what `weights` says, else resnest50
    weights: Path | None = None  # a local checkpoint instead of the published one
    engine: str = "auto"
    device: str = "auto"  # or cpu, cuda, cuda:N, mps
    precision: str = "fp32"
    offline: bool = False


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    device: str
    precision: str
    card: ModelCard
    weights: Path  # the file that they came from
    batch_size: int  # pictures per step that suit the device

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""


def open_engine(options: EngineOptions, on_progress: Progress | None = None) -> Engine:
    """Load a network into an engine.

    Raises:
        UsageError: an engine or a precision that there is not.
        EngineError: the engine or the device is not to be had here.
        CheckpointError: the weights are missing, damaged or of another network.
    """
    for value, known in ((options.engine, ENGINES), (options.precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"'{value}' is none of {', '.join(known)}")
    if options.engine == "openvino":
        raise EngineError("this version has no openvino engine yet; use --engine torch")
    from resnest_cli.engines.torch_engine import TorchEngine

    return TorchEngine.open(options, on_progress)
