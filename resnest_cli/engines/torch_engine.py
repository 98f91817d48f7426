"""The network in PyTorch: on the CPU, on CUDA, or on Apple's GPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnest_cli import errors, settings
from resnest_cli.catalog.weights import Weights
from resnest_cli.engines.api import (
    DEVICES,
    FEATURES,
    GPU_AFTER_FORK,
    LOGITS,
    MAPS,
    Engine,
    RuntimeOptions,
    check_config,
)
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.hardware import after_fork, processors
from resnest_cli.model.checkpoint import Checkpoint, load_checkpoint
from resnest_cli.model.precision import DTYPES, cast_except_attention, disable_tf32
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.surgery import fold_batch_norm

log = logging.getLogger(__name__)

_NUMBER = "(0|[1-9][0-9]*)"  # of a CUDA device
_LIBRARIES = 2**27  # bytes of a GPU's memory that cuDNN and cuBLAS may need

Pixels = NDArray[np.uint8]
Arrays = list[NDArray[np.float32]]
Inputs = ParamSpec("Inputs")
Value = TypeVar("Value")


class TorchEngine:
    """Batch norm folded into the convolutions, channels last, inference mode."""

    name = "torch"
    pad_to: int | None = None

    def __init__(
        self, checkpoint: Checkpoint, device: str, precision: str, *, torch_compile: bool = False
    ) -> None:
        config = checkpoint.config
        check_config(config)
        self.config = config
        self.weights = checkpoint.weights
        self.device = device
        self.precision = precision
        # on a CPU a larger batch gains nothing, and an incomplete one is padded; in a smaller one
        # the interpreter, which also decodes, takes too much of the time
        usual = 8 if precision == "fp32" else 16
        crop = config.preprocessing.crop
        self.batch_size = cpu_batch_size(usual, crop) if device == "cpu" else 64
        self._max_batch: int | None = None  # images that memory has room for, once that is known
        self._dtype = DTYPES[precision]
        network = checkpoint.network()
        fold_batch_norm(network)
        cast_except_attention(network, self._dtype)
        try:
            network = network.to(device).to(memory_format=torch.channels_last)
            self._mean = torch.tensor(config.preprocessing.mean, device=device).view(3, 1, 1)
            self._std = torch.tensor(config.preprocessing.std, device=device).view(3, 1, 1)
            # CUDA divides by a number as a product with its rounded inverse, by a tensor exactly
            self._white = torch.tensor(255.0, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _too_little_memory(device, config.name) from error
        forward: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] = _WithFeatures(network)
        self._forward = compiled_by_torch(forward) if torch_compile else forward
        self._cpu = _CpuThreads(parallel=not torch_compile) if device == "cpu" else None
        # cuDNN plans again in each thread that calls it, which costs some 60 ms
        self._gpu = None if self._cpu else ThreadPoolExecutor(1, thread_name_prefix="torch")
        # on a GPU the next batch is ready when one is done
        self.max_in_flight = self._cpu.count if self._cpu else 2
        after_fork(self, TorchEngine._forget_threads)

    def run(self, pixels: Pixels, outputs: Sequence[str] = (LOGITS,)) -> Arrays:
        """Images (N, crop, crop, 3), 0 to 255, to the named outputs, each with N first.

        If the device has too little memory, in parts, half as large until they fit.

        Raises:
            EngineError: one image alone does not fit.
        """
        parts: list[Arrays] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + (self._max_batch or len(pixels))]
            if (computed := self._run_if_it_fits(part, outputs)) is None:
                self._max_batch = len(part) // 2
                log.warning(
                    "%s has too little memory for batches of %d images; continuing with %d",
                    self.device, len(part), self._max_batch,
                )  # fmt: skip
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
                continue
            parts.append(computed)
            start += len(part)
        return _joined(parts)

    def _run_if_it_fits(self, pixels: Pixels, outputs: Sequence[str]) -> Arrays | None:
        """The outputs of a batch; None if memory is too small for it, but not for one image.

        What the failed attempt holds on the device is free again once this has returned.
        """
        try:
            return self._run(pixels, outputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(pixels) > 1:
                return None
            raise _too_little_memory(self.device, f"one image of {self.config.name}") from error

    def _forget_threads(self) -> None:
        self._gpu = None
        if self._cpu:
            self._cpu = self._cpu.another()

    def _run(self, pixels: Pixels, outputs: Sequence[str]) -> Arrays:
        if self._cpu:
            return self._cpu.run(lambda part: self._infer(part, outputs), pixels)
        if self._gpu is None:
            raise EngineError(GPU_AFTER_FORK)
        with disable_tf32():
            return self._gpu.submit(self._infer, pixels, outputs).result()

    @torch.inference_mode()
    def _infer(self, pixels: Pixels, outputs: Sequence[str]) -> Arrays:
        found = dict(zip((LOGITS, FEATURES, MAPS), self._forward(self._input(pixels)), strict=True))
        return [found[name].float().cpu().contiguous().numpy() for name in outputs]

    def _input(self, pixels: Pixels) -> Tensor:
        """What `Preprocessing.normalise` gives, to the bit, in memory already channels last."""
        stored = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self.device.startswith("cuda"):
            stored = stored.pin_memory().to(self.device, non_blocking=True)
        wide = stored.to(self.device).permute(0, 3, 1, 2).float()
        return wide.div_(self._white).sub_(self._mean).div_(self._std).to(self._dtype)


class _WithFeatures(nn.Module):
    """A network that gives logits, pooled features and the last feature maps."""

    def __init__(self, network: ResNeSt) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to (N, classes), (N, channels) and (N, channels, H / 32, W / 32)."""
        fc = self.network.fc
        assert isinstance(fc, nn.Linear)  # see `check_config`
        maps = self.network.forward_features(x)
        features = maps.mean((2, 3), dtype=fc.weight.dtype)  # fp32 for 16-bit maps
        return fc(features), features, maps


