"""One run on several processes, as `torchrun` starts them, with the result of one process.

What depends on the whole batch is computed over the processes: gradients are averaged by
DistributedDataParallel, the statistics of batch norms are computed here, and dropout's mask is
drawn for the whole batch in each process. So the result is that of one process within rounding,
except that MixUp and CutMix mix images with neighbours in the same process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from resnest_cli.errors import ResNeStError, UsageError

T = TypeVar("T")

_PARTING = timedelta(seconds=10)


@dataclass(frozen=True)
class DistContext:
    """This process's place among those of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine

    @classmethod
    def join(cls, device: str) -> DistContext:
        """Join the processes that `torchrun` started, if it did, until this process ends."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if device.startswith("cuda") else "gloo"
            # the others wait while the first one checks the images
            dist.init_process_group(backend, timeout=timedelta(hours=12))
            atexit.register(_leave)  # to join once more is not reliable
        return cls(dist.get_rank(), world_size, int(os.environ.get("LOCAL_RANK", "0")))

    def own_device(self, device: str) -> str:
        """The device of this process: each takes a GPU of its own; `UsageError` if it has none."""
        if self.world_size == 1 or not device.startswith("cuda"):
            return device
        if self.local_rank >= (available := torch.cuda.device_count()):
            raise UsageError(
                f"each process needs a GPU of its own, and this machine has {available}\n"
                "start fewer processes with torchrun, or use `device=cpu`"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def check_batch_size(self, batch_size: int) -> None:
        """Raise `UsageError` unless a batch can be distributed evenly."""
        if batch_size % self.world_size:
            raise UsageError(
                f"`batch_size` is for all {self.world_size} processes together and must be a "
                f"multiple of {self.world_size}, not {batch_size}"
            )

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        return DistributedDataParallel(network) if self.world_size > 1 else network

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, computed in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def broadcast_from_main(self, value: Callable[[], T]) -> T:
        """What `value` returns or raises in the main process, which alone calls it."""
        if self.world_size == 1:
            return value()
        outcome: list[tuple[T | None, ResNeStError | None]] = [(None, None)]
        if self.is_main:
            try:
                outcome = [(value(), None)]
            except ResNeStError as error:
                outcome = [(None, error)]
        with _others_needed():
            dist.broadcast_object_list(outcome)
        result, failure = outcome[0]
        if failure:
            raise failure
        return cast("T", result)

    def gather(self, value: Callable[[], T]) -> list[T]:
        """What `value` returns in each process, by rank, for the main one; [] for the others.

        What it raises in one process is raised in all.
        """
        if self.world_size == 1:
            return [value()]
        outcome: tuple[T | None, ResNeStError | None]
        try:
            outcome = value(), None
        except ResNeStError as error:
            outcome = None, error
        failures: list[ResNeStError | None] = [None] * self.world_size
        with _others_needed():
            dist.all_gather_object(failures, outcome[1])
        for failure in failures:
            if failure:
                raise failure
        found: list[T | None] | None = [None] * self.world_size if self.is_main else None
        with _others_needed():
            dist.gather_object(outcome[0], found)
        return cast("list[T]", found or [])

    @contextmanager
    def reported_by_main(self) -> Iterator[None]:
        """Leave it to the main process to report an error that all processes raise.

        The others wait until it has ended: `torchrun` stops all when the first one fails.
        """
        try:
            yield
        except ResNeStError as error:
            if not self.is_main:
                error.reported = True
                message = dist.irecv(torch.zeros(1), 0)  # which never comes
                with suppress(RuntimeError):  # the main process has ended
                    message and message.wait(_PARTING)
            raise

    def any(self, flag: bool, device: str) -> bool:
        """Whether the flag is set in any of the processes."""
        if self.world_size == 1:
            return flag
        return bool(self.all_reduce_sum(torch.tensor(float(flag), device=device)))


SINGLE_PROCESS = DistContext()


@contextmanager
def _others_needed() -> Iterator[None]:
    """Say in plain words that another process has ended amid an exchange."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "losed" not in str(error):
            raise
        raise ResNeStError(
            "another process of this run has ended before its time; its own message says why, "
            "unless it was killed"
        ) from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _AllReduceSum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on CPUs: nn.SyncBatchNorm needs GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) to feature maps of the same shape."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total: Callable[[Tensor], Tensor] = _AllReduceSum.apply
        count = total(wide.new_tensor(wide.numel() / wide.shape[1]))
        mean = total(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum or 0.1
            unbiased = variance * count / (count - 1)
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is a function of `step` and the image's place in the whole batch."""

    def __init__(self, p: float, seed: int, processes: DistContext) -> None:
        super().__init__(p)
        self.seed = seed
        self.step = 0
        self.processes = processes
        # else compiled for each step
        self._drop = torch.compiler.disable(self._dropped)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C) to features of the same shape, in training a fraction `p` of them 0."""
        return x if not self.training or self.p == 0 else self._drop(x)

    def _dropped(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        whole = torch.rand(len(x) * self.processes.world_size, x.shape[1], generator=generator)
        kept = whole[self.processes.rank * len(x) :][: len(x)] >= self.p
        return x * kept.to(x.device, x.dtype) / (1 - self.p)


def share_batch_norms(network: nn.Module, device: str) -> nn.Module:
    """The network with batch norms over the images of all processes; changed in place."""
    if device.startswith("cuda"):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for name, module in list(network.named_modules()):
        if type(module) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(module.num_features, module.eps, module.momentum)
            shared.load_state_dict(module.state_dict())
            weight = module.weight
            network.set_submodule(name, shared.to(weight.device, weight.dtype))
    return network
