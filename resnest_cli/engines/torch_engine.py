"""The network in PyTorch: on the CPU, on CUDA, or on Apple's GPU."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnest_cli import cache
from resnest_cli.engines.base import DEVICES, Engine, EngineOptions, check_card
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.fetch import Progress
from resnest_cli.model.fold import fold_batch_norm
from resnest_cli.model.load import Loaded, build, load_state
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.split_attention import SplitAttention
from resnest_cli.processors import processors

log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Batch norm folded into the convolutions, channels last, inference mode."""

    name = "torch"
    fill: int | None = None

    def __init__(
        self, loaded: Loaded, device: str, precision: str, *, compiled: bool = False
    ) -> None:
        card = loaded.card
        check_card(card)
        self.card = card
        self.weights = loaded.path
        self.device = device
        self.precision = precision
        # on a CPU as few as are quick: an incomplete batch is filled up, and a larger one gains
        # nothing; in a smaller one the interpreter, which decodes besides, is in the way
        few = 8 if precision == "fp32" else 16
        self.batch_size = _fitting(few, card.preprocessing.crop) if device == "cpu" else 64
        self._most: int | None = None  # pictures that memory has room for, once that was met
        self._dtype = _DTYPES[precision]
        network = build(loaded.state, card)
        fold_batch_norm(network)
        _narrow(network, self._dtype)
        network = network.to(device).to(memory_format=torch.channels_last)
        self._network = compiled_by_torch(network) if compiled else network
        # what torch.compile makes was not tried in two threads at once
        self._streams = _streams() if device == "cpu" and not compiled else []
        self.at_once = 2 if self._streams else 1  # a half that is done begins with the next batch
        self._mean = torch.tensor(card.preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(card.preprocessing.std, device=device).view(3, 1, 1)

    @classmethod
    def open(cls, options: EngineOptions, on_progress: Progress | None = None) -> Engine:
        """Load a network, on several devices if so named; errors say why it can't be."""
        devices = resolve_devices(options.device)
        loaded = load_state(
            options.model, weights=options.weights, offline=options.offline, on_progress=on_progress
        )
        loaded = loaded._replace(card=loaded.card.at_crop(options.crop))
        engines = [
            cls(loaded, device, options.precision, compiled=options.compiled) for device in devices
        ]
        return engines[0] if len(engines) == 1 else SeveralEngines(engines)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes).

        Where the device's memory is too small, in parts, half as large until they fit.

        Raises:
            EngineError: not even one picture fits.
        """
        parts: list[NDArray[np.float32]] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + (self._most or len(pixels))]
            try:
                parts.append(self._logits(part))
                start += len(part)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise EngineError(
                        f"{self.device} has not enough memory for one picture of {self.card.name}; "
                        "use a smaller variant or --device cpu"
                    ) from error
            self._most = len(part) // 2
            log.warning(
                "%s has not enough memory for %d pictures at once; going on with %d",
                self.device, len(part), self._most,
            )  # fmt: skip
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._streams and len(pixels) > 1:
            parts = even_parts(pixels, len(self._streams))
            under_way = [
                stream.submit(self._forward, part)
                for stream, part in zip(self._streams, parts, strict=True)
            ]
            return np.concatenate([part.result() for part in under_way])[: len(pixels)]
        if self.device == "cpu":
            return self._forward(pixels)
        with exact(self.precision):
            return self._forward(pixels)

    @torch.inference_mode()
    def _forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: Tensor = self._network(self._input(pixels))
        array: NDArray[np.float32] = logits.float().cpu().numpy()
        return array

    def _input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What `Preprocessing.normalise` gives, to the bit, in memory already channels last."""
        stored = torch.from_numpy(pixels)
        if self.device.startswith("cuda"):
            stored = stored.pin_memory().to(self.device, non_blocking=True)
        wide = stored.to(self.device).permute(0, 3, 1, 2).float()
        return wide.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)


