"""The network in PyTorch: on the CPU, on CUDA, or on Apple's GPU."""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli.engines.base import DEVICES, EngineOptions, check_card
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.fetch import Progress
from resnest_cli.model.fold import fold_batch_norm
from resnest_cli.model.load import Loaded, build, load_state

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Batch norm folded into the convolutions, channels last, inference mode."""

    name = "torch"
    fill: int | None = None

    def __init__(self, loaded: Loaded, device: str, precision: str) -> None:
        card = loaded.card
        check_card(card)
        self.card = card
        self.weights = loaded.path
        self.device = device
        self.precision = precision
        # on a CPU larger batches gain nothing, but wait longer and hold more memory
        large = card.preprocessing.crop > 256
        self.batch_size = (2 if large else 4) if device == "cpu" else 64
        self._dtype = _DTYPES[precision]
        network = build(loaded.state, card)
        fold_batch_norm(network)
        self._network = network.to(device, self._dtype).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card.preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(card.preprocessing.std, device=device).view(3, 1, 1)

    @classmethod
    def open(cls, options: EngineOptions, on_progress: Progress | None = None) -> TorchEngine:
        """Load a network; `EngineError` or `CheckpointError` say why it can't be."""
        device = resolve_device(options.device)
        loaded = load_state(
            options.model, weights=options.weights, offline=options.offline, on_progress=on_progress
        )
        return cls(loaded, device, options.precision)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""
        cudnn = torch.backends.cudnn
        with (
            torch.inference_mode(),
            cudnn.flags(  # fp32 means fp32: no TF32
                enabled=cudnn.enabled,
                benchmark=cudnn.benchmark,
                deterministic=cudnn.deterministic,
                allow_tf32=cudnn.allow_tf32 and self.precision != "fp32",
            ),
        ):
            try:
                logits: Tensor = self._network(self._input(pixels))
                array: NDArray[np.float32] = logits.float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                raise EngineError(
                    f"{self.device} has not enough memory for batches of {len(pixels)}; "
                    "give a smaller --batch-size"
                ) from error
        return array

    def _input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What `Preprocessing.normalise` gives, to the bit, in memory already channels last."""
        stored = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        return stored.float().div_(255).sub_(self._mean).div_(self._std).to(self._dtype)


def resolve_device(device: str) -> str:
    """The device that a name means here: `auto` is cuda, else mps, else cpu.

    Raises:
        UsageError: no device is called that.
        EngineError: it is not to be had.
    """
    if not re.fullmatch("auto|cpu|mps|cuda(:[0-9]+)?", device):
        raise UsageError(f"no device is called '{device}'; use {', '.join(DEVICES)} or cuda:N")
    kind, _, number = device.partition(":")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if kind == "cuda" and not cuda:
        raise EngineError(
            "this PyTorch sees no CUDA device; use --device cpu, or see 'resnest doctor'"
        )
    if number and int(number) >= torch.cuda.device_count():
        raise EngineError(f"there are {torch.cuda.device_count()} CUDA devices; {device} is none")
    if kind == "mps" and not mps:
        raise EngineError("this PyTorch sees no Apple GPU; use --device cpu")
    return device
