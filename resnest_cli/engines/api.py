"""What an engine is, and the specs that say which network to run, on what, and how to read images.

No engine is imported here. `engines.select` is the one place that chooses and opens one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resnest_cli.errors import EngineError, UsageError, check_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.catalog.config import ModelConfig
    from resnest_cli.catalog.weights import Weights

ENGINES = ("auto", "torch", "openvino")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")
HINTS = (None, "throughput", "latency")
MAX_BATCH_SIZE = 4096
MAX_WORKERS = 256

# raises what a caller has against a network before much work is done on it
Accept = Callable[["ModelConfig"], None]

LOGITS = "logits"  # (N, classes), before softmax
FEATURES = "features"  # (N, channels), pooled: the last layer's input
MAPS = "maps"  # (N, channels, crop / 32, crop / 32): the last stage's feature maps
OUTPUTS = (LOGITS, FEATURES, MAPS)

GPU_AFTER_FORK = (
    "this process was forked from one that has used the GPU, which only that one can use\n"
    "start processes with 'spawn', or make the classifier in each before their parent uses the GPU"
)


@dataclass(frozen=True)
class ModelSpec:
    """Which network to use, and how images are brought to its input."""

    # variant, timm alias, `demo` (bundled) or a checkpoint's path; None: what `weights` says it is,
    # else resnest50, which is downloaded once
    model: str | None = None
    weights: Path | None = None  # a local checkpoint instead of the published one
    labels: Path | None = None  # class names, one a line, instead of the checkpoint's
    preprocess: str = "default"  # default, hub, paper or squash
    crop: int | None = None  # pixels, 32 to 2048; None: the network's
    resize: int | None = None  # pixels, up to 4096; None: in the same ratio to the crop
    offline: bool = False  # never download

    def __post_init__(self) -> None:
        """Take paths as text, and a model's path as one."""
        object.__setattr__(self, "model", os.fspath(self.model) if self.model else None)
        for name in ("weights", "labels"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))

    def files(self) -> list[Path]:
        """The files that it may name, with the weights beside a graph; they need not exist."""
        named = [Path(self.model)] if self.model else []
        named += [path for path in (self.weights, self.labels) if path is not None]
        return named + [path.with_suffix(".bin") for path in named if path.suffix == ".xml"]


@dataclass(frozen=True)
class RuntimeOptions:
    """On what a network runs."""

    device: str = "auto"  # cpu, cuda, cuda:N, cuda:N,M for several, or mps
    engine: str = "auto"  # torch on a GPU; on a CPU openvino if installed, else torch
    precision: str = "fp32"  # or bf16, fp16
    torch_compile: bool = False  # engine torch: slow to start, for long runs
    batch_size: int | None = None  # images per step; None: chosen for the device
    workers: int | None = None  # decoding threads; None: one a CPU, at most 16
    use_cache: bool = True  # keep what is compiled in the cache folder
    # throughput, if there are many images, or latency, if one or one by one; the results are equal
    hint: str | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that no machine allows."""
        object.__setattr__(self, "device", str(self.device))  # a torch.device, too
        for name, known in (("engine", ENGINES), ("precision", PRECISIONS), ("hint", HINTS)):
            if (value := getattr(self, name)) not in known:
                names = ", ".join(filter(None, known))
                raise UsageError(f"`{name}` must be one of {names}, not {value!r}")
        for name, most in (("batch_size", MAX_BATCH_SIZE), ("workers", MAX_WORKERS)):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, 1, most)


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    device: str
    precision: str
    config: ModelConfig
    weights: Weights
    batch_size: int  # images per step that suit the device
    # smallest batch whose outputs do not depend on its size: smaller ones are padded to it;
    # 1: each image is computed by itself; None: the batch size in use, whichever it is
    pad_to: int | None
    max_in_flight: int  # calls of `run` that may overlap, each in a thread of its own

    def run(
        self, pixels: NDArray[np.uint8], outputs: Sequence[str] = (LOGITS,)
    ) -> list[NDArray[np.float32]]:
        """Images (N, crop, crop, 3), 0 to 255, to the named outputs, each with N first.

        Raises:
            EngineError: the engine cannot give an output, or has too little memory for one image.
        """


def check_config(config: ModelConfig) -> None:
    """Raise `EngineError` unless a network takes RGB images and gives classes."""
    if config.in_channels != 3:
        raise EngineError(f"{config.name} takes {config.in_channels} channels, not RGB images")
    if not config.num_classes:
        raise EngineError(
            f"{config.name} has no last layer, or another one than a ResNeSt's: it gives no classes"
            "\ntrain a last layer for it with 'resnest train'"
        )