class SeveralEngines:
    """The same network on several devices; a batch is shared out among them in even parts."""

    name = "torch"
    fill: int | None = None
    at_once = 1

    def __init__(self, engines: Sequence[TorchEngine]) -> None:
        self._engines = engines
        self._threads = ThreadPoolExecutor(len(engines), thread_name_prefix="device")
        self.device = ",".join(engine.device for engine in engines)
        self.precision = engines[0].precision
        self.card = engines[0].card
        self.weights = engines[0].weights
        self.batch_size = sum(engine.batch_size for engine in engines)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (N, crop, crop, 3), 0 to 255, to logits (N, classes)."""
        parts = even_parts(pixels, len(self._engines))
        with exact(self.precision):  # here, as the threads would undo it for one another
            logits = list(self._threads.map(lambda e, part: e.run(part), self._engines, parts))
        return np.concatenate(logits)[: len(pixels)]


def _fitting(few: int, crop: int) -> int:
    """Pictures for a step on a CPU, where so few of a usual size are right."""
    if crop <= 256:
        return few
    return max(int(few / 4 * min((448 / crop) ** 2, 1)), 1)


def even_parts(pixels: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Pictures in so many parts of one size, as sizes round differently; the last is filled up."""
    missing = -len(pixels) % count
    return np.split(np.concatenate([pixels, *[pixels[-1:]] * missing]), count)


def _streams() -> list[ThreadPoolExecutor]:
    """Two threads that have half the processors each, for the halves of a batch.

    On two processors that was a tenth quicker in bf16 than the whole batch on both, and no slower
    in fp32. Of an odd number one would be left over: there are no streams then.
    """
    threads = min(torch.get_num_threads(), processors())  # torch knows nothing of containers
    torch.set_num_threads(threads)
    if threads % 2:
        return []
    streams = [ThreadPoolExecutor(1, thread_name_prefix="torch") for _ in range(2)]
    for stream in streams:  # it holds for the thread that says it, and for threads not yet begun
        stream.submit(torch.set_num_threads, threads // 2).result()
    torch.set_num_threads(threads)
    return streams


def exact(precision: str) -> AbstractContextManager[None]:
    """fp32 means fp32: no TF32 in convolutions; it holds for the whole process."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=cudnn.allow_tf32 and precision != "fp32",
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the machine, had too little memory."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)


def _narrow(network: ResNeSt, dtype: torch.dtype) -> None:
    """Bring a network to a precision, in place, but for what looks at pooled maps.

    That is a thousandth of the work, and where rounding tells: attention is a matter of small
    differences between pooled maps, and logits that are rounded to 8 bits tie.
    """
    network.to(dtype)
    network.fc.float()
    for module in network.modules():
        if isinstance(module, SplitAttention):
            module.fc1.float()
            module.fc2.float()


def compiled_by_torch(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network compiled by torch, which takes a minute or so when it first meets a batch size.

    What it generates and runs is kept in the cache folder, not in a folder that others can fill.
    What is returned raises `EngineError` where torch cannot compile.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.home() / "inductor"))
    fast: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)

    worked = False

    def run(pixels: Tensor) -> Tensor:
        nonlocal worked
        try:
            logits = fast(pixels)
            worked = True
            return logits
        except RuntimeError as error:
            if worked or is_out_of_memory(error):
                raise
            line = str(error).strip().splitlines()[0][:200]
            raise EngineError(f"torch cannot compile here: {line}\nleave out --compile") from error

    return run


def resolve_devices(device: str) -> list[str]:
    """The devices that a name or a list such as `cuda:0,1` means; see `resolve_device`."""
    if not re.fullmatch("cuda:[0-9]+(,[0-9]+)+", device):
        return [resolve_device(device)]
    numbers = device.removeprefix("cuda:").split(",")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"'{device}' names a device twice")
    return [resolve_device(f"cuda:{number}") for number in numbers]


def resolve_device(device: str) -> str:
    """The device that a name means here: `auto` is cuda, else mps, else cpu.

    Raises:
        UsageError: no device is called that.
        EngineError: it is not to be had.
    """
    if not re.fullmatch("auto|cpu|mps|cuda(:[0-9]+)?", device):
        raise UsageError(
            f"no device is called '{device}'; use {', '.join(DEVICES)}, cuda:N "
            "or, to predict, several: cuda:0,1"
        )
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