class _CpuThreads:
    """Threads that compute: two, for the halves of a batch, or one; each has all the processors.

    The halves of a batch in two threads are a tenth faster in bf16 than the whole batch in one, and
    no slower in fp32. With half of the processors each they would round differently from a lone
    image. One thread computes everything if the number of processors is odd or without `parallel`:
    torch.compile's code is not known to run in two threads.
    """

    def __init__(self, *, parallel: bool) -> None:
        self._parallel = parallel
        # torch ignores a container's quota
        self._processors = min(torch.get_num_threads(), processors())
        # a half that is done starts with the next batch
        self.count = 2 if parallel and self._processors % 2 == 0 else 1
        self._lock = Lock()
        self._threads: list[ThreadPoolExecutor] = []  # for whole batches, and for halves

    def another(self) -> _CpuThreads:
        """The same, with threads of its own, which are started when they are needed."""
        return _CpuThreads(parallel=self._parallel)

    def run(self, infer: Callable[[Pixels], Arrays], pixels: Pixels) -> Arrays:
        """The outputs of `infer` for a batch."""
        with self._lock:
            if not self._threads:
                count = 3 if self.count == 2 else 1
                self._threads = [_thread(self._processors) for _ in range(count)]
        whole, *halves = self._threads
        if not halves or len(pixels) == 1:
            return whole.submit(infer, pixels).result()
        parts = split_padded(pixels, len(halves))
        futures = [half.submit(infer, part) for half, part in zip(halves, parts, strict=True)]
        return _joined([future.result() for future in futures], len(pixels))


def _thread(processors: int) -> ThreadPoolExecutor:
    """One thread whose torch operations use that many processors.

    torch's setting is of the thread that makes it, and of threads that first compute later: so
    those get the present one back.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="torch")
    before = torch.get_num_threads()
    thread.submit(torch.get_num_threads).result()  # else it takes over a later setting
    thread.submit(torch.set_num_threads, processors).result()
    torch.set_num_threads(before)
    return thread


class MultiDeviceEngine:
    """The same network on several devices; each gets an equal part of a batch."""

    name = "torch"
    pad_to: int | None = None
    max_in_flight = 1

    def __init__(self, engines: Sequence[TorchEngine]) -> None:
        self._engines = engines
        self._start_threads()
        after_fork(self, MultiDeviceEngine._start_threads)
        self.device = ",".join(engine.device for engine in engines)
        self.precision = engines[0].precision
        self.config = engines[0].config
        self.weights = engines[0].weights
        self.batch_size = sum(engine.batch_size for engine in engines)

    def _start_threads(self) -> None:
        self._threads = ThreadPoolExecutor(len(self._engines), thread_name_prefix="device")

    def run(self, pixels: Pixels, outputs: Sequence[str] = (LOGITS,)) -> Arrays:
        """Images (N, crop, crop, 3), 0 to 255, to the named outputs, each with N first."""
        parts = split_padded(pixels, len(self._engines))
        futures = [
            self._threads.submit(engine.run, part, outputs)
            for engine, part in zip(self._engines, parts, strict=True)
        ]
        return _joined([future.result() for future in futures], len(pixels))


def open_torch(weights: Weights, runtime: RuntimeOptions, *, crop: int | None = None) -> Engine:
    """Load a network onto a device, or onto several; `crop` is in pixels.

    Raises:
        UsageError: no device has that name.
        EngineError: the device is not available.
        CheckpointError: the weights are damaged or of another network.
    """
    devices = resolve_devices(runtime.device)
    checkpoint = load_checkpoint(weights)
    checkpoint = checkpoint._replace(config=checkpoint.config.at_crop(crop))
    engines = [
        TorchEngine(checkpoint, device, runtime.precision, torch_compile=runtime.torch_compile)
        for device in devices
    ]
    return engines[0] if len(engines) == 1 else MultiDeviceEngine(engines)


def cpu_batch_size(usual: int, crop: int) -> int:
    """Images per step on a CPU, where `usual` suits crops of up to 256 pixels."""
    if crop <= 256:
        return usual
    return max(int(usual / 4 * min((448 / crop) ** 2, 1)), 1)


def split_padded(pixels: Pixels, count: int) -> list[Pixels]:
    """Images in `count` parts of equal size, as sizes round differently; the last is padded."""
    missing = -len(pixels) % count
    return np.split(np.concatenate([pixels, *[pixels[-1:]] * missing]), count)


def _joined(parts: Sequence[Arrays], count: int | None = None) -> Arrays:
    """The outputs of a batch's parts as those of the batch: its first `count` images."""
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had too little memory.

    cuDNN and cuBLAS need some beside torch's, and report any fault at all where it is missing.
    """
    if isinstance(error, torch.OutOfMemoryError) or errors.is_out_of_memory(error):
        return True
    libraries = any(word in str(error) for word in ("CUDNN_STATUS_", "CUBLAS_STATUS_"))
    return libraries and torch.cuda.mem_get_info()[0] < _LIBRARIES


def _too_little_memory(device: str, what: str) -> EngineError:
    return EngineError(
        f"{device} has too little memory for {what}; other programs may be using it\n"
        "use a smaller variant, another `device`, or `device=cpu`"
    )


def compiled_by_torch(network: Callable[Inputs, Value]) -> Callable[Inputs, Value]:
    """A network compiled by torch, which takes a minute or so at each new batch size.

    The generated code is stored in the cache folder, not in one where others can write, as torch
    does with precompiled headers.

    The result raises `EngineError` if torch cannot compile.
    """
    settings.contain("inductor")
    from torch._inductor import list_options

    headers = "cpp_cache_precompile_headers"
    options: dict[str, Any] | None = {headers: False} if headers in list_options() else None
    fast: Callable[Inputs, Value] = torch.compile(network, dynamic=False, options=options)
    worked = False

    def run(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Value:
        nonlocal worked
        try:
            outputs = fast(*args, **kwargs)
            worked = True
            return outputs
        except RuntimeError as error:
            if worked or is_out_of_memory(error):
                raise
            line = str(error).strip().splitlines()[0][:200]
            raise EngineError(f"torch cannot compile here: {line}\nleave out `compile`") from error

    return run


def resolve_devices(device: str) -> list[str]:
    """The devices that a name or a list such as `cuda:0,1` stands for; see `resolve_device`."""
    if not re.fullmatch(f"cuda:{_NUMBER}(,{_NUMBER})+", device):
        return [resolve_device(device)]
    numbers = device.removeprefix("cuda:").split(",")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"`device={device}` names a device twice")
    return [resolve_device(f"cuda:{number}") for number in numbers]


def resolve_device(device: str) -> str:
    """The device that a name stands for here: `auto` is cuda, else mps, else cpu.

    Raises:
        UsageError: no device has that name.
        EngineError: it is not available.
    """
    if not re.fullmatch(f"auto|cpu|mps|cuda(:{_NUMBER})?", device):
        raise UsageError(
            f"`device` must be one of {', '.join(DEVICES)}, cuda:N or, to predict, several as "
            f"cuda:0,1, not '{device}'"
        )
    settings.contain("cuda")
    kind, _, number = device.partition(":")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if kind == "cuda" and not cuda:
        raise EngineError(
            f"PyTorch finds no CUDA device for `device={device}`; use `device=cpu`, or see "
            "'resnest doctor'"
        )
    if number and int(number) >= (count := torch.cuda.device_count()):
        raise EngineError(f"`device={device}` does not exist; {count} CUDA devices are visible")
    if kind == "mps" and not mps:
        raise EngineError("PyTorch finds no Apple GPU for `device=mps`; use `device=cpu`")
    return device
